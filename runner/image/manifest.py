"""Manifests and indexes, OCI's and Docker's: hostile JSON -> nouns with validated digests and bounded sizes.

Follows OCI image-spec manifest.md and image-index.md, and Docker's manifest v2 schema 2. What is wrong with an image is the fault of who
chose it (UserError): another try brings the same bytes.
"""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from runner.errors import UserError
from runner.image import platforms, reference
from runner.model import Descriptor

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
MANIFEST_TYPES = (OCI_MANIFEST, DOCKER_MANIFEST)
INDEX_TYPES = (OCI_INDEX, DOCKER_LIST)
ACCEPT = ", ".join((*MANIFEST_TYPES, *INDEX_TYPES))
LAYER_TYPES = (
    OCI_LAYER,
    f"{OCI_LAYER}+gzip",
    f"{OCI_LAYER}+zstd",
    DOCKER_LAYER,
    f"{DOCKER_LAYER}.gzip",
    f"{DOCKER_LAYER}.zstd",
    f"{DOCKER_LAYER}+zstd",  # some builders write it so
)
_SCHEMA_1 = ("application/vnd.docker.distribution.manifest.v1+json", "application/vnd.docker.distribution.manifest.v1+prettyjws")

LIMIT_BYTES = 4 * 1024**2  # of a manifest, an index or a config: what registries themselves accept (OCI distribution-spec)
MAX_LAYERS = 150  # docker makes at most 127; more lower directories do not fit into an overlay's options
MAX_ENTRIES = 1000
MAX_DEPTH = 4  # of indexes within indexes
_LONGEST_BLOB = 2**40


class Fetched(NamedTuple):
    """A manifest or index as it came: `media_type` is what its sender says that it is, "" for nothing."""

    media_type: str
    raw: bytes


class Manifest(NamedTuple):
    """An image for one platform."""

    config: Descriptor
    layers: tuple[Descriptor, ...]  # lowest first


class Entry(NamedTuple):
    """One image of an index; `platform` is None where the index does not say."""

    blob: Descriptor
    platform: platforms.Platform | None


class Index(NamedTuple):
    """Images for several platforms, in the index's order of preference."""

    entries: tuple[Entry, ...]


def decode(raw: bytes, what: str) -> dict[str, Any]:
    """Return a JSON object of at most LIMIT_BYTES; UserError that names `what` for anything else."""
    if len(raw) > LIMIT_BYTES:
        raise UserError(f"{what} is too large: more than {LIMIT_BYTES} bytes")
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as e:  # deep nesting exhausts the decoder's stack
        raise UserError(f"{what} is not valid JSON: {type(e).__name__}") from e
    if not isinstance(value, dict):
        raise UserError(f"{what} is not a JSON object")
    return value


def parse(raw: bytes, media_type: str, what: str) -> Manifest | Index:
    """Read a manifest or an index; `media_type` is what the registry or the parent descriptor said ("" if nothing).

    The document must agree with it and with itself: nothing is both a manifest and an index (CVE-2021-41190). UserError names `what`.
    """
    value = decode(raw, what)
    said = value.get("mediaType", "")
    media_type = media_type.partition(";")[0].strip().lower()
    if media_type in _SCHEMA_1 or value.get("schemaVersion") == 1:
        raise UserError(f"{what} has Docker's old schema 1, which is not supported", "push the image again with a current docker or podman")
    if said and media_type in (*MANIFEST_TYPES, *INDEX_TYPES) and said != media_type:
        raise UserError(f"{what} contradicts itself: it was announced as {media_type} and says {str(said)[:100]!r}")
    kind = media_type if media_type in (*MANIFEST_TYPES, *INDEX_TYPES) else said
    if kind in INDEX_TYPES:
        if "layers" in value or "config" in value:
            raise UserError(f"{what} contradicts itself: it is an index and a manifest at once")
        return Index(_entries(value.get("manifests"), what))
    if kind in MANIFEST_TYPES:
        if "manifests" in value:
            raise UserError(f"{what} contradicts itself: it is an index and a manifest at once")
        return _manifest(value, what)
    raise UserError(f"{what} is of a kind that is not supported: {str(kind or media_type or 'no media type')[:100]!r}")


