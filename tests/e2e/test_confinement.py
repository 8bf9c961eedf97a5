"""What a container cannot do: to the host, to the account, to another build user."""

import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.kernel import accounts
from runner.sandbox import build_users
from tests.support.defences import attack, without
from tests.support.engine import Engine, uids_of, wait_until


def inside(engine: Engine, script: str, *options: str) -> str:
    """Run a script in a toolbox container and return what it printed."""
    result = engine.run("run", *options, "--", "sh", "-c", script)
    return result.out + result.err


def test_capabilities_and_seccomp_are_dockers(engine: Engine) -> None:
    status = inside(engine, "cat /proc/self/status")
    fields = dict(line.split(":\t") for line in status.splitlines() if ":\t" in line)
    assert fields["CapEff"] == "00000000a80425fb"
    assert fields["CapInh"] == fields["CapAmb"] == "0000000000000000"
    assert fields["Seccomp"] == "2"


def test_other_user_has_no_capability_in_effect(engine: Engine) -> None:
    status = inside(engine, "grep CapEff /proc/self/status", "-u", "1000")
    assert status.split() == ["CapEff:", "0000000000000000"]


def test_no_descriptor_is_inherited(engine: Engine) -> None:
    # 3 is the directory that ls itself reads
    assert inside(engine, "ls /proc/self/fd").split() == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    "attempt",
    [
        "mount -t tmpfs none /mnt",
        "mount -o remount,rw /usr",
        "umount /proc/kcore",
        "echo 1 > /proc/sys/kernel/printk",
        "echo c > /proc/sysrq-trigger",
        "mknod /dev/evil b 8 0 && cat /dev/evil",
        "touch /usr/bin/evil",
        "ip link add dummy0 type dummy",
        "chroot /proc/1/root/../../.. test -e /var/lib/dpkg/status",
        "dmesg",
        "nsenter -t 1 -n true",
        "test -s /proc/kcore",
        "ls /sys/firmware/* 2>/dev/null | grep -q .",
    ],
)
def test_attempt_on_the_host_fails(engine: Engine, attempt: str) -> None:
    result = engine.run("run", "--", "sh", "-c", f"if {attempt}; then echo BROKEN; fi")
    assert "BROKEN" not in result.out


def test_host_processes_and_files_are_out_of_sight(engine: Engine) -> None:
    shown = inside(engine, "ls -d /proc/[0-9]*; ls /home /root; cat /etc/passwd; ls /var/lib")
    assert "/proc/1\n" in shown
    assert len([line for line in shown.splitlines() if line.startswith("/proc/")]) <= 3
    assert accounts.current().name not in shown
    assert "dpkg" not in shown


@pytest.fixture
def host_server() -> Iterator[int]:
    """Serve something on the host's loopback."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("address", ["127.0.0.1", "10.99.0.1", "10.99.255.2", "localhost"])
def test_hosts_loopback_is_not_reachable(engine: Engine, host_server: int, address: str) -> None:
    probe = f"import socket; socket.create_connection(('{address}', {host_server}), 2); print('BROKEN')"
    assert "BROKEN" not in inside(engine, f'python3 -c "{probe}"')


@pytest.mark.parametrize("address", ["169.254.169.254", "fd00:ec2::254"])
def test_metadata_services_are_refused_at_once(engine: Engine, address: str) -> None:
    probe = f"import socket; socket.create_connection(('{address}', 80), 5); print('BROKEN')"
    shown = inside(engine, f'python3 -c "{probe}"')
    assert "BROKEN" not in shown
    assert "timed out" not in shown


@attack(
    31,
    without(
        "runner/sandbox/build_users.py", "known[name] = free\n", "known[name] = 0\n",
        "runner/sandbox/build_users.py", " and len(set(numbers)) == len(numbers)", "",
    ),
)  # fmt: skip
def test_two_build_users_are_strangers(engine: Engine) -> None:
    first = engine.start("run", "--build-user", "one", "--", "sh", "-c", "echo secret > /tmp/f; echo ready; sleep 60")
    second = engine.start("run", "--build-user", "two", "--", "sh", "-c", "echo ready; sleep 60")
    for process in (first, second):
        assert process.stdout and process.stdout.readline() == "ready\n"
    try:
        slices = build_users.available(accounts.current())
        uids = {uid for uid in uids_of(engine.state) if uid != os.getuid()}
        assert uids == {slices[0][0], slices[1][0]}
        shown = inside(engine, "ls -d /proc/[0-9]* | wc -l; kill -9 -1; ip neigh; echo survived", "--build-user", "three")
        assert "survived" in shown
        assert first.poll() is None
        assert second.poll() is None
        upper = next((engine.state / "jobs").glob("run-*/containers/main/upper"))
        assert upper.stat().st_uid in uids
    finally:
        for process in (first, second):
            process.terminate()
            process.kill()
            process.communicate()
        wait_until(lambda: not uids_of(engine.state), 15)
        engine.run("run", "--", "true")


def test_account_is_a_stranger_in_an_isolated_container(engine: Engine) -> None:
    shown = inside(engine, "cat /proc/self/uid_map")
    start = build_users.available(accounts.current())[0][0]
    assert shown.split() == ["0", "1", "65536"] or shown.split() == ["0", str(start), "65536"]


def test_link_for_a_kernel_directory_in_a_volume_is_not_followed(engine: Engine, tmp_path: Path) -> None:
    work = tmp_path / "w"
    work.mkdir()
    (work / "etc").symlink_to("/etc")
    result = engine.run("run", "-v", f"{work}/etc:/x", "--", "true")
    assert result.code == 125
