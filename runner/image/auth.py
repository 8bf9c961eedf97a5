"""Registry credentials: where they may come from, which source wins, and never a secret in a message.

The rules are GitLab Runner's (helpers/docker/auth/auth.go), which are docker's made precise: sources in order; of one registry path the
first source that defines it counts; for an image the longest path that matches. Credential helpers are docker's own protocol
(docker-credential-<name> get|list).
"""

from __future__ import annotations

import binascii
import os

from runner import log
from runner.errors import UserError
from runner.kernel import files, process
from runner.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from runner.model import Reference

_LIMIT_BYTES = 1024**2
_HELPER_TIMEOUT_S = 30.0
_DOCKER_HUB = ("index.docker.io", "registry-1.docker.io", "docker.io")


class Credentials(NamedTuple):
    """What to tell a registry: a user name and password, or an identity token (OAuth2 refresh token) in place of the password."""

    username: str
    password: str
    identity_token: str = ""
    source: str = ""  # where they come from, for the log

    def __repr__(self) -> str:
        """Never show a secret."""
        return f"Credentials(username={self.username!r}, password=…, source={self.source!r})"


if TYPE_CHECKING:
    _Resolve = Callable[[], Credentials | None]
    _Source = Callable[[], Mapping[str, _Resolve]]


class Keychain:
    """The credentials that a job or a person may use.

    Sources in order: `docker_auth_config`, the text of $DOCKER_AUTH_CONFIG; the first of `config_files` that exists (see `config_files`);
    `payload`, (registry URL, user name, password) triples that the CI system sent with the job.

    Credential helpers are looked up on `helper_path` and get `environ` (by default the process's) without its CUSTOM_ENV_* variables.
    """

    def __init__(
        self,
        *,
        docker_auth_config: str = "",
        config_files: Sequence[str] = (),
        payload: Sequence[tuple[str, str, str]] = (),
        environ: Mapping[str, str] | None = None,
        helper_path: str = process.TRUSTED_PATH,
    ) -> None:
        """Remember the sources; nothing is read before the first `lookup`."""
        helpers = _Helpers(dict(environ if environ is not None else os.environ), helper_path)
        self._sources: list[tuple[str, _Source]] = []
        if docker_auth_config:
            name = "$DOCKER_AUTH_CONFIG"
            self._sources.append((name, lambda: _read_config(docker_auth_config.encode(), name, helpers)))
        if config_files:
            self._sources.append((config_files[0], lambda: _read_first(config_files, helpers)))
        if payload:
            self._sources.append(("job payload", lambda: _payload(payload)))
        self._known: dict[str, _Resolve] | None = None

    @classmethod
    def of_account(cls, home: str, environ: Mapping[str, str], *, payload: Sequence[tuple[str, str, str]] = ()) -> Keychain:
        """Return what an account has: $DOCKER_AUTH_CONFIG, docker's files in its home, and `payload`."""
        files_of_account = config_files(home, environ)
        text = environ.get("DOCKER_AUTH_CONFIG", "")
        return cls(docker_auth_config=text, config_files=files_of_account, payload=payload, environ={**environ, "HOME": home})

    def __repr__(self) -> str:
        """Never show a secret."""
        return f"Keychain({', '.join(name for name, _ in self._sources)})"

    def lookup(self, reference: Reference) -> Credentials | None:
        """Return the credentials for an image, None if nothing matches. Blocks on credential helpers.

        A source that cannot be read is warned about and skipped. UserError when a credential helper's name is a path.
        """
        known = self._read()
        for path in _paths_of(reference):
            resolve = known.get(path)
            found = resolve() if resolve else None
            if found is not None:
                return _hidden(found)
        return None

    def all(self) -> list[tuple[str, Credentials]]:
        """Return every registry path with its credentials, for another program that pulls by itself; like `lookup` otherwise."""
        found = [(path, resolve()) for path, resolve in self._read().items()]
        return [(path, _hidden(credentials)) for path, credentials in found if credentials is not None]

    def _read(self) -> dict[str, _Resolve]:
        if self._known is None:
            self._known = self._read_sources()
        return self._known

    def _read_sources(self) -> dict[str, _Resolve]:
        known: dict[str, _Resolve] = {}
        for name, source in self._sources:
            try:
                entries = source()
            except (OSError, ValueError) as e:
                log.warn(f"cannot use registry credentials from {name}: {_cause(e)}")
                continue
            for path, resolve in entries.items():
                known.setdefault(path, resolve)
        return known


