"""What a `docker run` command line asks for, as a value; what is refused, and why."""

from __future__ import annotations

import os

from runner import errors, quantities
from runner.adapters.jenkins import containers, mounts, options, signal_names
from runner.adapters.jenkins.options import Grammar, Parsed
from runner.job import oneoff
from runner.job.detached import Adjustments
from runner.job.forward import Port
from runner.model import ContainerSpec, Limits
from runner.record import NamedTuple
from runner.sandbox import capabilities
from runner.sandbox import mounts as target_mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from runner.adapters.jenkins.shim import Shim
    from runner.model import VolumeSpec

_HOST = "it would join what belongs to this machine"
_NETWORKS = "networks with names are not served by dockless; --link CONTAINER joins that of another container"
_TMPFS_OPTIONS = ("size", "mode", "uid", "gid", "nr_inodes", "rw", "ro", "exec", "noexec", "nosuid", "nodev", "noatime")
GRAMMAR = Grammar(
    "run",
    "-d --detach -t --tty -i --interactive --rm --init --read-only --no-healthcheck -u= --user= -w= --workdir= -v= --volume= --mount= "
    "-e= --env= --env-file= --entrypoint= --network= --net= --name= --cpus= -m= --memory= --pids-limit= --shm-size= --tmpfs= "
    "--group-add= --ulimit= --add-host= --dns= -h= --hostname= -l= --label= --pull= --platform= --cap-drop= --cap-add= "
    "--security-opt= --stop-signal= --pid= --ipc= --uts= --userns= --cgroupns= --stop-timeout= --restart= -q --quiet "
    "--link= -p= --publish= -P --publish-all --volumes-from=",
    {
        "--privileged": "a privileged container would be the machine itself; jobs that want Docker get an API of their own from dockless",
        "--device": "devices of this machine are not for containers",
        "--gpus": "devices of this machine are not for containers",
        "--cgroup-parent": _HOST,
    },
    mixed=False,
)  # fmt: skip


class Plan(NamedTuple):
    """A container as a command line asks for it."""

    container: ContainerSpec
    shared: tuple[int, int] | None  # the container's ids that are the account's
    adjustments: Adjustments
    name: str
    hostname: str
    network: str
    hosts: tuple[tuple[str, str], ...]
    dns: tuple[str, ...]
    labels: tuple[tuple[str, str], ...]
    stop_signal: int  # 0: the image's
    detach: bool
    terminal: bool
    interactive: bool
    remove: bool
    links: tuple[tuple[str, str], ...]  # (container, a name for it) whose network this one joins
    ports: tuple[Port, ...]
    publishes_all: bool  # also those that the image exposes


def make(parsed: Parsed, shim: Shim, *, container_id: str) -> Plan:
    """Return what a command line means. UserError for what is refused."""
    _refuse_host(parsed)
    image, command = parsed.words[0], parsed.words[1:]
    volumes = _volumes(parsed, shim)
    user = parsed.last("user")
    hostname = parsed.last("hostname") or containers.short(container_id)
    terminal, interactive = parsed.has("tty"), parsed.has("interactive")
    container = ContainerSpec(
        name=containers.part(container_id) if parsed.has("detach") else oneoff.CONTAINER,
        image=image,
        pull_policy=(_pull_policy(parsed.last("pull")),),
        platform=parsed.last("platform"),
        entrypoint=(parsed.last("entrypoint"),) if "entrypoint" in parsed.values else None,
        command=command or None,
        env=options.variables(parsed, shim.environ, verb="run"),
        user=user,
        working_dir=parsed.last("workdir"),
        hostname=hostname,
        volumes=volumes,
        limits=_limits(parsed),
        # cat as PID 1 would neither reap nor hear SIGTERM
        init=parsed.has("init") or (parsed.has("detach") and terminal),
    )
    return Plan(
        container=container,
        shared=shared_ids(user, volumes, shim),
        adjustments=_adjustments(parsed),
        name=_checked_name(parsed.last("name")),
        hostname=hostname,
        network="none" if _network(parsed) == "none" else "default",
        hosts=tuple(_host(text) for text in parsed.every("add-host")),
        dns=parsed.every("dns"),
        labels=tuple((name, value) for name, _, value in (text.partition("=") for text in parsed.every("label"))),
        stop_signal=_stop_signal(parsed.last("stop-signal")),
        detach=parsed.has("detach"),
        terminal=terminal,
        interactive=interactive,
        remove=parsed.has("rm"),
        links=_links(parsed),
        ports=tuple(_port(text) for text in parsed.every("publish")),
        publishes_all=parsed.has("publish-all"),
    )


