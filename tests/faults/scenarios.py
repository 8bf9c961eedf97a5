"""The commands that faults are tried on, each with what it needs before, and what has to work after it."""

import contextlib
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from runner import paths
from runner.job import cleanup, state
from runner.kernel import accounts, files, userns
from runner.kernel.process import start_time
from runner.sandbox import build_users
from tests.support import census
from tests.support.boundaries import KILL, Fault, Tracer
from tests.support.census import Census
from tests.support.engine import Engine, Result
from tests.support.gitlab_calls import Ended
from tests.support.gitlab_jobs import GitLab, job, text_of
from tests.support.gitlab_replay import Replay
from tests.support.images import BUSYBOX, build_image, directory, file, symlink, write_oci_layout
from tests.support.registries import LyingRegistry

# as few files as a shell needs: each is a boundary of unpacking
_PROGRAMS = [symlink(f"bin/{name}", "busybox") for name in ("sh", "cat", "head", "true", "mkdir", "chmod", "rm", "ls")]
_BASE = [directory("bin"), directory("etc"), directory("tmp", mode=0o1777), file("bin/busybox", Path(BUSYBOX).read_bytes(), mode=0o755)]
IMAGE = build_image([[*_BASE, *_PROGRAMS], [file("hello", b"hi\n" * 40_000)]])
_UNWANTED = build_image([[file("unwanted", b"bye\n" * 10_000)]])
_SERVICE = {"name": "toolbox", "command": ["sleep", "4712"]}


class Bench:
    """A store, a registry and a runner, for one scenario after another fault."""

    def __init__(self, root: Path, registry: str) -> None:
        self.root = root
        self.image = f"{registry}/team/app:v1"
        self.engine = Engine(root)
        temporary = root / "tmp"
        temporary.mkdir()
        self.gitlab = GitLab(self.engine, temporary)
        self.gitlab.configure(
            registries={registry: {"plain_http": True}},
            images={"pull_policy": ["if-not-present"]},
            gitlab={"wait_for_services_timeout": -1},
        )

    def succeed(self, *arguments: str) -> Result:
        """Run a command that has to work."""
        result = self.engine.run(*arguments)
        assert result.code == 0, (arguments, result)
        return result

    def trace(self, arguments: list[str], fault: Fault | None, tracer: Tracer) -> Result:
        """Run a command line of the engine under strace."""
        return tracer.run(self.engine.argv(*arguments), env=self.gitlab.environment(), fault=fault)

    def replay(self, verb: str, fault: Fault | None, tracer: Tracer) -> Replay:
        """Return a job with a service, of which one verb runs under strace."""
        driver = self.gitlab.driver()
        driver[verb] = tracer.argv(driver[verb], fault)
        environment = {**self.gitlab.environment(), "PYTHONDONTWRITEBYTECODE": "1"}
        return Replay(driver, self.payload(), env=environment, graceful_s=30.0)

    def payload(self) -> dict[str, Any]:
        """Return a job that uses the image, a service and a cache."""
        return job("cat /hello > /cache/hello", image=self.image, services=[_SERVICE])

    def erase(self) -> None:
        """Remove everything, whoever owns it."""
        store, account = paths.Store(str(self.engine.state)), accounts.current()
        if self.engine.state.exists():
            for key in state.keys(store):
                cleanup.cleanup(store, key, account)
            userns.call(build_users.every_map(account), lambda: files.remove_tree(str(self.engine.state)))
        shutil.rmtree(self.root, ignore_errors=True)


class Scenario(NamedTuple):
    """`before` is repeated for each fault, `act` is what the fault hits, `after` is the next job, which has to work."""

    before: Callable[[Bench], object]
    act: Callable[[Bench, Fault | None, Tracer], Result]
    after: Callable[[Bench], object]
    is_fresh: bool = False  # each fault finds an empty store
    everything: bool = False  # all that the command starts is traced, too


def _play(bench: Bench) -> None:
    result = bench.gitlab.replay(bench.payload()).run()
    assert result.status == "success", result.log.decode(errors="replace")


def _run(bench: Bench) -> None:
    shown = bench.succeed("run", "--image", bench.image, "--", "head", "-n", "1", "/hello")
    assert shown.out == "hi\n", shown


def _told(ended: Ended, text: str) -> Result:
    return Result(0 if ended.returncode is None else ended.returncode, "", text)


def _prepare(bench: Bench, fault: Fault | None, tracer: Tracer) -> Result:
    attempt = bench.replay("prepare", fault, tracer).attempt()
    ended = attempt.prepare()
    if fault is None or fault.what != KILL:
        attempt.cleanup()
    else:
        _lose_runner(bench)  # with its executor, so that nobody cleans up
    shutil.rmtree(attempt.temp_dir, ignore_errors=True)
    return _told(ended, text_of(attempt))


def _stage(bench: Bench, fault: Fault | None, tracer: Tracer) -> Result:
    attempt = bench.replay("run", fault, tracer).attempt()
    assert attempt.prepare().failure is None, text_of(attempt)
    ended = attempt.stage("build_script", "true")
    told = text_of(attempt)
    attempt.cleanup()
    return _told(ended, told)


def _cleanup(bench: Bench, fault: Fault | None, tracer: Tracer) -> Result:
    attempt = bench.replay("cleanup", fault, tracer).attempt()
    assert attempt.prepare().failure is None, text_of(attempt)
    ended = attempt.cleanup()
    _lose_runner(bench)  # it was killed with its cleanup, which it would not call again
    return _told(ended, bytes(attempt.build.runner_log).decode(errors="replace"))


