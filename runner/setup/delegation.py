"""Handing the control group of a CI agent's unit to the account (cgroup-v2.rst, "Delegation"): run by the unit itself after its start."""

import os
import time

from runner.errors import InfraError
from runner.model import Account

_LEAF = "agent"
_FILES = ("cgroup.procs", "cgroup.subtree_control", "cgroup.threads")
_PATIENCE_S = 5.0


def hand_over(account: Account, *, own: str = "/proc/self/cgroup", top: str = "/sys/fs/cgroup") -> str:
    """Move the processes of this process's unit into a leaf and give the unit's group to the account; returns the group.

    systemd runs ExecStartPost= of a delegated unit in its group .control. InfraError where there is no cgroup v2 alone.
    """
    with open(own, encoding="utf-8") as file:
        path = next((line[3:].strip() for line in file if line.startswith("0::")), "")
    group = f"{top}{path.removesuffix('/.control').removesuffix(f'/{_LEAF}')}"
    if not path.strip("/") or not os.path.exists(f"{group}/cgroup.subtree_control"):
        raise InfraError("this process is in no delegated cgroup v2 group", "limits are not enforced; `dockless doctor` says why")
    try:
        os.makedirs(f"{group}/{_LEAF}", exist_ok=True)
        _empty(group)
        for name in ("", *_FILES):
            os.chown(f"{group}/{name}", account.uid, account.gid)
    except OSError as e:
        raise InfraError(f"cannot delegate {group}: {e.strerror}") from e
    return group


def _empty(group: str) -> None:
    """Move every process of a group into its leaf; those that fork meanwhile take another round."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        with open(f"{group}/cgroup.procs", encoding="utf-8") as file:
            pids = file.read().split()
        if not pids:
            return
        if time.monotonic() > deadline:
            raise InfraError(f"processes stay in {group}: {' '.join(pids[:10])}")
        for pid in pids:
            try:
                with open(f"{group}/{_LEAF}/cgroup.procs", "w", encoding="utf-8") as file:
                    file.write(pid)
            except ProcessLookupError:
                continue
