"""What a script gets at of the kernel: system calls, /proc, /sys, control groups, mounts, terminals. One container tries all of it.

Cases 30, 34 to 38 and 41 of the threat model; what it tries is in tests/attacks/inside.py.
"""

import json
import os
import pty
import select
import socket
import subprocess
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.sandbox import spec
from tests.support.defences import attack, without
from tests.support.engine import Engine

INSIDE = Path(__file__).with_name("inside.py")
READ_ONLY = ["/proc/sys", "/proc/irq", "/proc/bus", "/proc/fs", "/sys", "/sys/fs/cgroup", "/usr", spec.INIT_TARGET]
OF_THE_HOST = {
    "SSH_AUTH_SOCK": "/tmp/ssh/agent.1",
    "DBUS_SESSION_BUS_ADDRESS": "unix:abstract=/tmp/dbus-1",
    "DOCKER_HOST": "unix:///d.sock",
}
MASKED = list(spec.build.__globals__["_MASKED"])

_SPEC, _CLOSED, _FURNISH = "runner/sandbox/spec.py", "runner/sandbox/closed_calls.py", "runner/job/furnish.py"
_ALL_OPEN = without(_FURNISH, "closed = () if container.asked.engine else tuple(", "closed = tuple(group for group in ()) and tuple(")
_PID_NAMESPACE = without(_SPEC, 'for kind in ("mount", "pid", "cgroup")', 'for kind in ("mount", "cgroup")')


