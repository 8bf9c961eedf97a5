"""The config blob of an image -> `model.ImageConfig`, with every hostile value bounded or refused.

Follows OCI image-spec config.md and Docker's additions (health checks). An image may set its own workload and nothing else: labels are not
even read.
"""

import posixpath
import signal
from typing import Any, NamedTuple

from runner.errors import UserError
from runner.image import manifest, platforms, reference
from runner.model import Healthcheck, ImageConfig

_MOST_ITEMS = 4096
_LONGEST_STRING = 128 * 1024 - 1  # MAX_ARG_STRLEN of execve(2), with its NUL
_MOST_BYTES = 1024**2  # of argv or of the environment: half of what execve(2) takes by default
_LONGEST_PATH = 4095
_DAY_S = 86400.0


class ParsedConfig(NamedTuple):
    """What a config blob says."""

    config: ImageConfig
    platform: platforms.Platform
    diff_ids: tuple[str, ...]  # lowest first


def parse(raw: bytes, what: str) -> ParsedConfig:
    """Read a config blob; UserError that names `what` for anything that a container could not or must not be given."""
    value = manifest.decode(raw, what)
    inner = value.get("config") or {}
    rootfs = value.get("rootfs")
    if not isinstance(inner, dict) or not isinstance(rootfs, dict):
        raise UserError(f"{what} is not an image config")
    diff_ids = rootfs.get("diff_ids") or []
    if not isinstance(diff_ids, list) or len(diff_ids) > manifest.MAX_LAYERS:
        raise UserError(f"{what} needs a list of at most {manifest.MAX_LAYERS} diff ids")
    for diff_id in diff_ids:
        if not isinstance(diff_id, str) or not reference.is_digest(diff_id):
            raise UserError(f"{what} has a bad diff id: {str(diff_id)[:80]!r}")
    parts = [value.get(key) or "" for key in ("os", "architecture", "variant")]
    if not all(isinstance(part, str) and len(part) <= 40 for part in parts):
        raise UserError(f"{what} has a bad platform")
    platform = platforms.normal(parts[0] or "linux", parts[1], parts[2])
    return ParsedConfig(_image_config(inner, what), platform, tuple(diff_ids))


def _image_config(value: dict[str, Any], what: str) -> ImageConfig:
    return ImageConfig(
        entrypoint=_argv(value.get("Entrypoint"), f"{what}: Entrypoint"),
        cmd=_argv(value.get("Cmd"), f"{what}: Cmd"),
        env=_environment(value.get("Env"), f"{what}: Env"),
        working_dir=_working_directory(value.get("WorkingDir"), what),
        user=_text(value.get("User"), f"{what}: User", longest=256),
        exposed_ports=_ports(value.get("ExposedPorts")),
        volumes=_volumes(value.get("Volumes"), what),
        stop_signal=_stop_signal(value.get("StopSignal")),
        healthcheck=_healthcheck(value.get("Healthcheck"), what),
    )


def _text(value: Any, what: str, *, longest: int = _LONGEST_STRING) -> str:
    """A string that may be passed to a system call: no NUL, no line break in single words, not too long."""
    if value is None:
        return ""
    try:
        fine = isinstance(value, str) and "\0" not in value and len(value.encode()) <= longest
    except UnicodeEncodeError:  # a lone surrogate from \ud800
        fine = False
    if not fine or (longest < _LONGEST_STRING and not value.isprintable()):
        raise UserError(f"{what} is not usable: {str(value)[:60]!r}")
    return str(value)


def _list(value: Any, what: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > _MOST_ITEMS:
        raise UserError(f"{what} is not a list of at most {_MOST_ITEMS} strings")
    texts = tuple(_text(item, what) for item in value)
    if sum(len(text) for text in texts) > _MOST_BYTES:
        raise UserError(f"{what} is too long: more than {_MOST_BYTES} bytes")
    return texts


def _argv(value: Any, what: str) -> tuple[str, ...]:
    return _list([value] if isinstance(value, str) else value, what)  # Docker's own reader takes a single string too


def _environment(value: Any, what: str) -> tuple[tuple[str, str], ...]:
    env: dict[str, str] = {}
    for item in _list(value, what):
        name, equals, content = item.partition("=")
        if name and equals:
            env[name] = content
    return tuple(env.items())


def _working_directory(value: Any, what: str) -> str:
    path = _text(value, f"{what}: WorkingDir", longest=_LONGEST_PATH)
    return _absolute(path) if path else ""


def _volumes(value: Any, what: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, dict) or len(value) > 256:
        raise UserError(f"{what}: Volumes is not an object of at most 256 paths")
    volumes = []
    for key in value:
        path = _text(key, f"{what}: Volumes", longest=_LONGEST_PATH)
        if not path.startswith("/") or ".." in path.split("/") or not path.strip("/"):
            raise UserError(f"{what}: Volumes has a path that is not absolute and plain: {path[:60]!r}")
        volumes.append(_absolute(path))
    return tuple(volumes)


def _absolute(path: str) -> str:
    """Return "/a/b" for "a/./b/", "//a/b" and "/../a/b" (normpath alone keeps two leading slashes)."""
    return posixpath.normpath("/" + path.lstrip("/"))


def _ports(value: Any) -> tuple[str, ...]:
    """Ports like "6379/tcp" by number; what is none is left out, since nothing but a health check reads them."""
    found = set()
    for key in value if isinstance(value, dict) and len(value) <= _MOST_ITEMS else ():
        number, _, protocol = key.partition("/")
        if number.isascii() and number.isdigit() and len(number) < 6 and 0 < int(number) < 65536 and protocol in ("", "tcp", "udp", "sctp"):
            found.add((int(number), protocol or "tcp"))
    return tuple(f"{number}/{protocol}" for number, protocol in sorted(found))


def _stop_signal(value: Any) -> str:
    """A signal's name or number; nonsense means the default, as the container can be stopped either way."""
    if not isinstance(value, str) or len(value) > 20:
        return ""
    text = value.upper()
    if text.isascii() and text.isdigit():
        return text if 0 < int(text) < 65 else ""
    name = text if text.startswith("SIG") else f"SIG{text}"
    base, _, offset = name.partition("+") if "+" in name else name.partition("-")
    known = base in signal.Signals.__members__ and (
        not offset or (offset.isascii() and offset.isdigit() and base in ("SIGRTMIN", "SIGRTMAX"))
    )
    return name if known else ""


def _healthcheck(value: Any, what: str) -> Healthcheck:
    if not isinstance(value, dict):
        return Healthcheck()
    test = _list(value.get("Test"), f"{what}: Healthcheck")
    if not test or test[0] not in ("CMD", "CMD-SHELL"):  # "NONE" switches an inherited check off
        return Healthcheck()
    default = Healthcheck()
    retries = value.get("Retries")
    return Healthcheck(
        test=test,
        interval_s=_seconds(value.get("Interval"), default.interval_s),
        timeout_s=_seconds(value.get("Timeout"), default.timeout_s),
        start_period_s=_seconds(value.get("StartPeriod"), default.start_period_s),
        retries=retries if isinstance(retries, int) and not isinstance(retries, bool) and 0 < retries <= 1000 else default.retries,
    )


def _seconds(value: Any, default: float) -> float:
    """Durations are written in nanoseconds; 0 and nonsense mean the default."""
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        return default
    return min(value / 1e9, _DAY_S)
