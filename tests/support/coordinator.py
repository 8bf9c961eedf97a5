"""GitLab as one runner sees it: an HTTP server in this process that hands out jobs and takes traces, verdicts and artifacts.

Answers as GitLab does (lib/api/ci/runner.rb): wrong tokens get 403, unknown jobs 404, a trace that does not continue 416, a verdict whose
checksum does not fit its trace 412. A test offers jobs, and reads what became of them from the `Job` it was given.
"""

import json
import re
import threading
import urllib.parse
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from tests.support.uploads import BadUpload, form_file, read_body

FINAL_STATES = ("success", "failed")
_LAST_UPDATE = "00000000-last-update"


class Artifact(NamedTuple):
    """One file that a job uploaded, with the query that described it (artifact_type, artifact_format, expire_in)."""

    filename: str
    content: bytes
    query: dict[str, str]


class Asked(NamedTuple):
    """One request as it came, in order: for tests of what a runner sends."""

    method: str
    path: str
    headers: dict[str, str]  # names in lower case
    body: bytes

    @property
    def route(self) -> str:
        """Return the path below /api/v4 without its query."""
        return urllib.parse.urlsplit(self.path).path.removeprefix("/api/v4")

    def query(self) -> dict[str, str]:
        """Return the query; of a repeated name the last counts."""
        return dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query, keep_blank_values=True))

    def json(self) -> dict[str, Any]:
        """Return the body as an object. ValueError if it is none."""
        value = json.loads(self.body)
        if not isinstance(value, dict):
            raise ValueError("not an object")
        return value


class Answer(NamedTuple):
    """What the coordinator says to a request."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = {}


class Job:
    """A job on its way: `status` is pending, running, canceling, canceled, success or failed; `verdict` is the last final PUT's body."""

    def __init__(self, payload: dict[str, Any]) -> None:
        self.payload = payload
        self.status = "pending"
        self.trace = b""
        self.verdict: dict[str, Any] = {}
        self.artifacts: list[Artifact] = []

    @property
    def id(self) -> int:
        return int(self.payload["id"])

    @property
    def token(self) -> str:
        return str(self.payload["token"])

    @property
    def failure_reason(self) -> str:
        return str(self.verdict.get("failure_reason", ""))

    @property
    def exit_code(self) -> int:
        """Return the script's code; a runner does not send 0."""
        return int(self.verdict.get("exit_code", 0))

    def log(self) -> str:
        """Return the trace as text."""
        return self.trace.decode(errors="replace")

    def is_over(self) -> bool:
        """Tell whether the runner has nothing more to do for it."""
        return self.status in (*FINAL_STATES, "canceled")

    def takes_reports(self) -> bool:
        """Tell whether the runner may still send traces and verdicts."""
        return self.status in ("running", "canceling")


def _json(status: int, value: object, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})


def _refusal(status: int, why: str, headers: Mapping[str, str] | None = None) -> Answer:
    return _json(status, {"message": f"{status} {why}"}, headers)


