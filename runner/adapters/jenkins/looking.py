"""`docker top`, `ps`, `logs`, `port` and `version`: what containers are doing."""

from __future__ import annotations

import os
import sys
import time

from runner import errors
from runner.adapters.jenkins import containers
from runner.adapters.jenkins.options import Grammar
from runner.job import log_bound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from runner.adapters.jenkins.containers import Container
    from runner.adapters.jenkins.shim import Shim
    from runner.job.forward import Port
    from runner.job.processes import Process

_PS = Grammar("ps", "-a --all -q --quiet --no-trunc -f= --filter= --format= -n= --last= -l --latest")
_LOGS = Grammar("logs", "-f --follow -t --timestamps -n= --tail= --since= --until=", {"--details": "there are none"})
_VERSION = Grammar("version", "-f= --format=")


def top(arguments: Sequence[str], shim: Shim) -> int:
    """List a container's processes in the columns of ps -eo, by default those of ps -ef."""
    if not arguments or arguments[0].startswith("-"):
        raise errors.UserError("docker top: no container is named")
    container = containers.get(shim.around, arguments[0])
    if not container.is_running():
        raise errors.UserError(f"container {containers.short(container.record.id)} is not running")
    names = _columns(tuple(arguments[1:]))
    from runner.job import processes

    found = processes.look(container.job, container.record.main.pid)
    rows = [[_COLUMNS[name][0] for name in names], *([_COLUMNS[name][1](process) for name in names] for process in found)]
    sys.stdout.write(table(rows))
    return 0


def _columns(words: tuple[str, ...]) -> list[str]:
    if words in ((), ("-ef",)):
        return ["uid", "pid", "ppid", "c", "stime", "tty", "time", "args"]
    if words == ("aux",):
        return ["uid", "pid", "stat", "time", "args"]
    listed = ""
    if len(words) == 1 and words[0].startswith(("-eo", "-o", "-Ao")):
        listed = words[0].partition("o")[2]
    elif len(words) == 2 and words[0] in ("-eo", "-o", "-Ao", "-A -o"):
        listed = words[1]
    names = [name.strip() for name in listed.split(",")]
    unknown = [name for name in names if name not in _COLUMNS]
    if unknown:
        raise errors.UserError(f"docker top: dockless lists -ef, or -eo and some of {','.join(_COLUMNS)}, not {' '.join(words)[:80]}")
    return names


def _time(process: Process) -> str:
    seconds = process.ticks // os.sysconf("SC_CLK_TCK")
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def _began(process: Process) -> str:
    ago = time.clock_gettime(time.CLOCK_BOOTTIME) - process.started / os.sysconf("SC_CLK_TCK")
    return time.strftime("%H:%M", time.localtime(time.time() - ago))


def _command(process: Process) -> str:
    return "".join(c if c.isprintable() else "?" for c in " ".join(process.argv)) or f"[{process.comm}]"


# header and value of each column, by the names that ps has for it
_COLUMNS: dict[str, tuple[str, Callable[[Process], str]]] = {
    "pid": ("PID", lambda process: str(process.pid)),
    "ppid": ("PPID", lambda process: str(process.parent)),
    "comm": ("COMMAND", lambda process: process.comm.replace(" ", "_")),
    "ucmd": ("CMD", lambda process: process.comm.replace(" ", "_")),
    "uid": ("UID", lambda process: str(process.uid)),
    "user": ("USER", lambda process: str(process.uid)),
    "args": ("CMD", _command),
    "command": ("COMMAND", _command),
    "cmd": ("CMD", _command),
    "stat": ("STAT", lambda process: process.state),
    "s": ("S", lambda process: process.state),
    "time": ("TIME", _time),
    "stime": ("STIME", _began),
    "c": ("C", lambda _process: "0"),
    "tty": ("TTY", lambda _process: "?"),
}


def ps(arguments: Sequence[str], shim: Shim) -> int:
    """List containers: those that run, with --all every one."""
    parsed = _PS.parse(arguments)
    whole = parsed.has("no-trunc")
    found = [_row(container, whole=whole) for container in reversed(containers.every(shim.around))]
    for text in parsed.every("filter"):
        found = [row for row in found if _matches(row, text)]
    if not parsed.has("all") and not any(text.startswith("status=") for text in parsed.every("filter")):
        found = [row for row in found if row["State"] == "running"]
    if parsed.has("quiet"):
        print("".join(f"{row['ID']}\n" for row in found), end="")
        return 0
    if parsed.last("format"):
        from runner.adapters.jenkins import template

        print("".join(f"{template.render(parsed.last('format'), row)}\n" for row in found), end="")
        return 0
    heads = {
        "ID": "CONTAINER ID", "Image": "IMAGE", "Command": "COMMAND", "RunningFor": "CREATED", "Status": "STATUS", "Ports": "PORTS",
        "Names": "NAMES",
    }  # fmt: skip
    sys.stdout.write(table([list(heads.values()), *([str(row[name]) for name in heads] for row in found)]))
    return 0


