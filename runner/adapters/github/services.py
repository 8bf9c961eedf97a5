"""Services of a job: their health, and what they printed."""

from __future__ import annotations

from runner import errors
from runner.adapters.github import says
from runner.job import healthcheck
from runner.job import services as job_services
from runner.model import Healthcheck

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from runner import paths
    from runner.job.state import JobState


def check_of(asked: Healthcheck | None, image: Healthcheck) -> Healthcheck | None:
    """Return the check that counts: that of the options, its times alone over the image's test, or the image's. None for none."""
    found = asked or image
    if asked and not asked.test:
        found = asked._replace(test=image.test)
    return found if found.test and found.test[0] != "NONE" else None


def wait(current: JobState, checks: Mapping[str, Healthcheck], store: paths.Store) -> None:
    """Wait until all services are healthy. InfraError, after their logs, when one is not."""
    if not checks:
        return
    says.line(f"Waiting for {len(checks)} service{'s' if len(checks) > 1 else ''} to be healthy ...")
    bad = [report for report in healthcheck.wait(current, dict(checks)) if report.problem]
    for report in bad:
        container = current.container(report.name)
        show_log(current, report.name, store)
        if report.words:
            says.group(f"Last health check of {container.aliases[0]}", report.words.splitlines())
        says.error(f"Failed to initialize container {container.image} ({container.aliases[0]}): {report.problem}")
    if bad:
        raise errors.InfraError("One or more containers failed to start.")


def show_log(current: JobState, name: str, store: paths.Store) -> None:
    """Print what a service printed, folded away."""
    container = current.container(name)
    text = job_services.log_tail(store, current.key, name)
    says.group(f"Log of service {container.aliases[0]} ({container.image})", text.splitlines() or ["(it printed nothing)"])
