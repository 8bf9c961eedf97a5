"""One image from its source into the store: resolve its manifest, bring and unpack all layers side by side, record the image."""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from typing import NamedTuple, Protocol

from runner import config, log, paths
from runner.errors import InfraError, Temporary, UserError
from runner.image import (
    auth,
    blobs,
    download,
    image_config,
    images,
    layers,
    manifest,
    platforms,
    reference,
    registry,
    signatures,
    sources,
    unpacker,
    unpacking,
    views,
)  # fmt: skip
from runner.image.progress import Progress
from runner.kernel import files
from runner.model import Descriptor, IdMap, Image, Layer

_SIDE_BY_SIDE = 4


class Origin(Protocol):
    """Where manifests and blobs come from: a registry, an OCI layout, a docker archive."""

    def manifest(self, name: str, /) -> manifest.Fetched:
        """Return what a tag or digest names."""

    def blob(self, digest: str, offset: int, /) -> AbstractContextManager[download.Stream]:
        """Yield a blob's content, from `offset` on if the origin can."""


class Opened(NamedTuple):
    """An origin, the name to begin with there, and the local file that says what the image is ("" for a registry)."""

    origin: Origin
    root: str
    made_from: str = ""


class Resolved(NamedTuple):
    """The manifest that was chosen for a platform."""

    blob: Descriptor
    raw: bytes
    manifest: manifest.Manifest
    digests: tuple[str, ...]  # of the documents that lead to it, itself the last: what one of them is signed for, all are


def fetch(
    source: str,
    *,
    store: paths.Store,
    settings: config.Settings,
    keychain: auth.Keychain,
    platform: str = "",
    id_map: IdMap | None = None,
    name: str = "",
) -> Image:
    """Bring an image into the store and record it; what is there already is not brought again. Idempotent.

    `source` is canonical (reference.canonical), and so is `name`, under which the image is recorded where it is another one. With `id_map`
    its layers are unpacked for containers with that map while they arrive; one that is unpacked already needs no blob. The caller is
    single-threaded.
    Raises UserError for what is wrong with the name, the credentials or the image; Temporary and InfraError for its registry, the network
    and the disk. After a failure the store has no part of it but resumable downloads and whole layers.
    """
    wanted = platforms.parse(platform)
    name = name or source
    with _open(source, settings, keychain) as opened, blobs.Claim(store) as claim, ExitStack() as until_recorded:
        resolved = resolve(opened.origin, opened.root, wanted, what=f"image {name}")
        if settings.images.trust:
            signatures.require(source, resolved.digests, origin=opened.origin, store=store, settings=settings)
        image = _describe(name, resolved, opened.origin, claim, store)
        work = None
        if id_map is not None and image.layers:
            try:
                work = until_recorded.enter_context(unpacking.Unpacking(store, views.place(store, id_map), image.layers, source=name))
            except OSError as e:
                raise layers.failed(name, store, e) from e
        _bring_layers(image, opened.origin, claim, work, store)
        _check_platform(image, wanted, asked=bool(platform))
        if images.find(store, name, platform=platform, id_map=id_map) != image:
            images.add(store, name, image, platform=platform, made_from=opened.made_from if name == source else "")
    return image


def resolve(origin: Origin, root: str, wanted: platforms.Platform, *, what: str) -> Resolved:
    """Follow indexes from the name `root` to the manifest for a platform, checking every digest, size and media type on the way."""
    name, announced = root, None
    digests: tuple[str, ...] = ()
    for _ in range(manifest.MAX_DEPTH):
        fetched = origin.manifest(name)
        found = Descriptor(fetched.media_type, f"sha256:{hashlib.sha256(fetched.raw).hexdigest()}", len(fetched.raw))
        if reference.is_digest(name) and found.digest != name:
            raise InfraError(f"{what}: the registry answers with other content than {name}", "the registry or a proxy damages it")
        if announced and announced.size != found.size:
            raise UserError(f"{what}: its index has the wrong size for {name}: {announced.size} bytes, not {found.size}")
        digests = (*digests, found.digest)
        parsed = manifest.parse(fetched.raw, _agreed(fetched.media_type, announced, what), what)
        if isinstance(parsed, manifest.Manifest):
            return Resolved(found, fetched.raw, parsed, digests)
        announced = manifest.choose(parsed, wanted, what).blob
        name = announced.digest
    raise UserError(f"{what} has indexes nested more than {manifest.MAX_DEPTH} deep")


