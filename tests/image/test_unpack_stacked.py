"""Layers on top of each other: overlayfs shows what applying them one after the other to a dictionary gives."""

import tarfile
import tempfile
import zlib
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import images, trees
from tests.support.images import TarEntry, directory, file
from tests.support.trees import Node, Tree

OPQ = ".wh..wh..opq"


class Drawn(NamedTuple):
    """A layer to write: its members by path, what it hides, and in which order it is written."""

    members: dict[str, Node]
    gone: frozenset[str]
    opaque: frozenset[str]
    order: int


def parents(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]


def consistent(members: dict[str, Node], gone: set[str], opaque: set[str], order: int) -> Drawn:
    """Leave out what stands below something that this layer writes as no directory: its order would decide."""

    def fits(path: str) -> bool:
        return all(above not in members or members[above].kind == "directory" for above in parents(path))

    kept = {path: node for path, node in sorted(members.items()) if fits(path)}
    hidden = {path for path in gone if fits(path)}
    return Drawn(kept, frozenset(hidden), frozenset(path for path in opaque if path == "" or fits(f"{path}/x")), order)


paths = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join)
nodes = st.builds(
    lambda kind, bits, owner, text: Node(kind, 0o777 if kind == "symlink" else bits, owner, owner, "" if kind == "directory" else text),
    st.sampled_from(["file", "directory", "directory", "symlink"]),
    st.sampled_from([0o755, 0o700, 0o1777]),
    st.sampled_from([0, 7]),
    st.sampled_from(["one", "two"]),
)
drawn_layers = st.builds(
    consistent,
    st.dictionaries(paths, nodes, max_size=6),
    st.sets(paths, max_size=3),
    st.sets(st.one_of(paths, st.just("")), max_size=1),
    st.integers(0, 10**6),
)


def entries_of(layer: Drawn) -> list[TarEntry]:
    kinds = {"file": tarfile.REGTYPE, "directory": tarfile.DIRTYPE, "symlink": tarfile.SYMTYPE}
    made = [
        TarEntry(path, kinds[node.kind], node.text.encode() if node.kind == "file" else b"", node.mode, node.uid, node.gid, node.text)
        for path, node in layer.members.items()
    ]
    for path in sorted(layer.gone):
        head, _, tail = path.rpartition("/")
        made.append(file(f"{head}/.wh.{tail}" if head else f".wh.{tail}"))
    made += [file(f"{path}/{OPQ}" if path else OPQ) for path in sorted(layer.opaque)]
    return sorted(made, key=lambda entry: zlib.crc32(f"{layer.order} {entry.name}".encode()))


def apply(base: Tree, layer: Drawn) -> Tree:
    """Apply a layer as its specification says: first what it hides of the layers below, then what it writes."""
    hidden = [*layer.gone, *(f"{path}/" if path else "" for path in layer.opaque)]
    out = {path: node for path, node in base.items() if not any(is_at_or_below(path, one) for one in hidden)}
    wanted = [*layer.members, *layer.gone, *(f"{path}/x" if path else "x" for path in layer.opaque)]
    for path in sorted({above for one in wanted for above in parents(one)} - set(layer.members)):
        if path not in out or out[path].kind != "directory":
            out = {**{other: node for other, node in out.items() if other != path}, path: Node("directory", 0o755)}
    for path, node in layer.members.items():
        if node.kind != "directory":
            out = {other: kept for other, kept in out.items() if not is_at_or_below(other, path)}
        out[path] = node
    return out


def is_at_or_below(path: str, one: str) -> bool:
    """Tell it of a path, or for a path that ends with a slash (or is empty: the root) of what is below only."""
    return path.startswith(one) if one.endswith("/") or not one else path == one or path.startswith(f"{one}/")


