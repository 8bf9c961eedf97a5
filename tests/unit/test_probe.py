"""Probes as the unprivileged account on the real kernel: they tell what works from what does not, and leave nothing."""

import errno
import os
import shutil
import socket
import stat
from pathlib import Path

import pytest

from runner.kernel import accounts, probe, process, syscalls, userns
from runner.model import BuildUser, Extent, IdMap
from runner.sandbox import build_users

NOT_OURS = IdMap((Extent(0, 1, 10),), (Extent(0, 1, 10),))


@pytest.fixture
def id_map() -> IdMap:
    account = accounts.current()
    return BuildUser("test", 0, *build_users.available(account)[0]).keeper_map(account)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize(
    ("release", "version"),
    [
        ("6.1.0-13-amd64", (6, 1)), ("5.19-rc1", (5, 19)), ("5.13.0", (5, 13)), ("10.12", (10, 12)), ("6.1+", (6, 1)),
        ("6", (0, 0)), ("", (0, 0)), ("x.y", (0, 0)), ("6.x", (0, 0)), ("٦.١", (0, 0)), ("-5.13", (0, 0)),
    ],
)  # fmt: skip
def test_kernel_version_is_the_first_two_numbers(release: str, version: tuple[int, int]) -> None:
    assert probe.kernel_version(release) == version


def test_kernel_version_of_this_machine_is_understood() -> None:
    assert probe.kernel_version(os.uname().release) > (5, 0)


def test_sysctl_is_the_kernels_value_and_empty_where_it_has_none(tmp_path: Path) -> None:
    assert probe.sysctl("kernel.ostype") == "Linux"
    assert probe.sysctl("kernel.of_another_distribution") == ""
    (tmp_path / "user").mkdir()
    (tmp_path / "user/max_user_namespaces").write_text("0\n")
    assert probe.sysctl("user.max_user_namespaces", root=str(tmp_path)) == "0"


def test_status_is_read_by_field() -> None:
    assert probe.status("Uid").split() == [str(os.getuid())] * 4
    assert probe.status("Ui") == ""


def test_status_tells_a_process_that_may_gain_nothing() -> None:
    def restricted() -> list[str]:
        before = probe.status("NoNewPrivs")
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
        return [before, probe.status("NoNewPrivs")]

    assert process.fork_call(restricted) == ["0", "1"]


def test_find_takes_the_first_executable_file_of_the_path(tmp_path: Path) -> None:
    for directory in ("directory", "unreadable", "first", "second"):
        (tmp_path / directory).mkdir()
    (tmp_path / "directory/tool").mkdir()
    for directory, mode in (("unreadable", 0o644), ("first", 0o755), ("second", 0o755)):
        (tmp_path / directory / "tool").touch()
        (tmp_path / directory / "tool").chmod(mode)
    path = ":".join(["", *(f"{tmp_path}/{name}" for name in ("gone", "directory", "unreadable", "first", "second"))])
    assert probe.find("tool", path=path) == f"{tmp_path}/first/tool"
    assert probe.find("other", path=path) == ""
    assert probe.find("tool", path="") == ""
    assert probe.find(f"{tmp_path}/second/tool", path="") == f"{tmp_path}/second/tool"
    assert probe.find(f"{tmp_path}/unreadable/tool") == ""


@pytest.mark.parametrize(
    ("script", "version"),
    [
        ("echo crun version 1.8.1; echo spec: 1.0.0", "1.8.1"),
        ("echo 'nftables v1.0.6 (Lester Gooch #5)'", "1.0.6"),
        ("echo 'ip utility, iproute2-6.1.0, libbpf 1.1.2'", "6.1.0"),
        ("echo tini version 0.19.0 >&2", "0.19.0"),
        ("echo commit 4 of 7", ""),
        ("true", ""),
        ("head -c 100000 /dev/zero", ""),
    ],
)
def test_version_is_the_first_number_that_a_program_prints(tmp_path: Path, script: str, version: str) -> None:
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    assert probe.first_number(str(program), "--version") == version


