"""What takes room on the disk, by kind: how much, and how much of it `gc` could free."""

import time
from collections.abc import Sequence
from typing import NamedTuple

from runner.job import disk_usage, gc_plan, inventory
from runner.job.disk_usage import Usage
from runner.job.gc_plan import Kind
from runner.job.inventory import Inventory, Kept
from runner.job.surroundings import Surroundings


class Row(NamedTuple):
    """One kind of things; `last_used` and `in_use` are told of single ones only."""

    kind: str
    number: int
    size_bytes: int
    reclaimable_bytes: int
    name: str = ""
    last_used: float = 0.0
    in_use: bool = False


class Report(NamedTuple):
    """What `dockless df` answers: rows that add up to everything, single images and what build users keep, and the file system."""

    rows: tuple[Row, ...]
    details: tuple[Row, ...]
    usage: Usage
    high: int
    low: int


def look(around: Surroundings) -> Report:
    """Measure a store. Raises like inventory.take; changes nothing."""
    found = inventory.take(around.store, around.account)
    limits = around.settings.gc
    return Report(rows(found, now=time.time()), details(found), disk_usage.of(around.store), limits.high, limits.low)


def rows(found: Inventory, *, now: float) -> tuple[Row, ...]:
    """Add up an inventory, layers by id map; reclaimable is what a plan for an empty disk would delete."""
    freed = {(deletion.kind, deletion.name): deletion.size_bytes for deletion in gc_plan.everything(found, now=now)}

    def row(kind: str, members: Sequence[tuple[str, int]], *kinds: Kind) -> Row:
        reclaimable = sum(freed.get((of, name), 0) for name, _ in members for of in kinds)
        return Row(kind, len(members), sum(size for _, size in members), reclaimable)

    by_map: dict[str, list[tuple[str, int]]] = {}
    for layer in found.layers:
        by_map.setdefault(layer.map_name, []).append((f"{layer.map_name}/{layer.name}", layer.size_bytes))
    return (
        row("images", [(image.name, image.size_bytes) for image in found.images], Kind.IMAGE),
        row("blobs", [(blob.digest, blob.size_bytes) for blob in found.blobs], Kind.BLOB, Kind.SPARE),
        *(row(f"layers {map_name}", members, Kind.LAYER) for map_name, members in sorted(by_map.items())),
        row("volumes", [(gc_plan.name_of(each), each.size_bytes) for each in found.volumes], Kind.VOLUME),
        row("build storage", [(gc_plan.name_of(each), each.size_bytes) for each in found.storage], Kind.STORAGE),
        row("jobs", [(job.key, job.size_bytes) for job in found.jobs], Kind.JOB),
        row("partial downloads", [(part.path, part.size_bytes) for part in found.downloads], Kind.DOWNLOAD),
        row("leftovers", [(rest.path, rest.size_bytes) for rest in found.rests], Kind.REST),
    )


def details(found: Inventory) -> tuple[Row, ...]:
    """List what has a last use, by kind and name: images with the blobs that they name, and what build users keep."""
    sizes = {blob.digest: blob.size_bytes for blob in found.blobs}
    listed = [
        Row("image", 1, sum(sizes.get(digest, 0) for digest in image.blobs), 0, image.name, image.last_used, image.in_use)
        for image in found.images
    ]
    return (*listed, *_kept("volume", found.volumes), *_kept("build storage", found.storage))


def _kept(kind: str, kept: Sequence[Kept]) -> list[Row]:
    return [Row(kind, 1, each.size_bytes, 0, gc_plan.name_of(each), each.last_used, each.in_use) for each in kept]
