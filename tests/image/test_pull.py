"""Whole pulls: real registries in three set-ups, policies, lies, ten processes at once, a full disk, a killed process."""

import json
import os
import pwd
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner import config, paths
from runner.errors import InfraError, Temporary, UserError
from runner.image import auth, blobs, images, platforms, progress, pull
from runner.kernel import syscalls, userns
from runner.model import Descriptor, Extent, IdMap, Image
from tests.support import images as made
from tests.support import stores
from tests.support.defences import attack, without
from tests.support.registries import Answer, Certificates, LyingRegistry, Request, TokenServer, docker_registry, make_certificates

HOST = platforms.host()
OTHER = "arm64" if HOST.architecture != "arm64" else "amd64"
BUILT = made.build_image([made.busybox_layer(), [made.file("hello", b"hi")]], architecture=HOST.architecture)
SMALL = made.build_image([[made.file("a", random.Random(1).randbytes(50_000))], [made.file("b", b"2")]], architecture=HOST.architecture)
FOREIGN = made.build_image([[made.file("a", b"1")]], architecture=OTHER)


@pytest.fixture
def store(tmp_path: Path) -> paths.Store:
    return stores.make(tmp_path / "store")


def ensure(
    store: paths.Store,
    source: str,
    *policies: str,
    settings: config.Settings | None = None,
    keychain: auth.Keychain | None = None,
    platform: str = "",
) -> Image:
    return pull.ensure(
        source,
        store=store,
        settings=settings or config.Settings(),
        keychain=keychain or auth.Keychain(),
        policies=policies or ("if-not-present",),
        platform=platform,
    )


# --- Debian's docker-registry


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with docker_registry(tmp_path_factory.mktemp("plain")) as host:
        made.push(BUILT, f"{host}/team/app:v1")
        made.push(made.build_image([[made.file("a", b"z")]], compression="zstd", architecture=HOST.architecture), f"{host}/team/app:zstd")
        made.push(made.build_image([[made.file("a", b"d")]], docker=True, architecture=HOST.architecture), f"{host}/team/app:docker")
        made.push(made.build_index([FOREIGN, SMALL]), f"{host}/team/app:index")
        made.push(
            made.build_index([made.build_image([[made.file("a", b"l")]], docker=True, architecture=HOST.architecture)], docker=True),
            f"{host}/team/app:list",
        )
        made.push(FOREIGN, f"{host}/team/app:foreign")
        yield host


def test_image_of_a_plain_registry_is_pulled_with_everything_that_it_names(store: paths.Store, plain: str) -> None:
    image = ensure(store, f"{plain}/team/app:v1")
    assert (image.digest, image.config_digest) == (BUILT.digest, BUILT.config_digest)
    assert tuple(layer.diff_id for layer in image.layers) == BUILT.diff_ids
    assert image.config.cmd == ("/bin/sh",)
    assert image.size == sum(layer.blob.size for layer in image.layers)
    assert stores.blobs(store) == {BUILT.digest, *BUILT.blobs}
    assert stores.leftovers(store) == []
    assert images.find(store, f"{plain}/team/app:v1") == image


@pytest.mark.parametrize("tag", ["zstd", "docker", "list"])
def test_every_kind_of_image_is_pulled(store: paths.Store, plain: str, tag: str) -> None:
    assert len(ensure(store, f"{plain}/team/app:{tag}").layers) == 1


def test_platform_is_chosen_from_an_index(store: paths.Store, plain: str) -> None:
    assert ensure(store, f"{plain}/team/app:index").digest == SMALL.digest
    assert ensure(store, f"{plain}/team/app:index", platform=OTHER).digest == FOREIGN.digest
    assert ensure(store, f"{plain}/team/app:index").digest == SMALL.digest
    with pytest.raises(UserError, match="has no image for linux/s390x"):
        ensure(store, f"{plain}/team/app:index", platform="s390x")