class Seen(dict[str, Any]):
    """What the program inside said, and what somebody at the terminal then had before them."""

    typed: bytes = b""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    """Run the program once: in the toolbox, with an init, started from a terminal by somebody with an agent, whose socket is abstract."""
    engine = Engine(tmp_path_factory.mktemp("surface"))
    master, slave = pty.openpty()
    arguments = ["run", "--init", "--", "python3", "-c", INSIDE.read_text(), json.dumps(MASKED), json.dumps(READ_ONLY)]
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind("\0dockless-test-agent")
        agent.listen()
        done = subprocess.run(
            engine.argv(*arguments), env=engine.environ(OF_THE_HOST), stdin=slave, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = Seen(json.loads(done.stdout))
    found.typed = os.read(slave, 100) if select.select([slave], [], [], 0)[0] else b""
    termios.tcflush(slave, termios.TCIOFLUSH)
    os.close(master)
    os.close(slave)
    assert engine.leftovers() == []
    yield found


@attack(
    36,
    _ALL_OPEN,
    without(_CLOSED, 'yield {"names": [name], "action": _REFUSE, "errnoRet": _EPERM}', 'yield {"names": [name], "action": _ALLOW}'),
    without(_CLOSED, 'yield {"names": [name], "action": _REFUSE, "errnoRet": _ENOSYS}', 'yield {"names": [name], "action": _ALLOW}'),
    without(_CLOSED, "_without_flags(name, _NAMESPACES, index=1", "_without_flags(name, (), index=1"),
    without(_CLOSED, "_without_flags(name, (*_NAMESPACES, _NEWTIME), index=0)", "_without_flags(name, (), index=0)"),
)
def test_calls_that_holes_of_the_kernel_need_are_closed(seen: Seen) -> None:
    calls = dict(seen["calls"])
    assert {name: calls.pop(name) for name in ("unshare files", "TIOCGWINSZ", "clone3")} == {
        "unshare files": "", "TIOCGWINSZ": "EBADF", "clone3": "ENOSYS",
    }  # fmt: skip
    assert set(calls.values()) == {"EPERM"}, calls
    assert set(seen["clone"].values()) == {"EPERM"}
    assert set(seen["32 bits"].values()) <= {"EPERM", "no such calls"}
    assert seen["thread"] == ""


@attack(35, _ALL_OPEN, without(_CLOSED, '"keyring": ("add_key", "keyctl", "request_key"),', '"keyring": (),'))
def test_keyring_is_neither_read_nor_filled(seen: Seen) -> None:
    assert (seen["keys"], seen["calls"]["keyctl"], seen["calls"]["request_key"]) == (0, "EPERM", "EPERM")


@attack(
    37,
    without(_CLOSED, '"tiocsti": ("ioctl",),', '"tiocsti": (),'),
    without(_CLOSED, "rule(name, _REFUSE, index, mask=_WORD, value=value)", "rule(name, _ALLOW, index, mask=_WORD, value=value)"),
)
def test_nobody_types_into_the_terminal_of_who_called(seen: Seen) -> None:
    assert seen["terminal"] == 0
    assert seen["typed"] == "EPERM"
    assert seen.typed == b""
    assert {seen["calls"][name] for name in ("TIOCSTI", "TIOCSTI high", "TIOCLINUX")} == {"EPERM"}


@attack(
    30,
    _PID_NAMESPACE,
    without(_SPEC, '"maskedPaths": [] if nested else list(_MASKED)', '"maskedPaths": []'),
    without(_SPEC, '"readonlyPaths": [] if nested else list(_READ_ONLY)', '"readonlyPaths": []'),
    without(_SPEC, '_mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", access)', '_mount("/sys", "sysfs", "sysfs", "rw")'),
)
def test_kernels_files_tell_and_change_nothing(seen: Seen) -> None:
    assert {path: what for path, what in seen["masked"].items() if what not in ("null", "empty", "nothing")} == {}
    assert {path for path, read_only in seen["read-only"].items() if not read_only} == set()
    assert {path for path, said in seen["settings"].items() if not said} == set()
    assert seen["sys"] == seen["network devices"] == []
    assert len(seen["processes"]) == 2
    assert min(seen["processes"]) == 1
    assert seen["root of 1"]
    names = {entry.partition("=")[0] for entry in seen["environment of 1"].split("\0") if entry}
    assert names == {"PATH", "HOSTNAME", "HOME"}


@attack(34, without(_FURNISH, '    merged = {"PATH": _PATH}\n', '    merged = {"PATH": _PATH, **os.environ}\n'))
def test_container_has_no_socket_of_the_host_and_knows_of_none(seen: Seen) -> None:
    assert seen["sockets"] == []
    assert OF_THE_HOST.keys() & seen["environment"].keys() == set()
    assert seen["descriptors"] == ["0", "1", "2", "3"]  # the last is that of the directory itself


@attack(
    34,
    without(
        "runner/sandbox/mounts.py", "if stat.S_ISSOCK(mode):", "if False:",
        "runner/sandbox/mounts.py", "if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):", "if False:",
    ),
)  # fmt: skip
def test_socket_is_no_volume_whatever_it_is_called(engine: Engine, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(tmp_path / "agent"))
        (tmp_path / "link").symlink_to("agent")
        for name in ("agent", "link"):
            result = engine.run("run", "-v", f"{tmp_path}/{name}:/s", "--", "true")
            assert (result.code, "a socket of the host is a door to the host" in result.err) == (125, True)


@attack(
    38,
    without(_SPEC, "mounts.append(_bind(Volume(init, INIT_TARGET, read_only=True)))", "mounts.append(_bind(Volume(init, INIT_TARGET)))"),
    without(
        _CLOSED, '"setns", "unshare"),\n}', '"setns", "unshare"),\n}\nGROUPS["mount"] = ()',
        "runner/sandbox/capabilities.py", '"CAP_SETUID", "CAP_SYS_CHROOT",\n)', '"CAP_SETUID", "CAP_SYS_CHROOT", "CAP_SYS_ADMIN",\n)',
    ),
)  # fmt: skip
def test_helpers_are_not_written_and_no_mount_is_changed(seen: Seen) -> None:
    assert {path for path, said in seen["helpers"].items() if not said} == set()
    assert seen["read-only"][spec.INIT_TARGET]
    assert seen["read-only"]["/usr"]
    assert {path for path, said in seen["remount"].items() if not said} == set()
    assert {path for path, said in seen["unmasked"].items() if not said} == set()
    assert seen["mounted over"] != ""


_IN_OWN_NAMESPACE = """
unshare --user --map-root-user --mount --pid --fork sh -c '
  mount -t tmpfs none /mnt && echo has a namespace
  mount -o remount,bind,rw /usr && echo BROKEN: /usr
  mount -o remount,bind,rw /sys && echo BROKEN: /sys
  umount /proc/keys && echo BROKEN: /proc/keys
  umount /proc/sys && echo BROKEN: /proc/sys
  mount -t proc proc /proc && echo BROKEN: /proc
  mount -t cgroup2 none /mnt && echo BROKEN: groups
  true'
"""


@attack(
    38,
    without(
        _SPEC, '"maskedPaths": [] if nested else list(_MASKED)', '"maskedPaths": []',
        _SPEC, '"readonlyPaths": [] if nested else list(_READ_ONLY)', '"readonlyPaths": []',
    ),
)  # fmt: skip
def test_what_is_masked_stays_so_where_the_configuration_opens_namespaces_and_mounts(engine: Engine) -> None:
    engine.config.write_text("security: {open: [userns, mount]}\n")
    result = engine.run("run", "--", "sh", "-c", _IN_OWN_NAMESPACE)
    assert result.code == 0, result.err
    assert "has a namespace" in result.out
    assert "BROKEN" not in result.out


@attack(
    41,
    without(
        _SPEC, '_mount("/sys/fs/cgroup", "cgroup2", "cgroup", "nosuid", "noexec", "nodev", access)',
        '_mount("/sys/fs/cgroup", "cgroup2", "cgroup", "nosuid", "noexec", "nodev", "rw")',
    ),
)  # fmt: skip
def test_control_groups_are_seen_from_their_own_top_and_not_written(seen: Seen) -> None:
    assert seen["read-only"]["/sys/fs/cgroup"]
    assert (seen["cgroups"], seen["cgroup directory"]) == ([], "EROFS")
    assert set(seen["groups"]) == {"/"}
    assert seen["mounted groups"] != ""


@attack(26, without(_SPEC, '"mode=1777", f"size={shm_size}"', '"mode=1777"'))
def test_shared_memory_has_an_end(seen: Seen) -> None:
    assert seen["shm"] == [spec.SHM_SIZE // 1024**2, "ENOSPC"]


def test_no_core_is_dumped_unless_the_configuration_says_so(seen: Seen, engine: Engine) -> None:
    assert seen["core"] == [0, 0]
    engine.config.write_text("security: {core_dumps: true}\n")
    result = engine.run("run", "--", "sh", "-c", "ulimit -H -c")
    own = subprocess.run(["sh", "-c", "ulimit -H -c"], stdout=subprocess.PIPE, text=True, check=True)
    assert result.out == own.stdout
