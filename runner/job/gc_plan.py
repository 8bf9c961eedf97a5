"""What the collector will remove, and why: a pure function of what is on the disk, how full it is, and the settings."""

from collections import Counter
from collections.abc import Iterator, Sequence
from enum import StrEnum, auto
from typing import NamedTuple

from runner import config, quantities
from runner.job.disk_usage import Usage
from runner.job.inventory import Image, Inventory, Kept


class Kind(StrEnum):
    """What a deletion removes."""

    JOB = auto()
    REST = auto()
    DOWNLOAD = auto()
    BLOB = auto()
    SPARE = "spare blob"  # one that an image names, and that can be fetched again
    LAYER = auto()
    IMAGE = auto()
    VOLUME = auto()
    STORAGE = auto()


class Deletion(NamedTuple):
    """One thing to remove. `name` says which: key, path, digest, map/layer, reference, build user/slot/volume, build user/engine/slot."""

    kind: Kind
    name: str
    size_bytes: int
    reason: str
    last_used: float = 0.0  # when it was, as far as the plan knows


def plan(found: Inventory, limits: config.Gc, usage: Usage, *, now: float) -> tuple[Deletion, ...]:
    """Choose, in this order: what nobody can need, what is beyond a limit of its own, and above the high mark what was used longest ago.

    Nothing in use is ever chosen. Above the high mark it goes on until the low one is reached or nothing is left; once it was reached, the
    next plan is empty.
    """
    chosen = [*_left_behind(found), *_unnamed(found)]
    for kind, kept in ((Kind.VOLUME, found.volumes), (Kind.STORAGE, found.storage)):
        chosen += _beyond_limits(kind, kept, limits, now=now)
    if usage.is_above(limits.high):
        low = min(limits.low, limits.high)
        freed = sum(each.size_bytes for each in chosen)
        for group in _by_last_use(found, chosen, limits.high, now=now):
            if not usage.is_above(low, freed_bytes=freed):
                break
            chosen += group
            freed += sum(each.size_bytes for each in group)
    return tuple(chosen)


def everything(found: Inventory, *, now: float) -> tuple[Deletion, ...]:
    """Choose all that is not in use."""
    return plan(found, config.Gc(high=0, low=0), Usage(1 << 62, 0), now=now)


def _left_behind(found: Inventory) -> Iterator[Deletion]:
    for job in found.jobs:
        if job.is_dead:
            yield Deletion(Kind.JOB, job.key, job.size_bytes, "it has ended, and nobody has cleaned up")
    for rest in found.rests:
        if not rest.in_use:
            yield Deletion(Kind.REST, rest.path, rest.size_bytes, "a killed process left it")
    for part in found.downloads:
        if not part.in_use:
            yield Deletion(Kind.DOWNLOAD, part.path, part.size_bytes, "nobody is downloading it")
    for layer in found.layers:
        if not layer.is_whole and not layer.in_use:
            yield Deletion(Kind.LAYER, f"{layer.map_name}/{layer.name}", layer.size_bytes, "it is not whole")


def _unnamed(found: Inventory) -> Iterator[Deletion]:
    blobs = {digest for image in found.images for digest in image.blobs}
    layers = {name for image in found.images for name in image.layers}
    for blob in found.blobs:
        if blob.digest not in blobs and not blob.in_use:
            yield Deletion(Kind.BLOB, blob.digest, blob.size_bytes, "no stored image names it")
    for layer in found.layers:
        if layer.name not in layers and not layer.in_use and layer.is_whole:
            yield Deletion(Kind.LAYER, f"{layer.map_name}/{layer.name}", layer.size_bytes, "no stored image names it")


def _beyond_limits(kind: Kind, kept: Sequence[Kept], limits: config.Gc, *, now: float) -> Iterator[Deletion]:
    """Choose what is older than its limit, then of each build user that has more than the limit what it used longest ago."""
    what = "volumes" if kind is Kind.VOLUME else "storage"
    age = limits.volumes_max_age if kind is Kind.VOLUME else limits.storage_max_age
    size = limits.volumes_max_size if kind is Kind.VOLUME else limits.storage_max_size
    total = Counter[str]()
    for each in kept:
        total[each.build_user] += each.size_bytes
    for each in sorted(kept, key=_last_use):
        if each.in_use:
            continue
        if age and now - each.last_used > age:
            reason = f"last used {_ago(each.last_used, now)}: gc.{what}_max_age is {quantities.duration(age)}"
        elif size and total[each.build_user] > size:
            reason = f"build user {each.build_user} has more than gc.{what}_max_size"
        else:
            continue
        total[each.build_user] -= each.size_bytes
        yield _of_kept(kind, each, reason)


