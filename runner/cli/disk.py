"""`dockless gc` and `dockless df`: what they print."""

import json
import sys
from typing import Any

import click

from runner.cli import show
from runner.job import df as job_df
from runner.job import sweep
from runner.job.df import Row
from runner.job.gc_plan import Deletion
from runner.job.surroundings import Surroundings


def gc(around: Surroundings, *, high: int | None, low: int | None, dry_run: bool, as_json: bool) -> None:
    """Remove, or only list, what may go; without marks those of the configuration hold. Raises like sweep.collect."""
    limits = around.settings.gc
    limits = limits._replace(high=limits.high if high is None else high, low=limits.low if low is None else low)
    done: list[Deletion] = []

    def report(deletion: Deletion, size_bytes: int) -> None:
        done.append(deletion._replace(size_bytes=size_bytes))
        if not as_json:
            click.echo(f"removed {deletion.kind} {deletion.name}: {show.size(size_bytes)}, {deletion.reason}")

    if dry_run:
        done += sweep.plan(around, limits)
    else:
        sweep.collect(around, limits, report=report)
    freed = sum(deletion.size_bytes for deletion in done)
    if as_json:
        keys = ("kind", "name", "size", "reason")
        _print_json({"freed": freed, "dry_run": dry_run, "deletions": [dict(zip(keys, deletion, strict=False)) for deletion in done]})
        return
    if dry_run and done:
        cells = [[deletion.kind.value, deletion.name, show.size(deletion.size_bytes), deletion.reason] for deletion in done]
        click.echo(show.table(cells, ("kind", "name", "size", "reason")), nl=False)
    click.echo(f"{'would free' if dry_run else 'freed'} {show.size(freed)}")


def df(around: Surroundings, *, verbose: bool, as_json: bool) -> None:
    """Show sizes by kind, and how full the file system is."""
    found = job_df.look(around)
    if as_json:
        _print_json(
            {
                "kinds": [
                    {"kind": row.kind, "count": row.number, "size": row.size_bytes, "reclaimable": row.reclaimable_bytes}
                    for row in found.rows
                ],
                "details": [
                    {"kind": row.kind, "name": row.name, "size": row.size_bytes, "last_used": row.last_used, "in_use": row.in_use}
                    for row in found.details
                ],
                "total": sum(row.size_bytes for row in found.rows),
                "filesystem": {**found.usage._asdict(), "percent": round(found.usage.percent(), 1), "high": found.high, "low": found.low},
            }
        )
        return
    total = Row(
        "total",
        sum(row.number for row in found.rows),
        sum(row.size_bytes for row in found.rows),
        sum(row.reclaimable_bytes for row in found.rows),
    )
    cells = [[row.kind, str(row.number), show.size(row.size_bytes), show.size(row.reclaimable_bytes)] for row in (*found.rows, total)]
    click.echo(show.table(cells, ("kind", "count", "size", "reclaimable")))
    if verbose:
        cells = [
            [row.kind, row.name, show.size(row.size_bytes), show.age(row.last_used), "yes" if row.in_use else "no"] for row in found.details
        ]  # fmt: skip
        click.echo(show.table(cells, ("kind", "name", "size", "last_used", "in_use")))
    click.echo(
        f"The file system is {found.usage.percent():.0f} % full, {show.size(found.usage.available_bytes)} are free; "
        f"gc.high is {found.high} %, gc.low {found.low} %."
    )


def _print_json(value: Any) -> None:
    json.dump(value, sys.stdout, indent=2)
    click.echo()
