"""Layers that ask for more than a machine has: each is stopped with a sentence, in bounded memory, and the disk is as it was before."""

import gzip
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard

from runner import paths
from runner.errors import UserError
from runner.image import bounds, tar
from runner.image.bounds import Bounds
from runner.kernel import files
from tests.support import archives, images, stores, trees
from tests.support.archives import END, extended, header, padded, read_all, record
from tests.support.defences import attack, without
from tests.support.engine import TREE
from tests.support.images import BuiltImage, TarEntry, directory, file, hardlink, symlink
from tests.support.layered import free, left, on_small_disk, unpacked

BOUNDS, UNPACK, TAR = "runner/image/bounds.py", "runner/image/unpack.py", "runner/image/tar.py"
ZEROS = bytes(16 * 1024**2)
MIB = 1024**2


def from_blob(blob: bytes, diff_id: str = "sha256:" + "0" * 64) -> BuiltImage:
    """Return an image whose only layer is this blob, whatever is in it."""
    built = images.build_from_tars([b""])
    digest = images.digest_of(blob)
    return built._replace(blobs={**built.blobs, digest: blob}, layer_digests=(digest,), diff_ids=(diff_id,))


def member_of(size: int, *, name: bytes = b"bomb") -> bytes:
    return header(name, size=archives.base256(size))


def hundred_gib_of_zeros() -> bytes:
    """Return 3 MiB of zstd that say: a file of 100 GiB."""
    return zstandard.compress(member_of(100 * 1024**3)) + zstandard.compress(bytes(100 * MIB)) * 1024


def tiny_files(count: int, *, name: str = "{:07}") -> bytes:
    return b"".join(header(name.format(number).encode()) for number in range(count)) + END


def long_headers(count: int) -> bytes:
    """Return members that have a megabyte of notes each."""
    notes = extended(*(record(b"comment", b"c" * 10_000) for _ in range(100)))
    return (notes + header()) * count + END


# --- D4 1


@attack(1, without(UNPACK, 'if b".." in parts:', "if False:"))
@pytest.mark.parametrize("name", ["../../x", "a/../../x", "a/../x", "..", "../", "a/..", "/../x", "./../x", "../" * 60 + "tmp/x"])
@pytest.mark.parametrize("make", [file, directory, lambda name: symlink(name, "x")])
def test_name_that_leads_upwards_is_refused(tmp_path: Path, name: str, make: Callable[[str], TarEntry]) -> None:
    with pytest.raises(UserError, match="leads upwards"):
        trees.unpack_tar(images.tar([make(name)]), tmp_path / "layer")
    assert trees.in_keeper(lambda: os.listdir(tmp_path / "layer")) == []


# --- D4 10: bombs, on a disk where every block and inode counts


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[paths.Store]:
    with on_small_disk(tmp_path / "disk", "size=96m,nr_inodes=20k") as made:
        yield made


BOMBS = {
    "zstd": (hundred_gib_of_zeros, Bounds(total_bytes=32 * MIB), "more than 33554432 bytes of content"),
    "gzip": (lambda: gzip.compress(member_of(2**40)) + gzip.compress(ZEROS, 9) * 64, Bounds(total_bytes=32 * MIB), "bytes of content"),
    "ratio": (hundred_gib_of_zeros, Bounds(unsuspicious_bytes=32 * MIB), "expand to more than"),
    "after the end": (
        lambda: zstandard.compress(header() + END) + zstandard.compress(bytes(100 * MIB)) * 1024,
        Bounds(unsuspicious_bytes=32 * MIB),
        "expand to more than",
    ),
    "headers": (lambda: zstandard.compress(long_headers(40)), Bounds(unsuspicious_bytes=8 * MIB), "expand to more than"),
    "files": (lambda: zstandard.compress(tiny_files(15_000)), Bounds(members=10_000), "more than 10000 members"),
    "same file": (lambda: zstandard.compress(tiny_files(15_000, name="f")), Bounds(members=10_000), "more than 10000 members"),
    "directories": (
        lambda: zstandard.compress(tiny_files(9_000, name="{:080}/f")),
        Bounds(names_bytes=MIB),
        "names of directories that take more than",
    ),
    "empty members": (lambda: gzip.compress(b"") * 1_000_000, Bounds(seconds=0.05), "more than 0.05 seconds of processor time"),
    "empty frames": (lambda: zstandard.compress(b"") * 4_000_000, Bounds(seconds=0.05), "more than 0.05 seconds of processor time"),
    "slow members": (lambda: zstandard.compress(tiny_files(9_000)), Bounds(seconds=0.05), "more than 0.05 seconds of processor time"),
}


