"""Images that cannot be had, or cannot be used: whose fault it is, what to do about it, and nothing half-written in the store."""

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support import faults, images, worse_hosts
from tests.support.defences import attack, without
from tests.support.faults import COMMANDS, SYSTEM, USER, Told
from tests.support.gitlab_jobs import GitLab, job
from tests.support.images import build_image, busybox_layer, directory, file, write_oci_layout
from tests.support.registries import Answer, LyingRegistry, docker_registry

# names


class Name(NamedTuple):
    """A name that names nothing, and what a person is told about it."""

    written: str
    says: str
    hint: str


NAMES = {
    "upper case": Name("registry.invalid/Team/App", "a repository has no upper-case letters", "did you mean team/app?"),
    "password": Name("me:s3cret@registry.invalid/app", "image name has credentials in it", "put the password into DOCKER_AUTH_CONFIG"),
    "layout": Name("oci:/no/such", "no such image file or directory: /no/such", "write oci:DIR[:tag] or docker-archive:FILE[:name]"),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", NAMES)
def test_bad_name_is_the_users_fault(gitlab: GitLab, command: str, name: str) -> None:
    told = faults.use_image(gitlab, command, NAMES[name].written)
    refused(gitlab, told, command, USER, says=NAMES[name].says, hint=NAMES[name].hint)
    assert "s3cret" not in told.text


def test_bad_name_leases_no_ids(gitlab: GitLab) -> None:
    for command in COMMANDS:
        faults.use_image(gitlab, command, NAMES["password"].written)
    assert faults.leases(gitlab.engine) == {}


def refused(gitlab: GitLab, told: Told, command: str, whose: str, *, says: str, hint: str) -> None:
    """Assert that a command failed as it should, and that nothing of what it wanted is in the store."""
    assert told.code == faults.CODES[command][whose], told.text
    assert says in told.text
    assert f"\n({hint}" in told.text
    assert faults.is_explained(told.text), told.text
    assert gitlab.engine.leftovers() == []
    assert faults.half_written(gitlab.engine) == []
    assert faults.entries(gitlab.engine)["images"] == []
    assert faults.torn_layers(gitlab.engine) == []


# registries

SMALL = build_image([busybox_layer(), [file("hello", b"hi\n")]])


class Lie(NamedTuple):
    """How a registry fails its clients: whose fault that is, and what a person is told."""

    answer: Answer | None
    path: str  # the requests that get this answer
    image: str
    whose: str
    says: str
    hint: str


def _damaged(body: bytes) -> Answer:
    return Answer(200, bytes([body[0] ^ 1]) + body[1:])


LAYER = SMALL.layer_digests[0]
CONFIG = SMALL.config_digest
_CHECK, _DAMAGES, _OTHER = "check the name and the tag", "the registry or a proxy damages it", "has other content than its digest says"
LIES = {
    "missing tag": Lie(None, "", "team/app:none", USER, "image not found: registry HOST has no HOST/team/app:none", _CHECK),
    "missing layer": Lie(Answer(404), LAYER, "team/app", SYSTEM, f"registry has no blob {LAYER}", "push the image again"),
    "denied": Lie(Answer(403), "/manifests/", "team/app", USER, "registry HOST denies access to team/app", "set DOCKER_AUTH_CONFIG"),
    "wrong manifest": Lie(
        Answer(200, b"{}"), SMALL.digest, f"team/app@{SMALL.digest}", SYSTEM, f"answers with other content than {SMALL.digest}", _DAMAGES
    ),
    "wrong config": Lie(_damaged(SMALL.blobs[CONFIG]), CONFIG, "team/app", SYSTEM, f"blob {CONFIG} {_OTHER}", _DAMAGES),
    "wrong layer": Lie(_damaged(SMALL.blobs[LAYER]), LAYER, "team/app", SYSTEM, f"blob {LAYER} {_OTHER}", _DAMAGES),
    "longer layer": Lie(
        Answer(200, SMALL.blobs[LAYER] + b"x"), LAYER, "team/app", SYSTEM, f"blob {LAYER} has the wrong size", _DAMAGES
    ),
}  # fmt: skip


@contextmanager
def lying(gitlab: GitLab, lie: Lie) -> Iterator[str]:
    """Serve an image and tell one lie; yields the registry's host[:port]."""
    registry = LyingRegistry()
    registry.add(SMALL, "team/app")
    registry.lie = lambda request, _: lie.answer if lie.path in request.path else None
    with registry.running() as (host, _):
        gitlab.configure(registries={host: {"plain_http": True}})
        yield host


@pytest.mark.parametrize(
    ("lie", "command"),
    [
        *((lie, "gitlab") for lie in LIES),
        *((lie, command) for lie in ("missing tag", "wrong manifest", "wrong layer") for command in ("pull", "run")),
    ],
)
def test_registry_that_fails_its_clients_is_called_by_its_fault(gitlab: GitLab, command: str, lie: str) -> None:
    with lying(gitlab, LIES[lie]) as host:
        told = faults.use_image(gitlab, command, f"{host}/{LIES[lie].image}")
    refused(gitlab, told, command, LIES[lie].whose, says=LIES[lie].says.replace("HOST", host), hint=LIES[lie].hint)


def test_registry_that_is_down_is_the_systems_fault(gitlab: GitLab) -> None:
    told = faults.use_image(gitlab, "gitlab", "127.0.0.1:1/team/app")
    refused(gitlab, told, "gitlab", SYSTEM, says="cannot reach registry 127.0.0.1:1", hint="check the network")


# credentials


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve an image to one user only; yields the registry's host[:port]."""
    with docker_registry(tmp_path_factory.mktemp("registry"), htpasswd=("me", "s3cret")) as host:
        images.push(SMALL, f"{host}/team/app:latest", auth=("me", "s3cret"))
        yield host


WRONG = {
    "none": ("{}", "registry HOST wants credentials for team/app: it is private or does not exist"),
    "wrong password": ('{"auths": {"HOST": {"username": "me", "password": "wr0ng"}}}', "refuses the credentials from $DOCKER_AUTH_CONFIG"),
    "not JSON": ('{"auths": wr0ng', "cannot use registry credentials from $DOCKER_AUTH_CONFIG"),
}


@pytest.mark.parametrize(
    ("wrong", "command"), [*((wrong, "gitlab") for wrong in WRONG), ("wrong password", "pull"), ("wrong password", "run")]
)
def test_wrong_credentials_are_the_users_fault(gitlab: GitLab, guarded: str, command: str, wrong: str) -> None:
    given, says = (text.replace("HOST", guarded) for text in WRONG[wrong])
    told = faults.use_image(gitlab, command, f"{guarded}/team/app", DOCKER_AUTH_CONFIG=given)
    refused(gitlab, told, command, USER, says=says, hint="set DOCKER_AUTH_CONFIG, or run: docker login")
    assert "wr0ng" not in told.text


# images without a shell


@pytest.fixture
def shellless(tmp_path: Path) -> str:
    """Return an image with one program, which is no shell."""
    program = file("app/program", Path(images.BUSYBOX).read_bytes(), mode=0o755)
    write_oci_layout(tmp_path / "layout", build_image([[directory("app"), program]]))
    return f"oci:{tmp_path}/layout"


def test_image_without_a_shell_fails_the_script_once_and_says_what_to_choose(gitlab: GitLab, shellless: str) -> None:
    result = gitlab.play(job(image=shellless))
    assert (result.failure_reason, result.exit_code, result.prepare_attempts) == ("script_failure", 127, 1)
    assert "(use an image with sh, or its -debug variant)" in result.log.decode()
    assert faults.is_explained(result.log.decode()), result.log.decode()


def test_program_that_an_image_lacks_is_missing_and_not_the_image(gitlab: GitLab, shellless: str) -> None:
    result = gitlab.engine.run("run", "--image", shellless, "--", "sh", "-c", "true")
    assert result.code == 127
    assert "sh: program not found in the container\n(check the name" in result.err
    assert faults.is_explained(result.err)


# full disks: the store, or a part of it, is a file system of its own, which only the command and the scripts around it see


class Disk(NamedTuple):
    """A small file system in the store, and what a person is told when it is full."""

    part: str  # of the store
    fill: str  # what is put there first
    says: str


DISKS = {
    "pull": Disk("blobs", "mkdir $DISK/sha256 $DISK/partial", "cannot store blob sha256:"),
    # which layer it is depends on who is quicker, and so does whether its files or its place find no room
    "unpack": Disk("layers", ":", "ERROR: cannot unpack "),
    "any": Disk(".", "$IMAGES > $DISK/filler; cat /dev/zero >> $DISK/filler 2> /dev/null || true", "No space left on device"),
}
# locks of layers and of build users are for good, and so are layers that are whole: the next try needs them
_FOR_GOOD = "-path 'layers/s*[0-9]' -o -path 'layers/*.lock' -o -name map.json -o -path 'layers/s*/[0-9a-f]*'"
_LEFT = f"find jobs blobs/partial layers -mindepth 1 -not \\( {_FOR_GOOD} \\) | xargs -r echo left:"


def _surroundings(gitlab: GitLab, disk: Disk, *, then: str) -> worse_hosts.Scripts:
    state = gitlab.engine.state
    assert gitlab.engine.run("images").code == 0
    names = f"IMAGES={shlex.quote(shlex.join(gitlab.engine.argv('images')))}; DISK={os.path.normpath(state / disk.part)}"
    return worse_hosts.Scripts(
        before=f"{names}; mount -t tmpfs -o size=1m,mode=700 none $DISK; {disk.fill}", after=f"cd {state}; {_LEFT} >&2; {then}"
    )


@pytest.mark.parametrize(("command", "disk"), [("pull", "pull"), ("run", "pull"), ("run", "unpack")])
def test_full_disk_is_the_systems_fault_and_room_is_all_that_is_missing(gitlab: GitLab, command: str, disk: str) -> None:
    around = _surroundings(gitlab, DISKS[disk], then='mount -o remount,size=100m none $DISK; "$@" > /dev/null && echo now it works')
    with lying(gitlab, LIES["missing tag"]) as host:
        argv = gitlab.engine.argv(*faults.ARGUMENTS[command](f"{host}/team/app"))
        result = worse_hosts.run(argv, env=gitlab.environment(), scripts=around)
    assert result.code == faults.CODES[command][SYSTEM]
    assert DISKS[disk].says.replace("HOST", host) in result.err
    assert "\n(free some space: dockless gc)" in result.err, result.err
    assert faults.is_explained(result.err), result.err
    assert "left:" not in result.err
    assert result.out == "now it works\n"


@pytest.mark.parametrize("disk", ["pull", "unpack"])
def test_job_on_a_full_disk_is_a_system_failure_which_is_tried_again(gitlab: GitLab, disk: str) -> None:
    around = _surroundings(gitlab, DISKS[disk], then=":")
    with lying(gitlab, LIES["missing tag"]) as host:
        result = worse_hosts.play(gitlab, job(image=f"{host}/team/app"), scripts=around)
    assert (result.failure_reason, result.prepare_attempts) == ("runner_system_failure", 3)
    assert result.log.count(DISKS[disk].says.replace("HOST", host)) == 3
    assert "\n(free some space: dockless gc)" in result.log
    assert "left:" not in result.told_after
    assert result.runner_log == ""


@attack(
    48,
    without("runner/__main__.py", "if e.errno in (errno.ENOSPC, errno.EDQUOT):", "if False:"),
)
def test_store_without_any_room_takes_no_container(gitlab: GitLab) -> None:
    around = _surroundings(gitlab, DISKS["any"], then="rm $DISK/filler; ls $DISK/jobs")
    result = worse_hosts.run(gitlab.engine.argv("run", "--", "true"), env=gitlab.environment(), scripts=around)
    assert (result.code, result.out) == (125, "")
    assert f"ERROR: {gitlab.engine.state}/build-users.json: {DISKS['any'].says}\n(make room: `dockless gc`" in result.err
    assert faults.is_explained(result.err), result.err
    assert "left:" not in result.err


def test_store_without_any_room_takes_no_job_either(gitlab: GitLab) -> None:
    around = _surroundings(gitlab, DISKS["any"], then="ls $DISK/jobs >&2")
    result = worse_hosts.play(gitlab, job(), scripts=around)
    assert (result.failure_reason, result.prepare_attempts) == ("runner_system_failure", 3)
    assert result.log.count(f"{DISKS['any'].says}\x1b[0;m\n(make room: `dockless gc`") == 3
    assert (result.runner_log, result.told_after) == ("", "")
