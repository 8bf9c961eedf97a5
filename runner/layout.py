"""Making a store on disk, and refusing one that another version of dockless laid out."""

import os

from runner import paths
from runner.errors import InfraError, UserError
from runner.kernel import files


def open_store(root: str) -> paths.Store:
    """Return the store at `root`, made if there is none: private directories and the number of the layout. Idempotent, safe side by side.

    UserError if it belongs to somebody else or has another format; InfraError if it cannot be made. One stat when all is well.
    """
    store = paths.Store(root)
    try:
        found = files.read(store.format, limit_bytes=64).decode(errors="backslashreplace").strip()
    except FileNotFoundError:
        _make(store)
        return store
    except OSError as e:
        raise UserError(
            f"state directory {root} cannot be read: {e.strerror}", "it belongs to another account; name one with --state-dir"
        ) from e
    if found != str(paths.FORMAT):
        raise UserError(
            f"state directory {root} has format {found}, this version of dockless knows {paths.FORMAT}",
            "use the version that made it, or another directory with --state-dir",
        )
    return store


def _make(store: paths.Store) -> None:
    try:
        os.makedirs(os.path.dirname(store.root), 0o755, exist_ok=True)
        files.make_directory(store.root)
        if os.stat(store.root).st_uid != os.geteuid():
            raise UserError(f"state directory {store.root} belongs to another account", "name one with --state-dir")
        for directory in store.directories():
            files.make_directory(directory)
        # last, so that a half-made store is made again
        files.write_atomic(store.format, f"{paths.FORMAT}\n".encode())
    except OSError as e:
        raise InfraError(f"state directory {store.root} cannot be made: {e.strerror}", "name another one with --state-dir") from e
