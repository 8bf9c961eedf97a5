"""Images from files of this machine: OCI layouts (oci:DIR[:tag]) and what `docker save` writes (docker-archive:FILE[:name]).

Both answer as a registry does, with manifests and blobs, so that they enter the store by the same, verified way.
"""

import hashlib
import io
import json
import os
import stat
import tarfile
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from runner.errors import UserError
from runner.image import blobs, download, image_config, manifest, reference
from runner.image.manifest import Fetched
from runner.model import Descriptor

_REF_NAME = "org.opencontainers.image.ref.name"
_MOST_MEMBERS = 100_000
_TAR_ERRORS = (tarfile.TarError, EOFError, zlib.error, OSError)


def split(text: str) -> tuple[str, str]:
    """Split "PATH[:name]" where PATH exists, at the last such colon; UserError when nothing of it exists."""
    path, name = text, ""
    while not os.path.exists(path):
        path, colon, last = path.rpartition(":")
        if not colon:
            raise UserError(f"no such image file or directory: {text[:200]}", "write oci:DIR[:tag] or docker-archive:FILE[:name]")
        name = f"{last}:{name}" if name else last
    return path, name


class OciLayout:
    """An OCI image layout directory (image-layout.md). Usable from several threads."""

    def __init__(self, directory: str) -> None:
        """Read the index; UserError when the directory is no image layout."""
        self.made_from = f"{directory}/index.json"
        self._directory = directory
        index = manifest.decode(self._read("index.json"), f"{self.made_from}")
        entries = index.get("manifests")
        if not isinstance(entries, list) or len(entries) > manifest.MAX_ENTRIES:
            raise UserError(f"{self.made_from} needs a list of at most {manifest.MAX_ENTRIES} images")
        self._entries = [(manifest.descriptor(entry, self.made_from), _tag_of(entry)) for entry in entries]

    def manifest(self, name: str) -> Fetched:
        """Return the manifest or index with a digest or tag; "" is the only one that there is. UserError lists the tags."""
        if reference.is_digest(name):
            return Fetched("", self._read(_blob_path(name)))
        found = [blob for blob, tag in self._entries if not name or tag == name]
        if len(found) != 1:
            tags = ", ".join(sorted(tag for _, tag in self._entries if tag)[:20]) or "none"
            wanted = f"no image {name!r}" if name else f"{len(self._entries)} images, and none was chosen"
            raise UserError(f"image layout {self._directory} has {wanted}", f"write oci:DIR:tag; tags there: {tags}")
        return Fetched(found[0].media_type, self._read(_blob_path(found[0].digest)))

    @contextmanager
    def blob(self, digest: str, offset: int) -> Iterator[download.Stream]:
        """Yield the content of a blob from `offset` on."""
        with self._open(_blob_path(digest)) as file:
            file.seek(offset)
            yield blobs.FileStream(file, offset=offset, total=os.fstat(file.fileno()).st_size)

    def _open(self, name: str) -> io.FileIO:
        path = f"{self._directory}/{name}"
        try:
            # O_NONBLOCK: a FIFO must not hang us. Links are followed: build tools make layouts of links, and digests are checked.
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as e:
            raise UserError(
                f"cannot read image layout {self._directory}: {name}: {e.strerror}", "is it a directory with index.json and blobs/?"
            ) from e
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise UserError(f"cannot read image layout {self._directory}: {name} is not a file")
        return io.FileIO(fd)

    def _read(self, name: str) -> bytes:
        with self._open(name) as file:
            raw = file.read(manifest.LIMIT_BYTES + 1)
        if len(raw) > manifest.LIMIT_BYTES:
            raise UserError(f"{name} in image layout {self._directory} is too large")
        return raw


