"""What registries let a tenant have, on disk: for a while, for these credentials, and never a secret."""

import json
import stat
from multiprocessing import get_context
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import paths
from runner.image import auth, grants
from tests.support import stores
from tests.support.defences import attack, without

A = auth.Credentials("me", "s3cret", source="$DOCKER_AUTH_CONFIG")
DIGEST = "sha256:" + "a" * 64
NOW = 1_000_000.0


@pytest.fixture
def store(tmp_path: Path) -> paths.Store:
    return stores.make(tmp_path / "store")


def grant(
    store: paths.Store, name: str = "r.example/app:1", digest: str = DIGEST, credentials: auth.Credentials | None = A
) -> grants.Grant:
    return grants.Grant(name, digest, grants.mark(store, [credentials]))


def test_grant_is_remembered_until_its_time_is_over(store: paths.Store) -> None:
    grants.remember(store, "a", grant(store), ttl_s=60, now=NOW)
    assert grants.is_remembered(store, "a", grant(store), ttl_s=60, now=NOW)
    assert grants.is_remembered(store, "a", grant(store), ttl_s=60, now=NOW + 59)
    assert not grants.is_remembered(store, "a", grant(store), ttl_s=60, now=NOW + 60)
    assert not grants.is_remembered(store, "a", grant(store), ttl_s=5, now=NOW + 6)


@attack(
    51,
    without("runner/image/grants.py", "0 <= now - entry[3] < ttl_s", "now - entry[3] < ttl_s"),
)
def test_grant_of_the_future_is_none(store: paths.Store) -> None:
    grants.remember(store, "a", grant(store), ttl_s=60, now=NOW)
    assert not grants.is_remembered(store, "a", grant(store), ttl_s=60, now=NOW - 1)


def test_grant_is_for_one_tenant_one_name_one_digest_and_the_same_credentials(store: paths.Store) -> None:
    grants.remember(store, "a", grant(store), ttl_s=60, now=NOW)
    assert not grants.is_remembered(store, "b", grant(store), ttl_s=60, now=NOW)
    others = [
        grant(store, name="r.example/app:2"),
        grant(store, digest="sha256:" + "b" * 64),
        grant(store, credentials=None),
        grant(store, credentials=A._replace(username="you")),
        grant(store, credentials=A._replace(password="other")),
        grant(store, credentials=A._replace(identity_token="token")),
    ]
    assert [other for other in others if grants.is_remembered(store, "a", other, ttl_s=60, now=NOW)] == []


def test_where_credentials_come_from_does_not_matter(store: paths.Store) -> None:
    assert grants.mark(store, [A]) == grants.mark(store, [A._replace(source="elsewhere")])
    assert grants.mark(store, [None]) != grants.mark(store, [None, None])


def test_mark_is_another_in_every_store(tmp_path: Path) -> None:
    one, two = stores.make(tmp_path / "one"), stores.make(tmp_path / "two")
    assert grants.mark(one, [A]) == grants.mark(one, [A])
    assert grants.mark(one, [A]) != grants.mark(two, [A])


def test_files_are_private_and_hold_no_secret(store: paths.Store) -> None:
    grants.remember(store, "a", grant(store), ttl_s=60, now=NOW)
    assert stat.S_IMODE(Path(store.access).stat().st_mode) == 0o700
    for path in (store.tenant_access("a"), store.access_key):
        assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600
    text = Path(store.tenant_access("a")).read_text()
    assert "s3cret" not in text
    assert '"me"' not in text


def test_nothing_is_written_where_nothing_is_to_be_remembered(store: paths.Store) -> None:
    grants.remember(store, "a", grant(store), ttl_s=0, now=NOW)
    assert not Path(store.tenant_access("a")).exists()


