"""JOB_RESPONSE_FILE -> frozen nouns: what GitLab itself sent, which no job variable can change (common/spec/spec.go)."""

from __future__ import annotations

from runner.errors import InfraError
from runner.kernel import files, plain_json
from runner.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_LIMIT_BYTES = 64 * 1024**2


class Variable(NamedTuple):
    """A job variable. `public` False means that services must not see it; `file` that its value is the content of a file.

    `masked`: its value must not be seen in a job log.
    """

    key: str
    value: str
    public: bool
    file: bool
    raw: bool
    masked: bool = False


class Image(NamedTuple):
    """The job's image or one of its services; None means that the job does not say."""

    name: str
    aliases: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    command: tuple[str, ...] | None = None
    pull_policy: tuple[str, ...] = ()
    user: str = ""
    platform: str = ""
    variables: tuple[Variable, ...] = ()


class Job(NamedTuple):
    """What this adapter reads of a job."""

    id: int
    project_id: int
    root_namespace_id: int
    repo_url: str
    protected: bool | None
    variables: tuple[Variable, ...]
    image: Image | None
    services: tuple[Image, ...]
    credentials: tuple[tuple[str, str, str], ...]  # registry URL, user name, password
    cache_keys: tuple[str, ...]
    secrets: tuple[Variable, ...] = ()  # what the runner fetches from a vault; values are not in the file
    allow_git_fetch: bool = False

    def variable(self, key: str) -> str:
        """Return the value of a variable; the last one of a name counts. "" if there is none."""
        for variable in reversed(self.variables):
            if variable.key == key:
                return variable.value
        return ""

    def file_names(self) -> frozenset[str]:
        """Name the variables whose value is a file's content."""
        last = {variable.key: variable for variable in (*self.variables, *self.secrets)}
        return frozenset(name for name, variable in last.items() if variable.file)

    def masked_names(self) -> frozenset[str]:
        """Name the variables whose values must not be seen: what GitLab masks, and what the runner fetches from a vault."""
        return frozenset(variable.key for variable in self.variables if variable.masked) | {variable.key for variable in self.secrets}

    def private_names(self) -> frozenset[str]:
        """Name the variables that services must not see."""
        last = {variable.key: variable for variable in (*self.variables, *self.secrets)}
        return frozenset(name for name, variable in last.items() if not variable.public)


def read(path: str) -> Job:
    """Read and decode a file that the runner wrote. InfraError if it is missing or not what the runner writes; "" means not set."""
    if not path:
        raise InfraError("JOB_RESPONSE_FILE is not set", "gitlab-runner 14.1 or newer sets it, and only that calls this verb")
    try:
        raw = files.read(path, limit_bytes=_LIMIT_BYTES)
    except OSError as e:
        raise InfraError(f"JOB_RESPONSE_FILE {path} cannot be read: {e.strerror}", "gitlab-runner 14.1 or newer writes it") from e
    return parse(raw)


def parse(raw: bytes) -> Job:
    """Decode the payload. Unknown fields are fine; a field of the wrong type is an InfraError, since the runner promises the type."""
    try:
        value = plain_json.whole(plain_json.loads(raw))
    except (ValueError, RecursionError) as e:
        raise InfraError(f"JOB_RESPONSE_FILE is not JSON: {e}", "is this gitlab-runner's custom executor?") from e
    top = _Reader(value, "job")
    info, git = top.object("job_info"), top.object("git_info")
    image = _image(top.object("image"))
    return Job(
        id=top.integer("id"),
        project_id=info.integer("project_id"),
        root_namespace_id=info.integer("root_namespace_id"),
        repo_url=git.text("repo_url"),
        protected=git.optional_flag("protected"),
        variables=tuple(_variable(v) for v in top.objects("variables")),
        image=image if image.name else None,
        services=tuple(_image(s) for s in top.objects("services")),
        credentials=tuple(
            (c.text("url"), c.text("username"), c.text("password")) for c in top.objects("credentials") if c.text("type") == "registry"
        ),
        cache_keys=tuple(c.text("key") for c in top.objects("cache")),
        secrets=_secrets(top.object("secrets")),
        allow_git_fetch=top.flag("allow_git_fetch"),
    )


def _variable(v: _Reader) -> Variable:
    return Variable(v.text("key"), v.text("value"), v.flag("public"), v.flag("file"), v.flag("raw"), v.flag("masked"))


def _secrets(secrets: _Reader) -> tuple[Variable, ...]:
    """Return what the runner makes of secrets: variables that nobody else may see, and files unless they say otherwise (Secret.IsFile)."""
    return tuple(
        Variable(name, "", public=False, file=secrets.object(name).optional_flag("file") is not False, raw=True) for name in secrets.names()
    )


def _image(image: _Reader) -> Image:
    docker = image.object("executor_opts").object("docker")
    return Image(
        name=image.text("name").strip(),
        aliases=tuple(image.text("alias").replace(",", " ").split()),
        entrypoint=image.texts("entrypoint"),
        command=image.texts("command"),
        pull_policy=image.texts("pull_policy") or (),
        user=docker.text("user"),
        platform=docker.text("platform"),
        variables=tuple(_variable(v) for v in image.objects("variables")),
    )


class _Reader:
    """A JSON object whose fields are read by type; null and absent are the same, as in Go."""

    def __init__(self, value: Any, path: str) -> None:
        if not isinstance(value, dict):
            raise InfraError(f"JOB_RESPONSE_FILE: {path} is not an object", "is this gitlab-runner's custom executor?")
        self._value: dict[str, Any] = value
        self._path = path

    def _get(self, key: str, kinds: type | tuple[type, ...], default: Any) -> Any:
        value = self._value.get(key)
        if value is None:
            return default
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in (kinds if isinstance(kinds, tuple) else (kinds,))):
            raise InfraError(f"JOB_RESPONSE_FILE: {self._path}.{key} has an unexpected type", "is this gitlab-runner's custom executor?")
        return value

    def names(self) -> list[str]:
        """Return the keys of an object whose keys are free."""
        return list(self._value)

    def text(self, key: str) -> str:
        """Return a string; numbers are taken as such, since a user may be one."""
        return str(self._get(key, (str, int), ""))

    def integer(self, key: str) -> int:
        """Return an integer, 0 when absent."""
        return int(self._get(key, int, 0))

    def flag(self, key: str) -> bool:
        """Return a boolean, False when absent."""
        return bool(self._get(key, bool, False))

    def optional_flag(self, key: str) -> bool | None:
        """Return a boolean, None when absent."""
        value = self._get(key, bool, None)
        return None if value is None else bool(value)

    def object(self, key: str) -> _Reader:
        """Return a nested object, empty when absent."""
        return _Reader(self._get(key, dict, {}), f"{self._path}.{key}")

    def objects(self, key: str) -> list[_Reader]:
        """Return a list of objects."""
        return [_Reader(item, f"{self._path}.{key}[{i}]") for i, item in enumerate(self._get(key, list, []))]

    def texts(self, key: str) -> tuple[str, ...] | None:
        """Return a list of strings, None when absent: an empty entrypoint and none are not the same."""
        value = self._get(key, (list, str), None)
        if value is None:
            return None
        items = [value] if isinstance(value, str) else value
        if not all(isinstance(item, str) for item in items):
            raise InfraError(f"JOB_RESPONSE_FILE: {self._path}.{key} is not a list of strings", "is this gitlab-runner's custom executor?")
        return tuple(items)