def _row(container: Container, *, whole: bool) -> dict[str, Any]:
    record = container.record
    running = container.is_running()
    age = _age(time.time() - record.created)
    part = container.job.container(record.part)
    return {
        "ID": record.id if whole else containers.short(record.id),
        "Image": record.image,
        "Command": f'"{" ".join((*part.entrypoint, *part.command))[: None if whole else 20]}"',
        "RunningFor": f"{age} ago",
        "Status": f"Up {age}" if running else "Exited",
        "State": "running" if running else "exited",
        "Ports": ", ".join(f"{_place(port)}->{port.container}/tcp" for port in record.ports),
        "Names": record.name,
        "Labels": ",".join(f"{name}={value}" for name, value in record.labels),
    }


def _matches(row: dict[str, Any], text: str) -> bool:
    name, _, value = text.partition("=")
    match name:
        case "id":
            return str(row["ID"]).startswith(value[:12])
        case "name":
            return value.strip("^$/") in str(row["Names"])
        case "status":
            return str(row["State"]) == value
        case "label":
            labels = str(row["Labels"]).split(",")
            return value in labels or any(label.partition("=")[0] == value for label in labels)
        case "ancestor":
            return str(row["Image"]) == value
    raise errors.UserError(f"docker ps: filter {text[:80]!r} is not served by dockless")


def _age(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{int(seconds // length)} {unit}"
    return f"{int(seconds)} seconds"


def table(rows: list[list[str]]) -> str:
    """Align columns as docker does: each as wide as its widest cell, the last one as it is."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return "".join("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n" for row in rows)


def logs(arguments: Sequence[str], shim: Shim) -> int:
    """Print what a container's main process has said; with --follow until it ends."""
    parsed = _LOGS.parse(arguments)
    if len(parsed.words) != 1:
        raise errors.UserError("docker logs: one container is to be named")
    if parsed.has("timestamps") or "since" in parsed.values or "until" in parsed.values:
        raise errors.UserError("docker logs: times are not served by dockless: lines are kept as they were printed")
    tail = parsed.last("tail", "all")
    if tail != "all" and not (tail.isascii() and tail.isdigit()):
        raise errors.UserError(f"docker logs: --tail {tail[:40]} is no number")
    container = containers.get(shim.around, parsed.words[0])
    fd = os.open(shim.around.store.job_log(container.job.key, container.record.part), os.O_RDONLY | os.O_CLOEXEC)
    if tail != "all":
        os.lseek(fd, _start_of(fd, int(tail)), os.SEEK_SET)
    while True:
        running = container.is_running()  # asked before the rest is read: nothing is missed
        if not running:
            log_bound.wait(fd)
        while chunk := os.read(fd, 65536):
            os.write(1, chunk)
        if not (running and parsed.has("follow")):
            return 0
        time.sleep(0.2)


def _start_of(fd: int, lines: int) -> int:
    """Return where the last lines of a file begin."""
    position = os.fstat(fd).st_size
    if lines == 0:
        return position
    wanted = lines + 1 if position and os.pread(fd, 1, position - 1) == b"\n" else lines
    while position:
        first = max(0, position - 65536)
        block = os.pread(fd, position - first, first)
        for at in range(len(block) - 1, -1, -1):
            wanted -= block[at] == 10
            if wanted == 0:
                return first + at + 1
        position = first
    return 0


def port(arguments: Sequence[str], shim: Shim) -> int:
    """Say at which ports of the machine a container's are: one, or all of them."""
    if not 1 <= len(arguments) <= 2:
        raise errors.UserError("docker port: a container and at most one port are to be named")
    record = containers.get(shim.around, arguments[0]).record
    if len(arguments) == 1:
        print("".join(f"{each.container}/tcp -> {_place(each)}\n" for each in record.ports), end="")
        return 0
    found = [each for each in record.ports if str(each.container) == arguments[1].removesuffix("/tcp")]
    if not found:
        raise errors.UserError(f"docker port: no public port {arguments[1][:40]!r} published for {containers.short(record.id)}")
    print("".join(f"{_place(each)}\n" for each in found), end="")
    return 0


def _place(port: Port) -> str:
    return f"[{port.address}]:{port.host}" if ":" in port.address else f"{port.address}:{port.host}"


def version(arguments: Sequence[str], _shim: Shim) -> int:
    """Print the version of client and server, which are the same here."""
    parsed = _VERSION.parse(arguments)
    from runner.adapters.jenkins import docker_command, template

    both = {"Version": docker_command.VERSION, "ApiVersion": "1.46", "Os": "linux"}
    text = parsed.last("format", "Client:\n Version:  {{.Client.Version}}\n\nServer: dockless\n Version:  {{.Server.Version}}")
    print(template.render(text, {"Client": both, "Server": both}))
    return 0