def test_version_of_a_program_that_fails_is_an_error_with_its_words(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho 1.2.3; echo no such library >&2; exit 127\n")
    program.chmod(0o755)
    with pytest.raises(process.Failed, match=r"^\[Errno 5\] program exited with 127: no such library$"):
        probe.first_number(str(program))


def test_privileges_are_those_of_a_setuid_program_of_root_only(tmp_path: Path) -> None:
    assert probe.is_privileged("/usr/bin/newuidmap")
    assert not probe.is_privileged("/usr/bin/env")
    own = tmp_path / "own"
    shutil.copy("/usr/bin/env", own)
    own.chmod(0o4755)
    assert not probe.is_privileged(str(own))


def test_file_capabilities_are_privileges(tmp_path: Path, id_map: IdMap) -> None:
    program = tmp_path / "program"
    program.touch()
    capability = bytes.fromhex("010000028000000000000000000000000000000000000000")[:20]  # VFS_CAP_REVISION_2, cap_setuid
    assert not probe.is_privileged(str(program))
    userns.call(id_map, lambda: os.setxattr(program, "security.capability", capability))
    assert probe.is_privileged(str(program))


def test_programs_of_a_file_system_without_setuid_have_no_privileges(id_map: IdMap) -> None:
    def remounted() -> list[bool]:
        before = probe.is_privileged("/usr/bin/newuidmap")
        syscalls.mount("/usr/bin", "/usr/bin", "", syscalls.MS_BIND)
        syscalls.mount("none", "/usr/bin", "", syscalls.MS_BIND | syscalls.MS_REMOUNT | syscalls.MS_NOSUID)
        return [before, os.stat("/usr/bin/newuidmap").st_mode & stat.S_ISUID > 0, probe.is_privileged("/usr/bin/newuidmap")]

    # the owner is nobody whom the namespace knows, so the first answer is no already; the flag is seen all the same
    assert userns.call(id_map, remounted, flags=syscalls.CLONE_NEWNS) == [False, True, False]


def test_user_namespaces_can_be_made_here_and_this_process_stays_outside() -> None:
    before = [os.readlink(f"/proc/self/ns/{name}") for name in ("user", "mnt", "net", "pid")]
    probe.make_user_namespace()
    assert [os.readlink(f"/proc/self/ns/{name}") for name in ("user", "mnt", "net", "pid")] == before


def test_a_limit_of_user_namespaces_is_told_by_its_errno(id_map: IdMap) -> None:
    def limited() -> int:
        Path("/proc/sys/user/max_user_namespaces").write_text("0\n")
        try:
            probe.make_user_namespace()
        except OSError as e:
            return e.errno or 0
        return 0

    assert userns.call(id_map, limited) == errno.ENOSPC


def test_another_kind_of_namespace_that_is_refused_is_found_out_too(id_map: IdMap) -> None:
    def limited() -> int:
        Path("/proc/sys/user/max_net_namespaces").write_text("0\n")
        try:
            probe.make_user_namespace()
        except OSError as e:
            return e.errno or 0
        return 0

    assert userns.call(id_map, limited) == errno.ENOSPC


def test_ids_are_mapped_up_to_the_last(id_map: IdMap) -> None:
    probe.map_ids(id_map)
    with pytest.raises(OSError, match="newuidmap"):
        probe.map_ids(NOT_OURS)


def test_overlay_is_mounted_and_taken_down(tmp_path: Path, id_map: IdMap) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    with probe.scratch(str(tmp_path)) as directory:
        probe.mount_overlay(id_map, directory)
    assert names(tmp_path) == []
    assert Path("/proc/self/mountinfo").read_text() == before


def test_whiteout_can_be_made_and_is_removed(tmp_path: Path, id_map: IdMap) -> None:
    with probe.scratch(str(tmp_path)) as directory:
        probe.make_whiteout(id_map, directory)
        info = os.lstat(f"{directory}/whiteout")
        assert stat.S_ISCHR(info.st_mode) and info.st_rdev == 0
    assert names(tmp_path) == []


def test_proc_can_be_mounted_for_new_processes(tmp_path: Path, id_map: IdMap) -> None:
    probe.mount_proc(id_map, str(tmp_path))
    assert names(tmp_path / "proc") == []


def test_network_is_tried_in_a_namespace_of_its_own(id_map: IdMap) -> None:
    before = [name for _, name in socket.if_nameindex()]
    probe.run_in_network(id_map, "/usr/sbin/ip", "-batch", "-", script="link add probe0 type bridge\n")
    assert [name for _, name in socket.if_nameindex()] == before


@pytest.mark.parametrize(
    ("argv", "script", "words"),
    [
        (["/usr/sbin/ip", "-batch", "-"], "link add probe0 type no-such-kind\n", "Error: Unknown device type"),
        (["/usr/sbin/nft", "-f", "-"], "table inet x {\n  chain y { type no-such-kind hook input priority 0; }\n}\n", "Error"),
    ],
)
def test_what_a_program_refuses_is_told_by_the_line_that_names_the_error(id_map: IdMap, argv: list[str], script: str, words: str) -> None:
    with pytest.raises(OSError) as caught:
        probe.run_in_network(id_map, *argv, script=script)
    assert words in str(caught.value)


def test_tun_is_opened_and_closed(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    probe.open_tun()
    assert os.listdir("/proc/self/fd") == before
    with pytest.raises(FileNotFoundError):
        probe.open_tun(f"{tmp_path}/tun")


def test_user_attributes_are_tried_on_the_file_system_itself(tmp_path: Path) -> None:
    probe.set_user_attribute(str(tmp_path))
    with pytest.raises(OSError):
        probe.set_user_attribute("/proc/self/fd")


def test_free_bytes_are_those_of_an_ordinary_account(tmp_path: Path) -> None:
    assert abs(probe.free_bytes(str(tmp_path)) - shutil.disk_usage(tmp_path).free) < 1024**3  # others write meanwhile
    assert probe.free_bytes("/proc") == 0


def test_filesystem_is_that_of_the_innermost_and_latest_mount(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "1 0 8:1 / / rw - ext4 /dev/a rw\n"
        "2 1 8:2 / /srv rw shared:1 - xfs /dev/b rw\n"
        "3 2 0:5 / /srv/with\\040space rw - nfs4 server:/ rw\n"
        "4 1 8:3 / /srv-b rw - btrfs /dev/c rw\n"
        "5 1 8:4 / /srv rw - overlay overlay rw\n"
    )
    for directory, kind in (
        ("/", "ext4"),
        ("/srv", "overlay"),
        ("/srv/x", "overlay"),
        ("/srv-b/x", "btrfs"),
        ("/srv/with space/x", "nfs4"),
    ):
        assert probe.filesystem(directory, mounts=str(mounts)) == kind
    assert probe.filesystem("/proc/self") == "proc"


def test_existing_is_the_nearest_directory_above(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in ("", "/", "/a", "/a/b/c", "/file", "/file/a", "//a//"):
        assert probe.existing(f"{tmp_path}{path}").rstrip("/") == str(tmp_path)
    assert probe.existing("/nowhere-at-all") == "/"


def test_scratch_is_private_and_goes_whatever_was_left_in_it(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), probe.scratch(str(tmp_path)) as directory:
        assert stat.S_IMODE(os.stat(directory).st_mode) == 0o700
        (Path(directory) / "closed").mkdir()
        (Path(directory) / "closed/file").touch()
        (Path(directory) / "closed").chmod(0)
        raise RuntimeError
    assert names(tmp_path) == []
