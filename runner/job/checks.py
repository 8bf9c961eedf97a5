"""`dockless doctor`'s judgement: facts about a machine -> what is fine, what is missing, and the command (of Debian) that mends it."""

import errno
import shlex
from collections.abc import Iterator
from typing import NamedTuple

from runner import paths
from runner.job.facts import Facts, Program, Try
from runner.kernel import probe
from runner.model import IDS_PER_BUILD_USER
from runner.sandbox import build_users, seccomp

OK, WARNING, FAILED = "ok", "warning", "failed"
_SLICES = 32  # that the commands here grant
_FULL_BYTES, _LOW_BYTES = 512 * 1024**2, 5 * 1024**3
_SYSCTL_FILE = "/etc/sysctl.d/90-dockless.conf"
_OUTER = f"docker run {' '.join(f'--security-opt {o}=unconfined' for o in ('seccomp', 'apparmor', 'systempaths'))} --device /dev/net/tun …"
_PACKAGES = {
    "newuidmap": "uidmap", "newgidmap": "uidmap", "slirp4netns": "slirp4netns", "nft": "nftables", "ip": "iproute2", "crun": "crun",
    "tini": "tini", "git": "git", "gitlab-runner": "gitlab-runner",
    "podman": "podman netavark aardvark-dns iptables", "buildah": "buildah",
}  # fmt: skip
# what is lost without a program that most jobs can do without
_OPTIONAL = {
    "tini": "`dockless run --init` does not work",
    "git": "GitLab jobs on the toolbox cannot fetch their sources",
    "gitlab-runner": "GitLab jobs skip caches and artifacts",
    "podman": "jobs can have no Docker API but by dockerd",
    "buildah": "`dockless build` does not work",
}


class Check(NamedTuple):
    """One judgement: `found` is a phrase, `mend` a command ("" when there is nothing to mend).

    `needs` names an earlier check without which this one cannot be better; its command is then this one's too.
    """

    name: str
    state: str
    found: str
    mend: str = ""
    needs: str = ""


def judge(facts: Facts) -> list[Check]:
    """Return every check, always the same ones in the same order."""
    found: dict[str, Check] = {}
    for check in _every(facts):
        found[check.name] = check._replace(mend=found[check.needs].mend) if check.needs else check
    return list(found.values())


def _every(facts: Facts) -> Iterator[Check]:
    yield _kernel(facts)
    yield _namespaces(facts)
    for name in ("newuidmap", "newgidmap"):
        yield _mapper(name, facts)
    yield _subordinate_ids(facts)
    yield _id_maps(facts)
    yield _state_directory(facts)
    yield _space(facts)
    yield _tried("user attributes", facts.attributes, f"kept by {facts.filesystem or 'the file system'}", mend=_another_directory(facts))
    yield _tried("overlay", facts.overlay, "mounted in a user namespace on the state directory", mend=_another_directory(facts))
    yield _tried("whiteouts", facts.whiteout, "can be made in a user namespace", mend=_new_kernel())
    yield _tried("proc", facts.proc, "can be mounted for a new PID namespace", mend=_OUTER)
    yield _tun(facts)
    for name in ("slirp4netns", "nft", "ip", "crun", "tini", "git", "gitlab-runner", "podman", "buildah"):
        yield _program(name, facts.programs[name])
    yield _tried("network devices", facts.links, "bridge and veth can be made", mend="modprobe --all bridge veth")
    yield _tried(
        "packet filter",
        facts.packet_filter,
        "NAT and filter rules can be loaded",
        mend="modprobe --all nf_tables nft_masq nft_reject_inet nft_ct",
    )
    yield _tried("seccomp profile", facts.profile, seccomp.PROFILE, mend="apt-get install --reinstall golang-github-containers-common")
    yield _delegation(facts)
    yield _shared_layers(facts)
    yield _tried("container", facts.container, "`true` ran in one", mend="dockless --debug run --image toolbox -- true")


