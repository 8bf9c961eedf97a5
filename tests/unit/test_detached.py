"""A container that a child creates, and what its parent hears of it."""

import os

import pytest

from runner.job.detached import Creating
from runner.kernel import process
from runner.sandbox import crun
from tests.support.engine import children


def test_child_that_ends_before_it_is_told_to_start_still_says_why() -> None:
    before = children()
    go_r, go_w = os.pipe()
    os.close(go_r)
    answer_r, answer_w = os.pipe()
    pid = os.fork()
    if pid == 0:
        process.answer_and_exit(answer_w, lambda: ["no such program", "choose another", 127])
    os.close(answer_w)
    with pytest.raises(crun.StartFailure, match="no such program") as caught:
        Creating(pid, go_w, answer_r).start()
    assert (caught.value.exit_code, children()) == (127, before)
