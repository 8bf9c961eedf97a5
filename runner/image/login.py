"""Does a registry know these credentials? Asked at its front door, as `docker login` does (distribution's spec/auth/token.md)."""

import binascii

from runner import config, errors
from runner.image import auth, challenge, registry
from runner.image.transport import Transport

_LIMIT_BYTES = 1024**2


def check(host: str, credentials: auth.Credentials, *, settings: config.Settings) -> None:
    """Return if the registry takes the credentials, or asks for none. UserError when it refuses them, InfraError for another answer."""
    own = settings.registry(host)
    http = Transport(ca_file=own.ca_file)
    try:
        url = registry.base_url(host, own, http)
        front = http.get(f"{url}/v2/", {}, limit_bytes=_LIMIT_BYTES)
        if front.status == 200:
            return
        offered = {one.scheme: one for one in reversed(challenge.parse(front.headers.get("WWW-Authenticate", "")))}
        target = f"{url}/v2/"
        if "bearer" in offered:
            target = challenge.token_url(offered["bearer"], registry_url=url, repository="")
        elif "basic" not in offered:
            raise errors.InfraError(f"registry {host} answers {front.status} and asks for no credentials that are supported")
        pair = binascii.b2a_base64(f"{credentials.username}:{credentials.password}".encode(), newline=False).decode()
        status = http.get(target, {"Authorization": f"Basic {pair}"}, limit_bytes=_LIMIT_BYTES).status
    finally:
        http.close()
    if status in (400, 401, 403):
        raise errors.UserError(f"registry {host} refuses user {credentials.username!r}: the name or the password is wrong")
    if status != 200:
        raise errors.InfraError(f"registry {host} answers {status} to a login", "try again later")
