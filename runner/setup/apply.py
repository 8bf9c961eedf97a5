"""Making the changes of a plan, as root. What belongs to the account is made by a process that has become the account."""

import os
import stat
from collections.abc import Callable
from typing import Any

from runner import layout, paths
from runner.errors import InfraError
from runner.image import layer_names, unpacking, views
from runner.kernel import accounts, files, idmapped, locks, process, syscalls, userns
from runner.model import Account
from runner.sandbox import build_users
from runner.setup import machine, plan, texts
from runner.setup.machine import Machine, Wishes
from runner.setup.plan import Change, Kind


def make(change: Change, wishes: Wishes) -> None:
    """Make one change; whatever it needs to know of the machine is looked up now. Idempotent. Raises InfraError."""
    try:
        _MAKERS[change.kind](change, wishes, machine.look(wishes))
    except OSError as e:
        place = f" {e.filename}" if isinstance(e.filename, str) else ""
        raise InfraError(
            f"cannot {change.words}:{place} {e.strerror}", "what was done before stays, and is found again by the next run"
        ) from e


def _account(change: Change, wishes: Wishes, _found: Machine) -> None:
    process.run(
        ["useradd", "--system", "--user-group", "--create-home", "--home-dir", change.argument, "--shell", "/bin/sh", wishes.account]
    )  # fmt: skip
    _note(account=wishes.account)


def _ids(change: Change, wishes: Wishes, _found: Machine) -> None:
    words, _, ids = change.argument.rpartition(" ")
    verb = words or "add"
    process.run(["usermod", f"--{verb}-subuids", ids, f"--{verb}-subgids", ids, wishes.account])
    _note(ids=ids if verb == "add" else "")


def _note(**what: str) -> None:
    os.makedirs(os.path.dirname(machine.RECORD), 0o755, exist_ok=True)
    try:
        known = files.read_json(machine.RECORD)
    except (OSError, ValueError):
        known = {}
    files.write_json(machine.RECORD, {**known, **what})


def _store(_change: Change, _wishes: Wishes, found: Machine) -> None:
    account = _needed(found)
    if len(found.slices) < 2:
        raise InfraError(f"account {account.name} has ids for {len(found.slices)} build users, and sharing layers needs two at least")
    _make_state_directory(found.store.root, account)

    def make() -> None:
        store = layout.open_store(found.store.root)
        owner = build_users.lease(store, account, build_users.IMAGES).isolated_map()
        directory = store.layer_map(layer_names.map_name(owner))
        # through a view it belongs to nobody, and has to be traversed all the same; nobody gets past the store itself
        files.make_directory(directory, mode=0o711)
        os.chmod(directory, 0o711)
        unpacking.record_map(directory, owner)
        views.share(store, owner)

    _as_account(account, make)


def _make_state_directory(path: str, account: Account) -> None:
    """Make a state directory where the account could not; elsewhere root keeps out, since the account may change what lies there."""
    parent = os.path.dirname(path)
    if os.path.isdir(path) or not os.path.isdir(parent):
        return
    info = os.stat(parent)
    if info.st_uid == 0 and not info.st_mode & 0o022:
        files.make_directory(path)
        os.chown(path, account.uid, account.gid, follow_symlinks=False)


def _views(_change: Change, _wishes: Wishes, found: Machine) -> None:
    account = _needed(found)
    if found.shared is None:
        raise InfraError(f"store {found.store.root} shares no layers yet", "dockless setup")
    wanted = plan.maps(account, found.slices, found.shared)
    below = found.below
    _make_roots_directory(paths.VIEWS, 0o755, gid=0)
    # others on the machine are not to get to the files of images, which may be setuid
    _make_roots_directory(os.path.dirname(below), 0o750, gid=account.gid)
    _make_roots_directory(below, 0o755, gid=0)
    for name in sorted(found.views - set(wanted)):
        syscalls.umount2(f"{below}/{name}", syscalls.MNT_DETACH)
        os.rmdir(f"{below}/{name}")
    source = _open_layers(found.store.layer_map(layer_names.map_name(found.shared)), account)
    try:
        for name, id_map in wanted.items():
            target = f"{below}/{name}"
            if name in found.views and _shows(target, source):
                continue
            if name in found.views:
                syscalls.umount2(target, syscalls.MNT_DETACH)
            _make_roots_directory(target, 0o755, gid=0)
            fd = os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                idmapped.mount(source, fd, id_map)
            finally:
                os.close(fd)
    finally:
        os.close(source)


def _open_layers(path: str, account: Account) -> int:
    """Open the directory of shared layers. The account may have put links in the way, which root is not to follow."""
    real = os.path.realpath(os.path.dirname(path)).lstrip("/") + "/" + os.path.basename(path)
    resolve = syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_NO_MAGICLINKS
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = syscalls.openat2(root, real, os.O_PATH | os.O_DIRECTORY, resolve=resolve)
    finally:
        os.close(root)
    if os.fstat(fd).st_uid != account.uid:
        os.close(fd)
        raise InfraError(f"{path} does not belong to {account.name}")
    return fd


