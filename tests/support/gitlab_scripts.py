"""The scripts of a job, stage by stage, as gitlab-runner gives them to a custom executor: what a driver must be able to run."""

import os
import posixpath
from typing import Any

from tests.support import gitlab_shell
from tests.support.gitlab_shell import YELLOW, Setting, Writer, double


def script(setting: Setting, stage: str) -> str:
    """Return the whole script of a stage, or "" where the runner skips it."""
    lines = body(setting, stage)
    if not lines:
        return ""
    posix, legacy = setting.flag("FF_POSIXLY_CORRECT_ESCAPES"), setting.flag("FF_USE_LEGACY_BASH_EVAL")
    return gitlab_shell.finish(lines, shell=setting.shell, posix=posix, trace=setting.flag("CI_DEBUG_TRACE"), legacy_eval=legacy)


def body(setting: Setting, stage: str) -> list[str]:
    """Return the lines of a stage, none where the runner skips it."""
    writer = Writer(setting)
    match stage:
        case "prepare_script":
            _prepare_script(writer)
        case "get_sources":
            _get_sources(writer)
        case "clear_worktree":
            _clear_worktree(writer)
        case "restore_cache":
            _restore_cache(writer)
        case "download_artifacts":
            _download_artifacts(writer)
        case "archive_cache" | "archive_cache_on_failure":
            _archive_cache(writer, succeeded=stage == "archive_cache")
        case "upload_artifacts_on_success" | "upload_artifacts_on_failure":
            _upload_artifacts(writer, succeeded=stage == "upload_artifacts_on_success")
        case "cleanup_file_variables":
            _cleanup_file_variables(writer)
        case _:
            _user_script(writer, stage)
    return writer.lines


def stage_of_step(name: str) -> str:
    """Return the stage that a step of the payload becomes."""
    return {"script": "build_script", "after_script": "after_script"}.get(name, f"step_{name}")


def _prepare_script(writer: Writer) -> None:
    host = writer.setting.hostname
    writer.line(f'echo "Running on $(hostname) via {host}..."' if host else 'echo "Running on $(hostname)..."')
    writer.remove(writer.path("gitlab_runner_env"))
    writer.remove(writer.path("masking.db"))


def _get_sources(writer: Writer) -> None:
    setting, git = writer.setting, writer.setting.payload["git_info"]
    strategy = setting.value("GIT_STRATEGY") or ("fetch" if setting.payload.get("allow_git_fetch") else "clone")
    project = setting.project_dir
    writer.exports()
    writer.line("export GIT_TERMINAL_PROMPT=0")
    writer.line("export GCM_INTERACTIVE=Never")
    _hook(writer, "pre_get_sources_script")
    writer.line("export GIT_LFS_SKIP_SMUDGE=1")
    if strategy in ("none", "empty"):
        if strategy == "empty":
            writer.line(f"rm -r -f {double(project)}")
        writer.notice(
            f"Skipping Git {'repository setup' if strategy == 'none' else 'repository setup and creating an empty build directory'}"
        )
        writer.command("mkdir", "-p", project)
    else:
        if strategy == "clone":
            writer.line(f"rm -r -f {double(project)}")
        _remove_stale(writer)
        _fetch(writer)
    if strategy != "empty" and setting.value("GIT_CHECKOUT", "true") != "false" and strategy != "none":
        writer.notice(f"Checking out {git['sha'][:8]} as detached HEAD (ref is {git['ref']})...")
        writer.command("git", "-c", "submodule.recurse=false", "checkout", "-f", "-q", git["sha"])
        flags = setting.value("GIT_CLEAN_FLAGS", "-ffdx")
        if flags != "none":
            writer.command("git", "clean", *flags.split())
        writer.if_quiet("git", "lfs", "version")
        writer.command("git", "lfs", "pull")
        writer.line("echo")
        writer.fi()
    else:
        writer.notice("Skipping Git checkout")
    writer.notice("Skipping Git submodules setup")
    _hook(writer, "post_get_sources_script")


