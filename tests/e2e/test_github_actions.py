"""What is around a job's steps: users of images, volumes, actions with Dockerfiles, names of services, credentials."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.engine import Engine, processes_of, wait_until
from tests.support.github_replay import Runner
from tests.support.github_runners import store_image, straight, worker_log
from tests.support.images import BUSYBOX, build_image, busybox_layer, file
from tests.support.private_registry import PrivateRegistry

IMAGE = build_image([busybox_layer()])


@pytest.fixture
def runner(engine: Engine, tmp_path: Path) -> Runner:
    return straight(engine, tmp_path / "actions-runner")


def _web(**more: Any) -> dict[str, Any]:
    return {"image": "toolbox", "entryPoint": "python3", "entryPointArgs": ["-m", "http.server", "80"], **more}


@pytest.mark.parametrize("user", ["builder", "1000:1000", "1000"])
def test_files_belong_to_the_runner_whatever_user_the_image_has(runner: Runner, engine: Engine, tmp_path: Path, user: str) -> None:
    image = build_image([busybox_layer()], {"Env": ["PATH=/bin"], "User": user})
    runner.prepare(store_image(engine, tmp_path / "image", image))
    called = runner.step("id -u; touch file; mkdir -p sub/sub; stat -c %u /bin/busybox")
    assert (called.code, called.log) == (0, "1000\n0\n")
    for name in ("file", "sub", "sub/sub"):
        assert (runner.workspace / name).stat().st_uid == os.getuid()
    assert runner.action(f"oci:{tmp_path / 'image'}:v1", entrypoint="sh", arguments='-c "id -u; touch of-action"').log.endswith("1000\n")
    assert runner.action("toolbox", entrypoint="sh", arguments='-c "id -u; touch of-root"').log == "0\n"
    assert {(runner.workspace / name).stat().st_uid for name in ("of-action", "of-root")} == {os.getuid()}
    runner.cleanup()


@pytest.mark.parametrize("with_job", [True, False])
def test_files_of_other_users_are_given_back_at_the_end(runner: Runner, tmp_path: Path, with_job: bool) -> None:
    (tmp_path / "outside").mkdir()
    write = "mkdir -p dir/deep; touch dir/deep/file; ln -s {} dir/link; chown -R -h 1234:1234 dir; chmod 700 dir".format(
        tmp_path / "outside"
    )
    if with_job:
        runner.prepare()
        assert runner.step(write).code == 0
        assert (runner.workspace / "dir").stat().st_uid != os.getuid()
        runner.cleanup()
    else:
        assert runner.action("toolbox", entrypoint="sh", arguments=f'-c "{write}"').code == 0
    assert {path.lstat().st_uid for path in (runner.workspace / "dir").rglob("*")} == {os.getuid()}
    shutil.rmtree(runner.workspace / "dir")


def test_user_of_options_counts(runner: Runner, engine: Engine, tmp_path: Path) -> None:
    runner.prepare({"image": store_image(engine, tmp_path / "image", IMAGE), "createOptions": "--user 1001"})
    assert runner.step("id -u; touch file").log == "1001\n"
    assert (runner.workspace / "file").stat().st_uid == os.getuid()
    runner.cleanup()


def test_alpine_is_known_by_its_release_file(runner: Runner, engine: Engine, tmp_path: Path) -> None:
    alpine = build_image([[*busybox_layer(), file("etc/os-release", b'NAME="Alpine Linux"\nID=alpine\n')]])
    called = runner.prepare(store_image(engine, tmp_path / "image", alpine))
    assert called.response is not None
    assert called.response["isAlpine"] is True
    runner.cleanup()


def test_javascript_action_runs_with_the_runners_node(runner: Runner) -> None:
    action = runner.work / "_actions" / "o" / "a" / "v1" / "index.js"
    action.parent.mkdir(parents=True)
    action.write_text("require('fs').appendFileSync(process.env.GITHUB_OUTPUT, `who=${process.env.INPUT_WHO}\\n`); console.log(__filename)")
    runner.prepare()
    called = runner.step("", shell="/__e/node20/bin/node", arguments="/__w/_actions/o/a/v1/index.js", env={"INPUT_WHO": "me"})
    assert (called.code, called.log) == (0, "/__w/_actions/o/a/v1/index.js\n")
    assert runner.output() == "who=me\n"
    runner.cleanup()


# volumes


def test_anonymous_volume_ends_with_the_job_and_a_named_one_does_not(runner: Runner, engine: Engine) -> None:
    volumes = [
        {"userProvidedValue": "/data", "sourceVolumePath": None, "targetVolumePath": "/data", "readOnly": False},
        {"userProvidedValue": "kept:/kept", "sourceVolumePath": "kept", "targetVolumePath": "/kept", "readOnly": False},
    ]
    for expected in ("", "from the last job\n"):
        runner.prepare({"image": "toolbox", "userMountVolumes": volumes})
        said = runner.step("cat /data/word /kept/word 2>/dev/null || true; echo from the last job | tee /data/word > /kept/word")
        assert said.log == expected
        runner.cleanup()
    assert engine.leftovers() == []


def test_volume_of_the_host_is_the_administrators_to_allow(runner: Runner, engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "licences").mkdir()
    (tmp_path / "licences" / "one").write_text("paid\n")
    volume = {"userProvidedValue": "", "sourceVolumePath": str(tmp_path / "licences"), "targetVolumePath": "/l", "readOnly": True}
    refused = runner.prepare({"image": "toolbox", "userMountVolumes": [volume]}, check=False)
    assert refused.code != 0
    assert "workflows may not name" in refused.log
    engine.config.write_text(json.dumps({"github": {"allowed_volumes": [f"{tmp_path}/licences"]}}))
    runner.prepare({"image": "toolbox", "userMountVolumes": [volume]})
    assert runner.step("cat /l/one; touch /l/two").log.startswith("paid\n")
    assert not (tmp_path / "licences" / "two").exists()
    runner.cleanup()


def test_what_workflows_write_for_docker_is_a_warning(runner: Runner) -> None:
    socket = {"sourceVolumePath": "/var/run/docker.sock", "targetVolumePath": "/var/run/docker.sock", "readOnly": False}
    called = runner.prepare({"image": "toolbox", "userMountVolumes": [socket], "createOptions": "--entrypoint sh --network host"})
    warnings = [line for line in called.log.splitlines() if line.startswith("::warning::")]
    assert [word for word in ("docker.sock", "--entrypoint", "--network") if any(word in line for line in warnings)] == [
        "docker.sock", "--entrypoint", "--network",
    ]  # fmt: skip
    assert runner.step("test -e /var/run/docker.sock || echo none").log == "none\n"
    runner.cleanup()


# services


def test_services_have_the_names_of_the_workflow_by_the_runners_log(runner: Runner) -> None:
    worker_log(runner, {"database": "toolbox", "cache": "toolbox"})
    runner.prepare(services=[_web(), _web()])
    assert [each["contextName"] for each in runner.context["services"]] == ["database", "cache"]
    fetch = "curl -fs -o /dev/null --retry 9 --retry-connrefused"
    assert runner.step(f"{fetch} http://database/ && {fetch} http://cache/ && echo both").log == "both\n"
    assert runner.step("getent hosts toolbox-0 toolbox-1 | wc -l").log == "2\n"
    runner.cleanup()


def test_published_ports_are_told_and_end_with_the_job(runner: Runner, engine: Engine) -> None:
    runner.prepare(services=[_web(portMappings=["80", "127.0.0.1:0:81/udp"])])
    ports = runner.context["services"][0]["ports"]
    assert sorted(ports) == ["80", "81"]
    listening = Path("/proc/net/tcp").read_text()
    assert f":{int(ports['80']):04X} 00000000:0000 0A" in listening
    runner.cleanup()
    assert wait_until(lambda: f":{int(ports['80']):04X} 00000000:0000 0A" not in Path("/proc/net/tcp").read_text())


def test_low_port_of_the_host_is_refused_with_a_reason(runner: Runner, engine: Engine) -> None:
    called = runner.prepare(services=[_web(portMappings=["81:80"])], check=False)
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) > 81:
        assert called.code != 0
        assert "port 81 of the host cannot be published" in called.log
        assert "ip_unprivileged_port_start" in called.log
    runner.cleanup()
    assert engine.leftovers() == []


def test_services_ended_are_in_the_log_and_the_health_check_of_the_image_counts(runner: Runner, engine: Engine, tmp_path: Path) -> None:
    health = {"Test": ["CMD-SHELL", "test -e /ready"], "Interval": 200_000_000, "Retries": 100}
    image = build_image(
        [busybox_layer()], {"Env": ["PATH=/bin"], "Cmd": ["sh", "-c", "sleep 1; touch /ready; sleep 99"], "Healthcheck": health}
    )
    name = store_image(engine, tmp_path / "image", image)
    runner.prepare("toolbox", [{"image": name}])
    assert runner.step("echo ready").log == "ready\n"
    runner.cleanup()
    dead = {"image": name, "entryPoint": "sh", "entryPointArgs": ["-c", '"echo', "last", 'words"']}
    called = runner.prepare("toolbox", [dead], check=False)
    assert called.code != 0
    assert "last words" in called.log
    assert "it has ended" in called.log


# actions with a Dockerfile


def _action(runner: Runner, text: str) -> Path:
    directory = runner.work / "_actions" / "o" / "build" / "v1"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "busybox").write_bytes(Path(BUSYBOX).read_bytes())
    (directory / "busybox").chmod(0o755)
    dockerfile = directory / "Dockerfile"
    dockerfile.write_text(f"FROM scratch\nCOPY busybox /bin/sh\nENV PATH=/bin\n{text}")
    return dockerfile


@pytest.mark.parametrize("with_job", [True, False])
def test_dockerfile_is_built_and_run_in_the_jobs_network(runner: Runner, engine: Engine, with_job: bool) -> None:
    dockerfile = _action(
        runner, 'USER 1234\nENTRYPOINT ["sh", "-c", "busybox id -u; echo $0; echo x > made"]\n'.replace("busybox id", "id")
    )
    if with_job:
        runner.prepare(services=[_web(createOptions="--name web")])
    called = runner.action(dockerfile=dockerfile, arguments='"hello world"')
    assert called.code == 0, called.log
    assert called.log.endswith("1234\nhello world\n")
    assert (runner.workspace / "made").stat().st_uid == os.getuid()
    again = runner.action(dockerfile=dockerfile, entrypoint="sh", arguments='-c "exit 3"')
    assert again.code == 3
    assert "Using cache" in again.log
    if with_job:
        fetch = runner.action(dockerfile=dockerfile, entrypoint="sh", arguments='-c "wget -q -O /dev/null http://web/ && echo reached"')
        assert fetch.log.endswith("reached\n")
        runner.cleanup()
    assert engine.leftovers() == []


def test_dockerfile_that_fails_fails_the_step(runner: Runner, engine: Engine) -> None:
    called = runner.action(dockerfile=_action(runner, "RUN echo so sad && exit 7\n"))
    assert called.code != 0
    assert "so sad" in called.log
    assert "::error::" in called.log
    assert engine.leftovers() == []


@pytest.mark.parametrize("with_job", [True, False])
def test_cancelled_action_ends_in_time_and_leaves_nothing(runner: Runner, engine: Engine, with_job: bool) -> None:
    if with_job:
        runner.prepare()
    script = "trap '' TERM INT; touch started; while true; do sleep 1; done"
    call = runner.start("run_container_step", runner.container_step("toolbox", entrypoint="sh", arguments=f'-c "{script}"'))
    assert wait_until((runner.workspace / "started").exists)
    call.cancel()
    assert runner.finish(call).code > 0
    assert not any("while true" in Path(f"/proc/{pid}/cmdline").read_text() for pid in processes_of(engine.state))
    runner.cleanup()
    assert engine.leftovers() == []


# credentials


def test_credentials_of_the_job_open_a_private_image_and_stay_out_of_sight(runner: Runner, engine: Engine, tmp_path: Path) -> None:
    with PrivateRegistry(IMAGE).running() as registry:
        refused = runner.prepare({"image": registry.name}, check=False)
        assert refused.code != 0
        login = {"username": "me", "password": "s3cret", "serverUrl": registry.host}
        called = runner.prepare({"image": registry.name, "registry": login})
        assert runner.step("echo in").log == "in\n"
        assert "s3cret" not in refused.log + called.log
        records = b"".join(path.read_bytes() for path in engine.state.rglob("*.json") if os.access(path, os.R_OK))
        assert b"s3cret" not in records
        runner.cleanup()


# Docker


def test_docker_service_is_an_api_of_the_jobs_own(runner: Runner) -> None:
    called = runner.prepare(services=[{"image": "docker:dind"}, _web()])
    assert "is replaced by a Docker API" in called.log
    assert [each["image"] for each in runner.context["services"]] == ["docker:dind", "toolbox"]
    said = runner.step("echo $DOCKER_HOST; test -S /var/run/docker.sock && echo socket").log
    assert said == "tcp://docker:2375\nsocket\n"
    ask = "curl -fsS --retry 9 --retry-connrefused http://docker:2375/_ping && curl -fsS --unix-socket /var/run/docker.sock http://x/_ping"
    assert runner.step(ask).log == "OKOK"
    assert runner.action("toolbox", entrypoint="sh", arguments=f'-c "echo $DOCKER_HOST; {ask}"').log == "tcp://docker:2375\nOKOK"
    runner.cleanup()


def test_docker_service_needs_a_job_container(runner: Runner, engine: Engine) -> None:
    called = runner.prepare(None, [{"image": "docker:dind"}], check=False)
    assert called.code != 0
    assert "::error::service 'docker:dind' is not started" in called.log
    assert engine.leftovers() == []
