"""Carrying out a plan: each thing is looked at again, under its lock, before it goes; and one that cannot go keeps nothing else."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runner import config, errors, paths
from runner.image import blobs, images, layer_names, views
from runner.job import gc_plan, inventory, last_use, state, sweep
from runner.job.disk_usage import Usage
from runner.job.gc_plan import Deletion, Kind
from runner.job.state import JobState
from runner.job.surroundings import Surroundings
from runner.kernel import files, userns
from runner.model import Descriptor
from tests.support import stores, trees
from tests.support.defences import attack, without
from tests.support.images import build_image, file
from tests.support.layered import emptied, unpacked
from tests.support.locks import Holder

LIMITS = config.Gc(high=0, low=0)
NAME = "docker.io/library/app:1"


class Disk:
    """A store with an image, a volume and storage, all of them idle, and a plan to remove everything."""

    def __init__(self, store: paths.Store) -> None:
        self.store = store
        self.around = Surroundings(store, config.Settings(), trees.account())
        self.volume = store.build_user_volume("u", 0, "cache")
        self.storage = store.build_storage("u", "podman", 0)
        for path in (self.volume, self.storage):
            os.makedirs(path)
            Path(path, "file").write_bytes(bytes(50_000))
            last_use.mark(path)
        self.image = stores.add(store, build_image([[file("app", bytes(50_000))]]), NAME)
        images.add(store, NAME, self.image)
        self.layers = unpacked(store, self.image)
        self.plan = self.look()

    def look(self) -> tuple[Deletion, ...]:
        found = inventory.take(self.store, trees.account())
        return gc_plan.plan(found, LIMITS, Usage(1 << 62, 0), now=time.time())

    def carry_out(self, *deletions: Deletion) -> list[tuple[str, str]]:
        """Carry out the plan (or other deletions) and return what has gone."""
        done: list[tuple[str, str]] = []
        sweep.carry_out(deletions or self.plan, self.around, report=lambda each, _: done.append((each.kind.value, each.name)))
        return done

    def left(self) -> dict[str, bool]:
        return {
            "volume": os.path.isdir(self.volume), "storage": os.path.isdir(self.storage), "layer": self.layers[0].is_dir(),
            "image": images.find(self.store, NAME) is not None, "blobs": bool(stores.blobs(self.store)),
        }  # fmt: skip

    @contextmanager
    def job(self, key: str = "job", *, user: str = "u", slot: int = 0) -> Iterator[None]:
        """Have a job that is being made and has claimed a slot."""
        os.mkdir(self.store.job(key))
        with Holder(Path(self.store.job_lock(key))):
            state.save(self.store, JobState(key, trees.first_user()._replace(name=user), slot, None, state.NO_KEEPER, {}, {}, "", 0.0))
            yield


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with emptied(tmp_path / "store") as store:
        yield Disk(store)


def test_plan_that_nothing_speaks_against_is_carried_out_whole(disk: Disk) -> None:
    before = inventory.take(disk.store, trees.account()).size_bytes()
    assert disk.carry_out() == [(each.kind.value, each.name) for each in disk.plan]
    assert sum(each.size_bytes for each in disk.plan) == before
    assert not any(disk.left().values())
    assert inventory.take(disk.store, trees.account()) == inventory.Inventory()
    assert disk.carry_out() == []


def test_kinds_in_the_plan(disk: Disk) -> None:
    assert sorted({each.kind.value for each in disk.plan}) == ["blob", "image", "layer", "storage", "volume"]


def test_volume_and_storage_that_a_job_was_given_since_stay(disk: Disk) -> None:
    with disk.job():
        done = disk.carry_out()
    assert not {kind for kind, _ in done} & {"volume", "storage"}
    assert disk.left()["volume"] and disk.left()["storage"]


@pytest.mark.parametrize(("user", "slot"), [("u", 1), ("v", 0)])
def test_volume_of_another_slot_or_build_user_is_not_in_use(disk: Disk, user: str, slot: int) -> None:
    with disk.job(user=user, slot=slot):
        assert ("volume", "u/0/cache") in disk.carry_out()


def test_volume_that_a_job_had_and_gave_back_since_stays(disk: Disk) -> None:
    time.sleep(0.01)
    last_use.mark(disk.volume)
    assert {kind for kind, _ in disk.carry_out()} == {"image", "blob", "layer", "storage"}
    assert disk.left()["volume"]


def test_nothing_in_reach_of_a_job_with_an_unreadable_record_goes(disk: Disk) -> None:
    with disk.job():
        files.write_json(disk.store.job_state("job"), {"format": state.FORMAT + 1})
        assert disk.look() == ()
        disk.carry_out()
    assert disk.left()["volume"] and disk.left()["layer"]


def test_image_that_a_job_has_claimed_stays_whole(disk: Disk) -> None:
    claim = images.claim(disk.store, NAME)
    assert claim is not None
    assert {kind for kind, _ in disk.carry_out()} == {"volume", "storage"}
    assert {each.kind for each in disk.look()} == set()
    os.close(claim)
    assert disk.left()["image"] and disk.left()["layer"]


def test_image_that_was_used_since_stays_whole(disk: Disk) -> None:
    time.sleep(0.01)
    os.close(images.claim(disk.store, NAME) or -1)
    assert {kind for kind, _ in disk.carry_out()} == {"volume", "storage"}
    assert disk.left()["image"] and disk.left()["layer"]


def test_blob_and_layer_that_an_image_names_since_stay(disk: Disk) -> None:
    images.remove(disk.store, NAME)
    unnamed = disk.look()
    images.add(disk.store, NAME, disk.image)
    disk.carry_out(*(each for each in unnamed if each.kind in (Kind.BLOB, Kind.LAYER)))
    assert disk.left()["image"] and disk.left()["layer"]


def test_blob_that_a_pull_has_claimed_stays(disk: Disk) -> None:
    images.remove(disk.store, NAME)
    unnamed = disk.look()
    layer = disk.image.layers[0].blob
    with blobs.Claim(disk.store) as claim:
        claim.need(Descriptor("", layer.digest, layer.size), lambda offset: pytest.fail("it is there"))
        disk.carry_out(*unnamed)
        assert stores.blobs(disk.store) == {layer.digest}


def test_download_that_goes_on_stays_and_a_dead_one_goes(disk: Disk) -> None:
    going, dead = (Path(disk.store.partial_blob(f"sha256:{letter * 64}")) for letter in "ab")
    going.write_bytes(bytes(9000))
    dead.write_bytes(bytes(9000))
    unnamed = [each for each in disk.look() if each.kind is Kind.DOWNLOAD]
    assert len(unnamed) == 2
    with Holder(Path(f"{going}.lock")):
        assert disk.carry_out(*unnamed) == [("download", str(dead))]
        assert [each.name for each in disk.look() if each.kind is Kind.DOWNLOAD] == []
    assert going.exists()


def test_job_that_somebody_is_at_stays(disk: Disk) -> None:
    with disk.job():
        assert disk.carry_out(Deletion(Kind.JOB, "job", 0, "dead")) == []
    assert disk.carry_out(Deletion(Kind.JOB, "job", 0, "dead")) == [("job", "job")]


def test_what_a_killed_process_left_of_a_volume_goes_whoever_owns_it(disk: Disk) -> None:
    gone = Path(paths.gone(disk.volume))
    os.rename(disk.volume, gone)
    descriptor = os.open(gone, os.O_RDONLY)

    def plant() -> None:
        os.mkdir("private", 0o700, dir_fd=descriptor)
        os.chown("private", 5, 5, dir_fd=descriptor)

    userns.call(trees.keeper(), plant)
    os.close(descriptor)
    assert ("rest", str(gone)) in disk.carry_out(*disk.look())
    assert os.listdir(disk.store.volumes) == ["u"]  # a stamp without its volume, which belongs to nobody


def test_young_temporary_files_stay_and_old_ones_go(disk: Disk) -> None:
    young, old = Path(disk.store.images, ".a.json.1.0123"), Path(disk.store.images, ".b.json.1.0123")
    young.touch()
    old.touch()
    os.utime(old, (time.time() - 7200,) * 2)
    assert [each.name for each in disk.look() if each.kind is Kind.REST] == [str(old)]


def test_what_is_left_of_layers_goes_and_what_is_being_unpacked_stays(disk: Disk) -> None:
    directory = disk.layers[0].parent
    for name in (".dead.0123", ".going.0123", ".trash.x.0123", "f" * 24):
        (directory / name).mkdir()
        (directory / name / "file").write_bytes(bytes(5000))
    disk.layers[0].with_suffix(".seal").unlink()
    with Holder(directory / ".going.lock"):
        plan = disk.look()
        rests = [each for each in plan if each.reason == "it is not whole"]
        assert {each.name.partition("/")[2] for each in rests} == {".dead.0123", ".trash.x.0123", "f" * 24, disk.layers[0].name}
        assert all(each.size_bytes >= 5000 for each in rests)
        disk.carry_out(*plan)
        assert {path.name for path in directory.iterdir()} == {"map.json", ".going.lock", ".going.0123"}


def test_layer_that_a_pull_has_claimed_stays(disk: Disk) -> None:
    images.remove(disk.store, NAME)
    plan = disk.look()
    with Holder(disk.layers[0].parent / f".{disk.layers[0].name}.lock", "shared"):
        assert "layer" not in {kind for kind, _ in disk.carry_out(*plan)}
        assert "layer" not in {each.kind.value for each in disk.look()}


@attack(
    52,
    without("runner/job/sweep.py", "used=lambda: live.look(store).layers()", "used=set"),
)
def test_layer_that_a_job_uses_stays_and_no_other(disk: Disk) -> None:
    (other,) = unpacked(disk.store, stores.add(disk.store, build_image([[file("other", bytes(50_000))]])))
    with disk.job():
        job = state.load(disk.store, "job")
        assert job
        state.save(disk.store, job._replace(layers=(f"{other.parent.name}/{other.name}",)))
        assert "layer" in {kind for kind, _ in disk.carry_out()}
        assert f"{other.parent.name}/{other.name}" not in {each.name for each in disk.look()}
        disk.carry_out(Deletion(Kind.LAYER, f"{other.parent.name}/{other.name}", 0, "a plan from before"))
    assert other.is_dir() and not disk.layers[0].exists()


def test_blob_whose_layer_is_shared_goes_first_and_its_image_can_still_be_used(disk: Disk) -> None:
    views.share(disk.store, trees.isolated())
    before = inventory.take(disk.store, trees.account()).size_bytes()
    spare = disk.look()[0]
    assert (spare.kind, spare.name) == (Kind.SPARE, disk.image.layers[0].blob.digest)
    assert disk.carry_out(spare) == [("spare blob", spare.name)]
    assert before - inventory.take(disk.store, trees.account()).size_bytes() == spare.size_bytes
    assert len(stores.blobs(disk.store)) == 2
    assert images.find(disk.store, NAME) == disk.image
    assert layer_names.read_seal(disk.store, disk.layers[0].parent.name, disk.layers[0].name).settled


def test_spare_blob_whose_layer_has_gone_meanwhile_stays(disk: Disk) -> None:
    views.share(disk.store, trees.isolated())
    spare = disk.look()[0]
    disk.layers[0].with_suffix(".seal").unlink()
    assert disk.carry_out(spare) == []
    assert images.find(disk.store, NAME) == disk.image


def test_what_has_gone_meanwhile_is_fine(disk: Disk) -> None:
    plan = disk.plan
    disk.carry_out()
    assert disk.carry_out(*plan) == []


def test_one_that_cannot_go_is_named_and_keeps_nothing_else(disk: Disk) -> None:
    os.chmod(os.path.dirname(disk.volume), 0o500)
    done: list[str] = []
    with pytest.raises(errors.InfraError, match="Permission denied") as caught:
        sweep.carry_out(disk.plan, disk.around, report=lambda each, _: done.append(each.kind.value))
    os.chmod(os.path.dirname(disk.volume), 0o700)
    assert caught.value.hint and disk.volume in caught.value.message
    assert set(done) == {"image", "blob", "layer", "storage"}
    assert disk.left()["volume"]


def test_only_one_collector_runs_at_a_time(disk: Disk) -> None:
    with Holder(Path(disk.store.gc_lock)):
        assert sweep.collect(disk.around, LIMITS, report=lambda each, _: None, wait=False) is False
    assert all(disk.left().values())
    assert sweep.collect(disk.around, LIMITS, report=lambda each, _: None, wait=False) is True
    assert not any(disk.left().values())


def test_no_descriptor_and_no_lock_stays(disk: Disk) -> None:
    before = len(os.listdir("/proc/self/fd"))
    Path(disk.store.job_lock("never")).touch()
    Path(f"{disk.store.partial_blob('sha256:' + 'c' * 64)}.lock").touch()
    sweep.collect(disk.around, LIMITS, report=lambda each, _: None)
    assert len(os.listdir("/proc/self/fd")) == before
    assert os.listdir(disk.store.jobs) == os.listdir(disk.store.partial) == []


def test_names_that_are_not_ours_are_left_alone(disk: Disk) -> None:
    strange = Path(disk.store.volumes, "u", "0", "not ours")
    strange.mkdir()
    Path(disk.store.volumes, "u", "x").mkdir()
    Path(disk.store.storage, "notes").touch()
    disk.carry_out(*disk.look())
    assert strange.is_dir()


def test_store_without_anything_is_an_empty_inventory(tmp_path: Path) -> None:
    store = paths.Store(str(tmp_path))
    assert inventory.take(store, trees.account()) == inventory.Inventory()
