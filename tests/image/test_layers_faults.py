"""Layers are unpacked whole or not at all: blobs are damaged, the disk is full, ten come at once, and one is killed."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runner import paths
from runner.errors import InfraError, RunnerError, UserError
from runner.image import layer_names, unpacker, unpacking, views
from runner.kernel import locks
from runner.model import Image
from tests.support import archives, images, stores, trees
from tests.support.defences import attack, without
from tests.support.engine import wait_until
from tests.support.images import BuiltImage, TarEntry, directory, file
from tests.support.layered import emptied, free, left, on_small_disk, short, unpacked

BASE = [directory("etc"), file("etc/conf", b"base", uid=7)]
TOP = [file("hello", b"hi")]
UNDESCRIBED = [file("shared/new")]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[paths.Store]:
    with emptied(tmp_path / "store") as made:
        yield made


# --- damage


def with_layer(built: BuiltImage, data: bytes) -> BuiltImage:
    """Return the image with other bytes under the digest of its last layer, as a damaged disk would have it."""
    return built._replace(blobs={**built.blobs, built.layer_digests[-1]: data})


def refusal(store: paths.Store, built: BuiltImage, error: type[RunnerError] = UserError) -> str:
    """Return why an image is refused, having looked that nothing is left of its last layer."""
    with pytest.raises(error) as caught:
        unpacked(store, stores.add(store, built))
    assert left(store) <= {short(diff_id) for diff_id in built.diff_ids[:-1]}
    assert caught.value.hint
    return caught.value.message


def test_layer_with_another_diff_id_than_announced_is_refused(store: paths.Store) -> None:
    built = images.build_image([BASE, TOP])
    wrong = built._replace(diff_ids=(built.diff_ids[0], "sha256:" + "5" * 64))
    words = refusal(store, wrong)
    assert "layer 2 of image test contradicts its image" in words
    assert built.diff_ids[1] in words


@attack(13, without("runner/image/layer_blob.py", "if pump.digest() != diff_id:", "if False:"))
@attack(
    50,
    without("runner/image/unpacking.py", "            if blobs.remove_damaged(self._store, blob):", "            if False:"),
)
@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "extended", "foreign"])
def test_damaged_blob_is_removed_and_the_whole_one_is_taken_afterwards(store: paths.Store, compression: str, damage: str) -> None:
    built = images.build_image([BASE, [file("big", os.urandom(100_000))]], compression=compression)
    good = built.blobs[built.layer_digests[1]]
    middle = len(good) // 2
    damaged = {
        "cut": good[:middle],
        "flipped": good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :],
        "emptied": b"",
        "extended": good + images.compress(bytes(512), compression),
        "foreign": b"BZh91AY&SY" + good,
    }[damage]
    words = refusal(store, with_layer(built, damaged), unpacking.Incomplete)
    assert words == f"blob {built.layer_digests[1]} was damaged on the disk and has been removed"
    assert built.layer_digests[1] not in stores.blobs(store)
    assert len(unpacked(store, stores.add(store, built))) == 2


def test_blob_that_is_gone_is_the_machines_fault(store: paths.Store) -> None:
    image = stores.add(store, images.build_image([TOP]))
    os.unlink(store.blob(image.layers[0].blob.digest))
    with pytest.raises(unpacking.Incomplete, match="not in the store") as caught:
        unpacked(store, image)
    assert "gc" not in caught.value.hint
    assert left(store) == set()


def test_member_that_cannot_be_leaves_nothing_of_its_layer(store: paths.Store) -> None:
    built = images.build_image([BASE, [file(f"f{number}") for number in range(200)] + [file("../escape")]])
    assert "leads upwards" in refusal(store, built)


def test_layer_whose_worker_ends_because_another_layer_failed_is_not_the_one_to_tell_about(
    store: paths.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = stores.add(store, images.build_image([BASE, TOP]))
    finish = unpacker.Filling.finish
    with unpacking.Unpacking(store, views.place(store, trees.isolated()), image.layers, source="test") as work:

        def finish_too_late(filling: unpacker.Filling, await_below: Callable[[], None]) -> tuple[bool, int]:
            work.abandon()
            os.waitid(os.P_PID, work._unpacker._pid, os.WEXITED | os.WNOWAIT)  # its worker is as good as ended then
            return finish(filling, await_below)

        monkeypatch.setattr(unpacker.Filling, "finish", finish_too_late)
        with pytest.raises(unpacking.Abandoned):
            work.finish(1)


def test_layer_that_cannot_be_given_its_place_is_told_as_the_disk_tells_it(store: paths.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    image = stores.add(store, images.build_image([TOP]))
    with unpacking.Unpacking(store, views.place(store, trees.isolated()), image.layers, source="test") as work:
        filling = work.follow(0, store.blob(image.layers[0].blob.digest))
        monkeypatch.setattr(layer_names, "seal", fail)
        with pytest.raises(OSError, match="Input/output error"):
            work.finish(0, filling)


# --- full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[paths.Store]:
    """A store on a disk of a megabyte and fifty files."""
    with on_small_disk(tmp_path / "small", "size=1m,nr_inodes=50") as made:
        yield made


@attack(
    48,
    without(
        "runner/image/unpacking.py",
        "[os.path.basename(path) for path in self._staging.values()]",
        "[]",
    ),
)
@pytest.mark.parametrize(
    "entries", [[file("big", bytes(2_000_000))], [file(f"f{number}") for number in range(60)]], ids=["blocks", "inodes"]
)
def test_full_disk_leaves_nothing_and_afterwards_there_is_room(small_disk: paths.Store, entries: list[TarEntry]) -> None:
    filler = stores.add(small_disk, images.build_image([[file("filler", bytes(100_000))]], compression="none"), "filler")
    image = stores.add(small_disk, images.build_image([TOP, entries], compression="zstd"))
    (kept,) = unpacked(small_disk, stores.add(small_disk, images.build_image([TOP])))
    before = free(small_disk)
    with pytest.raises(InfraError, match="No space left on device") as caught:
        unpacked(small_disk, image)
    assert "dockless gc" in caught.value.hint
    assert left(small_disk) == {kept.name}
    assert free(small_disk) == before
    assert len(unpacked(small_disk, filler)) == 1


def test_what_a_killed_process_left_makes_room_before_the_next_one_needs_it(small_disk: paths.Store) -> None:
    image = stores.add(small_disk, images.build_image([[file("big", bytes(600_000))]], compression="zstd"))
    (kept,) = unpacked(small_disk, stores.add(small_disk, images.build_image([TOP])))
    (kept.parent / ".rest.0123abcd").write_bytes(bytes(600_000))
    (path,) = unpacked(small_disk, image)
    assert left(small_disk) == {kept.name, path.name}


def test_disk_without_room_for_a_lock_is_the_machines_fault(small_disk: paths.Store) -> None:
    image = stores.add(small_disk, images.build_image([TOP]))
    for number in range(free(small_disk)[1]):
        Path(f"{small_disk.root}/{number}").touch()
    with pytest.raises(InfraError, match="No space left on device") as caught:
        unpacked(small_disk, image)
    assert "dockless gc" in caught.value.hint


# --- many at once, and killed ones


def unpacking_process(store: paths.Store, image: Image) -> "subprocess.Popen[str]":
    """Start a process that unpacks an image and prints each blob that it opens, and then the directories."""
    code = f"""
