"""Whose jobs may use a stored image: those whose own credentials open it at its registry, and everybody where the policy says so.

The store has one copy of every image for all tenants. A private image that one of them pulled must not open to the others only because it
is there (contracts/security.md D4, case 22). What a job names with `oci:` and `docker-archive:` is no registry's: images.allowed judges it.
"""

from __future__ import annotations

import time

from runner import globs
from runner.errors import Temporary, UserError
from runner.image import grants, mirrors, reference
from runner.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runner import config, paths
    from runner.image import auth
    from runner.model import Image


class Tenant(NamedTuple):
    """Who asks for an image: a build user's name, and the credentials of its job."""

    name: str
    store: paths.Store
    settings: config.Settings
    keychain: auth.Keychain


def refusal(tenant: Tenant, source: str, image: Image) -> UserError | None:
    """Return why a tenant may not use a stored image that its job calls `source`; None if it may.

    Blocks on the registry unless its answer is remembered (images.access_ttl). Temporary and InfraError when there is no answer to be had.
    """
    if reference.local_kind(image.source) or _is_public(source, image, tenant.settings):
        return None
    grant = _grant(tenant, image)
    ttl_s = tenant.settings.images.access_ttl
    if grants.is_remembered(tenant.store, tenant.name, grant, ttl_s=ttl_s, now=time.time()):
        return None
    refused = _ask(tenant, source, image)
    if refused is None:
        grants.remember(tenant.store, tenant.name, grant, ttl_s=ttl_s, now=time.time())
    return refused


def settle(tenant: Tenant, source: str, image: Image) -> None:
    """Remember that a tenant has just pulled an image; what mirrors may have given out, the registry has to open as well.

    A mirror may serve to everybody what its own credentials opened, so that it proves nothing unless it is trusted. Raises as `refusal`
    does, and the refusal itself.
    """
    if reference.local_kind(image.source):
        return
    registry = tenant.settings.registry(reference.parse(image.source).registry)
    if registry.mirrors and not registry.mirrors_trusted:
        refused = refusal(tenant, source, image)
        if refused is not None:
            raise refused
        return
    ttl_s = tenant.settings.images.access_ttl
    grants.remember(tenant.store, tenant.name, _grant(tenant, image), ttl_s=ttl_s, now=time.time())


def _is_public(source: str, image: Image, settings: config.Settings) -> bool:
    """A pattern may be written for any of the names of one image: as the job does, as people do, or in full."""
    names = {source, reference.familiar(reference.parse(image.source)), image.source}
    return any(globs.matches(pattern, name) for pattern in settings.images.public for name in names)


def _grant(tenant: Tenant, image: Image) -> grants.Grant:
    ref = reference.parse(image.source)
    registry = tenant.settings.registry(ref.registry)
    asked = [ref, *(mirrors.place(url, ref).ref for url in registry.mirrors if registry.mirrors_trusted)]
    return grants.Grant(image.source, image.digest, grants.mark(tenant.store, [tenant.keychain.lookup(place) for place in asked]))


def _ask(tenant: Tenant, source: str, image: Image) -> UserError | None:
    # requests costs 90 ms to import: who is let in by what is remembered does not pay for the network
    from runner.image import registry

    try:
        with registry.Client(reference.parse(image.source), settings=tenant.settings, keychain=tenant.keychain) as client:
            client.check(image.digest)
    except UserError as e:
        return e
    except Temporary as e:
        hint = (
            "it is stored, but its registry says who may use it; set images.public for free images, mirrors_trusted to let mirrors say it"
        )
        raise Temporary(f"cannot tell whether this job may use image {source}: {e.message}", hint) from e
    return None
