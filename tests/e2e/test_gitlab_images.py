"""Images of GitLab jobs: entrypoints, users, environments and shells are what the image's maker meant."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import images
from tests.support.gitlab_jobs import GitLab, job, output, text_of
from tests.support.images import TarEntry, build_image, busybox_layer, directory, file, symlink, write_oci_layout
from tests.support.registries import LyingRegistry

_ENV = [f"PATH={images.PATH}"]
# docker's way: prepare something, then become what was asked for
_ENTRYPOINT = b"""#!/bin/sh
echo started >> /starts
export FROM_ENTRYPOINT="said by the entrypoint"
exec "$@"
"""

Make = Callable[..., str]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Return a function that makes an image of busybox and more, and returns its name."""

    def write(*more: TarEntry, base: bool = True, **config: Any) -> str:
        layers = [busybox_layer()] if base else []
        image = build_image([*layers, *([list(more)] if more else [])], {"Env": _ENV, **config})
        target = tmp_path / f"layout-{image.digest[-8:]}"
        write_oci_layout(target, image)
        return f"oci:{target}"

    return write


def _entry() -> TarEntry:
    return file("entry", _ENTRYPOINT, mode=0o755)


# 11: entrypoints


def test_entrypoint_of_the_image_runs_at_every_stage_and_its_environment_reaches_the_script(gitlab: GitLab, make: Make) -> None:
    image = make(_entry(), Entrypoint=["/entry"], Cmd=["/bin/sh"])
    result = gitlab.play(job('echo "[$FROM_ENTRYPOINT]"', image=image, after_script=['echo "[$FROM_ENTRYPOINT]"', "wc -l < /starts"]))
    log = result.log.decode()
    assert result.status == "success", log
    assert log.count("[said by the entrypoint]\n") == 2
    assert "\n2\n" in log


def test_entrypoint_of_an_empty_word_is_none(gitlab: GitLab, make: Make) -> None:
    image = {"name": make(_entry(), Entrypoint=["/entry"]), "entrypoint": [""]}
    with gitlab.prepared(job(image=image)) as attempt:
        assert output(attempt, 'echo "[$FROM_ENTRYPOINT]"; ls /starts 2>/dev/null || true') == "[]\n"


def test_entrypoint_of_the_job_takes_the_place_of_the_images(gitlab: GitLab, make: Make) -> None:
    own = ["/bin/sh", "-c", 'export OWN="by the job"; exec "$0" "$@"']
    image = {"name": make(_entry(), Entrypoint=["/entry"]), "entrypoint": own}
    with gitlab.prepared(job(image=image)) as attempt:
        assert output(attempt, 'echo "[$FROM_ENTRYPOINT] [$OWN]"') == "[] [by the job]\n"


def test_entrypoint_of_the_job_is_ignored_where_the_configuration_says_so(gitlab: GitLab, make: Make) -> None:
    gitlab.configure(gitlab={"disable_entrypoint_overwrite": True})
    image = {"name": make(_entry(), Entrypoint=["/entry"]), "entrypoint": [""]}
    with gitlab.prepared(job(image=image)) as attempt:
        assert output(attempt, 'echo "[$FROM_ENTRYPOINT]"') == "[said by the entrypoint]\n"


def test_entrypoint_that_does_not_start_what_it_is_given_has_its_own_exit_code(gitlab: GitLab, make: Make) -> None:
    refuse = file("refuse", b"#!/bin/sh\necho this image does not take a shell\nexit 5\n", mode=0o755)
    result = gitlab.play(job("echo 'script' ran", image=make(refuse, Entrypoint=["/refuse"])))
    assert (result.failure_reason, result.exit_code) == ("script_failure", 5)
    assert "this image does not take a shell" in result.log.decode()
    assert "script ran" not in result.log.decode()


def test_command_of_the_image_does_not_get_into_the_jobs_way(gitlab: GitLab, make: Make) -> None:
    with gitlab.prepared(job(image=make(Cmd=["sleep", "4711"]))) as attempt:
        assert output(attempt, "echo fine") == "fine\n"


# environment and directories


def test_environment_of_the_image_reaches_the_script_and_the_jobs_wins(gitlab: GitLab, make: Make) -> None:
    image = make(Env=[*_ENV, "ONLY_IMAGE=1", "BOTH=image"])
    with gitlab.prepared(job(image=image, variables={"BOTH": "job"})) as attempt:
        assert output(attempt, 'echo "$ONLY_IMAGE $BOTH"') == "1 job\n"


