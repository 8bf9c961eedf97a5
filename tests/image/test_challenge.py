"""What registries may ask for, and where they may send us."""

import urllib.parse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import UserError
from runner.image import challenge
from runner.image.challenge import Challenge, Reach
from tests.support.defences import attack, without


def test_challenges_are_read() -> None:
    header = 'Bearer realm="https://auth.example/token",service="registry, of \\"x\\"" , scope="repository:a/b:pull,push"'
    header += ", Basic realm=simple"
    bearer = {"realm": "https://auth.example/token", "service": 'registry, of "x"', "scope": "repository:a/b:pull,push"}
    assert challenge.parse(header) == (Challenge("bearer", bearer), Challenge("basic", {"realm": "simple"}))


@given(st.text(max_size=300))
def test_any_header_is_read_to_its_end(header: str) -> None:
    for one in challenge.parse(header):
        assert one.scheme


def url(realm: str, *, registry: str = "https://r.example", **more: str) -> str:
    return challenge.token_url(Challenge("bearer", {"realm": realm, **more}), registry_url=registry, repository="team/app")


@attack(
    19,
    without("runner/image/challenge.py", " if name not in own]", "]"),
)
def test_token_is_asked_for_our_own_scope_only() -> None:
    asked = url(
        "https://auth.example/token?scope=repository:other:push&service=evil&kept=1&account=root",
        service="r.example",
        scope="registry:catalog:*",
    )
    query = urllib.parse.parse_qs(urllib.parse.urlsplit(asked).query)
    assert query == {"kept": ["1"], "service": ["r.example"], "scope": ["repository:team/app:pull"]}


def test_service_cannot_bring_parameters_along() -> None:
    asked = url("https://auth.example/token", service="x&scope=repository:other:push")
    assert urllib.parse.parse_qs(urllib.parse.urlsplit(asked).query)["scope"] == ["repository:team/app:pull"]


@attack(
    19,
    without("runner/image/challenge.py", 'if parts.scheme != "https" and not (', "if False and not ("),
    without("runner/image/challenge.py", "if not same and reach(host) > reach(own_host):", "if False:"),
    without("runner/image/challenge.py", "if unclean or not parts.hostname", "if not parts.hostname"),
)
@pytest.mark.parametrize(
    "realm",
    [
        "http://auth.example/token", "http://r.example/token", "https://169.254.169.254/latest", "https://127.0.0.1/token",
        "https://localhost/token",
        "https://10.0.0.1/token", "https://[::1]/token", "https://[fe80::1]/token", "https://[::ffff:169.254.169.254]/", "https://0.0.0.0/",
        "https://[fd00:ec2::254]/", "file:///etc/passwd", "/token", "", "ftp://auth.example/", "https://me:pw@auth.example/",
        "https://auth.example:x/",
        "https://auth.example\\@r.example/", "https://auth.example/ x", "https://2130706433/", "https://0x7f.1/", "gopher://r.example/",
        "https://[/",
        "https://auth.example/" + "x" * 5000,
    ],
)  # fmt: skip
def test_realm_that_may_not_be_asked_is_refused(realm: str) -> None:
    with pytest.raises(UserError, match="realm"):
        url(realm)


@attack(
    19,
    without("runner/image/challenge.py", 'return repr(url.partition("?")[0][:100])', "return repr(url[:100])"),
)
def test_refused_realm_is_named_without_its_query() -> None:
    with pytest.raises(UserError, match=r"https://10.0.0.1/token") as caught:
        url("https://10.0.0.1/token?secret=1")
    assert "secret" not in caught.value.message


@pytest.mark.parametrize(
    ("registry", "realm"),
    [
        ("https://r.example", "https://auth.example/token"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5001/token"),
        ("https://127.0.0.1:5000", "https://10.0.0.1/token"),
        ("https://10.0.0.1", "https://192.168.1.1/token"),
        ("https://10.0.0.1:5000", "https://10.0.0.1/token"),
    ],
)
def test_realm_no_deeper_inside_than_the_registry_is_fine(registry: str, realm: str) -> None:
    assert url(realm, registry=registry).startswith(realm)


@pytest.mark.parametrize(
    ("host", "reach"),
    [("192.0.2.1", Reach.PRIVATE), ("8.8.8.8", Reach.PUBLIC), ("10.1.2.3", Reach.PRIVATE), ("127.1.2.3", Reach.LOOPBACK), ("169.254.0.1",
    Reach.LINK_LOCAL),
     ("fe80::1", Reach.LINK_LOCAL), ("localhost", Reach.LOOPBACK), ("no-such-name.invalid", Reach.PUBLIC)],
)  # fmt: skip
def test_reach_of_an_address(host: str, reach: Reach) -> None:
    assert challenge.reach(host) == reach


@pytest.mark.parametrize(
    ("host", "loopback"), [("localhost", True), ("127.9.9.9", True), ("[::1]", True), ("10.0.0.1", False), ("localhost.example", False)]
)
def test_loopback_is_told_by_the_name_alone(host: str, loopback: bool) -> None:
    assert challenge.is_loopback(host) is loopback