def _fetch(writer: Writer) -> None:
    setting, git = writer.setting, writer.setting.payload["git_info"]
    project, template = setting.project_dir, posixpath.join(setting.temporary, "git-template")
    url, external = git["repo_url"], posixpath.join(setting.temporary, ".gitlab-runner.ext.conf")
    depth = int(git.get("depth") or 0)
    writer.command("mkdir", "-p", template)
    if setting.safe_directory:
        writer.command("git", "config", "--global", "--add", "safe.directory", project)
    config = posixpath.join(template, "config")
    for key, value in (
        ("init.defaultBranch", "none"),
        ("fetch.recurseSubmodules", "false"),
        ("credential.interactive", "never"),
        ("gc.autoDetach", "false"),
    ):
        writer.command("git", "config", "-f", config, key, value)
    writer.command("rm", "-f", external)
    writer.command("git", "config", "-f", external, "http.userAgent", "gitlab-runner 19.4.0 linux/amd64")
    writer.command("git", "config", "-f", config, "include.path", external)
    writer.notice(f"Fetching changes with git depth set to {depth}..." if depth else "Fetching changes...")
    writer.command("git", "init", project, "--template", template)
    writer.command("cd", project)
    writer.if_quiet("git", "remote", "add", "origin", url)
    writer.notice("Created fresh repository.")
    writer.else_()
    writer.command("git", "remote", "set-url", "origin", url)
    writer.fi()
    fetch = ["git", "fetch", "origin", "--no-recurse-submodules", *git["refspecs"]]
    flags = setting.value("GIT_FETCH_EXTRA_FLAGS", "--prune --quiet").split()
    if depth:
        writer.command(*fetch, "--depth", str(depth), *flags)
        return
    writer.if_("[ -e .git/shallow ]")
    writer.command(*fetch, *flags, "--unshallow")
    writer.else_()
    writer.command(*fetch, *flags)
    writer.fi()


def _remove_stale(writer: Writer) -> None:
    """Remove what a killed job may have left in .git, and the configuration and hooks that it may have planted."""
    git = posixpath.join(writer.setting.project_dir, ".git")
    for name in ("index.lock", "shallow.lock", "HEAD.lock", "hooks/post-checkout", "config.lock", "config"):
        writer.remove(double(posixpath.join(git, name)))
    writer.remove(f"-r {double(posixpath.join(git, 'hooks'))}")
    refs = double(posixpath.join(git, "refs"))
    writer.if_(f"[ -d {refs} ]")
    writer.line(f'find {refs} -name "*.lock" -type f -exec rm -f {{}} +')
    writer.fi()


def _hook(writer: Writer, name: str) -> None:
    commands = [line for hook in writer.setting.payload.get("hooks") or [] if hook["name"] == name for line in hook["script"]]
    if not commands:
        return
    project = double(writer.setting.project_dir)
    writer.if_(f"[ -d {project} ]")
    writer.line(f"cd {project}")
    writer.fi()
    writer.commands(commands)


def _clear_worktree(writer: Writer) -> None:
    project = double(writer.setting.project_dir)
    writer.notice("Deleting tracked and untracked files...")
    writer.if_(f"[ -d {project} ]")
    writer.line(f"cd {project}")
    writer.line("rm -f .git/index")
    writer.line("git clean -ffdx")
    writer.fi()


def _cache_file(setting: Setting, cache: dict[str, Any]) -> tuple[str, str]:
    """Return a cache's key and its archive, relative to the project as the runner spells it."""
    job = setting.payload["job_info"]["name"]
    key = cache.get("key") or f"{job}/{setting.payload['git_info']['ref']}"
    return key, os.path.relpath(posixpath.join(setting.cache_dir, key, "cache.zip"), setting.project_dir)


def _restore_cache(writer: Writer) -> None:
    setting = writer.setting
    caches = [each for each in setting.payload.get("cache") or [] if each.get("policy", "pull-push") in ("pull", "pull-push", "")]
    caches = [each for each in caches if each.get("paths") or each.get("untracked")]
    if not caches:
        return
    writer.exports()
    writer.command("cd", setting.project_dir)
    for cache in caches:
        key, archive = _cache_file(setting, cache)
        writer.guarded("Extracting cache")
        writer.notice(f"Checking cache for {key}...")
        writer.if_(" ".join(map(writer.quote, ("gitlab-runner", "cache-extractor", "--file", archive, "--timeout", "10"))))
        writer.notice("Successfully extracted cache")
        writer.else_()
        writer.notice("Failed to extract cache", YELLOW)
        writer.fi()
        writer.end_guard()