@attack(
    10,
    without(BOUNDS, "if self._written > self._bounds.total_bytes:", "if False:"),
    without(BOUNDS, "if self._members > self._bounds.members:", "if False:"),
    without(BOUNDS, "if self._names > self._bounds.names_bytes:", "if False:"),
    without(BOUNDS, "if written > max(bounds.unsuspicious_bytes, bounds.expansion * read):", "if False:"),
    without(BOUNDS, "signals.setitimer(signals.ITIMER_PROF, bounds.seconds)", "pass"),
    without("runner/image/unpacking.py", "stack.callback(self._discard_staging)", "pass"),
    more=(11,),
)
@pytest.mark.parametrize("kind", BOMBS)
def test_bomb_is_stopped_by_its_bound_and_gives_the_disk_back(disk: paths.Store, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    make, limits, words = BOMBS[kind]
    monkeypatch.setattr(bounds, "DEFAULT", limits._replace(reserve_bytes=0))
    image = stores.add(disk, from_blob(make()))
    (kept,) = unpacked(disk, stores.add(disk, images.build_image([[file("kept")]])))
    before = free(disk)
    with pytest.raises(UserError, match=words) as caught:
        unpacked(disk, image)
    assert caught.value.hint
    assert left(disk) == {kept.name}
    assert all(now >= then for now, then in zip(free(disk), before, strict=True))


# --- D4 10, 11: memory of the process that unpacks


def peak_mib(tmp_path: Path, raw: bytes) -> float:
    """Unpack a blob in a process of its own, as a worker does, and return how much memory that took at most, in MiB."""
    (tmp_path / "blob").write_bytes(raw)
    code = f"""
import os
from runner.image import bounds, layer_blob
from runner.errors import UserError
from runner.kernel import userns
from tests.support import trees
os.mkdir({str(tmp_path / "layer")!r})
trees.in_keeper(lambda: os.chown({str(tmp_path / "layer")!r}, 1, 1))
root = os.open({str(tmp_path / "layer")!r}, os.O_RDONLY)
blob = open({str(tmp_path / "blob")!r}, "rb")
def work():
    try:
        layer_blob.unpack_verified(blob, root, diff_id="", what="it", limits=bounds.Bounds(total_bytes=64 * 1024**2))
    except UserError as e:
        return [e.message, [line for line in open("/proc/self/status") if line.startswith("VmHWM")][0].split()[1]]
print(*userns.call(trees.isolated(), work), sep="\\n")
"""
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=TREE).stdout.splitlines()
    return int(said[-1]) / 1024


@attack(11, without("runner/image/layer_blob.py", "queue.Queue(_WAITING)", "queue.Queue()"), more=(10,))
@pytest.mark.parametrize(
    "make",
    [
        hundred_gib_of_zeros,
        lambda: zstandard.compress(tiny_files(15_000)),
        # a process that writes slower than it reads must not gather what it has read
        lambda: zstandard.compress((extended(record(b"comment", b"c" * 3000)) + header(b"./", kind=b"5")) * 50_000 + END),
        lambda: zstandard.compress(long_headers(100)),
    ],
    ids=["bomb", "files", "root", "headers"],
)
def test_memory_of_a_hostile_layer_is_bounded(tmp_path: Path, make: Callable[[], bytes]) -> None:
    assert peak_mib(tmp_path, make()) < 96


