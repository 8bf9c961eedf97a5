"""The images of the benchmark: a small one of busybox, and a big one of Debian packages; made once, kept as a registry's storage.

python -m benchmarks.images CACHE     make what is missing
"""

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, NamedTuple

from tests.support import images
from tests.support.registries import docker_registry

SMALL, BASE, BIG = "bench/small:1", "bench/base:1", "bench/big:1"
LEAST_BYTES, LEAST_FILES = 600 * 10**6, 40_000
_LEVEL = 6  # what docker build and docker push compress with
_BASE_PACKAGES = 4  # how many of the layers below are in the base image, too: about half of the bytes

# what a build image is made of: toolchains, libraries with their headers, an interpreter with packages, sources
_LAYERS = (
    ("libc6", "libc6-dev", "linux-libc-dev", "libicu72", "libstdc++-12-dev", "perl-modules-5.36", "libperl5.36"),
    ("gcc-12", "cpp-12", "g++-12"),
    ("libllvm14", "libclang-cpp14"),
    ("libpython3.11-stdlib", "python3-numpy", "python3-django", "python3-sympy"),
    ("libboost1.74-dev",),
    ("git", "cmake", "cmake-data", "vim-runtime", "libeigen3-dev"),
    ("golang-1.19-src",),
)


class Made(NamedTuple):
    """The big image as it was made."""

    storage: Path  # what docker_registry serves
    layers: int
    files: int
    size_bytes: int  # uncompressed, as the sum of its files
    compressed_bytes: int
    base_bytes: int  # compressed, of the layers that the base image has, too
    packages: tuple[str, ...]  # NAME=VERSION

    def __str__(self) -> str:
        sizes = f"{self.size_bytes / 1e6:.0f} MB in {self.files} files, {self.compressed_bytes / 1e6:.0f} MB compressed (gzip -{_LEVEL})"
        return f"{sizes}, {self.layers} layers, of {len(self.packages)} Debian packages"


class _Packed(NamedTuple):
    """One layer on its way into the registry."""

    blob: Path
    digest: str
    diff_id: str
    files: int
    size_bytes: int


def prepare(cache: Path) -> Made:
    """Return the images, made if they are not in the cache yet; what was made by another recipe is removed. Needs a Debian mirror then."""
    recipe = Path(__file__).read_bytes() + Path(images.BUSYBOX).read_bytes()
    directory = cache / f"images-{hashlib.sha256(recipe).hexdigest()[:16]}"
    record = directory / "made.json"
    if not record.exists():
        print("bench: making an image of Debian packages (once)", flush=True)
        for old in [*cache.glob("images-*"), *cache.glob(".new-*")]:
            shutil.rmtree(old)
        new = cache / f".new-{os.getpid()}"
        new.mkdir()
        made = _make(new)
        (new / "made.json").write_text(json.dumps(made._replace(storage="")._asdict()))  # type: ignore[arg-type]  # it will be elsewhere
        new.rename(directory)
    found: dict[str, Any] = json.loads(record.read_text())
    return Made(**{**found, "storage": directory, "packages": tuple(found["packages"])})


def warm(storage: Path) -> None:
    """Read everything that the registry serves, so that no pull waits for the disk where another does not."""
    for path in storage.rglob("data"):
        with path.open("rb") as file:
            while file.read(1024**2):
                pass


def _make(directory: Path) -> Made:
    work = directory / "work"
    work.mkdir()
    debs = _download(work, [name for names in _LAYERS for name in names])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        packed = list(pool.map(lambda at: _pack(work / f"layer{at}", [debs[name] for name in _LAYERS[at]]), range(len(_LAYERS))))
    bottom = images.build_image([images.busybox_layer()])
    size, files = sum(layer.size_bytes for layer in packed), sum(layer.files for layer in packed)
    if size < LEAST_BYTES or files < LEAST_FILES:
        raise SystemExit(f"the packages have become too small: {size / 1e6:.0f} MB in {files} files")
    big = _stack(bottom, packed)
    with docker_registry(directory) as host:
        for name, image in ((SMALL, bottom), (BASE, _stack(bottom, packed[:_BASE_PACKAGES])), (BIG, big)):
            images.push(image, f"{host}/{name}")
    versions = tuple("=".join(path.name.split("_")[:2]).replace("%3a", ":") for path in debs.values())
    shutil.rmtree(work)
    sizes = [len(big.blobs[digest]) for digest in big.layer_digests]
    return Made(directory, len(sizes), files, size, sum(sizes), sum(sizes[: 1 + _BASE_PACKAGES]), versions)


