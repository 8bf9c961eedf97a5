"""What `dockless doctor` says of bad hosts: judgements over facts, one change from a good machine at a time."""

import errno

import pytest

from runner.cli import doctor
from runner.job import checks, facts
from runner.job.checks import FAILED, OK, WARNING, Check
from runner.job.facts import Facts, Program, Try
from runner.kernel.cgroup import Delegation
from runner.kernel.userns import Range
from runner.model import Account

GOOD = Facts(
    account=Account("ci", 1000, 1000, "/home/ci"),
    kernel="6.1.0-13-amd64",
    sysctls={
        "user.max_user_namespaces": "63000",
        "kernel.unprivileged_userns_clone": "1",
        "kernel.apparmor_restrict_unprivileged_userns": "",
    },
    filtered=False,
    no_new_privileges=False,
    programs={name: Program(f"/usr/bin/{name}", "1.2.3", privileged=name.startswith("new")) for name in facts.PROGRAMS},
    uids=(Range(200000, 10 * 65536),),
    gids=(Range(200000, 10 * 65536),),
    first_free_id=855360,
    namespaces=Try(),
    id_maps=Try(),
    overlay=Try(),
    whiteout=Try(),
    proc=Try(),
    links=Try(),
    packet_filter=Try(),
    container=Try(),
    tun=Try(),
    profile=Try(),
    unified=True,
    delegation=Delegation("/sys/fs/cgroup/agent", ""),
    state_dir="/home/ci/.local/share/dockless",
    writable=Try(),
    format="",
    filesystem="ext4",
    free_bytes=100 * 1024**3,
    attributes=Try(),
    shared=True,
)
REFUSED = Try("unshare: Operation not permitted", errno.EPERM)
NO_IDS = Try(needs="subordinate ids")


def judge(**changes: object) -> dict[str, Check]:
    """Return the checks of a good machine with some facts changed, by name."""
    return {check.name: check for check in checks.judge(GOOD._replace(**changes))}  # type: ignore[arg-type]  # names of fields


def without(name: str) -> dict[str, Program]:
    """Return the good machine's programs but one."""
    return {**GOOD.programs, name: Program("")}


def other_than_good(found: dict[str, Check]) -> list[str]:
    return [check.name for check in found.values() if check.state != OK]


def test_a_good_machine_has_nothing_to_mend() -> None:
    found = judge()
    assert other_than_good(found) == []
    assert [check.mend for check in found.values()] == [""] * len(found)


@pytest.mark.parametrize(
    ("release", "state"),
    [
        ("4.19.0-27-amd64", FAILED), ("5.10.0-32-amd64", FAILED), ("5.12.19", FAILED), ("5.13", WARNING), ("5.15.0-1064-azure", WARNING),
        ("5.18.19", WARNING), ("5.19-rc1", OK), ("6.1.0", OK), ("10.0.1", OK), ("strange", FAILED),
    ],
)  # fmt: skip
def test_kernel_is_new_enough_for_overlay_without_root(release: str, state: str) -> None:
    check = judge(kernel=release)["kernel"]
    assert check.state == state
    assert release in check.found
    assert ("linux-image" in check.mend) is (state != OK)


@pytest.mark.parametrize(
    ("setting", "value", "mended"),
    [
        ("user.max_user_namespaces", "0", "user.max_user_namespaces=65536"),
        ("kernel.unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "kernel.apparmor_restrict_unprivileged_userns=0"),
    ],
)
def test_a_setting_that_forbids_user_namespaces_is_named_and_turned(setting: str, value: str, mended: str) -> None:
    check = judge(namespaces=REFUSED, sysctls={**GOOD.sysctls, setting: value})["user namespaces"]
    assert check.state == FAILED
    assert f"{setting} is {value}" in check.found
    assert check.mend == f"echo {mended} >> /etc/sysctl.d/90-dockless.conf && sysctl --system"


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("kernel.apparmor_restrict_unprivileged_userns", "1"),
        ("kernel.unprivileged_userns_clone", "0"),
        ("user.max_user_namespaces", "0"),
    ],
)
def test_a_setting_that_does_not_keep_this_process_from_it_is_no_fault(setting: str, value: str) -> None:
    assert other_than_good(judge(sysctls={**GOOD.sysctls, setting: value})) == []


