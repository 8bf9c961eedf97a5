"""The fake GitLab answers a runner as the real one does, request by request and mistake by mistake."""

import io
import json
import socket
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from tests.support.coordinator import Coordinator, Job

TOKEN = "glrt-abcdefghijkl"


class Runner:
    """A runner's side of the talk: plain requests, with nothing remembered between them."""

    def __init__(self, url: str) -> None:
        self.api = f"{url}/api/v4"
        self.session = requests.Session()
        self.session.trust_env = False

    def ask(self, method: str, path: str, **more: Any) -> requests.Response:
        return self.session.request(method, self.api + path, timeout=10, **more)

    def request_job(self, token: str = TOKEN) -> requests.Response:
        return self.ask("POST", "/jobs/request", json={"token": token, "info": {"executor": "custom"}}, headers={"RUNNER-TOKEN": token})

    def update(self, job: Job, state: str, **more: Any) -> requests.Response:
        return self.ask("PUT", f"/jobs/{job.id}", json={"token": job.token, "state": state, **more})

    def patch(self, job: Job, data: bytes, *, start: int, token: str = "") -> requests.Response:
        headers = {"JOB-TOKEN": token or job.token, "Content-Range": f"{start}-{start + len(data) - 1}", "Content-Type": "text/plain"}
        return self.ask("PATCH", f"/jobs/{job.id}/trace?debug_trace=false", data=data, headers=headers)

    def upload(self, job: Job, content: bytes, *, field: str = "file", token: str = "") -> requests.Response:
        files = {field: ("artifacts.zip", content, "application/octet-stream")}
        query = "?artifact_format=zip&artifact_type=archive&expire_in=1+week"
        return self.ask("POST", f"/jobs/{job.id}/artifacts{query}", files=files, headers={"JOB-TOKEN": token or job.token})


@pytest.fixture
def coordinator() -> Coordinator:
    return Coordinator(TOKEN, artifact_limit_bytes=1000)


@pytest.fixture
def runner(coordinator: Coordinator) -> Iterator[Runner]:
    with coordinator.running() as url:
        runner = Runner(url)
        yield runner
        runner.session.close()


@pytest.fixture
def job(coordinator: Coordinator, runner: Runner) -> Job:
    """A job that the runner has picked up."""
    job = coordinator.offer(_payload(1))
    assert runner.request_job().status_code == 201
    return job


def _payload(number: int) -> dict[str, Any]:
    return {"id": number, "token": f"jobtok-{number}", "steps": [{"name": "script", "script": ["true"]}]}


def _checksum(trace: bytes) -> str:
    return f"crc32:{zlib.crc32(trace):x}"


def test_job_is_handed_out_once_and_then_there_is_none(coordinator: Coordinator, runner: Runner) -> None:
    job = coordinator.offer(_payload(1))
    first, second = runner.request_job(), runner.request_job()
    assert (first.status_code, first.headers["Content-Type"], first.json()) == (201, "application/json", _payload(1))
    assert (second.status_code, second.content) == (204, b"")
    assert second.headers["X-GitLab-Last-Update"]
    assert job.status == "running"


def test_jobs_are_handed_out_in_the_order_of_the_offers(coordinator: Coordinator, runner: Runner) -> None:
    for number in (5, 3, 4):
        coordinator.offer(_payload(number))
    assert [runner.request_job().json()["id"] for _ in range(3)] == [5, 3, 4]


@pytest.mark.parametrize("path", ["/jobs/request", "/runners/verify"])
def test_wrong_runner_token_is_forbidden(coordinator: Coordinator, runner: Runner, path: str) -> None:
    job = coordinator.offer(_payload(1))
    assert runner.ask("POST", path, json={"token": "glrt-other"}).status_code == 403
    assert runner.ask("POST", path, json={}).status_code == 403
    assert job.status == "pending"


@pytest.mark.parametrize("path", ["/jobs/request", "/runners/verify"])
@pytest.mark.parametrize("body", [b"", b"token=x", b"[]", b"{", b"\xff"])
def test_body_that_is_no_object_is_a_bad_request(runner: Runner, path: str, body: bytes) -> None:
    assert runner.ask("POST", path, data=body).status_code == 400


