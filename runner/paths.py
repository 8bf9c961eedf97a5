"""Every path on disk; nobody else joins store paths.

    <state>/                        0700, the account's
    ├── format                      the number of this layout; another number is refused with a hint
    ├── lock                        lock of build-users.json and of making or ending a job record
    ├── build-users.json            leases of slices: name -> index
    ├── access/<build user>.json    what registries let a tenant have (image.grants); made when first needed (lock: access/lock)
    ├── access/key                  random, for marks of credentials in these files
    ├── jenkins/<controller>/       its agent's jar as <digest>.jar, and jar.json that says which controller's and since when
    │                               (lock: jenkins/<controller>.lock); made when first needed
    ├── seccomp/<name>.bpf          compiled seccomp filters, base64; only a cache
    ├── blobs/sha256/<hex>          verified content, enters by rename only; never changes afterwards
    ├── blobs/partial/<hex>         a download under way        (lock: blobs/partial/<hex>.lock)
    ├── images/<name>.json          one stored reference -> model.Image (lock: images.lock)
    ├── layers/shared.json          the id map whose layers all build users see through views; absent until `dockless setup`
    ├── layers/<map>/<diff>/        one unpacked layer, owned by the ids of one map (lock: layers/<map>.lock)
    ├── layers/<map>/<diff>.seal    what says that the layer is whole; without it, or when it does not fit, there is no layer
    ├── layers/<map>/map.json       the id map
    ├── layers/<map>/.<diff>.<rnd>/ a layer being unpacked; renamed to <diff> when it is whole
    ├── layers/<map>/.<diff>.lock   lock of unpacking, held shared by pulls that will record an image with the layer
    ├── volumes/<build user>/<slot>/<volume>/   what outlives a job: builds, caches; .<volume>.used says since when
    │                               no job was given it
    ├── storage/<build user>/<engine>/<slot>/   what nested engines keep between jobs; and .<slot>.used
    │                               (both are claimed and given up under `lock`; .<name>.<rnd>.gone is being removed)
    ├── gc.log                      what the last collector said that no person had started
    ├── gc.lock                     held while a plan of deletions is made and carried out
    └── jobs/<key>/                 one job                     (lock: jobs/<key>.lock, held while it is being made or ended;
    │                               its first line names the build user)
        ├── state.json              job.state.JobState
        ├── containers/<name>/{upper,work,merged}   a container's own files
        ├── volumes/<volume>/       what ends with the job
        └── logs/<name>.log         what services print

`<map>` names an id map (image.layers), `<diff>` is the first 24 hex digits of the layer's diff id, or of its chain id after a "c": short,
because all lower directories of an overlay must fit into one page of mount options.

Lock order: gc.lock, jobs/<key>.lock, layers/<map>/.<diff>.lock (several in the order of their names), lock, images.lock,
layers/<map>.lock, blobs/partial/<hex>.lock; access/lock is held alone, and so is jenkins/<controller>.lock. A lock is held for file
operations only; the exceptions are gc.lock, which only collectors want, and a download or an unpacking, which holds the lock of its own
entry. A pull also keeps the locks of its blobs and layers, shared, until it has recorded its image under images.lock; a job that is being
made locks the records of its images, shared, until it has their layers; the collector, which holds images.lock, therefore only ever tries
all of these. Whoever looks layers up for a job does so under layers/<map>.lock, shared, and writes down in the job's state which it found
before letting go: under the same lock, exclusive, the collector takes layers out of sight.

A layer is not flushed to the disk before it is used. Its seal names the boot that unpacked it, and means nothing after another one, unless
the layer was settled meanwhile (image.settling): after a power failure a layer is whole or is unpacked again.

Outside of the store, made by `dockless setup` and root's alone to change: VIEWS/<uid>/<device>-<inode>/<map>/ shows layers/<shared map>/,
which is the directory of that device and inode number, read-only, with the ids of <map>.

Inside a job's keeper (its own mount namespace) RUN is a tmpfs that ends with the job. It covers /dev/shm, because that exists everywhere,
may be traversed by the containers' ids (the state directory may not), and hides nothing that a job could want to see of the host:

    RUN/
    ├── ns/{net,ipc,uts}-<name>     pinned namespaces of an endpoint; user-job is that of all, but for who has one of its own (job.join)
    ├── uplink                      slirp4netns: its pid and start time; absent without a network
    ├── uplink.sock                 its orders (job.publish); absent unless the job publishes ports
    ├── toolbox/                    the toolbox's own files
    ├── c/<name>/                   a container: base.json (its OCI spec), root/ (the mounted overlay), m<i> (volumes), s<i> (secrets), etc/
    │   └── <step>/                 one process: bundle (config.json), pid, log
    ├── docker/docker.sock          the job's Docker API, and docker/tls/ its certificates (job.docker)
    ├── bin/crun                    this machine's crun, read-only (sandbox.crun)
    └── crun/                       crun's own state
"""