class DockerArchive:
    """A tar file as `docker save` and `podman save` write it, compressed or not; `close` ends it. One reader at a time has the file."""

    def __init__(self, path: str, name: str) -> None:
        """Read the archive's table of contents, its manifest.json and one image's config; UserError when it has no such image."""
        self.made_from = path
        self._what = f"docker archive {path}"
        self._lock = threading.Lock()
        try:
            self._tar = tarfile.open(path, mode="r:*")  # noqa: SIM115 - closed by close()
        except _TAR_ERRORS as e:
            raise self._broken(e) from e
        try:
            self._members = self._list()
            chosen = self._choose(name)
            config_raw = self._read(chosen.get("Config"))
            self._blobs: dict[str, tarfile.TarInfo | bytes] = {}
            self._manifest = self._make_manifest(config_raw, chosen.get("Layers"))
        except BaseException:
            self._tar.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._tar.close()

    def manifest(self, name: str) -> Fetched:
        """Return a manifest made for the chosen image: the archive has none. `name` was chosen on opening."""
        return Fetched(manifest.OCI_MANIFEST, self._manifest)

    @contextmanager
    def blob(self, digest: str, offset: int) -> Iterator[download.Stream]:
        """Yield the content of the config or a layer from `offset` on."""
        found = self._blobs[digest]
        if isinstance(found, bytes):
            yield blobs.FileStream(io.BytesIO(found[offset:]), offset=offset, total=len(found))
            return
        with self._lock, self._open(found) as file:
            try:
                file.seek(offset)
                yield blobs.FileStream(file, offset=offset, total=found.size)
            except (tarfile.TarError, EOFError, zlib.error) as e:
                raise self._broken(e) from e

    def _list(self) -> dict[str, tarfile.TarInfo]:
        members = {}
        try:
            for member in self._tar:
                members[member.name.removeprefix("./")] = member
                if len(members) > _MOST_MEMBERS:
                    raise UserError(f"{self._what} has more than {_MOST_MEMBERS} members")
        except _TAR_ERRORS as e:
            raise self._broken(e) from e
        return members

    def _member(self, name: Any) -> tarfile.TarInfo:
        """Return a regular member; old versions of docker wrote a repeated layer as a link to the first."""
        found = self._members.get(name) if isinstance(name, str) else None
        if found is not None and (found.issym() or found.islnk()):
            target = found.linkname if found.islnk() else os.path.normpath(f"{os.path.dirname(found.name)}/{found.linkname}")
            found = self._members.get(target)
        if found is None or not found.isreg():
            raise UserError(f"{self._what} lacks {str(name)[:200]!r}", "is it an OCI archive? then unpack it and use oci:DIR")
        return found

    def _open(self, member: tarfile.TarInfo) -> IO[bytes]:
        file = self._tar.extractfile(member)
        if file is None:
            raise UserError(f"{self._what}: {member.name[:200]!r} is not a file")
        return file

    def _read(self, name: Any) -> bytes:
        member = self._member(name)
        if member.size > manifest.LIMIT_BYTES:
            raise UserError(f"{self._what}: {member.name[:200]!r} is too large")
        try:
            with self._open(member) as file:
                return file.read()
        except _TAR_ERRORS as e:
            raise self._broken(e) from e

    def _choose(self, name: str) -> dict[str, Any]:
        try:
            entries = json.loads(self._read("manifest.json"))
        except (ValueError, RecursionError) as e:
            raise self._broken(e) from e
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise UserError(f"{self._what}: manifest.json is not a list of images")
        found: list[dict[str, Any]] = [
            entry for entry in entries if not name or _canonical(name) in {_canonical(tag) for tag in entry.get("RepoTags") or ()}
        ]
        if len(found) != 1:
            names = sorted(str(tag) for entry in entries for tag in entry.get("RepoTags") or ())
            wanted = f"no image {name!r}" if name else f"{len(entries)} images, and none was chosen"
            raise UserError(f"{self._what} has {wanted}", f"write docker-archive:FILE:name; names there: {', '.join(names[:20]) or 'none'}")
        return found[0]

    def _make_manifest(self, config_raw: bytes, layers: Any) -> bytes:
        diff_ids = image_config.parse(config_raw, self._what).diff_ids
        if not isinstance(layers, list) or len(layers) != len(diff_ids):
            raise UserError(f"{self._what} has {len(diff_ids)} layers in its config and another number of files")
        described = [self._describe(self._member(name), diff_id) for name, diff_id in zip(layers, diff_ids, strict=True)]
        config = Descriptor(manifest.OCI_CONFIG, _digest(config_raw), len(config_raw))
        self._blobs[config.digest] = config_raw
        parts = [{"mediaType": one.media_type, "digest": one.digest, "size": one.size} for one in (config, *described)]
        value = {"schemaVersion": 2, "mediaType": manifest.OCI_MANIFEST, "config": parts[0], "layers": parts[1:]}
        return json.dumps(value, separators=(",", ":")).encode()

    def _describe(self, member: tarfile.TarInfo, diff_id: str) -> Descriptor:
        """A plain layer is named by its diff id, which is checked while it is copied; a compressed one has to be read for its name."""
        try:
            with self._open(member) as file:
                compression = manifest.compression_of(file.read(4))
                digest = diff_id
                if compression:
                    file.seek(0)
                    digest = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"  # type: ignore[arg-type]  # IO[bytes] has readinto
        except _TAR_ERRORS as e:
            raise self._broken(e) from e
        self._blobs[digest] = member
        return Descriptor(manifest.OCI_LAYER + compression, digest, member.size)

    def _broken(self, error: BaseException) -> UserError:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)[:200]
        return UserError(f"cannot read {self._what}: {reason}", "it must be what docker save or podman save writes")


def _tag_of(entry: Any) -> str:
    annotations = entry.get("annotations")
    tag = annotations.get(_REF_NAME) if isinstance(annotations, dict) else None
    return tag if isinstance(tag, str) else ""


def _blob_path(digest: str) -> str:
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def _digest(raw: bytes) -> str:
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"


def _canonical(name: Any) -> str:
    """Two names are the same image's if docker thinks so; what is no name at all is only like itself."""
    try:
        return str(reference.parse(name)) if isinstance(name, str) else ""
    except UserError:
        return f"?{name}"