def shown(layers: list[Drawn]) -> Tree:
    """Unpack layers, lowest first, mount them, and return what can be seen, without the root."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)

        def work() -> Tree:
            done: list[Path] = []
            for number, layer in enumerate(layers):
                target = root / str(number)
                target.mkdir()
                trees.fill_here(images.tar(entries_of(layer)), target, done)
                done.insert(0, target)
            (root / "empty").mkdir()
            return trees.scan_overlay(done, root / "empty", first_id=0)

        found = {path: Node(*node) for path, node in trees.in_keeper(work).items()}
        trees.in_keeper(lambda: trees.remove_all(root))
    return {path: Node(*node[:5]) for path, node in found.items() if path and node.kind != "ghost"}


@settings(max_examples=150)
@given(st.lists(drawn_layers, min_size=1, max_size=3))
def test_overlay_of_layers_shows_what_applying_them_in_turn_gives(layers: list[Drawn]) -> None:
    expected: Tree = {}
    for layer in layers:
        expected = apply(expected, layer)
    assert shown(layers) == expected


# --- directories without a description


def stack(tmp_path: Path, *layers: list[TarEntry]) -> tuple[Tree, list[list[str]]]:
    done: list[Path] = []
    implicit = []
    for number, entries in enumerate(layers):
        implicit.append(trees.unpack_tar(images.tar(entries), tmp_path / str(number), lower=done))
        done.insert(0, tmp_path / str(number))
    return trees.stacked(done, tmp_path / "empty"), implicit


def test_directory_without_a_description_looks_as_below(tmp_path: Path) -> None:
    found, implicit = stack(tmp_path, [TarEntry("tmp", tarfile.DIRTYPE, mode=0o1777, uid=3, gid=4, mtime=77)], [file("tmp/deep/x")])
    assert found["tmp"][1:4] == (0o1777, 3, 4)
    assert found["tmp"].mtime_ns == 77 * 10**9
    assert found["tmp/deep"][1:4] == (0o755, 0, 0)
    assert implicit == [[], ["tmp", "tmp/deep"]]


def test_description_that_comes_late_counts(tmp_path: Path) -> None:
    found, implicit = stack(tmp_path, [directory("tmp", mode=0o1777)], [file("tmp/x"), directory("tmp", mode=0o700)])
    assert found["tmp"].mode == 0o700
    assert implicit == [[], []]


def test_topmost_layer_below_decides(tmp_path: Path) -> None:
    layers = [directory("d", mode=0o711)], [directory("d", mode=0o750)], [file("d/x")], [file("d/y")]
    assert stack(tmp_path, *layers)[0]["d"].mode == 0o750


@pytest.mark.parametrize("between", [[file(".wh.d")], [file("d", b"x")], [images.symlink("d", "e")], [directory("d"), file("d/.wh.e")]])
def test_what_is_hidden_lends_nothing(tmp_path: Path, between: list[TarEntry]) -> None:
    found, _ = stack(tmp_path, [directory("d", mode=0o700, uid=5), directory("d/e", mode=0o700, uid=5)], between, [file("d/e/x")])
    assert found["d/e"][1:4] == (0o755, 0, 0)


@pytest.mark.parametrize("hides", [".wh.d", f"d/{OPQ}"])
@pytest.mark.parametrize("is_first", [True, False])
def test_what_the_layer_itself_hides_lends_nothing(tmp_path: Path, hides: str, is_first: bool) -> None:
    entries = [file(hides), file("d/e/x")] if is_first else [file("d/e/x"), file(hides)]
    found, implicit = stack(tmp_path, [directory("d/e", mode=0o700, uid=5)], entries)
    assert found["d/e"][1:4] == (0o755, 0, 0)
    assert "d/e" not in implicit[1]


def test_opaque_directory_lends_only_what_is_its_own(tmp_path: Path) -> None:
    found, _ = stack(tmp_path, [directory("d/e", mode=0o700)], [directory("d", mode=0o711), file(f"d/{OPQ}")], [file("d/e/x")])
    assert (found["d"].mode, found["d/e"].mode) == (0o711, 0o755)


def test_opaque_root_hides_everything_below_it(tmp_path: Path) -> None:
    below = [file("a"), directory("d", mode=0o700), file("d/old"), file("both", b"old")]
    found, implicit = stack(tmp_path, below, [file("d/new"), file("both", b"new"), file(OPQ)])
    assert set(found) == {"", "d", "d/new", "both"}
    assert (found["both"].text, found["d"].mode) == ("new", 0o755)
    assert "" in implicit[1]  # it depends on what is below, and must not be shared


def test_file_that_replaces_what_held_a_whiteout_stays(tmp_path: Path) -> None:
    below = [directory("a/b"), file("a/b/c")]
    found, _ = stack(tmp_path, below, [directory("a"), file(f"a/{OPQ}"), file("a/b/.wh.c"), file("a/b", b"new")])
    assert (found["a/b"].kind, found["a/b"].text) == ("file", "new")
