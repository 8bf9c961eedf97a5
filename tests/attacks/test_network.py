"""Ways out of a job's network: to the host, to other jobs, to where clouds keep credentials; and what the configuration says."""

import errno
import json
import os
import socket
import socketserver
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import yaml

from tests.support.defences import attack, without
from tests.support.docker_jobs import DockerJobs, settings
from tests.support.engine import Engine
from tests.support.gitlab_jobs import GitLab, job, output
from tests.support.gitlab_runner import outward_address

EGRESS = "runner/sandbox/egress.py"
HOST_ADDRESSES = without(EGRESS, "for address in own if not", "for address in () if not")
OF_SLIRP = (EGRESS, 'lines.append(f"ip daddr {addresses.uplink} {_REJECT}")', "pass")
RESOLVER = without(*OF_SLIRP)
LOOPBACK = without(*OF_SLIRP, "runner/sandbox/uplink.py", '"--disable-host-loopback",', "")
METADATA = without(EGRESS, "lines.append(f\"ip daddr {{ {', '.join(refused)} }} {_REJECT}\")", "pass")
DENIED = without(EGRESS, "_verdicts(asked.deny, own, _REJECT)", "[]")
CLOSED = without(EGRESS, "[*lines, _REJECT] if asked.closed else lines", "lines")
QUESTIONS = without(EGRESS, "if not asked.closed or", "if True or")
NAMESPACE = without(
    *("runner/job/endpoint.py", "syscalls.unshare(syscalls.CLONE_NEWNET | ", "syscalls.unshare("),
    *("runner/job/endpoint.py", "in network.ENDPOINT_SYSCTLS:", "in ():"),
    *("runner/job/endpoint.py", "    network.configure_endpoint(addresses, endpoint.number)", "    pass"),
    *("runner/job/keeper_start.py", "    syscalls.unshare(syscalls.CLONE_NEWNET)", "    pass"),
)

REFUSED = errno.EHOSTUNREACH  # what the router's ICMP message comes to, at once
_PROBE = """
import json, socket, sys
found = {}
for host, port in json.load(sys.stdin):
    try:
        with socket.create_connection((host, port), 8) as connection:
            found[f"{host} {port}"] = connection.recv(99).decode()
    except TimeoutError:
        found[f"{host} {port}"] = "timed out"
    except OSError as e:
        found[f"{host} {port}"] = e.errno
print(json.dumps(found))
"""


def tries(engine: Engine, *targets: tuple[str, int]) -> list[Any]:
    """Return what a job's connections to some (host, port) came to: what the server said, or the number of an error."""
    result = engine.run("run", "--", "python3", "-c", _PROBE, stdin=json.dumps(targets))
    assert result.code == 0, result.err
    return list(json.loads(result.out).values())


