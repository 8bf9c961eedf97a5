"""The configuration: YAML on disk -> `Settings`; unknown keys are refused with the nearest known name.

Shapes only hold what the engine and its adapters read. Sizes are bytes, durations seconds, after parsing.
"""

from __future__ import annotations

from runner.model import Limits
from runner.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Registry(NamedTuple):
    """How to reach one registry; the key in `registries:` is its normalised name ("docker.io", "registry.example:5000")."""

    mirrors: tuple[str, ...] = ()  # base URLs, tried in order before the registry itself
    plain_http: bool = False
    ca_file: str = ""
    mirrors_trusted: bool = False  # what a mirror gives out needs no second answer of the registry itself


class Trust(NamedTuple):
    """One entry of `images.trust`: what holds for the images of some repositories."""

    images: tuple[str, ...]  # doublestar globs of registry/repository in full
    rule: str  # allow | deny | digest | signed
    keys: tuple[str, ...] = ()  # files with public keys, of which any one will do


class Images(NamedTuple):
    """`images:`: what jobs may use and how it is fetched."""

    default: str = "toolbox"
    allowed: tuple[str, ...] = ()  # doublestar globs; empty allows all; the default is always allowed
    pull_policy: tuple[str, ...] = ("always",)
    allowed_pull_policies: tuple[str, ...] = ()  # empty: only what pull_policy says
    public: tuple[str, ...] = ()  # doublestar globs of images that every tenant may have once they are stored
    access_ttl: int = 3600  # seconds for which a registry's answer about a tenant is remembered; 0: never
    trust: tuple[Trust, ...] = ()  # the first one that matches counts; no match allows


class Egress(NamedTuple):
    """`network.egress`: what jobs may reach; entries are HOST[:PORT[-PORT]], where HOST is a network with its length, a name, or "host"."""

    policy: str = "default"  # default: the internet, but not the machine itself | none: only what `allow` names
    allow: tuple[str, ...] = ()  # wins over `deny` and `policy`; also the servers of `network.dns`
    deny: tuple[str, ...] = ()


class Network(NamedTuple):
    """`network:`: the job's own network."""

    subnet: str = "10.99.0.0/16"  # IPv4, /16 … /23; the last /24 is the uplink's
    mtu: int = 0  # 0: that of the host's default route
    dns: tuple[str, ...] = ()  # empty: the host's resolver
    egress: Egress = Egress()


class ServiceSettings(NamedTuple):
    """One entry of `gitlab.services`: a service that every job gets."""

    name: str
    alias: str = ""
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()


class GitLab(NamedTuple):
    """`gitlab:`: the custom executor; names follow [runners.docker] of GitLab Runner's config.toml."""

    trust_domain: str = "project"  # project | namespace | runner: who shares a build user
    builds_dir: str = "/builds"
    cache_dir: str = "/cache"
    helper_image: str = "toolbox"
    runner_binary: str = ""  # empty: gitlab-runner on the trusted PATH, if there is one
    user: str = ""  # default user of the build container
    allowed_users: tuple[str, ...] = ()
    allowed_services: tuple[str, ...] = ()
    services_limit: int = 0  # 0: no limit
    services: tuple[ServiceSettings, ...] = ()
    wait_for_services_timeout: int = 30  # 0 means 30, negative means do not wait
    volumes: tuple[str, ...] = ("/cache",)
    disable_cache: bool = False
    disable_entrypoint_overwrite: bool = False
    hostname: str = ""
    extra_hosts: tuple[str, ...] = ()  # "name:ip"


class GitHub(NamedTuple):
    """`github:`: the container hooks of GitHub's runner."""

    trust_domain: str = "repository"  # repository | owner | runner: who shares a build user
    allowed_volumes: tuple[str, ...] = ()  # doublestar globs of the host's paths, besides _work, that workflows may name as volumes


class Docker(NamedTuple):
    """`docker:`: what becomes of jobs that want a Docker API."""

    mode: str = "replace"  # replace: services of docker's dind image | provide: for every job | off
    engine: str = "auto"  # auto | podman | dockerd: which of the host's engines serves it


class Security(NamedTuple):
    """`security:`: what containers may do beyond the usual."""

    open: tuple[str, ...] = ()  # groups of system calls (sandbox.closed_calls)
    core_dumps: bool = False


class Gc(NamedTuple):
    """`gc:`: how full the disk may be, and how much of it build users keep; 0 means no limit of age or size."""

    high: int = 85  # percent of the file system: above it things that are not in use go, least recently used first …
    low: int = 70  # … until it is no fuller than this
    volumes_max_age: int = 30 * 86400
    volumes_max_size: int = 50 * 1024**3  # of one build user's volumes together
    storage_max_age: int = 30 * 86400
    storage_max_size: int = 50 * 1024**3


class Disk(NamedTuple):
    """What of `limits:` holds for a whole job; 0 means no limit, sizes in bytes."""

    disk: int = 0  # what a job may write
    disk_reserve: int = 256 * 1024**2  # what stays free on the store's file system: below it the biggest job ends
    log: int = 100 * 1024**2  # what is kept of the output of one service, or of the job's Docker engine


class Settings(NamedTuple):
    """Everything; the default value is what an empty file means."""

    account: str = "dockless"  # used only when a command starts as root
    state_dir: str = ""  # empty: paths.state_directory of the account
    images: Images = Images()
    registries: tuple[tuple[str, Registry], ...] = ()
    network: Network = Network()
    limits: Limits = Limits()
    service_limits: Limits = Limits()
    gitlab: GitLab = GitLab()
    gc: Gc = Gc()
    docker: Docker = Docker()
    github: GitHub = GitHub()
    disk: Disk = Disk()
    security: Security = Security()

    def registry(self, name: str) -> Registry:
        """Return how to reach a registry; one that is not configured is reached by https."""
        return dict(self.registries).get(name, Registry())


def decode(value: list[Any]) -> Settings:
    """Build Settings again from what JSON makes of them (named tuples become lists)."""
    account, state_dir, images, registries, network, limits, service_limits, gitlab, gc, docker, github, disk, security = map(
        _tuples, value
    )
    lab, net, pictures = GitLab(*gitlab), Network(*network), Images(*images)
    return Settings(
        account=account,
        state_dir=state_dir,
        images=pictures._replace(trust=tuple(Trust(*rule) for rule in pictures.trust)),
        registries=tuple((name, Registry(*entry)) for name, entry in registries),
        network=net._replace(egress=Egress(*net.egress)),
        limits=Limits(*limits),
        service_limits=Limits(*service_limits),
        gitlab=lab._replace(services=tuple(ServiceSettings(*service) for service in lab.services)),
        gc=Gc(*gc),
        docker=Docker(*docker),
        github=GitHub(*github),
        disk=Disk(*disk),
        security=Security(*security),
    )


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
