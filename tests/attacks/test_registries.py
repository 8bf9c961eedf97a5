"""Registries that lie about sizes, types, digests and places: what the tests of the client, of blobs and of pulls do not try already."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner import config, paths
from runner.errors import InfraError, RunnerError, UserError
from runner.image import auth, fetch, images, platforms
from runner.model import Image
from tests.support import images as made
from tests.support import stores
from tests.support.defences import attack, without
from tests.support.engine import Engine
from tests.support.registries import Answer, LyingRegistry, Request, serve

HOST = platforms.host()
BUILT = made.build_image([[made.file("a", b"x" * 1000)]], architecture=HOST.architecture)
MOVED = made.build_image([[made.file("a", b"y" * 1000)]], architecture=HOST.architecture)
LAYER = BUILT.layer_digests[0]
MANIFEST: dict[str, Any] = json.loads(BUILT.manifests[BUILT.digest][1])


@pytest.fixture
def store(tmp_path: Path) -> paths.Store:
    return stores.make(tmp_path / "store")


def lying(**changes: object) -> LyingRegistry:
    """Return a registry whose team/app:v1 has another manifest."""
    server = LyingRegistry()
    server.add(BUILT, "team/app", "v1")
    if changes:
        raw = json.dumps({**MANIFEST, **changes}).encode()
        server.answers["/v2/team/app/manifests/v1"] = Answer(200, raw, {"Content-Type": made.OCI_MANIFEST})
    return server


def pull(store: paths.Store, host: str, name: str = "team/app:v1", *, keychain: auth.Keychain | None = None) -> Image:
    return fetch.fetch(f"{host}/{name}", store=store, settings=config.Settings(), keychain=keychain or auth.Keychain())


def refuse(store: paths.Store, server: LyingRegistry, error: type[RunnerError], match: str) -> None:
    with server.running() as (host, _), pytest.raises(error, match=match):
        pull(store, host)
    assert images.all(store) == []
    assert stores.leftovers(store) == []


@attack(14, without("runner/image/download.py", "if stream.total not in (-1, blob.size):", "if False:"))
@pytest.mark.parametrize("part", ["config", "layer"])
@pytest.mark.parametrize("more", [1, -1])
def test_blob_with_the_right_digest_and_another_size_than_announced_is_refused(store: paths.Store, part: str, more: int) -> None:
    described = dict(MANIFEST["config"] if part == "config" else MANIFEST["layers"][0])
    described["size"] += more
    refuse(store, lying(**{"config": described} if part == "config" else {"layers": [described]}), InfraError, "has the wrong size")


@attack(15, without("runner/image/manifest.py", "or not reference.is_digest(digest)", ""))
@pytest.mark.parametrize("digest", ["sha256:../../probe", "sha256:" + "A" * 64, "sha256:" + "a" * 63, "sha512:" + "a" * 128, "/etc/passwd"])
def test_digest_is_never_a_path(store: paths.Store, tmp_path: Path, digest: str) -> None:
    (tmp_path / "probe").write_text("untouched")
    server = lying(layers=[{**MANIFEST["layers"][0], "digest": digest}])
    with server.running() as (host, seen):
        with pytest.raises(UserError, match="bad digest"):
            pull(store, host)
        assert len(seen) == 1
    assert (tmp_path / "probe").read_text() == "untouched"


@attack(16, without("runner/image/fetch.py", "and said != announced.media_type:", "and False:"))
def test_one_digest_that_is_announced_as_one_type_and_served_as_another_is_refused(store: paths.Store) -> None:
    nameless = {key: value for key, value in MANIFEST.items() if key != "mediaType"}
    raw = json.dumps(nameless).encode()
    inner = {**made.descriptor(made.DOCKER_MANIFEST, raw), "platform": {"os": "linux", "architecture": HOST.architecture}}
    index = json.dumps({"schemaVersion": 2, "mediaType": made.OCI_INDEX, "manifests": [inner]}).encode()
    server = lying()
    server.answers["/v2/team/app/manifests/v1"] = Answer(200, index, {"Content-Type": made.OCI_INDEX})
    server.answers[f"/v2/team/app/manifests/{inner['digest']}"] = Answer(200, raw, {"Content-Type": made.OCI_MANIFEST})
    refuse(store, server, UserError, "contradicts itself: announced as")


@attack(17, without("runner/image/fetch.py", "for _ in range(manifest.MAX_DEPTH):", "for _ in range(2000):"))
def test_a_thousand_indexes_in_a_row_are_not_followed(store: paths.Store) -> None:
    server, inner = lying(), BUILT
    for _ in range(1000):
        media_type, raw = inner.manifests[inner.digest]
        entry = {**made.descriptor(media_type, raw), "platform": {"os": "linux", "architecture": HOST.architecture}}
        raw = json.dumps({"schemaVersion": 2, "mediaType": made.OCI_INDEX, "manifests": [entry]}).encode()
        digest = made.digest_of(raw)
        inner = made.BuiltImage(digest, {digest: (made.OCI_INDEX, raw)}, {}, "", (), (), {})
        server.add(inner, "team/app", "v1")
    with server.running() as (host, seen):
        with pytest.raises(UserError, match="nested more than 4 deep"):
            pull(store, host)
        assert len(seen) == 4


@attack(19, without("runner/image/challenge.py", 'check_target(realm, asked_by=registry_url, what="token realm")', "pass"))
@pytest.mark.parametrize("path", ["/token", "/token?service=x&scope=repository:other/secret:push"])
def test_realm_at_another_host_hears_no_credentials_and_is_named(store: paths.Store, path: str) -> None:
    with serve(lambda request: Answer(200, b'{"token":"x"}')) as (attacker, asked):
        realm = f"http://{attacker.replace('127.0.0.1', 'localhost')}{path}"
        server = lying()
        server.lie = lambda request, truth: Answer(401, b"", {"WWW-Authenticate": f'Bearer realm="{realm}",service="s"'})
        named = f"token realm that may not be used: '{realm.partition('?')[0]}'"
        with server.running() as (host, _), pytest.raises(UserError, match=named):
            pull(store, host, keychain=auth.Keychain(payload=[(host, "me", "s3cret")]))
    assert asked == []


def elsewhere(storage: str) -> Callable[[Request, Answer], Answer | None]:
    """A registry with a password that sends for blobs to another server."""

    def lie(request: Request, truth: Answer) -> Answer | None:
        if not request.basic():
            return Answer(401, b"", {"WWW-Authenticate": 'Basic realm="x"'})
        return Answer(307, b"", {"Location": f"http://{storage}{request.path}"}) if "/blobs/" in request.path else None

    return lie


@attack(
    20,
    without("runner/image/transport.py", 'kept.pop("Authorization", None)', "pass"),
    without(
        "runner/image/download.py",
        "if not part.has(request.blob):\n                raise",
        "if False:\n                raise",
    ),
)
@pytest.mark.parametrize("spoilt", ["config", "layer"])
def test_blob_from_where_the_registry_sends_us_is_checked_and_no_password_goes_there(store: paths.Store, spoilt: str) -> None:
    which = BUILT.config_digest if spoilt == "config" else LAYER

    def answer(request: Request) -> Answer:
        digest = request.path.rpartition("/")[2]
        body = BUILT.blobs[digest]
        return Answer(200, body[:-1] + b"?" if digest == which else body)

    with serve(answer) as (storage, stored):
        server = lying()
        server.lie = elsewhere(storage)
        with server.running() as (host, _), pytest.raises(InfraError, match=f"blob {which} has other content"):
            pull(store, host, keychain=auth.Keychain(payload=[(host, "me", "s3cret")]))
    assert stored and not any("authorization" in request.headers for request in stored)
    assert which not in stores.blobs(store)
    assert images.all(store) == []


# a tag that is asked for twice, as other clients do by HEAD and GET, is two chances for the registry
@attack(
    23,
    without(
        "runner/image/fetch.py",
        "        resolved = resolve(opened.origin, opened.root, wanted,",
        "        opened.origin.manifest(opened.root)\n        resolved = resolve(opened.origin, opened.root, wanted,",
    ),
)
def test_tag_that_moves_while_it_is_pulled_gives_what_it_first_named(store: paths.Store) -> None:
    server = lying()

    def lie(request: Request, truth: Answer) -> Answer | None:
        if request.path.endswith("/manifests/v1"):
            server.add(MOVED, "team/app", "v1")
        return None

    server.lie = lie
    with server.running() as (host, seen):
        image = pull(store, host)
        assert [request.path for request in seen].count("/v2/team/app/manifests/v1") == 1
    assert (image.digest, image.config_digest, image.layers[0].blob.digest) == (BUILT.digest, BUILT.config_digest, LAYER)


@attack(
    21,
    without("runner/job/push.py", "    upload_place.check(ref, settings=around.settings, keychain=keychain)\n", ""),
    without("runner/image/upload_place.py", "if not transport.is_same_origin(location, url):", "if False:"),
)
@pytest.mark.parametrize("lie", ["location", "realm", "redirect"])
def test_push_sends_neither_password_nor_blob_to_another_host(engine: Engine, tmp_path: Path, lie: str) -> None:
    made.write_oci_layout(tmp_path / "layout", BUILT)
    with serve(lambda request: Answer(201, b'{"token":"x"}', {"Location": request.path})) as (attacker, asked):
        evil = f"http://{attacker.replace('127.0.0.1', 'localhost')}/steal"

        def answer(request: Request) -> Answer:
            if not request.headers.get("authorization"):
                wanted = f'Bearer realm="{evil}",service="s"' if lie == "realm" else 'Basic realm="x"'
                return Answer(401, b"", {"WWW-Authenticate": wanted})
            if request.method == "POST":
                return Answer(307 if lie == "redirect" else 202, b"", {"Location": evil})
            return Answer(200, b"{}") if request.path == "/v2/" else Answer(404, b"{}")

        with serve(answer) as (host, _):
            name = f"{host}/team/app:v1"
            assert engine.run("pull", f"oci:{tmp_path}/layout").code == 0
            credentials = {"DOCKER_AUTH_CONFIG": json.dumps({"auths": {host: {"username": "me", "password": "s3cret"}}})}
            result = engine.run("push", f"oci:{tmp_path}/layout", name, env=credentials)
    assert asked == []
    assert result.code == 1, result
    assert "another host" in result.err or "may not be used" in result.err
    assert "s3cret" not in result.err