@pytest.mark.parametrize(
    ("tried", "filtered", "reason", "mend"),
    [
        (REFUSED, True, "seccomp filter", "seccomp=unconfined"),
        (REFUSED, False, "security module", "apparmor=unconfined"),
        (Try("unshare: No space left on device", errno.ENOSPC), True, "too many", "user.max_user_namespaces=65536"),
        (Try("unshare: Too many users", errno.EUSERS), False, "too many", "user.max_user_namespaces=65536"),
        (Try("unshare: Invalid argument", errno.EINVAL), False, "built without", "linux-image"),
        (Try("mount: Permission denied: /", errno.EACCES), False, "security module", "apparmor=unconfined"),
    ],
)
def test_a_refusal_without_a_setting_is_explained_by_how_it_was_refused(tried: Try, filtered: bool, reason: str, mend: str) -> None:
    check = judge(namespaces=tried, filtered=filtered)["user namespaces"]
    assert check.state == FAILED
    assert reason in check.found
    assert tried.words in check.found
    assert mend in check.mend


def test_no_user_namespaces_at_all_means_that_id_maps_are_mended_with_them() -> None:
    found = judge(
        namespaces=REFUSED, id_maps=REFUSED, overlay=Try(needs="id maps"), sysctls={**GOOD.sysctls, "kernel.unprivileged_userns_clone": "0"}
    )
    assert found["id maps"].state == found["overlay"].state == FAILED
    assert found["overlay"].mend == found["id maps"].mend == found["user namespaces"].mend != ""


@pytest.mark.parametrize("name", ["newuidmap", "newgidmap"])
def test_a_missing_mapper_is_installed(name: str) -> None:
    found = judge(programs=without(name), id_maps=Try(f"program is not installed: {name}", errno.ENOENT))
    assert (found[name].state, found[name].mend) == (FAILED, "apt-get install uidmap")
    assert (found["id maps"].state, found["id maps"].mend) == (FAILED, "apt-get install uidmap")


def test_a_mapper_without_privileges_gets_them() -> None:
    check = judge(programs={**GOOD.programs, "newuidmap": Program("/usr/bin/newuidmap")})["newuidmap"]
    assert check.state == FAILED
    assert check.mend == "chown root:root /usr/bin/newuidmap && chmod u+s /usr/bin/newuidmap"


def test_no_new_privileges_take_the_mappers_theirs() -> None:
    found = judge(no_new_privileges=True, id_maps=Try("newuidmap exited with 1: newuidmap: write to uid_map failed", errno.EIO))
    assert found["newuidmap"].state == found["newgidmap"].state == FAILED
    assert "no_new_privs" in found["newuidmap"].found
    assert found["id maps"].mend == found["newuidmap"].mend
    assert r"printf '[Service]\nNoNewPrivileges=no\n' >>" in found["id maps"].mend


def test_mappers_that_fail_for_no_known_reason_are_installed_again() -> None:
    check = judge(id_maps=Try("newuidmap exited with 1: newuidmap: uid range not allowed", errno.EIO))["id maps"]
    assert (check.state, check.mend) == (FAILED, "apt-get install --reinstall uidmap")
    assert "uid range not allowed" in check.found


@pytest.mark.parametrize(
    ("uids", "gids", "words"),
    [
        ((), (), "none for ci in /etc/subuid"),
        ((), GOOD.gids, "none for ci in /etc/subuid"),
        (GOOD.uids, (), "none for ci in /etc/subgid"),
        ((Range(100000, 65535),), GOOD.gids, "65535 for ci in /etc/subuid"),
        (GOOD.uids, (Range(100000, 10), Range(200000, 4096)), "4096 for ci in /etc/subgid"),
    ],
)
def test_too_few_subordinate_ids_are_named_with_their_file(uids: tuple[Range, ...], gids: tuple[Range, ...], words: str) -> None:
    check = judge(uids=uids, gids=gids, id_maps=NO_IDS)["subordinate ids"]
    assert check.state == FAILED
    assert words in check.found


