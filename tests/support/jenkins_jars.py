"""The part of a Jenkins controller that gives its agents their jar."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Jars:
    """A controller that serves `content` as the jar of its `version`; `answers` are the status codes that it gave."""

    def __init__(self) -> None:
        self.content = b"PK\3\4 one"
        self.version = "2.500"
        self.modified = "Wed, 01 Jan 2025 00:00:00 GMT"
        self.status = 0  # what it answers instead
        self.answers: list[int] = []
        self.url = ""


@contextmanager
def serve() -> Iterator[Jars]:
    """Serve on the loopback."""
    jars = Jars()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_known = self.headers.get("If-Modified-Since") == jars.modified
            status = jars.status or (304 if is_known else 200 if self.path == "/jenkins/jnlpJars/agent.jar" else 404)
            jars.answers.append(status)
            body = jars.content if status == 200 else b""
            self.send_response(status)
            self.send_header("Last-Modified", jars.modified)
            self.send_header("X-Jenkins", jars.version)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    jars.url = f"http://127.0.0.1:{server.server_port}/jenkins/"
    try:
        yield jars
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
