"""All targets by name, and the seeds that each begins with: tests/fuzz/corpus/TARGET holds inputs as they are, or as hex digits in *.hex.

A target is a function from bytes to nothing; whatever it raises is a finding.
"""

from collections.abc import Callable
from pathlib import Path

from tests.fuzz import of_images, of_machines, of_systems

Target = Callable[[bytes], None]

CORPUS = Path(__file__).with_name("corpus")

# those that run as root of a user namespace, whose files are made and removed there
IN_NAMESPACE = frozenset({"layers"})

TARGETS: dict[str, Target] = {
    function.__name__: function
    for function in (
        of_images.references, of_images.registries, of_images.manifests, of_images.image_configs, of_images.challenges,
        of_images.compressed, of_images.archives, of_images.layers,
        of_systems.hooks, of_systems.workflow_options, of_systems.gitlab_jobs, of_systems.gitlab_environments, of_systems.pipelines,
        of_systems.volume_texts, of_systems.own_json,
        of_machines.docker_commands, of_machines.docker_templates, of_machines.own_commands, of_machines.numbers,
        of_machines.configurations, of_machines.subordinate_ids, of_machines.id_maps, of_machines.image_users,
        of_machines.docker_clients, of_machines.grammar,
    )
}  # fmt: skip


def seeds(name: str) -> list[bytes]:
    """Return the inputs of a target's corpus, in the order of their names."""
    return [_input(path) for path in sorted((CORPUS / name).iterdir())]


def _input(path: Path) -> bytes:
    return bytes.fromhex(path.read_text()) if path.suffix == ".hex" else path.read_bytes()
