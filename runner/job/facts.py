"""What `dockless doctor` finds out about a machine: plain facts, judged by job.checks. Every probe really does what a job will do."""

import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import NamedTuple

from runner import errors, layout, paths
from runner.config import Settings
from runner.image import views
from runner.job import oneoff
from runner.job.surroundings import Surroundings
from runner.kernel import cgroup, files, probe, process, userns
from runner.kernel.cgroup import Delegation
from runner.kernel.userns import Range
from runner.model import Account, BuildUser, IdMap, RunRequest
from runner.sandbox import build_users, egress, network, seccomp, toolbox

_VERSION_OPTIONS = {"ip": "-V"}  # of those that do not know --version
PROGRAMS = ("newuidmap", "newgidmap", "slirp4netns", "nft", "ip", "crun", "tini", "git", "gitlab-runner", "podman", "buildah")
SYSCTLS = ("user.max_user_namespaces", "kernel.unprivileged_userns_clone", "kernel.apparmor_restrict_unprivileged_userns")


class Try(NamedTuple):
    """One attempt: `words` is "" if it worked; `needs` names what kept it from being made at all."""

    words: str = ""
    errno: int = 0
    needs: str = ""

    def worked(self) -> bool:
        """Tell whether the attempt was made and worked."""
        return not self.words and not self.needs


class Program(NamedTuple):
    """One program: `path` is "" if it is not installed, `works` whether it runs, `privileged` whether it starts with privileges."""

    path: str
    version: str = ""
    works: Try = Try()
    privileged: bool = False


class Facts(NamedTuple):
    """Everything that the judgements look at."""

    account: Account
    kernel: str  # its release
    sysctls: dict[str, str]  # "" where the kernel has none of the name
    filtered: bool  # a seccomp filter is on us
    no_new_privileges: bool
    programs: dict[str, Program]
    uids: tuple[Range, ...]
    gids: tuple[Range, ...]
    first_free_id: int  # above everything in both files
    namespaces: Try
    id_maps: Try
    overlay: Try
    whiteout: Try
    proc: Try
    links: Try
    packet_filter: Try
    container: Try
    tun: Try
    profile: Try
    unified: bool  # cgroup v2 alone, no version 1 beside it
    delegation: Delegation
    state_dir: str
    writable: Try  # a directory in it, or in the nearest of its parents that exists
    format: str  # of the store, "" if there is none yet
    filesystem: str
    free_bytes: int
    attributes: Try
    shared: bool  # build users see one copy of each layer


class Places(NamedTuple):
    """Where the machine keeps what is looked at."""

    path: str = process.TRUSTED_PATH
    sysctls: str = "/proc/sys"
    status: str = "/proc/self/status"
    subuid: str = build_users.SUBUID
    subgid: str = build_users.SUBGID
    tun: str = "/dev/net/tun"
    profile: str = seccomp.PROFILE
    controllers: str = "/sys/fs/cgroup/cgroup.controllers"


_MACHINE = Places()


def attempt(function: Callable[[], object]) -> Try:
    """Call a probe and return what came of it."""
    try:
        function()
    except OSError as e:
        place = f": {e.filename}" if e.filename else ""
        return Try(f"{e.strerror or e}{place}", e.errno or 0)
    except errors.RunnerError as e:
        return Try(e.message)
    return Try()


def gather(account: Account, state_dir: str, settings: Settings, *, places: Places = _MACHINE) -> Facts:
    """Probe the machine as `account`, which this process must be. Leaves nothing behind."""
    uids = userns.subordinate_ranges(account.name, account.uid, places.subuid)
    gids = userns.subordinate_ranges(account.name, account.uid, places.subgid)
    programs = {name: _program(settings.gitlab.runner_binary or name if name == "gitlab-runner" else name, places) for name in PROGRAMS}
    namespaces = attempt(probe.make_user_namespace)
    found = probe.existing(state_dir)
    facts = Facts(
        account=account,
        kernel=os.uname().release,
        sysctls={name: probe.sysctl(name, root=places.sysctls) for name in SYSCTLS},
        filtered=probe.status("Seccomp", path=places.status) == "2",
        no_new_privileges=probe.status("NoNewPrivs", path=places.status) == "1",
        programs=programs,
        uids=uids,
        gids=gids,
        first_free_id=max(userns.first_free_id(places.subuid), userns.first_free_id(places.subgid)),
        namespaces=namespaces,
        id_maps=_NO_IDS, overlay=_NO_IDS, whiteout=_NO_IDS, proc=_NO_IDS, links=_NO_IDS, packet_filter=_NO_IDS, container=_NO_IDS,
        tun=attempt(lambda: probe.open_tun(places.tun)),
        profile=attempt(lambda: seccomp.load((), path=places.profile)),
        unified=os.path.exists(places.controllers),
        delegation=cgroup.delegated(),
        state_dir=state_dir,
        writable=Try(),
        format=_format(state_dir),
        filesystem=probe.filesystem(found),
        free_bytes=probe.free_bytes(found),
        attributes=_NO_DIRECTORY,
        shared=_shares(state_dir, build_users.slices(uids, gids)),
    )  # fmt: skip
    slices = build_users.slices(uids, gids)
    id_map = BuildUser("doctor", 0, *slices[0]).keeper_map(account) if slices else None
    with ExitStack() as stack:
        try:
            directory = stack.enter_context(probe.scratch(found))
        except OSError as e:  # a full disk, among others
            return _in_namespace(facts._replace(writable=Try(f"{e.strerror}: {found}", e.errno or 0)), id_map, "")
        facts = facts._replace(attributes=attempt(lambda: probe.set_user_attribute(directory)))
        return _in_container(_in_namespace(facts, id_map, directory), directory, settings)


