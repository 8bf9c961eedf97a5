"""Other clients of Docker's API, unmodified, in a job: docker-compose, the docker package, testcontainers, podman --remote."""

from collections.abc import Callable

from tests.support.docker_images import BASE
from tests.support.docker_jobs import VENV, DockerJobs

_COMPOSE = f"""
mkdir -p /tmp/shop/web
cd /tmp/shop
cat > web/Dockerfile <<'END'
FROM {BASE}
RUN mkdir /www && echo "from the shop" > /www/index.html
CMD ["httpd", "-f", "-h", "/www"]
END
cat > docker-compose.yml <<'END'
version: "2.4"
services:
  web:
    build: web
    ports: ["8080:80"]
    healthcheck: {{test: ["CMD", "wget", "-q", "-O", "/dev/null", "http://127.0.0.1/"], interval: 1s, timeout: 5s, retries: 30}}
  asker:
    image: {BASE}
    depends_on: {{web: {{condition: service_healthy}}}}
    command: sh -c 'wget -q -O - http://web/ && exec sleep 4713'
    volumes: ["kept:/kept"]
volumes:
  kept: {{}}
END
"""


def test_compose_starts_a_service_when_the_other_one_is_healthy(jobs: DockerJobs) -> None:
    out = jobs.passes(f"""{_COMPOSE}
export COMPOSE_PROJECT_NAME=shop
docker-compose up -d --build
docker-compose ps
curl -fsS http://docker:8080/
until docker-compose logs --no-color asker | grep 'from the shop'; do sleep 0.2; done
docker-compose exec -T web sh -c 'echo inside $(hostname | wc -c)'
docker inspect --format '{{{{.State.Health.Status}}}}' $(docker-compose ps -q web)
docker-compose down -v --rmi local
docker ps -aq
docker volume ls -q
docker network ls --format '{{{{.Name}}}}' | grep shop || echo nothing is left""")
    assert "\nfrom the shop\n" in out
    assert "inside " in out
    assert "\nhealthy\n" in out
    assert out.endswith("\nnothing is left\n")


def test_compose_up_ends_with_the_code_of_the_service_that_it_waits_for(jobs: DockerJobs) -> None:
    result = jobs.run(f"""{_COMPOSE}
sed -i 's/exec sleep 4713/exit 9/' docker-compose.yml
docker-compose -p shop up --no-color --exit-code-from asker""")
    assert result.code == 9, result.out
    assert "from the shop" in result.out


def test_docker_package_builds_runs_and_looks(jobs: DockerJobs) -> None:
    out = jobs.python(f"""
import io, docker

client = docker.from_env()
assert client.ping()
dockerfile = b"FROM {BASE}\\nRUN echo built > /made\\nLABEL purpose=test\\n"
image, log = client.images.build(fileobj=io.BytesIO(dockerfile), tag="made:v1")
print("label", image.labels["purpose"], "steps", any("made" in str(line) for line in log))
print("run", client.containers.run("made:v1", "cat /made", remove=True).decode().strip())
try:
    client.containers.run("made:v1", ["sh", "-c", "echo said >&2; exit 7"], remove=True)
except docker.errors.ContainerError as e:
    print("failed", e.exit_status)
try:
    client.images.get("no-such-image")
except docker.errors.ImageNotFound:
    print("not found")
network = client.networks.create("own")
web = client.containers.run("made:v1", "httpd -f -h /etc", detach=True, name="web", network="own", ports={{"80/tcp": None}})
web.reload()
print("state", web.status, bool(web.attrs["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"]))
# the client loses what comes together with the answer's head (it reads the socket beneath the reader that took the head)
print("exec", web.exec_run(["sh", "-c", "sleep 1; echo inside; exit 3"]))
stream, facts = web.get_archive("/made")
print("archive", facts["name"], len(b"".join(stream)) > 512)
print("listed", [each.name for each in client.containers.list()])
web.stop(timeout=1)
print("ended", web.wait()["StatusCode"] in (0, 137, 143))
web.remove()
network.remove()
volume = client.volumes.create("data")
volume.remove()
client.images.remove("made:v1", force=True)
""")
    for line in ("label test steps True", "run built", "failed 7", "not found", "state running True", "archive made True"):
        assert f"{line}\n" in out
    assert "exec ExecResult(exit_code=3, output=b'inside\\n')\n" in out
    assert "listed ['web']\nended True\n" in out


_CONTAINER = f"""
import urllib.request
from testcontainers.core.container import DockerContainer
from testcontainers.core.waiting_utils import wait_for_logs

with DockerContainer("{BASE}").with_command(["sh", "-c", "echo begun; exec httpd -f -h /etc"]).with_exposed_ports(80) as web:
    wait_for_logs(web, "begun", timeout=30)
    host, port = web.get_container_host_ip(), web.get_exposed_port(80)
    print("at", host)
    for _ in range(50):
        try:
            print(urllib.request.urlopen(f"http://{{host}}:{{port}}/passwd").readline().decode().strip())
            break
        except OSError:
            import time
            time.sleep(0.1)
"""


def test_testcontainers_without_its_reaper_reaches_a_published_port(jobs: DockerJobs) -> None:
    out = jobs.python(
        f"{_CONTAINER}\nprint(web.get_docker_client().client.containers.list(all=True))", "-e", "TESTCONTAINERS_RYUK_DISABLED=true"
    )
    assert out.endswith("at docker\nroot:x:0:0:root:/root:/bin/sh\n[]\n")


def test_testcontainers_reaper_removes_what_a_killed_test_left(jobs: DockerJobs) -> None:
    out = jobs.passes(
        f"""
cat > /tmp/left.py <<'END'
import os
from testcontainers.core.container import DockerContainer
left = DockerContainer("{BASE}").with_command("sleep 4713").start()
print("started", left.get_docker_client().client.containers.list(filters={{"name": "testcontainers-ryuk"}}) != [], flush=True)
os.kill(os.getpid(), 9)
END
$PYTHON /tmp/left.py || echo killed with $?
until test -z "$(docker ps -aq)"; do sleep 0.2; done
echo all gone""",
        *VENV,
        "-e",
        "RYUK_RECONNECTION_TIMEOUT=1s",
    )
    assert out.endswith("all gone\n")
    assert "started True\n" in out


def test_podman_remote_drives_the_engine(docker_job: Callable[[str], DockerJobs]) -> None:
    out = docker_job("podman").passes(f"""
podman() {{ command podman --remote --url unix:///var/run/docker.sock "$@"; }}
podman info --format '{{{{.Host.ServiceIsRemote}}}}'
mkdir /tmp/context
printf 'FROM {BASE}\\nRUN echo by podman > /made\\n' > /tmp/context/Containerfile
podman build -q -t made /tmp/context
podman run --rm made cat /made
podman run -d --name behind made sleep 4713
podman exec behind echo inside
docker ps --format '{{{{.Names}}}}'
podman rm -f -t 0 behind""")
    assert out.startswith("true\n")
    assert "\nby podman\n" in out
    assert "\ninside\nbehind\n" in out
