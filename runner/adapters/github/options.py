"""`options:` of a job container or a service: the words of `docker create`, of which what has a meaning without root is kept.

What only changes how something is shown is passed over; what cannot be had is a warning if the job can do without it, else an error.
"""

from __future__ import annotations

from runner import quantities
from runner.adapters.github import message
from runner.errors import UserError
from runner.model import Healthcheck, Limits
from runner.record import NamedTuple
from runner.sandbox import capabilities

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    _T = TypeVar("_T")

_SHORT = {
    "-u": "--user", "-m": "--memory", "-v": "--volume", "-e": "--env", "-h": "--hostname", "-p": "--publish", "-w": "--workdir",
    "-l": "--label", "-c": "--cpu-shares", "-a": "--attach",
}  # fmt: skip
_SHORT_SWITCHES = "itdPq"
_SWITCHES = (
    "--init", "--no-healthcheck", "--privileged", "--rm", "--interactive", "--tty", "--detach", "--read-only", "--oom-kill-disable",
    "--publish-all", "--disable-content-trust", "--quiet", "--sig-proxy",
)  # fmt: skip
_USED = (
    "--user", "--memory", "--cpus", "--pids-limit", "--volume", "--env", "--hostname", "--publish", "--workdir", "--name",
    "--network-alias", "--net-alias", "--tmpfs", "--add-host", "--health-cmd", "--health-interval", "--health-timeout", "--health-retries",
    "--health-start-period", "--cap-add", "--cap-drop", "--shm-size", "--platform", "--pull", "--mount", "--entrypoint",
)  # fmt: skip
# means nothing here, and nobody misses it
_SILENT = (
    "--label", "--label-file", "--log-driver", "--log-opt", "--restart", "--stop-timeout", "--stop-signal", "--expose", "--memory-swap",
    "--memory-swappiness", "--memory-reservation", "--attach", "--detach-keys", "--cidfile", "--domainname", "--health-start-interval",
)  # fmt: skip
# the job may do without
_DEGRADED = {
    "--network": "every job has a network of its own", "--net": "every job has a network of its own",
    "--ipc": "every container has shared memory of its own", "--security-opt": "the profile of the machine stays",
    "--ulimit": "limits are those of the runner", "--sysctl": "the machine's are not a job's to set", "--dns": "the machine's is used",
    "--dns-search": "the machine's is used", "--dns-option": "the machine's is used", "--cpu-shares": "use --cpus",
    "--cpu-quota": "use --cpus", "--cpu-period": "use --cpus", "--cpuset-cpus": "use --cpus", "--cpuset-mems": "use --cpus",
    "--group-add": "groups are those of the image", "--storage-opt": "there is no limit of disk space",
    "--cgroupns": "every container has one of its own", "--oom-score-adj": "it is the runner's", "--blkio-weight": "it is the machine's",
    "--ip": "addresses are chosen here", "--link": "services are reached by their names", "--kernel-memory": "use --memory",
}  # fmt: skip
_REFUSED = {
    "--env-file": "it would read a file of the host: write its variables below `env:`",
    "--device": "devices of the host are not for jobs; /dev/fuse and /dev/net/tun come with --privileged",
    "--gpus": "devices of the host are not for jobs", "--device-cgroup-rule": "devices of the host are not for jobs",
    "--volumes-from": "name the volumes instead", "--runtime": "there is one runtime", "--userns": "ids are mapped by dockless",
    "--pid": "other processes than its own are not a container's business", "--uts": "the host's name is not a container's business",
    "--cgroup-parent": "groups are made by dockless", "--volume-driver": "volumes are directories", "--isolation": "that is for Windows",
}  # fmt: skip
_OF_PRIVILEGED = ("/dev/fuse", "/dev/net/tun")


