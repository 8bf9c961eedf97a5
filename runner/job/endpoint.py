"""An endpoint: network, ipc and uts namespaces that containers share while they run in turn, pinned under names (ip-netns(8))."""

from __future__ import annotations

import os

from runner import paths
from runner.kernel import process, syscalls, userns
from runner.record import NamedTuple
from runner.sandbox import network

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runner.model import IdMap

JOB = "job"  # the one of the job's own containers


class Endpoint(NamedTuple):
    """What an endpoint will be."""

    name: str
    number: int
    hostname: str
    ip: str  # "" without a network
    names: tuple[str, ...]  # in every /etc/hosts


class Inhabitant:
    """A child that makes an endpoint and configures its end of the wire, while other things go on here.

    `pin`, `configure` and `finish` follow in this order.

    With `id_map` it also makes a user namespace: for the job's own endpoint that of all others.
    """

    def __init__(self, endpoint: Endpoint, addresses: network.Addresses | None, id_map: IdMap | None = None) -> None:
        """Fork it; it begins with the namespaces. `id_map` maps to the ids of here."""
        self._name, self._makes_user = endpoint.name, id_map is not None
        self._ready, ready_w = os.pipe()
        go_r, self._go = os.pipe()
        self._answer, answer_w = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            process.close_others(keep=(0, 1, 2, ready_w, go_r, answer_w))
            process.answer_and_exit(answer_w, lambda: _inhabit(endpoint, addresses, ready_w, go_r, new_user=id_map is not None))
        for fd in (ready_w, go_r, answer_w):
            os.close(fd)
        if id_map:
            self._wait()
            userns.map_directly(self.pid, id_map)
            os.write(self._go, b"m")

    def _wait(self) -> None:
        if not os.read(self._ready, 1):
            self.finish()  # it says what failed

    def pin(self) -> None:
        """Wait for the namespaces, and keep them. Raises what kept the child from making them."""
        self._wait()
        if self._makes_user:
            _pin(f"/proc/{self.pid}/ns/user", paths.namespace("user", self._name))
        for kind in ("net", "ipc", "uts"):
            _pin(f"/proc/{self.pid}/ns/{kind}", paths.namespace(kind, self._name))

    def configure(self) -> None:
        """Let it configure its end of the wire: ours is there."""
        os.write(self._go, b"c")

    def finish(self) -> None:
        """Wait until the endpoint is configured; raise what failed. Call once."""
        process.receive(self.pid, self._answer)


def _inhabit(endpoint: Endpoint, addresses: network.Addresses | None, ready: int, go: int, *, new_user: bool) -> None:
    if new_user:
        syscalls.unshare(syscalls.CLONE_NEWUSER)
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)  # else its /proc/<pid>/ns is closed to the parent
        os.write(ready, b"u")
        os.read(go, 1)
    else:
        fd = os.open(paths.USER_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
        syscalls.setns(fd, syscalls.CLONE_NEWUSER)
        os.close(fd)
    userns.become_root()
    syscalls.unshare(syscalls.CLONE_NEWNET | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS)
    syscalls.sethostname(endpoint.hostname)
    os.write(ready, b"x")
    if not os.read(go, 1):
        return  # the other side failed and says so itself
    for name, value in network.ENDPOINT_SYSCTLS:
        with open(f"/proc/sys/{name}", "w", encoding="utf-8") as file:
            file.write(value)
    network.configure_endpoint(addresses, endpoint.number)


def _pin(namespace: str, path: str) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o444))
    syscalls.mount(namespace, path, "", syscalls.MS_BIND)
