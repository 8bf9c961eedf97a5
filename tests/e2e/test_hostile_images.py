"""Images that attack when a container starts: it starts, or is refused with a sentence; it never hangs and reaches nothing of the host."""

import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runner import paths
from runner.image import layer_names
from tests.support import images, trees
from tests.support.defences import attack, without
from tests.support.engine import Engine, Result
from tests.support.images import TarEntry, busybox_layer, directory, file, symlink

Run = Callable[..., Result]


@pytest.fixture
def run(engine: Engine, tmp_path: Path) -> Iterator[Run]:
    """Return a function that runs a script in an image of busybox and more layers."""

    def start(script: str, *more: list[TarEntry], without: tuple[str, ...] = ("none",), **config: Any) -> Result:
        base = [entry for entry in busybox_layer() if not entry.name.startswith(without)]
        built = images.build_image([base, *more], {"Env": [f"PATH={images.PATH}"], **config})
        images.write_oci_layout(tmp_path / "layout", built)
        return engine.run("run", "--image", f"oci:{tmp_path}/layout", "--", "sh", "-c", script)

    yield start
    # gc keeps the layers of stored images, and only their owners can remove them
    trees.in_keeper(lambda: trees.remove_all(Path(paths.Store(str(engine.state)).layers)))


@attack(7, without("runner/sandbox/users.py", "os.O_RDONLY | os.O_NONBLOCK |", "os.O_RDONLY |"))
@pytest.mark.parametrize("name", ["etc/passwd", "etc/group", "etc/resolv.conf", "etc/hosts", "etc/hostname"])
def test_fifo_where_a_file_is_read_holds_up_no_start(run: Run, name: str) -> None:
    result = run("echo started", [directory("etc"), TarEntry(name, tarfile.FIFOTYPE)], without=(name,))
    assert (result.code, result.out) == (0, "started\n")


@attack(
    9,
    without("runner/sandbox/rootfs.py", 'for name in ("dev", "proc", "sys"):', "for name in ():"),
    without("runner/sandbox/rootfs.py", "_RESOLVE = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS", "_RESOLVE = 0"),
)
@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("dev", 125, "image cannot be used: its /dev is not a directory"),
        ("proc", 125, "image cannot be used: its /proc is not a directory"),
        ("sys", 125, "image cannot be used: its /sys is not a directory"),
        ("etc", 125, "cannot be used in this image"),
        ("work", 125, "cannot be used in this image"),
        ("run", 0, ""),
        ("tmp", 0, ""),
    ],
)
def test_link_for_a_directory_that_a_container_needs_reaches_nothing_of_the_host(
    run: Run, probe: Path, name: str, code: int, words: str
) -> None:
    result = run(
        f"echo evil > file; echo evil > /{name}/file; true", [symlink(name, str(probe))], without=("tmp", "etc"), WorkingDir="/work"
    )
    assert {entry.name: entry.read_text() for entry in probe.iterdir()} == {"file": "untouched"}
    assert result.code == code
    assert words in result.err


def test_image_with_the_same_layer_twice_runs(run: Run) -> None:
    again = [directory("etc"), file("etc/again", b"again\n")]
    result = run("cat /etc/again; ls /etc/other", again, [directory("etc"), file("etc/.wh.again"), file("etc/other")], again)
    assert (result.code, result.out) == (0, "again\n/etc/other\n")


@attack(
    8,
    without(
        "runner/kernel/files.py",
        "def make_directory(path: str, *, mode: int = 0o700)",
        "def make_directory(path: str, *, mode: int = 0o755)",
    ),
)
def test_setuid_file_is_out_of_reach_for_other_users_of_the_host(run: Run, engine: Engine) -> None:
    assert run("true", [file("su", mode=0o4755)]).code == 0
    store = paths.Store(str(engine.state))
    for path in (store.layers, store.layer_map(layer_names.map_name(trees.isolated()))):
        assert os.stat(path).st_mode & 0o777 == 0o700
