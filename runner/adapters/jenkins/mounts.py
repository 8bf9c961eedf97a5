"""Which directories of the host `docker run -v` may show: the agent's own, which are workspaces, their @tmp, and caches."""

from __future__ import annotations

import os

from runner import errors
from runner.model import VolumeSpec
from runner.sandbox import mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from runner.job.surroundings import Surroundings

# Below the agent's home. Not a wall, since a Pipeline can run `sh` outside of containers as well, but a guard against mistakes
_SECRET = (
    ".ssh", ".gnupg", ".aws", ".azure", ".kube", ".docker", ".config", ".netrc", ".git-credentials", ".pki", ".local/share", ".jenkins",
)  # fmt: skip


def parse(texts: Iterable[str], around: Surroundings, *, cwd: str, roots: tuple[str, ...]) -> tuple[VolumeSpec, ...]:
    """Parse all -v of a container. UserError for what is not the agent's own.

    A directory that does not exist is made, as docker does, where its parent is the agent's own. `roots` limits all of them to some
    directories; without any it is who owns a directory that counts.
    """
    found: dict[str, VolumeSpec] = {}
    for text in texts:
        try:
            source = mounts.split(text)[0]
            if mounts.is_host_path(source):
                place = os.path.join(cwd, source)
                if not os.path.lexists(place):
                    _make(place, text, around, roots=roots)
            volume = mounts.parse(text, state_dir=around.store.root, cwd=cwd)
        except errors.UserError as e:
            e.hint = ""  # one line is what a log has room for
            raise
        if volume.kind == "bind":
            reason = refusal(volume.source, uid=around.account.uid, home=around.account.home, roots=roots)
            if reason:
                raise _bad(text, reason)
        if volume.target in found:
            raise _bad(text, f"{volume.target} is the target of another one")
        found[volume.target] = volume
    return tuple(found.values())


def _make(place: str, text: str, around: Surroundings, *, roots: tuple[str, ...]) -> None:
    wanted, home = mounts.real_path(place, text), os.path.realpath(around.account.home)
    reason = mounts.refusal(wanted, state_dir=os.path.realpath(around.store.root)) or _secret(wanted, home=home)
    if reason:
        raise _bad(text, reason)
    parent = os.path.dirname(os.path.normpath(place))
    while not os.path.isdir(parent) and parent != "/":
        parent = os.path.dirname(parent)
    real = os.path.realpath(parent)
    # the home itself may not be shown, but a new cache may be made in it
    if real != home and refusal(real, uid=around.account.uid, home=home, roots=roots):
        raise _bad(text, f"{place} on the host does not exist, and is not in a directory of the agent's own")
    try:
        os.makedirs(place, 0o755, exist_ok=True)
    except OSError as e:
        raise _bad(text, f"{place} on the host cannot be made: {e.strerror}") from e


def refusal(real: str, *, uid: int, home: str, roots: tuple[str, ...]) -> str:
    """Return why a real path of the host may not be shown, "" if it may."""
    home = os.path.realpath(home)
    secret = _secret(real, home=home)
    if secret:
        return secret
    if mounts.is_within(home, real):
        return f"the home of the agent's account ({home}) would be open to the container"
    if roots:
        allowed = any(mounts.is_within(real, os.path.realpath(root)) for root in roots)
        return "" if allowed else f"{real} is not one of the directories that install-docker-shim was given: {', '.join(roots)}"
    return "" if os.stat(real).st_uid == uid else f"{real} does not belong to the agent's account"


def _secret(real: str, *, home: str) -> str:
    is_secret = any(mounts.is_within(real, f"{home}/{name}") for name in _SECRET)
    return f"{real} holds secrets of the agent's account" if is_secret else ""


def _bad(text: str, reason: str) -> errors.UserError:
    return errors.UserError(f"docker run: mount {text!r} is refused: {reason}")