def test_what_needs_subordinate_ids_says_so_and_is_mended_with_them() -> None:
    found = judge(uids=(), gids=(), id_maps=NO_IDS, overlay=NO_IDS, container=NO_IDS)
    for name in ("id maps", "overlay", "container"):
        assert found[name].state == FAILED
        assert found[name].found == "not tried: needs subordinate ids"
        assert found[name].mend == found["subordinate ids"].mend


@pytest.mark.parametrize("gids", [(Range(200000, 65536),), (Range(200000, 65536 + 65535),), (Range(0, 5), Range(200000, 65536))])
def test_one_slice_works_but_separates_nobody(gids: tuple[Range, ...]) -> None:
    check = judge(gids=gids)["subordinate ids"]
    assert check.state == WARNING
    assert "one build user" in check.found
    assert check.mend.startswith("usermod")


@pytest.mark.parametrize(
    ("first_free_id", "granted"),
    [(0, "524288-2621439"), (524288, "524288-2621439"), (855360, "917504-3014655"), (917504, "917504-3014655"), (917505, "983040-3080191")],
)
def test_granted_ids_overlap_nobodys_and_are_whole_slices(first_free_id: int, granted: str) -> None:
    check = judge(uids=(), gids=(), first_free_id=first_free_id)["subordinate ids"]
    assert check.mend == f"usermod --add-subuids {granted} --add-subgids {granted} ci"


@pytest.mark.parametrize(
    ("name", "package"),
    [("slirp4netns", "slirp4netns"), ("nft", "nftables"), ("ip", "iproute2"), ("crun", "crun")],
)
def test_a_program_that_every_job_needs_is_a_failure(name: str, package: str) -> None:
    check = judge(programs=without(name))[name]
    assert (check.state, check.found, check.mend) == (FAILED, "not installed", f"apt-get install {package}")


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("tini", "--init"),
        ("git", "sources"),
        ("gitlab-runner", "caches and artifacts"),
        ("podman", "Docker API"),
        ("buildah", "dockless build"),
    ],
)
def test_a_program_that_some_jobs_miss_is_a_warning_with_what_is_lost(name: str, loss: str) -> None:
    check = judge(programs=without(name))[name]
    assert check.state == WARNING
    assert loss in check.found
    assert check.mend.startswith(f"apt-get install {name}")


def test_a_program_that_does_not_run_is_installed_again() -> None:
    broken = Program("/usr/bin/crun", works=Try("crun exited with 127: error while loading shared libraries", errno.EIO))
    check = judge(programs={**GOOD.programs, "crun": broken})["crun"]
    assert (check.state, check.mend) == (FAILED, "apt-get install --reinstall crun")
    assert "shared libraries" in check.found


@pytest.mark.parametrize(
    ("tried", "mend"),
    [
        (Try("Permission denied: /dev/net/tun", errno.EACCES), "chmod 666 /dev/net/tun"),
        (Try("Operation not permitted: /dev/net/tun", errno.EPERM), "chmod 666 /dev/net/tun"),
        (Try("No such file or directory: /dev/net/tun", errno.ENOENT), "modprobe tun && chmod 666 /dev/net/tun"),
        (Try("No such device: /dev/net/tun", errno.ENODEV), "modprobe tun && chmod 666 /dev/net/tun"),
    ],
)
def test_tun_is_opened_up_or_loaded(tried: Try, mend: str) -> None:
    check = judge(tun=tried)["tun device"]
    assert (check.state, check.found, check.mend) == (FAILED, tried.words, mend)


