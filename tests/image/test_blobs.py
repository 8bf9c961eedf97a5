"""The blob store: what may enter it, who may take it away, and what is left when something breaks."""

import errno
import os
import random
import resource
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner import paths
from runner.errors import InfraError, RunnerError, Temporary
from runner.image import blobs, download, images
from runner.kernel import locks, process
from runner.model import Descriptor, Image, ImageConfig, Layer
from tests.image.test_images import stored_image
from tests.support import stores
from tests.support.defences import attack, without
from tests.support.images import digest_of

DATA = random.Random(1).randbytes(200_000)
BLOB = Descriptor("application/octet-stream", digest_of(DATA), len(DATA))


@pytest.fixture
def store(tmp_path: Path) -> paths.Store:
    return stores.make(tmp_path / "store")


class Sender:
    """Sends `data` over connections that break after as many bytes as `cuts` says, one each; then whole. Notes the offsets asked for."""

    def __init__(
        self, data: bytes, *, cuts: list[int] | None = None, ranges: bool = True, total: int | None = None, delay_s: float = 0.0
    ) -> None:
        self.data, self.cuts, self.ranges = data, list(cuts or []), ranges
        self.total = len(data) if total is None else total
        self.delay_s = delay_s
        self.asked: list[int] = []

    @contextmanager
    def open_at(self, offset: int) -> Iterator["Connection"]:
        self.asked.append(offset)
        start = offset if self.ranges else 0
        left = self.cuts.pop(0) if self.cuts else len(self.data)
        yield Connection(self, start, left)


class Connection:
    def __init__(self, sender: Sender, offset: int, left: int) -> None:
        self.offset, self.total = offset, sender.total
        self._sender, self._at, self._left = sender, offset, left

    def read(self, most_bytes: int, /) -> bytes:
        time.sleep(self._sender.delay_s)
        if self._at < len(self._sender.data) and self._left == 0:
            raise Temporary("connection reset")
        chunk = self._sender.data[self._at : self._at + min(most_bytes, self._left)]
        self._at += len(chunk)
        self._left -= len(chunk)
        return chunk


def bring(store: paths.Store, sender: Sender, blob: Descriptor = BLOB) -> None:
    with blobs.Claim(store, pause_s=0.001) as claim:
        claim.need(blob, sender.open_at)


def content(store: paths.Store, blob: Descriptor = BLOB) -> bytes:
    return Path(store.blob(blob.digest)).read_bytes()


def test_blob_enters_whole_and_leaves_nothing_behind(store: paths.Store) -> None:
    bring(store, Sender(DATA))
    assert content(store) == DATA
    assert os.stat(store.blob(BLOB.digest)).st_mode & 0o777 == 0o600
    assert stores.leftovers(store) == []


def test_blob_that_is_there_is_not_asked_for(store: paths.Store) -> None:
    bring(store, Sender(DATA))
    again = Sender(DATA)
    bring(store, again)
    assert again.asked == []


@attack(
    50,
    without(
        "runner/image/blobs.py",
        "return os.stat(store.blob(blob.digest)).st_size == blob.size",
        "return os.path.exists(store.blob(blob.digest))",
    ),
)
def test_blob_cut_short_on_disk_is_brought_again(store: paths.Store) -> None:
    bring(store, Sender(DATA))
    os.truncate(store.blob(BLOB.digest), 100)
    bring(store, Sender(DATA))
    assert content(store) == DATA


def test_empty_blob_needs_no_connection(store: paths.Store) -> None:
    sender = Sender(b"")
    bring(store, sender, Descriptor("", digest_of(b""), 0))
    assert stores.blobs(store) == {digest_of(b"")}


def test_broken_download_is_continued_where_it_broke(store: paths.Store) -> None:
    sender = Sender(DATA, cuts=[70_000, 0, 50_000])
    bring(store, sender)
    assert content(store) == DATA
    assert sender.asked == [0, 70_000, 70_000, 120_000]


