"""Signatures of images as cosign attaches them, judged by the openssl of this machine with the administrator's public keys.

A signature is a layer of an image `sha256-<digest>.sig` in the signed image's repository (cosign's specs/SIGNATURE_SPEC.md): its content is
a statement about repository and digest, its annotation the signature of that. Debian builds skopeo and podman without sigstore
("Debian-local change: sigstore disabled"), so the statement is read here, and openssl does the cryptography. No transparency log is asked.
"""

from __future__ import annotations

import binascii
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from runner import config, log, paths
from runner.errors import InfraError, UserError
from runner.image import manifest, reference, trust
from runner.kernel import files, locks, process
from runner.model import Descriptor, Reference

if TYPE_CHECKING:
    from runner.image.fetch import Origin

_ANNOTATION = "dev.cosignproject.cosign/signature"
_MEDIA_TYPE = "application/vnd.dev.cosign.simplesigning.v1+json"
_STATEMENT = "cosign container image signature"
_MOST = 50  # signatures of one image that are looked at
_LARGEST = 64 * 1024
_TIMEOUT_S = 30.0


class Signature(NamedTuple):
    """A statement and what is to prove it."""

    statement: bytes
    proof: bytes


def require(source: str, digests: Sequence[str], *, origin: Origin, store: paths.Store, settings: config.Settings) -> None:
    """Return if no rule wants a signature of an image, or if one of its keys signed one of `digests` for its repository.

    `digests` are those of the index that names the image, if one does, and of its manifest, the last. Its signature is remembered.
    UserError for an image that is not signed, or not by these keys, and for a key that is none; InfraError without openssl.
    """
    rule = trust.rule_of(source, settings)
    if rule is None or rule.rule != "signed":
        return
    ref, keys = reference.parse(source), trust.read_keys(rule.keys)
    unsigned: list[UserError] = []
    refused: list[UserError] = []  # what was signed wrongly says more than what was not signed at all
    for digest in digests:
        try:
            found = _attached(origin, digest)
        except UserError as e:
            unsigned.append(
                UserError(f"image {source} is not signed, and its rule in images.trust wants that: {e.message}", _hint(ref, digest))
            )
            continue
        with _Openssl(store) as openssl:
            for name, key in zip(rule.keys, keys, strict=True):
                openssl.use(name, key)
                signed = [one for one in found if openssl.accepts(one)]
                if any(_is_about(one.statement, ref, digest) for one in signed):
                    log.say(f"Image {source} is signed, as {name} proves")
                    trust.remember(store, ref, digests[-1], key)
                    return
                if signed:
                    refused.append(UserError(f"image {source} has the signature of another image, made with {name}", _hint(ref, digest)))
        refused.append(UserError(f"image {source} is signed, but by no key of its rule in images.trust", f"keys: {', '.join(rule.keys)}"))
    raise (refused or unsigned)[0]


def _hint(ref: Reference, digest: str) -> str:
    return f"sign it: cosign sign --key KEY {trust.repository(ref)}@{digest}"


def _attached(origin: Origin, digest: str) -> list[Signature]:
    """Fetch the signatures of a manifest; UserError where there is none. What they claim is not judged here."""
    what = f"signature of {digest}"
    value = manifest.decode(origin.manifest(f"{digest.replace(':', '-')}.sig").raw, what)
    layers = value.get("layers")
    if not isinstance(layers, list):
        raise UserError(f"{what} has no list of layers")
    found = []
    for layer in layers[:_MOST]:
        blob, proof = manifest.descriptor(layer, what), _proof(layer)
        if blob.media_type == _MEDIA_TYPE and blob.size <= _LARGEST and proof:
            found.append(Signature(_content(origin, blob), proof))
    if not found:
        raise UserError(f"{what} is none of cosign's")
    return found


def _proof(layer: dict[str, Any]) -> bytes:
    annotations = layer.get("annotations")
    text = annotations.get(_ANNOTATION) if isinstance(annotations, dict) else None
    try:
        return binascii.a2b_base64(text.encode(), strict_mode=True) if isinstance(text, str) and len(text) <= _LARGEST else b""
    except ValueError:
        return b""


def _content(origin: Origin, blob: Descriptor) -> bytes:
    """Return a small blob, of which no more is read than was announced; its signature is what proves it."""
    data = b""
    with origin.blob(blob.digest, 0) as stream:
        while len(data) < blob.size and (chunk := stream.read(blob.size - len(data))):
            data += chunk
    return data


def _is_about(statement: bytes, ref: Reference, digest: str) -> bool:
    """Tell whether a statement is about this manifest in this repository: a key may have signed much else."""
    try:
        critical = manifest.decode(statement, "a signature")["critical"]
        said = reference.parse(critical["identity"]["docker-reference"])
        return bool(
            critical["type"] == _STATEMENT
            and critical["image"]["docker-manifest-digest"] == digest
            and trust.repository(said) == trust.repository(ref)
        )
    except (UserError, KeyError, TypeError, AttributeError):
        return False


class _Openssl:
    """openssl(1) at work in a directory of its own, which is gone at the end; the next job's reaper takes that of one that was killed."""

    def __init__(self, store: paths.Store) -> None:
        key = f"signature-{os.getpid()}-{os.urandom(3).hex()}"
        self._directory, self._lock_path = store.job(key), store.job_lock(key)

    def __enter__(self) -> _Openssl:
        try:
            process.find("openssl")
        except FileNotFoundError as e:
            hint = "apt-get install --no-install-recommends openssl"
            raise InfraError("openssl is not installed, which verifies the signatures of images", hint) from e
        self._lock = locks.take(self._lock_path)
        files.make_directory(self._directory)
        return self

    def __exit__(self, *_: object) -> None:
        files.remove_tree(self._directory)
        files.remove_tree(self._lock_path)
        os.close(self._lock)

    def use(self, name: str, key: bytes) -> None:
        """Verify with this key from now on; UserError for one that is none."""
        files.write_atomic(f"{self._directory}/key", key, durable=False)
        if self._run("pkey", "-pubin", "-in", f"{self._directory}/key", "-noout") != 0:
            hint = "it has to be like cosign.pub, which `cosign generate-key-pair` writes"
            raise UserError(f"key {name} of images.trust is no public key in PEM", hint)

    def accepts(self, signature: Signature) -> bool:
        """Tell whether the key in use made a signature."""
        files.write_atomic(f"{self._directory}/proof", signature.proof, durable=False)
        verify = ("-verify", f"{self._directory}/key", "-signature", f"{self._directory}/proof")
        return self._run("dgst", "-sha256", *verify, statement=signature.statement) == 0

    def _run(self, *arguments: str, statement: bytes = b"") -> int:
        return process.run(["openssl", *arguments], input=statement, timeout_s=_TIMEOUT_S, check=False).returncode
