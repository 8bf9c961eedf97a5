"""Which container each stage of a job runs in: gitlab-runner's own table (common/build.go, getPredefinedEnv)."""

BUILD, HELPER = "build", "helper"

_HELPER_STAGES = frozenset(
    (
        "prepare_script", "get_sources", "clear_worktree", "restore_cache", "download_artifacts", "archive_cache",
        "archive_cache_on_failure", "upload_artifacts_on_success", "upload_artifacts_on_failure", "cleanup_file_variables",
    )
)  # fmt: skip


def container(stage: str) -> str:
    """Return "helper" for the stages that gitlab-runner writes, "build" for the user's and for every name that is not known."""
    return HELPER if stage in _HELPER_STAGES else BUILD
