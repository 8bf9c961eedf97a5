"""The index of stored images: one JSON file per name, in which every requested platform has its image. Loaded on the hot path."""

from __future__ import annotations

import binascii
import os

from runner import paths
from runner.errors import Bug, InfraError
from runner.image import layers, platforms, reference
from runner.kernel import files, locks
from runner.model import Descriptor, Healthcheck, Image, ImageConfig, Layer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runner.model import IdMap

FORMAT = 1
TOOLBOX = "toolbox"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def toolbox() -> Image:
    """Return the image that is the host's own /usr: no blobs, no layers, a shell as command."""
    config = ImageConfig(cmd=("/bin/bash",), env=(("PATH", _PATH),))
    return Image(TOOLBOX, "", "", (), config, str(platforms.host()), 0)


def find(store: paths.Store, name: str, *, platform: str = "", id_map: IdMap | None = None) -> Image | None:
    """Return the stored image of a name (any that reference.canonical takes), None if it must be pulled.

    `platform` as in platforms.parse; "" is what a pull without a platform chose. An image counts as absent when it was read from a local
    file which has changed since, and when it lacks the blob of a layer, or has it with another size, that is not unpacked where containers
    with `id_map` look (None: among the shared layers).
    """
    if name == TOOLBOX:
        return toolbox()
    name = reference.canonical(name)
    record = _read(_path(store, name))
    if record is None or record["name"] != name or _is_stale(record):
        return None
    image = _choose(record, platform)
    return image if image is not None and _is_whole(store, image, id_map) else None


def add(store: paths.Store, name: str, image: Image, *, platform: str = "", made_from: str = "") -> None:
    """Record `image` under a name for the platform that was asked for; replaces what was there. Atomic.

    `made_from` is the local file that says what the image is; when it changes, `find` forgets the image. Takes images.lock.
    """
    name = reference.canonical(name)
    path = _path(store, name)
    key = str(platforms.parse(platform)) if platform else ""
    with locks.hold(store.images_lock):
        record = _read(path)
        if record is None or record["name"] != name or _is_stale(record):
            record = {"format": FORMAT, "name": name, "images": {}}
        record["images"][key] = _encode(image)
        record["made_from"] = [made_from, _stamp(made_from)] if made_from else None
        try:
            files.write_json(path, record)
        except OSError as e:
            raise InfraError(f"cannot record image {name} in {store.images}: {e.strerror}", "free some space: dockless gc") from e


def all(store: paths.Store) -> list[tuple[str, Image]]:  # noqa: A001 - `images.all` reads as it should
    """Return every recorded (name, image), by name; a name has one entry per platform. Records that cannot be read are left out."""
    found = []
    for entry in _entries(store):
        record = _read(f"{store.images}/{entry}")
        for raw in record["images"].values() if record else ():
            image = _decode(raw)
            if image is not None and record is not None:
                found.append((str(record["name"]), image))
    return sorted(found, key=lambda pair: pair[0])


def remove(store: paths.Store, name: str) -> bool:
    """Forget a name with all its platforms; False if it was not there. Leaves the blobs to blobs.collect. Takes images.lock."""
    with locks.hold(store.images_lock):
        try:
            os.unlink(_path(store, reference.canonical(name)))
        except FileNotFoundError:
            return False
    return True


def record(store: paths.Store, name: str) -> str:
    """Name the file on which a name (any that reference.canonical takes) is recorded, if it is; its time says when it was last used."""
    return _path(store, reference.canonical(name))


def claim(store: paths.Store, name: str) -> int | None:
    """Keep a recorded image from `forget` until the descriptor that is returned is closed, and note its use; None if it is not there."""
    fd = locks.take_existing(record(store, name), shared=True, wait=True)
    if fd is not None:
        os.utime(fd)
    return fd


def forget(store: paths.Store, name: str, *, unless_used_after: float) -> bool:
    """Forget a name like `remove`, unless somebody has claimed it or used it since; tell whether it is gone now."""
    path = record(store, name)
    with locks.hold(store.images_lock):
        fd = locks.take_existing(path, shared=False, wait=False)
        if fd is None:
            return False
        try:
            if os.fstat(fd).st_mtime > unless_used_after:
                return False
            os.unlink(path)
        finally:
            os.close(fd)
    return True


