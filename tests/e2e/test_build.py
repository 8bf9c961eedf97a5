"""`dockless build` and `dockless push`: buildah and skopeo of the host, over registries of this machine."""

import base64
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.support import images
from tests.support.defences import attack, without
from tests.support.engine import Engine, Result, processes_of, wait_until
from tests.support.gitlab_runner import REACHABLE, outward_address
from tests.support.images import build_image, busybox_layer, directory, file
from tests.support.registries import docker_registry, make_certificates

USER, PASSWORD = "builder", "s3cret-of-the-registry"
BASE = build_image(
    [busybox_layer(), [directory("old"), file("old/file", b"from the base\n"), directory("gone"), file("gone/file")]], history=True
)


class Registry(NamedTuple):
    """A registry with TLS by a CA of its own and a password, where jobs reach it; team/base:v1 is there."""

    host: str
    ca: Path

    def environ(self, password: str = PASSWORD) -> dict[str, str]:
        """Return the environment of somebody who may use it."""
        pair = base64.b64encode(f"{USER}:{password}".encode()).decode()
        return {"DOCKER_AUTH_CONFIG": json.dumps({"auths": {self.host: {"auth": pair}}})}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    address = outward_address()
    certificates = make_certificates(tmp_path_factory.mktemp("tls"), address=address)
    with docker_registry(tmp_path_factory.mktemp("registry"), htpasswd=(USER, PASSWORD), tls=certificates, address=address) as host:
        images.push(BASE, f"{host}/team/base:v1", auth=(USER, PASSWORD), ca=certificates.ca)
        yield Registry(host, certificates.ca)


@pytest.fixture
def builder(engine: Engine, registry: Registry, tmp_path: Path) -> "Builder":
    engine.config.write_text(yaml.safe_dump({**REACHABLE, "registries": {registry.host: {"ca_file": str(registry.ca)}}}))
    context = tmp_path / "context"
    context.mkdir()
    return Builder(engine, registry, context)


class Builder(NamedTuple):
    """An engine that knows the registry, and a context."""

    engine: Engine
    registry: Registry
    context: Path

    def write(self, text: str, name: str = "Dockerfile") -> None:
        """Write a Dockerfile; BASE in it is the base image."""
        (self.context / name).write_text(text.replace("BASE", f"{self.registry.host}/team/base:v1"))

    def build(self, *options: str, name: str = "app", stdin: str = "") -> Result:
        """Build the context."""
        return self.engine.run("build", "-t", name, *options, str(self.context), env=self.registry.environ(), stdin=stdin)

    def run(self, *command: str, name: str = "app") -> Result:
        """Run a command in an image that was built."""
        return self.engine.run("run", "--image", name, "--pull", "never", "--", *command)

    def config_of(self, name: str) -> dict[str, Any]:
        """Return the stored configuration of an image."""
        known = {row["name"]: row["id"] for row in json.loads(self.engine.run("images", "--json").out)}
        blob = self.engine.state / "blobs" / "sha256" / known[f"docker.io/library/{name}:latest"].removeprefix("sha256:")
        config: dict[str, Any] = json.loads(blob.read_text())
        return config


def _built(result: Result) -> str:
    """Return the id of the image that was built."""
    assert result.code == 0, result.err
    return result.out.splitlines()[-1]


def test_image_is_built_in_stages_run_and_built_again_from_the_cache(builder: Builder) -> None:
    builder.write(
        "FROM BASE AS tools\n"
        "ARG WORD=none\n"
        'RUN echo "word is $WORD" > /word\n'
        "FROM BASE AS app\n"
        "COPY --from=tools /word /word\n"
        "COPY private /private\n"
        "RUN rm -r /gone && rm -r /old && mkdir /old && touch /old/new\n"
        "USER 1000\n"
        "RUN touch /tmp/mine\n"
        "HEALTHCHECK --interval=7s CMD true\n"
        'CMD ["cat", "/word"]\n'
        "FROM app AS never\n"
        "RUN exit 1\n"
    )
    (builder.context / "private").write_text("for root's eyes\n")
    (builder.context / "private").chmod(0o600)

    first = builder.build("--build-arg", "WORD=hello", "--target", "app")

    assert _built(first).startswith("sha256:")
    assert "Using cache" not in first.out
    assert builder.run().out == "word is hello\n"
    assert builder.run("sh", "-c", "stat -c '%u:%g %a' /private /tmp/mine; ls /old; ls -d /gone").out == "0:0 600\n1000:1000 644\nnew\n"
    assert builder.config_of("app")["config"]["Healthcheck"]["Interval"] == 7 * 10**9
    second = builder.build("--build-arg", "WORD=hello", "--target", "app")
    assert _built(second) == _built(first)
    assert second.out.count("Using cache") == first.out.count("STEP ") - 2  # all but FROM
    third = builder.build("--build-arg", "WORD=other", "--target", "app")
    assert _built(third) != _built(first)
    assert builder.run().out == "word is other\n"


