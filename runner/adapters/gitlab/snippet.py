"""`gitlab register-snippet`: the part of gitlab-runner's config.toml that makes it call us."""

import json
from collections.abc import Mapping


def text(program: str, *, config: str = "", state_dir: str = "") -> str:
    """Return the lines for one [[runners]] entry, with `program` (an absolute path) as driver and the places that are named."""
    options = [*(["--config", config] if config else []), *(["--state-dir", state_dir] if state_dir else [])]

    def arguments(verb: str) -> str:
        return f"[{', '.join(_quoted(word) for word in (*options, 'gitlab', verb))}]"

    return f"""# one entry of /etc/gitlab-runner/config.toml; url, token and name are your own
[[runners]]
  name = "dockless"
  url = "https://gitlab.example.com"
  token = "glrt-..."
  executor = "custom"
  shell = "bash"
  builds_dir = "/builds"
  cache_dir = "/cache"
  # off for custom executors, on for docker's: the same for both
  safe_directory_checkout = true
  [runners.custom_build_dir]
    enabled = true
  [runners.custom]
    config_exec = {_quoted(program)}
    config_args = {arguments("config")}
    config_exec_timeout = 30
    prepare_exec = {_quoted(program)}
    prepare_args = {arguments("prepare")}
    prepare_exec_timeout = 1800
    run_exec = {_quoted(program)}
    run_args = {arguments("run")}
    cleanup_exec = {_quoted(program)}
    cleanup_args = {arguments("cleanup")}
    cleanup_exec_timeout = 300
    # the build waits five minutes at most after an abort; its default for this is ten
    graceful_kill_timeout = 60
    force_kill_timeout = 20
"""


def _quoted(text: str) -> str:
    """Return a basic string of TOML, which is JSON's but for surrogate pairs and DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def main(program: str, environ: Mapping[str, str]) -> int:
    """Print the snippet for the dockless that is running."""
    print(text(program, config=environ.get("DOCKLESS_CONFIG", ""), state_dir=environ.get("DOCKLESS_STATE", "")), end="")
    return 0
