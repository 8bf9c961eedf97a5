"""One copy of an image for all build users: the first container of a tenant that is new, against the warm start of one that is not."""

import itertools

from benchmarks import images
from benchmarks.dockless import Dockless
from benchmarks.measure import Measured, Result, alternate, median, ratio, settle

_MIB = 1024**2


def second(dockless: Dockless, made: images.Made, host: str, *, rounds: int) -> Measured:
    """Start the big image for build users that never had it; each new one counts once."""
    image = f"{host}/{images.BIG}"
    dockless.pull(image)
    numbers = itertools.count(1)
    first = ("--build-user", "tenant-0")
    dockless.one_off(image, *first)
    used: list[int] = []

    def new() -> float:
        before = dockless.disk_usage()
        settle()
        seconds = dockless.one_off(image, "--build-user", f"tenant-{next(numbers)}")
        used.append(dockless.disk_usage() - before)
        return seconds

    # without shared layers every tenant unpacks the whole image: once tells enough
    is_shared = dockless.still_shared()
    count = rounds if is_shared else 1
    samples = alternate({"warm": lambda: dockless.one_off(image, *first), "new": new}, rounds=count, warm_ups=0)
    what = f"`dockless run --build-user NEW` of the stored image of {made.size_bytes / 1e6:.0f} MB / the same for a build user that had it"
    if not is_shared:
        what += "; without `dockless setup`: each build user unpacks"
    new_mib = median(used) / _MIB
    disk = f"new disk of a new build user's first container, in MiB; the image unpacked has {made.size_bytes / _MIB:.0f}"
    spread = f"{min(used) / _MIB:.2f}–{max(used) / _MIB:.2f} MiB"
    return Measured(
        (
            ratio("second_tenant_vs_warm", what, samples["new"], samples["warm"], label="warm", target=1.2),
            Result("second_tenant_new_mib", disk, new_mib, 1.0, f"{new_mib:.2f} MiB", "", spread),
        )
    )