def test_verify_names_the_runner(runner: Runner) -> None:
    answer = runner.ask("POST", "/runners/verify", json={"token": TOKEN, "system_id": "s_1"})
    assert (answer.status_code, answer.json()["id"], answer.json()["token"]) == (200, 1, TOKEN)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/jobs/request", 405),
        ("POST", "/jobs/1", 405),
        ("GET", "/jobs/1/trace", 405),
        ("GET", "/nothing", 404),
        ("PUT", "/jobs/x", 404),
    ],
)
def test_request_that_gitlab_does_not_know_is_refused(runner: Runner, method: str, path: str, status: int) -> None:
    assert runner.ask(method, path).status_code == status


def test_picked_up_job_may_be_touched(runner: Runner, job: Job) -> None:
    answer = runner.update(job, "running")
    assert (answer.status_code, answer.headers["Job-Status"]) == (200, "running")
    assert not job.is_over()


def test_success_has_no_exit_code(runner: Runner, job: Job) -> None:
    assert runner.update(job, "success").status_code == 200
    assert (job.status, job.failure_reason, job.exit_code, job.is_over()) == ("success", "", 0, True)


def test_failure_arrives_with_reason_and_exit_code(runner: Runner, job: Job) -> None:
    assert runner.update(job, "failed", failure_reason="script_failure", exit_code=7).status_code == 200
    assert (job.status, job.failure_reason, job.exit_code) == ("failed", "script_failure", 7)


@pytest.mark.parametrize("state", ["", "pending", "canceled", "Success"])
def test_state_that_a_runner_cannot_report_is_a_bad_request(runner: Runner, job: Job, state: str) -> None:
    assert runner.update(job, state).status_code == 400
    assert job.status == "running"


def test_second_verdict_is_refused_and_changes_nothing(runner: Runner, job: Job) -> None:
    runner.update(job, "success")
    answer = runner.update(job, "failed", failure_reason="script_failure", exit_code=1)
    assert (answer.status_code, answer.headers["Job-Status"]) == (403, "success")
    assert (job.status, job.exit_code) == ("success", 0)


def test_pending_job_takes_no_reports(coordinator: Coordinator, runner: Runner) -> None:
    job = coordinator.offer(_payload(9))
    assert runner.update(job, "success").status_code == 403
    assert runner.patch(job, b"early", start=0).status_code == 403
    assert (job.status, job.trace) == ("pending", b"")


def test_wrong_job_token_is_forbidden_everywhere(runner: Runner, job: Job) -> None:
    other = {"JOB-TOKEN": "jobtok-2"}
    assert runner.ask("PUT", f"/jobs/{job.id}", json={"token": "jobtok-2", "state": "success"}).status_code == 403
    assert runner.ask("PUT", f"/jobs/{job.id}", json={"state": "success"}).status_code == 403
    assert runner.patch(job, b"x", start=0, token="jobtok-2").status_code == 403
    assert runner.upload(job, b"x", token="jobtok-2").status_code == 403
    assert runner.ask("GET", f"/jobs/{job.id}/artifacts", headers=other).status_code == 403
    assert (job.status, job.trace, job.artifacts) == ("running", b"", [])


def test_unknown_job_is_not_found_everywhere(runner: Runner) -> None:
    ghost = Job(_payload(404))
    assert runner.update(ghost, "success").status_code == 404
    assert runner.patch(ghost, b"x", start=0).status_code == 404
    assert runner.upload(ghost, b"x").status_code == 404
    assert runner.ask("GET", "/jobs/404/artifacts", headers={"JOB-TOKEN": ghost.token}).status_code == 404


@pytest.mark.parametrize("body", [b"", b"null", b'{"state": '])
def test_verdict_that_is_no_object_is_a_bad_request(runner: Runner, job: Job, body: bytes) -> None:
    assert runner.ask("PUT", f"/jobs/{job.id}", data=body, headers={"JOB-TOKEN": job.token}).status_code == 400
    assert job.status == "running"


def test_trace_grows_piece_by_piece(runner: Runner, job: Job) -> None:
    first, second = runner.patch(job, b"hello ", start=0), runner.patch(job, b"w\xc3\xb6rld\n", start=6)
    assert (first.status_code, first.headers["Range"], first.headers["Job-Status"]) == (202, "0-6", "running")
    assert (second.status_code, second.headers["Range"]) == (202, "0-13")
    assert job.log() == "hello wörld\n"


