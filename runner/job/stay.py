"""A first process of a container that stays, so that what one step leaves running the next one finds: as under docker exec.

It is the PID 1 of a PID namespace that the container's steps join from then on. It has to be a program that every image has, and that shows
nothing of the host to who looks into its /proc/1: so it is a few instructions of our own, inside the container's root.
"""

from __future__ import annotations

import os
from _struct import pack

from runner import errors, paths
from runner.job import keeper
from runner.kernel import files, plain_json, process, syscalls
from runner.sandbox import capabilities, crun

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runner.job.state import JobState
    from runner.model import ContainerSpec

_TARGET = "/.dockless-stay"
_BASE, _HEADERS = 0x400000, 64 + 56
# ignore SIGCHLD, so that the kernel reaps what becomes ours, then sleep for ever; PID 1 gets no other signal from within
_CODE = {
    "x86_64": (
        62,
        b"\xb8\x0d\x00\x00\x00"  # mov eax, 13 (rt_sigaction)
        b"\xbf\x11\x00\x00\x00"  # mov edi, 17 (SIGCHLD)
        b"\x48\x8d\x35\x15\x00\x00\x00"  # lea rsi, [rip + 21]: the action, behind the code
        b"\x31\xd2"  # xor edx, edx
        b"\x41\xba\x08\x00\x00\x00"  # mov r10d, 8
        b"\x0f\x05"  # syscall
        b"\xb8\x22\x00\x00\x00"  # mov eax, 34 (pause)
        b"\x0f\x05"  # syscall
        b"\xeb\xf7"  # jmp to the mov before
        b"\x90\x90",  # nops, to a multiple of four
    ),
}


def is_possible(asked: ContainerSpec) -> bool:
    """Tell whether a container can have one; without it processes end with their step.

    There has to be a program for this machine. And a container with more than docker's capabilities could look into what crun has open, and
    where its root is, while it starts the next step in that PID namespace: others may not (ptrace(2), "access mode checking").
    """
    return os.uname().machine in _CODE and not asked.nested and set(asked.capabilities) <= set(capabilities.DEFAULT)


def program(machine: str) -> bytes:
    """Return the program as an ELF file (elf(5)): one segment, which is the whole file."""
    number, code = _CODE[machine]
    body = code + pack("<QQQQ", 1, 0, 0, 0)  # struct sigaction of the kernel: SIG_IGN
    size = _HEADERS + len(body)
    head = b"\x7fELF\x02\x01\x01" + bytes(9) + pack("<HHIQQQIHHHHHH", 2, number, 1, _BASE + _HEADERS, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)
    return head + segment + body


class Starting:
    """One that is being started by a child of ours."""

    def __init__(self, pid: int, answer: int) -> None:
        self._pid, self._answer = pid, answer

    def finish(self) -> None:
        """Wait until it is there and every later step joins it. Raises what kept it from starting. Call once."""
        process.receive(self._pid, self._answer)


def start(current: JobState, name: str) -> Starting:
    """Start it in a container of a job that has just been made; returns at once, the services of the job can be started meanwhile."""
    own = os.getpid()
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        process.die_with(own)
        process.answer_and_exit(writer, lambda: keeper.call(current.keeper, lambda: _start(name)))
    os.close(writer)
    return Starting(pid, reader)


def _start(name: str) -> None:
    home, step_id = f"{paths.RUN}/c/{name}", f"stay-{name}"
    own = f"{paths.RUN}/bin/stay"
    with open(own, "wb") as file:
        file.write(program(os.uname().machine))
    os.chmod(own, 0o755)
    base = files.read_json(f"{home}/base.json")
    bind = {"destination": _TARGET, "type": "none", "source": own, "options": ["rbind", "rprivate", "nosuid", "nodev", "ro"]}
    # its environment is in sight of every step, so it has none
    described = {**base, "mounts": [*base["mounts"], bind], "process": {**base["process"], "args": [_TARGET], "env": [], "cwd": "/"}}
    bundle = f"{home}/{step_id}"
    os.mkdir(bundle, 0o755)
    with open(f"{bundle}/config.json", "w", encoding="utf-8") as file:
        file.write(plain_json.dumps(described))
    if process.run_leaving_children(crun.run_argv(bundle, step_id, detach=True)) != 0:
        raise crun.failure(bundle, (_TARGET,)) or errors.InfraError(f"first process of container {name} cannot be started")
    pinned = paths.namespace("pid", name)
    os.close(os.open(pinned, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o444))
    syscalls.mount(f"/proc/{int(files.read(f'{bundle}/pid'))}/ns/pid", pinned, "", syscalls.MS_BIND)
    for namespace in base["linux"]["namespaces"]:
        if namespace["type"] == "pid":
            namespace["path"] = pinned
    files.write_json(f"{home}/base.json", base, durable=False)
