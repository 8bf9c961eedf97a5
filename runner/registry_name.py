"""Names of registries (host[:port]) and repositories, and URLs of mirrors: what is one, and the form in which they are compared.

Loaded on the hot path with image names: no regular expressions here.
"""

from runner.errors import UserError

_HEX = frozenset("0123456789abcdef")
_LOWER = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_ALNUM = _LOWER | frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_NAME_HINT = "write it as in an image name: docker.io, registry.example or registry.example:5000"
_MIRROR_HINT = "write a base URL such as https://mirror.example or https://mirror.example/proxy"
_LONGEST_PATH = 128  # of a mirror: half of what a repository may have
_SECRET_HINT = "put the password into DOCKER_AUTH_CONFIG or ~/.docker/config.json"
_SCHEMES = ("https", "http")


def fold(name: str) -> str:
    """Return the one form of a name: in lower case, Docker Hub as "docker.io"."""
    folded = name.lower()
    return "docker.io" if folded == "index.docker.io" else folded


def is_valid(text: str) -> bool:
    """Tell whether a text is host[:port], after the grammar of distribution's reference package."""
    host, port = text, ""
    if text.startswith("["):  # an IPv6 address
        inner, bracket, port = text[1:].partition("]")
        if not bracket or ":" not in inner or len(inner) > 39 or not (_HEX | {":", "."}).issuperset(inner.lower()):
            return False
    else:
        host, colon, port = text.partition(":")
        port = colon + port
        for label in host.split("."):
            if not label or not _ALNUM.issuperset(label.replace("-", "")) or label.startswith("-") or label.endswith("-"):
                return False
    if not port:
        return True
    number = port[1:]
    return port[0] == ":" and 0 < len(number) < 6 and number.isascii() and number.isdigit() and 0 < int(number) < 65536


def is_repository(text: str) -> bool:
    """Tell whether a text is a repository's path, after the same grammar: components of lower-case letters, digits and separators."""
    return all(_is_component(component) for component in text.split("/"))


def _is_component(text: str) -> bool:
    """Runs of letters and digits, separated by one '.', one or two '_', or any number of '-'."""
    if not text or text[0] not in _LOWER or text[-1] not in _LOWER:
        return False
    separator = ""
    for character in text:
        if character in _LOWER:
            if separator not in ("", ".", "_", "__") and separator.strip("-"):
                return False
            separator = ""
        elif character in "._-":
            separator += character
        else:
            return False
    return True


def of_setting(text: str) -> str:
    """Return the normalised name that a person wrote in a configuration. UserError for a URL, a path and what is no name."""
    _refuse_secret(text, "name")
    _, has_scheme, rest = text.rpartition("://")
    name = rest if has_scheme else text.removesuffix("/")
    host = name.partition("/")[0]
    hint = f"write {fold(host)}" if is_valid(host) else _NAME_HINT
    if has_scheme:
        raise UserError(f"{_quoted(text)} has a scheme, which the name of a registry has not", hint)
    if host != name:
        raise UserError(f"{_quoted(text)} has a path, which the name of a registry has not", hint)
    if not is_valid(name):
        raise UserError(f"{_quoted(text)} is not the name of a registry", _NAME_HINT)
    return fold(name)


def mirror(text: str) -> str:
    """Return the normalised base URL of a mirror, without a slash at its end. UserError for everything else.

    A path is what its repositories begin with, as in `location` of containers-registries.conf(5): at https://mirror.example/hub the image
    alpine is the repository hub/library/alpine. docker's own mirrors have none.
    """
    _refuse_secret(text, "URL")
    scheme, has_scheme, rest = text.partition("://")
    host, _, path = rest.partition("/")
    if not has_scheme:
        name = text.removesuffix("/")
        raise UserError(f"{_quoted(text)} has no scheme", f"write https://{name.lower()}" if is_valid(name) else _MIRROR_HINT)
    if scheme.lower() not in _SCHEMES:
        raise UserError(f"{_quoted(text)} is neither https nor http", _MIRROR_HINT)
    if not is_valid(host):
        raise UserError(f"{_quoted(text)} names no host", _MIRROR_HINT)
    base, path = f"{scheme.lower()}://{host.lower()}", path.removesuffix("/")
    if path.partition("/")[0] in ("v1", "v2"):  # the API's own, which a client adds
        raise UserError(f"{_quoted(text)} has a path with the version of the protocol", f"write {base}{path[2:]}")
    if path and not (is_repository(path) and len(path) <= _LONGEST_PATH):
        raise UserError(f"{_quoted(text)} has a path that no repository can begin with", f"write {base}, or {base}/a-repository")
    return f"{base}/{path}" if path else base


def _refuse_secret(text: str, what: str) -> None:
    if "@" in text:  # not repeated: it may be a password
        raise UserError(f"a registry's {what} has credentials in it", _SECRET_HINT)


def _quoted(text: str) -> str:
    """Show a text in one harmless, short piece."""
    return repr(text if len(text) <= 80 else text[:77] + "...")
