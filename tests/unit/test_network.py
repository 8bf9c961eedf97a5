"""The plan of a job's network, as a value."""

import pytest

from runner.sandbox import egress, network, uplink


def test_first_network_is_the_jobs_and_last_the_uplinks() -> None:
    plan = network.addresses("10.99.0.0/16")
    assert plan == network.Addresses(bridge="10.99.0.1", prefix="10.99.0.", uplink="10.99.255.0/24", resolver="10.99.255.3")


def test_small_subnet_starts_at_its_own_base() -> None:
    plan = network.addresses("192.168.77.5/23")
    assert (plan.bridge, plan.uplink) == ("192.168.76.1", "192.168.77.0/24")


@pytest.mark.parametrize("subnet", ["", "10.0.0.0", "10.0.0.0/24", "10.0.0.0/8", "10.0.0/16", "10.0.0.256/16", "fd00::/64", "10.0.0.0/x"])
def test_other_subnets_are_refused(subnet: str) -> None:
    with pytest.raises(ValueError, match="subnet"):
        network.addresses(subnet)


def test_endpoints_count_from_two() -> None:
    plan = network.addresses("10.99.0.0/16")
    assert (plan.endpoint(0), plan.endpoint(251)) == ("10.99.0.2", "10.99.0.253")
    with pytest.raises(ValueError, match="252"):
        plan.endpoint(252)


def test_router_refuses_the_metadata_services_before_anything_is_forwarded() -> None:
    rules = network.router_rules("tap0", egress.rules(egress.Policy(), network.addresses("10.99.0.0/16"), []))
    refused, rest = rules.split("chain forward")
    assert "169.254.0.0/16" in refused
    assert rest.index("jump egress") < rest.index("chain input")


def test_hosts_lists_every_name_of_an_address_on_one_line() -> None:
    text = network.hosts([("10.99.0.3", ("redis", "cache")), ("10.99.0.4", ())])
    assert "10.99.0.3\tredis cache\n" in text
    assert "10.99.0.4" not in text


def test_resolv_conf_keeps_the_hosts_search_list_but_not_its_servers(tmp_path) -> None:  # type: ignore[no-untyped-def]
    host = tmp_path / "resolv.conf"
    host.write_text("nameserver 127.0.0.53\nsearch corp.example\noptions ndots:2\n# nameserver 1.2.3.4\n")
    text = uplink.resolv_conf(network.addresses("10.99.0.0/16"), (), host_file=str(host))
    assert text == "search corp.example\noptions ndots:2\nnameserver 10.99.255.3\n"


def test_resolv_conf_uses_the_configured_servers(tmp_path) -> None:  # type: ignore[no-untyped-def]
    text = uplink.resolv_conf(network.addresses("10.99.0.0/16"), ("9.9.9.9",), host_file=str(tmp_path / "missing"))
    assert text == "nameserver 9.9.9.9\n"