class Coordinator:
    """The jobs of one GitLab and one runner token; any number of threads may ask."""

    def __init__(self, token: str = "glrt-abcdefghijkl", *, artifact_limit_bytes: int = 100 * 1024**2) -> None:
        self.token = token
        self.requests: list[Asked] = []
        self._artifact_limit_bytes = artifact_limit_bytes
        self._jobs: dict[int, Job] = {}
        self._lock = threading.Lock()
        self._routes: tuple[tuple[str, str, Callable[..., Answer]], ...] = (
            ("POST", r"/jobs/request", self._request_job),
            ("POST", r"/runners/verify", self._verify),
            ("PUT", r"/jobs/([0-9]+)", self._update),
            ("PATCH", r"/jobs/([0-9]+)/trace", self._append_trace),
            ("POST", r"/jobs/([0-9]+)/artifacts", self._take_artifact),
            ("GET", r"/jobs/([0-9]+)/artifacts", self._give_artifact),
        )

    def offer(self, payload: dict[str, Any]) -> Job:
        """Queue a job, as the API's job JSON, and return what will be known of it."""
        job = Job(payload)
        with self._lock:
            assert job.id not in self._jobs, f"job {job.id} exists"
            self._jobs[job.id] = job
        return job

    def take(self, payload: dict[str, Any]) -> Job:
        """Add a job that is running already, for tests that play only its helper's requests."""
        job = self.offer(payload)
        with self._lock:
            job.status = "running"
        return job

    def finish_with_artifact(self, payload: dict[str, Any], *, filename: str, content: bytes) -> Job:
        """Add a job that ended before, for others to depend on."""
        job = self.offer(payload)
        with self._lock:
            job.status = "success"
            job.artifacts.append(Artifact(filename, content, {"artifact_type": "archive", "artifact_format": "zip"}))
        return job

    def cancel(self, job: Job) -> None:
        """Press the cancel button: the runner learns it with its next report, and may still run after_script."""
        with self._lock:
            assert job.status == "running", job.status
            job.status = "canceling"

    def abort(self, job: Job) -> None:
        """End the job for GitLab at once: every further report is refused."""
        with self._lock:
            job.status = "canceled"

    def answer(self, asked: Asked) -> Answer:
        """Answer one request."""
        with self._lock:
            self.requests.append(asked)
            for method, pattern, handler in self._routes:
                match = re.fullmatch(pattern, asked.route)
                if match and method == asked.method:
                    return handler(asked, *(int(group) for group in match.groups()))
            known = any(re.fullmatch(pattern, asked.route) for _, pattern, _ in self._routes)
            return _refusal(405, "Method Not Allowed") if known else _refusal(404, "Not Found")

    def _request_job(self, asked: Asked) -> Answer:
        refused = self._refuse_runner(asked)
        if refused:
            return refused
        pending = next((job for job in self._jobs.values() if job.status == "pending"), None)
        if pending is None:
            return Answer(204, b"", {"X-GitLab-Last-Update": _LAST_UPDATE})
        pending.status = "running"
        return _json(201, pending.payload)

    def _verify(self, asked: Asked) -> Answer:
        return self._refuse_runner(asked) or _json(200, {"id": 1, "token": self.token, "token_expires_at": None})

    def _refuse_runner(self, asked: Asked) -> Answer | None:
        try:
            body = asked.json()
        except ValueError:
            return _refusal(400, "Bad Request")
        given = asked.headers.get("runner-token") or body.get("token")
        return None if given == self.token else _refusal(403, "Forbidden")

    def _refuse_report(self, asked: Asked, number: int, token: object) -> Answer | None:
        """Return why a report about a job is not taken, None if it is."""
        job = self._jobs.get(number)
        if job is None:
            return _refusal(404, "Not Found")
        if token != job.token:
            return _refusal(403, "Forbidden")
        return None if job.takes_reports() else _refusal(403, "Forbidden - Job is not running", {"Job-Status": job.status})

    def _update(self, asked: Asked, number: int) -> Answer:
        try:
            body = asked.json()
        except ValueError:
            return _refusal(400, "Bad Request")
        refused = self._refuse_report(asked, number, asked.headers.get("job-token") or body.get("token"))
        if refused:
            return refused
        job, state = self._jobs[number], body.get("state")
        if state in FINAL_STATES:
            if not _fits(body, job.trace):
                job.trace = b""  # the runner sends all of it again, from its beginning
                return _refusal(412, "Precondition Failed", {"Job-Status": job.status})
            job.verdict, job.status = body, str(state)
        elif state != "running":
            return _refusal(400, "Bad Request: unknown state")
        return _json(200, None, {"Job-Status": job.status})

    def _append_trace(self, asked: Asked, number: int) -> Answer:
        refused = self._refuse_report(asked, number, asked.headers.get("job-token"))
        if refused:
            return refused
        job = self._jobs[number]
        span = re.fullmatch(r"([0-9]+)-([0-9]+)", asked.headers.get("content-range", ""))
        if not span:
            return _refusal(400, "Missing header Content-Range")
        start, end, size = int(span[1]), int(span[2]), len(asked.body)
        if end - start not in (size - 1, size):  # runners have written the end both ways
            return _refusal(400, f"Content-Range {span[0]} is not that of {size} bytes")
        reply = {"Job-Status": job.status}
        if start != len(job.trace):
            return _refusal(416, "Range Not Satisfiable", {**reply, "Range": f"0-{len(job.trace)}"})
        job.trace += asked.body
        return Answer(202, b"", {**reply, "Range": f"0-{len(job.trace)}", "X-GitLab-Trace-Update-Interval": "1"})

    def _take_artifact(self, asked: Asked, number: int) -> Answer:
        refused = self._refuse_report(asked, number, asked.headers.get("job-token"))
        if refused:
            return refused
        try:
            filename, content = form_file(asked.headers.get("content-type", ""), asked.body, field="file")
        except BadUpload as e:
            return _refusal(400, str(e))
        if len(content) > self._artifact_limit_bytes:
            return _refusal(413, "Payload Too Large")
        self._jobs[number].artifacts.append(Artifact(filename, content, asked.query()))
        return _json(201, {"message": "201 Created"})

    def _give_artifact(self, asked: Asked, number: int) -> Answer:
        job = self._jobs.get(number)
        if job is None:
            return _refusal(404, "Not Found")
        if asked.headers.get("job-token") != job.token:
            return _refusal(403, "Forbidden")
        archive = next((each for each in reversed(job.artifacts) if each.query.get("artifact_type", "archive") == "archive"), None)
        if archive is None:
            return _refusal(404, "Not Found")
        headers = {"Content-Type": "application/zip", "Content-Disposition": f'attachment; filename="{archive.filename}"'}
        return Answer(200, archive.content, headers)

    @contextmanager
    def running(self, *, address: str = "127.0.0.1") -> Iterator[str]:
        """Serve; yields the URL for a runner's config.toml. Jobs cannot reach loopback, only another `address` of this machine."""
        with _serve(self.answer, address) as url:
            yield url


def _fits(verdict: Mapping[str, Any], trace: bytes) -> bool:
    """Tell whether a final PUT describes the trace that has arrived; what it does not mention fits."""
    output = verdict.get("output") or {}
    given = output.get("checksum") or verdict.get("checksum")
    if "bytesize" in output and output["bytesize"] != len(trace):
        return False
    # the runner writes it without leading zeros
    return given is None or (re.fullmatch(r"crc32:[0-9a-f]{1,8}", given) is not None and int(given[6:], 16) == zlib.crc32(trace))


@contextmanager
def _serve(answer: Callable[[Asked], Answer], address: str) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            try:
                reply = answer(Asked(self.command, self.path, headers, read_body(self.rfile, headers)))
            except BadUpload as e:
                reply = _refusal(400, str(e))
                self.close_connection = True
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            if reply.status != 204:
                self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the base class
            pass

        def handle(self) -> None:
            try:
                super().handle()
            except ConnectionError:
                pass  # a runner that is killed leaves in the middle

    class Server(ThreadingHTTPServer):
        daemon_threads = True

    server = Server((address, 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://{address}:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
