"""What the runner sends, in today's shape and in older ones, and what its own log says of services."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.adapters.github import install, message, names, options
from runner.errors import InfraError
from tests.support.engine import TREE

PREPARE = {
    "command": "prepare_job",
    "responseFile": "/r/_work/_temp/_runner_hook_responses/1.json",
    "args": {
        "container": {
            "image": "docker://node:22", "dockerfile": None, "entryPointArgs": [], "entryPoint": None, "workingDirectory": "/__w/r/r",
            "createOptions": "--cpus 1", "registry": None, "environmentVariables": {"A": "b", "N": None}, "portMappings": ["8080:80"],
            "systemMountVolumes": [{"sourceVolumePath": "/r/_work", "targetVolumePath": "/__w", "readOnly": False}],
            "userMountVolumes": [{"userProvidedValue": "/d", "sourceVolumePath": None, "targetVolumePath": "/d", "readOnly": True}],
            "somethingNew": {"x": 1},
        },
        "services": None,
    },
    "state": None,
}  # fmt: skip


def test_container_is_read_as_the_runner_writes_it() -> None:
    asked = message.parse(json.dumps(PREPARE).encode() + b"\n")
    container = message.container(asked.arguments["container"])
    assert container
    assert (asked.command, asked.response_file) == ("prepare_job", "/r/_work/_temp/_runner_hook_responses/1.json")
    assert (container.image, container.environment, container.ports) == ("node:22", (("A", "b"),), ("8080:80",))
    assert container.system_mounts == (message.Mount("/r/_work", "/__w"),)
    assert container.user_mounts == (message.Mount("", "/d", True),)
    assert message.containers(asked.arguments["services"]) == ()


def test_older_and_other_spellings_are_understood() -> None:
    found = message.script({"entrypoint": "sh", "entrypointargs": ["-e"], "prependpath": "/one", "environmentvariables": {}})
    assert (found.entrypoint, found.prepend_path) == ("sh", ("/one",))
    service = message.container({"IMAGE": "redis", "contextName": "cache", "entrypoint": "x"})
    assert service
    assert (service.image, service.name, service.entrypoint) == ("redis", "cache", "x")
    assert message.is_whole(b'{"a":\n1}\n')
    assert not message.is_whole(b"{\n")
    assert message.parse(b'\xef\xbb\xbf{"Command":"cleanup_job","ResponseFile":"/x","args":{}}').command == "cleanup_job"


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b'{"command":1}', b"{", b"\xff\xfe"])
def test_what_is_no_message_is_the_machines_fault(raw: bytes) -> None:
    with pytest.raises(InfraError):
        message.parse(raw)


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
)
def test_no_value_is_more_than_a_container_without_an_image(value: object) -> None:
    for asked in message.containers([value, {"environmentVariables": value, "systemMountVolumes": value, "registry": value}]):
        assert isinstance(asked.image, str)
    message.script({"entrypointargs": value, "environmentvariables": value, "prependpath": value})


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (["-e", "/__w/_temp/x.sh"], ("-e", "/__w/_temp/x.sh")),
        (['"hello', 'world"', '""'], ("hello world", "")),
        (["'a", "b'"], ("a b",)),
        (['"broken'], ('"broken',)),
        ([], ()),
    ],
)
def test_arguments_are_put_together_again(pieces: list[str], expected: tuple[str, ...]) -> None:
    assert message.argv("", tuple(pieces)) == expected


def _assigned(*services: tuple[str, str], log: dict[str, str] | None = None) -> list[tuple[str, ...]]:
    asked = [message.Container(image=image) for image, _ in services]
    return names.assign(asked, [options.parse(text) for _, text in services], root="/nowhere")


def test_names_come_from_options_and_from_images_and_never_twice() -> None:
    assert _assigned(("bitnami/kafka:3", ""), ("docker.io/library/postgres:16", "--name db")) == [
        ("kafka", "service-0"), ("db", "postgres", "service-1"),
    ]  # fmt: skip
    assert _assigned(("redis", ""), ("redis:7", "")) == [("redis-0", "redis", "service-0"), ("redis-1", "service-1")]
    assert _assigned(("x:1", "--name localhost"), ("y:1", "--name x")) == [("x", "service-0"), ("y", "service-1")]


TOKENS = {
    "type": 2,
    "map": [
        {"Key": "db", "Value": {"type": 2, "map": [{"Key": {"type": 0, "lit": "image"}, "Value": "postgres:16"}]}},
        {"key": {"type": 0, "lit": "cache"}, "value": {"type": 2, "map": [{"Key": "image", "Value": {"type": 3, "expr": "matrix.x"}}]}},
    ],
}


def test_log_of_the_runner_has_the_names_in_order() -> None:
    text = '[x INFO Worker] Job message:\n{\n "jobServiceContainers": ' + json.dumps(TOKENS, indent=2) + ',\n "x": 1\n}\n[y] next'
    known = names.read(text)
    assert known == [("db", "postgres:16"), ("cache", "")]
    services = [message.Container(image="postgres:16"), message.Container(image="redis")]
    assert names.match(services, known) == ["db", "cache"]
    assert names.match(services[:1], known) == ["db"]
    assert names.match([message.Container(image="other"), services[1]], known) == ["", ""]
    assert names.read('"jobServiceContainers": {"type"') == []
    assert names.read("nothing") == []


def test_templates_are_what_install_writes() -> None:
    words = install.command("/opt/dockless/dockless")
    assert (TREE / "ci-templates/github/dockless-hook.js").read_text() == install.javascript(words)
    assert (TREE / "ci-templates/github/dockless-hook.sh").read_text() == install.shell(words)


def test_line_of_env_replaces_an_older_one() -> None:
    text = install.with_line("A=1\nACTIONS_RUNNER_CONTAINER_HOOKS=/old.js\nB=2", "/r/hook.js")
    assert text == "A=1\nB=2\nACTIONS_RUNNER_CONTAINER_HOOKS=/r/hook.js\n"
    assert install.configured(text) == "/r/hook.js"