@attack(
    49,
    without("runner/image/download.py", "if stream.offset != part.size:", "if False:"),
)
def test_sender_without_ranges_is_heard_from_the_start(store: paths.Store) -> None:
    sender = Sender(DATA, cuts=[70_000, 90_000], ranges=False)
    bring(store, sender)
    assert content(store) == DATA


def test_sender_without_ranges_that_always_breaks_ends_as_temporary(store: paths.Store) -> None:
    with pytest.raises(Temporary, match="cannot download"):
        bring(store, Sender(DATA, cuts=[70_000] * 50, ranges=False))
    assert stores.blobs(store) == set()


def test_sender_that_gives_up_is_temporary_and_the_part_is_used_next_time(store: paths.Store) -> None:
    with pytest.raises(Temporary, match="connection reset"):
        bring(store, Sender(DATA, cuts=[100_000, 0, 0, 0, 0, 0, 0]))
    assert stores.blobs(store) == set()
    sender = Sender(DATA)
    bring(store, sender)
    assert sender.asked == [100_000]
    assert content(store) == DATA


@pytest.mark.parametrize("part", [b"x" * 1000, DATA[:-1] + b"?", DATA + b"more", b"y" * len(DATA)])
def test_damaged_part_of_an_earlier_download_is_thrown_away(store: paths.Store, part: bytes) -> None:
    Path(store.partial_blob(BLOB.digest)).write_bytes(part)
    bring(store, Sender(DATA))
    assert content(store) == DATA


def test_whole_part_of_an_earlier_download_needs_no_connection(store: paths.Store) -> None:
    Path(store.partial_blob(BLOB.digest)).write_bytes(DATA)
    sender = Sender(DATA)
    bring(store, sender)
    assert sender.asked == []
    assert content(store) == DATA


@attack(
    14,
    without(
        "runner/image/download.py",
        "if not part.has(request.blob):\n                raise",
        "if False:\n                raise",
    ),
    without("runner/image/download.py", "if stream.total not in (-1, blob.size):", "if False:"),
    without("runner/image/download.py", "if stream.total == -1 and stream.read(1):", "if False:"),
    more=(49,),
)
@pytest.mark.parametrize(
    ("sent", "total", "cause"),
    [
        (random.Random(2).randbytes(len(DATA)), None, "other content"),
        (DATA + b"x", None, "wrong size: 200001 bytes are offered, 200000 were announced"),
        (DATA[:-1], None, "wrong size: 199999 bytes are offered"),
        (DATA + b"x", -1, "wrong size: more than 200000 bytes arrive"),
        (b"", 5, "wrong size"),
    ],
)
def test_sender_that_lies_is_an_error_and_leaves_nothing(store: paths.Store, sent: bytes, total: int | None, cause: str) -> None:
    with pytest.raises(InfraError, match=cause) as caught:
        bring(store, Sender(sent, total=total))
    assert not isinstance(caught.value, Temporary)
    assert stores.blobs(store) == set()
    assert stores.leftovers(store) in ([], [Path(store.partial_blob(BLOB.digest)).name + ".lock"])


def test_sender_that_ends_early_without_saying_the_size_is_temporary(store: paths.Store) -> None:
    with pytest.raises(Temporary, match="ended after 199999 of 200000 bytes"):
        bring(store, Sender(DATA[:-1], total=-1))


def test_never_a_byte_more_than_announced_is_written(store: paths.Store) -> None:
    sizes: list[int] = []

    class Watched(Connection):
        def read(self, most_bytes: int, /) -> bytes:
            sizes.append(os.path.getsize(store.partial_blob(BLOB.digest)))
            return super().read(most_bytes)

    @contextmanager
    def open_at(offset: int) -> Iterator[Connection]:
        yield Watched(Sender(DATA * 3, total=-1), offset, len(DATA) * 3)

    with pytest.raises(InfraError), blobs.Claim(store) as claim:
        claim.need(BLOB, open_at)
    assert max(sizes) == len(DATA)


