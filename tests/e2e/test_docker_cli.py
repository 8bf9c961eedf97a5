"""Docker's command line, unmodified, against the API of a job, with every engine behind it."""

import json
import re
from collections.abc import Callable

from tests.support.docker_images import BASE
from tests.support.docker_jobs import DockerJobs

_CONTEXT = f"""
mkdir -p /tmp/context
cd /tmp/context
cat > Dockerfile <<'END'
FROM {BASE} AS made
ARG WORD=none
RUN echo "made with $WORD" > /made && chown 1000:1000 /made
FROM {BASE}
COPY --from=made /made /made
COPY file /copied
ENV COLOUR=green
LABEL purpose=test
CMD ["cat", "/made"]
END
echo of the context > file
"""


def test_client_and_engine_introduce_themselves(jobs: DockerJobs) -> None:
    out = jobs.passes("echo host=$DOCKER_HOST; docker version --format '{{.Server.Os}}'; docker info; ls -la /var/run/docker.sock")
    assert "host=tcp://docker:2375\nlinux\n" in out
    assert re.search(r"^srw.* /var/run/docker\.sock$", out, re.MULTILINE)


def test_image_is_built_run_and_built_again_from_the_cache(jobs: DockerJobs) -> None:
    build = "docker build -t made --build-arg WORD=care ."
    out = jobs.passes(
        f"{_CONTEXT}{build}\ndocker run --rm made\ndocker run --rm made sh -c 'cat /copied; echo $COLOUR; ls -n /made'\n{build}"
    )
    assert "made with care\nof the context\ngreen\n" in out
    shown = out.partition("of the context\ngreen\n")[2]
    assert re.match(r"-rw-r--r-- +1 1000 +1000 ", shown)
    assert "Using cache" in shown


def test_build_fails_with_its_step_and_names_it(jobs: DockerJobs) -> None:
    result = jobs.run(f"{_CONTEXT}sed -i 's/^RUN .*/RUN exit 9/' Dockerfile\ndocker build -t made .")
    assert result.code in (1, 9)
    assert re.search(r"exit 9.*(returned a non-zero code: 9|exit status 9)", result.out, re.DOTALL)


def test_images_are_listed_tagged_inspected_and_removed(jobs: DockerJobs) -> None:
    out = jobs.passes(f"""{_CONTEXT}
docker build -q -t made .
docker tag made other:v1
docker images --format '{{{{.Repository}}}}:{{{{.Tag}}}}' | sed 's/^localhost.//' | sort
docker inspect made
docker history made >/dev/null
docker rmi other:v1 >/dev/null
docker image inspect other:v1 && exit 3
docker image inspect --format '{{{{.Config.Env}}}}' made""")
    assert "made:latest\nother:v1\n" in out
    (inspected,) = json.loads("[" + out.partition("\n[\n")[2].partition("\n]\n")[0] + "]")
    assert (inspected["Config"]["Labels"]["purpose"], inspected["Config"]["Cmd"]) == ("test", ["cat", "/made"])
    assert "COLOUR=green" in out.rpartition("\n[")[2]


def test_image_is_pushed_to_a_registry_and_pulled_from_it(jobs: DockerJobs) -> None:
    out = jobs.passes(f"""{_CONTEXT}
docker build -q -t $HUB/team/made:{jobs.api} .
docker push $HUB/team/made:{jobs.api}
docker rmi $HUB/team/made:{jobs.api} >/dev/null
docker run --rm --pull always $HUB/team/made:{jobs.api} cat /copied""")
    assert "of the context\n" in out
    result = jobs.engine.run("run", "--image", f"{jobs.hub}/team/made:{jobs.api}")
    assert (result.code, result.out) == (0, "made with none\n"), result.err


def test_image_is_saved_and_loaded(jobs: DockerJobs) -> None:
    out = jobs.passes(f"""
docker pull -q {BASE}
docker tag {BASE} kept:v1
docker save -o /tmp/image.tar kept:v1
docker rmi kept:v1 >/dev/null
docker load -i /tmp/image.tar
docker run --rm kept:v1 echo loaded again""")
    assert out.endswith("loaded again\n")


