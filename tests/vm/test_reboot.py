"""What `dockless setup` made is there after the machine has booted again, without anybody doing anything."""

import json

from tests.vm import machine


def test_views_are_mounted_as_they_were() -> None:
    assert machine.difference(machine.kept("after-setup"), machine.snapshot()) == {}


def test_unit_of_the_views_succeeded() -> None:
    assert machine.run("systemctl", "is-active", "dockless-views.service").out == "active\n"
    assert machine.run("systemctl", "--failed", "--no-legend", "--plain").out == ""


def test_doctor_says_that_layers_are_shared() -> None:
    checks = json.loads(machine.dockless("doctor", "--json", account=machine.ACCOUNT).out)
    assert [check["state"] for check in checks if check["name"] == "shared layers"] == ["ok"]
    assert [check for check in checks if check["state"] == "failed"] == []


def test_layers_of_the_boot_before_are_used_as_they_are() -> None:
    assert machine.run_in_image("first", "cat /etc/hello") == "hello\n"
    assert {name: str(inode) for name, inode in machine.layers().items()} == machine.kept("layers")
