"""Platforms: "linux/arm64/v8" and its spellings, with Go's names for architectures. Loaded on the hot path."""

import os

from runner.errors import UserError
from runner.record import NamedTuple

_ARCHITECTURES = {
    "x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "armhf": "arm/v7", "armv7l": "arm/v7", "armv6l": "arm/v6", "armel": "arm/v6",
    "i386": "386", "i486": "386", "i586": "386", "i686": "386", "ppc64el": "ppc64le",
}  # fmt: skip
_KNOWN = ("amd64", "arm64", "arm", "386", "ppc64le", "s390x", "riscv64", "loong64", "mips64le", "mipsle", "ppc64", "mips64", "mips")


class Platform(NamedTuple):
    """What an image runs on (OCI image-index.md): `variant` is "" where the architecture has one only, as for arm64."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        """Write it as people do: "linux/arm/v7"."""
        return f"{self.os}/{self.architecture}" + (f"/{self.variant}" if self.variant else "")


def parse(text: str) -> Platform:
    """Read "linux/arm64/v8", "linux/arm64" or just "arm64"; "" is this machine's. UserError for anything that Linux cannot run."""
    if not text:
        return host()
    parts = text.lower().split("/")
    if parts[0] != "linux" and len(parts) < 3:
        parts.insert(0, "linux")
    platform = normal(parts[0], parts[1] if len(parts) > 1 else "", parts[2] if len(parts) > 2 else "")
    if len(parts) > 3 or platform.os != "linux" or platform.architecture not in _KNOWN or not _is_variant(platform.variant):
        raise UserError(
            f"bad platform {text[:60]!r}: not one that Linux containers have", "write it like linux/amd64, linux/arm64 or linux/arm/v7"
        )
    return platform


def host() -> Platform:
    """Return this machine's platform."""
    return normal("linux", os.uname().machine, "")


def normal(system: str, architecture: str, variant: str) -> Platform:
    """Return the one spelling of a platform: Go's architecture names, no variant where it is the only one."""
    architecture = _ARCHITECTURES.get(architecture.lower(), architecture.lower())
    architecture, _, implied = architecture.partition("/")
    variant = variant.lower() or implied
    if variant.isdigit():
        variant = f"v{variant}"
    if (architecture, variant) in (("arm64", "v8"), ("amd64", "v1")):
        variant = ""
    if (architecture, variant) == ("arm", ""):
        variant = "v7"
    return Platform(system.lower(), architecture, variant)


def runs(wanted: Platform, offered: Platform) -> int:
    """Tell how well an image for `offered` suits `wanted`: 0 not at all, else higher is better.

    An older 32-bit ARM variant runs on a newer one; other variants must be the same.
    """
    if wanted[:2] != offered[:2]:
        return 0
    if wanted.variant == offered.variant:
        return 100
    if wanted.architecture == "arm" and offered.variant < wanted.variant:
        return 10 + int(offered.variant[1:]) if offered.variant[1:].isdigit() and len(offered.variant) == 2 else 0
    return 1 if not offered.variant else 0  # the baseline of an architecture runs on all its variants


def _is_variant(text: str) -> bool:
    return not text or (len(text) <= 8 and text.isascii() and text.isalnum())
