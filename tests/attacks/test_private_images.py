"""A private image that one repository of GitHub has pulled is not there for the jobs of another (case 22); GitLab's are in tests/e2e."""

from pathlib import Path

import yaml

from tests.support.defences import attack, without
from tests.support.engine import Engine
from tests.support.github_runners import straight
from tests.support.images import build_image, busybox_layer
from tests.support.private_registry import PrivateRegistry

APP = build_image([busybox_layer()])


@attack(
    22,
    without("runner/adapters/github/containers.py", 'tenant="" if asked.image == around.settings.images.default else tenant', 'tenant=""'),
)
def test_private_image_of_one_repository_is_closed_to_another(engine: Engine, tmp_path: Path) -> None:
    engine.config.write_text(yaml.safe_dump({"images": {"pull_policy": "if-not-present"}}))
    ours, theirs = straight(engine, tmp_path / "ours"), straight(engine, tmp_path / "theirs", name="runner-2")
    theirs.environ |= {"GITHUB_REPOSITORY": "other/repo", "GITHUB_REPOSITORY_ID": "100"}
    with PrivateRegistry(APP).running() as registry:
        credentials = {"username": "me", "password": "s3cret", "serverUrl": registry.host}
        assert ours.prepare({"image": registry.name, "registry": credentials}).code == 0
        assert ours.cleanup().code == 0
        refused = theirs.prepare(registry.name, check=False)
        assert refused.code != 0
        assert f"registry {registry.host} wants credentials for team/app" in refused.log
        theirs.cleanup()
        assert theirs.prepare({"image": registry.name, "registry": credentials}).code == 0
        assert theirs.cleanup().code == 0
    assert engine.leftovers() == []