def _kernel(facts: Facts) -> Check:
    version = probe.kernel_version(facts.kernel)
    if version < (5, 13):
        return Check("kernel", FAILED, f"{facts.kernel} is older than 5.13: no overlay without root", _new_kernel())
    if version < (5, 19):
        return Check("kernel", WARNING, f"{facts.kernel} is older than 5.19: no id-mapped overlay layers", _new_kernel())
    return Check("kernel", OK, facts.kernel)


def _namespaces(facts: Facts) -> Check:
    name = "user namespaces"
    if facts.namespaces.worked():
        return Check(name, OK, "permitted")
    refused, why = facts.namespaces, f"refused ({facts.namespaces.words})"
    for setting, bad, good in (
        ("kernel.unprivileged_userns_clone", "0", "1"),
        ("user.max_user_namespaces", "0", "65536"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
    ):
        if facts.sysctls[setting] == bad:
            mend = f"echo {setting}={good} >> {_SYSCTL_FILE} && sysctl --system"
            return Check(name, FAILED, f"{why}: {setting} is {bad}", mend)
    if refused.errno in (errno.ENOSPC, errno.EUSERS):
        mend = f"echo user.max_user_namespaces=65536 >> {_SYSCTL_FILE} && sysctl --system"
        return Check(name, FAILED, f"{why}: too many of them, or too many inside each other", mend)
    if facts.filtered:
        return Check(name, FAILED, f"{why}: a seccomp filter is on this process, such as that of an outer container", _OUTER)
    if refused.errno == errno.EINVAL:
        return Check(name, FAILED, f"{why}: the kernel was built without them", _new_kernel())
    return Check(name, FAILED, f"{why}: by a security module, or an outer container or chroot", _OUTER)


def _mapper(name: str, facts: Facts) -> Check:
    program = facts.programs[name]
    if not program.path:
        return Check(name, FAILED, "not installed", "apt-get install uidmap")
    if not program.privileged:
        return Check(name, FAILED, f"{program.path} is not setuid root", f"chown root:root {program.path} && chmod u+s {program.path}")
    if facts.no_new_privileges:
        return Check(name, FAILED, f"{program.path} gets no privileges: no_new_privs is set", _drop_in("NoNewPrivileges=no"))
    return Check(name, OK, program.path)


def _subordinate_ids(facts: Facts) -> Check:
    name = "subordinate ids"
    number = len(build_users.slices(facts.uids, facts.gids))
    # on a round number above everybody's
    start = max(-(-facts.first_free_id // IDS_PER_BUILD_USER) * IDS_PER_BUILD_USER, 8 * IDS_PER_BUILD_USER)
    ids = f"{start}-{start + _SLICES * IDS_PER_BUILD_USER - 1}"
    mend = f"usermod --add-subuids {ids} --add-subgids {ids} {facts.account.name}"
    if number > 1:
        return Check(name, OK, f"room for {number} build users")
    if number == 1:
        return Check(name, WARNING, "room for one build user only: jobs are not separated from each other", mend)
    for path, ranges in ((build_users.SUBUID, facts.uids), (build_users.SUBGID, facts.gids)):
        if not ranges:
            return Check(name, FAILED, f"none for {facts.account.name} in {path}", mend)
        largest = max(granted.count for granted in ranges)
        if largest < IDS_PER_BUILD_USER:
            return Check(name, FAILED, f"{largest} for {facts.account.name} in {path}, {IDS_PER_BUILD_USER} in a row are needed", mend)
    raise AssertionError("unreachable: two ranges of 65536 ids make a slice")


def _id_maps(facts: Facts) -> Check:
    if facts.id_maps.worked() or facts.id_maps.needs:
        return _tried("id maps", facts.id_maps, "newuidmap and newgidmap work")
    for cause in (_namespaces(facts), _mapper("newuidmap", facts), _mapper("newgidmap", facts)):
        if cause.state == FAILED:
            return Check("id maps", FAILED, facts.id_maps.words, needs=cause.name)
    return Check("id maps", FAILED, facts.id_maps.words, "apt-get install --reinstall uidmap")


def _state_directory(facts: Facts) -> Check:
    name, account = "state directory", facts.account.name
    if facts.writable.errno in (errno.ENOSPC, errno.EDQUOT):
        return Check(name, FAILED, f"{facts.state_dir} cannot be written: {facts.writable.words}", "dockless gc")
    if not facts.writable.worked():
        mend = f"install -d -m 700 -o {account} -g $(id -g {account}) {shlex.quote(facts.state_dir)}"
        return Check(name, FAILED, f"{facts.state_dir} cannot be written: {facts.writable.words}", mend)
    if facts.format not in ("", str(paths.FORMAT)):
        found = f"{facts.state_dir} has format {facts.format}, this dockless knows {paths.FORMAT}"
        return Check(name, FAILED, found, _another_directory(facts))
    return Check(name, OK, f"{facts.state_dir} on {facts.filesystem or 'an unknown file system'}")


def _space(facts: Facts) -> Check:
    found = f"{facts.free_bytes / 10**9:.1f} GB free"
    if facts.free_bytes < _LOW_BYTES:
        return Check("free space", FAILED if facts.free_bytes < _FULL_BYTES else WARNING, f"only {found}", "dockless gc")
    return Check("free space", OK, found)


def _tun(facts: Facts) -> Check:
    mend = "chmod 666 /dev/net/tun" if facts.tun.errno in (errno.EACCES, errno.EPERM) else "modprobe tun && chmod 666 /dev/net/tun"
    return _tried("tun device", facts.tun, "/dev/net/tun can be opened", mend=mend)


def _program(name: str, program: Program) -> Check:
    loss = _OPTIONAL.get(name, "")
    state = WARNING if loss else FAILED
    if not program.path:
        return Check(name, state, f"not installed{f': {loss}' if loss else ''}", f"apt-get install {_PACKAGES[name]}")
    if not program.works.worked():
        return Check(name, state, f"does not run: {program.works.words}", f"apt-get install --reinstall {_PACKAGES[name]}")
    return Check(name, OK, f"{program.version or 'installed'} ({program.path})")


def _delegation(facts: Facts) -> Check:
    if facts.delegation.directory:
        return Check("control groups", OK, f"delegated below {facts.delegation.directory}")
    mend = f"dockless setup --account {facts.account.name}  # and restart the CI agent"
    if not facts.unified:
        mend = "sed -i 's/^GRUB_CMDLINE_LINUX=\"/&systemd.unified_cgroup_hierarchy=1 /' /etc/default/grub && update-grub && reboot"
    return Check("control groups", WARNING, f"limits are not enforced: {facts.delegation.reason}", mend)


def _shared_layers(facts: Facts) -> Check:
    name = "shared layers"
    if facts.shared:
        return Check(name, OK, "all build users see one copy of each image")
    setup = f"dockless --state-dir {shlex.quote(facts.state_dir)} setup --account {facts.account.name}"
    return Check(name, WARNING, "each build user unpacks images for itself: the first job of each waits, and takes the room again", setup)


def _tried(name: str, tried: Try, worked: str, *, mend: str = "") -> Check:
    """Judge an attempt that either worked or did not."""
    if tried.worked():
        return Check(name, OK, worked)
    if tried.needs:
        return Check(name, FAILED, f"not tried: needs {tried.needs}", needs=tried.needs)
    return Check(name, FAILED, tried.words, mend)


def _drop_in(*settings: str) -> str:
    directory = "/etc/systemd/system/gitlab-runner.service.d"
    text = "\\n".join(("[Service]", *settings, ""))
    return f"mkdir -p {directory} && printf '{text}' >> {directory}/dockless.conf && systemctl daemon-reload"


def _new_kernel() -> str:
    return "apt-get install linux-image-$(dpkg --print-architecture) && reboot"


def _another_directory(facts: Facts) -> str:
    return f"dockless --state-dir /var/lib/{facts.account.name}/store doctor  # a local ext4, xfs or btrfs"
