"""GitLab: the custom executor (https://docs.gitlab.com/runner/executors/custom/)."""