def test_sender_that_dribbles_is_left(tmp_path: Path) -> None:
    sender = Sender(DATA, cuts=[20] * 100, delay_s=0.01)
    request = download.Request(BLOB, sender.open_at, pause_s=0.001, slow_s=0.03)
    began = time.monotonic()
    with pytest.raises(Temporary):
        download.fetch(request, str(tmp_path / "part"))
    assert time.monotonic() - began < 5
    assert len(sender.asked) == 5


@attack(
    49,
    without("runner/image/download.py", "if part.size - window_size < _PROGRESS_BYTES:", "if False:"),
)
def test_slow_connection_is_left_in_its_middle(tmp_path: Path) -> None:
    class Slow(Connection):
        def read(self, most_bytes: int, /) -> bytes:
            time.sleep(0.01)
            return super().read(1)

    asked: list[int] = []

    @contextmanager
    def open_at(offset: int) -> Iterator[Connection]:
        asked.append(offset)
        yield Slow(Sender(DATA), offset, len(DATA))

    with pytest.raises(Temporary, match="too slowly"):
        download.fetch(download.Request(BLOB, open_at, pause_s=0.001, slow_s=0.05), str(tmp_path / "part"))
    assert len(asked) == 5


def limited(function: Callable[[], None]) -> Callable[[], None]:
    """Run with files of at most 100,000 bytes: what a full disk does, with EFBIG in place of ENOSPC."""

    def run() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        function()

    return run


@attack(
    48,
    without("runner/image/download.py", "    except OSError as e:\n        _unlink(path)\n", "    except OSError as e:\n"),
)
def test_full_disk_names_the_path_and_leaves_nothing(store: paths.Store) -> None:
    with pytest.raises(InfraError, match=f"cannot store blob .* in {store.root}") as caught:
        process.fork_call(limited(lambda: bring(store, Sender(DATA))))
    assert os.strerror(errno.EFBIG) in caught.value.message
    assert "dockless gc" in caught.value.hint
    assert stores.blobs(store) == set()
    assert not Path(store.partial_blob(BLOB.digest)).exists()
    bring(store, Sender(DATA))
    assert content(store) == DATA


def test_store_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InfraError, match="No such file"):
        bring(paths.Store(str(tmp_path / "none")), Sender(DATA))


