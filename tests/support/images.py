"""Container images made by hand: layers, configurations, OCI layouts, docker archives, and a push to a registry.

image = build_image([busybox_layer(), [file("hello", b"hi")]], {"Cmd": ["/bin/sh"]})
write_oci_layout(tmp_path / "layout", image, "v1")
push(image, f"{host}/team/app:v1")
"""

import base64
import gzip
import hashlib
import http.client
import io
import json
import ssl
import subprocess
import tarfile
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import zstandard

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
BUSYBOX = "/bin/busybox"
_CREATED = "2024-01-01T00:00:00Z"  # builders find no earlier result for what has no date
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class TarEntry(NamedTuple):
    """One member of a layer; `kind` is a tarfile type such as tarfile.SYMTYPE, `link` its target."""

    name: str
    kind: bytes = tarfile.REGTYPE
    data: bytes = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    link: str = ""
    device: tuple[int, int] = (0, 0)
    pax: Mapping[str, str] = {}
    mtime: int = 1_700_000_000


class BuiltImage(NamedTuple):
    """An image or an index in memory: everything that a registry would hold of it."""

    digest: str  # of the manifest or index itself
    manifests: dict[str, tuple[str, bytes]]  # digest -> (media type, JSON), what `digest` names is among them
    blobs: dict[str, bytes]  # configs and layers
    config_digest: str  # "" for an index
    diff_ids: tuple[str, ...]
    layer_digests: tuple[str, ...]
    platform: Mapping[str, str]


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def file(name: str, data: bytes = b"", *, mode: int = 0o644, uid: int = 0, gid: int = 0) -> TarEntry:
    return TarEntry(name, data=data, mode=mode, uid=uid, gid=gid)


def directory(name: str, *, mode: int = 0o755, uid: int = 0, gid: int = 0) -> TarEntry:
    return TarEntry(name, tarfile.DIRTYPE, mode=mode, uid=uid, gid=gid)


def symlink(name: str, target: str) -> TarEntry:
    return TarEntry(name, tarfile.SYMTYPE, mode=0o777, link=target)


def hardlink(name: str, target: str) -> TarEntry:
    return TarEntry(name, tarfile.LNKTYPE, link=target)


def busybox_layer() -> list[TarEntry]:
    """Return a small root file system: static busybox, a link for each of its applets, passwd, group, /tmp and /root."""
    applets = subprocess.run([BUSYBOX, "--list"], check=True, capture_output=True, text=True).stdout.split()
    passwd = b"root:x:0:0:root:/root:/bin/sh\nbuilder:x:1000:1000:builder:/home/builder:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
    return [
        *(directory(name) for name in ("bin", "etc", "home", "usr", "usr/bin", "var", "var/tmp")),
        directory("root", mode=0o700),
        directory("home/builder", uid=1000, gid=1000),
        directory("tmp", mode=0o1777),
        file("bin/busybox", Path(BUSYBOX).read_bytes(), mode=0o755),
        *(symlink(f"bin/{applet}", "busybox") for applet in applets if applet != "busybox"),
        symlink("usr/bin/env", "../../bin/busybox"),
        file("etc/passwd", passwd),
        file("etc/group", b"root:x:0:\nbuilder:x:1000:\ntools:x:2000:builder\nnogroup:x:65534:\n"),
    ]


