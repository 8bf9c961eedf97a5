"""Image names: what people write -> `model.Reference`, after the grammar of distribution's reference package.

Loaded on the hot path: a name must be canonical before the store can be asked for it. So no regular expressions here.
"""

import os

from runner import registry_name
from runner.errors import UserError
from runner.model import Reference

_HEX = frozenset("0123456789abcdef")
_ALNUM = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_TAG = _ALNUM | frozenset("_.-")
_LONGEST_NAME, _LONGEST_TAG = 255, 128
_LONGEST = _LONGEST_NAME + 1 + _LONGEST_TAG + 1 + 71
LOCAL_KINDS = ("oci", "docker-archive")
_HINT = "an image name looks like alpine, alpine:3.20, registry.example/team/app:1.0 or alpine@sha256:<64 hex digits>"


def parse(text: str) -> Reference:
    """Read an image name as docker does: short names are Docker Hub's, a name without tag and digest means ":latest".

    The registry comes out in lower case, Docker Hub as "docker.io". Raises UserError for everything outside the grammar; its message
    never repeats what may be a password.
    """
    if len(text) > _LONGEST:
        raise UserError(f"image name is too long: {len(text)} characters, at most {_LONGEST} are possible", _HINT)
    name, at, digest = text.partition("@")
    if at and not is_digest(digest):
        if "/" in digest or "://" in name:
            hint = "put the password into DOCKER_AUTH_CONFIG or ~/.docker/config.json"
            raise UserError("image name has credentials in it: an image name cannot carry them", hint)
        raise UserError(f"bad digest in an image name: {_quoted(digest)}", "a digest is sha256: and 64 lower-case hex digits")
    if "://" in name:
        raise UserError(f"bad image name {_quoted(text)}: it is a URL", "leave out the https://")
    tag = ""
    slash, colon = name.rfind("/"), name.rfind(":")
    if colon > slash:
        name, tag = name[:colon], name[colon + 1 :]
        if not _is_tag(tag):
            raise UserError(f"bad image name {_quoted(text)}: {_quoted(tag)} is not a tag", _HINT)
    registry, repository = _split(name)
    _check_name(text, registry, repository)
    if not tag and not digest:
        tag = "latest"
    return Reference(registry, repository, tag, digest)


def familiar(ref: Reference) -> str:
    """Return the shortest form that people know and `parse` reads back: "alpine:3.20" for docker.io/library/alpine:3.20."""
    text = str(ref)
    if ref.registry != "docker.io":
        return text
    for prefix in ("docker.io/library/", "docker.io/"):
        # not every repository of Docker Hub can be written short: "a.b/c" would be a registry "a.b"
        if text.startswith(prefix) and _split(f"docker.io/{ref.repository}".removeprefix(prefix)) == ref[:2]:
            return text.removeprefix(prefix)
    return text


def canonical(source: str) -> str:
    """Return the name under which an image is stored; UserError as `parse`. Touches no file.

    That is "toolbox", "oci:/absolute[:tag]", "docker-archive:/absolute[:name]" or str(Reference).
    """
    if source == "toolbox":
        return source
    kind, rest = local_kind(source), source.partition(":")[2]
    if not kind:
        return str(parse(source))
    if not rest or "\0" in rest or len(rest) > 4096:
        raise UserError(f"bad image source {_quoted(source)}: no usable path after {kind}:", f"write {kind}:/some/path")
    return f"{kind}:{os.path.abspath(rest)}"


def local_kind(source: str) -> str:
    """Return "oci" or "docker-archive" for a source that is a file of this machine, "" for another one."""
    kind, colon, _ = source.partition(":")
    return kind if colon and kind in LOCAL_KINDS else ""


def is_digest(text: str) -> bool:
    """Tell whether `text` is "sha256:" and 64 lower-case hex digits, the only digests that this engine accepts."""
    return len(text) == 71 and text.startswith("sha256:") and _HEX.issuperset(text[7:])


def _split(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost" or first != first.lower()):
        registry, repository = registry_name.fold(first), rest
    else:
        registry, repository = "docker.io", name
    if registry == "docker.io" and repository and "/" not in repository:
        repository = f"library/{repository}"
    return registry, repository


def _check_name(text: str, registry: str, repository: str) -> None:
    if not registry_name.is_valid(registry):
        raise UserError(f"bad image name {_quoted(text)}: {_quoted(registry)} is not a registry's host[:port]", _HINT)
    if repository != repository.lower() and registry_name.is_repository(repository.lower()):
        raise UserError(f"bad image name {_quoted(text)}: a repository has no upper-case letters", f"did you mean {repository.lower()}?")
    if not registry_name.is_repository(repository):
        raise UserError(f"bad image name {_quoted(text)}: {_quoted(repository)} is not a repository", _HINT)
    if len(registry) + 1 + len(repository) > _LONGEST_NAME:
        raise UserError(f"image name is too long: at most {_LONGEST_NAME} characters before the tag", _HINT)
    if _split(f"{registry}/{repository}") != (registry, repository) or local_kind(registry):
        # docker takes "A/b" for b on a host called A, but in lower case that is a user of Docker Hub, and "OCI:1/b" a file
        raise UserError(f"bad image name {_quoted(text)}: a registry's name has a dot or a port, a repository no upper-case letters", _HINT)
    short = repository.removeprefix("library/")
    if registry == "docker.io" and len(short) == 64 and _HEX.issuperset(short):
        raise UserError(f"bad image name {_quoted(text)}: it is an image id", "use a name, or name@sha256:<digest>")


def _is_tag(text: str) -> bool:
    return 0 < len(text) <= _LONGEST_TAG and _TAG.issuperset(text) and text[0] not in ".-"


def _quoted(text: str) -> str:
    """Show hostile text in one harmless, short piece."""
    return repr(text if len(text) <= 80 else text[:77] + "...")
