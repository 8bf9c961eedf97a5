"""When a service that does not answer yet has failed, and what is published where: pure."""

from runner.adapters.github import services
from runner.job import healthcheck, publish
from runner.model import Healthcheck


def failures(check: Healthcheck, *, step_s: float, until_s: float) -> float | None:
    """Ask every `step_s` a service that never answers; return when it has failed, None if it has not by then."""
    progress, now = healthcheck.Progress(), 0.0
    while now < until_s:
        progress = progress.after_failure(check, now=now)
        if progress.is_over(check):
            return now
        now += step_s
    return None


def test_failures_count_once_an_interval_however_often_is_asked() -> None:
    check = Healthcheck(("CMD", "x"), interval_s=10.0, retries=3)
    assert failures(check, step_s=1.0, until_s=100.0) == 30.0


def test_failures_in_the_start_period_do_not_count() -> None:
    check = Healthcheck(("CMD", "x"), interval_s=1.0, retries=1, start_period_s=50.0)
    assert failures(check, step_s=0.5, until_s=49.0) is None
    assert failures(check, step_s=0.5, until_s=60.0) == 50.0


def test_options_beat_the_image_and_may_change_its_times_alone() -> None:
    image = Healthcheck(("CMD", "image"), interval_s=5.0)
    assert services.check_of(None, image) == image
    assert services.check_of(None, Healthcheck()) is None
    assert services.check_of(Healthcheck(("NONE",)), image) is None
    assert services.check_of(Healthcheck(("CMD-SHELL", "mine")), image) == Healthcheck(("CMD-SHELL", "mine"))
    assert services.check_of(Healthcheck(interval_s=1.0), image) == Healthcheck(("CMD", "image"), interval_s=1.0)


def test_router_passes_each_port_on_to_whom_it_belongs() -> None:
    text = publish.rules([publish.Port("a", 80), publish.Port("b", 53, protocol="udp")], ["10.99.0.3", "10.99.0.4"])
    assert 'iifname "tap0" tcp dport 10000 dnat to 10.99.0.3:80' in text
    assert 'iifname "tap0" udp dport 10001 dnat to 10.99.0.4:53' in text
