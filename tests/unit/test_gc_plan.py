"""Plans of the collector, as values: what goes, in which order, where it stops, and what never goes."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.config import Gc
from runner.job import df, gc_plan
from runner.job.disk_usage import Usage
from runner.job.gc_plan import Deletion, Kind
from runner.job.inventory import Blob, Image, Inventory, Job, Kept, Layer, Rest

DAY = 86400.0
NOW = 1000 * DAY
DEFAULT = Gc()
ROOMY, FULL = Usage(50, 50), Usage(1000, 0)


def image(name: str, *, blobs: str = "", layers: str = "", days: float = 0, in_use: bool = False) -> Image:
    """Return an image whose blobs and layers have names of one letter."""
    return Image(name, 1, NOW - days * DAY, frozenset(blobs), frozenset(layers), in_use)


def volume(name: str, size: int = 10, *, days: float = 0, in_use: bool = False, user: str = "u", engine: str = "") -> Kept:
    return Kept(user, 0, name, f"/{user}/0/{name}", size, NOW - days * DAY, in_use, engine)


def blobs(names: str, **more: bool) -> tuple[Blob, ...]:
    return tuple(Blob(name, 10, **more) for name in names)


def layers(names: str, **more: bool) -> tuple[Layer, ...]:
    return tuple(Layer("s1", name, 100, **more) for name in names)


def plan(found: Inventory, usage: Usage = ROOMY, limits: Gc = DEFAULT) -> list[tuple[str, str]]:
    return [(each.kind.value, each.name) for each in gc_plan.plan(found, limits, usage, now=NOW)]


def reasons(found: Inventory, usage: Usage = ROOMY, limits: Gc = DEFAULT) -> list[str]:
    return [each.reason for each in gc_plan.plan(found, limits, usage, now=NOW)]


# --- what goes whatever the disk


def test_store_in_order_has_nothing_to_lose() -> None:
    found = Inventory(
        images=(image("i", blobs="ab", layers="xy", days=500),), blobs=blobs("ab"), layers=layers("xy"),
        volumes=(volume("v"),), storage=(volume("0", engine="podman"),), jobs=(Job("alive", 7, False),),
    )  # fmt: skip
    assert plan(found) == []


def test_what_crashes_left_goes_first_and_always() -> None:
    found = Inventory(
        jobs=(Job("dead", 7, True), Job("alive", 7, False)),
        rests=(Rest("/store/.x", 1), Rest("/store/.y", 1, in_use=True)),
        downloads=(Rest("/p/1", 5), Rest("/p/2", 5, in_use=True)),
        layers=(Layer("s1", ".half", 3, is_whole=False), Layer("s1", ".growing", 3, in_use=True, is_whole=False)),
    )
    assert plan(found) == [("job", "dead"), ("rest", "/store/.x"), ("download", "/p/1"), ("layer", "s1/.half")]


def test_what_no_image_names_goes_unless_it_is_in_use() -> None:
    found = Inventory(
        images=(image("i", blobs="a", layers="x"),),
        blobs=(*blobs("ab"), *blobs("c", in_use=True)),
        layers=(*layers("xy"), *layers("z", in_use=True)),
    )
    assert plan(found) == [("blob", "b"), ("layer", "s1/y")]
    assert set(reasons(found)) == {"no stored image names it"}


def test_volumes_have_an_age_and_storage_has_its_own() -> None:
    found = Inventory(
        volumes=(volume("old", days=11), volume("young", days=9), volume("busy", days=99, in_use=True)),
        storage=(volume("0", days=11, engine="podman"), volume("0", days=6, engine="docker")),
    )
    limits = Gc(volumes_max_age=10 * int(DAY), storage_max_age=12 * int(DAY))
    assert plan(found, limits=limits) == [("volume", "u/0/old")]
    assert reasons(found, limits=limits) == ["last used 11 d ago: gc.volumes_max_age is 10 d"]
    assert plan(found, limits=Gc(storage_max_age=10 * int(DAY))) == [("storage", "u/podman/0")]
    assert plan(found, limits=Gc(volumes_max_age=0, storage_max_age=0)) == []


def test_each_build_user_keeps_what_it_used_last() -> None:
    found = Inventory(
        volumes=(
            volume("a", 60, days=1), volume("b", 60, days=3), volume("c", 60, days=2), volume("d", 60, days=9, in_use=True),
            volume("e", 150, days=20, user="other"),
        )
    )  # fmt: skip
    assert plan(found, limits=Gc(volumes_max_size=150)) == [("volume", "u/0/b"), ("volume", "u/0/c")]
    assert reasons(found, limits=Gc(volumes_max_size=239)) == ["build user u has more than gc.volumes_max_size"]
    assert plan(found, limits=Gc(volumes_max_size=240)) == plan(found, limits=Gc(volumes_max_size=0)) == []


# --- above the high mark


@pytest.mark.parametrize(("used", "goes"), [(850, False), (851, True)])
def test_mark_has_to_be_exceeded(used: int, goes: bool) -> None:
    assert bool(plan(Inventory(volumes=(volume("v"),)), Usage(used, 1000 - used))) is goes


def test_images_volumes_and_storage_go_together_by_last_use() -> None:
    found = Inventory(
        images=(image("new", days=1), image("old", days=9), image("used", days=99, in_use=True)),
        volumes=(volume("v", days=5), volume("w", days=2)),
        storage=(volume("0", days=3, engine="podman"),),
    )
    assert plan(found, FULL) == [
        ("image", "old"), ("volume", "u/0/v"), ("storage", "u/podman/0"), ("volume", "u/0/w"), ("image", "new"),
    ]  # fmt: skip
    assert reasons(found, FULL)[0] == "the disk is fuller than 85 %; last used 9 d ago"


def test_it_stops_as_soon_as_the_low_mark_is_reached() -> None:
    found = Inventory(volumes=tuple(volume(str(day), 100, days=day) for day in range(9)))
    assert plan(found, Usage(900, 100)) == [("volume", "u/0/8"), ("volume", "u/0/7")]
    assert len(plan(found, Usage(900, 100), Gc(high=80, low=80))) == 1
    assert len(plan(found, Usage(900, 100), Gc(high=50, low=70))) == 4


def test_what_goes_anyhow_counts_for_the_low_mark() -> None:
    found = Inventory(jobs=(Job("dead", 150, True),), volumes=(volume("a", 60, days=2), volume("b", 60, days=1)))
    assert plan(found, Usage(900, 100)) == [("job", "dead"), ("volume", "u/0/a")]


def test_image_takes_along_what_only_it_needs() -> None:
    found = Inventory(
        images=(image("a", blobs="mb", layers="xy", days=3), image("b", blobs="nb", layers="yz", days=2)),
        blobs=blobs("bmn"), layers=layers("xyz"),
    )  # fmt: skip
    first = [("image", "a"), ("blob", "m"), ("layer", "s1/x")]
    assert plan(found, FULL, Gc(high=95, low=90)) == first
    assert plan(found, FULL, Gc(low=0)) == [
        *first, ("image", "b"), ("blob", "b"), ("blob", "n"), ("layer", "s1/y"), ("layer", "s1/z"),
    ]  # fmt: skip
    assert reasons(found, FULL)[1] == "only image a needs it"


def test_layer_below_a_running_container_stays_when_its_image_goes() -> None:
    found = Inventory(
        images=(image("a", blobs="m", layers="xy"),), blobs=blobs("m", in_use=True), layers=(*layers("x"), *layers("y", in_use=True))
    )
    assert plan(found, FULL) == [("image", "a"), ("layer", "s1/x")]


def test_blobs_whose_layers_are_unpacked_go_before_any_image() -> None:
    found = Inventory(
        images=(image("a", blobs="mb", days=3), image("b", blobs="nbc", days=2)),
        blobs=(*blobs("mn"), *blobs("b", is_spare=True), *blobs("c", is_spare=True, in_use=True)),
        volumes=(volume("v", days=99),),
    )  # fmt: skip
    everything = plan(found, FULL, Gc(volumes_max_age=0))
    assert everything == [("spare blob", "b"), ("volume", "u/0/v"), ("image", "a"), ("blob", "m"), ("image", "b"), ("blob", "n")]


# --- what holds for every store

SIZES = st.integers(0, 50)
NAMES = "abcdefgh"
FLAGS = st.booleans()
TIMES = st.integers(0, 60).map(lambda days: NOW - days * DAY)
SETS = st.frozensets(st.sampled_from(NAMES))


def unique(values: Iterable[Kept]) -> tuple[Kept, ...]:
    return tuple({gc_plan.name_of(each): each for each in values}.values())


def kept(engines: str) -> st.SearchStrategy[tuple[Kept, ...]]:
    one = st.builds(
        Kept, st.sampled_from("uv"), st.integers(0, 1), st.sampled_from(NAMES), st.just("/"), SIZES, TIMES, FLAGS, st.sampled_from(engines)
    )
    return st.lists(one, max_size=8).map(unique)


INVENTORIES = st.builds(
    Inventory,
    images=st.lists(st.builds(Image, st.sampled_from("IJKLMN"), SIZES, TIMES, SETS, SETS, FLAGS), unique_by=lambda each: each.name).map(
        tuple
    ),
    blobs=st.lists(st.builds(Blob, st.sampled_from(NAMES), SIZES, FLAGS, FLAGS), unique_by=lambda each: each.digest).map(tuple),
    layers=st.lists(
        st.builds(Layer, st.sampled_from(["s1", "s2"]), st.sampled_from(NAMES), SIZES, FLAGS, FLAGS), unique_by=lambda each: each[:2]
    ).map(tuple),
    volumes=kept([""]),  # type: ignore[arg-type]  # a sequence of texts like any other
    storage=kept("pq"),
    jobs=st.lists(st.builds(Job, st.sampled_from(NAMES), SIZES, FLAGS), unique_by=lambda each: each.key).map(tuple),
    downloads=st.lists(st.builds(Rest, st.sampled_from(NAMES), SIZES, FLAGS), unique_by=lambda each: each.path).map(tuple),
    rests=st.just(()),  # as downloads
)
MARKS = st.tuples(st.integers(0, 100), st.integers(0, 100)).map(sorted)
LIMITS = st.builds(
    lambda marks, ages, sizes: Gc(marks[1], marks[0], *(n for pair in zip(ages, sizes, strict=True) for n in pair)),
    MARKS, st.tuples(*[st.sampled_from([0, 10 * 86400])] * 2), st.tuples(*[st.sampled_from([0, 60])] * 2),
)  # fmt: skip
USAGES = st.builds(Usage, st.integers(600, 3000), st.integers(0, 3000))


def members(found: Inventory) -> dict[tuple[Kind, str], tuple[int, bool]]:
    """Return what there is by kind and name, with its size and whether it may go."""
    return {
        **{(Kind.IMAGE, each.name): (each.size_bytes, not each.in_use) for each in found.images},
        **{(kind, each.digest): (each.size_bytes, not each.in_use) for each in found.blobs for kind in (Kind.BLOB, Kind.SPARE)},
        **{(Kind.LAYER, f"{each.map_name}/{each.name}"): (each.size_bytes, not each.in_use) for each in found.layers},
        **{(Kind.VOLUME, gc_plan.name_of(each)): (each.size_bytes, not each.in_use) for each in found.volumes},
        **{(Kind.STORAGE, gc_plan.name_of(each)): (each.size_bytes, not each.in_use) for each in found.storage},
        **{(Kind.JOB, each.key): (each.size_bytes, each.is_dead) for each in found.jobs},
        **{(Kind.DOWNLOAD, each.path): (each.size_bytes, not each.in_use) for each in found.downloads},
    }


def without(found: Inventory, deletions: Iterable[Deletion]) -> Inventory:
    """Return what is left after a plan was carried out."""
    gone = {(each.kind, each.name) for each in deletions}

    def left(kind: Kind, name: str) -> bool:
        return (kind, name) not in gone

    return Inventory(
        images=tuple(each for each in found.images if left(Kind.IMAGE, each.name)),
        blobs=tuple(each for each in found.blobs if left(Kind.BLOB, each.digest) and left(Kind.SPARE, each.digest)),
        layers=tuple(each for each in found.layers if left(Kind.LAYER, f"{each.map_name}/{each.name}")),
        volumes=tuple(each for each in found.volumes if left(Kind.VOLUME, gc_plan.name_of(each))),
        storage=tuple(each for each in found.storage if left(Kind.STORAGE, gc_plan.name_of(each))),
        jobs=tuple(each for each in found.jobs if left(Kind.JOB, each.key)),
        downloads=tuple(each for each in found.downloads if left(Kind.DOWNLOAD, each.path)),
    )


@given(INVENTORIES, LIMITS, USAGES)
def test_only_what_is_there_and_not_in_use_is_chosen_once_with_its_size(found: Inventory, limits: Gc, usage: Usage) -> None:
    there = members(found)
    chosen = gc_plan.plan(found, limits, usage, now=NOW)
    assert all(there[each.kind, each.name] == (each.size_bytes, True) for each in chosen)
    things = [("blob" if each.kind is Kind.SPARE else each.kind, each.name) for each in chosen]
    assert len(set(things)) == len(things)
    assert all(each.reason for each in chosen)


@given(INVENTORIES, LIMITS, USAGES)
def test_no_image_that_stays_loses_what_cannot_be_made_again(found: Inventory, limits: Gc, usage: Usage) -> None:
    chosen = gc_plan.plan(found, limits, usage, now=NOW)
    left = without(found, chosen)
    needed = {digest for each in left.images for digest in each.blobs}
    assert not needed & {each.name for each in chosen if each.kind is Kind.BLOB}
    layers_needed = {name for each in left.images for name in each.layers}
    whole = {f"{each.map_name}/{each.name}" for each in found.layers if each.is_whole}
    assert not layers_needed & {each.name.partition("/")[2] for each in chosen if each.kind is Kind.LAYER and each.name in whole}


@given(INVENTORIES, LIMITS, USAGES)
def test_what_the_mark_costs_is_what_was_used_longest_ago_and_no_more(found: Inventory, limits: Gc, usage: Usage) -> None:
    chosen = gc_plan.plan(found, limits, usage, now=NOW)
    anyhow = gc_plan.plan(found, limits, Usage(0, 1), now=NOW)
    assert chosen[: len(anyhow)] == anyhow
    more = chosen[len(anyhow) :]
    assert not more or usage.is_above(limits.high)
    whole = [each for each in more if each.kind not in (Kind.BLOB, Kind.LAYER, Kind.SPARE)]
    assert [each.last_used for each in whole] == sorted(each.last_used for each in whole)
    if whole:
        last = chosen.index(whole[-1])
        assert usage.is_above(limits.low, freed_bytes=sum(each.size_bytes for each in chosen[:last]))
        stay = without(found, chosen)
        idle = [each.last_used for each in stay.images if not each.in_use]
        idle += [each.last_used for each in (*stay.volumes, *stay.storage) if not each.in_use]
        assert all(at >= whole[-1].last_used for at in idle)


@given(INVENTORIES, LIMITS, USAGES)
def test_after_a_plan_there_is_nothing_more_to_plan(found: Inventory, limits: Gc, usage: Usage) -> None:
    chosen = gc_plan.plan(found, limits, usage, now=NOW)
    freed = sum(each.size_bytes for each in chosen)
    assert gc_plan.plan(without(found, chosen), limits, Usage(usage.used_bytes - freed, usage.available_bytes + freed), now=NOW) == ()


@given(INVENTORIES)
def test_rows_add_up_to_everything_and_say_what_can_be_freed(found: Inventory) -> None:
    rows = df.rows(found, now=NOW)
    assert sum(row.size_bytes for row in rows) == found.size_bytes()
    everything = gc_plan.everything(found, now=NOW)
    assert sum(row.reclaimable_bytes for row in rows) == sum(each.size_bytes for each in everything)
    assert sum(row.number for row in rows) == sum(len(part) for part in found)
    assert not [each for each in without(found, everything).volumes if not each.in_use]