def test_image_that_does_not_exist_is_an_error_of_the_registry(jobs: DockerJobs) -> None:
    result = jobs.run("docker pull $HUB/team/nothing:v1")
    assert result.code == 1
    assert re.search(r"manifest|not found|unknown", result.out)


def test_container_runs_behind_is_entered_and_looked_at(jobs: DockerJobs) -> None:
    out = jobs.passes(f"""
docker run -d --name behind -e WHO=behind {BASE} sh -c 'echo begun; echo oops >&2; exec sleep 4713' >/dev/null
docker ps --format '{{{{.Names}}}} {{{{.Status}}}}'
docker exec behind sh -c 'echo I am $WHO'
echo through stdin | docker exec -i behind cat
docker exec behind sh -c 'exit 7' || echo exec ended with $?
docker logs behind 2>/dev/null
docker logs behind 2>&1 >/dev/null
docker inspect --format '{{{{.State.Running}}}}' behind
docker kill behind >/dev/null
docker wait behind
docker ps -q
docker rm behind""")
    assert re.search(r"^behind Up ", out, re.MULTILINE)
    for line in ("I am behind", "through stdin", "exec ended with 7", "begun", "oops", "true", "137"):
        assert f"{line}\n" in out
    assert out.endswith("137\nbehind\n")


def test_exit_code_and_stdin_of_a_run_are_passed_on(jobs: DockerJobs) -> None:
    out = jobs.passes(f"""
echo piped | docker run -i --rm {BASE} cat
docker run {BASE} sh -c 'exit 7' || echo ended with $?
docker run --rm {BASE} sh -c 'exit 8' || echo ended with $?
docker run --rm --name again {BASE} sh -c 'sleep 1; exit 9' || echo ended with $?
docker run --rm --name again {BASE} true""")
    assert out.endswith("piped\nended with 7\nended with 8\nended with 9\n")


def test_container_has_an_init_that_reaps(jobs: DockerJobs) -> None:
    out = jobs.passes(f"docker run --rm --init {BASE} sh -c 'cat /proc/1/cmdline' | tr '\\0' ' '")
    assert out.rpartition("\n")[2].endswith("-init -- sh -c cat /proc/1/cmdline ")


def test_files_are_copied_into_a_container_and_out_of_it(jobs: DockerJobs) -> None:
    out = jobs.passes(f"""
docker create --name box {BASE} cat /tmp/in/file >/dev/null
mkdir /tmp/in
echo copied > /tmp/in/file
docker cp /tmp/in box:/tmp/
docker start -a box
docker cp box:/etc/passwd /tmp/passwd
docker rm box >/dev/null
head -n 1 /tmp/passwd""")
    assert out.endswith("copied\nroot:x:0:0:root:/root:/bin/sh\n")


def test_directory_of_the_job_is_bound_and_written_to(jobs: DockerJobs) -> None:
    out = jobs.passes(f"""
mkdir -p /builds/work
docker run --rm -v /builds/work:/w {BASE} sh -c 'echo by the container > /w/made'
cat /builds/work/made
rm /builds/work/made""", "-v", "work:/builds")  # fmt: skip
    assert out.endswith("by the container\n")


def test_host_that_is_bound_is_not_the_real_one(jobs: DockerJobs) -> None:
    result = jobs.run(f"docker run --rm -v /:/host {BASE} sh -c 'ls /host/var/lib /host/home /host/root; cat /host/etc/passwd'")
    assert "dpkg" not in result.out
    assert "dockless" not in result.out
    assert "root:x:0:0" in result.out


def test_published_port_is_reached_at_the_host_docker(jobs: DockerJobs) -> None:
    out = jobs.passes(f"""
docker run -d --name web -p 8080:80 {BASE} httpd -f -h /etc >/dev/null
docker run -d --name any -p 80 {BASE} httpd -f -h /etc >/dev/null
any=$(docker port any 80/tcp | head -n 1)
for port in 8080 ${{any##*:}}; do
    curl -fsS --retry 50 --retry-connrefused --retry-delay 0 http://docker:$port/passwd | head -n 1
done
docker rm -f web any >/dev/null""")
    assert out.count("root:x:0:0:root:/root:/bin/sh\n") == 2