def _hidden(credentials: Credentials) -> Credentials:
    """Have credentials that are about to be used masked in all that is said, in each form that a registry may repeat."""
    pair = binascii.b2a_base64(f"{credentials.username}:{credentials.password}".encode(), newline=False).decode()
    log.hide(credentials.password, credentials.identity_token, *((pair,) if credentials.password else ()))
    return credentials


def config_files(home: str, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Name the files in which docker's clients keep credentials: config.json in $DOCKER_CONFIG or ~/.docker, then ~/.dockercfg."""
    directory = environ.get("DOCKER_CONFIG", "") or f"{home}/.docker"
    return (f"{directory}/config.json", f"{home}/.dockercfg")


def registry_path(text: str) -> str:
    """Return the form in which registry paths are compared: no scheme, host in lower case, Docker Hub as "docker.io"."""
    text = text.strip()
    for scheme in ("https://", "http://"):
        text = text.removeprefix(scheme)
    text = text.rstrip("/")
    for version in ("/v1", "/v2"):  # "https://index.docker.io/v1/" and what old clients wrote for other registries
        text = text.removesuffix(version)
    host, slash, rest = text.partition("/")
    host = host.lower()
    return ("docker.io" if host in _DOCKER_HUB else host) + slash + rest


def _paths_of(reference: Reference) -> list[str]:
    """List registry/ns/project, registry/ns, registry; Docker Hub's official images also without their "library/"."""
    repositories = [reference.repository]
    if reference.registry == "docker.io":
        repositories.append(reference.repository.removeprefix("library/"))
    paths = []
    for repository in repositories:
        parts = repository.split("/")
        paths += ["/".join([reference.registry, *parts[:end]]) for end in range(len(parts), 0, -1)]
    return [*paths, reference.registry]


def _payload(entries: Sequence[tuple[str, str, str]]) -> dict[str, _Resolve]:
    source = "job payload (GitLab Registry)"
    return {registry_path(url): _constant(Credentials(user, password, source=source)) for url, user, password in entries}


def _constant(credentials: Credentials) -> _Resolve:
    return lambda: credentials


def _read_first(candidates: Sequence[str], helpers: _Helpers) -> Mapping[str, _Resolve]:
    for path in candidates:
        try:
            raw = files.read(path, limit_bytes=_LIMIT_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            continue
        return _read_config(raw, path, helpers)
    return {}


def _read_config(raw: bytes, source: str, helpers: _Helpers) -> dict[str, _Resolve]:
    """Read docker's config.json, or the older .dockercfg, whose whole content is what "auths" holds now."""
    if len(raw) > _LIMIT_BYTES:
        raise ValueError("too large")
    import json  # its messages name a line; who has no such file does not pay for it

    try:
        value = json.loads(raw)
    except RecursionError as e:
        raise ValueError("nested too deeply") from e
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    legacy = source.endswith(".dockercfg") and "auths" not in value
    found: dict[str, _Resolve] = {}
    for key, entry in _object(value if legacy else value.get("auths"), "auths").items():
        credentials = _entry(_object(entry, "an entry of auths"), key, source)
        if credentials:
            found[registry_path(key)] = _constant(credentials)
    if legacy:
        return found
    store = value.get("credsStore")
    if store:
        helper = _helper_name(store)
        for key in helpers.run(helper, "list"):
            found[registry_path(key)] = _helped(helper, key, source, helpers)
    for key, helper in _object(value.get("credHelpers"), "credHelpers").items():
        found[registry_path(key)] = _helped(_helper_name(helper), key, source, helpers)
    return found


def _object(value: Any, what: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"{what} is not a JSON object")
    return value


def _entry(entry: dict[str, Any], key: str, source: str) -> Credentials | None:
    texts = {name: entry.get(name) or "" for name in ("username", "password", "auth", "identitytoken")}
    if not all(isinstance(text, str) for text in texts.values()):
        raise ValueError(f"the entry for {key[:100]!r} has a value that is not a string")
    username, password = texts["username"], texts["password"]
    if texts["auth"]:
        try:
            pair = binascii.a2b_base64(texts["auth"]).decode()
        except ValueError as e:
            raise ValueError(f"the entry for {key[:100]!r} has a bad base64 value") from e
        username, colon, password = pair.partition(":")
        if not colon:
            raise ValueError(f"the entry for {key[:100]!r} is not base64 of user:password")
        password = password.rstrip("\0")  # docker's own decoder trims it too
    if not (username and password) and not texts["identitytoken"]:
        return None  # "docker login" with a credentials store leaves empty entries
    return Credentials(username, password, texts["identitytoken"], source)


def _helper_name(name: Any) -> str:
    """A name comes from a file that a job may have written: it must not lead to another program."""
    if not isinstance(name, str) or not name or "/" in name or "\0" in name or len(name) > 100:
        raise UserError(f"bad credential helper {str(name)[:60]!r}: it is a path", "name a program docker-credential-<name> by <name>")
    return f"docker-credential-{name}"


class _Helpers(NamedTuple):
    """How credential helpers are found and started."""

    environ: Mapping[str, str]
    path: str

    def run(self, helper: str, verb: str, text: str = "") -> dict[str, Any]:
        """Run `docker-credential-<name> get|list` and return the JSON object that it answers; OSError or ValueError otherwise."""
        import json

        # Helpers of clouds and desktops need the account's environment; what a job set comes as CUSTOM_ENV_* and is not passed on.
        env = {name: value for name, value in self.environ.items() if not name.startswith("CUSTOM_ENV_")}
        found = next((f"{place}/{helper}" for place in self.path.split(":") if place and os.access(f"{place}/{helper}", os.X_OK)), helper)
        argv = [found, verb]
        answer = process.run(
            argv, env={**env, "PATH": self.path}, input=text.encode(), timeout_s=_HELPER_TIMEOUT_S, limit_bytes=_LIMIT_BYTES
        )
        return _object(json.loads(answer.stdout), f"the answer of {helper}")


def _helped(helper: str, key: str, source: str, helpers: _Helpers) -> _Resolve:
    def resolve() -> Credentials | None:
        try:
            value = helpers.run(helper, "get", f"{key}\n")
        except (OSError, ValueError) as e:
            log.warn(f"cannot use registry credentials from {source}: {helper}: {_cause(e)}")
            return None
        username, secret = value.get("Username"), value.get("Secret")
        if not isinstance(username, str) or not isinstance(secret, str):
            log.warn(f"cannot use registry credentials from {source}: {helper} answers without a user name or a secret")
            return None
        where = f"{source} ({helper})"
        if username == "<token>":  # docker-credential-helpers: the secret is an identity token
            return Credentials("", "", secret, where)
        return Credentials(username, secret, source=where)

    return resolve


def _cause(error: OSError | ValueError) -> str:
    """Say why without repeating content: a JSON error's own text is harmless, its document is not shown."""
    line = getattr(error, "lineno", 0)  # of json.JSONDecodeError
    if line:
        return f"not valid JSON at line {line}"
    return error.strerror or "unknown" if isinstance(error, OSError) else str(error)
