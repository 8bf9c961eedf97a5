"""Pull policies: the one door to an image, stored or fetched; says what it does in the words of GitLab's docker executor."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from runner import config, log, paths
from runner.errors import RunnerError, UserError
from runner.image import images, reference
from runner.model import IdMap, Image

if TYPE_CHECKING:
    from runner.image import auth

POLICIES = ("always", "if-not-present", "never")


def ensure(
    source: str,
    *,
    store: paths.Store,
    settings: config.Settings,
    keychain: "auth.Keychain",
    policies: Sequence[str] = ("if-not-present",),
    platform: str = "",
    id_map: IdMap | None = None,
) -> Image:
    """Return the image of a source, stored: "toolbox", a registry reference, oci:DIR[:tag] or docker-archive:FILE[:name].

    The policies are tried in order until one gives the image; the last one's error is raised: UserError for an image that is not there or
    not permitted, Temporary and InfraError as fetch.fetch. Blocks on the network; a stored image that may be used costs a file read.
    What is pulled is unpacked for containers with `id_map`, None: not yet.
    """
    unknown = [policy for policy in policies if policy not in POLICIES]
    if unknown or not policies:
        raise UserError(f"bad pull policy: {', '.join(map(repr, unknown)) or 'none given'}", f"there are {', '.join(POLICIES)}")
    if source == images.TOOLBOX:
        return images.toolbox()
    name = reference.canonical(source)
    for attempt, policy in enumerate(policies, 1):
        if attempt > 1:
            log.say(f'Attempt #{attempt}: Trying "{policy}" pull policy for "{source}" image')
        try:
            image = _by_policy(policy, source, name, store=store, settings=settings, keychain=keychain, platform=platform, id_map=id_map)
        except RunnerError as e:
            if attempt == len(policies):
                raise
            log.warn(f'Failed to pull image with policy "{policy}": {e.message}')
            continue
        log.say(f"Using docker image {image.config_digest} for {source}{_with_digest(name, image)} ...")
        return image
    raise AssertionError("unreachable: the last policy returns or raises")


def _by_policy(
    policy: str,
    source: str,
    name: str,
    *,
    store: paths.Store,
    settings: config.Settings,
    keychain: "auth.Keychain",
    platform: str,
    id_map: IdMap | None,
) -> Image:
    if policy != "always":
        image = images.find(store, name, platform=platform, id_map=id_map)
        if image is not None:
            if policy == "if-not-present":
                log.say('Using locally found image version due to "if-not-present" pull policy')
            return image
        if policy == "never":
            raise UserError(f'image {source} is not stored here, and the pull policy is "never"', f"pull it once: dockless pull {source}")
    log.say(f"Pulling docker image {source} ...")
    # requests costs 90 ms to import: who has the image does not pay for the network (ARCHITECTURE.md section 7)
    from runner.image import fetch

    return fetch.fetch(name, store=store, settings=settings, keychain=keychain, platform=platform, id_map=id_map)


def _with_digest(name: str, image: Image) -> str:
    """Return the words that tell people how to pin what they got; a local file has no name to pin."""
    if reference.local_kind(name):
        return ""
    return f" with digest {reference.familiar(reference.parse(name)._replace(tag='', digest=''))}@{image.digest}"