@attack(
    23,
    without("runner/image/fetch.py", 'if asked or system != "linux":', "if False:"),
)
def test_image_of_another_platform_is_a_warning_or_an_error_when_one_was_asked_for(
    store: paths.Store, plain: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ensure(store, f"{plain}/team/app:foreign").digest == FOREIGN.digest
    assert f"is for linux/{OTHER}, this machine is {HOST}" in capsys.readouterr().err
    with pytest.raises(UserError, match=f"is for linux/{OTHER}, not for {HOST}"):
        ensure(store, f"{plain}/team/app:foreign", platform=str(HOST))


@attack(
    23,
    without("runner/image/fetch.py", "ref.digest or ref.tag", "ref.tag or ref.digest"),
)
def test_digest_pins_an_image_whatever_its_tag_says(store: paths.Store, plain: str) -> None:
    pinned = f"{plain}/team/app:docker@{BUILT.digest}"
    assert ensure(store, pinned).digest == BUILT.digest
    with pytest.raises(UserError, match="image not found"):
        ensure(store, f"{plain}/team/app@sha256:{'0' * 64}")


@pytest.mark.parametrize("name", ["team/app:none", "team/none:v1"])
def test_missing_image_is_the_users_error(store: paths.Store, plain: str, name: str) -> None:
    with pytest.raises(UserError, match=f"image not found: registry {plain} has no {plain}/{name}") as caught:
        ensure(store, f"{plain}/{name}")
    assert caught.value.hint
    assert stores.blobs(store) == set()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[tuple[str, config.Settings]]:
    with docker_registry(tmp_path_factory.mktemp("guarded"), htpasswd=("me", "s3cret"), tls=certificates) as host:
        made.push(SMALL, f"{host}/team/app:v1", auth=("me", "s3cret"), ca=certificates.ca)
        yield host, config.Settings(registries=((host, config.Registry(ca_file=str(certificates.ca))),))


def test_password_over_tls_with_an_own_ca(
    store: paths.Store, guarded: tuple[str, config.Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    host, settings = guarded
    keychain = auth.Keychain(docker_auth_config=json.dumps({"auths": {host: {"username": "me", "password": "s3cret"}}}))
    assert ensure(store, f"{host}/team/app:v1", settings=settings, keychain=keychain).digest == SMALL.digest
    said = capsys.readouterr().err
    assert "Authenticating with credentials from $DOCKER_AUTH_CONFIG" in said
    assert "s3cret" not in said


@pytest.mark.parametrize("payload", [[], [("", "me", "wrong")], [("", "nobody", "s3cret")]])
def test_wrong_password_is_the_users_error(
    store: paths.Store, guarded: tuple[str, config.Settings], payload: list[tuple[str, str, str]]
) -> None:
    host, settings = guarded
    keychain = auth.Keychain(payload=[(host, user, password) for _, user, password in payload])
    with pytest.raises(UserError, match="credentials") as caught:
        ensure(store, f"{host}/team/app:v1", settings=settings, keychain=keychain)
    assert caught.value.hint
    assert stores.blobs(store) == set()


def test_registry_with_an_unknown_ca_is_an_error(store: paths.Store, guarded: tuple[str, config.Settings]) -> None:
    with pytest.raises(InfraError, match="cannot trust"):
        ensure(store, f"{guarded[0]}/team/app:v1")


def test_stored_private_image_is_authorised_again_by_always(store: paths.Store, guarded: tuple[str, config.Settings]) -> None:
    host, settings = guarded
    ensure(store, f"{host}/team/app:v1", settings=settings, keychain=auth.Keychain(payload=[(host, "me", "s3cret")]))
    with pytest.raises(UserError, match="wants credentials"):
        ensure(store, f"{host}/team/app:v1", "always", settings=settings)


def test_token_server_lets_in_who_may_pull(store: paths.Store, tmp_path: Path) -> None:
    tokens = TokenServer(tmp_path / "tokens", {"me": "s3cret"})
    with tokens.running(), docker_registry(tmp_path / "registry", token_server=tokens) as host:
        made.push(SMALL, f"{host}/team/app:v1", token=tokens.mint("team/app", ("pull", "push")))
        assert ensure(store, f"{host}/team/app:v1", keychain=auth.Keychain(payload=[(host, "me", "s3cret")])).digest == SMALL.digest
        for payload in ([], [(host, "me", "wrong")]):
            with pytest.raises(UserError, match="credentials"):
                ensure(store, f"{host}/team/app:v1", "always", keychain=auth.Keychain(payload=payload))
        tokens.users[""] = ""  # strangers may pull now
        assert ensure(store, f"{host}/team/app:v1", "always").digest == SMALL.digest
    assert len([path for path, user in tokens.requests if user == "me"]) == 2


# --- policies


def test_never_takes_only_what_is_stored(store: paths.Store, plain: str) -> None:
    with pytest.raises(UserError, match='the pull policy is "never"') as caught:
        ensure(store, f"{plain}/team/app:v1", "never")
    assert "dockless pull" in caught.value.hint
    ensure(store, f"{plain}/team/app:v1")
    assert ensure(store, f"{plain}/team/app:v1", "never").digest == BUILT.digest


def test_if_not_present_asks_no_registry_for_what_is_stored(store: paths.Store, capsys: pytest.CaptureFixture[str]) -> None:
    server = LyingRegistry()
    server.add(SMALL, "team/app", "v1")
    with server.running() as (host, seen):
        ensure(store, f"{host}/team/app:v1")
        asked = len(seen)
        ensure(store, f"{host}/team/app:v1", "if-not-present")
        assert len(seen) == asked
    assert 'Using locally found image version due to "if-not-present" pull policy' in capsys.readouterr().err


def test_always_notices_a_moved_tag_and_downloads_only_what_is_new(store: paths.Store) -> None:
    server = LyingRegistry()
    server.add(SMALL, "team/app", "v1")
    with server.running() as (host, seen):
        ensure(store, f"{host}/team/app:v1")
        seen.clear()
        (record,) = Path(store.images).iterdir()
        before = record.stat().st_ino
        ensure(store, f"{host}/team/app:v1", "always")
        assert record.stat().st_ino == before
        assert [request.path for request in seen] == ["/v2/team/app/manifests/v1"]
        moved = made.build_from_tars([made.tar([made.file("new", b"n")])], architecture=HOST.architecture)
        server.add(moved, "team/app", "v1")
        assert ensure(store, f"{host}/team/app:v1").digest == SMALL.digest
        assert ensure(store, f"{host}/team/app:v1", "always").digest == moved.digest
        assert ensure(store, f"{host}/team/app:v1").digest == moved.digest


def test_policies_are_tried_in_order(store: paths.Store, capsys: pytest.CaptureFixture[str]) -> None:
    server = LyingRegistry()
    server.add(SMALL, "team/app", "v1")
    with server.running() as (host, _):
        image = ensure(store, f"{host}/team/app:v1")
        server.lie = lambda request, answer: Answer(404, b"")
        assert ensure(store, f"{host}/team/app:v1", "always", "if-not-present") == image
        said = capsys.readouterr().err
        assert 'Failed to pull image with policy "always": image not found' in said
        assert f'Attempt #2: Trying "if-not-present" pull policy for "{host}/team/app:v1" image' in said
        with pytest.raises(UserError, match="never"):
            ensure(store, f"{host}/team/app:v2", "always", "never")


@pytest.mark.parametrize("policies", [("sometimes",), ("",), ("always", "Never")])
def test_unknown_policy_is_the_users_error(store: paths.Store, policies: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match="bad pull policy"):
        ensure(store, "alpine", *policies)


def test_lines_of_gitlabs_docker_executor_are_said(store: paths.Store, plain: str, capsys: pytest.CaptureFixture[str]) -> None:
    ensure(store, f"{plain}/team/app:v1")
    assert capsys.readouterr().err.splitlines() == [
        f"Pulling docker image {plain}/team/app:v1 ...",
        f"Using docker image {BUILT.config_digest} for {plain}/team/app:v1 with digest {plain}/team/app@{BUILT.digest} ...",
    ]


def test_toolbox_needs_nothing(tmp_path: Path) -> None:
    image = ensure(paths.Store(str(tmp_path / "none")), "toolbox", "always")
    assert (image.source, image.layers, image.config.cmd) == ("toolbox", (), ("/bin/bash",))


def test_stored_image_costs_no_import_of_requests(store: paths.Store, plain: str) -> None:
    ensure(store, f"{plain}/team/app:v1")
    code = f"""
import sys
from runner import config, paths
from runner.image import auth, pull
pull.ensure({plain + "/team/app:v1"!r}, store=paths.Store({store.root!r}), settings=config.Settings(), keychain=auth.Keychain())
print(*sys.modules)
"""
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert "runner.image.pull" in loaded
    assert not {"requests", "urllib3", "ssl", "hashlib", "runner.image.fetch"} & set(loaded)


# --- lies


def lying(image: made.BuiltImage) -> LyingRegistry:
    server = LyingRegistry()
    server.add(image, "team/app", "v1")
    return server


def refuse(store: paths.Store, server: LyingRegistry, error: type[Exception], match: str, *, name: str = "team/app:v1") -> None:
    with server.running() as (host, _), pytest.raises(error, match=match):
        ensure(store, f"{host}/{name}")
    assert images.all(store) == []


@attack(
    23,
    without("runner/image/fetch.py", "if reference.is_digest(name) and found.digest != name:", "if False:"),
)
def test_manifest_with_another_digest_than_asked_for_is_refused(store: paths.Store) -> None:
    server = lying(SMALL)
    server.answers[f"/v2/team/app/manifests/sha256:{'0' * 64}"] = server.answers["/v2/team/app/manifests/v1"]
    refuse(store, server, InfraError, "other content than sha256:000", name=f"team/app@sha256:{'0' * 64}")


@pytest.mark.parametrize("which", [SMALL.config_digest, SMALL.layer_digests[0]])
def test_blob_with_other_content_is_refused_and_does_not_enter(store: paths.Store, which: str) -> None:
    server = lying(SMALL)
    data = SMALL.blobs[which]
    server.answers[f"/v2/team/app/blobs/{which}"] = Answer(200, data[:-1] + b"?")
    refuse(store, server, InfraError, "other content")
    assert which not in stores.blobs(store)
    assert not Path(store.partial_blob(which)).exists()


@pytest.mark.parametrize("body", [SMALL.blobs[SMALL.layer_digests[0]][:-1], SMALL.blobs[SMALL.layer_digests[0]] + b"x"])
def test_blob_of_another_size_is_refused(store: paths.Store, body: bytes) -> None:
    server = lying(SMALL)
    server.answers[f"/v2/team/app/blobs/{SMALL.layer_digests[0]}"] = Answer(200, body)
    refuse(store, server, InfraError, "wrong size")


@attack(
    16,
    without("runner/image/fetch.py", "if announced and announced.size != found.size:", "if False:"),
)
def test_index_with_the_wrong_size_or_type_for_its_manifest_is_refused(store: paths.Store) -> None:
    for change in ({"size": 7}, {"mediaType": "application/vnd.docker.distribution.manifest.v2+json"}):
        index = made.build_index([SMALL])
        value = json.loads(index.manifests[index.digest][1])
        value["manifests"][0].update(change)
        raw = json.dumps(value).encode()
        server = lying(SMALL)
        server.answers["/v2/team/app/manifests/v1"] = Answer(200, raw, {"Content-Type": made.OCI_INDEX})
        refuse(store, server, UserError, "wrong size|contradicts itself")


@attack(
    17,
    without("runner/image/fetch.py", "for _ in range(manifest.MAX_DEPTH):", "for _ in range(1000):"),
)
def test_index_that_holds_itself_ends(store: paths.Store) -> None:
    server = lying(SMALL)
    inner = SMALL
    for _ in range(6):
        inner = made.build_index([inner])
        server.add(inner, "team/app", "v1")
    refuse(store, server, UserError, "nested more than 4 deep")


def test_manifest_and_config_that_disagree_on_layers_are_refused(store: paths.Store) -> None:
    manifest = json.loads(SMALL.manifests[SMALL.digest][1])
    manifest["layers"].pop()
    server = lying(SMALL)
    server.answers["/v2/team/app/manifests/v1"] = Answer(200, json.dumps(manifest).encode(), {"Content-Type": made.OCI_MANIFEST})
    refuse(store, server, UserError, "contradicts itself: 1 layers, 2 diff ids")


@attack(
    18,
    without(
        "runner/image/manifest.py",
        "    return Descriptor(kind, digest, size)",
        '    for url in value.get("urls", ()):\n        __import__("requests").get(url)\n    return Descriptor(kind, digest, size)',
    ),
)
def test_layer_with_urls_brings_no_request_to_them(store: paths.Store) -> None:
    attacker = LyingRegistry()
    with attacker.running() as (evil, asked):
        manifest = json.loads(SMALL.manifests[SMALL.digest][1])
        for layer in manifest["layers"]:
            layer["urls"] = [f"http://{evil}/layer"]
        server = lying(SMALL)
        server.answers["/v2/team/app/manifests/v1"] = Answer(200, json.dumps(manifest).encode(), {"Content-Type": made.OCI_MANIFEST})
        with server.running() as (host, _):
            ensure(store, f"{host}/team/app:v1")
    assert asked == []


def test_download_that_breaks_is_continued(store: paths.Store) -> None:
    server = lying(SMALL)
    broken: list[str] = []

    def lie(request: Request, answer: Answer) -> Answer | None:
        if SMALL.layer_digests[0] not in request.path or broken:
            return None
        broken.append(request.path)
        return answer._replace(cut_at=30_000)

    server.lie = lie
    with server.running() as (host, seen):
        assert ensure(store, f"{host}/team/app:v1").digest == SMALL.digest
    ranges = [request.headers.get("range", "") for request in seen if SMALL.layer_digests[0] in request.path]
    assert ranges == ["", "bytes=30000-"]


def test_failed_layer_ends_the_others_and_a_second_try_succeeds(store: paths.Store) -> None:
    server = lying(SMALL)
    server.lie = lambda request, answer: Answer(404, b"") if SMALL.layer_digests[1] in request.path else None
    with server.running() as (host, _):
        with pytest.raises(InfraError, match="no blob"):
            ensure(store, f"{host}/team/app:v1")
        assert images.all(store) == []
        server.lie = lambda request, answer: None
        assert ensure(store, f"{host}/team/app:v1").digest == SMALL.digest


# --- many at once, and faults


def puller(store: paths.Store, source: str) -> subprocess.Popen[bytes]:
    code = f"""
from runner import config, paths
from runner.image import auth, pull
pull.ensure({source!r}, store=paths.Store({store.root!r}), settings=config.Settings(), keychain=auth.Keychain())
"""
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)


@attack(
    52,
    without(
        "runner/image/blobs.py",
        "            exclusive = _take(path, shared=False)",
        "            exclusive = os.open(os.devnull, os.O_RDONLY)",
    ),
)
def test_ten_processes_download_each_blob_once(store: paths.Store) -> None:
    server = lying(SMALL)
    server.lie = lambda request, answer: answer._replace(delay_s=0.3) if "/blobs/" in request.path else None
    with server.running() as (host, seen):
        processes = [puller(store, f"{host}/team/app:v1") for _ in range(10)]
        for one in processes:
            _, words = one.communicate(timeout=100)
            assert one.returncode == 0, words.decode()
    asked = [request.path.rpartition("/")[2] for request in seen if "/blobs/" in request.path]
    assert sorted(asked) == sorted(SMALL.blobs)
    assert stores.blobs(store) == {SMALL.digest, *SMALL.blobs}
    assert stores.leftovers(store) == []


def test_killed_pull_leaves_nothing_but_what_the_next_one_continues(store: paths.Store) -> None:
    server = lying(SMALL)
    arrived = threading.Event()
    layer = SMALL.layer_digests[0]

    def stall(request: Request, answer: Answer) -> Answer | None:
        if layer in request.path and not arrived.is_set():
            arrived.set()
            return answer._replace(delay_s=1.0)
        return None

    server.lie = stall
    with server.running() as (host, _):
        victim = puller(store, f"{host}/team/app:v1")
        assert arrived.wait(20)
        os.kill(victim.pid, signal.SIGKILL)
        victim.communicate()
        assert images.all(store) == []
        assert layer not in stores.blobs(store)
        assert ensure(store, f"{host}/team/app:v1").digest == SMALL.digest
    assert stores.leftovers(store) == []


def test_full_disk_ends_the_pull_and_leaves_no_entry(tmp_path: Path) -> None:
    target = tmp_path / "small"
    target.mkdir()
    server = lying(SMALL)
    name = pwd.getpwuid(os.getuid()).pw_name
    uids, gids = (userns.subordinate_ranges(name, os.getuid(), f"/etc/{file}")[0] for file in ("subuid", "subgid"))
    # container root is the account; the other ids are there because setgroups(2) is refused without any
    own = IdMap((Extent(0, os.getuid(), 1), Extent(1, uids.start, 1)), (Extent(0, os.getgid(), 1), Extent(1, gids.start, 1)))
    with server.running() as (host, _):

        def pull_onto_a_small_disk() -> list[object]:
            syscalls.mount("none", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
            syscalls.mount("tmpfs", str(target), "tmpfs", 0, "size=96k,mode=700")
            store = stores.make(target / "store")
            (target / "filler").write_bytes(b"x" * 60_000)
            try:
                ensure(store, f"{host}/team/app:v1")
            except InfraError as e:
                left = [name for name in os.listdir(store.partial) if not name.endswith(".lock")]
                layer_is_there = SMALL.layer_digests[0] in stores.blobs(store)
                (target / "filler").unlink()
                again = ensure(store, f"{host}/team/app:v1")
                return [type(e).__name__, e.message, e.hint, left, layer_is_there, len(images.all(store)), again.digest]
            return []

        answer = userns.call(own, pull_onto_a_small_disk, flags=syscalls.CLONE_NEWNS)
    kind, message, hint, left, layer_is_there, _, digest = answer
    assert kind == "InfraError"
    assert "No space left on device" in message
    assert str(target) in message
    assert "dockless gc" in hint
    assert (left, layer_is_there) == ([], False)
    assert digest == SMALL.digest


def test_registry_that_is_down_is_temporary(store: paths.Store) -> None:
    with pytest.raises(Temporary, match="cannot reach registry"):
        ensure(store, "127.0.0.1:1/team/app:v1")


@attack(
    52,
    without(
        "runner/image/blobs.py",
        "    fd = locks.try_take(_lock_path(store, digest))\n    if fd is None:\n",
        "    fd = os.open(os.devnull, os.O_RDONLY)\n    if fd is None:\n",
    ),
)
def test_garbage_collection_during_a_pull_takes_nothing_of_it(store: paths.Store) -> None:
    server = lying(SMALL)

    def lie(request: Request, answer: Answer) -> Answer | None:
        blobs.collect_unused(store)
        return None

    server.lie = lie
    with server.running() as (host, _):
        image = ensure(store, f"{host}/team/app:v1")
        assert images.find(store, f"{host}/team/app:v1") == image


# --- progress

ONE, TWO = Descriptor("", "sha256:" + "1" * 64, 1000), Descriptor("", "sha256:" + "2" * 64, 0)


def test_summary_is_one_line_for_a_log() -> None:
    assert progress.summary([ONE, TWO], {ONE.digest: 500, TWO.digest: 0}) == "Downloaded 500 B of 1.0 kB, 1 of 2 layers complete"


def test_bars_fit_the_terminal() -> None:
    have = {ONE.digest: 500, TWO.digest: 0}
    lines = progress.bars([ONE, TWO], have, columns=100, rows=24)
    assert lines[0] == f"111111111111 {'█' * 15}{'·' * 15}  50% 500 B of 1.0 kB"
    assert lines[1].startswith(f"222222222222 {'█' * 30} 100%")
    assert all(len(line) < 20 for line in progress.bars([ONE, TWO], have, columns=20, rows=24))
    assert len(progress.bars([ONE] * 50, have, columns=80, rows=10)) == 8


def test_progress_in_a_log_is_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.Progress([ONE], live=False, line_every_s=0.05) as shown:
        report = shown.of(ONE)
        for have in range(0, 1001, 100):
            report(have)
        assert capsys.readouterr().err == ""
        time.sleep(0.06)
        report(1000)
        report(1000)
    assert capsys.readouterr().err == "Downloaded 1.0 kB of 1.0 kB, 1 of 1 layers complete\n"


def test_live_progress_redraws_its_own_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.Progress([ONE, TWO], live=True) as shown:
        time.sleep(0.11)
        shown.of(ONE)(100)
        time.sleep(0.11)
        shown.of(ONE)(1000)
    drawn = capsys.readouterr().err
    assert drawn.count("\033[2A") == 2
    assert drawn.count("111111111111") == 3
    assert "100% 1.0 kB of 1.0 kB" in drawn


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (864_000_000, "864.0 MB"), (999_960_000, "1.0 GB"), (5 * 10**15, "5000 TB")],
)
def test_sizes_are_written_for_people(count: int, text: str) -> None:
    assert progress.size_text(count) == text
