"""`dockless pull`: the images that are named, and all that files name, one after the other."""

import os
import sys
from collections.abc import Iterator, Mapping

from runner import log
from runner.adapters.gitlab import ci_file
from runner.adapters.gitlab.ci_file import Wanted
from runner.cli.surroundings import open_all
from runner.errors import Bug, RunnerError, UserError
from runner.image import auth, images, pull, reference
from runner.job.surroundings import Surroundings
from runner.kernel import files as kernel_files
from runner.model import IdMap
from runner.sandbox import build_users

_LIMIT_BYTES = 4 * 1024**2
_SHOWN = 5  # names in the summary


def main(named: tuple[str, ...], files: tuple[str, ...], *, platform: str, environ: Mapping[str, str]) -> None:
    """Pull every image once and print its id. `platform` is for those that have none of their own.

    One that fails does not stop the others: UserError says at the end which they were. A single image raises its own error.
    """
    asked = [Wanted(name) for name in named] + [one for file in files for one in wanted_in(_read(file), file)]
    wanted = list({(_canonical(one.image), one.platform or platform): one for one in reversed(asked)}.values())[::-1]
    around = open_all(environ)
    keychain = auth.Keychain.of_account(around.account.home, environ)
    failed = []
    for one in wanted:
        try:
            found = pull.ensure(
                one.image,
                store=around.store,
                settings=around.settings,
                keychain=keychain,
                policies=("always",),
                platform=one.platform or platform,
                id_map=_id_map(around, one.image),
            )
        except Bug:
            raise
        except RunnerError as e:
            if len(wanted) == 1 and not files:
                raise
            failed.append(_shown(one.image))
            log.warn(f"cannot pull {failed[-1]}: {e.message}" + (f"\n({e.hint})" if e.hint else ""))
            continue
        sys.stdout.write(f"{found.config_digest}\n")
    if failed:
        names = ", ".join(failed[:_SHOWN]) + (f" and {len(failed) - _SHOWN} more" if len(failed) > _SHOWN else "")
        raise UserError(f"{len(failed)} of {len(wanted)} images were not pulled: {names}", "see the warnings above")
    if files:
        log.say(f"{len(wanted)} of {len(wanted)} images were pulled")


def _id_map(around: Surroundings, name: str) -> IdMap:
    """Return whom an image is unpacked for: shared layers look the same to everybody; where there are none, for `dockless run`."""
    reference.canonical(name)  # before ids are leased for a name that is none
    return build_users.lease(around.store, around.account, build_users.LOCAL).isolated_map()


def wanted_in(raw: bytes, file: str) -> list[Wanted]:
    """Return the images that a file names; what cannot be had from it is said. UserError for what is neither a pipeline nor a list."""
    listed = _list(raw)
    if listed is not None:
        return listed
    found = ci_file.read(raw, file)
    if found.includes:
        log.warn(f"{file}: include is not followed: {', '.join(found.includes)}")
    for sentence in found.left_out:
        log.warn(f"{file}: {sentence}")
    return list(found.wanted)


def _list(raw: bytes) -> list[Wanted] | None:
    """Read one image a line; None if that is not what it is: a pipeline has lines that end with a colon or have several words."""
    lines = list(_words(raw.decode(errors="replace")))
    if any(len(words) != 1 or words[0].endswith(":") or words[0].startswith(("{", "-", "!", "%")) for words in lines):
        return None
    return [Wanted(words[0]) for words in lines if words[0] != images.TOOLBOX]


def _words(text: str) -> Iterator[list[str]]:
    for line in text.splitlines():
        words = line.split()
        comment = next((place for place, word in enumerate(words) if word.startswith("#")), len(words))
        if comment:
            yield words[:comment]


def _read(file: str) -> bytes:
    try:
        if file == "-":
            raw = sys.stdin.buffer.read(_LIMIT_BYTES + 1)
            if len(raw) > _LIMIT_BYTES:
                raise UserError(f"standard input has more than {_LIMIT_BYTES} bytes", "no pipeline is that long")
            return raw
        return kernel_files.read(file, limit_bytes=_LIMIT_BYTES)
    except OSError as e:
        raise UserError(f"file {file} cannot be read: {os.strerror(e.errno or 0)}", "name a regular file, or - for standard input") from e


def _canonical(name: str) -> str:
    try:
        return reference.canonical(name)
    except UserError:
        return name  # the pull says what is wrong with it


def _shown(name: str) -> str:
    """What is no name may be a password, or worse for a terminal."""
    try:
        reference.canonical(name)
    except UserError:
        return "what is no name"
    return name
