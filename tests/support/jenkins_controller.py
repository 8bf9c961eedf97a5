"""What a Jenkins controller does to the program that it starts as an agent (CommandLauncher, ProcessTree, ChannelBuilder), without Jenkins.

The command is one string, cut into words without a shell; stdin and stdout are the channel, stderr goes to the log; in the end every
process that carries the cookie gets SIGTERM, and nothing stronger.
"""

import os
import shlex
import signal
import subprocess
import threading
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

# what an agent says first (remoting: Capability.writePreamble, Channel.Mode.BINARY); the serialised object is cut short
PREAMBLE = b"<===[JENKINS REMOTING CAPACITY]===>rO0ABXNyABpodWRzb24ucmVtb3RpbmcuQ2FwYWJpbGl0eQ==\0\0\0\0"
_LONGEST_HEADER = 64 * 1024


class Controller:
    """One launch of one agent."""

    def __init__(self, command: str, *, root: Path, name: str, environ: Mapping[str, str], url: str = "") -> None:
        """Start `command` as the node `name` with the remote root `root`."""
        self.cookie = str(uuid.uuid4())
        own = {"HUDSON_COOKIE": self.cookie, "WORKSPACE": str(root), "NODE_NAME": name}
        if url:
            jar = f"{url}jnlpJars/agent.jar"
            own |= {"JENKINS_URL": url, "HUDSON_URL": url, "AGENTJAR_URL": jar, "SLAVEJAR_URL": jar}
        self.process = subprocess.Popen(
            shlex.split(command), env={**environ, **own}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
        )
        self._lines: list[str] = []
        self._log = threading.Thread(target=self._copy_log, daemon=True)
        self._log.start()

    @property
    def stdin(self) -> IO[bytes]:
        assert self.process.stdin
        return self.process.stdin

    @property
    def stdout(self) -> IO[bytes]:
        assert self.process.stdout
        return self.process.stdout

    def _copy_log(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            self._lines.append(line.decode(errors="replace"))

    def log(self) -> str:
        """Return what the node's log has so far."""
        return "".join(self._lines)

    def handshake(self) -> bytes:
        """Read up to the end of the agent's preamble, and return what came before it; EOFError if none comes."""
        seen = b""
        while not seen.endswith(PREAMBLE):
            byte = self.stdout.read(1)
            if not byte or len(seen) > _LONGEST_HEADER:
                raise EOFError(f"unexpected termination of the channel: {seen!r}\n{self.log()}")
            seen += byte
        return seen.removesuffix(PREAMBLE)

    def exchange(self, write: Callable[[IO[bytes]], object], read: Callable[[IO[bytes]], Any]) -> Any:
        """Write in one thread, as a channel does, then close the agent's stdin, and read meanwhile; return what `read` returns."""

        def send() -> None:
            write(self.stdin)
            self.stdin.close()

        writer = threading.Thread(target=send, daemon=True)
        writer.start()
        result = read(self.stdout)
        writer.join()
        return result

    def kill(self) -> None:
        """End the agent as ProcessTree.killAll does: the process, its children, and who has its cookie. SIGTERM, and that only once."""
        for pid in {*_family(self.process.pid), *self.marked()}:
            try:
                os.kill(pid, signal.SIGTERM)
            except (ProcessLookupError, PermissionError):
                continue

    def marked(self) -> list[int]:
        """Return the processes whose environment has the cookie, as far as the controller can see it."""
        mark = f"HUDSON_COOKIE={self.cookie}".encode()
        found = []
        for name in os.listdir("/proc"):
            try:
                if name.isdigit() and mark in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                    found.append(int(name))
            except OSError:
                continue
        return found

    def wait(self, timeout_s: float = 60) -> int:
        """Wait for the end of what was started, and of its log; return the exit code."""
        code = self.process.wait(timeout_s)
        self._log.join(timeout_s)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream:
                stream.close()
        return code


def _family(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        try:
            if name.isdigit():
                parent = int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(name))
        except OSError:
            continue
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found