def blobs_of(image: Image) -> tuple[Descriptor, ...]:
    """Return the blobs that an image needs, layers lowest first; a size of -1 is not known here."""
    if image.source == TOOLBOX:
        return ()
    return (Descriptor("", image.digest, -1), Descriptor("", image.config_digest, -1), *(layer.blob for layer in image.layers))


def _entries(store: paths.Store) -> list[str]:
    try:
        return sorted(name for name in os.listdir(store.images) if name.endswith(".json") and not name.startswith("."))
    except FileNotFoundError:
        return []


def _path(store: paths.Store, name: str) -> str:
    """Name the record of an image: readable where the name is short and plain, in any case one safe path component."""
    raw = os.fsencode(name)
    safe = "".join(chr(byte) if chr(byte).isascii() and (chr(byte).isalnum() or byte in b".-") else f"_{byte:02x}" for byte in raw)
    if len(safe) > 160:
        # Two long names may share a file; then the later one replaces the earlier, which is pulled again.
        safe = f"{safe[:120]}_{len(raw)}_{binascii.crc32(raw):08x}"
    return f"{store.images}/{paths.component('i' + safe)}.json"


def _read(path: str) -> dict[str, Any] | None:
    try:
        record = files.read_json(path, limit_bytes=16 * 1024**2)
    except (FileNotFoundError, ValueError):
        return None
    known = isinstance(record, dict) and record.get("format") == FORMAT and isinstance(record.get("images"), dict)
    return record if known and isinstance(record.get("name"), str) else None


def _choose(record: dict[str, Any], platform: str) -> Image | None:
    if platform and (raw := record["images"].get(str(platforms.parse(platform)))) is not None:
        return _decode(raw)
    raw = record["images"].get("")
    if not platform:
        return _decode(raw) if raw is not None else _decode(record["images"].get(str(platforms.host())))
    image = _decode(raw)
    return image if image is not None and image.platform == str(platforms.parse(platform)) else None


def _stamp(path: str) -> list[int]:
    try:
        info = os.stat(path)
    except OSError:
        return []
    return [info.st_mtime_ns, info.st_size, info.st_ino]


def _is_stale(record: dict[str, Any]) -> bool:
    """A local source that has gone leaves a good image behind; one that has changed does not."""
    match record.get("made_from"):
        case [str(path), list(stamp)]:
            return _stamp(path) not in ([], stamp)
    return False


def _is_whole(store: paths.Store, image: Image, id_map: IdMap | None) -> bool:
    manifest, config, *blobs = blobs_of(image)
    if not (_is_present(store, manifest) and _is_present(store, config)):
        return False
    lacking = [not _is_present(store, blob) for blob in blobs]
    return True not in lacking or (True, False) not in zip(lacking, layers.is_unpacked(store, image, id_map), strict=True)


def _is_present(store: paths.Store, blob: Descriptor) -> bool:
    try:
        size = os.stat(store.blob(blob.digest)).st_size
    except FileNotFoundError:
        return False
    return blob.size < 0 or size == blob.size


def _encode(image: Image) -> dict[str, Any]:
    if not image.digest or not image.config_digest:
        raise Bug(f"image {image.source} has no digest: it cannot be recorded")
    encoded: dict[str, Any] = image._asdict()
    config = image.config._asdict()
    config["healthcheck"] = image.config.healthcheck._asdict()
    encoded["config"] = config
    encoded["layers"] = [[*layer.blob, layer.diff_id] for layer in image.layers]
    return encoded


def _decode(raw: Any) -> Image | None:
    """Read what `_encode` wrote; None for anything else, such as what another version wrote."""
    try:
        digests = [raw["digest"], raw["config_digest"], *(layer[1] for layer in raw["layers"])]
        if [digest for digest in digests if not reference.is_digest(digest)]:
            return None
        layers = tuple(Layer(Descriptor(kind, digest, size), diff_id) for kind, digest, size, diff_id in raw["layers"])
        config = dict(raw["config"])
        health = dict(config.pop("healthcheck"))
        health["test"] = tuple(health["test"])
        env = tuple((key, value) for key, value in config.pop("env"))
        lists = {key: tuple(value) for key, value in config.items() if isinstance(value, list)}
        image_config = ImageConfig(**{**config, **lists, "env": env, "healthcheck": Healthcheck(**health)})
        return Image(**{**raw, "layers": layers, "config": image_config})
    except (TypeError, KeyError, ValueError):
        return None
