"""The parts of a pull, each alone, by the project's own code: what a pull can at best be as fast as.

python -m benchmarks.parts PART IMAGE DIRECTORY     PART: prepare, then any of PARTS with "clear" before each, at last "remove"

DIRECTORY has what the parts work on (blobs/, tars/) and what they make (out/).
"""

import hashlib
import json
import multiprocessing
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from runner.image import bounds, decompress, unpack
from runner.kernel import accounts, files, userns
from runner.model import BuildUser, Descriptor, Layer
from runner.sandbox import build_users

if TYPE_CHECKING:
    from runner.image import registry

PARTS = ("download", "decompress", "unpack")
_CHUNK_BYTES = 1024**2
_SIDE_BY_SIDE = 4  # as image.fetch has it


class Parts:
    """The layers of an image and a directory to work in."""

    def __init__(self, image: str, directory: str) -> None:
        self._image, self._directory = image, directory
        self._record = f"{directory}/layers.json"
        known = files.read_json(self._record) if os.path.exists(self._record) else []
        self._layers = [Layer(Descriptor(*blob), diff_id) for blob, diff_id in known]

    def prepare(self) -> None:
        """Lay down the blobs and the uncompressed layers."""
        for name in ("blobs", "tars"):
            os.mkdir(f"{self._directory}/{name}")
        self.clear()
        self._layers = _resolve(self._image)
        with open(self._record, "w", encoding="utf-8") as file:
            json.dump(self._layers, file)
        self._download("blobs")
        for layer in self._layers:
            with open(self._blob(layer), "rb") as packed, open(self._tar(layer), "wb") as plain:
                for chunk in decompress.chunks(packed):
                    plain.write(chunk)

    def download(self) -> None:
        """Bring all blobs into files, with their digests checked."""
        self._download("out")

    def decompress(self) -> None:
        """Decompress all layers and check the digest of each."""

        with multiprocessing.get_context("fork").Pool(_SIDE_BY_SIDE) as pool:
            found = pool.map(_digest_of_content, [self._blob(layer) for layer in self._layers], chunksize=1)
        if found != [layer.diff_id for layer in self._layers]:
            raise SystemExit(f"a layer is damaged: {found}")

    def unpack(self) -> None:
        """Make files of all layers, which are uncompressed already."""
        account = accounts.current()
        id_map = BuildUser("parts", 0, *build_users.available(account)[0]).isolated_map()
        roots = [f"{self._directory}/out/{number}" for number in range(len(self._layers))]

        def make() -> None:
            for path in roots:
                os.mkdir(path, 0o755)
                os.chown(path, 1, 1)  # the first slice's root

        userns.call(build_users.every_map(account), make)
        # opened out here: inside, the ids have no way to these files
        work = [
            (os.open(self._tar(layer), os.O_RDONLY), os.open(root, os.O_RDONLY)) for layer, root in zip(self._layers, roots, strict=True)
        ]

        def fill() -> None:
            with multiprocessing.get_context("fork").Pool(_SIDE_BY_SIDE) as pool:
                pool.starmap(_fill, work, chunksize=1)

        userns.call(id_map, fill)

    def clear(self) -> None:
        """Remove what a part has made, and have a place for the next."""
        out = f"{self._directory}/out"
        if os.path.exists(out):
            userns.call(build_users.every_map(accounts.current()), lambda: files.remove_tree(out))
        os.mkdir(out)
        os.chmod(out, 0o777)

    def remove(self) -> None:
        """Remove everything."""
        userns.call(build_users.every_map(accounts.current()), lambda: files.remove_tree(self._directory))

    def _download(self, into: str) -> None:
        # only this part pays for the imports of a registry's client
        from runner.image import download

        with _client(self._image) as client:

            def one(layer: Layer) -> None:
                request = download.Request(layer.blob, lambda offset: client.blob(layer.blob.digest, offset))
                download.fetch(request, f"{self._directory}/{into}/{_hex(layer.blob.digest)}")

            with ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
                for _ in pool.map(one, self._layers):
                    pass  # what failed is raised here

    def _blob(self, layer: Layer) -> str:
        return f"{self._directory}/blobs/{_hex(layer.blob.digest)}"

    def _tar(self, layer: Layer) -> str:
        return f"{self._directory}/tars/{_hex(layer.diff_id)}"


def _client(image: str) -> "registry.Client":
    from runner import config
    from runner.image import auth, reference, registry

    keychain = auth.Keychain.of_account(os.environ["HOME"], {})
    return registry.Client(reference.parse(image), settings=config.Settings(), keychain=keychain)


def _resolve(image: str) -> list[Layer]:
    from runner.image import fetch, image_config, platforms, reference

    with _client(image) as client:
        resolved = fetch.resolve(client, reference.parse(image).tag, platforms.host(), what=image)
        with client.blob(resolved.manifest.config.digest, 0) as stream:
            raw = b"".join(iter(lambda: stream.read(_CHUNK_BYTES), b""))
    diff_ids = image_config.parse(raw, image).diff_ids
    return [Layer(blob, diff_id) for blob, diff_id in zip(resolved.manifest.layers, diff_ids, strict=True)]


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")


def _digest_of_content(blob: str) -> str:
    hasher = hashlib.sha256()
    with open(blob, "rb") as packed:
        for chunk in decompress.chunks(packed):
            hasher.update(chunk)
    return f"sha256:{hasher.hexdigest()}"


def _fill(plain: int, root: int) -> None:
    with open(plain, "rb") as file:
        unpack.Tree(root, "a layer", bounds.DEFAULT).fill(iter(lambda: file.read(_CHUNK_BYTES), b""))


def main(arguments: Sequence[str]) -> None:
    """Do one part."""
    part, image, directory = arguments
    work: Any = getattr(Parts(image, directory), part)
    work()


if __name__ == "__main__":
    main(sys.argv[1:])
