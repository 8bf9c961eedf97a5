"""Volumes as users write them (docker run -v, GitLab's `volumes`), parsed and judged."""

from __future__ import annotations

import os
import stat

from runner import errors
from runner.model import VolumeSpec
from runner.paths import component

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# Not a wall (the container's ids have no rights on the host) but a guard against handing the host over by mistake
_HOST_REFUSED = (
    ("/etc", "the host's configuration is there"),
    ("/proc", "the kernel's view of the host is there"),
    ("/sys", "the kernel's view of the host is there"),
    ("/dev", "the host's devices are there"),
    ("/boot", "the host's kernel is there"),
    ("/root", "the files of the host's root are there"),
    ("/var/lib/docker", "another engine's state is there"),
    ("/var/lib/containerd", "another engine's state is there"),
    ("/var/lib/containers", "another engine's state is there"),
    ("/run", "the sockets of the host's services are there"),
)
_HOST_ALLOWED = ("/run/media",)  # where desktops mount removable disks
_TARGET_REFUSED = ("/proc", "/sys", "/dev")
# what other engines take and what means the same or nothing here: labels of SELinux, Docker Desktop's caching, the default propagation
_MODES = ("ro", "rw", "z", "Z", "cached", "delegated", "consistent", "rprivate", "private", "rbind", "bind")


def parse_all(texts: Iterable[str], *, state_dir: str, cwd: str) -> tuple[VolumeSpec, ...]:
    """Parse several volumes of one container. UserError as `parse`, or when two of them have the same target."""
    found: dict[str, VolumeSpec] = {}
    for text in texts:
        volume = parse(text, state_dir=state_dir, cwd=cwd)
        if volume.target in found:
            raise errors.UserError(
                f"volume {text!r} cannot be used: {volume.target} is the target of another one", "give each its own target"
            )
        found[volume.target] = volume
    return tuple(found.values())


def parse(text: str, *, state_dir: str, cwd: str, place: Callable[[str], str] = str) -> VolumeSpec:
    """Parse SRC:DST[:MODE], NAME:DST[:MODE] or DST[:MODE]. UserError says what is wrong with which text.

    A SRC with a slash is a path of the host (relative ones, to `cwd`, start with a dot), one without is a volume that outlives the job;
    DST alone is a volume that ends with it. `place` makes the path in the container of DST as written: nothing that it puts in is parsed.
    """
    source, target, mode = split(text)
    target = check_target(place(target), text)
    read_only = _is_read_only(mode, text)
    if not source:
        return VolumeSpec(target, "job", volume_name(target), read_only)
    if is_host_path(source):
        return VolumeSpec(target, "bind", check_source(os.path.join(cwd, source), text, state_dir=state_dir), read_only)
    if "/" in source:
        raise _bad(text, "a relative path of the host starts with ./")
    try:
        return VolumeSpec(target, "build-user", component(f"named-{source}"), read_only)
    except ValueError as e:
        raise _bad(text, "the name of a volume has letters, digits, '_', '.', '+' and '-' only") from e


def is_host_path(source: str) -> bool:
    """Tell whether the source of a volume is a path of the host and not a name."""
    return source in (".", "..") or source.startswith(("/", "./", "../"))


def split(text: str) -> tuple[str, str, str]:
    """Return source ("" for none), target and mode ("" for none), all as written. UserError if it is not a volume at all."""
    fields = text.split(":")
    if not text.isprintable() or len(fields) > 3 or (len(fields) > 1 and not fields[0]):
        raise _bad(text, "it is not SOURCE:TARGET[:ro]")
    if len(fields) == 1:
        return "", fields[0], ""
    if len(fields) == 2 and fields[0].startswith("/") and fields[1] in ("ro", "rw"):
        return "", fields[0], fields[1]
    return fields[0], fields[1], "".join(fields[2:])


def _is_read_only(mode: str, text: str) -> bool:
    modes = [word for word in mode.split(",") if word]
    for word in modes:
        if word not in _MODES:
            raise _bad(text, f"mode {word!r} is not supported")
    if "ro" in modes and "rw" in modes:
        raise _bad(text, "it cannot be both ro and rw")
    return "ro" in modes


def check_target(target: str, text: str) -> str:
    """Return the normalised path inside the container; UserError if it is relative, the root, or the kernel's."""
    if not target.startswith("/"):
        raise _bad(text, "the target is not an absolute path")
    if not target.isprintable():
        raise _bad(text, "the target has characters that cannot be printed")
    if ".." in target.split("/"):
        raise _bad(text, "the target has '..' in it")
    normal = "/" + "/".join(part for part in target.split("/") if part not in ("", "."))
    if normal == "/":
        raise _bad(text, "the target is the container's root")
    if any(is_within(normal, parent) for parent in _TARGET_REFUSED):
        raise _bad(text, f"{normal} belongs to the kernel")
    return normal


def check_source(source: str, text: str, *, state_dir: str) -> str:
    """Return the real path of a directory or file of the host that may be shown; UserError otherwise."""
    real = real_path(source, text)
    try:
        mode = os.stat(real).st_mode
    except OSError as e:
        raise _unseen(source, text, e) from e
    if stat.S_ISSOCK(mode):
        raise _bad(text, "a socket of the host is a door to the host")
    if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
        raise _bad(text, "only directories and regular files of the host can be shown")
    reason = refusal(real, state_dir=os.path.realpath(state_dir))
    if reason:
        raise _bad(text, reason)
    return real


def real_path(source: str, text: str) -> str:
    """Return where a path of the host leads; UserError for one with a link that the account may not read, as in /proc/1."""
    try:
        return os.path.realpath(source)
    except OSError as e:
        raise _unseen(source, text, e) from e


def _unseen(source: str, text: str, error: OSError) -> errors.UserError:
    return _bad(text, f"{source} on the host: {(error.strerror or str(error)).lower()}")


def refusal(real: str, *, state_dir: str) -> str:
    """Return why a real path of the host may not be shown in a container, "" if it may. `state_dir` is a real path as well."""
    if real == "/":
        return "the host's root would be open to the container"
    if any(is_within(real, parent) for parent in _HOST_ALLOWED):
        return ""
    for parent, reason in _HOST_REFUSED:
        if is_within(real, parent):
            return f"{real} is not for containers: {reason}"
    if is_within(real, state_dir) or is_within(state_dir, real):
        return f"the state of dockless ({state_dir}) would be open to the container"
    return ""


def volume_name(target: str) -> str:
    """Return a safe file name for the volume at a path in the container; different paths have different names."""
    name = "at" + "".join(_spelled(character) for character in target)
    if len(name) <= 100:
        return name
    import hashlib  # loads a TLS library: for the rare name only

    return f"{name[:60]}-{hashlib.sha256(target.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}"


def _spelled(character: str) -> str:
    if character.isascii() and (character.isalnum() or character in "_."):
        return character
    return {"/": "+", "-": "--"}.get(character, f"-{ord(character):x}-")


def is_within(path: str, parent: str) -> bool:
    """Tell whether a normalised path is `parent` or lies below it."""
    return path == parent or path.startswith(parent.rstrip("/") + "/")


def _bad(text: str, reason: str) -> errors.UserError:
    return errors.UserError(f"volume {text!r} cannot be used: {reason}", "write it as /path/on/host:/path/in/container[:ro]")