def _volumes(parsed: Parsed, shim: Shim) -> tuple[VolumeSpec, ...]:
    """Return the mounts of a container: its own ones, and at other places those of --volumes-from."""
    texts = (*parsed.every("volume"), *_bind_mounts(parsed.every("mount")))
    found = mounts.parse(texts, shim.around, cwd=os.getcwd(), roots=shim.roots)
    for text in parsed.every("volumes-from"):
        # judged as if they were named here: what may be shown may have changed since
        passed_on = mounts.parse(_passed_on(text, shim), shim.around, cwd=os.getcwd(), roots=shim.roots)
        found += tuple(volume for volume in passed_on if volume.target not in {own.target for own in found})
    return found


def _passed_on(text: str, shim: Shim) -> list[str]:
    """Return the mounts of a container, CONTAINER[:ro|rw], as -v has them."""
    name, _, mode = text.partition(":")
    if mode not in ("", "ro", "rw"):
        raise errors.UserError(f"docker run: --volumes-from {text[:80]} is not served by dockless: write CONTAINER[:ro]")
    found = []
    for source, target, read_only in containers.get(shim.around, name).record.mounts:
        if not source.startswith("/"):
            raise errors.UserError(
                f"docker run: --volumes-from {name[:80]} is refused: its volume {target} is one container's at a time, "
                "directories of the agent are passed on"
            )
        found.append(f"{source}:{target}:{'ro' if read_only or mode == 'ro' else 'rw'}")
    return found


def shared_ids(user: str, volumes: tuple[VolumeSpec, ...], shim: Shim) -> tuple[int, int] | None:
    """Return the container's user and group that have to be the account: those whose files the agent must be able to delete.

    That is whom -u names by numbers. Without it, root where something of the host can be written; a user given by name counts as root.
    """
    uid, _, gid = user.partition(":")
    if _is_id(uid):
        return int(uid), int(gid) if _is_id(gid) else int(uid)
    if any(volume.kind == "bind" and not volume.read_only for volume in volumes):
        return 0, 0
    own = (shim.around.account.uid, shim.around.account.gid)
    return own if max(own) < 65536 else None


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and int(text) < 65536


def _refuse_host(parsed: Parsed) -> None:
    for option in ("pid", "ipc", "uts", "userns", "cgroupns", "network", "net"):
        value = parsed.last(option)
        if value == "host":
            raise errors.UserError(f"docker run: --{option}=host is refused: {_HOST}")
        if option not in ("network", "net") and value not in ("", "private", "shareable"):
            raise errors.UserError(f"docker run: --{option}={value[:80]} is not served by dockless")
    for value in parsed.every("cap-add"):
        if f"CAP_{value.upper().removeprefix('CAP_')}" not in capabilities.DEFAULT:
            raise errors.UserError(f"docker run: --cap-add={value[:80]} is refused: containers have docker's default capabilities, no more")
    for value in parsed.every("security-opt"):
        if not value.startswith("label"):
            raise errors.UserError(f"docker run: --security-opt={value[:80]} is not served by dockless")
    if parsed.last("restart", "no") != "no":
        raise errors.UserError("docker run: --restart is not served by dockless: nothing runs that could start a container again")
    _network(parsed)


def _network(parsed: Parsed) -> str:
    chosen = parsed.last("network") or parsed.last("net")
    if chosen not in ("", "default", "bridge", "none") and not chosen.startswith("container:"):
        raise errors.UserError(f"docker run: --network={chosen[:80]} is refused: {_NETWORKS}")
    return chosen


def _links(parsed: Parsed) -> tuple[tuple[str, str], ...]:
    found = [text.partition(":")[::2] for text in parsed.every("link")]
    joined = _network(parsed)
    if joined.startswith("container:"):
        found.append((joined.removeprefix("container:"), ""))
    for _, alias in found:
        _checked_name(alias, shortest=1)
    return tuple(found)


def _port(text: str) -> Port:
    """Read [[ADDRESS:]PORT:]PORT[/tcp]; a port of the machine that is missing or empty is any that is free."""
    plain = text.removesuffix("/tcp")
    rest, _, inner = plain.rpartition(":")
    address, _, outer = rest.rpartition(":")
    numbers = [number for number in (inner, outer) if number]
    if (
        not inner
        or not all(number.isascii() and number.isdigit() and len(number) < 6 and int(number) < 65536 for number in numbers)
        or not int(inner)
    ):
        raise errors.UserError(f"docker run: -p {text[:80]} is not served by dockless: write [[ADDRESS:]PORT:]PORT, of TCP and one by one")
    if address.strip("0123456789.abcdef:[]ABCDEF"):
        raise errors.UserError(f"docker run: -p {text[:80]} names no address of this machine")
    return Port(int(inner), address.strip("[]") or "0.0.0.0", int(outer or 0))


