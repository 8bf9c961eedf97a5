"""Registry challenges as values: what WWW-Authenticate asks for, and which realms may be told credentials.

A registry names the server that hands out tokens. Unchecked, that lets it send our credentials anywhere and our requests to machines that
only this host can reach (contracts/security.md D2 "registry client", cases 19 and 20).
"""

import ipaddress
import socket
import urllib.parse
from enum import IntEnum
from typing import NamedTuple

from runner.errors import UserError

_LONGEST = 4096


class Challenge(NamedTuple):
    """One challenge (RFC 9110 section 11): `scheme` in lower case."""

    scheme: str
    parameters: dict[str, str]


class Reach(IntEnum):
    """How far inside an address lies; a server may point at addresses that lie no deeper than its own."""

    PUBLIC = 0
    PRIVATE = 1
    LOOPBACK = 2
    LINK_LOCAL = 3  # the metadata services of clouds among them


def parse(header: str) -> tuple[Challenge, ...]:
    """Read a WWW-Authenticate header; what is not understood is left out."""
    text = header[:_LONGEST]
    found: list[Challenge] = []
    position = 0
    while position < len(text):
        word, position = _token(text, position)
        if not word:
            position += 1  # a comma, white space or something broken
            continue
        end = _skip(text, position, " \t")
        if end < len(text) and text[end] == "=" and found:
            value, position = _value(text, _skip(text, end + 1, " \t"))
            found[-1].parameters.setdefault(word.lower(), value)
        else:
            found.append(Challenge(word.lower(), {}))
    return tuple(found)


def token_url(challenge: Challenge, *, registry_url: str, repository: str, actions: str = "pull") -> str:
    """Return the URL to ask for a token for `repository`, "" for one to do nothing; UserError names a realm that may not be asked.

    Only our own scope is asked for, whatever the challenge or the realm's query suggest.
    """
    realm = challenge.parameters.get("realm", "")
    check_target(realm, asked_by=registry_url, what="token realm")
    parts = urllib.parse.urlsplit(realm)
    own = ("scope", "service", "account", "client_id", "offline_token")
    query = [(name, value) for name, value in urllib.parse.parse_qsl(parts.query) if name not in own]
    if service := challenge.parameters.get("service", ""):
        query.append(("service", service))
    if repository:
        query.append(("scope", scope(repository, actions)))
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc, parts.path, urllib.parse.urlencode(query), ""))


def scope(repository: str, actions: str = "pull") -> str:
    """Return the right that a pull needs, or "pull,push" (distribution's spec/auth/scope.md)."""
    return f"repository:{repository}:{actions}"


def check_target(url: str, *, asked_by: str, what: str) -> None:
    """Raise UserError unless a server at `asked_by` may send us to `url`.

    Plain http only to the host that spoke plain http itself; no address that lies deeper inside than the server's own.
    """
    parts, own = _split(url, what), _split(asked_by, what)
    host, own_host = parts.hostname or "", own.hostname or ""
    same = host == own_host
    if parts.scheme != "https" and not (parts.scheme == "http" and own.scheme == "http" and same):
        raise UserError(f"{own.netloc} names a {what} that may not be used: {_shown(url)}", "it must be https")
    if not same and reach(host) > reach(own_host):
        raise UserError(
            f"{own.netloc} names a {what} that may not be used: {_shown(url)}",
            "it is an address inside this network, which the registry itself is not",
        )


def reach(host: str) -> Reach:
    """Tell how far inside a host lies, by all its addresses; a name that does not resolve here is left to a proxy and counts as public."""
    try:
        addresses = [str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError):
        addresses = []
    return max((_reach_of(ipaddress.ip_address(address.partition("%")[0])) for address in addresses), default=Reach.PUBLIC)


def is_loopback(host: str) -> bool:
    """Tell whether a registry's host (without port) is this machine by its name alone: localhost, 127.0.0.0/8 or ::1."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _reach_of(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> Reach:
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    if address.is_link_local or str(address) == "fd00:ec2::254":
        return Reach.LINK_LOCAL
    if address.is_loopback or address.is_unspecified:
        return Reach.LOOPBACK
    return Reach.PUBLIC if address.is_global else Reach.PRIVATE


def _split(url: str, what: str) -> urllib.parse.SplitResult:
    try:
        parts = urllib.parse.urlsplit(url)
        parts.port  # noqa: B018 - raises ValueError for nonsense
    except ValueError as e:
        raise UserError(f"{what} is not a URL: {_shown(url)}") from e
    unclean = len(url) > _LONGEST or any(character <= " " or character in "\\\x7f" for character in url)
    if unclean or not parts.hostname or parts.username is not None or parts.password is not None:
        raise UserError(f"{what} is not a usable URL: {_shown(url)}")
    return parts


def _shown(url: str) -> str:
    """Show a hostile URL without its query, which may hold what we must not log."""
    return repr(url.partition("?")[0][:100])


def _token(text: str, position: int) -> tuple[str, int]:
    end = position
    while end < len(text) and (text[end].isalnum() or text[end] in "!#$%&'*+-.^_`|~"):
        end += 1
    return text[position:end], end


def _value(text: str, position: int) -> tuple[str, int]:
    if not text.startswith('"', position):
        return _token(text, position)
    value, position = [], position + 1
    while position < len(text) and text[position] != '"':
        if text[position] == "\\":
            position += 1
        value.append(text[position : position + 1])
        position += 1
    return "".join(value), position + 1


def _skip(text: str, position: int, what: str) -> int:
    while position < len(text) and text[position] in what:
        position += 1
    return position
