"""Where a registry takes uploads: at itself, or it is not told a password and sent a blob by the program that pushes.

skopeo sends blobs and Authorization wherever the `Location` of an upload points, and passwords to whatever token realm it is told of
(contracts/security.md D4, case 21). So we begin an upload first, by the rules that hold for pulls, and look.
"""

import urllib.parse

from runner import config
from runner.errors import InfraError, RunnerError, UserError
from runner.image import auth, registry, transport
from runner.image.endpoint import Endpoint
from runner.model import Reference


def check(ref: Reference, *, settings: config.Settings, keychain: auth.Keychain) -> None:
    """Return if uploads to the repository go to its registry. UserError if they are refused, or if the registry sends them elsewhere.

    Temporary and InfraError as for pulls. What was begun is cancelled.
    """
    own = settings.registry(ref.registry)
    http = transport.Transport(ca_file=own.ca_file)
    try:
        url = registry.base_url(ref.registry, own, http)
        endpoint = Endpoint(ref, name=ref.registry, url=url, http=http, keychain=keychain, actions="pull,push")
        missing = UserError(f"registry {ref.registry} has no repository {ref.repository}", "check the name")
        with endpoint.get("blobs/uploads/", {}, missing=missing, method="POST") as response:
            location = urllib.parse.urljoin(response.url, response.headers.get("Location", ""))
        if not transport.is_same_origin(location, url):
            shown = urllib.parse.urlsplit(location).netloc.rpartition("@")[2][:100]
            raise UserError(
                f"registry {ref.registry} sends uploads to another host, {shown!r}: nothing is pushed there", "is it the right registry?"
            )
        _cancel(endpoint, location)
    finally:
        http.close()


def _cancel(endpoint: Endpoint, location: str) -> None:
    """End an upload, if its place is one of the specification's; one that stays is forgotten by its registry some day."""
    _, _, path = location.partition("/blobs/uploads/")
    if not path:
        return
    try:
        with endpoint.get(f"blobs/uploads/{path}", {}, missing=InfraError("the upload is gone"), method="DELETE"):
            pass
    except RunnerError:
        pass