def test_threads_that_need_one_blob_download_it_once(store: paths.Store) -> None:
    sender = Sender(DATA, delay_s=0.05)
    with blobs.Claim(store) as claim:
        threads = [threading.Thread(target=claim.need, args=(BLOB, sender.open_at)) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sender.asked == [0]
        assert blobs.collect(store, keep=set()) == 0
    assert content(store) == DATA


def test_cancelled_claim_brings_nothing_more(store: paths.Store) -> None:
    with blobs.Claim(store) as claim:
        claim.cancel(keep_parts=True)
        with pytest.raises(download.Cancelled):
            claim.need(BLOB, Sender(DATA).open_at)
    assert stores.blobs(store) == set()


def test_cancel_ends_a_download_under_way_and_one_that_waits(store: paths.Store) -> None:
    sender = Sender(DATA, cuts=[10] * 1000, delay_s=0.02)
    raised: list[type[BaseException]] = []

    def need() -> None:
        try:
            claim.need(BLOB, sender.open_at)
        except (download.Cancelled, RunnerError) as e:
            raised.append(type(e))

    with blobs.Claim(store, pause_s=0.01) as claim:
        threads = [threading.Thread(target=need) for _ in range(2)]
        for thread in threads:
            thread.start()
        time.sleep(0.05)
        claim.cancel(keep_parts=True)
        for thread in threads:
            thread.join(5)
    assert raised == [download.Cancelled] * 2


@pytest.mark.parametrize("keep_parts", [True, False])
def test_cancelled_download_keeps_its_part_only_where_a_next_try_is_likely(store: paths.Store, keep_parts: bool) -> None:
    sender = Sender(DATA, cuts=[50_000] * 4)
    with blobs.Claim(store, pause_s=0.001) as claim:

        def report(have: int) -> None:
            claim.cancel(keep_parts=keep_parts)

        with pytest.raises(download.Cancelled):
            claim.need(BLOB, sender.open_at, report)
    assert Path(store.partial_blob(BLOB.digest)).exists() is keep_parts


def test_progress_is_reported(store: paths.Store) -> None:
    heard: list[int] = []
    with blobs.Claim(store) as claim:
        claim.need(BLOB, Sender(DATA, cuts=[70_000]).open_at, heard.append)
    assert heard == sorted(heard)
    assert heard[-1] == len(DATA)


def test_content_in_memory_is_kept(store: paths.Store) -> None:
    with blobs.Claim(store) as claim:
        claim.keep(DATA, BLOB)
    assert content(store) == DATA


# --- the collector


def allocated(path: str) -> int:
    return os.stat(path).st_blocks * 512


def test_collector_takes_what_no_image_needs(store: paths.Store) -> None:
    image = stored_image(store)
    images.add(store, "alpine", image)
    bring(store, Sender(DATA))
    taken = allocated(store.blob(BLOB.digest))
    assert blobs.collect_unused(store) == taken >= len(DATA)
    assert images.find(store, "alpine") == image
    images.remove(store, "alpine")
    assert blobs.collect_unused(store) > 0
    assert stores.blobs(store) == set()
    assert blobs.collect_unused(store) == 0


def test_collector_leaves_what_a_pull_has_claimed(store: paths.Store) -> None:
    with blobs.Claim(store) as claim:
        claim.need(BLOB, Sender(DATA).open_at)
        assert blobs.collect_unused(store) == 0
        assert content(store) == DATA
    taken = allocated(store.blob(BLOB.digest))
    assert blobs.collect_unused(store) == taken


def test_collector_leaves_a_download_under_way_and_takes_a_dead_one(store: paths.Store) -> None:
    part = Path(store.partial_blob(BLOB.digest))
    part.write_bytes(DATA[:1000])
    with locks.hold(f"{part}.lock"):
        assert blobs.collect_unused(store) == 0
        assert part.exists()
    taken = allocated(str(part))
    assert blobs.collect_unused(store) == taken > 0
    assert stores.leftovers(store) == []


def test_collector_may_run_at_any_moment_of_a_pull(store: paths.Store) -> None:
    stop = threading.Event()

    def collect() -> None:
        while not stop.is_set():
            blobs.collect_unused(store)

    collector = threading.Thread(target=collect)
    collector.start()
    try:
        for turn in range(30):
            with blobs.Claim(store) as claim:
                parts = [f"{turn} {name}".encode() for name in ("manifest", "config", "layer")]
                for part in parts:
                    claim.keep(part, Descriptor("", digest_of(part), len(part)))
                manifest, config, layer = (Descriptor("", digest_of(part), len(part)) for part in parts)
                image = Image("x", manifest.digest, config.digest, (Layer(layer, digest_of(b"d")),), ImageConfig(), "linux/amd64", 1)
                images.add(store, f"alpine:{turn}", image)
            assert images.find(store, f"alpine:{turn}") == image
    finally:
        stop.set()
        collector.join()
    assert len(images.all(store)) == 30


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 70_000), max_size=8), st.booleans(), st.integers(0, len(DATA)), st.booleans())
def test_whatever_breaks_the_blob_is_whole_or_absent(cuts: list[int], ranges: bool, part: int, damaged: bool) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as root:
        store = stores.make(Path(root) / "store")
        Path(store.partial_blob(BLOB.digest)).write_bytes(b"?" * part if damaged else DATA[:part])
        try:
            bring(store, Sender(DATA, cuts=cuts, ranges=ranges))
        except Temporary:
            assert stores.blobs(store) == set()
            return
        assert content(store) == DATA
        assert stores.leftovers(store) == []
