"""Pull policies: the one door to an image, stored or fetched; says what it does in the words of GitLab's docker executor."""

from __future__ import annotations

from runner import log
from runner.errors import RunnerError, UserError
from runner.image import images, reference
from runner.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from runner import config, paths
    from runner.image import access, auth
    from runner.model import IdMap, Image

POLICIES = ("always", "if-not-present", "never")


def ensure(
    source: str,
    *,
    store: paths.Store,
    settings: config.Settings,
    keychain: auth.Keychain,
    policies: Sequence[str] = ("if-not-present",),
    platform: str = "",
    id_map: IdMap | None = None,
    tenant: str = "",
) -> Image:
    """Return the image of a source, stored: "toolbox", a registry reference, oci:DIR[:tag] or docker-archive:FILE[:name].

    The policies are tried in order until one gives the image; the last one's error is raised: UserError for an image that is not there or
    not permitted, Temporary and InfraError as fetch.fetch. Blocks on the network; a stored image that may be used costs a file read.
    What is pulled is unpacked for containers with `id_map`, None: not yet.

    `tenant` is the build user whose job asks. Its credentials have to open the image at the registry although it is stored (image.access).
    Without one the account itself asks, whose store it is.
    """
    unknown = [policy for policy in policies if policy not in POLICIES]
    if unknown or not policies:
        raise UserError(f"bad pull policy: {', '.join(map(repr, unknown)) or 'none given'}", f"there are {', '.join(POLICIES)}")
    if source == images.TOOLBOX:
        return images.toolbox()
    if settings.images.trust:
        from runner.image import trust

        trust.check_name(source, settings)
    asked = _Asked(source, reference.canonical(source), platform, store, settings, keychain, tenant, id_map)
    for attempt, policy in enumerate(policies, 1):
        if attempt > 1:
            log.say(f'Attempt #{attempt}: Trying "{policy}" pull policy for "{source}" image')
        try:
            image = _by_policy(policy, asked)
        except RunnerError as e:
            if attempt == len(policies):
                raise
            log.warn(f'Failed to pull image with policy "{policy}": {e.message}')
            continue
        log.say(f"Using docker image {image.config_digest} for {source}{_with_digest(asked.name, image)} ...")
        return image
    raise AssertionError("unreachable: the last policy returns or raises")


class _Asked(NamedTuple):
    """What `ensure` was called with; `name` is the canonical one."""

    source: str
    name: str
    platform: str
    store: paths.Store
    settings: config.Settings
    keychain: auth.Keychain
    tenant: str
    id_map: IdMap | None

    def as_tenant(self) -> access.Tenant:
        """Return who asks, for whom `tenant` says that there is one."""
        from runner.image import access

        return access.Tenant(self.tenant, self.store, self.settings, self.keychain)


def _by_policy(policy: str, asked: _Asked) -> Image:
    if policy != "always":
        image = images.find(asked.store, asked.name, platform=asked.platform, id_map=asked.id_map)
        refusal = _refusal(asked, image) if image is not None else None
        if image is not None and refusal is None:
            if policy == "if-not-present":
                log.say('Using locally found image version due to "if-not-present" pull policy')
            return image
        if policy == "never":
            raise _never(asked.source, refusal)
        if refusal is not None:
            log.say(f"Image {asked.source} is stored, but not for this job: {refusal.message}")
    log.say(f"Pulling docker image {asked.source} ...")
    # requests costs 90 ms to import: who has the image does not pay for the network (ARCHITECTURE.md section 7)
    from runner.image import fetch

    image = fetch.fetch(
        asked.name, store=asked.store, settings=asked.settings, keychain=asked.keychain, platform=asked.platform, id_map=asked.id_map
    )
    if asked.tenant:
        from runner.image import access

        access.settle(asked.as_tenant(), asked.source, image)
    return image


def _refusal(asked: _Asked, image: Image) -> UserError | None:
    """Return why a stored image is not for who asks, None if it is."""
    if asked.settings.images.trust:
        from runner.image import trust

        unverified = trust.unverified(asked.name, image, store=asked.store, settings=asked.settings)
        if unverified is not None:
            return unverified
    if not asked.tenant:
        return None
    from runner.image import access

    return access.refusal(asked.as_tenant(), asked.source, image)


def _never(source: str, refusal: UserError | None) -> UserError:
    if refusal is None:
        return UserError(f'image {source} is not stored here, and the pull policy is "never"', f"pull it once: dockless pull {source}")
    return UserError(f"image {source} is stored here, but not for this job: {refusal.message}", refusal.hint)


def _with_digest(name: str, image: Image) -> str:
    """Return the words that tell people how to pin what they got; a local file has no name to pin."""
    if reference.local_kind(name):
        return ""
    return f" with digest {reference.familiar(reference.parse(name)._replace(tag='', digest=''))}@{image.digest}"