def _agreed(said: str, announced: Descriptor | None, what: str) -> str:
    """The type that an index announced and that the registry then said must be one, else one document could be read in two ways."""
    said = said.partition(";")[0].strip().lower()
    if announced is None:
        return said
    if said in (*manifest.MANIFEST_TYPES, *manifest.INDEX_TYPES) and said != announced.media_type:
        raise UserError(f"{what} contradicts itself: announced as {announced.media_type}, served as {said}")
    return announced.media_type


def _describe(source: str, resolved: Resolved, origin: Origin, claim: blobs.Claim, store: paths.Store) -> Image:
    """Bring manifest and config, and return the image that they describe."""
    what = f"image {source}"
    chosen = resolved.manifest
    claim.keep(resolved.raw, resolved.blob)
    claim.need(chosen.config, lambda offset: origin.blob(chosen.config.digest, offset))
    parsed = image_config.parse(files.read(store.blob(chosen.config.digest)), what)
    if len(parsed.diff_ids) != len(chosen.layers):
        raise UserError(f"{what} contradicts itself: {len(chosen.layers)} layers, {len(parsed.diff_ids)} diff ids")
    stack = tuple(Layer(blob, diff_id) for blob, diff_id in zip(chosen.layers, parsed.diff_ids, strict=True))
    size = sum(blob.size for blob in chosen.layers)
    return Image(source, resolved.blob.digest, chosen.config.digest, stack, parsed.config, str(parsed.platform), size)


def _bring_layers(image: Image, origin: Origin, claim: blobs.Claim, work: unpacking.Unpacking | None, store: paths.Store) -> None:
    """Download side by side, and unpack what arrives; the first failure ends the others."""

    def bring(at: int) -> None:
        blob = image.layers[at].blob
        filling: list[unpacker.Filling] = []
        show = progress.of(blob)

        def report(have: int) -> None:
            show(have)
            for one in filling:
                one.more()

        def begin(path: str) -> None:
            if work:
                filling.append(work.follow(at, path))

        try:
            claim.need(blob, lambda offset: origin.blob(blob.digest, offset), report, begin=begin, durable=False)
            if work:
                work.finish(at, filling.pop() if filling else None)
        except OSError as e:
            raise layers.failed(image.source, store, e) from e
        finally:
            for one in filling:
                one.close()

    wanted = work.missing if work else tuple({layer.blob: at for at, layer in reversed(list(enumerate(image.layers)))}.values())[::-1]
    pool = ThreadPoolExecutor(_SIDE_BY_SIDE, thread_name_prefix="layer")
    with Progress([image.layers[at].blob for at in wanted]) as progress:
        try:
            futures = [pool.submit(bring, at) for at in wanted]
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        except BaseException:  # a signal: this process ends, and does not wait for a registry that may be silent for a minute
            claim.cancel(keep_parts=True)
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        # A registry that went away may come back and be continued; a full disk needs the space, and lies are not worth it.
        failures = [error for one in done if (error := one.exception())]
        claim.cancel(keep_parts=all(isinstance(error, Temporary) for error in failures))
        if work and failures:
            work.abandon()
        pool.shutdown()
    _raise_first(futures)


def _raise_first(futures: Sequence["Future[None]"]) -> None:
    """Raise what made the download fail rather than what that failure cancelled."""
    errors = [error for future in futures if not future.cancelled() and (error := future.exception())]
    for error in sorted(errors, key=lambda error: isinstance(error, (download.Cancelled, unpacking.Abandoned))):
        raise error


def _check_platform(image: Image, wanted: platforms.Platform, *, asked: bool) -> None:
    system, architecture, variant = (*image.platform.split("/"), "", "")[:3]
    if platforms.runs(wanted, platforms.Platform(system, architecture, variant)):
        return
    if asked or system != "linux":
        raise UserError(f"image {image.source} is for {image.platform}, not for {wanted}", "choose another image or platform")
    log.warn(f"image {image.source} is for {image.platform}, this machine is {wanted}: its programs may not start")


@contextmanager
def _open(source: str, settings: config.Settings, keychain: auth.Keychain) -> Iterator[Opened]:
    kind, _, rest = source.partition(":")
    if kind == "oci":
        path, tag = sources.split(rest)
        layout = sources.OciLayout(path)
        yield Opened(layout, tag, layout.made_from)
    elif kind == "docker-archive":
        path, name = sources.split(rest)
        with closing(sources.DockerArchive(path, name)) as archive:
            yield Opened(archive, name, archive.made_from)
    else:
        ref = reference.parse(source)
        with registry.Client(ref, settings=settings, keychain=keychain) as client:
            yield Opened(client, ref.digest or ref.tag)
