"""The umask of whoever starts a job is not the job's."""

import subprocess

import pytest

from tests.support.engine import Engine


@pytest.mark.parametrize("umask", ["0077", "0000"])
@pytest.mark.parametrize("user", ["root", "user"])
def test_a_container_works_whatever_the_umask_of_its_caller(engine: Engine, umask: str, user: str) -> None:
    command = engine.argv("run", "--user", user, "toolbox", "sh", "-c", "umask; touch /tmp/new; stat -c %a /tmp/new / /etc /etc/passwd")
    done = subprocess.run(
        ["sh", "-c", f'umask {umask}; exec "$@"', "sh", *command],
        env=engine.environ(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["0022", "644", "755", "755", "644"]