def test_expired_entries_are_dropped_and_the_newest_stay(store: paths.Store) -> None:
    for number in range(1010):
        grants.remember(store, "a", grants.Grant(f"n{number}", DIGEST, "m"), ttl_s=1e6, now=NOW + number)
    assert [entry[0] for entry in json.loads(Path(store.tenant_access("a")).read_text())["grants"]] == [f"n{n}" for n in range(10, 1010)]
    grants.remember(store, "a", grants.Grant("n1009", DIGEST, "m"), ttl_s=1e6, now=NOW + 2000)
    assert json.loads(Path(store.tenant_access("a")).read_text())["grants"][-2:] == [
        ["n1008", DIGEST, "m", NOW + 1008],
        ["n1009", DIGEST, "m", NOW + 2000],
    ]
    grants.remember(store, "a", grants.Grant("new", DIGEST, "m"), ttl_s=10, now=NOW + 5000)
    assert [entry[0] for entry in json.loads(Path(store.tenant_access("a")).read_text())["grants"]] == ["new"]


@given(
    st.binary(max_size=60)
    | st.sampled_from([b"[]", b"{}", b'{"format": 1, "grants": [[]]}', b'{"format": 1, "grants": [7, "abcd", null]}'])
)
def test_whatever_is_in_the_file_nobody_is_let_in(raw: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as root:
        store = stores.make(Path(root) / "store")
        key = grant(store)
        Path(store.tenant_access("a")).write_bytes(raw)
        assert not grants.is_remembered(store, "a", key, ttl_s=60, now=NOW)
        grants.remember(store, "a", key, ttl_s=60, now=NOW)
        assert grants.is_remembered(store, "a", key, ttl_s=60, now=NOW)


def test_record_of_another_format_is_none(store: paths.Store) -> None:
    key = grant(store)
    Path(store.tenant_access("a")).write_text(json.dumps({"format": 2, "grants": [[*key, NOW]]}))
    assert not grants.is_remembered(store, "a", key, ttl_s=60, now=NOW)


@pytest.mark.parametrize("raw", [b"", b"short", b"x" * 33])
def test_key_that_is_none_is_made_again(store: paths.Store, raw: bytes) -> None:
    grants.mark(store, [A])
    Path(store.access_key).write_bytes(raw)
    assert grants.mark(store, [A]) == grants.mark(store, [A])
    assert len(Path(store.access_key).read_bytes()) == 32


def test_store_that_cannot_be_written_remembers_nothing_and_fails_nobody(tmp_path: Path) -> None:
    store = paths.Store(str(tmp_path / "none"))
    assert grants.mark(store, [A]) == ""
    unmarked = grants.Grant("n", DIGEST, "")
    grants.remember(store, "a", unmarked, ttl_s=60, now=NOW)
    grants.remember(store, "a", unmarked._replace(mark="m"), ttl_s=60, now=NOW)
    assert not grants.is_remembered(store, "a", unmarked, ttl_s=60, now=NOW)


def test_grant_without_a_mark_counts_for_nobody(store: paths.Store) -> None:
    unmarked = grants.Grant("n", DIGEST, "")
    Path(store.access).mkdir()
    Path(store.tenant_access("a")).write_text(json.dumps({"format": 1, "grants": [[*unmarked, NOW]]}))
    assert not grants.is_remembered(store, "a", unmarked, ttl_s=60, now=NOW)


def _remember_many(root: str, number: int) -> None:
    store = paths.Store(root)
    for turn in range(20):
        grants.remember(store, "a", grant(store, name=f"{number}/{turn}"), ttl_s=60, now=NOW)


def test_grants_that_are_noted_side_by_side_are_all_kept(store: paths.Store) -> None:
    context = get_context("fork")
    processes = [context.Process(target=_remember_many, args=(store.root, number)) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert {process.exitcode for process in processes} == {0}
    assert all(
        grants.is_remembered(store, "a", grant(store, name=f"{number}/{turn}"), ttl_s=60, now=NOW)
        for number in range(4)
        for turn in range(20)
    )
