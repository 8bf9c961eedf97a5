"""Subordinate ids and the arithmetic of id maps; and one real user namespace."""

import os
import pwd
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import model
from runner.kernel import userns
from runner.kernel.userns import Range
from runner.model import Account, BuildUser, Extent, IdMap
from tests.support.engine import children

ACCOUNT = Account("ci", 1000, 1001, "/home/ci")
USER = BuildUser("project", 0, 200000, 400000)


def test_ranges_are_found_by_name_and_by_number_in_file_order(tmp_path: Path) -> None:
    (tmp_path / "subuid").write_text("other:100000:65536\nci:300000:65536\n1000:200000:131072\n")
    assert userns.subordinate_ranges("ci", 1000, str(tmp_path / "subuid")) == (Range(300000, 65536), Range(200000, 131072))


@pytest.mark.parametrize(
    "line",
    ["", "# ci:1:2", "ci", "ci:1", "ci:1:2:3", "ci:x:5", "ci:-5:5", "ci:²:5", "ci:1:²", "ci:4294967295:1", "ci:1:99999999999999999999"],
)
def test_lines_that_make_no_sense_grant_nothing(tmp_path: Path, line: str) -> None:
    (tmp_path / "subuid").write_text(f"{line}\nci:300000:65536\n")
    assert userns.subordinate_ranges("ci", 1000, str(tmp_path / "subuid")) == (Range(300000, 65536),)


def test_a_missing_file_grants_nothing(tmp_path: Path) -> None:
    assert userns.subordinate_ranges("ci", 1000, str(tmp_path / "subuid")) == ()
    assert userns.first_free_id(str(tmp_path / "subuid")) == 0


def test_first_free_id_is_above_everybodys(tmp_path: Path) -> None:
    (tmp_path / "subuid").write_text("other:500000:65536\nci:300000:65536\n")
    assert userns.first_free_id(str(tmp_path / "subuid")) == 565536


def host_id(extents: tuple[Extent, ...], inside: int) -> int | None:
    found = [e.outside + inside - e.inside for e in extents if e.inside <= inside < e.inside + e.count]
    assert len(found) <= 1
    return found[0] if found else None


@given(st.integers(0, 65535), st.integers(0, 65535))
def test_a_container_id_means_the_same_host_id_through_the_keeper(shared: int, probe: int) -> None:
    keeper = USER.keeper_map(ACCOUNT)
    for container in (USER.isolated_map(), USER.shared_map(ACCOUNT, container_id=shared)):
        inner = userns.relative(container, keeper)
        for direct, first, second in ((container.uids, inner.uids, keeper.uids), (container.gids, inner.gids, keeper.gids)):
            seen_by_keeper = host_id(first, probe)
            assert seen_by_keeper is not None
            assert host_id(second, seen_by_keeper) == host_id(direct, probe)


def test_ids_that_the_outer_namespace_lacks_are_refused() -> None:
    outer = IdMap((Extent(0, 1000, 10),), (Extent(0, 1000, 10),))
    inner = IdMap((Extent(0, 1005, 6),), (Extent(0, 1000, 1),))
    with pytest.raises(ValueError, match=r"1005\+6"):
        userns.relative(inner, outer)


def own_map() -> IdMap:
    name = pwd.getpwuid(os.getuid()).pw_name
    uids, gids = (userns.subordinate_ranges(name, os.getuid(), f"/etc/{file}")[0] for file in ("subuid", "subgid"))
    account = Account(name, os.getuid(), os.getgid(), "/")
    return BuildUser("test", 0, uids.start, gids.start).keeper_map(account)


def test_call_runs_as_root_of_the_mapped_ids_and_files_tell(tmp_path: Path) -> None:
    def inside() -> list[object]:
        made = tmp_path / "file"
        made.write_bytes(b"")
        os.chown(made, 1, 2)
        return [os.getuid(), os.getgroups(), os.getpid() != parent]

    parent = os.getpid()
    id_map = own_map()
    assert userns.call(id_map, inside) == [0, [], True]
    info = (tmp_path / "file").stat()
    assert (info.st_uid, info.st_gid) == (id_map.uids[1].outside, id_map.gids[1].outside + 1)


def test_call_with_ids_that_are_not_ours_says_what_newuidmap_said() -> None:
    with pytest.raises(OSError, match="newuidmap"):
        userns.call(IdMap((Extent(0, 1, 10),), (Extent(0, 1, 10),)), os.getuid)


def test_call_leaks_neither_children_nor_descriptors() -> None:
    before = os.listdir("/proc/self/fd"), children()
    userns.call(own_map(), os.getuid)
    assert (os.listdir("/proc/self/fd"), children()) == before


def test_a_whole_slice_is_mapped() -> None:
    def last_id_works() -> bool:
        os.setresuid(model.IDS_PER_BUILD_USER, model.IDS_PER_BUILD_USER, model.IDS_PER_BUILD_USER)
        return True

    assert userns.call(own_map(), last_id_works)
