"""Blobs whose connections break: at every byte, again and again, with registries that are busy in between."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner import config, paths
from runner.errors import Busy
from runner.image import auth, blobs, fetch, platforms, pull, reference, registry, transport
from tests.support import images as made
from tests.support import stores
from tests.support.defences import attack, without
from tests.support.registries import Answer, LyingRegistry, Request

HOST = platforms.host()
IMAGE = made.build_image([[made.file("a", b"short")]], architecture=HOST.architecture)
LAYER = IMAGE.layer_digests[0]
_SIZE = len(IMAGE.blobs[LAYER])


def serving() -> LyingRegistry:
    server = LyingRegistry()
    server.add(IMAGE, "team/app", "v1")
    return server


def pull_quickly(store: paths.Store, source: str) -> None:
    """Bring a manifest's layer as a pull does, without the half second after each break."""
    ref = reference.parse(source)
    plain = config.Settings(registries=((ref.registry, config.Registry(plain_http=True)),))
    patience = transport.Patience(first_pause_s=0.001)
    with registry.Client(ref, settings=plain, keychain=auth.Keychain(), patience=patience) as client:
        found = fetch.resolve(client, ref.tag, HOST, what=source)
        with blobs.Claim(store, pause_s=0.001) as claim:
            for blob in found.manifest.layers:
                claim.need(blob, lambda offset: client.blob(blob.digest, offset))  # noqa: B023 - called before the next turn


@attack(
    49,
    without("runner/image/download.py", "with request.open_at(part.size) as stream:", "with request.open_at(0) as stream:"),
)
def test_blob_that_breaks_at_any_byte_is_continued_right_there(tmp_path: Path) -> None:
    server = serving()
    cuts: list[int] = []
    server.lie = lambda request, answer: answer._replace(cut_at=cuts.pop()) if LAYER in request.path and cuts else None
    with server.running() as (host, seen):
        for at in range(_SIZE):
            store = stores.make(tmp_path / str(at))
            seen.clear()
            cuts.append(at)
            pull_quickly(store, f"{host}/team/app:v1")
            assert Path(store.blob(LAYER)).read_bytes() == IMAGE.blobs[LAYER]
            assert [request.headers.get("range", "") for request in seen if LAYER in request.path] == ["", f"bytes={at}-" if at else ""]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, _SIZE - 1), max_size=4), st.booleans(), st.sampled_from([0, 429, 503]))
def test_blob_that_breaks_again_and_again_is_whole_in_the_end(cuts: list[int], ranges: bool, busy: int) -> None:
    lies: list[Answer | int] = [*cuts]
    if busy:
        lies.insert(len(lies) // 2, Answer(busy, b"", {"Retry-After": "0"}))

    def lie(request: Request, answer: Answer) -> Answer | None:
        if LAYER not in request.path or not lies:
            return None
        one = lies.pop()
        return answer._replace(cut_at=one) if isinstance(one, int) else one

    server = serving()
    server.ranges, server.lie = ranges, lie
    with tempfile.TemporaryDirectory() as root, server.running() as (host, _):
        store = stores.make(Path(root) / "store")
        pull_quickly(store, f"{host}/team/app:v1")
        assert Path(store.blob(LAYER)).read_bytes() == IMAGE.blobs[LAYER]
        assert stores.leftovers(store) == []


def test_long_pause_that_a_registry_asks_for_in_the_middle_of_a_blob_ends_the_pull_and_keeps_the_part(tmp_path: Path) -> None:
    server = serving()
    lies = [Answer(429, b"", {"Retry-After": "3600"}), Answer(200, IMAGE.blobs[LAYER], cut_at=_SIZE // 2)]
    server.lie = lambda request, answer: lies.pop() if LAYER in request.path and lies else None
    store = stores.make(tmp_path / "store")
    with server.running() as (host, seen):
        with pytest.raises(Busy, match=f"registry {host} answers 429 and wants to be asked again in 3600 s"):
            pull.ensure(f"{host}/team/app:v1", store=store, settings=config.Settings(), keychain=auth.Keychain())
        assert len([request for request in seen if LAYER in request.path]) == 2
        # what had arrived is continued after that time
        assert pull.ensure(f"{host}/team/app:v1", store=store, settings=config.Settings(), keychain=auth.Keychain()).digest == IMAGE.digest
        assert seen[-1].headers.get("range") == f"bytes={_SIZE // 2}-"
