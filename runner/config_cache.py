"""Where the configuration is, and its last parsed form as long as the file is the same: commands in a hurry may not pay for YAML."""

from __future__ import annotations

import os

from runner import config
from runner.kernel import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_FORMAT = 6  # another number whenever the same file comes to mean something else
SYSTEM_FILE = "/etc/dockless/config.yaml"


def locate(environ: Mapping[str, str], *, home: str) -> str:
    """Return the file to read: $DOCKLESS_CONFIG, ~/.config/dockless/config.yaml, or the system's; "" if there is none.

    `home` "" leaves the account's own file out (a command that starts as root reads the system's).
    """
    named = environ.get("DOCKLESS_CONFIG", "")
    if named:
        return named
    for path in (f"{home}/.config/dockless/config.yaml" if home else "", SYSTEM_FILE):
        if path:
            try:
                files.read(path)
            except OSError:
                continue
            return path
    return ""


def load(path: str, *, home: str) -> config.Settings:
    """Return the Settings of a configuration file, "" for the defaults, parsing it only if it changed since the last time.

    Raises UserError as config_file.load does. The cache is a file of the account's own below ~/.cache and is ignored when anything is odd.
    """
    if not path:
        return config.Settings()
    try:
        info = os.stat(path)
    except OSError:
        return _parse(path)
    stamp = [_FORMAT, path, info.st_mtime_ns, info.st_size, info.st_ino, info.st_dev]
    # one of a few files, so that who works with two configurations in turn is quick as well
    cache = f"{home}/.cache/dockless/config-{sum(os.fsencode(path)) % 64}.json"
    try:
        if os.stat(cache).st_uid == os.geteuid():
            found = files.read_json(cache)
            if found[0] == stamp:
                return config.decode(found[1])
    except (OSError, ValueError, TypeError, IndexError, KeyError):
        pass  # no cache, or not one of ours
    settings = _parse(path)
    try:
        os.makedirs(os.path.dirname(cache), 0o700, exist_ok=True)
        files.write_json(cache, [stamp, settings], durable=False)
    except OSError:
        pass  # only slower
    return settings


def _parse(path: str) -> config.Settings:
    from runner import config_file  # yaml costs 20 ms to import, which is a whole step

    return config_file.load(path)
