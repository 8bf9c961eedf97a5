"""Addresses and routes, set in a network namespace of its own and read back by ip(8)."""

import json
import socket
from collections.abc import Callable
from typing import Any

import pytest

from runner.kernel import accounts, netdevice, process, syscalls, userns
from runner.sandbox import build_users


def inside(change: Callable[[], object]) -> dict[str, Any]:
    """Return addresses by device, and the routes, of a namespace with a device d0 after a change there."""

    def work() -> dict[str, Any]:
        process.run(["ip", "link", "add", "d0", "type", "veth", "peer", "name", "d1"])
        change()
        devices = json.loads(process.run(["ip", "-json", "-4", "addr"]).stdout)
        routes = json.loads(process.run(["ip", "-json", "-4", "route"]).stdout)
        return {
            "devices": {
                one["ifname"]: [f"{a['local']}/{a['prefixlen']}" for a in one["addr_info"]] for one in devices if one.get("addr_info")
            },
            "up": sorted(one["ifname"] for one in json.loads(process.run(["ip", "-json", "link"]).stdout) if "UP" in one["flags"]),
            "routes": [[one.get("type", ""), one["dst"], one.get("gateway", "")] for one in routes],
        }

    found: dict[str, Any] = userns.call(build_users.every_map(accounts.current()), work, flags=syscalls.CLONE_NEWNET)
    return found


def give_address() -> None:
    netdevice.set_address("d0", "10.1.2.3", "255.255.255.0")
    netdevice.set_up("d0")


def test_loopback_gets_its_address_when_it_is_set_up() -> None:
    found = inside(lambda: netdevice.set_up("lo"))
    assert (found["devices"], "lo" in found["up"], found["routes"]) == ({"lo": ["127.0.0.1/8"]}, True, [])


def test_device_has_its_address_and_the_route_to_its_network() -> None:
    found = inside(give_address)
    assert found["devices"] == {"d0": ["10.1.2.3/24"]}
    assert found["routes"] == [["", "10.1.2.0/24", ""]]
    assert "d0" in found["up"]


def test_default_route_leads_to_a_gateway() -> None:
    def change() -> None:
        give_address()
        netdevice.add_default_route("10.1.2.1")

    assert ["", "default", "10.1.2.1"] in inside(change)["routes"]


@pytest.mark.parametrize("device", ["nothere", "a-name-that-is-too-long"])
def test_device_that_is_not_there_is_an_error(device: str) -> None:
    with pytest.raises(OSError, match="No such device"):
        inside(lambda: netdevice.set_up(device))


def test_gateway_out_of_reach_is_an_error() -> None:
    with pytest.raises(OSError, match="unreachable"):
        inside(lambda: netdevice.add_default_route("10.9.9.9"))


def test_tap_stays_when_nobody_uses_it_and_can_be_used_by_another_program() -> None:
    def work() -> list[str]:
        netdevice.make_tap("tap0")
        netdevice.make_tap("tap0")  # whoever comes next, as slirp4netns does, attaches to what is there
        return [name for _, name in socket.if_nameindex()]

    names: list[str] = userns.call(build_users.every_map(accounts.current()), work, flags=syscalls.CLONE_NEWNET)
    assert names.count("tap0") == 1
