"""Waiting for services: does any of their ports accept a connection, asked from the job's own router?"""

import socket
import time
from typing import NamedTuple

from runner.job import keeper
from runner.job.state import JobState


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
    found = keeper.call(current.keeper, lambda: _probe_all(targets, timeout_s))
    return [Report(name, problem, tuple(tried)) for name, problem, tried in found]


def _probe_all(targets: list[tuple[str, str, tuple[int, ...]]], timeout_s: float) -> list[tuple[str, str, list[str]]]:
    deadline = time.monotonic() + timeout_s
    lines: dict[str, list[str]] = {name: [] for name, _, _ in targets}
    problems = {name: "" if ports else "has no exposed ports" for name, _, ports in targets}
    waiting = [target for target in targets if target[2]]
    while waiting:
        still = []
        for name, ip, ports in waiting:
            refusal = _connect_any(ip, ports)
            if refusal:
                lines[name] = (lines[name] + refusal)[-20:]
                still.append((name, ip, ports))
        waiting = still
        if not waiting or time.monotonic() >= deadline:
            break
        # GitLab's own check asks once a second; a quarter costs nothing here and is quicker
        time.sleep(min(0.25, max(0.0, deadline - time.monotonic())))
    for name, _, _ in waiting:
        problems[name] = f"did not accept a connection within {timeout_s:.0f} s"
    return [(name, problems[name], lines[name]) for name, _, _ in targets]


def _connect_any(ip: str, ports: tuple[int, ...]) -> list[str]:
    """Return no line if a port accepts, else why each did not."""
    refusals = []
    for port in ports:
        try:
            socket.create_connection((ip, port), timeout=1.0).close()
        except OSError as e:
            refusals.append(f"dial tcp {ip}:{port}: {e.strerror or e}")
        else:
            return []
    return refusals
