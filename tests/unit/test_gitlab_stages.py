"""The table of stages: helper names are known, everything else belongs to the user's image."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.adapters.gitlab import stages

HELPER = [
    "prepare_script", "get_sources", "clear_worktree", "restore_cache", "download_artifacts", "archive_cache", "archive_cache_on_failure",
    "upload_artifacts_on_success", "upload_artifacts_on_failure", "cleanup_file_variables",
]  # fmt: skip


@pytest.mark.parametrize("stage", HELPER)
def test_stages_that_the_runner_writes_run_in_the_helper(stage: str) -> None:
    assert stages.container(stage) == stages.HELPER == "helper"


@pytest.mark.parametrize(
    "stage",
    ["build_script", "step_script", "step_release", "step_anything", "after_script", "prepare_executor", "GET_SOURCES", " get_sources", ""],
)
def test_every_other_stage_runs_in_the_jobs_image(stage: str) -> None:
    assert stages.container(stage) == stages.BUILD == "build"


@given(st.text())
def test_a_name_that_nobody_knows_is_the_users(stage: str) -> None:
    assert stages.container(stage) == ("helper" if stage in HELPER else "build")