def _by_last_use(found: Inventory, chosen: Sequence[Deletion], high: int, *, now: float) -> Iterator[list[Deletion]]:
    """Yield what else may go, one after another: spare blobs, then images with what only they need, volumes and storage."""
    taken = {(each.kind, each.name) for each in chosen}
    why = f"the disk is fuller than {high} %"
    names = _Names(found, taken)
    for digest, last_used in names.spare():
        names.gone.add(digest)
        yield [Deletion(Kind.SPARE, digest, names.blobs[digest].size_bytes, f"{why}, and its layer is unpacked", last_used)]
    idle: list[tuple[float, Kind, str, Image | Kept]] = [
        (image.last_used, Kind.IMAGE, image.name, image) for image in found.images if not image.in_use
    ]
    for kind, kept in ((Kind.VOLUME, found.volumes), (Kind.STORAGE, found.storage)):
        idle += [
            (each.last_used, kind, name_of(each), each) for each in kept if not each.in_use and (kind, name_of(each)) not in taken
        ]  # fmt: skip
    for last_used, kind, _, each in sorted(idle, key=lambda entry: entry[:3]):
        reason = f"{why}; last used {_ago(last_used, now)}"
        yield names.forget(each, reason) if isinstance(each, Image) else [_of_kept(kind, each, reason)]


class _Names:
    """Who still names which blobs and layers while one image after another is forgotten."""

    def __init__(self, found: Inventory, taken: set[tuple[Kind, str]]) -> None:
        self.blobs = {blob.digest: blob for blob in found.blobs}
        self.gone = {name for kind, name in taken if kind in (Kind.BLOB, Kind.SPARE)}
        self._images, self._layers = found.images, found.layers
        self._blob_names = Counter(digest for image in found.images for digest in image.blobs)
        self._layer_names = Counter(name for image in found.images for name in image.layers)

    def spare(self) -> list[tuple[str, float]]:
        """Return the blobs that can go though images name them, with the last use of these, longest ago first."""
        last_used: dict[str, float] = {}
        for image in self._images:
            for digest in image.blobs:
                last_used[digest] = max(image.last_used, last_used.get(digest, 0.0))
        spare = [(at, digest) for digest, at in last_used.items() if digest in self.blobs and self.blobs[digest].is_spare]
        return [(digest, at) for at, digest in sorted(spare) if digest not in self.gone and not self.blobs[digest].in_use]

    def forget(self, image: Image, reason: str) -> list[Deletion]:
        """Return the deletion of an image, and of what no other image names then."""
        group = [Deletion(Kind.IMAGE, image.name, image.size_bytes, reason, image.last_used)]
        self._blob_names.subtract(image.blobs)
        self._layer_names.subtract(image.layers)
        because = f"only image {image.name} needs it"
        for digest in sorted(image.blobs & self.blobs.keys() - self.gone):
            if not self._blob_names[digest] and not self.blobs[digest].in_use:
                group.append(Deletion(Kind.BLOB, digest, self.blobs[digest].size_bytes, because))
        for layer in self._layers:
            if layer.name in image.layers and not self._layer_names[layer.name] and not layer.in_use and layer.is_whole:
                group.append(Deletion(Kind.LAYER, f"{layer.map_name}/{layer.name}", layer.size_bytes, because))
        return group


def name_of(kept: Kept) -> str:
    """Name a volume or build storage among all."""
    return f"{kept.build_user}/{kept.engine}/{kept.slot}" if kept.engine else f"{kept.build_user}/{kept.slot}/{kept.name}"


def _of_kept(kind: Kind, each: Kept, reason: str) -> Deletion:
    return Deletion(kind, name_of(each), each.size_bytes, reason, each.last_used)


def _last_use(each: Kept) -> tuple[float, str]:
    return each.last_used, name_of(each)


def _ago(then: float, now: float) -> str:
    return f"{quantities.duration(now - then)} ago"