import sys
from runner import model, paths
from runner.image import layers
from runner.model import *
from tests.support import trees
sys.addaudithook(lambda event, args: event == "open" and str(args[0]).startswith({store.blobs!r}) and print("opened", args[0]))
print(*layers.lower_directories({image!r}, trees.isolated(), store=paths.Store({store.root!r})), sep="\\n")
"""
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)


@attack(
    52,
    without("runner/image/unpacking.py", "fd = locks.take(path, shared=is_there)", "fd = locks.take(path, shared=True)"),
)
def test_ten_processes_at_once_unpack_each_layer_once(store: paths.Store) -> None:
    image = stores.add(store, images.build_image([[file(f"f{number}") for number in range(500)], UNDESCRIBED, TOP]))
    processes = [unpacking_process(store, image) for _ in range(10)]
    said = [one.communicate(timeout=100)[0].splitlines() for one in processes]
    assert [one.returncode for one in processes] == [0] * 10
    opened = [line for lines in said for line in lines if line.startswith("opened")]
    assert sorted(opened) == sorted(f"opened {store.blob(layer.blob.digest)}" for layer in image.layers)
    found = {tuple(line for line in lines if not line.startswith("opened")) for lines in said}
    assert found == {tuple(map(str, unpacked(store, image)))}


def many_files(count: int) -> bytes:
    return b"".join(archives.header(b"f%06d" % number) for number in range(count)) + archives.END


@attack(
    47,
    without(
        "runner/image/unpacking.py",
        'entry.startswith(f".{name}.") and not entry.endswith(".lock")',
        "False",
    ),
)
def test_killed_process_leaves_nothing_once_the_next_one_has_come(store: paths.Store) -> None:
    image = stores.add(store, images.build_from_tars([many_files(30_000)]))
    directory_of_map = Path(store.layer_map(layer_names.map_name(trees.isolated())))
    with unpacking_process(store, image) as victim:
        assert wait_until(lambda: list(directory_of_map.glob(".*/f0*")), 60)
        os.kill(victim.pid, signal.SIGKILL)
    assert [name for name in left(store) if not name.startswith(".")] == []
    assert left(store)
    (path,) = unpacked(store, image)
    assert left(store) == {path.name}
    assert len(os.listdir(path)) == 30_000


def test_nothing_of_a_killed_process_goes_on_unpacking(store: paths.Store) -> None:
    image = stores.add(store, images.build_from_tars([many_files(30_000)]))
    lock = store.layer_lock(layer_names.map_name(trees.isolated()), short(image.layers[0].diff_id))
    with unpacking_process(store, image) as victim:
        assert wait_until(lambda: list(Path(store.layers).glob("*/.*[!k]/f0*")), 60)
        os.kill(victim.pid, signal.SIGKILL)
    with locks.hold(lock, timeout_s=20):
        rests = {path: len(os.listdir(path)) for path in Path(store.layers).glob("*/.*") if path.is_dir()}
        assert rests
        assert max(rests.values()) < 30_000