# --- D4 10: numbers


@attack(
    10,
    without(TAR, "if not 0 <= value < 2**63:", "if False:"),
    without(TAR, "    if not text.isdigit() or len(text) > 18:", "    if False:"),
)
@pytest.mark.parametrize("raw", [member_of(-1), member_of(-(2**62)), member_of(2**63), member_of(2**90)], ids=str)
def test_size_that_is_no_size_is_named(raw: bytes) -> None:
    with pytest.raises(tar.Malformed, match=r"a header has the size -?\d+$"):
        read_all(raw + bytes(MIB))
    with pytest.raises(tar.Malformed, match="where a number belongs"):
        read_all(extended(record(b"size", b"-1")) + header() + bytes(MIB))
    with pytest.raises(tar.Malformed, match="where a number belongs"):
        read_all(extended(record(b"size", b"1" * 30)) + header() + bytes(MIB))


@attack(10, without(TAR, '_decimal(extended, b"size", header.size)', "header.size"))
@pytest.mark.parametrize(("in_header", "in_pax"), [(0, 1536), (512, 1536), (1536, 512), (8**11 - 1, 512)])
def test_size_of_an_extended_header_counts_alone_so_that_no_member_hides_in_another_ones_content(in_header: int, in_pax: int) -> None:
    smuggled = (header(b"evil") * 3)[:in_pax]
    raw = extended(record(b"size", b"%d" % in_pax)) + header(b"outer", size=b"%011o" % in_header) + smuggled + header(b"after") + END
    assert [(one.member.path, len(one.data)) for one in read_all(raw)] == [(b"outer", in_pax), (b"after", 0)]


