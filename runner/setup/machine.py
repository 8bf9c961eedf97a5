"""What a machine has of what root can prepare: plain facts, gathered without changing anything."""

import grp
import os
import pwd
from typing import NamedTuple

from runner import paths
from runner.image import layer_names, views
from runner.kernel import accounts, files, process, userns
from runner.model import Account, BuildUser, IdMap
from runner.sandbox import build_users

RECORD = "/etc/dockless/setup.json"
UNIT = "/etc/systemd/system/dockless-views.service"
_SYSTEMD = "/run/systemd/system"  # sd_booted(3)


class Wishes(NamedTuple):
    """What is asked for: `state_dir` "" is the account's own, `service` the CI agent's unit, "" for no units, `program` this dockless."""

    account: str
    state_dir: str
    slices: int
    service: str
    program: str

    def drop_in(self) -> str:
        """Return the file that delegates the agent's control group."""
        return f"/etc/systemd/system/{self.service}.service.d/dockless.conf"

    def store(self, home: str) -> paths.Store:
        """Return the account's store."""
        return paths.Store(self.state_dir or paths.state_directory(home, {}))


class Machine(NamedTuple):
    """What there is. `shared` is the map on record in the store, None without one; `views` are the mounts in the directory `below`."""

    account: Account | None
    slices: tuple[tuple[int, int], ...]
    first_free_id: int
    store: paths.Store
    has_store: bool
    shared: IdMap | None
    below: str
    views: frozenset[str]
    has_systemd: bool
    unit: str  # texts, "" for none
    drop_in: str
    record: dict[str, object]


def look(wishes: Wishes) -> Machine:
    """Gather everything. For root, who alone may read the store of another account."""
    account = accounts.find(wishes.account)
    store = wishes.store(account.home if account else f"/var/lib/{wishes.account}")
    slices = tuple(build_users.available(account)) if account else ()
    shared, below = _shared(store, account, slices) if account else (None, "")
    return Machine(
        account=account,
        slices=slices,
        first_free_id=max(userns.first_free_id(build_users.SUBUID), userns.first_free_id(build_users.SUBGID), _above_accounts()),
        store=store,
        has_store=os.path.exists(store.format),
        shared=shared,
        below=below,
        views=frozenset(_mounted(below)),
        has_systemd=bool(wishes.service) and os.path.isdir(_SYSTEMD),
        unit=_text(UNIT) if wishes.service else "",
        drop_in=_text(wishes.drop_in()) if wishes.service else "",
        record=_record(),
    )


def _shared(store: paths.Store, account: Account, slices: tuple[tuple[int, int], ...]) -> tuple[IdMap | None, str]:
    """Return the map on record in the store and where its views belong; (None, "") without a record or its layers.

    The account wrote the record: a map of other ids than its own would show it files of others as if they were its build users'.
    """
    shared = views.shared_map(store)
    if shared is None or shared not in [BuildUser("", 0, *slice_).isolated_map() for slice_ in slices]:
        return None, ""
    try:
        info = os.stat(store.layer_map(layer_names.map_name(shared)))
    except OSError:
        return None, ""
    return shared, paths.views(account.uid, info)


def _above_accounts() -> int:
    """Return the first id above all accounts and groups that have one in the range where subordinate ids are granted from."""
    ids = [entry.pw_uid for entry in pwd.getpwall()] + [entry.gr_gid for entry in grp.getgrall()]
    return max((number + 1 for number in ids if 100_000 <= number < 2**31), default=0)


def _mounted(directory: str) -> list[str]:
    """Return what is mounted right below a directory, by name (proc_pid_mountinfo(5))."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        points = [line.split(" ")[4] for line in file]
    return [os.path.basename(point) for point in points if os.path.dirname(point) == directory]


def _text(path: str) -> str:
    try:
        return files.read(path, limit_bytes=1024**2).decode(errors="replace")
    except OSError:
        return ""


def _record() -> dict[str, object]:
    try:
        value = files.read_json(RECORD)
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def systemctl(*arguments: str) -> None:
    """Call systemctl(1); process.Failed carries its words."""
    process.run(["systemctl", *arguments], timeout_s=120)
