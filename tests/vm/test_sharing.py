"""One copy of an image's layers for all build users: that it is one, that it looks like one's own, and that nobody can write to it."""

import errno
import os
from pathlib import Path

import pytest

from runner.kernel import process
from runner.sandbox import build_users
from tests.vm import machine
from tests.vm.machine import ACCOUNT

_WRITES = {
    "open a file": lambda: os.close(os.open("etc/hello", os.O_WRONLY)),
    "make a file": lambda: os.close(os.open("etc/new", os.O_WRONLY | os.O_CREAT)),
    "remove a file": lambda: os.unlink("etc/hello"),
    "rename a file": lambda: os.rename("etc/hello", "etc/goodbye"),
    "change a mode": lambda: os.chmod("etc/hello", 0o777),
}


@pytest.fixture(scope="module", autouse=True)
def _first() -> None:
    """Have a first build user who has used the image."""
    machine.run_in_image("first", "true")


def test_second_build_user_adds_no_copy() -> None:
    before, layers = machine.disk_use(), machine.layers()
    assert machine.run_in_image("second", "cat /etc/hello") == "hello\n"
    assert machine.layers() == layers
    assert machine.disk_use() - before < 1024**2
    assert before > machine.BALLAST_BYTES


def test_both_see_the_very_same_files_as_their_own() -> None:
    shown = {machine.run_in_image(user, "stat -c '%i %u:%g' /ballast; stat -c '%u:%g' /home/builder") for user in ("first", "second")}
    (ballast,) = (file for file in Path(machine.shared_layers()).glob("*/ballast"))
    assert shown == {f"{ballast.stat().st_ino} 0:0\n1000:1000\n"}


def test_workspace_of_the_account_changes_nothing_of_that() -> None:
    work = Path("/srv/work")
    work.mkdir(exist_ok=True)
    os.chown(work, machine.account().uid, machine.account().gid)
    layers = machine.layers()
    script = "stat -c %u:%g /ballast /home/builder /w; echo x > /w/file"
    shown = machine.dockless("run", "--image", machine.make_image(), "-v", f"{work}:/w", "--", "sh", "-ec", script, account=ACCOUNT).out
    assert shown == "0:0\n1000:1000\n0:0\n"
    assert (work / "file").stat().st_uid == machine.account().uid
    assert machine.layers() == layers


def test_every_view_shows_the_same_inodes() -> None:
    (ballast,) = (file for file in Path(machine.shared_layers()).glob("*/ballast"))
    found = [os.stat(f"{view}/{ballast.parent.name}/ballast") for view in machine.views()]
    assert len(found) > 3
    assert {(info.st_dev, info.st_ino) for info in found} == {(ballast.stat().st_dev, ballast.stat().st_ino)}


def test_what_a_container_writes_is_its_own() -> None:
    before = machine.contents(machine.shared_layers())
    script = "echo changed > /etc/hello; rm -r /home; chmod 777 /ballast; chown 5:5 /bin; cat /etc/hello"
    assert machine.run_in_image("first", script) == "changed\n"
    assert machine.run_in_image("first", "cat /etc/hello; ls -d /home") == "hello\n/home\n"
    assert machine.contents(machine.shared_layers()) == before


@pytest.mark.parametrize("what", _WRITES)
@pytest.mark.parametrize("through", ["view", "store"])
def test_escaped_process_cannot(what: str, through: str) -> None:
    """Given the ids of a container's root on the host and a way past every directory above, a layer is still not to be written."""
    layer = next(file.parents[1] for file in Path(machine.shared_layers()).glob("*/etc/hello"))
    account = machine.account()
    user = next(user for user in build_users.every(machine.store(), account) if user.name == "first")
    place = machine.view_of(user.isolated_map()) + f"/{layer.name}" if through == "view" else str(layer)
    before = machine.contents(str(layer))

    def attack() -> int:
        os.chdir(place)  # as root, who may
        os.setgroups([])
        os.setresgid(user.gid_start, user.gid_start, user.gid_start)
        os.setresuid(user.uid_start, user.uid_start, user.uid_start)
        try:
            _WRITES[what]()
        except OSError as e:
            return e.errno or 0
        return 0

    refusals = {"view": [errno.EROFS], "store": [errno.EACCES, errno.EPERM]}
    assert process.fork_call(attack) in refusals[through]
    assert machine.contents(str(layer)) == before


def test_stranger_does_not_get_to_the_views() -> None:
    view = next(iter(machine.views()))

    def look() -> int:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        try:
            os.listdir(view)
        except OSError as e:
            return e.errno or 0
        return 0

    assert process.fork_call(look) == errno.EACCES