@attack(10, without(TAR, "if spent > _LONGEST_HEADER:", "if False:"))
@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K"])
@pytest.mark.parametrize("times", [1, 3])
def test_extended_headers_of_more_than_a_mebibyte_are_refused(kind: bytes, times: int) -> None:
    one = record(b"comment", b"c" * (3 * MIB // 2 // times))
    raw = (header(b"pax", kind=kind, size=b"%011o" % len(one)) + padded(one)) * times + header() + END
    with pytest.raises(tar.Malformed, match=r"an extended header has \d+ bytes"):
        read_all(raw)


@attack(10, without(TAR, " or size > _LARGEST_FILE", ""))
@pytest.mark.parametrize("size", [2**40 + 1, 2**59, 10**18 - 1])
def test_sparse_file_beyond_what_a_disk_holds_is_refused(size: int) -> None:
    raw = extended(record(b"GNU.sparse.size", b"%d" % size), record(b"GNU.sparse.map", b"0,0")) + header() + END
    with pytest.raises(tar.Malformed, match="another size than its pieces"):
        read_all(raw)


# --- D4 11: depth


def deep() -> list[images.TarEntry]:
    """Return a layer whose directories are 10,000 deep, though each name is short enough: links lead on from where the last name ended."""
    made, before = [], ""
    for number in range(6):
        down = before + "d/" * 1800
        made += [directory(f"{down}e"), symlink(f"l{number}", f"{down}e")]
        before = f"l{number}/"
    return made


@attack(
    11,
    without("runner/kernel/files.py", "walk = Walk(path)\n    errors", "return __import__('shutil').rmtree(path)\n    errors"),
)
def test_ten_thousand_directories_in_each_other_are_unpacked_counted_and_removed(disk: paths.Store) -> None:
    before = free(disk)
    (layer,) = unpacked(disk, stores.add(disk, images.build_image([deep()])))
    assert before[1] - free(disk)[1] > 10_000
    assert trees.in_keeper(lambda: files.disk_usage(str(layer))) >= 0
    trees.in_keeper(lambda: trees.remove_all(Path(disk.layers)))
    assert before[1] - free(disk)[1] < 10


# --- D4 13


@attack(13, without(TAR, 'raise Malformed("a header has a wrong checksum', 'return _Header(raw, raw[156:157], 0)  # ("'))
def test_header_with_a_wrong_checksum_is_told() -> None:
    with pytest.raises(tar.Malformed, match="wrong checksum"):
        read_all(header()[:100] + b"7" + header()[101:] + END)


# --- D4 4


@attack(4, without(UNPACK, "dst_dir_fd=parent, follow_symlinks=False)", "dst_dir_fd=parent, follow_symlinks=True)"))
def test_hard_link_to_a_symbolic_one_is_that_link_and_no_second_name_of_what_it_leads_to(tmp_path: Path, probe: Path) -> None:
    raw = images.tar([symlink("l", f"{probe}/file"), hardlink("h", "l")])
    trees.unpack_tar(raw, tmp_path / "layer")
    assert trees.look(tmp_path / "layer")["h"].kind == "symlink"
    assert (probe / "file").stat().st_nlink == 1


# --- D4 6


@attack(6, without(UNPACK, 'if name in (b"", b".", b".."):', "if False:"), without(UNPACK, "if part.startswith(_WHITEOUT):", "if False:"))
@pytest.mark.parametrize("name", [".wh...", ".wh..", ".wh.", "etc/.wh...", "etc/.wh..", "etc/.wh.", ".wh.etc/file", "a/.wh.b/c/.wh.d"])
def test_whiteout_of_what_cannot_be_and_what_lies_in_one_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"is a whiteout (of nothing that could exist|and no directory)"):
        trees.unpack_tar(images.tar([directory("etc"), file(name)]), tmp_path / "layer")


@attack(6, without(UNPACK, 'return ([b""] if b"" in self._opaque else []) + implicit', "return implicit"))
def test_opaque_marker_at_the_root_hides_what_lies_below_and_nothing_of_its_own_layer(tmp_path: Path) -> None:
    trees.unpack_tar(images.tar([file("old"), directory("both"), file("both/old")]), tmp_path / "lower")
    upper = images.tar([file("new"), file("both/new"), file(".wh..wh..opq")])
    trees.unpack_tar(upper, tmp_path / "upper", lower=[tmp_path / "lower"])
    assert set(trees.stacked([tmp_path / "upper", tmp_path / "lower"], tmp_path / "shown")) == {"", "new", "both", "both/new"}


# --- D4 8


@attack(8, without("runner/image/unpacker.py", "userns.enter(id_map)", "pass"))
def test_setuid_file_belongs_to_the_slice_that_unpacks_it_and_its_capability_counts_only_there(disk: paths.Store) -> None:
    capability = struct.pack("<5I", 0x02000001, 1 << 21, 0, 0, 0).decode("latin-1")
    entries = [file("su", mode=0o6755), file("app", mode=0o6755, uid=1000, gid=1000)]
    entries.append(TarEntry("ping", mode=0o755, pax={"SCHILY.xattr.security.capability": capability}))
    (layer,) = unpacked(disk, stores.add(disk, images.build_image([entries])))
    user = trees.first_user()
    found = {name: os.stat(layer / name) for name in ("su", "app")}
    assert {name: (info.st_uid - user.uid_start, info.st_gid - user.gid_start) for name, info in found.items()} == {
        "su": (0, 0),
        "app": (1000, 1000),
    }
    assert [info.st_mode & 0o7777 for info in found.values()] == [0o6755, 0o6755]
    seen = trees.in_keeper(lambda: os.getxattr(layer / "ping", "security.capability").hex())
    version, *_, root = struct.unpack("<6I", bytes.fromhex(seen))
    assert (version & 0xFF000000, root) == (0x03000000, 1)  # version 3, of the namespace whose root is the slice's first id
