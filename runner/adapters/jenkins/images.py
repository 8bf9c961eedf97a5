"""Stored images by the names and ids that docker's commands take."""

from __future__ import annotations

from runner import errors
from runner.image import images as stored
from runner.image import reference
from runner.model import Image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runner.job.surroundings import Surroundings


def find(around: Surroundings, text: str) -> tuple[str, Image] | None:
    """Return a name of a stored image, and the image, by its name, its id or the beginning of one; None if there is none."""
    try:
        name = reference.canonical(text)
        image = stored.find(around.store, name)
    except errors.UserError:
        image = None
    if image:
        return name, image
    digits = text.removeprefix("sha256:")
    if len(digits) < 4 or digits.strip("0123456789abcdef"):
        return None
    return next(
        ((name, image) for name, image in stored.all(around.store) if image.config_digest.removeprefix("sha256:").startswith(digits)), None
    )


def name_for(text: str) -> str:
    """Return the name under which an image is recorded; UserError, in one line, for what nobody can give as a name."""
    try:
        name = reference.canonical(text)
        if name != stored.TOOLBOX and not reference.local_kind(name) and not reference.parse(name).digest:
            return name
    except errors.UserError as e:
        raise errors.UserError(e.message) from e
    raise errors.UserError(f"an image cannot be named {text[:200]!r}")
