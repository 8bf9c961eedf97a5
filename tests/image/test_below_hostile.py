"""Layers that attack through the layers below or beside them: what those name is never reached, and nothing is learnt from it."""

import os
import tarfile
from pathlib import Path

import pytest

from runner.errors import UserError
from tests.support import archives, images, trees
from tests.support.defences import attack, without
from tests.support.images import TarEntry, directory, file, hardlink, symlink
from tests.support.trees import Tree

OPQ = ".wh..wh..opq"
UP = "../" * 40
UNPACK, BELOW = "runner/image/unpack.py", "runner/image/below.py"
WAY = "_RESOLVE = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS | syscalls.RESOLVE_NO_XDEV"
WAY_BELOW = f"{WAY} | syscalls.RESOLVE_NO_SYMLINKS"
ANYWHERE = "_RESOLVE = 0"


def state(probe: Path) -> Tree:
    return trees.scan(probe, first_id=0)


def stack(tmp_path: Path, *layers: list[TarEntry]) -> Tree:
    """Unpack layers over each other, as the product does, and return what a container would see. A refusal is fine."""
    done: list[Path] = []
    for number, entries in enumerate(layers):
        try:
            trees.unpack_tar(images.tar(entries), tmp_path / str(number), lower=done)
        except UserError as e:
            assert e.hint
        done.insert(0, tmp_path / str(number))
    return trees.stacked(done, tmp_path / "shown")


# --- D4 1, 2: names and links in one layer, besides those of test_unpack_hostile


@attack(1, without("runner/image/tar.py", 'if b"\\0" in path:', "if False:"))
@pytest.mark.parametrize("name", [b"x\0/../../{probe}/file", b"\0", b"{probe}/file\0"])
@pytest.mark.parametrize("key", [b"path", b"linkpath"])
def test_zero_byte_in_a_name_ends_no_name_early(tmp_path: Path, probe: Path, name: bytes, key: bytes) -> None:
    before = state(probe)
    record = archives.record(key, name.replace(b"{probe}", os.fsencode(probe)))
    raw = archives.extended(record) + archives.header(b"f", kind=b"1", link=b"x") + archives.END
    with pytest.raises(UserError, match="zero byte"):
        trees.unpack_tar(raw, tmp_path / "layer")
    assert state(probe) == before


@attack(2, without(UNPACK, 'if member.kind != "directory":', "if False:"))
@pytest.mark.parametrize("name", ["..", "a/..", "../.", ".", "/.", "a/../.."])
@pytest.mark.parametrize("there", ["{probe}", UP + "{probe}"])
def test_link_in_place_of_the_root_or_above_is_refused_and_leads_nowhere(tmp_path: Path, probe: Path, name: str, there: str) -> None:
    before = state(probe)
    entries = [symlink(name, there.format(probe=probe)), file(f"{name}/file", b"evil"), file("file", b"evil")]
    stack(tmp_path, entries)
    assert state(probe) == before
    assert not trees.in_keeper(lambda: os.path.islink(tmp_path / "0") or os.listdir(tmp_path / "0"))


def test_absolute_name_is_one_below_the_root(tmp_path: Path, probe: Path) -> None:
    before = state(probe)
    found = stack(tmp_path, [file(f"{probe}/file", b"inside"), directory(f"{probe}/sub", mode=0o700, uid=3)])
    assert found[f"{probe}/file"[1:]].text == "inside"
    assert state(probe) == before


# --- D4 3: links of lower layers


LOWER = [
    [symlink("etc", "{probe}")],
    [symlink("etc", "/{up}{probe}")],
    [symlink("real", "{probe}"), symlink("etc", "real")],
    [directory("real"), symlink("etc", "/proc/self/root{probe}")],
]


@pytest.mark.parametrize("lower", LOWER, ids=["absolute", "upwards", "chained", "proc"])
@pytest.mark.parametrize(
    "upper",
    [
        [file("etc/file", b"evil")],
        [file("etc/sub/new", b"evil")],
        [directory("etc/sub", mode=0o700, uid=5)],
        [TarEntry("etc/file", mode=0o4777, uid=5)],
        [file("etc/.wh.file")],
        [file("etc/sub/.wh.x")],
        [file(f"etc/{OPQ}")],
        [file(f"etc/sub/{OPQ}")],
        [file(OPQ)],
        [directory("etc", mode=0o700), file(OPQ)],
        [file("etc/new"), file(OPQ)],
        [symlink("etc/planted", "file")],
        [TarEntry("etc/pipe", tarfile.FIFOTYPE)],
        [hardlink("etc/h", "etc/file")],
        [file("x"), hardlink("etc/file", "x")],
    ],
)
def test_link_of_a_lower_layer_leads_no_upper_one_to_the_host(
    tmp_path: Path, probe: Path, lower: list[TarEntry], upper: list[TarEntry]
) -> None:
    before = state(probe)
    found = stack(tmp_path, [entry._replace(link=entry.link.format(probe=probe, up=UP)) for entry in lower], upper)
    assert state(probe) == before
    assert "untouched" not in {node.text for node in found.values()}


