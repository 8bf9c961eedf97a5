"""What registries let a tenant have, remembered for a while: one small file for each tenant, below the store.

Forgetting costs a question to a registry and nothing else, so a file that cannot be read or written is no error.
"""

from __future__ import annotations

import os
from _blake2 import blake2b  # hashlib loads a TLS library beside it, which costs 3 ms

from runner import log
from runner.kernel import files, locks, plain_json
from runner.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runner import paths
    from runner.image import auth

_FORMAT = 1
_MOST = 1000  # entries; the newest stay
_LIMIT_BYTES = 4 * 1024**2
_KEY_BYTES = 32


class Grant(NamedTuple):
    """One image that was opened by some credentials."""

    name: str  # canonical, with its tag
    digest: str  # of the manifest
    mark: str  # see `mark`


def mark(store: paths.Store, credentials: list[auth.Credentials | None]) -> str:
    """Return what stands for credentials in a grant: other ones of the same tenant do not find it, and nobody reads a secret out of it.

    The digest is keyed with random bytes of the store. "" if these can be neither read nor made: then nothing is to be remembered.
    """
    try:
        key = _key(store)
    except OSError as e:
        log.debug(f"cannot keep a key in {store.access}: {e.strerror}")
        return ""
    # where they come from does not matter, only what a registry hears
    told = [None if one is None else [one.username, one.password, one.identity_token] for one in credentials]
    return blake2b(plain_json.dumps(told).encode(), digest_size=32, key=key).hexdigest()


def is_remembered(store: paths.Store, tenant: str, grant: Grant, *, ttl_s: float, now: float) -> bool:
    """Tell whether a grant was remembered at most `ttl_s` before `now` (seconds since the epoch).

    One of the future is none: the clock was set back, and nobody knows how old it is.
    """
    return bool(grant.mark) and any(_grant(entry) == grant for entry in _valid(store, tenant, ttl_s=ttl_s, now=now))


def remember(store: paths.Store, tenant: str, grant: Grant, *, ttl_s: float, now: float) -> None:
    """Note a grant for `ttl_s` from `now`, and drop what has expired. Idempotent, safe side by side; takes access/lock."""
    if not grant.mark or ttl_s <= 0:
        return
    try:
        files.make_directory(store.access)
        with locks.hold(store.access_lock):
            kept = [entry for entry in _valid(store, tenant, ttl_s=ttl_s, now=now) if _grant(entry) != grant]
            entries = [*kept, [*grant, now]][-_MOST:]
            files.write_json(store.tenant_access(tenant), {"format": _FORMAT, "grants": entries}, durable=False)
    except OSError as e:
        log.debug(f"cannot remember what {tenant} may use in {store.access}: {e.strerror}")


def _grant(entry: list[Any]) -> Grant:
    return Grant(*entry[:3])


def _valid(store: paths.Store, tenant: str, *, ttl_s: float, now: float) -> list[list[Any]]:
    """Return the entries [name, digest, mark, time] of a tenant that still count, oldest first."""
    try:
        record = files.read_json(store.tenant_access(tenant), limit_bytes=_LIMIT_BYTES)
        entries = record["grants"] if record["format"] == _FORMAT else []
        return [entry for entry in entries if len(entry) == 4 and isinstance(entry[3], (int, float)) and 0 <= now - entry[3] < ttl_s]
    except (OSError, ValueError, TypeError, LookupError):
        return []


def _key(store: paths.Store) -> bytes:
    key = _read_key(store)
    if not key:
        files.make_directory(store.access)
        with locks.hold(store.access_lock):
            key = _read_key(store)  # another process may have made it meanwhile
            if not key:
                key = os.urandom(_KEY_BYTES)
                files.write_atomic(store.access_key, key, durable=False)
    return key


def _read_key(store: paths.Store) -> bytes:
    """Return the key, b"" for none and for what is none."""
    try:
        key = files.read(store.access_key, limit_bytes=_KEY_BYTES)
    except OSError:
        return b""
    return key if len(key) == _KEY_BYTES else b""
