"""`dockless verify`: what was checked, what was mended, and what is still broken."""

from collections.abc import Mapping

import click

from runner import log
from runner.image import auth, fetch
from runner.job import verify
from runner.job.surroundings import Surroundings
from runner.model import IdMap, Image
from runner.sandbox import build_users


def main(around: Surroundings, environ: Mapping[str, str]) -> int:
    """Check the whole store and print what came of it; 1 if something is still broken."""
    keychain = auth.Keychain.of_account(around.account.home, environ)
    local = build_users.lease(around.store, around.account, build_users.LOCAL).isolated_map()

    def bring(name: str, image: Image, id_map: IdMap | None) -> None:
        fetch.fetch(name, store=around.store, settings=around.settings, keychain=keychain, platform=image.platform, id_map=id_map or local)

    report = verify.run(around.store, fetch=bring)
    for sentence in report.mended:
        click.echo(sentence)
    for sentence in report.broken:
        log.warn(sentence)
    unchecked = f", {report.unchecked} layers not checked, because their blobs were collected" if report.unchecked else ""
    counts = f"{report.blobs} blobs and {report.layers} layers checked{unchecked}"
    click.echo(f"{counts}: {len(report.mended)} mended, {len(report.broken)} broken")
    return 1 if report.broken else 0