@pytest.mark.parametrize(
    ("fact", "name", "mend"),
    [
        ("overlay", "overlay", "--state-dir"),
        ("attributes", "user attributes", "--state-dir"),
        ("whiteout", "whiteouts", "linux-image"),
        ("proc", "proc", "systempaths=unconfined"),
        ("links", "network devices", "modprobe --all bridge veth"),
        ("packet_filter", "packet filter", "modprobe --all nf_tables"),
        ("profile", "seccomp profile", "golang-github-containers-common"),
        ("container", "container", "dockless --debug run --image toolbox -- true"),
    ],
)
def test_what_fails_is_told_in_its_own_words_and_mended(fact: str, name: str, mend: str) -> None:
    found = judge(**{fact: Try("mount: Invalid argument: merged", errno.EINVAL)})
    assert other_than_good(found) == [name]
    assert found[name].state == FAILED
    assert found[name].found == "mount: Invalid argument: merged"
    assert mend in found[name].mend


def test_groups_that_are_not_delegated_are_a_warning_only() -> None:
    found = judge(delegation=Delegation("", "/system.slice is not delegated to this account"))
    assert other_than_good(found) == ["control groups"]
    assert found["control groups"].state == WARNING
    assert "/system.slice is not delegated" in found["control groups"].found
    assert found["control groups"].mend == "dockless setup --account ci  # and restart the CI agent"


def test_control_groups_of_version_1_need_another_boot() -> None:
    check = judge(unified=False, delegation=Delegation("", "the machine uses cgroup v1 or a hybrid"))["control groups"]
    assert check.state == WARNING
    assert "systemd.unified_cgroup_hierarchy=1" in check.mend


def test_a_state_directory_of_somebody_else_is_made_ours() -> None:
    check = judge(state_dir="/srv/my state", writable=Try("Permission denied: /srv", errno.EACCES))["state directory"]
    assert check.state == FAILED
    assert "/srv/my state cannot be written: Permission denied: /srv" in check.found
    assert check.mend == "install -d -m 700 -o ci -g $(id -g ci) '/srv/my state'"


def test_a_full_disk_is_collected() -> None:
    found = judge(writable=Try("No space left on device: /srv", errno.ENOSPC), free_bytes=0)
    assert [(found[name].state, found[name].mend) for name in ("state directory", "free space")] == [(FAILED, "dockless gc")] * 2


def test_a_store_of_another_version_is_left_alone() -> None:
    check = judge(format="99")["state directory"]
    assert check.state == FAILED
    assert "format 99" in check.found
    assert "--state-dir" in check.mend


@pytest.mark.parametrize(("gigabytes", "state"), [(0.4, FAILED), (0.6, WARNING), (4.9, WARNING), (5.1, OK)])
def test_little_space_is_a_warning_and_none_a_failure(gigabytes: float, state: str) -> None:
    assert judge(free_bytes=int(gigabytes * 1024**3))["free space"].state == state


def test_text_has_aligned_lines_and_each_command_once_below_its_check() -> None:
    found = [
        Check("short", OK, "fine"),
        Check("a longer name", FAILED, "broken", "mend it"),
        Check("other", FAILED, "not tried", "mend it"),
        Check("optional", WARNING, "lacking", "get it"),
    ]
    assert doctor.text(found).splitlines() == [
        "ok       short          fine",
        "failed   a longer name  broken",
        "                        $ mend it",
        "failed   other          not tried",
        "warning  optional       lacking",
        "                        $ get it",
        "2 failed, 1 warnings",
    ]


def test_text_of_a_good_machine_ends_on_a_good_word() -> None:
    assert doctor.text([Check("short", OK, "fine")]).splitlines()[-1] == "everything is fine"


def test_machine_without_views_is_told_how_to_share_layers() -> None:
    check = judge(shared=False)["shared layers"]
    assert (check.state, check.mend) == (WARNING, "dockless --state-dir /home/ci/.local/share/dockless setup --account ci")