def test_working_directory_of_the_image_is_where_entrypoints_start(gitlab: GitLab, make: Make) -> None:
    with gitlab.prepared(job(image=make(WorkingDir="/srv/app"))) as attempt:
        assert output(attempt, "pwd") == "/srv/app\n"


def test_files_of_the_image_are_as_they_were_for_the_next_job(gitlab: GitLab, make: Make) -> None:
    image = make(file("data", b"of the image\n"))
    with gitlab.prepared(job(image=image)) as attempt:
        output(attempt, "echo changed > /data; rm /bin/vi")
    with gitlab.prepared(job(image=image)) as attempt:
        assert output(attempt, "cat /data; ls /bin/vi") == "of the image\n/bin/vi\n"


# 12: users


def test_user_of_the_image_can_write_to_the_project(gitlab: GitLab, make: Make) -> None:
    payload = job(['echo "$(id -un) $(id -Gn) $HOME"', "touch made && stat -c %U made"], image=make(User="builder"))
    result = gitlab.play(payload)
    assert result.status == "success", result.log.decode()
    assert "builder builder tools /home/builder\n" in result.log.decode()
    assert "\nbuilder\n" in result.log.decode()


def test_user_of_the_job_wins_over_the_images(gitlab: GitLab, make: Make) -> None:
    image = {"name": make(User="builder"), "executor_opts": {"docker": {"user": "nobody"}}}
    with gitlab.prepared(job(image=image)) as attempt:
        assert output(attempt, "id -un") == "nobody\n"


def test_root_of_the_image_is_still_chosen_where_it_is_allowed(gitlab: GitLab, make: Make) -> None:
    gitlab.configure(gitlab={"allowed_users": ["root"]})
    image = {"name": make(User="builder"), "executor_opts": {"docker": {"user": "root"}}}
    with gitlab.prepared(job(image=image)) as attempt:
        assert output(attempt, "id -u") == "0\n"


# 13: shells


def _dash() -> list[TarEntry]:
    paths = ("/usr/bin/dash", "/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2")
    copies = [file(path.lstrip("/"), Path(path).read_bytes(), mode=0o755) for path in paths]
    return [*map(directory, ("lib", "lib/x86_64-linux-gnu", "lib64")), *copies, symlink("bin/sh", "/usr/bin/dash")]


def test_bash_is_preferred_to_sh(gitlab: GitLab, make: Make) -> None:
    say = file("usr/bin/bash", b"#!/bin/sh\nexport SHELL_WAS=bash\nexec /bin/sh\n", mode=0o755)
    with gitlab.prepared(job(image=make(say))) as attempt:
        assert output(attempt, "echo $SHELL_WAS") == "bash\n"


def test_ash_is_enough(gitlab: GitLab, make: Make) -> None:
    result = gitlab.play(job(["false || echo 'an ash'", "exit 9"], image=make(), after_script=["echo 'after' it"]))
    assert result.exit_code == 9
    assert "an ash\n" in result.log.decode()
    assert "after it\n" in result.log.decode()


def test_dash_is_enough_where_escapes_are_posix(gitlab: GitLab, make: Make) -> None:
    payload = job(["echo 'a' dash", "exit 9"], image=make(*_dash()), variables={"FF_POSIXLY_CORRECT_ESCAPES": "true"})
    result = gitlab.play(payload, shell="sh")
    assert result.exit_code == 9, result.log.decode()
    assert "a dash\n" in result.log.decode()


def test_image_without_a_shell_is_the_jobs_fault_and_told_so(gitlab: GitLab, make: Make) -> None:
    image = make(directory("app"), file("app/program", Path(images.BUSYBOX).read_bytes(), mode=0o755), base=False)
    result = gitlab.play(job(image=image))
    assert (result.failure_reason, result.exit_code) == ("script_failure", 127)
    assert f"image {image} has no shell, which every job needs" in result.log.decode()
    assert "executable" not in result.log.decode()  # crun's own words


def test_entrypoint_that_is_not_there_is_told_in_one_message(gitlab: GitLab) -> None:
    result = gitlab.play(job(image={"name": "toolbox", "entrypoint": ["/no/entry.sh"]}))
    assert (result.failure_reason, result.exit_code) == ("script_failure", 127)
    lines = [line for line in result.log.decode().splitlines() if "entry.sh" in line or "executable" in line or "no shell" in line]
    assert len(lines) == 1
    assert "/no/entry.sh: program not found in the container" in lines[0]


def test_shell_in_an_unknown_place_is_not_found(gitlab: GitLab, make: Make) -> None:
    shell = [directory("opt"), file("opt/sh", Path(images.BUSYBOX).read_bytes(), mode=0o755)]
    result = gitlab.play(job(image=make(*shell, base=False, Env=["PATH=/opt"])))
    assert (result.failure_reason, result.exit_code) == ("script_failure", 1)
    assert "shell not found" in result.log.decode()


