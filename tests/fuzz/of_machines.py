"""Targets for what people and machines say: command lines, configuration, maps of ids, users of images, clients of a job's Docker."""

import os
import socket
import tempfile
from pathlib import Path

from runner import config, config_file, config_yaml, globs, paths, quantities
from runner.adapters.jenkins import executing, options, run_plan, signal_names, template
from runner.adapters.jenkins.shim import Shim
from runner.cli import run_options, step_options
from runner.image import views
from runner.job.surroundings import Surroundings
from runner.kernel import plain_json, userns
from runner.model import Account, Extent, IdMap, beside
from runner.sandbox import engine_front, users
from tests.fuzz import expect

_ID = "0123456789abcdef" * 4
_STATE = {"Id": _ID, "Name": "/x", "State": {"Running": True, "Pid": 7}, "Mounts": [{"Source": "/a"}], "Config": {"Env": ["A=b"]}}


def docker_commands(data: bytes) -> None:
    """`docker run` and `docker exec` as Pipelines write them: numbers in their bounds, mounts of the agent's own, names that are names."""
    words = expect.words(data)
    expect.refused(lambda: executing.GRAMMAR.parse(words))
    parsed = expect.refused(lambda: run_plan.GRAMMAR.parse(words))
    if parsed is None or not parsed.words:
        return
    with tempfile.TemporaryDirectory(prefix="dockless-fuzz-") as scratch:
        for name in ("state", "home", "work"):
            os.mkdir(f"{scratch}/{name}")
        account = Account("agent", os.getuid(), os.getgid(), f"{scratch}/home")
        around = Surroundings(paths.Store(f"{scratch}/state"), config.Settings(), account)
        shim = Shim(around, {"HOME": account.home, "A": "b"}, "jenkins", (f"{scratch}/work",))
        try:
            plan = expect.refused(lambda: run_plan.make(parsed, shim, container_id=_ID))
        finally:
            assert sorted(os.listdir(scratch)) == ["home", "state", "work"] and not os.listdir(f"{scratch}/state")
        if plan is not None:
            _check_plan(plan, scratch)


def _check_plan(plan: run_plan.Plan, scratch: str) -> None:
    assert plan.shared is None or all(0 <= number < 65536 for number in plan.shared)
    assert all(0 < port.container < 65536 and 0 <= port.host < 65536 for port in plan.ports)
    assert 0 <= plan.stop_signal < 65
    assert all("/" not in name and "\n" not in name for name in (plan.name, *(alias for _, alias in plan.links)))
    assert not any(set("\n\t #") & set(name + address) for name, address in plan.hosts)
    for volume in plan.container.volumes:
        assert volume.kind != "bind" or volume.source.startswith((f"{scratch}/home/", f"{scratch}/work"))
    for name, soft, hard in plan.adjustments.rlimits:
        assert name.startswith("RLIMIT_") and 0 <= soft < 2**64 and 0 <= hard < 2**64
    assert all(0 <= group < 65536 for group in plan.adjustments.groups)
    assert 0 <= plan.adjustments.shm_size < 2**63 and 0 <= plan.container.limits.pids < 1 << 22


def docker_templates(data: bytes) -> None:
    """Templates of `docker inspect --format`."""
    expect.refused(lambda: template.render(expect.text(data[:4096]), _STATE))


def own_commands(data: bytes) -> None:
    """`dockless run` and `dockless step`: parsed, or refused in one sentence."""
    words = expect.words(data)
    if any(word.startswith("--env-file") for word in words):
        return  # any file of this machine
    run = expect.refused(lambda: run_options.parse(words, {"A": "b"}))
    step = expect.refused(lambda: step_options.parse(words[1:], {"DOCKLESS_STEP_OPTIONS": words[0], "A": "b"}))
    for found in (run, step):
        if found is not None:
            assert all(name and "=" not in name for name, _ in found.env)
            assert 0 <= found.limits.pids < 1 << 22 and 0 <= found.limits.memory < 2**63
    if step is not None:
        assert len({service.alias for service in step.services}) == len(step.services)


def numbers(data: bytes) -> None:
    """Sizes, durations, counts and signals as people write them, and globs: bounded, or a ValueError with a hint."""
    written = expect.text(data)
    for parse, limit in ((quantities.parse_size, 2**63), (quantities.parse_duration, 10**16), (quantities.parse_count, 1 << 22)):
        found = expect.refused(lambda parse=parse: parse(written), ValueError)  # type: ignore[misc]
        assert found is None or 0 <= found < limit
    cpus = expect.refused(lambda: quantities.parse_cpus(written), ValueError)
    assert cpus is None or 0 < cpus <= 4096
    number = expect.refused(lambda: signal_names.number(written))
    assert number is None or 0 < number < 65
    pattern, _, text = written.partition("\n")
    if len(written) < 200 and expect.refused(lambda: globs.matches(pattern, text)) and not set(pattern) & set("*?[]{}\\!"):
        assert pattern == text


