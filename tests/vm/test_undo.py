"""`dockless setup --undo`. The tests build on one another, in this order."""

import os
import pwd

import pytest

from tests.vm import machine
from tests.vm.machine import ACCOUNT


def test_dry_run_changes_nothing() -> None:
    before = machine.snapshot()
    told = machine.dockless("setup", "--undo", "--dry-run").out
    assert "would remove /etc/systemd/system/gitlab-runner.service.d/dockless.conf\n" in told
    assert machine.difference(before, machine.snapshot()) == {}


def test_undo_takes_views_and_units_back_and_leaves_what_is_the_accounts() -> None:
    machine.dockless("setup", "--undo")
    assert machine.views() == {}
    changed = machine.difference(machine.kept("before"), machine.snapshot())
    assert [name for name in changed if "systemd" in name or "/run/" in name] == []
    assert os.path.exists(machine.store().root)
    assert pwd.getpwnam(ACCOUNT)


def test_images_are_unpacked_for_a_build_user_again() -> None:
    assert machine.layers() == {}
    assert machine.run_in_image("first", "cat /etc/hello") == "hello\n"
    assert len(machine.layers()) == 2


def test_setup_adopts_what_stayed() -> None:
    machine.dockless("setup")
    changed = machine.difference(machine.kept("after-setup"), machine.snapshot())
    # the layers' directory is a new one, by which the views are called
    assert [name for name in changed if "/run/dockless/" not in name] == []
    assert len(machine.views()) == sum(name.startswith("mount /run/dockless/") for name in machine.kept("after-setup"))


def test_purge_leaves_the_machine_as_it_was() -> None:
    machine.dockless("setup", "--undo", "--purge")
    assert machine.difference(machine.kept("before"), machine.snapshot()) == {}
    assert not os.path.exists(f"/var/lib/{ACCOUNT}")
    with pytest.raises(KeyError):
        pwd.getpwnam(ACCOUNT)


def test_nothing_is_left_to_be_undone() -> None:
    assert machine.dockless("setup", "--undo", "--purge").out == "nothing to do\n"