@contextmanager
def server(address: str) -> Iterator[int]:
    """Serve a word at a free port of the host."""

    class Greet(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(b"hello")

    with socketserver.ThreadingTCPServer((address, 0), Greet) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield int(listening.server_address[1])
        listening.shutdown()
        thread.join()


def _end(process: "subprocess.Popen[str]") -> None:
    """End a job whose program ends with its stdin."""
    process.communicate(timeout=30)


@pytest.fixture
def port() -> Iterator[int]:
    """A port that is served at every address of the host."""
    with server("0.0.0.0") as number:
        yield number


@pytest.fixture
def configure(engine: Engine) -> Callable[..., None]:
    def write(**egress: Any) -> None:
        engine.config.write_text(yaml.safe_dump({"network": {"egress": egress}}))

    return write


# the host


@attack(32, HOST_ADDRESSES, RESOLVER, LOOPBACK)
def test_no_address_of_the_host_is_reached(engine: Engine, port: int) -> None:
    places = ["127.0.0.1", "10.99.0.1", "10.99.255.2", "10.99.255.3", "10.99.255.100", outward_address()]
    found = tries(engine, *((place, port) for place in places))
    assert found == [errno.ECONNREFUSED, errno.ECONNREFUSED, REFUSED, REFUSED, errno.ECONNREFUSED, REFUSED]


_FRAMES = """
import select, socket, struct, subprocess, sys, time
def checksum(data):
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    total = (total >> 16) + (total & 0xffff)
    return ~(total + (total >> 16)) & 0xffff
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as first:
    first.sendto(b"x", ("10.99.0.1", 9))  # so that the neighbour is known
mac = None
while not mac:
    words = subprocess.run(["ip", "neigh", "show", "10.99.0.1"], capture_output=True, text=True).stdout.split()
    mac = words[words.index("lladdr") + 1] if "lladdr" in words else None
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x800))
wire.bind(("eth0", 0))
own = wire.getsockname()[4]
def send(target, port, words):
    udp = struct.pack("!HHHH", 7777, port, 8 + len(words), 0) + words
    ip = lambda check: struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, check,
                                   socket.inet_aton("10.99.0.2"), socket.inet_aton(target))
    wire.send(bytes.fromhex(mac.replace(":", "")) + own + b"\\x08\\x00" + ip(checksum(ip(0))) + udp)
for _ in range(20):
    send(sys.argv[1], int(sys.argv[2]), b"stray")
    time.sleep(0.01)
while not select.select([sys.stdin], [], [], 0.1)[0]:
    send(sys.argv[1], int(sys.argv[3]), b"wanted")
"""


@attack(32, HOST_ADDRESSES)
def test_frames_that_a_job_writes_itself_are_judged_too(engine: Engine, configure: Callable[..., None]) -> None:
    address = outward_address()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as closed, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        for one in (closed, opened):
            one.bind((address, 0))
            one.settimeout(50)
        ports = [str(one.getsockname()[1]) for one in (closed, opened)]
        configure(allow=[f"host:{ports[1]}"])
        process = engine.start("run", "--", "python3", "-c", _FRAMES, address, *ports)
        try:
            assert opened.recv(99) == b"wanted"  # the frames are good: all those before it were, too
            closed.setblocking(False)
            with pytest.raises(BlockingIOError):
                closed.recv(99)
        finally:
            _end(process)


_LISTEN = """
import socket, sys
tcp = socket.create_server(("0.0.0.0", 4444))
unix = socket.socket(socket.AF_UNIX)
unix.bind("\\0" + "other-job")
unix.listen()
print("ready", flush=True)
sys.stdin.read()
"""
_ABSTRACT = """
import socket, sys
for name in sys.argv[1:]:
    with socket.socket(socket.AF_UNIX) as connection:
        print(connection.connect_ex("\\0" + name))
"""


@attack(32, NAMESPACE)
def test_abstract_sockets_of_the_host_and_of_other_jobs_are_out_of_reach(engine: Engine) -> None:
    name = f"dockless-attack-{os.getpid()}"
    other = engine.start("run", "--build-user", "other", "--", "python3", "-c", _LISTEN)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"\0{name}")
        listening.listen()
        try:
            assert other.stdout and other.stdout.readline() == "ready\n"
            result = engine.run("run", "--", "python3", "-c", _ABSTRACT, name, "other-job")
            assert result.out.split() == [str(errno.ECONNREFUSED)] * 2, result.err
            alone = engine.run("run", "--network", "none", "--", "python3", "-c", _ABSTRACT, name, "other-job")
            assert alone.out.split() == [str(errno.ECONNREFUSED)] * 2, alone.err
            near = [(f"10.99.0.{number}", 4444) for number in (1, 2)]
            assert tries(engine, *near, ("10.99.255.100", 4444)) == [errno.ECONNREFUSED] * 3
        finally:
            _end(other)


# clouds


@attack(33, METADATA)
def test_metadata_services_are_refused_at_once(engine: Engine) -> None:
    places = ["169.254.169.254", "169.254.170.2", "100.100.100.200", "168.63.129.16"]
    assert tries(engine, *((place, 80) for place in places)) == [REFUSED] * 4
    (six,) = tries(engine, ("fd00:ec2::254", 80))
    assert six == errno.ENETUNREACH