@pytest.mark.parametrize("start", [0, 4, 6])
def test_trace_that_does_not_continue_is_told_where_to(runner: Runner, job: Job, start: int) -> None:
    runner.patch(job, b"hello", start=0)
    answer = runner.patch(job, b"more", start=start)
    assert (answer.status_code, answer.headers["Range"]) == (416, "0-5")
    assert job.trace == b"hello"


@pytest.mark.parametrize("span", [None, "", "0", "0-", "-4", "a-b", "bytes 0-4/5", "0-9", "4-0", "0-3"])
def test_content_range_that_is_not_that_of_the_body_is_a_bad_request(runner: Runner, job: Job, span: str | None) -> None:
    headers = {"JOB-TOKEN": job.token, **({} if span is None else {"Content-Range": span})}
    assert runner.ask("PATCH", f"/jobs/{job.id}/trace", data=b"hello", headers=headers).status_code == 400
    assert job.trace == b""


def test_end_of_content_range_may_lie_behind_the_last_byte(runner: Runner, job: Job) -> None:
    headers = {"JOB-TOKEN": job.token, "Content-Range": "0-5"}
    assert runner.ask("PATCH", f"/jobs/{job.id}/trace", data=b"hello", headers=headers).status_code == 202


def test_verdict_with_the_checksum_of_the_trace_is_taken(runner: Runner, job: Job) -> None:
    runner.patch(job, b"hello", start=0)
    described = {"checksum": _checksum(b"hello"), "output": {"checksum": _checksum(b"hello"), "bytesize": 5}}
    assert runner.update(job, "success", **described).status_code == 200


def test_checksum_has_no_leading_zeros(runner: Runner, job: Job) -> None:
    text = next(text for text in (str(number).encode() for number in range(1000)) if zlib.crc32(text) < 16**7)
    runner.patch(job, text, start=0)
    assert len(_checksum(text)) < len("crc32:") + 8
    assert runner.update(job, "success", checksum=_checksum(text)).status_code == 200


@pytest.mark.parametrize(
    "described",
    [
        {"checksum": "crc32:0"},
        {"checksum": "md5:5d41402a"},
        {"checksum": "crc32:"},
        {"output": {"checksum": "crc32:3610a687", "bytesize": 5}},
        {"output": {"checksum": "crc32:3610a686", "bytesize": 4}},
    ],
)
def test_verdict_that_does_not_fit_the_trace_asks_for_all_of_it_again(runner: Runner, job: Job, described: dict[str, Any]) -> None:
    runner.patch(job, b"hello", start=0)  # its checksum is crc32:3610a686
    assert runner.update(job, "success", **described).status_code == 412
    assert job.status == "running"
    assert runner.patch(job, b"hello", start=0).status_code == 202
    assert runner.update(job, "success", checksum=_checksum(b"hello")).status_code == 200
    assert job.trace == b"hello"


def test_cancel_is_told_with_every_report_until_the_verdict(coordinator: Coordinator, runner: Runner, job: Job) -> None:
    coordinator.cancel(job)
    patched, touched = runner.patch(job, b"cleaning up\n", start=0), runner.update(job, "running")
    assert (patched.status_code, patched.headers["Job-Status"]) == (202, "canceling")
    assert (touched.status_code, touched.headers["Job-Status"]) == (200, "canceling")
    assert runner.update(job, "failed", failure_reason="job_canceled").status_code == 200
    assert (job.status, job.failure_reason, job.log()) == ("failed", "job_canceled", "cleaning up\n")


def test_aborted_job_refuses_reports_and_says_why(coordinator: Coordinator, runner: Runner, job: Job) -> None:
    coordinator.abort(job)
    for answer in (runner.patch(job, b"x", start=0), runner.update(job, "running"), runner.upload(job, b"x")):
        assert (answer.status_code, answer.headers["Job-Status"]) == (403, "canceled")
    assert job.is_over()