import os

FORMAT = 1
RUN = "/dev/shm"
VIEWS = "/run/dockless"
UPLINK = f"{RUN}/uplink"
UPLINK_SOCKET = f"{RUN}/uplink.sock"
DOCKER = f"{RUN}/docker"
DOCKER_SOCKET = f"{DOCKER}/docker.sock"
DOCKER_TLS = f"{DOCKER}/tls"
USER_NAMESPACE = f"{RUN}/ns/user-job"
_PUNCTUATION = str.maketrans(dict.fromkeys("_.+-"))  # what a file name may have besides letters and digits


def state_directory(home: str, environ: dict[str, str] | None = None) -> str:
    """Return the default state directory of an account: $XDG_DATA_HOME/dockless or ~/.local/share/dockless."""
    environ = environ if environ is not None else dict(os.environ)
    base = environ.get("XDG_DATA_HOME", "")
    if not base.startswith("/"):  # the XDG specification ignores relative values
        base = f"{home}/.local/share"
    return f"{base}/dockless"


class Store:
    """The paths below one state directory. Makes nothing: `layout.prepare` does."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.format = f"{root}/format"
        self.lock = f"{root}/lock"
        self.build_users = f"{root}/build-users.json"
        self.blobs = f"{root}/blobs/sha256"
        self.partial = f"{root}/blobs/partial"
        self.images = f"{root}/images"
        self.images_lock = f"{root}/images.lock"
        self.layers = f"{root}/layers"
        self.shared_map = f"{root}/layers/shared.json"
        self.volumes = f"{root}/volumes"
        self.storage = f"{root}/storage"
        self.gc_lock = f"{root}/gc.lock"
        self.gc_log = f"{root}/gc.log"
        self.jobs = f"{root}/jobs"
        self.seccomp = f"{root}/seccomp"
        self.access = f"{root}/access"
        self.access_key = f"{root}/access/key"
        self.access_lock = f"{root}/access/lock"
        self.jenkins = f"{root}/jenkins"

    def directories(self) -> tuple[str, ...]:
        """Name the directories that every store has, parents first."""
        return (
            self.root,
            f"{self.root}/blobs",
            self.blobs,
            self.partial,
            self.images,
            self.layers,
            self.volumes,
            self.jobs,
            self.seccomp,
        )

    def blob(self, digest: str) -> str:
        """Name the file of a blob; `digest` is "sha256:<64 hex>" and was validated by image.manifest."""
        return f"{self.blobs}/{digest.removeprefix('sha256:')}"

    def partial_blob(self, digest: str) -> str:
        """Name the file that a download of this blob writes, and with ".lock" its lock."""
        return f"{self.partial}/{digest.removeprefix('sha256:')}"

    def layer_map(self, map_name: str) -> str:
        """Name the directory of all layers unpacked for one id map."""
        return f"{self.layers}/{_locked_component(map_name)}"

    def layer(self, map_name: str, name: str) -> str:
        """Name the directory of one unpacked layer."""
        return f"{self.layer_map(map_name)}/{component(name)}"

    def layer_seal(self, map_name: str, name: str) -> str:
        """Name the file that says that a layer is whole."""
        return f"{self.layer(map_name, name)}.seal"

    def layer_lock(self, map_name: str, name: str) -> str:
        """Name the lock of one layer, by its diff id's name also where the layer has its chain id's."""
        return f"{self.layer_map(map_name)}/.{component(name)}.lock"

    def layer_map_lock(self, map_name: str) -> str:
        """Name the lock of all layers of one id map."""
        return f"{self.layers}/{_locked_component(map_name)}.lock"

    def job(self, key: str) -> str:
        """Name a job's directory."""
        return f"{self.jobs}/{_locked_component(key)}"

    def job_lock(self, key: str) -> str:
        """Name the lock of a job's life cycle."""
        return f"{self.jobs}/{_locked_component(key)}.lock"

    def job_state(self, key: str) -> str:
        """Name the file that holds a job's state."""
        return f"{self.job(key)}/state.json"

    def container(self, key: str, name: str) -> str:
        """Name the directory of one container's own files."""
        return f"{self.job(key)}/containers/{component(name)}"

    def job_log(self, key: str, name: str) -> str:
        """Name the file that collects what a service prints."""
        return f"{self.job(key)}/logs/{component(name)}.log"

    def job_volume(self, key: str, name: str) -> str:
        """Name a volume that ends with its job."""
        return f"{self.job(key)}/volumes/{component(name)}"

    def build_user_volume(self, build_user: str, slot: int, name: str) -> str:
        """Name a volume that outlives jobs; one slot is used by one job at a time."""
        return f"{self.volumes}/{component(build_user)}/{slot}/{component(name)}"

    def build_storage(self, build_user: str, engine: str, slot: int) -> str:
        """Name what one nested engine keeps for a build user between jobs; one slot is used by one job at a time."""
        return f"{self.storage}/{component(build_user)}/{component(engine)}/{slot}"

    def agent_jar(self, controller: str) -> str:
        """Name the directory of the jar that a Jenkins controller gives its agents, and with ".lock" its lock."""
        return f"{self.jenkins}/{_locked_component(controller)}"

    def tenant_access(self, build_user: str) -> str:
        """Name the file that remembers what registries let a build user have."""
        return f"{self.access}/{component(build_user)}.json"


