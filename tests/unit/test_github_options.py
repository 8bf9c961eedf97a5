"""`options:` and `ports:` of a workflow: what docker's own words come to."""

import pytest

from runner.adapters.github import options, ports
from runner.errors import UserError
from runner.job.publish import Port
from runner.model import Healthcheck, Limits


def test_options_as_workflows_write_them() -> None:
    found = options.parse(
        '--cpus 1.5 -m 512m --user=1001:1001 --health-cmd "mongosh --eval \\"db.adminCommand(\'ping\')\\"" --health-interval 10s '
        "--health-timeout=1m30s --health-retries 5 --health-start-period 500ms --name db --network-alias mongo -e A=b=c -v /data -p 80:80 "
        "--init --add-host api:192.0.2.7 --shm-size 1g --tmpfs /run:rw,size=1m -it --rm --label x=y"
    )
    assert found.limits == Limits(512 * 1024**2, 1.5, 0)
    assert found.health == Healthcheck(("CMD-SHELL", "mongosh --eval \"db.adminCommand('ping')\""), 10.0, 90.0, 0.5, 5)
    assert (found.user, found.names, found.env) == ("1001:1001", ("mongo", "db"), (("A", "b=c"),))
    assert (found.volumes, found.ports, found.init, found.shm_size) == (("/data", "/run"), ("80:80",), True, 1024**3)
    assert (found.extra_hosts, found.warnings) == ((("api", "192.0.2.7"),), ())


def test_folded_lines_are_one_line() -> None:
    assert options.parse("\n  --cpus 2\n  --user root\n").limits.cpus == 2.0


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("--network host", "--network"), ("--ulimit nofile=1:2", "--ulimit"), ("--security-opt seccomp=unconfined", "--security-opt"),
        ("--device /dev/fuse", "--device"), ("--read-only", "--read-only"), ("--ipc=host", "--ipc"),
    ],
)  # fmt: skip
def test_what_a_job_can_do_without_is_a_warning(text: str, word: str) -> None:
    (warning,) = options.parse(text).warnings
    assert word in warning


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("--env-file /etc/shadow", "options: --env-file is refused"), ("--device /dev/sda", "options: --device is refused"),
        ("--gpus all", "options: --gpus is refused"), ("--pid=host", "options: --pid is refused"),
        ("--frobnicate", "options: '--frobnicate' is not known"), ("--user", "options: --user needs a value"),
        ("--memory lots", "options: --memory lots cannot be used"), ("--health-interval 5", "options: --health-interval 5 cannot be used"),
        ("--add-host h:host-gateway", "options: --add-host with host-gateway is refused"),
        ("--pull often", "options: --pull often is not known"),
        ("--mount type=bind,target=/x", "options: --mount 'type=bind,target=/x' cannot be used"),
        ("stray", "options: 'stray' is not known"),
        ("--cap-add SYS_NONSENSE", "capability SYS_NONSENSE is unknown"),
    ],
)  # fmt: skip
def test_what_cannot_be_had_is_refused_in_a_sentence(text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        options.parse(text)
    assert caught.value.message == message
    assert caught.value.hint


def test_capabilities_are_dockers_with_what_is_added_and_dropped() -> None:
    assert "CAP_SYS_PTRACE" in options.parse("--cap-add SYS_PTRACE").capabilities
    assert options.parse("--cap-drop ALL --cap-add NET_RAW").capabilities == ("CAP_NET_RAW",)
    assert options.parse("--cpus 1").capabilities == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("80", [Port("s", 80)]), ("8080:80", [Port("s", 80, 8080)]), ("8080:80/udp", [Port("s", 80, 8080, protocol="udp")]),
        ("127.0.0.1:1:2", [Port("s", 2, 1, "127.0.0.1")]), ("0.0.0.0::2", [Port("s", 2, 0, "0.0.0.0")]), ("0:80", [Port("s", 80)]),
        ("7000-7001:80-81", [Port("s", 80, 7000), Port("s", 81, 7001)]), ("80-81", [Port("s", 80), Port("s", 81)]),
    ],
)  # fmt: skip
def test_ports_are_read_as_docker_reads_them(text: str, expected: list[Port]) -> None:
    assert ports.parse("s", [text]) == expected


@pytest.mark.parametrize("text", ["", "x", "0", "65536", "80:", "1-2:3", "2-1", "1:2:3:4", "80/sctp", "[::1]:80:80", "1-9999"])
def test_what_is_no_port_is_refused(text: str) -> None:
    with pytest.raises(UserError) as caught:
        ports.parse("s", [text])
    assert caught.value.hint