def _lose_runner(bench: Bench) -> None:
    """Have whoever wanted the jobs of a store ended, for all that their records say."""
    for record in bench.engine.state.glob("jobs/*/state.json"):
        with contextlib.suppress(OSError, ValueError):
            record.write_text(json.dumps({**json.loads(record.read_text()), "owner": _ended_process()}))


def _ended_process() -> tuple[int, int]:
    with subprocess.Popen(["sleep", "60"]) as process:
        started = start_time(process.pid)
        process.kill()
    return process.pid, started


def _leave_litter(bench: Bench) -> None:
    """Leave what a collector removes: an image that nobody names any more, a dead download and a crashed job."""
    if not (bench.root / "unwanted").exists():
        write_oci_layout(bench.root / "unwanted", _UNWANTED)
    before = set(bench.engine.state.glob("images/*.json"))
    bench.succeed("pull", f"oci:{bench.root}/unwanted")
    for record in set(bench.engine.state.glob("images/*.json")) - before:
        record.unlink()
    (bench.engine.state / "blobs/partial" / ("0" * 64)).write_bytes(b"x")
    crashed = bench.trace(["run", "--image", bench.image, "--", "true"], Fault(KILL, "wait4", 2), Tracer(bench.root / "litter.log"))
    assert crashed.code == -9, crashed


SCENARIOS = {
    "pull": Scenario(
        lambda _: None,
        lambda bench, fault, tracer: bench.trace(["pull", bench.image], fault, tracer),
        _run, is_fresh=True, everything=True,
    ),
    "run": Scenario(
        _run,
        lambda bench, fault, tracer: bench.trace(["run", "--image", bench.image, "--", "true"], fault, tracer),
        _run, everything=True,
    ),
    "prepare": Scenario(lambda _: None, _prepare, _play),
    "stage": Scenario(lambda _: None, _stage, _play),
    "cleanup": Scenario(lambda _: None, _cleanup, _play),
    "gc": Scenario(_leave_litter, lambda bench, fault, tracer: bench.trace(["gc"], fault, tracer), _run),
}  # fmt: skip


class Rig:
    """One scenario with all that it needs: what can happen to it, what each of that does, and what is left."""

    def __init__(self, name: str, root: Path, registry: str) -> None:
        self.name, self._root, self._registry = name, root, registry
        self._scenario = SCENARIOS[name]
        self._made = 0
        self._bench: Bench | None = None
        self._clean: Census | None = None
        self.faults = self._watch()

    def _ready(self) -> tuple[Bench, Tracer]:
        if self._bench is None or self._scenario.is_fresh:
            self.close()
            self._made += 1
            root = self._root / f"{self.name.replace(' ', '-')}-{self._made}"
            root.mkdir()
            self._bench = Bench(root, self._registry)
            if not self._scenario.is_fresh:
                self._bench.succeed("pull", self._bench.image)
                self._scenario.after(self._bench)
        return self._bench, Tracer(self._bench.root / "strace.log", everything=self._scenario.everything)

    def _watch(self) -> list[Fault]:
        bench, tracer = self._ready()
        self._scenario.before(bench)
        done = self._scenario.act(bench, None, tracer)
        assert done.code == 0, done
        found = tracer.faults()
        self._scenario.after(bench)
        bench.succeed("gc")
        self._clean = census.take(bench.engine)
        assert (self._clean.jobs, self._clean.half_written, self._clean.torn_layers, self._clean.damage) == ((), (), (), ""), self._clean
        return found

    def try_(self, fault: Fault) -> list[str] | None:
        """Have a fault happen; returns what is wrong with what came of it, None if it did not happen this time."""
        bench, tracer = self._ready()
        assert self._clean is not None
        self._scenario.before(bench)
        done = self._scenario.act(bench, fault, tracer)
        happened = tracer.happened(fault)
        wrong = _judge(done, fault, silenced=tracer.silenced())
        try:
            self._scenario.after(bench)
        except AssertionError as e:
            wrong.append(f"the next one fails: {str(e)[:2000]}")
        if bench.engine.leftovers():
            wrong.append(f"left after the next one: {bench.engine.leftovers()}")
        collected = bench.engine.run("gc")
        if collected.code:
            wrong.append(f"gc fails: {collected.err}")
        wrong += self._clean.differences(census.take(bench.engine))
        if wrong:
            self.close()  # the next fault shall not be blamed for it
        return wrong if happened or wrong else None

    def close(self) -> None:
        """Remove everything."""
        if self._bench is not None:
            self._bench.erase()
            self._bench = None


def _judge(done: Result, fault: Fault, *, silenced: bool) -> list[str]:
    """Say what is wrong with how a command ended that a fault hit. One that can do without what failed may succeed.

    One that is `silenced` could not write what it had to say.
    """
    if "Traceback" in done.err or "internal error" in done.err:
        return [f"not explained: {done.err[-2000:]}"]
    if done.code in (0, -9, 137) or (done.code in (1, 2, 125) and (silenced or "ERROR: " in done.err or "WARNING: " in done.err)):
        return [] if fault.what == KILL or done.code not in (-9, 137) else [f"killed without a kill: {done}"]
    return [f"ends with {done.code} and says: {done.err[-2000:]}"]


@contextmanager
def registry() -> Iterator[str]:
    """Serve the image; yields host:port."""
    server = LyingRegistry()
    server.add(IMAGE, "team/app", "v1")
    with server.running() as (host, _):
        yield host
