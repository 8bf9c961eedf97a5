"""Take each defence out of a copy of the tree and look whether its test notices.

    python -m tests.support.prove [CASE...] [--jobs N]
    python -m tests.support.prove --check       only look whether every defence is there to be taken out, and every case has a test
    python -m tests.support.prove --table       print the table of docs/security.md

Prints a line for each defence; the exit code is 1 when a test passed without what it is there to defend. Marks: `tests.support.defences`.
"""

import argparse
import contextlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.defences import CASES, Edit
from tests.support.engine import TREE

_TESTED = 1  # pytest's exit code when tests ran and some failed; a defence that is out must not break the collection
_LONGEST_S = 900


class Attacked(NamedTuple):
    """A test function, the cases that it attacks, and one defence whose absence it must notice."""

    node: str
    cases: tuple[int, ...]
    taken_out: tuple[Edit, ...]


class _Collector:
    def __init__(self) -> None:
        self.found: dict[tuple[str, tuple[Edit, ...]], Attacked] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            node = item.nodeid.split("[")[0]
            for mark in item.iter_markers("attack"):
                for taken_out in mark.kwargs["taken_out"]:
                    self.found.setdefault((node, taken_out), Attacked(node, mark.kwargs["cases"], taken_out))


def attacks(*arguments: str) -> list[Attacked]:
    """Return every marked test of the tree once for each of its defences, in the order of the cases."""
    collector = _Collector()
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        code = pytest.main(["--collect-only", "-q", *arguments], plugins=[collector])
    if code != pytest.ExitCode.OK:
        raise SystemExit(f"the tests cannot be collected: {told.getvalue()[-2000:]}")
    return sorted(collector.found.values(), key=lambda attacked: (attacked.cases, attacked.node))


def take_out(tree: Path, taken_out: tuple[Edit, ...]) -> None:
    """Change the sources of a tree; ValueError when a defence is not there exactly once."""
    for edit in taken_out:
        path = tree / edit.file
        text = path.read_text(encoding="utf-8")
        if text.count(edit.defence) != 1:
            raise ValueError(f"{edit.file} has {text.count(edit.defence)} times: {edit.defence}")
        path.write_text(text.replace(edit.defence, edit.instead), encoding="utf-8")


def notices(attacked: Attacked) -> bool:
    """Run a test in a copy of the tree without the defence; return whether it failed, as it should."""
    with tempfile.TemporaryDirectory(prefix="dockless-prove-") as directory:
        os.chmod(directory, 0o755)  # build users read the product's own files
        tree = Path(directory) / "tree"
        shutil.copytree(TREE, tree, ignore=shutil.ignore_patterns(".git", "__pycache__"))
        take_out(tree, attacked.taken_out)
        command = [sys.executable, "-m", "pytest", "-q", "-x", "--timeout", "120", attacked.node]
        done = subprocess.run(
            command, cwd=tree, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=_LONGEST_S, check=False
        )
    if done.returncode not in (0, _TESTED):
        print(done.stdout, file=sys.stderr)
    return done.returncode == _TESTED


def problems(found: list[Attacked]) -> list[str]:
    """Return what is wrong with the marks: a defence that is not in the product, a case that nobody attacks, an old table."""
    wrong = []
    for attacked in found:
        for edit in attacked.taken_out:
            count = (TREE / edit.file).read_text(encoding="utf-8").count(edit.defence)
            if count != 1:
                wrong.append(f"{attacked.node}: {edit.file} has {count} times: {edit.defence}")
    if table(found) not in (TREE / "docs/security.md").read_text(encoding="utf-8"):
        wrong.append("docs/security.md has another table than --table prints")
    attacked_cases = {case for attacked in found for case in attacked.cases}
    return wrong + [f"no test attacks case {case}" for case in CASES if case not in attacked_cases]


def table(found: list[Attacked]) -> str:
    """Return the part of docs/security.md that says which test proves what."""
    lines = ["| case | what is tried | proven by |", "|---|---|---|"]
    for case, words in CASES.items():
        tests: dict[str, list[str]] = {}
        for attacked in found:
            if case in attacked.cases:
                path, _, name = attacked.node.partition("::")
                tests.setdefault(path, []).append(name)
        proven = "; ".join(f"`{path}`: {', '.join(dict.fromkeys(names))}" for path, names in sorted(tests.items()))
        lines.append(f"| {case} | {words} | {proven} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Prove what was asked for, and return the exit code."""
    parser = argparse.ArgumentParser(prog="prove")
    parser.add_argument("cases", nargs="*", type=int, metavar="CASE")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args(arguments)
    if asked.table:
        print(table(attacks()), end="")
        return 0
    if asked.check:
        wrong = problems(attacks())
        print("\n".join(wrong))
        return 1 if wrong else 0
    wanted = [attacked for attacked in attacks() if not asked.cases or set(asked.cases) & set(attacked.cases)]
    unproven = 0
    with ThreadPoolExecutor(asked.jobs) as pool:
        for attacked, noticed in zip(wanted, pool.map(notices, wanted), strict=True):
            unproven += not noticed
            cases = ",".join(map(str, attacked.cases))
            where = " and ".join(dict.fromkeys(edit.file for edit in attacked.taken_out))
            print(f"{'fails as it should' if noticed else 'NOT NOTICED':18}  case {cases:6} {attacked.node}  without {where}", flush=True)
    print(f"{len(wanted) - unproven} of {len(wanted)} defences are missed by their tests when they are taken out")
    return 1 if unproven or not wanted else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
