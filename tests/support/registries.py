"""Registries on loopback: Debian's docker-registry in three set-ups, and one of our own that lies on request."""

import base64
import json
import os
import re
import select
import signal
import socket
import socketserver
import ssl
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

from tests.support import images


class Certificates(NamedTuple):
    """A private CA and a server certificate for 127.0.0.1, localhost and registry.test, in PEM files."""

    ca: Path
    cert: Path
    key: Path


def make_certificates(directory: Path, *, address: str = "127.0.0.1") -> Certificates:
    """Make a CA and a server certificate with openssl, which names an `address` besides those of loopback."""
    directory.mkdir(parents=True, exist_ok=True)
    made = Certificates(directory / "ca.pem", directory / "server.pem", directory / "server.key")
    ca_key, request, extensions = directory / "ca.key", directory / "server.csr", directory / "server.ext"
    extensions.write_text(f"subjectAltName=IP:{address},IP:127.0.0.1,DNS:localhost,DNS:registry.test\nbasicConstraints=CA:FALSE\n")
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    for argv in (
        ["req", "-x509", *curve, "-subj", "/CN=test CA", "-days", "2", "-keyout", str(ca_key), "-out", str(made.ca)],
        ["req", *curve, "-subj", "/CN=127.0.0.1", "-keyout", str(made.key), "-out", str(request)],
        ["x509", "-req", "-in", str(request), "-CA", str(made.ca), "-CAkey", str(ca_key), "-set_serial", "2", "-days", "2",
         "-extfile", str(extensions), "-out", str(made.cert)],
    ):  # fmt: skip
        subprocess.run(["openssl", *argv], check=True, capture_output=True)
    return made


class TokenServer:
    """A token server as docker-registry's `auth: token` wants it (distribution's spec/auth/token.md): JWTs signed with RS256.

    `users` maps names to passwords; "" among them allows anonymous pulls. `requests` lists what was asked: (path, user).
    """

    def __init__(self, directory: Path, users: dict[str, str]) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.users = users
        self.key, self.bundle = directory / "token.key", directory / "token.pem"
        self.requests: list[tuple[str, str]] = []
        self.service, self.issuer = "test-registry", "test-issuer"
        argv = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=token", "-days", "2"]
        subprocess.run(["openssl", *argv, "-keyout", str(self.key), "-out", str(self.bundle)], check=True, capture_output=True)
        self.url = ""

    def mint(self, repository: str, actions: tuple[str, ...]) -> str:
        """Return a token for one repository."""
        der = ssl.PEM_cert_to_DER_cert(self.bundle.read_text())
        header = {"alg": "RS256", "typ": "JWT", "x5c": [base64.b64encode(der).decode()]}
        now = int(time.time())
        claims = {
            "iss": self.issuer, "aud": self.service, "sub": "test", "jti": os.urandom(4).hex(), "iat": now,
            "nbf": now - 10, "exp": now + 300,
            "access": [{"type": "repository", "name": repository, "actions": list(actions)}],
        }  # fmt: skip
        signed = b".".join(_base64url(json.dumps(part).encode()) for part in (header, claims))
        sign = ["openssl", "dgst", "-sha256", "-sign", str(self.key)]
        signature = subprocess.run(sign, input=signed, check=True, capture_output=True).stdout
        return (signed + b"." + _base64url(signature)).decode()

    @contextmanager
    def running(self) -> Iterator[str]:
        """Serve on loopback; yields the realm's URL."""

        def answer(request: "Request") -> "Answer":
            user, _, password = request.basic().partition(":")
            self.requests.append((request.path, user))
            if self.users.get(user) != password:
                return Answer(401, b'{"errors":[{"code":"UNAUTHORIZED","message":"no such user"}]}')
            scope = urllib.parse.parse_qs(urllib.parse.urlsplit(request.path).query).get("scope", [""])[0]
            _, name, actions = scope.split(":")
            return Answer(200, json.dumps({"token": self.mint(name, tuple(actions.split(",")))}).encode())

        with serve(answer) as (host, _):
            self.url = f"http://{host}/token"
            yield self.url


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


@contextmanager
def docker_registry(
    directory: Path,
    *,
    htpasswd: tuple[str, str] | None = None,
    tls: Certificates | None = None,
    token_server: TokenServer | None = None,
    address: str = "127.0.0.1",
) -> Iterator[str]:
    """Run Debian's docker-registry, on loopback if nothing else is said, and yield "address:port".

    Its storage, configuration and log lie in `directory`. `htpasswd` is the one (user, password) that it lets in; a `token_server`
    must be running already.
    """
    directory.mkdir(parents=True, exist_ok=True)
    # YAML is a superset of JSON
    http: dict[str, object] = {"addr": f"{address}:0", "relativeurls": True}
    settings: dict[str, object] = {
        "version": 0.1,
        "log": {"level": "info", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(directory / "storage")}},
        "http": http,
    }
    if tls:
        http["tls"] = {"certificate": str(tls.cert), "key": str(tls.key)}
    if htpasswd:
        entry = subprocess.run(["htpasswd", "-nbB", *htpasswd], check=True, capture_output=True).stdout
        (directory / "htpasswd").write_bytes(entry)
        settings["auth"] = {"htpasswd": {"realm": "test", "path": str(directory / "htpasswd")}}
    if token_server:
        settings["auth"] = {
            "token": {
                "realm": token_server.url,
                "service": token_server.service,
                "issuer": token_server.issuer,
                "rootcertbundle": str(token_server.bundle),
            }
        }
    (directory / "config.yml").write_text(json.dumps(settings))
    log = directory / "log"
    with log.open("wb") as out:
        argv = ["docker-registry", "serve", str(directory / "config.yml")]
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        yield _address(process, log)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def _address(process: "subprocess.Popen[bytes]", log: Path) -> str:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        found = re.search(rb"listening on ([0-9.]+:[0-9]+)", log.read_bytes())
        if found:
            return found[1].decode()
        if process.poll() is not None:
            break
        time.sleep(0.02)
    raise AssertionError(f"docker-registry does not listen: {log.read_text()}")