def tar(entries: Sequence[TarEntry]) -> bytes:
    """Return an uncompressed PAX tar of exactly these members, hostile names included."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for entry in entries:
            info = tarfile.TarInfo(entry.name)
            info.type, info.linkname, info.mode, info.mtime = entry.kind, entry.link, entry.mode, entry.mtime
            info.uid, info.gid, info.pax_headers = entry.uid, entry.gid, dict(entry.pax)
            info.devmajor, info.devminor = entry.device
            info.size = len(entry.data)
            archive.addfile(info, io.BytesIO(entry.data))
    return out.getvalue()


def compress(data: bytes, how: str) -> bytes:
    """Compress a layer: `how` is "gzip", "zstd" or "none"."""
    if how == "gzip":
        return gzip.compress(data, compresslevel=1, mtime=0)
    return zstandard.compress(data) if how == "zstd" else data


def build_image(
    layers: Sequence[Sequence[TarEntry]],
    config: Mapping[str, Any] | None = None,
    *,
    compression: str = "gzip",
    docker: bool = False,
    architecture: str = "amd64",
    variant: str = "",
    history: bool = False,
) -> BuiltImage:
    """Make an image of these layers, lowest first.

    `config` is the inner object ("Env", "Cmd", "Entrypoint", "User", …) and replaces the default, which is PATH and /bin/sh.
    `docker` chooses Docker's media types in place of OCI's. `history` says how the layers came about, as builders of images on top want it.
    """
    return build_from_tars(
        [tar(layer) for layer in layers],
        config,
        compression=compression,
        docker=docker,
        architecture=architecture,
        variant=variant,
        history=history,
    )


def build_from_tars(
    tars: Sequence[bytes],
    config: Mapping[str, Any] | None = None,
    *,
    compression: str = "gzip",
    docker: bool = False,
    architecture: str = "amd64",
    variant: str = "",
    history: bool = False,
) -> BuiltImage:
    """Make an image whose uncompressed layers are these bytes, whatever they hold."""
    platform = {"os": "linux", "architecture": architecture, **({"variant": variant} if variant else {})}
    diff_ids = [digest_of(data) for data in tars]
    inner = config if config is not None else {"Env": [f"PATH={PATH}"], "Cmd": ["/bin/sh"]}
    steps = {"history": [{"created": _CREATED, "created_by": f"COPY {diff_id} /"} for diff_id in diff_ids]} if history else {}
    config_raw = json.dumps({**platform, **steps, "config": dict(inner), "rootfs": {"type": "layers", "diff_ids": diff_ids}}).encode()
    layer_type = DOCKER_LAYER if docker else OCI_LAYER
    suffix = {"gzip": ".gzip" if docker else "+gzip", "zstd": "+zstd", "none": ""}[compression]
    compressed = [compress(data, compression) for data in tars]
    manifest_type = DOCKER_MANIFEST if docker else OCI_MANIFEST
    manifest = {
        "schemaVersion": 2,
        "mediaType": manifest_type,
        "config": descriptor(DOCKER_CONFIG if docker else OCI_CONFIG, config_raw),
        "layers": [descriptor(layer_type + suffix, data) for data in compressed],
    }
    raw = json.dumps(manifest).encode()
    blobs = {digest_of(data): data for data in [config_raw, *compressed]}
    return BuiltImage(
        digest_of(raw),
        {digest_of(raw): (manifest_type, raw)},
        blobs,
        digest_of(config_raw),
        tuple(diff_ids),
        tuple(digest_of(data) for data in compressed),
        platform,
    )


def build_index(images: Sequence[BuiltImage], *, docker: bool = False) -> BuiltImage:
    """Make an index (a manifest list for `docker`) of images for several platforms."""
    entries = []
    for image in images:
        media_type, raw = image.manifests[image.digest]
        entries.append({**descriptor(media_type, raw), "platform": dict(image.platform)})
    media_type = DOCKER_LIST if docker else OCI_INDEX
    raw = json.dumps({"schemaVersion": 2, "mediaType": media_type, "manifests": entries}).encode()
    manifests = {digest_of(raw): (media_type, raw)}
    blobs: dict[str, bytes] = {}
    for image in images:
        manifests.update(image.manifests)
        blobs.update(image.blobs)
    return BuiltImage(digest_of(raw), manifests, blobs, "", (), (), {})


def descriptor(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}


def write_oci_layout(path: Path, image: BuiltImage, tag: str = "latest") -> None:
    """Write or extend an OCI image layout (image-layout.md) whose index names `image` as `tag`."""
    blobs = path / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    for digest, data in [*image.blobs.items(), *((d, raw) for d, (_, raw) in image.manifests.items())]:
        (blobs / digest.removeprefix("sha256:")).write_bytes(data)
    (path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    index_file = path / "index.json"
    index: dict[str, Any] = json.loads(index_file.read_text()) if index_file.exists() else {"schemaVersion": 2, "manifests": []}
    entry = descriptor(*image.manifests[image.digest])
    if tag:
        entry["annotations"] = {"org.opencontainers.image.ref.name": tag}
    index["manifests"].append(entry)
    index_file.write_text(json.dumps(index))


def write_docker_archive(path: Path, image: BuiltImage, name: str = "") -> None:
    """Write what `docker save` writes: manifest.json, the config and plain layer tars. Layers must be built with compression="none"."""
    write_docker_archive_of(path, [(image, name)])


def write_docker_archive_of(path: Path, images: Sequence[tuple[BuiltImage, str]]) -> None:
    """Write one docker archive that holds several named images."""
    manifest: list[dict[str, Any]] = []
    members: dict[str, bytes] = {}
    for image, name in images:
        config_name = image.config_digest.removeprefix("sha256:") + ".json"
        members[config_name] = image.blobs[image.config_digest]
        layers = []
        for digest in image.layer_digests:
            member = digest.removeprefix("sha256:") + "/layer.tar"
            members[member] = image.blobs[digest]
            layers.append(member)
        manifest.append({"Config": config_name, "RepoTags": [name] if name else None, "Layers": layers})
    members["manifest.json"] = json.dumps(manifest).encode()
    path.write_bytes(tar([file(member, data) for member, data in members.items()]))


def push(
    image: BuiltImage,
    name: str,
    *,
    auth: tuple[str, str] | None = None,
    token: str = "",
    ca: Path | None = None,
) -> str:
    """Upload an image to a registry: `name` is "127.0.0.1:5000/team/app:tag". Returns the digest.

    Plain http without `ca`, TLS verified by it otherwise; `auth` is Basic (user, password), `token` a Bearer token.
    """
    host, _, rest = name.partition("/")
    repository, _, tag = rest.rpartition(":")
    headers = {}
    if auth:
        headers["Authorization"] = "Basic " + base64.b64encode(":".join(auth).encode()).decode()
    if token:
        headers["Authorization"] = f"Bearer {token}"
    if ca:
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(host, context=ssl.create_default_context(cafile=str(ca)))
    else:
        connection = http.client.HTTPConnection(host)
    try:
        for digest, data in image.blobs.items():
            location = _send(connection, "POST", f"/v2/{repository}/blobs/uploads/", b"", headers, 202)
            parts = urllib.parse.urlsplit(location)
            query = f"{parts.query}&" if parts.query else ""
            upload = {**headers, "Content-Type": "application/octet-stream"}
            _send(connection, "PUT", f"{parts.path}?{query}digest={urllib.parse.quote(digest)}", data, upload, 201)
        for digest, (media_type, raw) in sorted(image.manifests.items(), key=lambda item: item[0] == image.digest):
            where = tag if digest == image.digest and tag else digest
            _send(connection, "PUT", f"/v2/{repository}/manifests/{where}", raw, {**headers, "Content-Type": media_type}, 201)
    finally:
        connection.close()
    return image.digest


def _send(connection: http.client.HTTPConnection, method: str, path: str, body: bytes, headers: Mapping[str, str], expected: int) -> str:
    connection.request(method, path, body=body, headers=dict(headers))
    response = connection.getresponse()
    text = response.read()
    if response.status != expected:
        raise AssertionError(f"{method} {path}: {response.status} {text!r}")
    return response.headers.get("Location", "")