class Options(NamedTuple):
    """What a container is asked to be besides its image; `health` None is the image's."""

    user: str = ""
    workdir: str = ""
    hostname: str = ""
    names: tuple[str, ...] = ()
    limits: Limits = Limits()
    volumes: tuple[str, ...] = ()  # as written
    env: tuple[tuple[str, str], ...] = ()
    ports: tuple[str, ...] = ()
    extra_hosts: tuple[tuple[str, str], ...] = ()
    health: Healthcheck | None = None
    init: bool = False
    privileged: bool = False
    capabilities: tuple[str, ...] = ()  # () is the default set
    shm_size: int = 0
    platform: str = ""
    pull: str = ""
    entrypoint: str = ""
    warnings: tuple[str, ...] = ()


def parse(text: str) -> Options:
    """Read the options of one container. UserError for what is not known, or refused."""
    if not text.strip():
        return Options()
    found: dict[str, list[str]] = {}
    warnings = []
    rest = list(message.words(text))
    while rest:
        name, value = _take(rest.pop(0), rest)
        if name in _DEGRADED:
            if not (name in ("--network", "--net") and value == "bridge"):
                warnings.append(f"option {name} has no effect: {_DEGRADED[name]}")
        elif name == "--device" and value.partition(":")[0] in _OF_PRIVILEGED:
            warnings.append(f"option {name} {value} has no effect by itself: it comes with --privileged")
        elif name in _REFUSED:
            raise UserError(f"options: {name} is refused", _REFUSED[name])
        found.setdefault(name, []).append(value)
    if "--read-only" in found:
        warnings.append("option --read-only has no effect: the root of a container is written to")
    return _options(found, tuple(dict.fromkeys(warnings)))


def _take(word: str, rest: list[str]) -> tuple[str, str]:
    """Return an option by its long name, and its value; more words are taken from `rest` where the value is there."""
    name, has_value, value = word.partition("=")
    if not word.startswith("--") and len(word) > 1 and word.startswith("-"):
        if word[1] in _SHORT_SWITCHES:
            if word[2:]:
                rest.insert(0, f"-{word[2:]}")
            return "--rm", "true"  # as all of these: nothing that matters here
        name, value = _SHORT.get(word[:2], word[:2]), word[2:].removeprefix("=")
        has_value = value
    if name in _SWITCHES:
        return (name, "true") if value != "false" else ("--rm", "true")
    if name not in (*_USED, *_SILENT, *_DEGRADED, *_REFUSED):
        raise UserError(f"options: {word[:80]!r} is not known", "`options:` takes what `docker create` does")
    if has_value:
        return name, value
    if not rest:
        raise UserError(f"options: {name} needs a value", f"write {name} VALUE")
    return name, rest.pop(0)


def _options(found: dict[str, list[str]], warnings: tuple[str, ...]) -> Options:
    def last(name: str) -> str:
        return found.get(name, [""])[-1]

    def number(name: str, parse_value: Callable[[str], _T], none: _T) -> _T:
        text = last(name)
        if not text:
            return none
        try:
            return parse_value(text)
        except ValueError as e:
            raise UserError(f"options: {name} {text[:80]} cannot be used", str(e)) from e

    pids = last("--pids-limit")
    limits = Limits(
        memory=number("--memory", quantities.parse_size, 0),
        cpus=number("--cpus", quantities.parse_cpus, 0.0),
        pids=0 if pids in ("-1", "0") else number("--pids-limit", quantities.parse_count, 0),
    )
    added, dropped = found.get("--cap-add", []), found.get("--cap-drop", [])
    return Options(
        user=last("--user"),
        workdir=last("--workdir"),
        hostname=last("--hostname"),
        names=tuple(name for key in ("--network-alias", "--net-alias", "--name", "--hostname") for name in found.get(key, [])),
        limits=limits,
        volumes=(
            *found.get("--volume", []),
            *(_mount(text) for text in found.get("--mount", [])),
            *(text.partition(":")[0] for text in found.get("--tmpfs", [])),  # as empty, and gone with the job
        ),
        env=tuple(_variable(text) for text in found.get("--env", []) if "=" in text),
        ports=tuple(found.get("--publish", [])),
        extra_hosts=tuple(_host(text) for text in found.get("--add-host", [])),
        health=_health(found, last, number),
        init="--init" in found,
        privileged="--privileged" in found,
        capabilities=capabilities.adjusted(added, dropped) if added or dropped else (),
        shm_size=number("--shm-size", quantities.parse_size, 0),
        platform=last("--platform"),
        pull=_policy(last("--pull")),
        entrypoint=last("--entrypoint"),
        warnings=warnings,
    )