def _download(work: Path, names: Sequence[str]) -> dict[str, Path]:
    """Fetch packages with an apt that keeps its lists here: needs no root, and leaves the machine's own lists alone."""
    for each in ("lists/partial", "cache/archives/partial", "debs"):
        (work / each).mkdir(parents=True)
    options = [
        "-q", "-o", f"Dir::State::Lists={work}/lists", "-o", f"Dir::Cache={work}/cache", "-o", "APT::Sandbox::User=",
        "-o", "Debug::NoLocking=1",
    ]  # fmt: skip
    for command in (["update"], ["download", *names]):
        for last in (False, False, True):
            done = subprocess.run(
                ["apt-get", *options, *command],
                cwd=work / "debs",
                env={**os.environ, "LC_ALL": "C.UTF-8"},
                capture_output=True,
                check=False,
            )
            if done.returncode == 0:
                break
            if last:
                raise SystemExit(f"apt-get {command[0]} ended with {done.returncode}: {done.stderr.decode(errors='replace')}")
            time.sleep(3)
    return {name: next((work / "debs").glob(f"{name}_*.deb")) for name in names}


def _pack(work: Path, debs: Sequence[Path]) -> _Packed:
    """Make one layer's compressed tar of some packages."""
    tree = work / "tree"
    tree.mkdir(parents=True)
    for deb in debs:
        subprocess.run(["dpkg-deb", "-x", str(deb), str(tree)], check=True, capture_output=True)
    entries = [path for path in tree.rglob("*") if path.is_symlink() or path.is_file()]
    size = sum(path.lstat().st_size for path in entries)
    argv = ["tar", "-C", str(tree), "--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--format=pax", "-cf", "-", "."]
    blob = work / "blob"
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as tar, blob.open("wb") as raw:
        assert tar.stdout
        diff_id = _compress(tar.stdout, raw)
    if tar.returncode != 0:
        raise SystemExit(f"tar ended with {tar.returncode}")
    shutil.rmtree(tree)
    with blob.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return _Packed(blob, f"sha256:{digest}", diff_id, len(entries), size)


def _compress(plain: IO[bytes], raw: IO[bytes]) -> str:
    """Compress a stream and return the digest of what it was."""
    hasher = hashlib.sha256()
    with gzip.GzipFile(fileobj=raw, mode="wb", filename="", compresslevel=_LEVEL, mtime=0) as packed:
        while chunk := plain.read(1024**2):
            hasher.update(chunk)
            packed.write(chunk)
    return f"sha256:{hasher.hexdigest()}"


def _stack(bottom: images.BuiltImage, packed: Sequence[_Packed]) -> images.BuiltImage:
    """Put layers on top of an image of one layer."""
    diff_ids = [*bottom.diff_ids, *(layer.diff_id for layer in packed)]
    config = json.loads(bottom.blobs[bottom.config_digest])
    config["rootfs"]["diff_ids"] = diff_ids
    config_raw = json.dumps(config).encode()
    blobs = {bottom.layer_digests[0]: bottom.blobs[bottom.layer_digests[0]], **{layer.digest: layer.blob.read_bytes() for layer in packed}}
    manifest = {
        "schemaVersion": 2,
        "mediaType": images.OCI_MANIFEST,
        "config": images.descriptor(images.OCI_CONFIG, config_raw),
        "layers": [images.descriptor(images.OCI_LAYER + "+gzip", data) for data in blobs.values()],
    }
    raw = json.dumps(manifest).encode()
    digest, config_digest = images.digest_of(raw), images.digest_of(config_raw)
    return images.BuiltImage(
        digest, {digest: (images.OCI_MANIFEST, raw)}, {config_digest: config_raw, **blobs}, config_digest, tuple(diff_ids), tuple(blobs),
        bottom.platform,
    )  # fmt: skip


if __name__ == "__main__":
    print(prepare(Path(sys.argv[1])))
