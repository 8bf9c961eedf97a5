"""The phase boundaries of a command, and what can happen at them, without a line in the product: strace(1) counts system calls.

Whatever a command does to the world it does by a system call; so each call that starts or ends something (a process, a name, a mount, a
namespace, a flushed file, a request) is a boundary, and a command is first watched to learn which ones it has. Then it is run again and is
killed right before one of them, or that one fails.

A command is traced alone: its main process and thread. What it starts is not traced, since newuidmap, which is setuid, would lose its
power. Or it is traced with all that it starts: then in a user namespace where newuidmap needs no power (tests.support.worse_hosts), and
calls are counted for each thread by itself.
"""

import re
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.support import worse_hosts
from tests.support.engine import Result

KILL = "KILL"
# what may fail by itself, and as what: open_by_handle and the like are nothing that we do
_FAILING = {
    "ENOSPC": ("write", "pwrite64", "ftruncate", "rename", "renameat2", "mkdir", "mkdirat", "link", "symlink", "symlinkat", "openat"),
    "EIO": ("write", "pwrite64", "rename", "fsync", "fdatasync", "syncfs", "unlink", "unlinkat"),
    "EDQUOT": ("write", "pwrite64", "mkdir", "mkdirat", "rename", "openat"),
}
_WATCHED = (
    "rename,renameat2,link,linkat,symlink,symlinkat,mkdir,mkdirat,mknodat,mount,move_mount,umount2,clone,clone3,vfork,unlink,unlinkat,"
    "rmdir,fsync,fdatasync,syncfs,write,pwrite64,ftruncate,setns,unshare,kill,pidfd_send_signal,wait4,connect,sendto,bind,chmod,fchmod,"
    "fchown,setxattr,fsetxattr,openat"
)
_CALL = re.compile(r"(?:(?P<pid>\d+) +)?(?P<name>[a-z_0-9]+)\((?P<rest>.*)")
_BYTECODE = {"PYTHONDONTWRITEBYTECODE": "1"}  # which is written as it pleases, and is no boundary


class Fault(NamedTuple):
    """What happens (KILL or an error's name), and where: at the `number`th `call` of this name."""

    what: str
    call: str
    number: int

    def __str__(self) -> str:
        return f"{self.what} at {self.call} {self.number}"


class Tracer(NamedTuple):
    """How a command is run under strace; `log` is where that writes."""

    log: Path
    everything: bool = False  # or the command alone

    def argv(self, command: Sequence[str], fault: Fault | None) -> list[str]:
        """Return a command line that watches a command, or does something to it."""
        calls = _WATCHED if fault is None else fault.call
        inject = []
        if fault is not None:
            does = "signal=SIGKILL" if fault.what == KILL else f"error={fault.what}"
            inject = ["-e", f"inject={fault.call}:{does}:when={fault.number}"]
        follow = ["-f", "--seccomp-bpf"] if self.everything else []
        return ["strace", *follow, "-o", str(self.log), "-e", f"trace={calls}", *inject, *command]

    def run(self, command: Sequence[str], *, env: Mapping[str, str], fault: Fault | None = None, timeout_s: float = 60) -> Result:
        """Run a command to its end; its code is negative when a signal ended it."""
        argv, environ = self.argv(command, fault), {**env, **_BYTECODE}
        if self.everything:
            return worse_hosts.run(argv, env=environ, scripts=worse_hosts.Scripts(), timeout_s=timeout_s)
        done = subprocess.run(
            argv, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def happened(self, fault: Fault) -> bool:
        """Tell whether the fault of the last run came to pass."""
        told = self.log.read_text(errors="replace")
        return "+++ killed by SIGKILL" in told if fault.what == KILL else "(INJECTED)" in told

    def silenced(self) -> bool:
        """Tell whether words of the last run for its caller were what could not be written."""
        return any("write(2, " in line and "(INJECTED)" in line for line in self.log.read_text(errors="replace").splitlines())

    def faults(self) -> list[Fault]:
        """Return everything that can happen to the command that was watched last, in the order in which it would come to it."""
        found: dict[Fault, None] = {}
        counts: Counter[tuple[str, str]] = Counter()
        for line in self.log.read_text(errors="replace").splitlines():
            matched = _CALL.match(line)
            if matched is None:
                continue
            pid, call, rest = matched["pid"] or "", matched["name"], matched["rest"]
            counts[pid, call] += 1
            if call == "openat" and ("O_CREAT" not in rest or self.everything):
                continue  # where all are counted, the same number may be the interpreter's own reading of a module
            found[Fault(KILL, call, counts[pid, call])] = None
            # what cannot be told to the caller is not looked for in what the caller was told
            if call != "write" or not rest.startswith(("1,", "2,")):
                found.update({Fault(error, call, counts[pid, call]): None for error, calls in _FAILING.items() if call in calls})
        return list(found)
