"""The toolbox's own files: a root that holds together, and nothing of the host that is not public."""

import os
import stat
from pathlib import Path

import pytest

from runner.sandbox import rootfs, toolbox, users


@pytest.fixture
def root(tmp_path: Path) -> Path:
    toolbox.furnish(str(tmp_path / "root"), owner=(os.getuid(), os.getgid()))
    return tmp_path / "root"


def test_it_is_a_root_that_a_container_may_start_from(root: Path) -> None:
    fd = os.open(root, os.O_PATH)
    rootfs.check(fd)
    os.close(fd)


def test_everything_belongs_to_the_owner_that_was_named(root: Path) -> None:
    found = [root, *root.rglob("*")]
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in found} == {(os.getuid(), os.getgid())}
    with pytest.raises(PermissionError):
        toolbox.furnish(str(root.parent / "other"), owner=(0, 0))


@pytest.mark.parametrize(
    ("name", "mode"),
    [("", 0o755), ("tmp", 0o1777), ("var/tmp", 0o1777), ("run/lock", 0o1777), ("root", 0o700), ("etc", 0o755), ("etc/passwd", 0o644)],
)
def test_modes_are_those_of_any_system(root: Path, name: str, mode: int) -> None:
    assert stat.S_IMODE((root / name).stat().st_mode) == mode


def test_others_may_write_to_their_places_only(root: Path) -> None:
    open_to_all = {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_symlink() and path.stat().st_mode & stat.S_IWOTH}
    assert open_to_all == {"tmp", "var/tmp", "run/lock", "home/user"}


def test_there_is_no_device_and_no_setuid_program(root: Path) -> None:
    modes = [path.lstat().st_mode for path in root.rglob("*")]
    assert all(stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode) for mode in modes)
    assert not any(mode & (stat.S_ISUID | stat.S_ISGID) for mode in modes)


def test_links_lead_to_what_the_toolbox_has(root: Path) -> None:
    (root / "usr").rmdir()
    (root / "usr").symlink_to("/usr")  # what the bind mount will show
    links = {path: os.readlink(path) for path in root.rglob("*") if path.is_symlink() and path.name not in ("usr", "mtab")}
    assert {"bin", "sbin", "lib", "run", "os-release"} <= {path.name for path in links}
    for path, target in links.items():
        inside = root / target.lstrip("/") if target.startswith("/") else path.parent / target
        assert inside.exists(), f"{path} -> {target}"


def test_what_is_shown_of_the_host_is_public_read_only_and_has_a_place(root: Path) -> None:
    shown = toolbox.volumes()
    assert {volume.target for volume in shown} <= {
        "/usr",
        "/etc/ssl/certs",
        "/etc/ssl/openssl.cnf",
        "/etc/alternatives",
        "/etc/ld.so.cache",
    }
    assert "/usr" in {volume.target for volume in shown}
    for volume in shown:
        assert volume.source == volume.target
        assert volume.read_only
        assert os.path.isdir(volume.source) == (root / volume.target.lstrip("/")).is_dir()


def test_nothing_says_whose_machine_it_is(root: Path) -> None:
    texts = {name: (root / "etc" / name).read_text() for name in ("passwd", "group", "hostname", "hosts", "resolv.conf", "nsswitch.conf")}
    assert (texts["hosts"], texts["resolv.conf"], texts["hostname"]) == ("", "", "job\n")
    names = [line.split(":")[0] for line in texts["passwd"].splitlines()]
    assert names == ["root", "daemon", "www-data", "user", "nobody"]
    assert not (root / "etc/shadow").exists()
    assert not (root / "etc/ssl/private").exists()
    assert not (root / "etc/machine-id").exists()


@pytest.mark.parametrize(("name", "uid", "home"), [("root", 0, "/root"), ("user", 1000, "/home/user"), ("nobody", 65534, "/nonexistent")])
def test_its_users_can_be_named(root: Path, name: str, uid: int, home: str) -> None:
    fd = os.open(root, os.O_PATH)
    user = users.resolve(name, root=fd)
    os.close(fd)
    assert (user.uid, user.gid, user.home) == (uid, uid, home)


@pytest.mark.parametrize("name", ["root", "user"])
def test_who_works_there_has_a_home_to_write_to(root: Path, name: str) -> None:
    fd = os.open(root, os.O_PATH)
    user = users.resolve(name, root=fd)
    os.close(fd)
    mode = (root / user.home.lstrip("/")).stat().st_mode
    assert mode & (stat.S_IWOTH if user.uid else stat.S_IWUSR)


def test_every_user_has_a_group_of_its_own_number(root: Path) -> None:
    groups = {line.split(":")[2] for line in (root / "etc/group").read_text().splitlines()}
    assert {line.split(":")[3] for line in (root / "etc/passwd").read_text().splitlines()} <= groups


def test_an_existing_directory_is_never_filled(root: Path) -> None:
    with pytest.raises(FileExistsError):
        toolbox.furnish(str(root), owner=(os.getuid(), os.getgid()))


def test_its_image_names_a_shell_that_the_host_has() -> None:
    assert os.access(toolbox.CONFIG.cmd[0], os.X_OK)
    assert dict(toolbox.CONFIG.env)["PATH"].split(":")[-1] == "/bin"