def _archive() -> bytes:
    """A zip whose bytes hold line ends and what looks like a boundary."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo("out/report.txt"), b"\r\n--boundary\r\n\r\n\x00\xff--")
    return out.getvalue()


def test_artifact_arrives_byte_for_byte_with_its_description(runner: Runner, job: Job) -> None:
    assert runner.upload(job, _archive()).status_code == 201
    (artifact,) = job.artifacts
    assert (artifact.filename, artifact.content) == ("artifacts.zip", _archive())
    assert artifact.query == {"artifact_format": "zip", "artifact_type": "archive", "expire_in": "1 week"}


def test_upload_in_chunks_as_go_sends_it_is_taken(runner: Runner, job: Job) -> None:
    form = requests.Request("POST", f"{runner.api}/x", files={"file": ("a.zip", _archive())}).prepare()
    assert isinstance(form.body, bytes)
    pieces = [form.body[:7], form.body[7:100], form.body[100:]]
    headers = {"JOB-TOKEN": job.token, "Content-Type": form.headers["Content-Type"]}
    assert runner.ask("POST", f"/jobs/{job.id}/artifacts", data=iter(pieces), headers=headers).status_code == 201
    assert job.artifacts[0].content == _archive()


def test_form_without_the_file_is_a_bad_request(runner: Runner, job: Job) -> None:
    assert runner.upload(job, b"x", field="archive").status_code == 400
    assert runner.ask("POST", f"/jobs/{job.id}/artifacts", data=b"x", headers={"JOB-TOKEN": job.token}).status_code == 400
    cut = {"JOB-TOKEN": job.token, "Content-Type": "multipart/form-data; boundary=b"}
    body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nhalf'
    assert runner.ask("POST", f"/jobs/{job.id}/artifacts", data=body, headers=cut).status_code == 400
    assert job.artifacts == []


def test_artifact_over_the_limit_is_too_large(runner: Runner, job: Job) -> None:
    assert runner.upload(job, b"x" * 1001).status_code == 413
    assert runner.upload(job, b"x" * 1000).status_code == 201


def test_job_downloads_what_another_one_left(coordinator: Coordinator, runner: Runner) -> None:
    before = coordinator.finish_with_artifact(_payload(7), filename="a.zip", content=_archive())
    answer = runner.ask("GET", "/jobs/7/artifacts?direct_download=true", headers={"JOB-TOKEN": before.token})
    assert (answer.status_code, answer.headers["Content-Type"], answer.content) == (200, "application/zip", _archive())


def test_finished_job_is_never_handed_out(coordinator: Coordinator, runner: Runner) -> None:
    coordinator.finish_with_artifact(_payload(7), filename="a.zip", content=b"")
    assert runner.request_job().status_code == 204


def test_job_without_artifacts_has_none_to_download(runner: Runner, job: Job) -> None:
    assert runner.ask("GET", f"/jobs/{job.id}/artifacts", headers={"JOB-TOKEN": job.token}).status_code == 404


def test_requests_are_kept_in_order(coordinator: Coordinator, runner: Runner, job: Job) -> None:
    runner.update(job, "running")
    runner.patch(job, b"x", start=0)
    seen = [(asked.method, asked.route) for asked in coordinator.requests]
    assert seen == [("POST", "/jobs/request"), ("PUT", "/jobs/1"), ("PATCH", "/jobs/1/trace")]
    assert coordinator.requests[2].query() == {"debug_trace": "false"}
    assert json.loads(coordinator.requests[0].body)["info"]["executor"] == "custom"


@pytest.mark.parametrize(
    "sent",
    [
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhelloX",
        b"Content-Length: minus\r\n\r\n",
        b"Content-Length: 99999999999\r\n\r\n",
    ],
)
def test_broken_framing_is_a_bad_request_and_ends_the_connection(runner: Runner, job: Job, sent: bytes) -> None:
    host, _, port = runner.api.removeprefix("http://").partition("/")[0].partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(f"PUT /api/v4/jobs/{job.id} HTTP/1.1\r\nHost: x\r\n".encode() + sent)
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as answer:
            assert answer.read().startswith(b"HTTP/1.1 400 ")
    assert job.status == "running"


def test_reports_of_many_threads_all_arrive(coordinator: Coordinator, runner: Runner) -> None:
    jobs = [coordinator.offer(_payload(number)) for number in range(1, 9)]
    for _ in jobs:
        runner.request_job()

    def play(job: Job) -> int:
        own = Runner(runner.api.removesuffix("/api/v4"))
        for position in range(20):
            own.patch(job, b"x", start=position)
        status = own.update(job, "success", checksum=_checksum(b"x" * 20)).status_code
        own.session.close()
        return status

    with ThreadPoolExecutor(len(jobs)) as pool:
        assert set(pool.map(play, jobs)) == {200}
    assert {job.status for job in jobs} == {"success"}