def test_containers_of_a_network_know_each_other_by_name(jobs: DockerJobs) -> None:
    out = jobs.passes(f"""
docker network create backend >/dev/null
docker network ls --format '{{{{.Name}}}}' | grep backend
docker run -d --name web --network backend --network-alias www {BASE} httpd -f -h /etc >/dev/null
ask='until wget -q -O - http://web/passwd http://www/passwd; do sleep 0.1; done'
docker run --rm --network backend {BASE} timeout 30 sh -c "$ask" | grep -c root:x
docker run -d --name late {BASE} sleep 4713 >/dev/null
docker network connect backend late
docker exec late timeout 30 sh -c "$ask" | grep -c root:x
docker network disconnect backend late
docker network inspect --format '{{{{range .Containers}}}}{{{{.Name}}}} {{{{end}}}}' backend
docker rm -f web late >/dev/null
docker network rm backend""")
    assert out.splitlines()[-4:] == ["2", "2", "web ", "backend"]


def test_volume_keeps_what_containers_write(jobs: DockerJobs) -> None:
    out = jobs.passes(f"""
docker volume create data >/dev/null
docker volume ls -q
docker run --rm -v data:/d {BASE} sh -c 'echo kept > /d/f'
docker run --rm -v data:/d:ro {BASE} sh -c 'cat /d/f; echo no > /d/f' || true
docker volume inspect --format '{{{{.Name}}}} {{{{.Driver}}}}' data
docker volume rm data
docker volume ls -q""")
    assert out.startswith("data\n")
    assert "\nkept\n" in out
    assert "Read-only file system" in out or "read-only file system" in out
    assert out.endswith("data local\ndata\n")


def test_disk_use_is_told_and_what_is_not_in_use_pruned(jobs: DockerJobs) -> None:
    out = jobs.passes(f"""
docker run --name used {BASE} true
docker system df
docker system prune -f
docker ps -aq
docker system df""")
    assert re.search(r"^Images +1 ", out, re.MULTILINE)
    assert re.findall(r"^Containers +([0-9]+) ", out, re.MULTILINE) == ["1", "0"]


def test_client_in_a_container_finds_the_socket_that_is_bound_into_it(jobs: DockerJobs) -> None:
    bound = "-v /var/run/docker.sock:/var/run/docker.sock"
    out = jobs.passes(f"docker run --rm {bound} docker:24.0.5-cli docker version --format 'seen {{{{.Server.Os}}}}'")
    assert out.endswith("seen linux\n")


# what buildx would send: Debian has a command line that needs it, and no buildx. The context is fetched by the builder itself
_BUILDKIT = f"""
mkdir -p /tmp/kit /tmp/served
cd /tmp/kit
cat > Dockerfile <<'END'
FROM {BASE}
RUN --mount=type=cache,target=/cache echo "found [$(ls /cache)]" > /found && echo > /cache/kept
END
python3 -m http.server --directory /tmp/served 8000 >/dev/null 2>&1 &
url=http://$(hostname -i):8000/context.tar
curl -sS --retry 50 --retry-connrefused --retry-delay 0 -o /dev/null $url
build() {{
    tar -cf /tmp/served/context.tar Dockerfile
    curl -sS --unix-socket /var/run/docker.sock -X POST "http://docker/v1.41/build?version=2&buildid=$1&t=$1&remote=$url"
}}
"""


def test_buildkit_of_dockerd_keeps_cache_mounts(docker_job: Callable[[str], DockerJobs]) -> None:
    out = docker_job("dockerd").passes(f"""{_BUILDKIT}
build one >/dev/null
docker run --rm one cat /found
sed -i 's/^RUN .*/& \\&\\& true/' Dockerfile
build two >/dev/null
docker run --rm two cat /found""")
    assert out.endswith("found []\nfound [kept]\n")


def test_buildkit_is_refused_with_podman_by_a_sentence_that_names_the_way_out(docker_job: Callable[[str], DockerJobs]) -> None:
    out = docker_job("podman").passes(f"{_BUILDKIT}\necho buildkit=$DOCKER_BUILDKIT\nbuild one")
    assert "buildkit=0\n" in out
    assert "BuildKit is not served by podman" in out
    assert "docker.engine: dockerd" in out