def _bind_mounts(texts: Sequence[str]) -> list[str]:
    """Write each --mount type=bind or type=volume as -v has it."""
    found = []
    for text in texts:
        fields = dict(field.partition("=")[::2] for field in text.split(","))
        source = fields.get("source", fields.get("src", ""))
        target = fields.get("target", fields.get("destination", fields.get("dst", "")))
        read_only = any(fields.get(name, "false") in ("", "true", "1") for name in ("readonly", "ro"))
        if fields.get("type", "volume") not in ("bind", "volume") or not target:
            raise errors.UserError(f"docker run: --mount {text[:80]} is not served by dockless")
        found.append(":".join([*([source] if source else []), target, *(["ro"] if read_only else [])]))
    return found


def _pull_policy(text: str) -> str:
    policies = {"": "if-not-present", "missing": "if-not-present", "always": "always", "never": "never"}
    if text not in policies:
        raise errors.UserError(f"docker run: --pull={text[:80]} is none of always, missing and never")
    return policies[text]


def _checked_name(name: str, *, shortest: int = 2) -> str:
    plain = name.replace("_", "a").replace(".", "a").replace("-", "a")
    if name and not (plain.isascii() and plain.isalnum() and name[0].isalnum() and shortest <= len(name) <= 128):
        raise errors.UserError(f"docker run: the name {name[:80]!r} cannot be used: letters, digits, dots, hyphens and underscores")
    return name


def _limits(parsed: Parsed) -> Limits:
    try:
        memory = parsed.last("memory")
        cpus = parsed.last("cpus")
        pids = parsed.last("pids-limit")
        return Limits(
            quantities.parse_size(memory) if memory else 0,
            quantities.parse_cpus(cpus) if cpus else 0.0,
            quantities.parse_count(pids) if pids not in ("", "-1", "0") else 0,
        )
    except ValueError as e:
        raise errors.UserError(f"docker run: a limit cannot be used: {e}") from e


def _adjustments(parsed: Parsed) -> Adjustments:
    size = parsed.last("shm-size")
    try:
        shm_size = quantities.parse_size(size) if size else 0
        groups = tuple(int(group) for group in parsed.every("group-add"))
        rlimits = tuple(_rlimit(text) for text in parsed.every("ulimit"))
    except ValueError as e:
        raise errors.UserError(f"docker run: a value of --shm-size, --group-add or --ulimit cannot be used: {e}") from e
    if any(not 0 <= group < 65536 for group in groups):
        raise errors.UserError("docker run: --group-add takes numbers below 65536")
    tmpfs = tuple(_tmpfs(text) for text in parsed.every("tmpfs"))
    dropped = tuple(name if name == "ALL" else f"CAP_{name.removeprefix('CAP_')}" for name in map(str.upper, parsed.every("cap-drop")))
    return Adjustments(tmpfs, shm_size, rlimits, groups, dropped, parsed.has("read-only"))


def _tmpfs(text: str) -> tuple[str, str]:
    path, _, given = text.partition(":")
    for option in given.split(",") if given else ():
        if option.partition("=")[0] not in _TMPFS_OPTIONS:  # others might make another kind of mount of it
            raise errors.UserError(f"docker run: --tmpfs option {option[:40]!r} is not served by dockless")
    try:
        return target_mounts.check_target(path, text), given
    except errors.UserError as e:
        raise errors.UserError(f"docker run: --tmpfs: {e.message}") from e


def _rlimit(text: str) -> tuple[str, int, int]:
    name, _, values = text.partition("=")
    soft, _, hard = values.partition(":")
    if not (name.isascii() and name.isalpha()):
        raise ValueError(f"{text!r} is not NAME=SOFT[:HARD]")
    unlimited = 2**64 - 1
    first, second = (unlimited if value == "-1" else int(value) for value in (soft, hard or soft))
    if not (0 <= first <= unlimited and 0 <= second <= unlimited):
        raise ValueError(f"{text!r} is out of range")
    return f"RLIMIT_{name.upper()}", first, second


def _host(text: str) -> tuple[str, str]:
    name, colon, address = text.partition(":" if ":" in text else "=")
    is_plain = text.isprintable() and not any(character.isspace() or character == "#" for character in text)
    if not (name and colon and address and is_plain) or address == "host-gateway":
        raise errors.UserError(f"docker run: --add-host {text[:80]} is not served by dockless: write NAME:ADDRESS")
    return name, address


def _stop_signal(text: str) -> int:
    return signal_names.number(text) if text else 0
