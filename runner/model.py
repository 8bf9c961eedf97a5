"""The nouns that cross layers: immutable, without I/O, cheap to import (the hot path loads this file)."""

from __future__ import annotations

from runner.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

IDS_PER_BUILD_USER = 65536


class Reference(NamedTuple):
    """An image name as OCI distribution understands it; `tag` and `digest` are "" when absent.

    `registry` is the normalised name, for Docker Hub "docker.io"; `repository` has its "library/" there.
    """

    registry: str
    repository: str
    tag: str
    digest: str

    def __str__(self) -> str:
        name = f"{self.registry}/{self.repository}"
        if self.tag:
            name += f":{self.tag}"
        return f"{name}@{self.digest}" if self.digest else name


class Descriptor(NamedTuple):
    """A content descriptor (OCI image-spec descriptor.md): `digest` is "sha256:<64 hex>", `size` in bytes."""

    media_type: str
    digest: str
    size: int


class Healthcheck(NamedTuple):
    """A health check of an image or of a service; times in seconds. An empty `test` means none."""

    test: tuple[str, ...] = ()
    interval_s: float = 30.0
    timeout_s: float = 30.0
    start_period_s: float = 0.0
    retries: int = 3


class ImageConfig(NamedTuple):
    """What an image asks of its container (OCI image-spec config.md); it may set the workload only."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    working_dir: str = ""
    user: str = ""
    exposed_ports: tuple[str, ...] = ()  # "6379/tcp", as in the image
    volumes: tuple[str, ...] = ()
    stop_signal: str = ""
    healthcheck: Healthcheck = Healthcheck()


class Layer(NamedTuple):
    """One layer: its compressed blob and the digest of its uncompressed tar ("sha256:…")."""

    blob: Descriptor
    diff_id: str


class Image(NamedTuple):
    """A stored image: every blob that it names is in the blob store.

    `digest` is the manifest's, `config_digest` the image id, `layers` lowest first.
    The toolbox (the host's own /usr) is the image whose `source` is "toolbox": no blobs, no layers.
    """

    source: str  # what the user wrote
    digest: str
    config_digest: str
    layers: tuple[Layer, ...]
    config: ImageConfig
    platform: str  # "linux/amd64"
    size: int  # of the compressed layers together, bytes


class Extent(NamedTuple):
    """`count` consecutive ids: inside the user namespace from `inside`, outside from `outside`."""

    inside: int
    outside: int
    count: int  # type: ignore[assignment]  # the kernel's word; tuple.count is not missed


class IdMap(NamedTuple):
    """Who is who in a user namespace (user_namespaces(7)); outside ids are the host's unless said otherwise."""

    uids: tuple[Extent, ...]
    gids: tuple[Extent, ...]


def beside(own: int, extents: Iterable[Extent]) -> tuple[Extent, ...]:
    """Map 0 to the outside id `own`, and 1… to the outside ids of `extents` but that one; neighbours become one extent.

    The kernel takes 340 extents at most.
    """
    found = [Extent(0, own, 1)]
    for extent in extents:
        last = found[-1]
        if extent.outside == own:
            continue
        if last.outside + last.count == extent.outside:
            found[-1] = last._replace(count=last.count + extent.count)
        else:
            found.append(Extent(last.inside + last.count, extent.outside, extent.count))
    return tuple(found)


class Account(NamedTuple):
    """The unprivileged Unix account that everything runs as."""

    name: str
    uid: int
    gid: int
    home: str


class BuildUser(NamedTuple):
    """A slice of 65,536 subordinate ids that one trust domain leases. `number` counts slices from 0."""

    name: str
    number: int
    uid_start: int
    gid_start: int

    def isolated_map(self) -> IdMap:
        """Map container ids 0…65535 to the slice; the account itself is a stranger."""
        return IdMap(
            (Extent(0, self.uid_start, IDS_PER_BUILD_USER),),
            (Extent(0, self.gid_start, IDS_PER_BUILD_USER),),
        )

    def keeper_map(self, account: Account) -> IdMap:
        """Map 0 to the account and 1…65536 to the slice: what may manage files of both."""
        isolated = self.isolated_map()
        return IdMap(beside(account.uid, isolated.uids), beside(account.gid, isolated.gids))

    def shared_map(self, account: Account, *, container_id: int, container_gid: int | None = None) -> IdMap:
        """Map the one container id `container_id` (0…65535, else ValueError) to the account and all others to the slice.

        `container_gid` is the group that is the account's, None the one of the same number.
        """
        group = container_id if container_gid is None else container_gid
        for number in (container_id, group):
            if not 0 <= number < IDS_PER_BUILD_USER:
                raise ValueError(f"container id {number} is not one of 0 to {IDS_PER_BUILD_USER - 1}")
        return IdMap(_around(container_id, account.uid, self.uid_start), _around(group, account.gid, self.gid_start))


def _around(chosen: int, own: int, start: int) -> tuple[Extent, ...]:
    below = Extent(0, start, chosen)
    above = Extent(chosen + 1, start + chosen + 1, IDS_PER_BUILD_USER - chosen - 1)
    return tuple(extent for extent in (below, Extent(chosen, own, 1), above) if extent.count)  # the kernel refuses an empty extent


class Limits(NamedTuple):
    """Bounds of one container; 0 means none. Memory in bytes, cpus in cores."""

    memory: int = 0
    cpus: float = 0.0
    pids: int = 0


class Volume(NamedTuple):
    """A directory or file of the host at `target` in a container."""

    source: str
    target: str
    read_only: bool = False


class User(NamedTuple):
    """Numeric identity inside a container, resolved and range-checked, with the passwd entry's home."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    home: str = "/"


class Step(NamedTuple):
    """One process to run in a container: what `docker run` would be told."""

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    cwd: str
    user: User
    terminal: bool = False
    umask: int = 0o022


class Outcome(NamedTuple):
    """How a step ended: `exit_code` as a shell would report it (128 + signal for a signal)."""

    exit_code: int
    signal: int = 0
    oom_killed: bool = False
    seconds: float = 0.0


class VolumeSpec(NamedTuple):
    """A volume that a container asks for.

    `kind` "bind": `source` is an absolute path of the host. "build-user": `source` is the name of a volume that outlives the job (a cache);
    one job at a time uses it. "storage": what the nested engine `source` keeps for its build user, likewise. "job": `source` is the name of
    a volume that ends with the job. Containers naming the same volume share it.
    """

    target: str
    kind: str
    source: str
    read_only: bool = False


class ContainerSpec(NamedTuple):
    """A container that was asked for; `None` means "as the image says"."""

    name: str  # "build", "helper", "service-0": unique in the job, safe as a file name
    image: str  # a reference, oci:…, docker-archive:… or toolbox
    pull_policy: tuple[str, ...] = ("if-not-present",)  # tried in order
    platform: str = ""  # "" is the machine's
    entrypoint: tuple[str, ...] | None = None
    command: tuple[str, ...] | None = None
    env: tuple[tuple[str, str], ...] = ()  # on top of the image's
    user: str = ""  # "" is the image's; else NAME|UID[:GROUP|GID]
    working_dir: str = ""
    hostname: str = ""
    aliases: tuple[str, ...] = ()  # names under which the job's other containers reach it
    volumes: tuple[VolumeSpec, ...] = ()
    limits: Limits = Limits()
    umask: int = 0o022
    init: bool = False  # a small init as PID 1 that reaps and forwards signals
    capabilities: tuple[str, ...] = ()  # () is docker's default set
    shm_size: int = 0  # bytes of /dev/shm; 0 is docker's default
    nested: bool = False  # every capability of its user namespace, and an open /proc and /sys
    engine: bool = False  # it makes containers itself, as nothing but our own toolboxes does: no system call is closed to it
    files: tuple[tuple[str, str], ...] = ()  # (absolute path, text) to begin with, root's; for the toolbox only, whose root can be trusted
    secrets: tuple[tuple[str, bytes], ...] = ()  # (absolute path, content) that only its root can read, and that is in memory alone
    own_files: tuple[tuple[str, bytes, int], ...] = ()  # (absolute path, content, mode) that belong to the account's id, likewise


class DockerSpec(NamedTuple):
    """A Docker API of a job's own: the container that serves it, and where the job's containers see it besides /var/run/docker.sock."""

    container: ContainerSpec  # it starts when somebody connects; its aliases are the names of the API's host
    certificates: str = ""  # the directory in the job's containers that has the client's certificates, "" without TLS


class JobSpec(NamedTuple):
    """A whole job as an adapter asks for it."""

    key: str  # unique among live jobs, safe as a file name: "gitlab-1f3a-4711"
    build_user: str  # the trust domain that leases a slice, safe as a file name: "gitlab-1f3a-project-7"
    containers: tuple[ContainerSpec, ...]  # run step by step: files persist between steps, processes do not
    services: tuple[ContainerSpec, ...] = ()  # started once, in this order, and live as long as the job
    network: str = "default"  # or "none"
    extra_hosts: tuple[tuple[str, str], ...] = ()  # (name, ip) in every container's /etc/hosts
    docker: DockerSpec | None = None
    staying: tuple[str, ...] = ()  # containers in which processes outlive the step that started them (job.stay)
    publishes: bool = False  # ports of its containers may be published on the host (job.publish)
    shared_id: int | None = None  # container id that is the account (shared workspace); None: isolated
    marks: tuple[tuple[str, str], ...] = ()  # the keeper's environment, by which a CI agent finds what a job has left behind
    shared_gid: int | None = None  # container group that is the account's; None: the one with the number of `shared_id`
    owner: tuple[int, int] = (0, 0)  # pid and start time of the process without which the job is an orphan; (0, 0): there is none


class RunRequest(NamedTuple):
    """A one-off container as `dockless run` was asked for it; "" and empty mean what the image or the configuration says."""

    image: str = ""
    argv: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    volumes: tuple[str, ...] = ()  # as written: SRC:DST[:ro]
    cwd: str = ""
    user: str = ""
    network: str = ""  # "default" or "none"
    pull: str = ""  # always | if-not-present | never
    limits: Limits = Limits()
    terminal: bool = False
    init: bool = False
    hostname: str = ""
    build_user: str = ""
    entrypoint: tuple[str, ...] | None = None
    platform: str = ""
    docker: bool = False  # with a Docker API of its own