def configurations(data: bytes) -> None:
    """Files of configuration: what is accepted survives the cache that it is kept in."""

    def read() -> config.Settings:
        return config_file.parse(config_yaml.decode(data[:65536], "x.yaml"), "x.yaml")

    settings = expect.refused(read)
    if settings is not None:
        assert config.decode(plain_json.loads(plain_json.dumps(settings))) == settings


def subordinate_ids(data: bytes) -> None:
    """/etc/subuid: ranges that exist, whose maps are disjoint and stay inside of what was granted; the first line names the account."""
    name, _, content = data.partition(b"\n")
    with tempfile.NamedTemporaryFile(prefix="dockless-fuzz-") as file:
        file.write(content)
        file.flush()
        found = userns.subordinate_ranges(expect.text(name), 1000, file.name)
        free = userns.first_free_id(file.name)
    assert all(each.start >= 0 and each.count >= 0 and each.start + each.count <= free < 2**32 for each in found)
    for each in found:
        if each.count < 2:
            continue
        outer = IdMap(*[beside(1000, [Extent(1, each.start, each.count)])] * 2)
        inner = IdMap(*[(Extent(0, each.start, each.count),)] * 2)
        if not each.start <= 1000 < each.start + each.count:
            seen = userns.relative(inner, outer)
            assert seen.uids == (Extent(0, 1, each.count),)


def id_maps(data: bytes) -> None:
    """Id maps as the store keeps them: what is read is an id map or refused, and one in another lies inside of it."""
    try:
        inner, outer = (views.decode(plain_json.loads(line)) for line in data.split(b"\n", 1))
    except (ValueError, TypeError, RecursionError):
        return
    numbers = [number for each in (inner, outer) for extent in (*each.uids, *each.gids) for number in extent]
    if not all(type(number) is int and 0 <= number < 2**32 for number in numbers):
        return  # written by nobody but us: what JSON could hold besides is no map that the kernel takes
    seen = expect.refused(lambda: userns.relative(inner, outer), ValueError)
    if seen is not None:
        assert [(e.inside, e.count) for e in seen.uids] == [(e.inside, e.count) for e in inner.uids]
        for extent in seen.uids:
            assert any(step.inside <= extent.outside and extent.outside + extent.count <= step.inside + step.count for step in outer.uids)


def image_users(data: bytes) -> None:
    """USER with an image's own passwd and group: ids that a container has, whatever those files say. Parts are divided by a line of %%."""
    wanted, passwd, group = [*data.split(b"%%\n", 2), b"", b""][:3]
    with tempfile.TemporaryDirectory(prefix="dockless-fuzz-") as scratch:
        Path(scratch, "etc").mkdir()
        Path(scratch, "etc/passwd").write_bytes(passwd)
        Path(scratch, "etc/group").write_bytes(group)
        root = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            found = expect.refused(lambda: users.resolve(expect.text(wanted.rstrip(b"\n")), root=root))
        finally:
            os.close(root)
    if found is not None:
        assert all(0 <= number < 65536 for number in (found.uid, found.gid, *found.groups))
        assert found.home.startswith("/")


def docker_clients(data: bytes) -> None:
    """Requests of a job's Docker clients, and answers of its engine, as they pass the front: only what is ours is changed."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        ours.shutdown(socket.SHUT_RD)
        front = engine_front._OfPodman("/nonexistent/socket", "there is no BuildKit")
        request, _, answer = data.partition(b"\n\n")
        try:
            passed = front.asked(request, ours)
        except ConnectionAbortedError:
            assert request.startswith(b"POST ")
            return
        if not request.startswith(b"POST "):
            assert passed == request
        assert len(passed) <= len(request) + len(b"next-exit")
        assert front.answered(answer, ours) == answer


def grammar(data: bytes) -> None:
    """A command line whose grammar is hostile too: a Grammar's names in the first line."""
    known, _, rest = data.partition(b"\n")
    names = " ".join(word for word in expect.text(known).split() if word.startswith("-"))
    parsed = expect.refused(lambda: options.Grammar("x", names).parse(expect.words(rest)))
    assert parsed is None or all(isinstance(value, str) for values in parsed.values.values() for value in values)