def _archive_cache(writer: Writer, *, succeeded: bool) -> None:
    setting = writer.setting
    caches = [each for each in setting.payload.get("cache") or [] if each.get("policy", "pull-push") in ("push", "pull-push", "")]
    caches = [each for each in caches if _wanted(each, succeeded=succeeded) and (each.get("paths") or each.get("untracked"))]
    if not caches:
        return
    writer.exports()
    writer.command("cd", setting.project_dir)
    for cache in caches:
        key, archive = _cache_file(setting, cache)
        words = ["gitlab-runner", "cache-archiver", "--file", archive, "--timeout", "10"]
        for path in cache.get("paths") or []:
            words += ["--path", path]
        if cache.get("untracked"):
            words.append("--untracked")
        environment = writer.path("gitlab_runner_cache_env")
        writer.guarded("Creating cache")
        writer.notice(f"Creating cache {key}...")
        writer.lines += [f"cat << EOF > {environment}", f'CACHE_METADATA="{{\\"cachekey\\":\\"{key}\\"}}"', "EOF"]
        writer.if_(" ".join(map(writer.quote, words)) + f" --env-file {environment}")
        writer.notice("Created cache")
        writer.else_()
        writer.notice("Failed to create cache", YELLOW)
        writer.fi()
        writer.remove(environment)
        writer.end_guard()


def _wanted(thing: dict[str, Any], *, succeeded: bool) -> bool:
    return (thing.get("when") or "on_success") in ("always", "on_success" if succeeded else "on_failure")


def _download_artifacts(writer: Writer) -> None:
    setting = writer.setting
    others = [each for each in setting.payload.get("dependencies") or [] if (each.get("artifacts_file") or {}).get("filename")]
    if not others:
        return
    writer.exports()
    writer.command("cd", setting.project_dir)
    writer.guarded("Artifacts downloading")
    for other in others:
        writer.notice(f"Downloading artifacts for {other['name']} ({other['id']})...")
        words = ("--url", setting.url, "--token", other["token"], "--id", str(other["id"]))
        writer.command("gitlab-runner", "artifacts-downloader", *words)
    writer.end_guard()


def _upload_artifacts(writer: Writer, *, succeeded: bool) -> None:
    setting = writer.setting
    artifacts = [each for each in setting.payload.get("artifacts") or [] if _wanted(each, succeeded=succeeded)]
    artifacts = [each for each in artifacts if each.get("paths") or each.get("untracked")]
    if not artifacts:
        return
    writer.exports()
    writer.command("cd", setting.project_dir)
    for artifact in artifacts:
        words = ["--url", setting.url, "--token", setting.payload["token"], "--id", str(setting.payload["id"])]
        words += ["--timeout", "1h0m0s", "--response-header-timeout", "10m0s"]
        for option, key in (("--path", "paths"), ("--exclude", "exclude")):
            for path in artifact.get(key) or []:
                words += [option, path]
        if artifact.get("untracked"):
            words.append("--untracked")
        for option, key in (
            ("--name", "name"),
            ("--expire-in", "expire_in"),
            ("--artifact-format", "artifact_format"),
            ("--artifact-type", "artifact_type"),
        ):
            if artifact.get(key):
                words += [option, artifact[key]]
        writer.guarded("Uploading artifacts")
        writer.notice("Uploading artifacts...")
        writer.command("gitlab-runner", "artifacts-uploader", *words)
        writer.end_guard()


def _user_script(writer: Writer, stage: str) -> None:
    setting = writer.setting
    step = next((each for each in setting.payload["steps"] if stage_of_step(each["name"]) == stage), None)
    if step is None or (stage == "after_script" and not step["script"]):
        return
    writer.exports()
    writer.command("cd", setting.project_dir)
    if stage == "after_script":
        writer.notice("Running after script...")
        writer.commands(step["script"])
        return
    around = ([each] if each else [] for each in (setting.pre_build, setting.post_build))
    before, after = around
    writer.commands([*before, *step["script"], *after])


def _cleanup_file_variables(writer: Writer) -> None:
    for name in ("gitlab_runner_env", "masking.db", ".gitlab-runner.ext.conf"):
        writer.remove(writer.path(name))
    for variable in writer.setting.variables:
        if variable.file:
            writer.remove(writer.path(variable.key))
    _remove_stale(writer)
