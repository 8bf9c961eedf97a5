"""Which images this machine uses at all: the rules of `images.trust`, by registry and repository, whoever asks and by whatever name.

Loaded only where there are rules. What is read from files of the machine has no registry: images.allowed judges it.
"""

from __future__ import annotations

import time
from _blake2 import blake2b  # hashlib loads a TLS library beside it, which costs 3 ms

from runner import globs
from runner.errors import UserError
from runner.image import grants, images, reference
from runner.kernel import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from runner import config, paths
    from runner.model import Image, Reference

_WHO = "signatures"  # instead of a tenant: that a key signed an image is so for everybody
_FOREVER_S = 100 * 365 * 86400.0
_KEY_BYTES = 64 * 1024


def repository(ref: Reference) -> str:
    """Return what the patterns of rules are for: the name in full, without tag and digest."""
    return f"{ref.registry}/{ref.repository}"


def rule_of(source: str, settings: config.Settings) -> config.Trust | None:
    """Return the first rule for an image (any name that reference.canonical takes), None if there is none."""
    if source == images.TOOLBOX or reference.local_kind(source):
        return None
    name = repository(reference.parse(source))
    return next((rule for rule in settings.images.trust if any(globs.matches(pattern, name) for pattern in rule.images)), None)


def check_name(source: str, settings: config.Settings) -> None:
    """Raise UserError for an image that is denied, or that its rule wants to be named by its digest."""
    rule = rule_of(source, settings)
    if rule is None:
        return
    ref = reference.parse(source)
    if rule.rule == "deny":
        raise UserError(f"image {source} is denied on this machine", f"images.trust in the configuration denies {', '.join(rule.images)}")
    if rule.rule == "digest" and not ref.digest:
        raise UserError(
            f"image {source} may be used by its digest only on this machine",
            f"write {reference.familiar(ref._replace(tag='', digest=''))}@sha256:… (images.trust in the configuration)",
        )


def unverified(source: str, image: Image, *, store: paths.Store, settings: config.Settings) -> UserError | None:
    """Return why a stored image that needs a signature may not be used: no key of its rule is known to have signed it. None if it may.

    UserError for a key that cannot be read. Asks no registry.
    """
    rule = rule_of(source, settings)
    if rule is None or rule.rule != "signed":
        return None
    ref = reference.parse(source)
    if any(_is_known(store, _grant(ref, image.digest, key)) for key in read_keys(rule.keys)):
        return None
    return UserError(f"no signature of {source} has been verified with the keys that count now", f"`dockless pull {source}` looks for one")


def remember(store: paths.Store, ref: Reference, digest: str, key: bytes) -> None:
    """Note for good that a key signed a manifest for the repository of `ref`."""
    grants.remember(store, _WHO, _grant(ref, digest, key), ttl_s=_FOREVER_S, now=time.time())


def read_keys(names: Sequence[str]) -> list[bytes]:
    """Return the content of files with public keys; UserError for one that cannot be read."""
    found = []
    for name in names:
        try:
            found.append(files.read(name, limit_bytes=_KEY_BYTES))
        except OSError as e:
            raise UserError(f"key {name} of images.trust cannot be read: {e.strerror}", "check the path and its permissions") from e
    return found


def _is_known(store: paths.Store, grant: grants.Grant) -> bool:
    return grants.is_remembered(store, _WHO, grant, ttl_s=_FOREVER_S, now=time.time())


def _grant(ref: Reference, digest: str, key: bytes) -> grants.Grant:
    return grants.Grant(repository(ref), digest, blake2b(key, digest_size=32).hexdigest())