_NO_IDS = Try(needs="subordinate ids")
_NO_DIRECTORY = Try(needs="state directory")


def _program(name: str, places: Places) -> Program:
    path = probe.find(name, path=places.path)
    if not path:
        return Program("")
    if name in ("newuidmap", "newgidmap"):  # they print no version; id_maps tells whether they work
        return Program(path, privileged=probe.is_privileged(path))
    version = ""

    def ask() -> None:
        nonlocal version
        version = probe.first_number(path, _VERSION_OPTIONS.get(name, "--version"))

    works = attempt(ask)
    return Program(path, version, works)


def _shares(state_dir: str, slices: list[tuple[int, int]]) -> bool:
    """Tell whether the last build user, who cannot own the shared layers, sees them."""
    return bool(slices) and views.place(paths.Store(state_dir), BuildUser("doctor", 0, *slices[-1]).isolated_map()).is_shared


def _format(state_dir: str) -> str:
    try:
        return files.read(paths.Store(state_dir).format, limit_bytes=64).decode(errors="replace").strip()
    except OSError:
        return ""


def _in_namespace(facts: Facts, id_map: IdMap | None, directory: str) -> Facts:
    """Try what needs the account's subordinate ids, and what needs a directory to try it in."""
    if id_map is None:
        return facts
    id_maps = attempt(lambda: probe.map_ids(id_map))
    if not id_maps.worked():
        none = Try(needs="id maps")
        return facts._replace(
            id_maps=id_maps, overlay=none, whiteout=none, proc=none, links=none, packet_filter=none, container=none
        )  # fmt: skip
    addresses = network.addresses("10.99.0.0/16")
    rules = network.router_rules("tap0", egress.rules(egress.Policy(), addresses, ["192.0.2.1"]))
    ip, nft = facts.programs["ip"].path, facts.programs["nft"].path
    links = "\n".join([*network.router_commands(addresses, mtu=1500), "link add v0 type veth peer name v1"])
    return facts._replace(
        id_maps=id_maps,
        overlay=attempt(lambda: probe.mount_overlay(id_map, directory)) if directory else _NO_DIRECTORY,
        whiteout=attempt(lambda: probe.make_whiteout(id_map, directory)) if directory else _NO_DIRECTORY,
        proc=attempt(lambda: probe.mount_proc(id_map, directory)) if directory else _NO_DIRECTORY,
        container=Try() if directory else _NO_DIRECTORY,
        links=attempt(lambda: probe.run_in_network(id_map, ip, "-batch", "-", script=f"{links}\n")) if ip else Try(needs="ip"),
        packet_filter=attempt(lambda: probe.run_in_network(id_map, nft, "-f", "-", script=rules))
        if nft else Try(needs="nft"),
    )  # fmt: skip


def _in_container(facts: Facts, directory: str, settings: Settings) -> Facts:
    """Run a whole container over a store of its own, once everything that it needs is known to work."""
    needed = {
        **{name: bool(facts.programs[name].path) for name in ("slirp4netns", "nft", "ip", "crun")},
        "overlay": facts.overlay.worked(), "proc": facts.proc.worked(), "network devices": facts.links.worked(),
        "packet filter": facts.packet_filter.worked(), "tun device": facts.tun.worked(), "seccomp profile": facts.profile.worked(),
    }  # fmt: skip
    missing = [name for name, works in needed.items() if not works]
    if not facts.container.worked():
        return facts
    if missing:
        return facts._replace(container=Try(needs=missing[0]))
    return facts._replace(container=attempt(lambda: _run_container(facts.account, f"{directory}/state", settings)))


def _run_container(account: Account, root: str, settings: Settings) -> None:
    """Run `true` on the host's own /usr. It may fail for reasons that no other probe knows."""
    store = layout.open_store(root)
    around = Surroundings(store, settings, account)
    request = RunRequest(image=toolbox.IMAGE, argv=("/usr/bin/true",))

    def inside() -> int:
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        for fd in (0, 1):
            os.dup2(null, fd)
        return oneoff.run(request, around).exit_code

    code = process.fork_call(inside)
    if code != 0:
        raise errors.InfraError(f"a container of the host's own /usr ended with {code}")
