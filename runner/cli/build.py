"""`dockless build` and `dockless push`: what the words of their command lines mean."""

from __future__ import annotations

from runner import errors, log
from runner.cli.surroundings import open_all
from runner.image import auth
from runner.job import build, push
from runner.kernel import files
from runner.sandbox.engine_files import Login

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_LARGEST_SECRET = 512 * 1024  # as docker's


def main(
    name: str,
    context: str,
    environ: Mapping[str, str],
    *,
    file: str,
    build_args: tuple[str, ...],
    target: str,
    secrets: tuple[str, ...],
    no_cache: bool,
    pull: bool,
    build_user: str,
) -> int:
    """Build an image and return buildah's exit code. Raises RunnerErrors for what is not the Dockerfile's doing."""
    request = build.Request(
        name=name,
        context=context,
        file=file,
        build_args=tuple(argument for text in build_args if (argument := build_argument(text, environ))),
        target=target,
        secrets=tuple(secret(text, environ) for text in secrets),
        no_cache=no_cache,
        pull=pull,
        build_user=build_user,
    )
    around = open_all(environ)
    outcome = build.run(request, around, logins=_logins(around.account.home, environ), environ=dict(environ))
    if outcome.oom_killed:
        log.fail("the memory limit was reached and a process of the build was killed (OOM)")
    return outcome.exit_code


def main_of_push(name: str, destination: str, environ: Mapping[str, str]) -> int:
    """Copy a stored image to a registry and return skopeo's exit code."""
    around = open_all(environ)
    keychain = auth.Keychain.of_account(around.account.home, environ)
    return push.run(name, destination or name, around, keychain=keychain, environ=dict(environ))


def build_argument(text: str, environ: Mapping[str, str]) -> tuple[str, str] | None:
    """Read NAME=VALUE, or NAME for a variable of the caller; None for one that the caller has not, whose default counts then."""
    name, has_value, value = text.partition("=")
    if not name:
        raise errors.UserError(f"build argument {text!r} has no name", "write NAME=VALUE")
    if has_value:
        return name, value
    return (name, environ[name]) if name in environ else None


def secret(text: str, environ: Mapping[str, str]) -> tuple[str, bytes]:
    """Read id=ID,src=FILE or id=ID,env=VARIABLE and return the id and the secret. UserErrors never show more than the text."""
    words = dict(word.partition("=")[::2] for word in text.split(","))
    unknown = words.keys() - {"id", "src", "source", "env", "type"}
    name = words.get("id", "")
    if unknown or not name or not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise errors.UserError(f"secret {text!r} cannot be used", "write id=ID,src=FILE or id=ID,env=VARIABLE")
    variable, path = words.get("env", ""), words.get("src", words.get("source", ""))
    if variable and not path:
        if variable not in environ:
            raise errors.UserError(f"secret {name} cannot be used: there is no variable {variable}", "export it, or write src=FILE")
        return name, environ[variable].encode()
    if not path or variable:
        raise errors.UserError(f"secret {text!r} names no file or variable, or both", "write id=ID,src=FILE or id=ID,env=VARIABLE")
    try:
        return name, files.read(path, limit_bytes=_LARGEST_SECRET)
    except OSError as e:
        raise errors.UserError(f"secret {name} cannot be read from {path}: {e.strerror}", "a regular file of up to 512 KiB") from e


def _logins(home: str, environ: Mapping[str, str]) -> tuple[Login, ...]:
    known = auth.Keychain.of_account(home, environ).all()
    return tuple(Login(place, found.username, found.password, found.identity_token) for place, found in known)
