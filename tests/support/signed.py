"""Signatures as cosign makes them (its specs/SIGNATURE_SPEC.md), by the openssl command."""

import base64
import json
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

from tests.support import images

MEDIA_TYPE = "application/vnd.dev.cosign.simplesigning.v1+json"
_ANNOTATION = "dev.cosignproject.cosign/signature"


class Key(NamedTuple):
    """A key pair in PEM files, as `cosign generate-key-pair` makes one, but that the private one has no password."""

    private: Path
    public: Path


def make_key(directory: Path, name: str, *, algorithm: str = "EC") -> Key:
    """Make a key of ECDSA P-256, or of RSA."""
    key = Key(directory / f"{name}.key", directory / f"{name}.pub")
    option = "ec_paramgen_curve:P-256" if algorithm == "EC" else "rsa_keygen_bits:2048"
    for argv in (
        ["genpkey", "-algorithm", algorithm, "-pkeyopt", option, "-out", str(key.private)],
        ["pkey", "-in", str(key.private), "-pubout", "-out", str(key.public)],
    ):
        subprocess.run(["openssl", *argv], check=True, capture_output=True)
    return key


def statement(repository: str, digest: str, **critical: Any) -> bytes:
    """Return what cosign signs; `critical` replaces parts of it."""
    said = {
        "identity": {"docker-reference": repository},
        "image": {"docker-manifest-digest": digest},
        "type": "cosign container image signature",
    }
    return json.dumps({"critical": {**said, **critical}, "optional": None}).encode()


def signature(key: Key, *statements: bytes) -> images.BuiltImage:
    """Return the image that cosign attaches to a signed one, with a layer for each statement."""
    config = json.dumps({"architecture": "", "os": "", "config": {}, "rootfs": {"type": "layers", "diff_ids": []}}).encode()
    layers = []
    for said in statements:
        proof = subprocess.run(["openssl", "dgst", "-sha256", "-sign", str(key.private)], input=said, check=True, capture_output=True)
        layers.append({**images.descriptor(MEDIA_TYPE, said), "annotations": {_ANNOTATION: base64.b64encode(proof.stdout).decode()}})
    value = {
        "schemaVersion": 2,
        "mediaType": images.OCI_MANIFEST,
        "config": images.descriptor(images.OCI_CONFIG, config),
        "layers": layers,
    }
    raw = json.dumps(value).encode()
    digest = images.digest_of(raw)
    blobs = {images.digest_of(data): data for data in (config, *statements)}
    return images.BuiltImage(digest, {digest: (images.OCI_MANIFEST, raw)}, blobs, "", (), (), {})


def tag(digest: str) -> str:
    """Return the tag under which signatures of a manifest are."""
    return f"{digest.replace(':', '-')}.sig"


def sign(key: Key, host: str, repository: str, digest: str, *, push_to: str = "") -> None:
    """Sign host/repository@digest and push the signature beside it, or to the repository `push_to`."""
    made = signature(key, statement(f"{host}/{repository}", digest))
    images.push(made, f"{host}/{push_to or repository}:{tag(digest)}")
