"""What the runner sends on stdin, as nouns: one line of JSON, read tolerantly, since its shape has changed before (HookInput.cs)."""

from __future__ import annotations

from runner.errors import InfraError
from runner.kernel import plain_json
from runner.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_HINT = "this program is the container hook of a GitHub Actions runner: see `dockless github install`"


class Message(NamedTuple):
    """One call: `arguments` has lower-case keys. What the runner keeps as `state` is not read: a job can forge it."""

    command: str
    response_file: str
    arguments: dict[str, Any]


class Mount(NamedTuple):
    """A mount as the runner parsed it; `source` "" is an anonymous volume."""

    source: str
    target: str
    read_only: bool = False


class Registry(NamedTuple):
    """Credentials that came with the job; `server` "" is Docker Hub."""

    server: str
    username: str
    password: str

    def __repr__(self) -> str:
        """Never show a secret."""
        return f"Registry({self.server!r}, {self.username!r}, …)"


class Container(NamedTuple):
    """A container that the runner asks for."""

    image: str = ""
    dockerfile: str = ""
    entrypoint: str = ""
    arguments: tuple[str, ...] = ()  # torn apart at every space: `argv` puts them together
    working_directory: str = ""
    options: str = ""
    environment: tuple[tuple[str, str], ...] = ()
    ports: tuple[str, ...] = ()
    registry: Registry | None = None
    system_mounts: tuple[Mount, ...] = ()
    user_mounts: tuple[Mount, ...] = ()
    prepend_path: tuple[str, ...] = ()
    name: str = ""  # what the workflow calls a service; runners do not send it, examples do


def parse(raw: bytes) -> Message:
    """Read one call. InfraError for what no runner sends."""
    try:
        value = plain_json.whole(plain_json.loads(raw.decode("utf-8-sig")))
    except (ValueError, RecursionError) as e:
        raise InfraError(f"stdin of the hook is no JSON: {e}", _HINT) from e
    top = _table(value)
    if not isinstance(top.get("command"), str):
        raise InfraError("stdin of the hook has no command", _HINT)
    return Message(_text(top, "command"), _text(top, "responsefile"), _table(top.get("args")))


def is_whole(raw: bytes) -> bool:
    """Tell whether what was read so far is all of a message."""
    try:
        plain_json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return False
    return True


def container(value: Any) -> Container | None:
    """Read a container object, None for null."""
    if value is None:
        return None
    table = _table(value)
    return Container(
        image=_text(table, "image").removeprefix("docker://"),
        dockerfile=_text(table, "dockerfile"),
        entrypoint=_text(table, "entrypoint"),
        arguments=_texts(table, "entrypointargs"),
        working_directory=_text(table, "workingdirectory"),
        options=_text(table, "createoptions"),
        environment=_environment(table),
        ports=_texts(table, "portmappings"),
        registry=_registry(table.get("registry")),
        system_mounts=_mounts(table, "systemmountvolumes"),
        user_mounts=_mounts(table, "usermountvolumes"),
        prepend_path=_texts(table, "prependpath"),
        name=_text(table, "contextname"),
    )


def containers(value: Any) -> tuple[Container, ...]:
    """Read a list of container objects; null is an empty one."""
    found = [container(item) for item in (value if isinstance(value, list) else [])]
    return tuple(item for item in found if item is not None)


class Script(NamedTuple):
    """A step of the job container."""

    entrypoint: str
    arguments: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    prepend_path: tuple[str, ...]
    working_directory: str


def script(table: dict[str, Any]) -> Script:
    """Read the arguments of run_script_step."""
    return Script(
        _text(table, "entrypoint"),
        _texts(table, "entrypointargs"),
        _environment(table),
        _texts(table, "prependpath"),
        _text(table, "workingdirectory"),
    )


def argv(entrypoint: str, arguments: tuple[str, ...]) -> tuple[str, ...]:
    """Put together what the runner tore apart at every space without a look at quotes (contract 2.3)."""
    return (*((entrypoint,) if entrypoint else ()), *words(" ".join(arguments)))


def words(text: str) -> tuple[str, ...]:
    """Split a text as a shell does; where its quotes do not fit together, at spaces."""
    if not any(character in text for character in "\"'\\\n\t"):
        return tuple(word for word in text.split(" ") if word)
    import shlex  # for the few that have quotes: it costs 3 ms

    try:
        return tuple(shlex.split(text))
    except ValueError:
        return tuple(word for word in text.split(" ") if word)


def _table(value: Any) -> dict[str, Any]:
    """Return an object with its keys in lower case, as the runner's own reader does not tell cases apart; anything else is empty."""
    return {str(key).lower(): item for key, item in value.items()} if isinstance(value, dict) else {}


def _text(table: dict[str, Any], key: str) -> str:
    value = table.get(key)
    return value if isinstance(value, str) and "\0" not in value else ""


def _texts(table: dict[str, Any], key: str) -> tuple[str, ...]:
    value = table.get(key)
    if isinstance(value, str):  # runners up to 2.293 send one string as prependPath
        return (value,) if value else ()
    return tuple(item for item in value if isinstance(item, str) and "\0" not in item) if isinstance(value, list) else ()


def _environment(table: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    value = table.get("environmentvariables")
    if not isinstance(value, dict):
        return ()
    kept = ((name, item) for name, item in value.items() if isinstance(item, str))
    return tuple((name, item) for name, item in kept if name and "=" not in name and "\0" not in name + item)


def _mounts(table: dict[str, Any], key: str) -> tuple[Mount, ...]:
    value = table.get(key)
    rows = [_table(item) for item in (value if isinstance(value, list) else [])]
    return tuple(
        Mount(_text(row, "sourcevolumepath"), _text(row, "targetvolumepath"), row.get("readonly") is True)
        for row in rows
        if _text(row, "targetvolumepath")
    )


def _registry(value: Any) -> Registry | None:
    table = _table(value)
    username, password = _text(table, "username"), _text(table, "password")
    return Registry(_text(table, "serverurl"), username, password) if username and password else None