def test_base_image_comes_from_a_mirror_without_tls(engine: Engine, tmp_path: Path) -> None:
    with docker_registry(tmp_path / "mirror", address=outward_address()) as host:
        images.push(BASE, f"{host}/hub/library/base:v1")
        engine.config.write_text(yaml.safe_dump({**REACHABLE, "registries": {"docker.io": {"mirrors": [f"http://{host}/hub"]}}}))
        result = engine.run("build", "-t", "app", "-f", "-", str(tmp_path), stdin="FROM base:v1\nRUN cat /old/file\n")
    assert _built(result)
    assert "from the base" in result.out


def test_base_image_is_refused_without_credentials_in_buildahs_words(builder: Builder) -> None:
    builder.write("FROM BASE\n")
    result = builder.engine.run("build", "-t", "app", str(builder.context))
    assert result.code == 125
    assert "unauthorized: authentication required" in result.err


def test_dockerfile_may_lie_elsewhere_and_the_contexts_own_ignore_file_counts(builder: Builder, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text(f"FROM {builder.registry.host}/team/base:v1\nCOPY . /all\n")
    (builder.context / "wanted").touch()
    (builder.context / "unwanted").touch()
    (builder.context / ".dockerignore").write_text("unwanted\n")
    assert _built(builder.build("-f", str(tmp_path / "elsewhere")))
    assert builder.run("ls", "/all").out == "wanted\n"
    builder.write("FROM BASE\nCOPY wanted /only\n", "Other")
    assert _built(builder.build("-f", str(builder.context / "Other"), name="other"))
    assert builder.run("ls", "/only", name="other").out == "/only\n"


def test_cache_mounts_last_and_no_cache_runs_everything_again(builder: Builder) -> None:
    builder.write("FROM BASE\nRUN --mount=type=cache,target=/cache echo >> /cache/file && wc -l < /cache/file > /count\n")
    _built(builder.build())
    _built(builder.build("--no-cache"))
    assert builder.run("cat", "/count").out == "2\n"


def test_failing_instruction_has_its_exit_code_and_leaves_the_earlier_image(builder: Builder) -> None:
    builder.write("FROM BASE\nRUN echo before > /word\n")
    good = _built(builder.build())
    builder.write("FROM BASE\nRUN echo now > /word && echo so sad && exit 7\n")
    result = builder.build()
    assert result.code == 7
    assert "so sad" in result.out
    assert "exit status 7" in result.err
    assert builder.run("cat", "/word").out == "before\n"
    assert [row["id"] for row in json.loads(builder.engine.run("images", "--json").out)] == [good]


def _read_until(word: str, running: "subprocess.Popen[str]") -> str:
    """Read what a command prints up to a line that begins with a word, and return it."""
    assert running.stdout
    said = ""
    for line in running.stdout:
        said += line
        if line.startswith(word):
            return said
    raise AssertionError(said + "".join(running.communicate()))


SECRET = b"ksjdhf7863jkhsdf-" + os.urandom(8).hex().encode()


@attack(
    46,
    without(
        "runner/job/build.py",
        'f"--secret=id={name},src={_SECRETS}/{number}" for number, (name, _) in',
        'f"--build-arg={name}={value!r}" for _, (name, value) in',
    ),
)
def test_secret_is_seen_by_its_instruction_and_nowhere_else(builder: Builder, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET)
    secret.chmod(0o600)
    builder.write(
        "FROM BASE\n"
        "RUN --mount=type=secret,id=word --mount=type=bind,target=/context "
        "echo waiting; until [ -e /context/go ]; do sleep 0.1; done; sha256sum < /run/secrets/word > /sum; env > /env\n"
        "RUN ! cat /run/secrets/word\n"
    )
    argv = ["build", "-t", "app", "--secret", f"id=word,src={secret}", str(builder.context)]
    running = builder.engine.start(*argv, env=builder.registry.environ())
    said = _read_until("waiting", running)
    seen = b"".join(_argv_and_environment(pid) for pid in processes_of(builder.engine.state))
    records = b"".join(path.read_bytes() for path in (builder.engine.state / "jobs").rglob("*.json") if os.access(path, os.R_OK))
    (builder.context / "go").touch()
    out, err = running.communicate()
    assert running.returncode == 0, err

    assert b"sh\0-c\0" in seen
    assert b'"build_user"' in records
    for place in (seen, records, (said + out + err).encode()):
        assert SECRET not in place
        assert PASSWORD.encode() not in place
    wanted = subprocess.run(["sha256sum"], input=SECRET, capture_output=True, check=True).stdout.decode()
    assert builder.run("cat", "/sum").out == wanted
    assert SECRET.decode() not in builder.run("cat", "/env").out
    assert [path for path in _readable_files(builder.engine.state) if SECRET in path.read_bytes()] == []


def _argv_and_environment(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""  # ended just now, or nobody's to look into


def _readable_files(top: Path) -> list[Path]:
    found = [Path(place) / name for place, _, names in os.walk(top) for name in names]
    return [path for path in found if path.is_file() and not path.is_symlink() and os.access(path, os.R_OK)]


@attack(46, without("runner/job/assembly.py", 'wish.source, current.slot)\n    return ""', 'wish.source, 0)\n    return ""'))
def test_two_builds_at_once_have_storage_of_their_own(builder: Builder) -> None:
    wait = "until [ -e /context/$OTHER ]; do sleep 0.1; done"
    builder.write(f"FROM BASE\nARG OTHER\nRUN --mount=type=bind,target=/context {wait}; echo $OTHER > /word\n")
    runs = {
        name: builder.engine.start(
            "build", "-t", name, "--build-arg", f"OTHER={other}", str(builder.context), env=builder.registry.environ()
        )
        for name, other in (("one", "two"), ("two", "one"))
    }
    for name, running in runs.items():
        _read_until("STEP 3", running)
        (builder.context / name).touch()
    for running in runs.values():
        _, err = running.communicate()
        assert running.returncode == 0, err
    assert builder.run("cat", "/word", name="one").out == "two\n"
    assert builder.run("cat", "/word", name="two").out == "one\n"
    kept = [row["name"] for row in json.loads(builder.engine.run("df", "--json").out)["details"] if row["kind"] == "build storage"]
    assert sorted(kept) == ["local/buildah-cache/0", "local/buildah-cache/1", "local/buildah/0", "local/buildah/1"]


def test_collector_removes_the_storage_of_builds_whoever_owns_its_files(builder: Builder) -> None:
    builder.write("FROM BASE\nUSER 1000\nRUN touch /tmp/mine && chmod 0 /tmp/mine\n")
    before = _built(builder.build())
    settings = yaml.safe_load(builder.engine.config.read_text())
    builder.engine.config.write_text(yaml.safe_dump({**settings, "gc": {"storage_max_size": 1}}))
    assert builder.engine.run("gc").code == 0
    assert not list((builder.engine.state / "storage").rglob("overlay*"))
    again = builder.build()
    assert _built(again) != before
    assert "Using cache" not in again.out
    assert builder.run("ls", "/tmp").out == "mine\n"


def test_killed_build_leaves_nothing_that_hinders_the_next_one(builder: Builder, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET)
    builder.write(
        "FROM BASE\nRUN echo done > /word\n"
        "RUN --mount=type=secret,id=word --mount=type=bind,target=/context echo waiting; until [ -e /context/go ]; do sleep 0.1; done\n"
    )
    running = builder.engine.start(
        "build", "-t", "app", "--secret", f"id=word,src={secret}", str(builder.context), env=builder.registry.environ()
    )
    _read_until("waiting", running)
    running.kill()
    running.communicate()
    assert wait_until(lambda: processes_of(builder.engine.state) == [])
    (builder.context / "go").touch()

    result = builder.build("--secret", f"id=word,src={secret}")

    assert _built(result)
    assert result.out.count("Using cache") == 1
    assert builder.run("cat", "/word").out == "done\n"
    assert [path for path in _readable_files(builder.engine.state) if SECRET in path.read_bytes()] == []


def test_cancelled_build_ends_with_all_that_it_started(builder: Builder) -> None:
    builder.write("FROM BASE\nRUN trap '' TERM; echo waiting; while true; do sleep 1; done\n")
    running = builder.engine.start("build", "-t", "app", str(builder.context), env=builder.registry.environ())
    _read_until("waiting", running)
    running.terminate()
    running.communicate(timeout=30)
    assert running.returncode != 0
    assert builder.engine.leftovers() == []


def test_pushed_image_is_pulled_by_another_store(builder: Builder, registry: Registry, tmp_path: Path) -> None:
    builder.write("FROM BASE\nRUN echo pushed > /word\n")
    name = f"{registry.host}/team/app:1.0"
    _built(builder.build(name=name))
    result = builder.engine.run("push", name, env=registry.environ())
    assert (result.code, result.err) == (0, result.err)
    assert builder.engine.run("push", name, f"{registry.host}/other/place:2", env=registry.environ()).code == 0
    (tmp_path / "other").mkdir()
    other = Engine(tmp_path / "other")
    other.config.write_bytes(builder.engine.config.read_bytes())
    for pulled in (name, f"{registry.host}/other/place:2"):
        result = other.run("run", "--image", pulled, "--", "cat", "/word", env=registry.environ())
        assert (result.code, result.out) == (0, "pushed\n"), result.err
    assert other.leftovers() == []
    other.run("rmi", name, f"{registry.host}/other/place:2")


def test_push_without_credentials_says_what_is_missing_and_leaves_nothing(builder: Builder, registry: Registry) -> None:
    builder.engine.run("pull", f"{registry.host}/team/base:v1", env=registry.environ())
    result = builder.engine.run("push", f"{registry.host}/team/base:v1", f"{registry.host}/team/base:v2")
    assert result.code == 1
    assert f"registry {registry.host} wants credentials for team/base" in result.err


def test_image_on_loopback_is_pushed_as_it_was_pulled(engine: Engine, tmp_path: Path) -> None:
    with docker_registry(tmp_path / "plain") as host:
        images.push(BASE, f"{host}/team/base:v1")
        engine.run("pull", f"{host}/team/base:v1")
        assert engine.run("push", f"{host}/team/base:v1", f"{host}/team/copy:v1").code == 0
        engine.run("pull", f"{host}/team/copy:v1")
    rows = json.loads(engine.run("images", "--json").out)
    assert [row["digest"] for row in rows] == [BASE.digest] * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-t", "app@sha256:" + "0" * 64, "."], "an image cannot be named app@sha256:" + "0" * 64),
        (["-t", "toolbox", "."], "an image cannot be named toolbox"),
        (["-t", "Upper", "."], "bad image name 'Upper': a repository has no upper-case letters"),
        (["-t", "app", "no-such-directory"], "context no-such-directory cannot be used: no such file or directory"),
        (["-t", "app", "/"], "context / cannot be used: the host's root would be open to the container"),
        (["-t", "app", "pyproject.toml"], "context pyproject.toml is not a directory"),
        (["-t", "app", "-f", "no-such-file", "tests"], "Dockerfile no-such-file cannot be used: no such file or directory"),
        (
            ["-t", "app", "--secret", "id=a,src=nothing", "tests"],
            "secret a cannot be read from nothing: No such file or directory",
        ),
        (["-t", "app", "--secret", "id=a", "tests"], "secret 'id=a' names no file or variable, or both"),
        (["-t", "app", "--secret", "id=a,src=b,mode=1", "tests"], "secret 'id=a,src=b,mode=1' cannot be used"),
        (["-t", "app", "--build-arg", "=x", "tests"], "build argument '=x' has no name"),
    ],
)
def test_what_cannot_be_built_is_said_before_anything_is_made(engine: Engine, arguments: list[str], message: str) -> None:
    result = engine.run("build", *arguments)
    assert (result.code, result.err.splitlines()[0]) == (1, f"ERROR: {message}")
    assert engine.jobs() == []


def test_push_of_what_is_not_stored_is_refused(engine: Engine) -> None:
    result = engine.run("push", "app")
    assert (result.code, result.err.splitlines()[0]) == (1, "ERROR: image app is not in the store")
