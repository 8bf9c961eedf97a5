"""Volumes as users write them (docker run -v, GitLab's `volumes`), parsed and judged."""

import os

from runner import errors
from runner.model import VolumeSpec
from runner.paths import component

_HOST_REFUSED = ("/etc", "/proc", "/sys", "/dev", "/boot", "/root", "/run/docker.sock", "/run/podman", "/run/containerd", "/run/dbus", "/run/systemd")
_TARGET_REFUSED = ("/proc", "/sys", "/dev")
_MODES = ("ro", "rw", "z", "Z", "cached", "delegated", "consistent", "rprivate", "private")


def parse(text: str, *, state_dir: str, cwd: str) -> VolumeSpec:
    """Parse SRC:DST[:MODE], NAME:DST[:MODE] or DST. UserError says what is wrong with which text.

    A SRC with a slash is a path of the host (relative ones start with a dot), one without is a volume that outlives the job; DST alone is
    a volume that ends with it.
    """
    fields = text.split(":")
    if not text.isprintable() or len(fields) > 3:
        raise _bad(text, "it is not SOURCE:TARGET[:ro]")
    source, target, mode = ("", fields[0], "") if len(fields) == 1 else (fields[0], fields[1], fields[2] if len(fields) == 3 else "")
    if len(fields) == 2 and fields[1] in ("ro", "rw") and fields[0].startswith("/"):
        source, target, mode = "", fields[0], fields[1]
    target = check_target(target, text)
    read_only = "ro" in _modes(mode, text)
    if not source:
        return VolumeSpec(target, "job", volume_name(target), read_only)
    if "/" not in source and not source.startswith("."):
        try:
            return VolumeSpec(target, "build-user", f"named-{component(source)}", read_only)
        except ValueError as e:
            raise _bad(text, "the volume's name has other characters than letters, digits, '_', '.' and '-'") from e
    if not source.startswith(("/", ".")):
        raise _bad(text, "a relative path of the host starts with ./")
    return VolumeSpec(target, "bind", check_source(os.path.join(cwd, source), text, state_dir=state_dir), read_only)


def _modes(mode: str, text: str) -> set[str]:
    modes = {word for word in mode.split(",") if word}
    unknown = modes.difference(_MODES)
    if unknown:
        raise _bad(text, f"mode {sorted(unknown)[0]!r} is not supported")
    return modes


def check_target(target: str, text: str) -> str:
    """Return the normalised path inside the container; UserError if it is relative, the root, or the kernel's."""
    if not target.startswith("/"):
        raise _bad(text, "the target is not an absolute path")
    if ".." in target.split("/"):
        raise _bad(text, "the target has '..' in it")
    normal = "/" + "/".join(part for part in target.split("/") if part not in ("", "."))
    if normal == "/":
        raise _bad(text, "the target is the container's root")
    if _is_within(normal, _TARGET_REFUSED):
        raise _bad(text, f"{normal} belongs to the kernel")
    return normal


def check_source(source: str, text: str, *, state_dir: str) -> str:
    """Return the real path of a directory or file of the host that may be shown; UserError otherwise."""
    real = os.path.realpath(source)
    if not os.path.exists(real):
        raise _bad(text, f"{source} does not exist on the host")
    reason = refusal(real, state_dir=os.path.realpath(state_dir))
    if reason:
        raise _bad(text, reason)
    return real


def refusal(real: str, *, state_dir: str) -> str:
    """Return why a real path of the host may not be shown in a container, "" if it may."""
    if real == "/":
        return "the host's root would be open to the container"
    if _is_within(real, _HOST_REFUSED):
        return f"{real} belongs to the host"
    if _is_within(real, (state_dir,)) or _is_within(state_dir, (real,)):
        return "dockless' own state would be open to the container"
    if real.endswith(".sock") or any(_is_within(path, (real,)) for path in ("/run/docker.sock", "/etc", "/proc")):
        return "a socket of the host is a door to the host"
    return ""


def volume_name(target: str) -> str:
    """Return a safe and distinct name for the volume at a path in the container."""
    return "at" + "".join(c if c.isascii() and (c.isalnum() or c in "_.-") else "+" if c == "/" else f"+{ord(c):x}+" for c in target)


def _is_within(path: str, parents: tuple[str, ...]) -> bool:
    return any(path == parent or path.startswith(parent.rstrip("/") + "/") for parent in parents)


def _bad(text: str, reason: str) -> errors.UserError:
    return errors.UserError(f"volume {text} cannot be used: {reason}", "write it as /path/on/host:/path/in/container[:ro]")