def compression_of(start: bytes) -> str:
    """Return the suffix of the media type for a layer that begins with these (four or more) bytes: "+gzip", "+zstd" or ""."""
    if start.startswith(b"\x1f\x8b"):
        return "+gzip"
    return "+zstd" if start.startswith(b"\x28\xb5\x2f\xfd") else ""


def choose(index: Index, wanted: platforms.Platform, what: str) -> Entry:
    """Return the entry that suits a platform best, the earlier of equals; UserError lists what there is instead."""
    best, best_rank = None, 0
    for entry in index.entries:
        rank = platforms.runs(wanted, entry.platform) if entry.platform else 0
        if rank > best_rank:
            best, best_rank = entry, rank
    if best is None:
        # An entry without a platform may suit: its own config, or its own entries, will tell.
        best = next((entry for entry in index.entries if entry.platform is None), None)
    if best is None:
        have = sorted({str(entry.platform) for entry in index.entries if entry.platform and entry.platform.os == "linux"})
        raise UserError(f"{what} has no image for {wanted}", f"it has {', '.join(have[:20]) or 'nothing for Linux'}")
    return best


def descriptor(value: Any, what: str) -> Descriptor:
    """Read one content descriptor; its `urls` are never followed (CVE-2020-15157)."""
    if not isinstance(value, dict):
        raise UserError(f"{what} has a descriptor that is not an object")
    kind, digest, size = value.get("mediaType"), value.get("digest"), value.get("size")
    if not isinstance(kind, str) or len(kind) > 255:
        raise UserError(f"{what} has a descriptor without a media type")
    if not isinstance(digest, str) or not reference.is_digest(digest):
        raise UserError(f"{what} has a bad digest: {str(digest)[:80]!r}", "only sha256 and 64 lower-case hex digits are supported")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= _LONGEST_BLOB:
        raise UserError(f"{what} has a bad size for {digest}: {str(size)[:40]!r}")
    return Descriptor(kind, digest, size)


def _manifest(value: dict[str, Any], what: str) -> Manifest:
    config = descriptor(value.get("config"), what)
    if config.media_type not in (OCI_CONFIG, DOCKER_CONFIG):
        raise UserError(f"{what} is not a container image: its config is of type {config.media_type!r}")
    if config.size > LIMIT_BYTES:
        raise UserError(f"{what} has too large a config: {config.size} bytes")
    layers = value.get("layers")
    if not isinstance(layers, list) or len(layers) > MAX_LAYERS:
        raise UserError(f"{what} needs a list of at most {MAX_LAYERS} layers")
    return Manifest(config, tuple(_layer(layer, what) for layer in layers))


def _layer(value: Any, what: str) -> Descriptor:
    layer = descriptor(value, what)
    foreign = "foreign" in layer.media_type or "nondistributable" in layer.media_type
    if foreign:
        raise UserError(
            f"{what} has a layer that may only be fetched from elsewhere: {layer.media_type!r}", "such layers are not supported"
        )
    if layer.media_type not in LAYER_TYPES:
        raise UserError(f"{what} has a layer of a type that is not supported: {layer.media_type!r}", "plain, gzip and zstd tar layers are")
    return layer


def _entries(value: Any, what: str) -> tuple[Entry, ...]:
    if not isinstance(value, list) or len(value) > MAX_ENTRIES:
        raise UserError(f"{what} needs a list of at most {MAX_ENTRIES} images")
    entries = []
    for item in value:
        blob = descriptor(item, what)
        if blob.media_type in (*MANIFEST_TYPES, *INDEX_TYPES):  # others are signatures, attestations and the like
            entries.append(Entry(blob, _platform(item.get("platform"))))
    return tuple(entries)


def _platform(value: Any) -> platforms.Platform | None:
    if not isinstance(value, dict):
        return None
    parts: Sequence[Any] = [value.get(key, "") for key in ("os", "architecture", "variant")]
    texts = [part[:40] if isinstance(part, str) else "" for part in parts]
    if not texts[1]:
        return None
    return platforms.normal(texts[0], texts[1], texts[2])
