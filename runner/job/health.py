"""Waiting for services: does any of their ports accept a connection, asked from the job's own router?"""

import errno
import os
import select
import socket
import time
from contextlib import ExitStack
from typing import NamedTuple

from runner.job import keeper
from runner.job.state import JobState

_KNOCK_S = 1.0
_LINES = 20
Target = tuple[str, str, tuple[int, ...]]  # name, ip, ports


class Report(NamedTuple):
    """What waiting for one service came to. `problem` is "" when a port accepted a connection."""

    name: str
    problem: str
    tried: tuple[str, ...]  # the health check's own log lines


def wait_healthy(current: JobState, ports: dict[str, tuple[int, ...]], *, timeout_s: float) -> list[Report]:
    """Wait until each named service accepts a TCP connection on any of its ports, all side by side, at most `timeout_s`.

    Never raises for a service that does not: its report says so.
    """
    targets = [(name, current.container(name).ip, numbers) for name, numbers in ports.items()]
    found = keeper.call(current.keeper, lambda: probe(targets, timeout_s=timeout_s))
    return [Report(name, problem, tuple(tried)) for name, problem, tried in found]


def probe(targets: list[Target], *, timeout_s: float) -> list[tuple[str, str, list[str]]]:
    """Ask (name, ip, ports) from where we are until each accepts on one port; return name, problem and, with one, the last refusals."""
    deadline = time.monotonic() + timeout_s
    lines: dict[str, list[str]] = {name: [] for name, _, _ in targets}
    problems = {name: "" if ports else "has no exposed ports" for name, _, ports in targets}
    waiting = [target for target in targets if target[2]]
    while waiting:
        refusals = _knock([(ip, port) for _, ip, ports in waiting for port in ports], until=min(deadline, time.monotonic() + _KNOCK_S))
        for name, ip, ports in waiting:
            lines[name] = (lines[name] + [refusals[ip, port] for port in ports])[-_LINES:]
        waiting = [(name, ip, ports) for name, ip, ports in waiting if all(refusals[ip, port] for port in ports)]
        if not waiting or time.monotonic() >= deadline:
            break
        # GitLab's own check asks once a second; a quarter costs nothing here and is quicker
        time.sleep(min(0.25, max(0.0, deadline - time.monotonic())))
    for name, _, _ in waiting:
        problems[name] = f"did not accept a connection within {timeout_s:.0f} s"
    return [(name, problems[name], lines[name] if problems[name] else []) for name, _, _ in targets]


def _knock(addresses: list[tuple[str, int]], *, until: float) -> dict[tuple[str, int], str]:
    """Try to connect to all addresses at once; return for each why it did not accept, "" if it did."""
    found = {address: f"dial tcp {address[0]}:{address[1]}: i/o timeout" for address in addresses}
    poll = select.poll()
    with ExitStack() as stack:
        pending = {}
        for address in found:
            sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
            code = sock.connect_ex(address)
            if code == errno.EINPROGRESS:
                poll.register(sock, select.POLLOUT)
                pending[sock.fileno()] = (address, sock)
            else:
                found[address] = _refusal(address, code)
        while pending:
            # at least one look, also when there is no time
            events = poll.poll(max(0.0, until - time.monotonic()) * 1000)
            for fd, _ in events:
                address, sock = pending.pop(fd)
                poll.unregister(fd)
                found[address] = _refusal(address, sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
            if not events and time.monotonic() >= until:
                break
    return found


def _refusal(address: tuple[str, int], code: int) -> str:
    return f"dial tcp {address[0]}:{address[1]}: {os.strerror(code)}" if code else ""
