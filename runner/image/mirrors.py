"""Where a mirror keeps the images of another registry: at its own name, perhaps below a path."""

from __future__ import annotations

from runner import registry_name
from runner.errors import UserError
from runner.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runner.model import Reference


class Place(NamedTuple):
    """A mirror for one image: its base URL, and the image's name there, by which credentials are chosen as well."""

    url: str
    ref: Reference


def place(mirror: str, ref: Reference) -> Place:
    """Return where the mirror with this URL has an image; UserError for a URL that registry_name.mirror refuses."""
    try:
        scheme, _, rest = registry_name.mirror(mirror).partition("://")
    except UserError as e:
        raise UserError(f"bad mirror of registry {ref.registry}: {e.message}", e.hint) from e
    name, slash, path = rest.partition("/")
    return Place(f"{scheme}://{name}", ref._replace(registry=name, repository=f"{path}{slash}{ref.repository}"))
