"""`./dev demo`: two GitLab jobs from config to cleanup as gitlab-runner would call them, with their log and a timeline.

python -m tests.support.demo PROGRAM
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from tests.support.gitlab_replay import JobResult, Replay, job_payload

_VERBS = ("config", "prepare", "run", "cleanup")
_TEST = """#!/bin/sh -e
# the repository's own test: talks to the service `greeter` by its name
answer=$(python3 -c 'import sys, urllib.request as u; print(u.urlopen("http://greeter:8000/").read().decode())')
echo "the service says: $answer"
[ "$answer" = "$1" ] || { echo "expected: $1"; exit 7; }
"""
_GREETER = """
from http.server import BaseHTTPRequestHandler, HTTPServer
class Greeter(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello")
HTTPServer(("", 8000), Greeter).serve_forever()
"""


def main(program: str) -> int:
    """Run both jobs; 0 if they ended as they should."""
    with tempfile.TemporaryDirectory(prefix="dockless-demo-") as directory:
        Path(directory).chmod(0o755)
        sha = _make_repository(Path(directory))
        config = Path(directory) / "config.yaml"
        config.write_text(yaml.safe_dump({"gitlab": {"volumes": ["/cache", f"{directory}/git:/srv/git:ro"]}}))
        driver = {verb: [program, "--config", str(config), "gitlab", verb] for verb in _VERBS}
        good = _play(driver, sha, ["git log --format='%h %s' -1", "./test.sh hello", "id -u > state"], ['echo "as uid $(cat state)"'])
        bad = _play(driver, sha, ["./test.sh goodbye"], [])
    _print_timeline({"first job": good, "second job": bad})
    ok = (good.status, bad.status, bad.failure_reason, bad.exit_code) == ("success", "failed", "script_failure", 7)
    print(
        "demo: the first job succeeded and the second failed with its own exit code 7"
        if ok
        else "demo: the jobs ended otherwise than they should"
    )
    return 0 if ok else 1


def _make_repository(directory: Path) -> str:
    """Make a small repository that a plain file server can serve, and return its commit."""
    work, bare = directory / "work", directory / "git" / "project.git"
    work.mkdir()
    (work / "test.sh").write_text(_TEST)
    (work / "test.sh").chmod(0o755)
    who = {f"GIT_{role}_{part}": "demo@example.invalid" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")}
    env = {"PATH": os.environ["PATH"], "HOME": str(directory), "GIT_CONFIG_NOSYSTEM": "1", **who}

    def git(*arguments: str | Path) -> str:
        return subprocess.run(["git", *arguments], cwd=work, env=env, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q", "-b", "main")
    git("add", "test.sh")
    git("commit", "-q", "-m", "Test that the service greets")
    git("clone", "-q", "--bare", work, bare)
    git("-C", bare, "update-server-info")
    return git("rev-parse", "HEAD")


def _play(driver: dict[str, list[str]], sha: str, script: list[str], after: list[str]) -> JobResult:
    services: list[dict[str, Any]] = [
        {"name": "toolbox", "alias": "git", "command": ["python3", "-m", "http.server", "80", "--directory", "/srv/git"],
         "variables": [{"key": "HEALTHCHECK_TCP_PORT", "value": "80"}]},
        {"name": "toolbox", "alias": "greeter", "command": ["python3", "-c", _GREETER],
         "variables": [{"key": "HEALTHCHECK_TCP_PORT", "value": "8000"}]},
    ]  # fmt: skip
    payload = job_payload(
        script=script,
        after_script=after,
        image="toolbox",
        services=services,
        git_info={"repo_url": "http://git/project.git", "sha": sha, "depth": 0},
    )
    return Replay(driver, payload, env=dict(os.environ), log=_show, safe_directory=True).run()


def _show(piece: bytes) -> None:
    sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()


def _print_timeline(jobs: dict[str, JobResult]) -> None:
    for name, result in jobs.items():
        total = sum(seconds for _, seconds, _ in result.timeline)
        print(f"\n{name}: {total * 1000:.0f} ms in the executor")
        for phase, seconds, code in result.timeline:
            print(f"  {phase:<28}{seconds * 1000:6.0f} ms" + (f"   exit {code}" if code else ""))
    print()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