# a helper image of one's own, and services from images


def test_helper_image_without_gitlab_runner_leaves_the_job_green(gitlab: GitLab, make: Make) -> None:
    gitlab.configure(gitlab={"helper_image": make()})
    cache = [{"key": "k", "paths": ["x"], "policy": "pull-push", "when": "on_success"}]
    result = gitlab.play(job("ls -d /usr/bin/python3 && echo 'in' the toolbox", cache=cache))
    assert result.status == "success", result.log.decode()
    assert "Missing gitlab-runner. Extracting cache is disabled." in result.log.decode()
    assert "in the toolbox" in result.log.decode()


def test_service_is_waited_for_on_the_ports_that_its_image_exposes(gitlab: GitLab, make: Make) -> None:
    serve = ["/bin/sh", "-c", "sleep 1; exec httpd -f -p 8080 -h /etc"]
    service = {"name": make(ExposedPorts={"8080/tcp": {}, "53/udp": {}}, Cmd=serve), "alias": "web"}
    with gitlab.prepared(job(services=[service])) as attempt:
        assert "probably didn't start properly" not in text_of(attempt)
        assert "builder" in output(attempt, "curl -fsS http://web:8080/passwd")


def test_service_has_the_entrypoint_and_command_that_the_job_gives(gitlab: GitLab, make: Make) -> None:
    image = make(Entrypoint=["/bin/false"], Cmd=["unused"], ExposedPorts={"80/tcp": {}})
    service = {"name": image, "alias": "web", "entrypoint": ["/bin/httpd", "-f"], "command": ["-h", "/etc"]}
    with gitlab.prepared(job(services=[service])) as attempt:
        assert "builder" in output(attempt, "curl -fsS http://web/passwd")


@pytest.fixture
def registry(gitlab: GitLab) -> Iterator[LyingRegistry]:
    """Serve images in the place of two registries that are not there."""
    registry = LyingRegistry()
    with registry.running() as (host, _):
        mirror = {"mirrors": [f"http://{host}"], "mirrors_trusted": True}
        gitlab.configure(registries={"docker.io": mirror, "registry.test:5000": mirror})
        yield registry


@pytest.mark.parametrize(
    ("name", "repository", "tag", "aliases"),
    [
        ("redis", "library/redis", "latest", ["redis"]),
        ("redis:7", "library/redis", "7", ["redis"]),
        ("tutum/wordpress:latest", "tutum/wordpress", "latest", ["tutum__wordpress", "tutum-wordpress"]),
        ("registry.test:5000/a/b:1", "a/b", "1", ["registry.test__a__b", "registry.test-a-b"]),
    ],
)
def test_service_is_named_after_its_image(
    gitlab: GitLab, registry: LyingRegistry, name: str, repository: str, tag: str, aliases: list[str]
) -> None:
    image = build_image([busybox_layer()], {"Env": _ENV, "Cmd": ["httpd", "-f", "-h", "/etc"], "ExposedPorts": {"80/tcp": {}}})
    registry.add(image, repository, tag)
    with gitlab.prepared(job(services=[{"name": name, "alias": "own"}])) as attempt:
        fetch = f"for name in {' '.join(aliases)} own; do curl -fsS http://$name/passwd | grep -q builder && echo $name; done"
        assert output(attempt, fetch).split() == [*aliases, "own"]
        assert output(attempt, "grep own /etc/hosts").split() == ["10.99.0.3", *aliases, "own"]


def test_service_of_one_digest_is_named_without_it(gitlab: GitLab, registry: LyingRegistry) -> None:
    image = build_image([busybox_layer()], {"Env": _ENV, "Cmd": ["httpd", "-f", "-h", "/etc"], "ExposedPorts": {"80/tcp": {}}})
    registry.add(image, "group/web", "1")
    with gitlab.prepared(job(services=[f"group/web@{image.digest}"])) as attempt:
        assert output(attempt, "grep group__web /etc/hosts").split() == ["10.99.0.3", "group__web", "group-web"]


def test_image_that_its_registry_does_not_have_is_not_tried_again(gitlab: GitLab) -> None:
    with LyingRegistry().running() as (host, _):
        gitlab.configure(registries={host: {"plain_http": True}})
        result = gitlab.play(job(image=f"{host}/group/none:1"))
    assert (result.failure_reason, result.prepare_attempts) == ("script_failure", 1)
    assert "group/none" in result.log.decode()
