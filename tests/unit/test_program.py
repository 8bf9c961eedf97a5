"""Finding a container's program before crun: what is sure to fail is said, and nothing else is refused."""

import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.sandbox import program
from runner.sandbox.crun import StartFailure

Spec = Callable[..., dict[str, Any]]
PATH = "/usr/local/bin:/usr/bin:/bin"


OWN = int.from_bytes(Path(sys.executable).read_bytes()[18:20], "little")
FOREIGN = 62 if OWN == 183 else 183


def elf(interpreter: str, *, machine: int = OWN) -> bytes:
    """Return the head of a dynamically linked program."""
    name = interpreter.encode() + b"\0"
    header = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    other = struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, 0, 0, 0)
    return header + other + struct.pack("<IIQQQQQQ", 3, 4, 176, 0, 0, len(name), len(name), 1) + name


def put(path: Path, data: bytes = b"\x7fELF", mode: int = 0o755) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a root file system with a few programs, as merged-usr distributions have it."""
    root = tmp_path / "root"
    put(root / "usr/bin/tool")
    put(root / "usr/bin/sh")
    put(root / "usr/lib/ld.so")
    put(root / "usr/bin/data", mode=0o644)
    put(root / "usr/bin/script", b"#!/bin/sh -e\n")
    put(root / "etc/alternatives/real")
    for link, target in {"bin": "usr/bin", "lib": "/usr/lib", "usr/bin/chosen": "/etc/alternatives/real", "usr/bin/loop": "loop"}.items():
        (root / link).symlink_to(target)
    (root / "run/w").mkdir(parents=True)
    (root / "var").mkdir()
    (root / "var/run").symlink_to("/run")
    return root


@pytest.fixture
def spec(root: Path) -> Spec:
    def make(*volumes: tuple[Path, str], cwd: str = "/", env: tuple[str, ...] = (f"PATH={PATH}",)) -> dict[str, Any]:
        system = [{"destination": place, "source": "x", "options": ["nosuid"]} for place in ("/proc", "/dev", "/dev/pts", "/sys")]
        bound = [{"destination": target, "source": str(source), "options": ["rbind", "ro"]} for source, target in volumes]
        return {"root": {"path": str(root)}, "mounts": system + bound, "process": {"cwd": cwd, "env": list(env)}}

    return make


def refusal(spec: dict[str, Any], *argv: str) -> StartFailure:
    with pytest.raises(StartFailure) as caught:
        program.check(spec, argv)
    return caught.value


@pytest.mark.parametrize(
    "name", ["tool", "sh", "script", "chosen", "/bin/tool", "/usr/bin/tool", "/bin/../bin/tool", "//bin//tool", "bin/tool"]
)
def test_program_that_is_there_is_not_refused(spec: Spec, name: str) -> None:
    program.check(spec(), (name, "x"))


@pytest.mark.parametrize("name", ["no-such", "loop", "/no-such", "/no/such", "/bin/no-such", "./tool", "/bin/tool/x", "../../../../bin/no"])
def test_program_that_is_nowhere_is_not_found(spec: Spec, name: str) -> None:
    error = refusal(spec(), name)
    assert (error.message, error.exit_code) == (f"{name}: program not found in the container", 127)
    assert error.hint


@pytest.mark.parametrize(
    ("name", "why"), [("data", ""), ("/bin/data", ""), ("/usr/bin", ": it is not a file"), ("/", ": it is not a file")]
)
def test_program_that_nobody_may_execute_is_refused(spec: Spec, name: str, why: str) -> None:
    error = refusal(spec(), name)
    assert (error.message, error.exit_code) == (f"{name}: program cannot be executed{why}", 126)


def test_empty_command_is_said_to_be_empty(spec: Spec) -> None:
    error = refusal(spec(), "", "x")
    assert (error.message, error.exit_code) == ("the command is empty", 127)


def test_relative_program_and_path_begin_at_the_working_directory(spec: Spec) -> None:
    program.check(spec(cwd="/usr"), ("bin/tool",))
    program.check(spec(cwd="/usr/bin"), ("./tool",))
    program.check(spec(cwd="/usr/bin", env=("PATH=/x:",)), ("tool",))
    program.check(spec(cwd="/usr", env=("PATH=bin",)), ("tool",))
    assert refusal(spec(cwd="/etc"), "bin/tool").exit_code == 127


def test_last_path_of_the_environment_counts_and_without_one_crun_decides(spec: Spec) -> None:
    assert refusal(spec(env=(f"PATH={PATH}", "PATH=/etc")), "tool").exit_code == 127
    program.check(spec(env=("HOME=/",)), ("no-such",))


def test_program_in_a_volume_is_found(spec: Spec, tmp_path: Path) -> None:
    put(tmp_path / "volume/mine")
    mount = (tmp_path / "volume", "/opt/v")
    program.check(spec(mount), ("/opt/v/mine",))
    program.check(spec(mount, env=("PATH=/opt/v",)), ("mine",))
    assert refusal(spec(mount), "/opt/v/gone").exit_code == 127


def test_file_that_is_a_volume_is_found(spec: Spec, root: Path, tmp_path: Path) -> None:
    put(tmp_path / "mine")
    put(root / "opt/one", b"", 0o644)
    program.check(spec((tmp_path / "mine", "/opt/one")), ("/opt/one",))


@pytest.mark.parametrize("target", ["/run/w", "/var/run/w"])
@pytest.mark.parametrize("name", ["/run/w/mine", "/var/run/w/mine", "/usr/bin/link"])
def test_volume_is_found_through_links_of_the_image(spec: Spec, root: Path, tmp_path: Path, target: str, name: str) -> None:
    put(tmp_path / "volume/mine")
    (root / "usr/bin/link").symlink_to("/var/run/w/mine")
    program.check(spec((tmp_path / "volume", target)), (name,))


def test_volume_hides_what_is_below_it(spec: Spec, tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    assert refusal(spec((tmp_path / "volume", "/usr/bin")), "/usr/bin/tool").exit_code == 127


def test_what_only_looks_wrong_below_a_volume_is_not_refused(spec: Spec, root: Path, tmp_path: Path) -> None:
    put(root / "usr/bin/mine", b"#!/no/shell\n")
    put(tmp_path / "volume/mine")
    program.check(spec((tmp_path / "volume", "/usr/bin")), ("/bin/mine",))


def test_links_of_a_volume_lead_through_the_container_and_not_through_the_host(spec: Spec, tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    put(tmp_path / "outside")
    (tmp_path / "volume/in").symlink_to("/usr/bin/tool")
    (tmp_path / "volume/out").symlink_to(tmp_path / "outside")
    (tmp_path / "volume/up").symlink_to("../../../../../../../../../.." + str(tmp_path / "outside"))
    mount = (tmp_path / "volume", "/run/w")
    program.check(spec(mount), ("/run/w/in",))
    assert refusal(spec(mount), "/run/w/out").exit_code == 127
    assert refusal(spec(mount), "/run/w/up").exit_code == 127


@pytest.mark.parametrize("name", ["/proc/self/exe", "/dev/fd/3", "/dev/pts/0", "/sys/x"])
def test_what_the_kernel_shows_is_left_to_crun(spec: Spec, root: Path, name: str) -> None:
    for directory in ("proc", "dev", "sys"):
        (root / directory).mkdir()
    program.check(spec(), (name,))


def test_what_only_another_user_may_read_is_left_to_crun(spec: Spec, root: Path) -> None:
    put(root / "usr/bin/secret", mode=0o111)
    program.check(spec(), ("secret",))
    put(root / "closed/tool")
    (root / "closed").chmod(0)
    program.check(spec(), ("/closed/tool",))
    (root / "closed").chmod(0o755)


@pytest.mark.parametrize(
    ("data", "interpreter"),
    [
        (b"#!/no/shell\n", "/no/shell"),
        (b"#! /no/shell -e\nexit\n", "/no/shell"),
        (b"#!\t/no/shell", "/no/shell"),
        (b"#!/bin/sh\r\n", "/bin/sh\\r"),
        (elf("/lib/ld-musl.so"), "/lib/ld-musl.so"),
    ],
)
def test_missing_interpreter_is_named(spec: Spec, root: Path, data: bytes, interpreter: str) -> None:
    put(root / "bin/mine", data)
    error = refusal(spec(), "mine")
    assert (error.message, error.exit_code) == (f"mine: its interpreter '{interpreter}' is not in the container", 127)


@pytest.mark.parametrize("data", [b"#!/bin/sh\n", b"#!bin/sh\n", b"#!\n", elf("/lib/ld.so"), b"MZ\0", b"\xca\xfe", b"\x7fELF\x01\x01"])
def test_program_that_may_start_is_left_to_crun(spec: Spec, root: Path, data: bytes) -> None:
    put(root / "bin/mine", data)
    program.check(spec(), ("mine",))


@pytest.mark.parametrize("data", [b"", b"echo hello\n"])
def test_text_that_names_no_interpreter_is_refused(spec: Spec, root: Path, data: bytes) -> None:
    put(root / "bin/mine", data)
    error = refusal(spec(), "mine")
    assert (error.message, error.exit_code) == ("mine: program cannot be executed: wrong format", 126)
    assert "#!" in error.hint


def test_program_of_another_machine_is_refused_unless_the_kernel_may_know_it(spec: Spec, root: Path, tmp_path: Path) -> None:
    put(root / "bin/mine", elf("/lib/ld.so", machine=FOREIGN))
    (tmp_path / "without").write_text("nodev\tproc\n\text4\n")
    (tmp_path / "with").write_text("nodev\tproc\nnodev\tbinfmt_misc\n")
    with pytest.raises(StartFailure) as caught:
        program.check(spec(), ("mine",), filesystems=f"{tmp_path}/without")
    assert (caught.value.message, caught.value.exit_code) == ("mine: program cannot be executed: wrong format", 126)
    assert "architecture" in caught.value.hint
    program.check(spec(), ("mine",), filesystems=f"{tmp_path}/with")


@pytest.mark.timeout(10)
def test_fifo_holds_nobody_up(spec: Spec, root: Path) -> None:
    os.mkfifo(root / "bin/fifo", 0o755)
    assert refusal(spec(), "fifo").exit_code == 126


def test_nothing_stays_open(spec: Spec) -> None:
    before = os.listdir("/proc/self/fd")
    for name in ("tool", "script", "no-such", "data", "/bin"):
        try:
            program.check(spec(), (name,))
        except StartFailure:
            continue
    assert len(os.listdir("/proc/self/fd")) == len(before)


@given(st.binary(max_size=200) | st.binary(max_size=120).map(lambda tail: elf("/x")[:64] + tail))
def test_whatever_the_file_holds_is_refused_or_left_to_crun(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    root = tmp_path_factory.getbasetemp() / "any"
    put(root / "mine", data)
    spec = {"root": {"path": str(root)}, "mounts": [], "process": {"cwd": "/", "env": []}}
    try:
        program.check(spec, ("/mine",))
    except StartFailure as e:
        assert e.message.isprintable()
