"""Idmapped mounts (mount_setattr(2), MOUNT_ATTR_IDMAP): a directory shown elsewhere, read-only, with other owners. For root."""

import os

from runner.kernel import process, syscalls, userns
from runner.model import IdMap

_ATTRIBUTES = syscalls.MOUNT_ATTR_RDONLY | syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV | syscalls.MOUNT_ATTR_IDMAP


def mount(source: int, target: int, id_map: IdMap) -> None:
    """Show the directory `source` over the directory `target`, both descriptors; inside ids of `id_map` are those on the disk.

    Ids that the map lacks belong to nobody there. Raises OSError: EINVAL where file system or kernel cannot do it (ext4, xfs and btrfs
    can since Linux 5.15).
    """
    tree = syscalls.open_tree(source, syscalls.OPEN_TREE_CLONE)
    try:
        namespace = _namespace(id_map)
        try:
            syscalls.mount_setattr(tree, _ATTRIBUTES, userns_fd=namespace)
        finally:
            os.close(namespace)
        syscalls.move_mount(tree, target)
    finally:
        os.close(tree)


def _namespace(id_map: IdMap) -> int:
    """Return a descriptor of a user namespace with a map, which lives as long as the descriptor and the mounts that use it."""
    ready_r, ready_w = os.pipe()
    go_r, go_w = os.pipe()
    parent = os.getpid()
    child = os.fork()  # exists only to own the namespace
    if child == 0:
        try:
            process.die_with(parent)
            os.close(go_w)
            syscalls.unshare(syscalls.CLONE_NEWUSER)
            os.write(ready_w, b"x")
            os.read(go_r, 1)
        finally:
            os._exit(0)
    os.close(ready_w)
    os.close(go_r)
    try:
        if not os.read(ready_r, 1):
            raise OSError(1, "user namespaces are not permitted")
        userns.map_directly(child, id_map)
        return os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(go_w)
        os.close(ready_r)
        os.waitpid(child, 0)
