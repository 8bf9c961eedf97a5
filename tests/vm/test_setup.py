"""`dockless setup` on a Debian that has never seen it. The tests build on one another, in this order."""

import os
import pwd
from pathlib import Path

import pytest

from runner.kernel import userns
from runner.model import IDS_PER_BUILD_USER
from runner.sandbox import build_users
from tests.vm import machine
from tests.vm.machine import ACCOUNT

_SLICES = 16  # fewer than the default, because each has three views


def test_dry_run_tells_every_change_and_makes_none() -> None:
    before = machine.snapshot()
    machine.keep("before", before)
    told = machine.dockless("setup", "--dry-run").out
    assert machine.difference(before, machine.snapshot()) == {}
    for words in ("useradd", "--add-subuids", "store", "views", "dockless-views.service", "gitlab-runner.service.d/dockless.conf"):
        assert words in told
    with pytest.raises(KeyError):
        pwd.getpwnam(ACCOUNT)


def test_setup_makes_the_account_with_ids_that_nobody_else_has() -> None:
    told = machine.dockless("setup", "--slices", str(_SLICES)).out
    assert "useradd" in told
    account = pwd.getpwnam(ACCOUNT)
    assert account.pw_uid not in (0, 65534)
    for path in (build_users.SUBUID, build_users.SUBGID):
        (granted,) = userns.subordinate_ranges(ACCOUNT, account.pw_uid, path)
        assert granted.count == _SLICES * IDS_PER_BUILD_USER
        assert granted.start > 65536
    machine.keep("after-setup", machine.snapshot())


def test_setup_changes_nothing_but_what_it_says() -> None:
    changed = machine.difference(machine.kept("before"), machine.kept("after-setup"))
    users = ("group", "gshadow", "passwd", "shadow", "subuid", "subgid")
    units = ("dockless-views.service", "multi-user.target.wants", "gitlab-runner.service.d")
    allowed = (
        *(f"/etc/{name}" for name in users),
        *(f"/etc/systemd/system/{name}" for name in units),
        "/etc/dockless",
        "/run/dockless",
        "mount /run/dockless/",
    )
    assert [name for name in changed if not name.startswith(allowed)] == []


def test_state_directory_is_the_accounts_alone() -> None:
    info = os.stat(machine.store().root)
    assert (info.st_uid, oct(info.st_mode & 0o7777)) == (pwd.getpwnam(ACCOUNT).pw_uid, "0o700")


def test_views_are_mounted_and_their_unit_is_enabled() -> None:
    assert machine.run("systemctl", "is-enabled", "dockless-views.service").out == "enabled\n"
    assert machine.run("systemctl", "is-active", "dockless-views.service").out == "active\n"
    views = machine.views()
    # each of the build users beside that of the layers: alone, and with a workspace whose owner is root or the account's own number
    assert len(views) == (_SLICES - 1) * 3
    options = {frozenset(what.split()[0].split(",")) for what in views.values()}
    assert [each for each in options if not each >= {"ro", "nosuid", "nodev", "idmapped"}] == []


def test_second_run_changes_nothing() -> None:
    assert machine.dockless("setup").out == "nothing to do\n"
    assert machine.difference(machine.kept("after-setup"), machine.snapshot()) == {}


def test_setup_leaves_no_process() -> None:
    uid = pwd.getpwnam(ACCOUNT).pw_uid
    assert [path.name for path in Path("/proc").glob("[0-9]*") if path.stat().st_uid == uid] == []


def test_image_is_unpacked_for_all_build_users_at_once() -> None:
    assert machine.run_in_image("first", "cat /etc/hello") == "hello\n"
    machine.keep("layers", {name: str(inode) for name, inode in machine.layers().items()})
    assert len(machine.layers()) == 2