def views(uid: int, layers: os.stat_result) -> str:
    """Name the directory of all views of an account's shared layers, by which directory they are: an account may have several stores."""
    return f"{VIEWS}/{uid}/{layers.st_dev:x}-{layers.st_ino:x}"


def view(uid: int, layers: os.stat_result, map_name: str) -> str:
    """Name the mount point at which shared layers appear with the ids of another map."""
    return f"{views(uid, layers)}/{component(map_name)}"


def namespace(kind: str, endpoint: str) -> str:
    """Name the file, inside a job, that pins a namespace ("net", "ipc", "uts") of an endpoint; "user" of some."""
    return f"{RUN}/ns/{kind}-{endpoint}"


def stamp(path: str) -> str:
    """Name the file whose time says when a volume or build storage was last given to a job."""
    directory, _, name = path.rpartition("/")
    return f"{directory}/.{name}.used"


def gone(path: str) -> str:
    """Name the place of a volume or build storage that is being removed, beside it."""
    directory, _, name = path.rpartition("/")
    return f"{directory}/.{name}.{os.urandom(4).hex()}.gone"


def component(name: str) -> str:
    """Return `name` if it is safe as one path component, else raise ValueError: callers make safe names, they do not hope for them."""
    if len(name) > 200 or not name.isascii() or not name[:1].isalnum() or not name.translate(_PUNCTUATION).isalnum():
        raise ValueError(f"not a safe file name: {name!r}")
    return name


def is_job_key(name: str) -> bool:
    """Tell whether a name found on disk may be that of a job's directory."""
    try:
        return bool(_locked_component(name))
    except ValueError:
        return False


def _locked_component(name: str) -> str:
    """Like `component`, for a name whose lock lies beside it: "x.lock" would be the lock of "x"."""
    if name.endswith(".lock"):
        raise ValueError(f"not a safe file name: {name!r}")
    return component(name)
