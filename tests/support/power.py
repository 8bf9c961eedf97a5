"""A disk that can lose power: which renames a process makes below a directory, and what of them was flushed by then."""

import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest


class Rename(NamedTuple):
    """One rename: `flushed` tells whether the file had been flushed, `settled` whether its new directory was afterwards."""

    source: str
    target: str
    flushed: bool


class Disk:
    """Records os.rename and os.fsync of regular files below `root` while it is entered; then plays power failures on what came of them.

    Files only: layers, which are directories of other owners, have seals for this.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
        self.root = root
        self.renames: list[Rename] = []
        self._directories_flushed: dict[int, int] = {}  # by inode: how many renames had been made
        self._flushed: set[tuple[int, int]] = set()
        self._patched = monkeypatch.context()
        self._final: dict[str, bytes] = {}

    def __enter__(self) -> "Disk":
        patch = self._patched.__enter__()
        real_rename, real_fsync = os.rename, os.fsync

        def rename(source: Any, target: Any, **more: Any) -> None:
            info = os.stat(source, follow_symlinks=False, dir_fd=more.get("src_dir_fd"))
            real_rename(source, target, **more)
            if os.path.isfile(target) and str(target).startswith(str(self.root)):
                self.renames.append(Rename(str(source), str(target), (info.st_dev, info.st_ino) in self._flushed))

        def fsync(fd: int) -> None:
            info = os.fstat(fd)
            real_fsync(fd)
            self._flushed.add((info.st_dev, info.st_ino))
            self._directories_flushed[info.st_ino] = len(self.renames)

        patch.setattr(os, "rename", rename)
        patch.setattr(os, "fsync", fsync)
        return self

    def __exit__(self, *_: object) -> None:
        self._patched.__exit__(None, None, None)
        self._final = {rename.target: Path(rename.target).read_bytes() for rename in self.renames if os.path.isfile(rename.target)}

    def restore(self) -> None:
        """Put back all files as they were at the end."""
        for target, data in self._final.items():
            Path(target).write_bytes(data)

    def fail_after(self, point: int) -> None:
        """Leave the files as a power failure right after the rename number `point` could: unflushed ones empty, later ones gone."""
        done = {rename.target for rename in self.renames[:point]}
        for rename in self.renames:
            if rename.target not in done:
                Path(rename.target).unlink(missing_ok=True)
            elif not rename.flushed:
                os.truncate(rename.target, 0)
        for leftover in (self.root / "blobs/partial").glob("*"):
            leftover.unlink()
        shutil.rmtree(self.root / "jobs", ignore_errors=True)
        (self.root / "jobs").mkdir()