@attack(3, without(BELOW, WAY_BELOW, ANYWHERE))
def test_directory_without_description_does_not_look_as_one_of_the_host(tmp_path: Path, probe: Path) -> None:
    found = stack(tmp_path, [symlink("etc", str(probe)), symlink("deep", f"{probe}/..")], [file("etc/sub/x"), file(f"deep/{probe.name}/x")])
    assert [found[path].mode for path in ("etc", "etc/sub", "deep", f"deep/{probe.name}")] == [0o755] * 4


def test_directory_without_description_behind_a_link_of_its_own_layer_stays_as_it_was(tmp_path: Path, probe: Path) -> None:
    before = state(probe)
    lower = [directory("l", mode=0o700), directory("l/sub", mode=0o711)]
    stack(tmp_path, lower, [symlink("l", str(probe)), file("l/sub/x"), file("l/sub/deep/x")])
    assert state(probe) == before


# --- D4 4: hard links to what lies beside


@attack(4, without(UNPACK, 'if not there or b".." in there:', "if not there:", UNPACK, WAY, ANYWHERE))
def test_hard_link_to_a_file_of_another_layer_is_refused(tmp_path: Path) -> None:
    trees.unpack_tar(images.tar([file("theirs", b"x", mode=0o600)]), tmp_path / "other")
    before = trees.look(tmp_path / "other")
    for there in ("../other/theirs", f"{tmp_path}/other/theirs", "theirs", f"/proc/self/cwd{tmp_path}/other/theirs"):
        with pytest.raises(UserError, match="hard link"):
            trees.unpack_tar(images.tar([hardlink("h", there)]), tmp_path / f"layer{len(there)}", lower=[tmp_path / "other"])
    assert trees.look(tmp_path / "other") == before
    assert trees.in_keeper(lambda: os.stat(tmp_path / "other/theirs").st_nlink) == 1


# --- D4 6: whiteouts


@pytest.mark.parametrize("name", ["etc/.wh...", "etc/.wh..", ".wh.etc/file", "etc/.wh.", ".wh.", f"./{OPQ}", f"/{OPQ}", f"etc/../{OPQ}"])
def test_odd_whiteout_hides_nothing_of_the_host(tmp_path: Path, probe: Path, name: str) -> None:
    before = state(probe)
    stack(tmp_path, [symlink("etc", str(probe)), file("kept")], [file(name)])
    assert state(probe) == before


@attack(
    6,
    without(
        UNPACK,
        "and each container gets its own /dev\n                self._remove(parent, name)",
        "\n                self._remove(parent, name)\n                os.mknod(name, 0o20000, 0, dir_fd=parent)",
    ),
    more=(7,),
)
@pytest.mark.parametrize("device", [(0, 0), (1, 3), (8, 0)])
def test_device_of_an_image_is_neither_made_nor_a_whiteout(tmp_path: Path, device: tuple[int, int]) -> None:
    devices = [TarEntry(name, kind, device=device) for name in ("d/kept", "new") for kind in (tarfile.CHRTYPE, tarfile.BLKTYPE)]
    found = stack(tmp_path, [directory("d"), file("d/kept", b"1")], [directory("d"), *devices])
    assert {path: node.kind for path, node in found.items()} == {"": "directory", "d": "directory", "d/kept": "file"}


# --- D4 7: devices


@attack(7, without(UNPACK, WAY, ANYWHERE))
@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_special_file_through_a_link_is_made_nowhere(tmp_path: Path, probe: Path, kind: bytes) -> None:
    before = state(probe)
    stack(tmp_path, [symlink("dev", str(probe)), TarEntry("dev/file", kind, device=(1, 3)), TarEntry("dev/new", kind, device=(1, 3))])
    assert state(probe) == before
