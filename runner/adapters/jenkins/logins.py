"""`docker login` and `docker logout`: credentials in the config.json of $DOCKER_CONFIG, which Jenkins makes for the time of a block."""

from __future__ import annotations

import binascii
import json
import os
import sys
from typing import Any

from runner import errors
from runner.adapters.jenkins.options import Grammar
from runner.image import auth
from runner.kernel import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from runner.adapters.jenkins.shim import Shim

_LOGIN = Grammar("login", "-u= --username= -p= --password= --password-stdin")
_LOGOUT = Grammar("logout", "")
_HUB, _HUB_KEY = "docker.io", "https://index.docker.io/v1/"
_LIMIT_BYTES = 1024**2


def login(arguments: Sequence[str], shim: Shim) -> int:
    """Ask the registry about a user and a password, and keep them. UserError when it refuses them: then nothing is kept."""
    parsed = _LOGIN.parse(arguments)
    host = _host(parsed.words)
    username, password = parsed.last("username"), parsed.last("password")
    if parsed.has("password-stdin"):
        if password:
            raise errors.UserError("docker login: --password and --password-stdin exclude each other")
        password = sys.stdin.read(_LIMIT_BYTES).rstrip("\r\n")
    if not username or not password or ":" in username:
        raise errors.UserError("docker login: a user name without a colon, and a password are needed: nobody can be asked for them here")
    from runner.image import login as registry_login  # the registry client takes 90 ms to import

    registry_login.check(host, auth.Credentials(username, password, source="the command line"), settings=shim.around.settings)
    path, config = _read(shim)
    auths = config.setdefault("auths", {})
    _forget(auths, host)
    pair = binascii.b2a_base64(f"{username}:{password}".encode(), newline=False).decode()
    auths[_HUB_KEY if host == _HUB else host] = {"auth": pair}
    _write(path, config)
    print("Login Succeeded")
    return 0


def logout(arguments: Sequence[str], shim: Shim) -> int:
    """Forget the credentials for a registry. Idempotent."""
    host = _host(_LOGOUT.parse(arguments).words)
    path, config = _read(shim)
    if _forget(config.setdefault("auths", {}), host):
        _write(path, config)
        print(f"Removing login credentials for {host}")
    else:
        print(f"Not logged in to {host}")
    return 0


def _host(words: Sequence[str]) -> str:
    """Return the registry that a URL or a name means, without a path."""
    if len(words) > 1:
        raise errors.UserError("docker login: one registry at most is to be named")
    host = auth.registry_path(words[0] if words else _HUB).partition("/")[0]
    if not host or not host.isprintable() or any(character in " @?#\\" for character in host):
        raise errors.UserError("docker login: what is named is no registry")
    return host


def _forget(auths: dict[str, Any], host: str) -> bool:
    """Remove every entry for a registry itself, however it is spelt; tell whether there was one."""
    found = [key for key in auths if auth.registry_path(key) == host]
    for key in found:
        del auths[key]
    return bool(found)


def _read(shim: Shim) -> tuple[str, dict[str, Any]]:
    path = auth.config_files(shim.around.account.home, shim.environ)[0]
    try:
        config = json.loads(files.read(path, limit_bytes=_LIMIT_BYTES))
    except FileNotFoundError:
        return path, {}
    except OSError as e:
        raise errors.UserError(f"{path} cannot be read: {e.strerror}") from e
    except ValueError as e:
        raise errors.UserError(f"{path} is not JSON") from e
    if not isinstance(config, dict) or not isinstance(config.get("auths", {}), dict):
        raise errors.UserError(f"{path} is not docker's configuration: it, or its auths, is no object")
    return path, config


def _write(path: str, config: dict[str, Any]) -> None:
    try:
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        files.write_atomic(path, json.dumps(config, indent="\t").encode(), mode=0o600)
    except OSError as e:
        raise errors.UserError(f"{path} cannot be written: {e.strerror}") from e