_REBIND = """
import socket, struct, sys, threading
answers = iter(sys.argv[2:])
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 53))
def serve():
    for address in answers:
        question, client = server.recvfrom(512)
        end = question.index(b"\\0", 12) + 5
        while question[end - 4 : end - 2] != b"\\0\\1":  # A
            server.sendto(question[:2] + b"\\x81\\x80" + question[4:6] + b"\\0" * 6 + question[12:end], client)
            question, client = server.recvfrom(512)
            end = question.index(b"\\0", 12) + 5
        record = b"\\xc0\\x0c\\0\\1\\0\\1" + struct.pack("!IH", 0, 4) + socket.inet_aton(address)
        server.sendto(question[:2] + b"\\x81\\x80\\0\\1\\0\\1\\0\\0\\0\\0" + question[12:end] + record, client)
threading.Thread(target=serve, daemon=True).start()
with open("/etc/resolv.conf", "w") as file:
    file.write("nameserver 127.0.0.1\\n")
port = int(sys.argv[1])
for _ in sys.argv[2:]:
    (*_, (address, _)), *_ = socket.getaddrinfo("rebound.example", port, socket.AF_INET, socket.SOCK_STREAM)
    try:
        with socket.create_connection((address, port), 8) as connection:
            print(address, connection.recv(99).decode())
    except TimeoutError:
        print(address, "timed out")
    except OSError as e:
        print(address, e.errno)
"""


@attack(33, METADATA, DENIED)
def test_name_that_is_bound_to_another_address_leads_nowhere(engine: Engine, port: int, configure: Callable[..., None]) -> None:
    address = outward_address()
    configure(allow=[f"host:{port}"], deny=["198.18.0.0/15", "10.0.0.0/8"])
    answers = [address, "169.254.169.254", "198.18.0.7", "10.1.2.3"]
    result = engine.run("run", "--", "python3", "-c", _REBIND, str(port), *answers)
    assert result.out.splitlines() == [f"{address} hello", *(f"{answer} {REFUSED}" for answer in answers[1:])], result.err


# what the configuration says


@attack(33, CLOSED, QUESTIONS)
def test_policy_none_leaves_what_is_allowed_and_no_name_server(engine: Engine, port: int, configure: Callable[..., None]) -> None:
    address = outward_address()
    with server(address) as other:
        configure(policy="none", allow=[f"{address}:{port}"])
        assert tries(engine, (address, port), (address, other), ("198.51.100.1", 80), ("10.99.255.3", 53)) == ["hello", *[REFUSED] * 3]


@attack(33, HOST_ADDRESSES)
def test_services_and_containers_of_the_docker_api_have_the_same_way_out(docker_job: Callable[[str], DockerJobs], docker_hub: str) -> None:
    jobs = docker_job("podman")
    address, hub_port = docker_hub.split(":")
    with server(address) as closed:
        egress = {"network": {"egress": {"allow": [f"host:{hub_port}"], "deny": ["198.18.0.0/15"]}}}
        jobs.engine.config.write_text(yaml.safe_dump({**settings("podman", docker_hub), **egress, "gc": {"high": 100}}))
        out = jobs.passes(f"""
docker pull alpine:3.20 > /dev/null
docker run --rm alpine:3.20 sh -c '
for target in "{address} {closed}" "169.254.169.254 80" "198.18.0.7 80"; do nc -w 20 $target < /dev/null; done' 2>&1 || true
""")
    assert out.count("No route to host") == 3, out
    assert "hello" not in out


_SPY = """
import json, socket, sys
found = []
for host, port in json.loads(sys.argv[1]):
    with socket.socket() as connection:
        connection.settimeout(20)
        found.append(connection.connect_ex((host, port)))
with socket.create_server(("0.0.0.0", 7000)) as listening:
    while True:
        connection, _ = listening.accept()
        with connection:
            connection.sendall(json.dumps(found).encode())
"""
_ASK = """
import socket, time
while True:
    try:
        with socket.create_connection(("spy", 7000), 20) as connection:
            print(connection.recv(99).decode())
            break
    except ConnectionRefusedError:
        time.sleep(0.1)
"""


@attack(33, HOST_ADDRESSES)
def test_services_have_the_way_out_of_their_job(gitlab: GitLab, port: int) -> None:
    gitlab.configure()
    targets = [(outward_address(), port), ("169.254.169.254", 80)]
    command = ["python3", "-c", _SPY, json.dumps(targets)]
    with gitlab.prepared(job(services=[{"name": "toolbox", "alias": "spy", "command": command}])) as attempt:
        said = output(attempt, f"python3 -c '{_ASK}'")
    assert json.loads(said) == [REFUSED] * 2