def _variable(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    if not name:
        raise UserError(f"options: --env {text[:40]!r} has no name", "write --env NAME=VALUE")
    return name, value


def _host(text: str) -> tuple[str, str]:
    name, _, address = text.replace("=", ":", 1).partition(":")
    plain = name.replace("-", "").replace(".", "").replace("_", "")
    if not plain.isalnum() or not plain.isascii() or not address or not all(c in "0123456789abcdefABCDEF.:" for c in address):
        if address == "host-gateway":
            raise UserError("options: --add-host with host-gateway is refused", "the host itself is closed to jobs: use a service")
        raise UserError(f"options: --add-host {text[:80]!r} cannot be used", "write NAME:IP")
    return name, address


def _policy(text: str) -> str:
    known = {"": "", "always": "always", "missing": "if-not-present", "never": "never"}
    if text not in known:
        raise UserError(f"options: --pull {text[:40]} is not known", "choose one of always, missing, never")
    return known[text]


def _mount(text: str) -> str:
    """Return a --mount as --volume would say it."""
    fields = dict(field.partition("=")[::2] for field in text.split(","))
    kind = fields.get("type", "volume")
    target = fields.get("target") or fields.get("dst") or fields.get("destination") or ""
    source = fields.get("source") or fields.get("src") or ""
    if kind not in ("bind", "volume", "tmpfs") or not target or (kind == "bind" and not source):
        raise UserError(f"options: --mount {text[:80]!r} cannot be used", "write type=bind,source=/host,target=/container")
    read_only = any(name in fields and fields[name] in ("", "true", "1") for name in ("readonly", "ro"))
    return f"{f'{source}:' if source and kind != 'tmpfs' else ''}{target}{':ro' if read_only else ''}"


def _health(
    found: dict[str, list[str]], last: Callable[[str], str], number: Callable[[str, Callable[[str], float], float], float]
) -> Healthcheck | None:
    """Return the health check that the options make; the image's test, for which they only change times, has an empty one."""
    if "--no-healthcheck" in found or last("--health-cmd") == "none":
        return Healthcheck(("NONE",))
    if not any(name.startswith("--health-") for name in found):
        return None
    default = Healthcheck()
    return Healthcheck(
        test=("CMD-SHELL", last("--health-cmd")) if last("--health-cmd") else (),
        interval_s=number("--health-interval", _seconds, 0.0) or default.interval_s,
        timeout_s=number("--health-timeout", _seconds, 0.0) or default.timeout_s,
        start_period_s=number("--health-start-period", _seconds, 0.0),
        retries=int(number("--health-retries", quantities.parse_count, 0)) or default.retries,
    )


def _seconds(text: str) -> float:
    """Read a duration as Go writes it ("1m30s", "500ms"). ValueError otherwise."""
    import re  # 5 ms: for services that say how they are checked

    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001, "us": 1e-6, "ns": 1e-9}
    if text == "0":
        return 0.0
    if not re.fullmatch(r"([0-9]{1,9}(\.[0-9]{1,9})?(ms|us|ns|h|m|s))+", text):
        raise ValueError("write a duration such as 10s or 1m30s")
    return sum(float(value) * units[unit] for value, _, unit in re.findall(r"([0-9]+(\.[0-9]+)?)(ms|us|ns|h|m|s)", text))
