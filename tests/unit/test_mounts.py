"""Volumes as users write them: what is understood, and what is refused with a reason."""

import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import errors, paths
from runner.model import VolumeSpec
from runner.sandbox import mounts
from tests.support.defences import attack, without

MOUNTS = "runner/sandbox/mounts.py"


class Host:
    """A directory of the host with a state directory in it, as the parser sees it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("work/sub", "home/ci/state/jobs"):
            (root / name).mkdir(parents=True)

    def parse(self, text: str) -> VolumeSpec:
        return mounts.parse(text, state_dir=str(self.root / "home/ci/state"), cwd=str(self.root / "work"))


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path.resolve())


@pytest.mark.parametrize(
    ("text", "target", "read_only"),
    [
        ("/data", "/data", False),
        ("/data:ro", "/data", True),
        ("/data:rw", "/data", False),
        ("//data/./x/", "/data/x", False),
        ("/procedure", "/procedure", False),
    ],
)
def test_a_target_alone_is_a_volume_of_the_job(host: Host, text: str, target: str, read_only: bool) -> None:
    assert host.parse(text) == VolumeSpec(target, "job", mounts.volume_name(target), read_only)


@pytest.mark.parametrize(
    ("text", "source", "read_only"),
    [
        (".:/w", "work", False),
        ("./sub:/w:ro", "work/sub", True),
        ("../work/./sub/:/w:ro,z", "work/sub", True),
        ("../work/sub:/w:cached", "work/sub", False),
    ],
)
def test_a_source_with_a_dot_is_a_path_next_to_the_caller(host: Host, text: str, source: str, read_only: bool) -> None:
    assert host.parse(text) == VolumeSpec("/w", "bind", str(host.root / source), read_only)


def test_two_dots_are_the_directory_above(host: Host) -> None:
    assert mounts.parse("..:/w", state_dir="/state", cwd=f"{host.root}/work").source == str(host.root)


def test_an_absolute_source_is_the_real_path_behind_links(host: Host) -> None:
    (host.root / "link").symlink_to("work/sub")
    assert host.parse(f"{host.root}/link:/w") == VolumeSpec("/w", "bind", f"{host.root}/work/sub")


def test_a_regular_file_may_be_shown(host: Host) -> None:
    (host.root / "work/file").write_bytes(b"")
    assert host.parse("./file:/etc/file:ro").source == f"{host.root}/work/file"


def test_a_source_without_a_slash_is_a_named_volume(host: Host) -> None:
    assert host.parse("pip-cache:/root/.cache/pip") == VolumeSpec("/root/.cache/pip", "build-user", "named-pip-cache")


@attack(
    42, without(MOUNTS, "        if word not in _MODES:", "        if False:"), without(MOUNTS, '    if "/" in source:', "    if False:")
)
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not an absolute path"),
        ("relative", "not an absolute path"),
        ("name:relative", "not an absolute path"),
        ("./sub:", "not an absolute path"),
        (":/w", "SOURCE:TARGET"),
        ("a:/b:ro:c", "SOURCE:TARGET"),
        ("/a\n:/b", "SOURCE:TARGET"),
        ("/a\0:/b", "SOURCE:TARGET"),
        ("name:/", "container's root"),
        ("name://./", "container's root"),
        ("name:/a/../b", "'..'"),
        ("name:/..", "'..'"),
        ("name:/proc", "belongs to the kernel"),
        ("name:/proc/sys/x", "belongs to the kernel"),
        ("name:/./sys/fs/cgroup", "belongs to the kernel"),
        ("name://dev/shm", "belongs to the kernel"),
        ("name:/w:exec", "'exec' is not supported"),
        ("name:/w:ro,suid", "'suid' is not supported"),
        ("name:/w:dev", "'dev' is not supported"),
        ("name:/w:rshared", "'rshared' is not supported"),
        ("name:/w:O", "'O' is not supported"),
        ("name:/w:U", "'U' is not supported"),
        ("name:/w:ro,rw", "both ro and rw"),
        ("sub/dir:/w", "starts with ./"),
        ("~/x:/w", "starts with ./"),
        ("na me:/w", "name of a volume"),
        ("näme:/w", "name of a volume"),
        ("$(id):/w", "name of a volume"),
        ("x" * 300 + ":/w", "name of a volume"),
        ("./gone:/w", "no such file"),
        ("/nowhere/at/all:/w", "no such file"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_reason(host: Host, text: str, reason: str) -> None:
    with pytest.raises(errors.UserError) as caught:
        host.parse(text)
    assert reason in caught.value.message
    assert caught.value.hint
    assert caught.value.message.isprintable()


@attack(
    42,
    without(MOUNTS, "        return os.path.realpath(source)", "        return source"),
    without(MOUNTS, "        if is_within(real, parent):", "        if False:"),
    without(MOUNTS, '    if real == "/":', "    if False:", MOUNTS, "is_within(real, state_dir) or is_within(state_dir, real)", "False"),
)
@pytest.mark.parametrize(
    "source",
    ["/", "//", "/.", "/usr/..", "/etc", "/etc/passwd", "/proc", "/proc/self", "/sys/kernel", "/dev", "/dev/shm", "/run", "/var/run"],
)
def test_places_of_the_host_are_refused_however_they_are_written(host: Host, source: str) -> None:
    (host.root / "work/link").symlink_to(source)
    for text in (f"{source}:/w", "./link:/w", "./sub/../link:/w", f"{host.root}/work/link:/w:ro"):
        with pytest.raises(errors.UserError):
            host.parse(text)


def test_a_link_in_the_middle_of_a_path_is_seen_through(host: Host) -> None:
    (host.root / "work/link").symlink_to("/")
    with pytest.raises(errors.UserError, match="configuration"):
        host.parse("./link/etc:/w")


@attack(42, without(MOUNTS, "is_within(real, state_dir) or is_within(state_dir, real)", "False"))
@pytest.mark.parametrize("source", ["home/ci/state", "home/ci/state/jobs", "home/ci", "home", "."])
def test_our_own_state_and_what_holds_it_are_refused(host: Host, source: str) -> None:
    (host.root / "work/link").symlink_to(f"../{source}")
    for text in (f"../{source}:/w", "./link:/w"):
        with pytest.raises(errors.UserError, match="state of dockless"):
            host.parse(text)


def test_a_state_directory_that_is_a_link_is_still_ours(host: Host) -> None:
    (host.root / "state-link").symlink_to("home/ci/state")
    with pytest.raises(errors.UserError, match="state of dockless"):
        mounts.parse(f"{host.root}/home/ci/state:/w", state_dir=f"{host.root}/state-link", cwd="/")


def test_a_neighbour_with_a_longer_name_is_not_our_state(host: Host) -> None:
    (host.root / "home/ci/state-of-mine").mkdir()
    assert host.parse("../home/ci/state-of-mine:/w").kind == "bind"


@attack(42, without(MOUNTS, "stat.S_ISSOCK(mode)", "False", MOUNTS, "not stat.S_ISDIR(mode) and not stat.S_ISREG(mode)", "False"))
def test_sockets_fifos_and_devices_are_refused_whatever_their_name(host: Host) -> None:
    os.mkfifo(host.root / "work/fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(host.root / "work/harmless"))
        with pytest.raises(errors.UserError, match="socket"):
            host.parse("./harmless:/w")
    with pytest.raises(errors.UserError, match="directories and regular files"):
        host.parse("./fifo:/w")


@pytest.mark.parametrize(
    ("real", "allowed"),
    [
        ("/run/docker.sock", False),
        ("/run/user/1000/podman", False),
        ("/run/media/ci/disk", True),
        ("/var/lib/docker/volumes", False),
        ("/var/lib", True),
        ("/usr/share", True),
        ("/etcetera", True),
        ("/home/ci/project", True),
        ("/home/ci", True),
        ("/state", False),
        ("/state/x", False),
        ("/stateless", True),
    ],
)
def test_refusal_is_a_judgement_on_the_path_alone(real: str, allowed: bool) -> None:
    assert (mounts.refusal(real, state_dir="/state") == "") is allowed


def test_two_volumes_with_one_target_are_refused(host: Host) -> None:
    with pytest.raises(errors.UserError, match="/data is the target of another one"):
        mounts.parse_all(["a:/data", "/other", "b://data/"], state_dir="/state", cwd="/")
    kept = mounts.parse_all(["a:/data", "/other"], state_dir="/state", cwd="/")
    assert [volume.target for volume in kept] == ["/data", "/other"]


@given(st.text(min_size=1, max_size=300), st.text(min_size=1, max_size=300))
def test_different_targets_have_different_safe_names(one: str, other: str) -> None:
    for name in (mounts.volume_name(one), mounts.volume_name(other)):
        assert paths.component(name) == name
    assert (mounts.volume_name(one) == mounts.volume_name(other)) == (one == other)


@given(st.text("/+-_.abe92", min_size=1, max_size=12), st.text("/+-_.abe92", min_size=1, max_size=12))
def test_names_of_look_alikes_differ(one: str, other: str) -> None:
    assert (mounts.volume_name(one) == mounts.volume_name(other)) == (one == other)


@given(st.text(max_size=40))
def test_whatever_is_written_is_understood_or_refused(text: str) -> None:
    try:
        volume = mounts.parse(text, state_dir="/state", cwd="/nowhere")
    except errors.UserError:
        return
    assert os.path.normpath(volume.target) == volume.target
    assert volume.kind in ("job", "build-user", "bind")