class Request(NamedTuple):
    """What a client asked of a server of ours."""

    method: str
    path: str
    headers: dict[str, str]  # names in lower case

    def basic(self) -> str:
        """Return "user:password" of a Basic Authorization header, "" without one."""
        kind, _, value = self.headers.get("authorization", "").partition(" ")
        return base64.b64decode(value).decode() if kind.lower() == "basic" else ""


class Answer(NamedTuple):
    """What it gets. `cut_at`: close the connection after so many bytes of the body; `length`: another Content-Length than the true one."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = {}
    cut_at: int = -1
    length: int = -1
    delay_s: float = 0.0


@contextmanager
def serve(
    answer: Callable[[Request], Answer], *, tls: Certificates | None = None, address: str = "127.0.0.1"
) -> Iterator[tuple[str, list[Request]]]:
    """Serve HTTP with a function; yields ("127.0.0.1:port", the list of all requests so far)."""
    seen: list[Request] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            request = Request(self.command, self.path, {name.lower(): value for name, value in self.headers.items()})
            seen.append(request)
            reply = answer(request)
            time.sleep(reply.delay_s)
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(reply.length if reply.length >= 0 else len(reply.body)))
            self.end_headers()
            if self.command == "HEAD":
                return
            self.wfile.write(reply.body if reply.cut_at < 0 else reply.body[: reply.cut_at])
            if reply.cut_at >= 0 or reply.length >= 0:
                self.close_connection = True

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the base class
            pass

        def handle(self) -> None:
            try:
                super().handle()
            except (ConnectionError, ssl.SSLError):
                pass  # a client may leave when it has seen enough

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

    server = Server((address, 0), Handler)
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls.cert, tls.key)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"{address}:{server.server_address[1]}", seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def tunnel(target: str) -> Iterator[tuple[str, list[str]]]:
    """Run an HTTP proxy that takes every CONNECT to `target`; yields its host:port and the names that it was asked for."""
    asked: list[str] = []
    address, _, port = target.rpartition(":")

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            asked.append(self.rfile.readline().decode().split()[1])
            while self.rfile.readline().strip():
                pass
            with socket.create_connection((address, int(port))) as far:
                self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
                ends = {self.connection: far, far: self.connection}
                while True:
                    for end in select.select(list(ends), [], [])[0]:
                        data = end.recv(65536)
                        if not data:
                            return
                        ends[end].sendall(data)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}", asked
        finally:
            server.shutdown()
            thread.join()


class LyingRegistry:
    """A registry that holds images of `images` and tells the truth, except where `lie` returns something else than None.

    `lie` gets every request with the truthful answer and returns the answer to send instead, or None.
    """

    def __init__(self, *, ranges: bool = True) -> None:
        self.answers: dict[str, Answer] = {}
        self.lie: Callable[[Request, Answer], Answer | None] = lambda request, truth: None
        self.ranges = ranges

    def add(self, image: images.BuiltImage, repository: str, tag: str = "latest") -> None:
        """Hold `image` as repository:tag."""
        for digest, (media_type, raw) in image.manifests.items():
            answer = Answer(200, raw, {"Content-Type": media_type, "Docker-Content-Digest": digest})
            self.answers[f"/v2/{repository}/manifests/{digest}"] = answer
            if digest == image.digest:
                self.answers[f"/v2/{repository}/manifests/{tag}"] = answer
        for digest, data in image.blobs.items():
            self.answers[f"/v2/{repository}/blobs/{digest}"] = Answer(200, data, {"Content-Type": "application/octet-stream"})

    def answer(self, request: Request) -> Answer:
        """Answer one request, truthfully or not."""
        truth = self._truth(request)
        lie = self.lie(request, truth)
        return lie if lie is not None else truth

    def _truth(self, request: Request) -> Answer:
        found = self.answers.get(urllib.parse.urlsplit(request.path).path)
        if found is None:
            return Answer(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}')
        wanted = re.fullmatch(r"bytes=([0-9]+)-", request.headers.get("range", ""))
        if not wanted or not self.ranges or "/blobs/" not in request.path:
            return found
        start = int(wanted[1])
        if start >= len(found.body):
            return Answer(416, b"")
        span = f"bytes {start}-{len(found.body) - 1}/{len(found.body)}"
        return Answer(206, found.body[start:], {**found.headers, "Content-Range": span})

    @contextmanager
    def running(self, *, tls: Certificates | None = None, address: str = "127.0.0.1") -> Iterator[tuple[str, list[Request]]]:
        """Serve; yields (host:port, the requests so far)."""
        with serve(self.answer, tls=tls, address=address) as served:
            yield served
