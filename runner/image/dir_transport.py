"""The form in which buildah and skopeo keep one image in one directory, `dir:` (containers-transports(5)), and what we make of it.

manifest.json, a file `version`, and every blob by the hex digits of its digest. It takes manifests of Docker as they are, where what these
programs write as an OCI layout loses a HEALTHCHECK.
"""

import hashlib
import json
import os
import stat

from runner import paths
from runner.errors import UserError
from runner.image import blobs, images, manifest
from runner.kernel import files
from runner.model import Image

_MANIFEST, _VERSION = "manifest.json", "version"
_VERSION_TEXT = b"Directory Transport Version: 1.1\n"


def to_layout(directory: str, layout: str) -> None:
    """Move what is in `directory` into a new OCI image layout (image-layout.md) on the same file system.

    What a build left is not believed: UserError for anything that is no plain file, since a link would lead to files of the account. The
    digests are checked when the layout is read.
    """
    found = {entry.name: entry.path for entry in os.scandir(directory)}
    odd = sorted(name for name, path in found.items() if not stat.S_ISREG(os.lstat(path).st_mode))
    if odd or _MANIFEST not in found:
        raise UserError(f"{directory} is no image: {repr(odd[0]) if odd else _MANIFEST} is not a file")
    os.makedirs(f"{layout}/blobs/sha256")
    raw = files.read(found.pop(_MANIFEST), limit_bytes=manifest.LIMIT_BYTES)
    digest = hashlib.sha256(raw).hexdigest()
    for name, path in found.items():
        os.rename(path, f"{layout}/blobs/sha256/{name}")
    files.write_atomic(f"{layout}/blobs/sha256/{digest}", raw, durable=False)
    said = manifest.decode(raw, f"{directory}/{_MANIFEST}").get("mediaType", manifest.OCI_MANIFEST)
    index = {"schemaVersion": 2, "manifests": [{"mediaType": said, "digest": f"sha256:{digest}", "size": len(raw)}]}
    files.write_atomic(f"{layout}/index.json", json.dumps(index).encode(), durable=False)
    files.write_atomic(f"{layout}/oci-layout", b'{"imageLayoutVersion":"1.0.0"}', durable=False)


def link(store: paths.Store, image: Image, directory: str) -> None:
    """Show a stored image in a new directory: links to its blobs, which stay there even when the collector takes them meanwhile.

    The directory has to be on the store's file system. UserError for a blob that is not there any more.
    """
    os.mkdir(directory, 0o700)
    files.write_atomic(f"{directory}/{_VERSION}", _VERSION_TEXT, durable=False)
    for blob in images.blobs_of(image):
        name = _MANIFEST if blob.digest == image.digest else blob.digest.removeprefix("sha256:")
        try:
            os.link(store.blob(blob.digest), f"{directory}/{name}")
        except FileExistsError:
            continue  # a layer may be there twice
        except FileNotFoundError as e:
            raise UserError(
                f"image {image.source} cannot be copied: blob {blob.digest} was collected when its layer was unpacked",
                "pull or build the image again",
            ) from e


def is_whole(store: paths.Store, image: Image) -> bool:
    """Tell whether every blob of an image is there, so that it can be copied."""
    return all(blobs.exists(store, blob.digest) for blob in images.blobs_of(image))
