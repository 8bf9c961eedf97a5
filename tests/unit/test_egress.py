"""What a job may reach, as rules: which of two that contradict each other wins."""

import pytest

from runner import config, errors
from runner.kernel import netlink
from runner.sandbox import egress, network
from runner.sandbox.egress import Policy, Rule
from tests.support.defences import attack, without

ADDRESSES = network.addresses("10.99.0.0/16")
OWN = ["192.0.2.2", "169.254.9.9"]
QUESTIONS = "ip daddr 10.99.255.3 meta l4proto { tcp, udp } th dport 53 accept"


def rules(policy: Policy) -> list[str]:
    return [rule.replace(" with icmpx type admin-prohibited", "") for rule in egress.rules(policy, ADDRESSES, OWN)]


def place(policy: Policy, rule: str) -> str:
    """Tell where a rule stands: before or after what is never reached."""
    found = rules(policy)
    wall = next(at for at, one in enumerate(found) if "169.254.0.0/16," in one)
    return "before" if found.index(rule) < wall else "after"


def test_default_refuses_the_machine_and_the_clouds_and_lets_questions_through() -> None:
    assert rules(Policy()) == [
        "meta nfproto ipv6 reject",
        QUESTIONS,
        "ip daddr 10.99.255.0/24 reject",
        "ip daddr { 0.0.0.0/8, 127.0.0.0/8, 169.254.0.0/16, 100.100.100.200/32, 168.63.129.16/32, 192.0.2.2/32 } reject",
    ]


def test_none_ends_with_a_refusal_of_everything() -> None:
    assert rules(Policy(closed=True))[-1] == "reject"
    assert QUESTIONS not in rules(Policy((Rule("10.0.0.0/8"),), closed=True))
    assert QUESTIONS in rules(Policy((Rule("198.51.100.7/32", is_name=True),), closed=True))


@pytest.mark.parametrize("network_", ["169.254.169.254/32", "169.254.0.0/16", "192.0.2.2/32", "100.100.100.200/32"])
def test_network_within_what_is_refused_is_an_exception(network_: str) -> None:
    assert place(Policy((Rule(network_),)), f"ip daddr {network_} accept") == "before"


@attack(33, without("runner/sandbox/egress.py", "bits >= wide and ", ""), more=(32,))
@pytest.mark.parametrize("network_", ["0.0.0.0/0", "168.0.0.0/6", "192.0.2.0/24", "10.0.0.0/8", "169.254.0.0/15"])
def test_larger_network_is_none(network_: str) -> None:
    assert place(Policy((Rule(network_),)), f"ip daddr {network_} accept") == "after"


@attack(33, without("runner/sandbox/egress.py", "if not rule.is_name and any(", "if any("), more=(32,))
def test_name_is_none_wherever_it_leads() -> None:
    assert place(Policy((Rule("169.254.169.254/32", is_name=True),)), "ip daddr 169.254.169.254/32 accept") == "after"
    assert place(Policy((Rule("192.0.2.2/32", is_name=True),)), "ip daddr 192.0.2.2/32 accept") == "after"


def test_host_is_every_address_of_the_machine() -> None:
    for address in OWN:
        line = f"ip daddr {address}/32 meta l4proto {{ tcp, udp }} th dport 80-90 accept"
        assert place(Policy((Rule("host", "80-90"),)), line) == "before"


def test_what_is_allowed_wins_over_what_is_denied() -> None:
    found = rules(Policy((Rule("10.1.2.3/32"),), (Rule("10.0.0.0/8"),)))
    assert found[-2:] == ["ip daddr 10.1.2.3/32 accept", "ip daddr 10.0.0.0/8 reject"]


def test_names_are_looked_up() -> None:
    found = egress.policy(config.Egress("none", ("localhost:443", "10.0.0.0/8", "host:1"), ()))
    assert found == Policy((Rule("127.0.0.1/32", "443", is_name=True), Rule("10.0.0.0/8"), Rule("host", "1")), (), closed=True)


def test_name_without_an_address_is_left_out_or_fatal(capsys: pytest.CaptureFixture[str]) -> None:
    assert egress.policy(config.Egress(allow=("gone.invalid",))) == Policy()
    assert "gone.invalid of network.egress.allow has no address" in capsys.readouterr().err
    with pytest.raises(errors.InfraError, match=r"gone\.invalid of network\.egress\.deny"):
        egress.policy(config.Egress(deny=("gone.invalid:80",)))


def test_own_addresses_are_the_machines_and_not_loopbacks() -> None:
    found = netlink.own_addresses()
    assert found == sorted(set(found))
    assert not any(address.startswith("127.") for address in found)
