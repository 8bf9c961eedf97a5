"""A Jenkins controller to which agents connect by themselves, over a WebSocket or TCP, as far as the outside of the channel goes.

What remoting's Engine says before the channel begins: a name, a secret, and with TCP the protocol. A channel then carries bytes; the TLS
of JNLP4-connect is left out, since a container would not see through it.
"""

import base64
import hashlib
import queue
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import IO, Protocol

_PATIENCE_S = 60
_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3
_BINARY, _CONTINUATION, _CLOSE = 2, 0, 8
_ACK = b"\0\3ACK"  # AckFilterLayer


class Wire(Protocol):
    """How bytes get to an agent and back."""

    def send(self, data: bytes) -> None:
        """Send some bytes."""

    def receive(self) -> bytes:
        """Return some bytes, none when the agent has gone."""


class Connection:
    """One agent that has connected, until `close`."""

    def __init__(self, wire: Wire, *, name: str, secret: str, protocol: str) -> None:
        self.name, self.secret, self.protocol = name, secret, protocol
        self._wire = wire
        self.is_over = threading.Event()

    def echoed(self, data: bytes, *, block: int = 60_000) -> bytes:
        """Send bytes, and meanwhile receive as many; return them."""

        def send() -> None:
            for at in range(0, len(data), block):
                self._wire.send(data[at : at + block])

        writer = threading.Thread(target=send, daemon=True)
        writer.start()
        found = bytearray()
        while len(found) < len(data) and (some := self._wire.receive()):
            found += some
        writer.join(_PATIENCE_S)
        return bytes(found)

    def close(self) -> None:
        """Let the server close the connection."""
        self.is_over.set()


class _WebSocket:
    """The server's end of a WebSocket (RFC 6455, 5.2)."""

    def __init__(self, reader: BufferedIOBase, connection: socket.socket) -> None:
        self._reader, self._socket = reader, connection

    def send(self, data: bytes, *, kind: int = _BINARY) -> None:
        size = struct.pack(">B", len(data)) if len(data) < 126 else struct.pack(">BH", 126, len(data))
        self._socket.sendall(struct.pack(">B", 0x80 | kind) + size + data)

    def receive(self) -> bytes:
        while True:
            head = self._reader.read(2)
            if len(head) < 2 or head[0] & 15 == _CLOSE:
                return b""
            size = head[1] & 127
            if size > 125:
                size = int.from_bytes(self._reader.read(2 if size == 126 else 8), "big")
            assert head[1] & 128, "a client masks what it sends"
            mask, data = self._reader.read(4), self._reader.read(size)
            if head[0] & 15 in (_BINARY, _CONTINUATION):
                pattern = int.from_bytes((mask * (size // 4 + 1))[:size], "big")
                return (int.from_bytes(data, "big") ^ pattern).to_bytes(size, "big")


class _Tcp:
    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def receive(self) -> bytes:
        return self._socket.recv(65536)


class Inbound:
    """A controller at `url`, whose jar is `jar`, and whose port for agents is `tcp` (HOST:PORT)."""

    def __init__(self, jar: bytes) -> None:
        self.jar, self.url, self.tcp = jar, "", ""
        self.asked: list[str] = []
        self._connections: queue.Queue[Connection] = queue.Queue()

    def next(self) -> Connection:
        """Wait for an agent."""
        return self._connections.get(timeout=_PATIENCE_S)

    def serve(self, connection: Connection) -> None:
        """Hand a connection to whoever waits for one, until it is to be closed."""
        self._connections.put(connection)
        connection.is_over.wait(_PATIENCE_S)


@contextmanager
def serve(address: str, jar: bytes) -> Iterator[Inbound]:
    """Serve at an address of this machine."""
    controller = Inbound(jar)

    class Pages(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            controller.asked.append(self.path)
            if self.path == "/jenkins/wsagents/" and self.headers.get("Upgrade", "").lower() == "websocket":
                return self._talk()
            body = controller.jar if self.path == "/jenkins/jnlpJars/agent.jar" else b""
            is_known = body or self.path in ("/jenkins/login", "/jenkins/tcpSlaveAgentListener/")
            self.send_response(200 if is_known else 404)
            self.send_header("X-Jenkins", "2.500")
            self.send_header("X-Jenkins-JNLP-Port", controller.tcp.rpartition(":")[2])
            self.send_header("X-Jenkins-Agent-Protocols", "JNLP4-connect, Ping")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return None

        def _talk(self) -> None:
            key = hashlib.sha1(self.headers["Sec-WebSocket-Key"].encode() + _MAGIC).digest()
            accept = base64.b64encode(key).decode()
            self.connection.sendall(
                f"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n".encode()
            )
            wire = _WebSocket(self.rfile, self.connection)
            names = {"name": self.headers.get("Node-Name", ""), "secret": self.headers.get("Secret-Key", "")}
            controller.serve(Connection(wire, protocol="websocket", **names))
            try:
                wire.send(struct.pack(">H", 1000), kind=_CLOSE)
            except OSError:  # it has gone first
                pass
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    class Port(BaseRequestHandler):
        def handle(self) -> None:
            with self.request.makefile("rb") as reader:
                protocol = _utf(reader)
                self.request.sendall(_ACK)
                assert reader.read(len(_ACK)) == _ACK
                names = {"name": _utf(reader), "secret": _utf(reader)}
            controller.serve(Connection(_Tcp(self.request), protocol=protocol, **names))

    pages, port = ThreadingHTTPServer((address, 0), Pages), ThreadingTCPServer((address, 0), Port)
    port.daemon_threads = True
    controller.url, controller.tcp = (f"http://{address}:{pages.server_port}/jenkins/", f"{address}:{port.server_address[1]}")
    threads = [threading.Thread(target=server.serve_forever, daemon=True) for server in (pages, port)]
    for thread in threads:
        thread.start()
    try:
        yield controller
    finally:
        for server in (pages, port):
            server.shutdown()
            server.server_close()


def _utf(reader: IO[bytes]) -> str:
    """Read what DataOutputStream.writeUTF writes."""
    return reader.read(int.from_bytes(reader.read(2), "big")).decode()
