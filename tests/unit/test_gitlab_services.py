"""Names, environment and ports of services."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.adapters.gitlab import payload, services
from runner.adapters.gitlab.payload import Image, Variable
from tests.support.defences import attack, without

SERVICES = "runner/adapters/gitlab/services.py"
DIGEST = "@sha256:" + "0123456789abcdef" * 4
NAMES = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,8}[A-Za-z0-9])?", fullmatch=True)


@pytest.mark.parametrize(
    ("image", "names"),
    [
        ("redis", ("redis",)),
        ("redis:7", ("redis",)),
        ("service:version", ("service",)),
        ("tutum/wordpress:latest", ("tutum__wordpress", "tutum-wordpress")),
        ("tutum/wordpress", ("tutum__wordpress", "tutum-wordpress")),
        ("namespace/service:1.2-alpine", ("namespace__service", "namespace-service")),
        ("registry.x:5000/a/b:1", ("registry.x__a__b", "registry.x-a-b")),
        ("registry.x:5000/a/b", ("registry.x__a__b", "registry.x-a-b")),
        ("registry.x/a/b:1", ("registry.x__a__b", "registry.x-a-b")),
        ("localhost:5000/redis", ("localhost__redis", "localhost-redis")),
        (f"redis{DIGEST}", ("redis",)),
        (f"redis:7{DIGEST}", ("redis",)),
        (f"registry.x:5000/a/b:1{DIGEST}", ("registry.x__a__b", "registry.x-a-b")),
        (f"registry.x:5000/a/b{DIGEST}", ("registry.x__a__b", "registry.x-a-b")),
    ],
)
def test_a_service_is_called_after_its_image(image: str, names: tuple[str, ...]) -> None:
    assert services.host_names(image) == names


@given(st.lists(NAMES, min_size=1, max_size=4), st.sampled_from(["", ":1", ":latest", DIGEST, f":1{DIGEST}"]))
def test_tag_and_digest_are_never_a_part_of_the_name(parts: list[str], version: str) -> None:
    path = "/".join(parts)
    assert services.host_names(path + version) == tuple(dict.fromkeys((path.replace("/", "__"), path.replace("/", "-"))))


@given(NAMES, st.integers(1, 65535), st.lists(NAMES, min_size=1, max_size=3))
def test_the_port_of_a_registry_is_never_a_part_of_the_name(host: str, port: int, parts: list[str]) -> None:
    path = "/".join(parts)
    assert services.host_names(f"{host}:{port}/{path}:1") == services.host_names(f"{host}/{path}")


def test_names_of_the_image_come_first_then_all_that_the_job_gives() -> None:
    found = services.assign((Image("tutum/wordpress:5", aliases=("blog", "www", "blog")),))
    assert [service.aliases for service in found] == [("tutum__wordpress", "tutum-wordpress", "blog", "www")]


@attack(45, without(SERVICES, "elif name.lower() in claimed:", "elif False:"))
def test_the_first_service_to_claim_a_name_has_it(capsys: pytest.CaptureFixture[str]) -> None:
    found = services.assign((Image("mysql:5", aliases=("db",)), Image("postgres:16", aliases=("db", "pg"))))
    assert [service.aliases for service in found] == [("mysql", "db"), ("postgres", "pg")]
    assert "Skipping alias 'db' for service 'postgres:16'" in capsys.readouterr().err


def test_a_service_whose_names_are_all_taken_is_not_started(capsys: pytest.CaptureFixture[str]) -> None:
    found = services.assign((Image("redis:6"), Image("redis:7"), Image("postgres:16", aliases=("redis",))))
    assert [service.asked.name for service in found] == ["redis:6", "postgres:16"]
    assert "'redis:7' is not started" in capsys.readouterr().err


def test_two_services_of_one_image_live_side_by_side_under_their_own_names() -> None:
    found = services.assign((Image("redis:7", aliases=("one",)), Image("redis:7", aliases=("two",))))
    assert [service.aliases for service in found] == [("redis", "one"), ("two",)]


def test_the_name_of_the_build_container_is_taken() -> None:
    assert services.assign((Image("build:1"),), taken=("build",)) == []
    assert services.assign((Image("redis", aliases=("Build",)),), taken=("build",))[0].aliases == ("redis",)


def test_upper_case_makes_no_other_name() -> None:
    found = services.assign((Image("redis:7"), Image("postgres:16", aliases=("REDIS",))))
    assert [service.aliases for service in found] == [("redis",), ("postgres",)]


@attack(45, without(SERVICES, "name.lower() in _RESERVED", "False"))
@pytest.mark.parametrize("name", ["localhost", "LocalHost", "ip6-localhost", "ip6-loopback"])
def test_a_service_cannot_be_the_containers_own_loopback(name: str) -> None:
    assert services.assign((Image("evil:1", aliases=(name,)),))[0].aliases == ("evil",)


@attack(45, without(SERVICES, "not re.fullmatch(_HOST_NAME, name)", "False"))
@pytest.mark.parametrize("name", ["a\n10.0.0.1 gitlab.example", "a b", "-a", "a-", ".", "", "ä", "a\tb", "a#b", "a/b", "x" * 254])
def test_a_name_that_could_not_stand_in_etc_hosts_is_skipped(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert services.assign((Image("evil:1", aliases=(name,)),))[0].aliases == ("evil",)
    assert "Skipping alias" in capsys.readouterr().err


@given(st.lists(st.tuples(st.text(max_size=12), st.lists(st.text(max_size=6), max_size=3).map(tuple)).map(lambda f: Image(*f)), max_size=5))
def test_whatever_is_asked_names_are_distinct_words_and_services_keep_their_order(asked: list[Image]) -> None:
    found = services.assign(tuple(asked))
    names = [name.lower() for service in found for name in service.aliases]
    assert len(names) == len(set(names))
    assert all(name.isascii() and name.isprintable() and not set(name) & set(" #/") for name in names)
    assert all(service.aliases for service in found)
    assert [service.asked for service in found] == [one for one in asked if any(one is service.asked for service in found)]


def job(*variables: tuple[str, bool], secrets: tuple[str, ...] = ()) -> payload.Job:
    return payload.parse(b"{}")._replace(
        variables=tuple(Variable(key, "", public=public, file=False, raw=False) for key, public in variables),
        secrets=tuple(Variable(key, "", public=False, file=True, raw=True) for key in secrets),
    )


def variable(key: str, value: str, *, raw: bool = False) -> Variable:
    return Variable(key, value, public=True, file=False, raw=raw)


def test_a_service_sees_public_variables_and_the_runners_own_and_no_secret() -> None:
    container = (("PUBLIC", "1"), ("CI_JOB_TOKEN", "t"), ("DB_PASSWORD", "/t/DB_PASSWORD"), ("CI_BUILDS_DIR", "/builds"))
    asked = job(("PUBLIC", True), ("CI_JOB_TOKEN", False), secrets=("DB_PASSWORD",))
    assert services.environment(Image("x"), asked, container) == (("PUBLIC", "1"), ("CI_BUILDS_DIR", "/builds"))


def test_a_services_own_variables_win_and_may_use_everything_of_the_job() -> None:
    container = (("A", "1"), ("TOKEN", "t"), ("PEM", "/t/PEM"))
    asked = job(("A", True), ("TOKEN", False), ("PEM", False))
    service = Image("x", variables=(variable("A", "${A}2"), variable("B", "$TOKEN-$PEM-$NONE."), variable("C", "$A", raw=True)))
    assert dict(services.environment(service, asked, container)) == {"A": "12", "B": "t-/t/PEM-.", "C": "$A"}


def test_one_variable_of_a_service_does_not_see_another() -> None:
    service = Image("x", variables=(variable("A", "1"), variable("B", "$A")))
    assert dict(services.environment(service, job(), ())) == {"A": "1", "B": ""}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("$A", "x"),
        ("${A}", "x"),
        ("$A$A", "xx"),
        ("${A}b", "xb"),
        ("$Ab", ""),
        ("$A.b", "x.b"),
        ("$NONE", ""),
        ("${NONE}", ""),
        ("$$", "$"),
        ("$$A", "$A"),
        ("${$}", "$"),
        ("${}", ""),
        ("$1", ""),
        ("$12", "2"),
        ("$*$#$@$!$?$-", ""),
        ("100%$", "100%$"),
        ("$ A", "$ A"),
        ("$/", "$/"),
        ("$B", "$A"),
        ("${a.b}", "dots"),
        ("\\$A", "\\x"),
    ],
)
def test_references_are_replaced_once_as_go_does(text: str, expected: str) -> None:
    assert services.expand(text, {"A": "x", "B": "$A", "a.b": "dots"}) == expected


@given(st.text(max_size=20))
def test_text_without_a_dollar_stays(text: str) -> None:
    assert services.expand(text.replace("$", ""), {"A": "x"}) == text.replace("$", "")


@pytest.mark.parametrize("name", ["HEALTHCHECK_TCP_PORT", "healthcheck_tcp_port", "HealthCheck_Tcp_Port"])
def test_a_named_port_is_the_only_one_asked(name: str) -> None:
    assert services.ports(((name, "8080"),), ("80/tcp", "443/tcp")) == (8080,)


def test_what_the_job_names_beats_what_the_image_names() -> None:
    image, job = ("HEALTHCHECK_TCP_PORT", "80"), ("healthcheck_tcp_port", "8080")
    assert services.ports((image, job), ("443/tcp",)) == (8080,)
    assert services.ports((image,), ("443/tcp",)) == (80,)


@pytest.mark.parametrize("value", ["", "0", "65536", "-1", "http", "80/tcp", "²", " 80", "0" * 5000 + "1"])
def test_a_named_port_that_is_none_is_passed_over(value: str) -> None:
    assert services.ports((("HEALTHCHECK_TCP_PORT", value),), ("80/tcp",)) == (80,)


def test_exposed_tcp_ports_are_asked_in_their_order() -> None:
    assert services.ports((), ("443/tcp", "80", "53/udp", "9/sctp", "8080/tcp", "80/tcp")) == (80, 443, 8080)
    assert services.ports((), ("53/udp",)) == ()


def test_twenty_ports_are_enough() -> None:
    assert services.ports((), tuple(f"{number}/tcp" for number in range(100, 0, -1))) == tuple(range(1, 21))


def test_a_service_is_not_given_what_no_process_can_have() -> None:
    own = tuple(variable(key, value) for key, value in [("", "a"), ("A=B", "c"), ("D", "e\0f"), ("G", "h")])
    assert services.environment(Image("redis", variables=own), job(), ()) == (("G", "h"),)