def _shows(target: str, source: int) -> bool:
    return os.path.samestat(os.stat(target), os.fstat(source))


def _make_roots_directory(path: str, mode: int, *, gid: int) -> None:
    """Make a directory that only root may change; InfraError for one that is somebody else's already."""
    files.make_directory(path, mode=mode)
    info = os.lstat(path)
    if not stat.S_ISDIR(info.st_mode) or (info.st_uid != 0 and info.st_dev == os.lstat(os.path.dirname(path)).st_dev):
        raise InfraError(f"{path} is not a directory of root's", "remove it, and find out who made it")
    if info.st_uid == 0:
        os.chown(path, 0, gid)
        os.chmod(path, mode)


def _unit(_change: Change, wishes: Wishes, found: Machine) -> None:
    files.write_atomic(machine.UNIT, texts.unit(wishes.program, account=wishes.account, state_dir=found.store.root).encode(), mode=0o644)
    machine.systemctl("daemon-reload")
    machine.systemctl("enable", "--now", os.path.basename(machine.UNIT))


def _drop_in(_change: Change, wishes: Wishes, _found: Machine) -> None:
    os.makedirs(os.path.dirname(wishes.drop_in()), 0o755, exist_ok=True)
    files.write_atomic(wishes.drop_in(), texts.drop_in(wishes.program, account=wishes.account).encode(), mode=0o644)
    machine.systemctl("daemon-reload")


def _remove_unit(_change: Change, _wishes: Wishes, found: Machine) -> None:
    if found.has_systemd:
        machine.systemctl("disable", os.path.basename(machine.UNIT))
    os.unlink(machine.UNIT)
    if found.has_systemd:
        machine.systemctl("daemon-reload")


def _remove_drop_in(_change: Change, wishes: Wishes, found: Machine) -> None:
    os.unlink(wishes.drop_in())
    try:
        os.rmdir(os.path.dirname(wishes.drop_in()))
    except OSError:
        pass  # it has other files
    if found.has_systemd:
        machine.systemctl("daemon-reload")


def _remove_views(_change: Change, _wishes: Wishes, found: Machine) -> None:
    for name in found.views:
        syscalls.umount2(f"{found.below}/{name}", syscalls.MNT_DETACH)  # jobs that run keep theirs
    files.remove_tree(found.below)
    for directory in (os.path.dirname(found.below), paths.VIEWS):
        try:
            os.rmdir(directory)
        except OSError:
            break  # another store or account has views


def _unshare(_change: Change, _wishes: Wishes, found: Machine) -> None:
    account = _needed(found)

    def remove() -> None:
        shared = views.shared_map(found.store)
        if shared is None:
            return
        files.remove_tree(found.store.shared_map)
        directory = found.store.layer_map(layer_names.map_name(shared))
        with locks.hold(found.store.layer_map_lock(layer_names.map_name(shared))):
            unpacking.remove(os.path.dirname(directory), [os.path.basename(directory)], shared)
        build_users.release(found.store, build_users.IMAGES)

    _as_account(account, remove)


def _purge(_change: Change, _wishes: Wishes, found: Machine) -> None:
    account = _needed(found)

    def remove() -> None:
        # what build users own can be removed only in a namespace that has them
        userns.call(build_users.every_map(account), lambda: files.remove_tree(found.store.root))

    _as_account(account, remove)


def _remove_account(_change: Change, wishes: Wishes, _found: Machine) -> None:
    process.run(["userdel", "--remove", wishes.account], check=False)  # it complains about a mail box that never was
    if accounts.find(wishes.account):
        raise InfraError(f"account {wishes.account} could not be removed", "do processes of it run? userdel names them")


def _remove_record(_change: Change, _wishes: Wishes, _found: Machine) -> None:
    files.remove_tree(machine.RECORD)
    try:
        os.rmdir(os.path.dirname(machine.RECORD))
    except OSError:
        pass  # the configuration is there


def _needed(found: Machine) -> Account:
    if found.account is None:
        raise InfraError("the account does not exist", "dockless setup makes it")
    return found.account


def _as_account(account: Account, function: Callable[[], Any]) -> Any:
    """Run a function in a child that has become the account for good."""

    def inside() -> Any:
        os.chdir("/")
        accounts.become(account)
        return function()

    return process.fork_call(inside)


def settle(wishes: Wishes) -> None:
    """Make all layers of the account's store safe on the disk: the machine is about to go down. Raises RunnerErrors."""
    from runner.image import settling

    found = machine.look(wishes)
    _as_account(_needed(found), lambda: settling.settle(found.store))


_MAKERS: dict[Kind, Callable[[Change, Wishes, Machine], None]] = {
    Kind.account: _account, Kind.ids: _ids, Kind.store: _store, Kind.views: _views, Kind.unit: _unit, Kind.drop_in: _drop_in,
    Kind.remove_unit: _remove_unit, Kind.remove_drop_in: _remove_drop_in, Kind.remove_views: _remove_views, Kind.unshare: _unshare,
    Kind.purge: _purge, Kind.remove_account: _remove_account, Kind.remove_record: _remove_record,
}  # fmt: skip
