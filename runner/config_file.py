"""Finding and reading the configuration: YAML -> config.Settings, every problem named with its key and a hint."""

import ipaddress
from collections.abc import Callable
from typing import Any

from runner import config, config_yaml, globs, model, quantities, registry_name
from runner.config_table import Table, shown
from runner.errors import UserError
from runner.kernel import files

_POLICIES = ("always", "if-not-present", "never")
_TRUST_RULES = ("allow", "deny", "digest", "signed")
_DOCKER_MODES = ("replace", "provide", "off")
_CLOSED_CALLS = ("bpf", "io_uring", "keyring", "ldt", "mount", "perf", "tiocsti", "userfaultfd", "userns")  # sandbox.closed_calls
_RESERVED_NETWORKS = (  # IANA's IPv4 special-purpose address registry
    ("0.0.0.0/8", "this host"),
    ("127.0.0.0/8", "loopback in every container"),
    ("169.254.0.0/16", "link-local and refused to jobs"),  # sandbox.network
    ("224.0.0.0/4", "multicast"),
    ("240.0.0.0/4", "reserved"),
)
_LEAST_BYTES = 64 * 1024  # less than that was meant as gigabytes


def load(path: str) -> config.Settings:
    """Read a configuration file; "" means the defaults. UserError names file, key and what is wrong."""
    if not path:
        return config.Settings()
    try:
        raw = files.read(path, limit_bytes=4 * 1024**2)
    except OSError as e:
        raise UserError(f"configuration {path} cannot be read: {e.strerror}", "check the path and its permissions") from e
    return parse(config_yaml.decode(raw, path), path)


def parse(value: Any, where: str) -> config.Settings:
    """Turn a decoded document into Settings; `where` is named in errors. An empty document is the defaults."""
    top = Table({} if value is None else value, where)
    images, network, gitlab, github = top.table("images"), top.table("network"), top.table("gitlab"), top.table("github")
    limits = top.table("limits")
    settings = config.Settings(
        account=top.word("account", "dockless"),
        state_dir=_absolute(top, "state_dir"),
        images=config.Images(
            default=images.word("default", "toolbox"),
            allowed=images.texts("allowed"),
            pull_policy=_policies(images, "pull_policy") or ("always",),
            allowed_pull_policies=_policies(images, "allowed_pull_policies"),
            public=images.texts("public"),
            access_ttl=images.convert("access_ttl", quantities.parse_duration, config.Images().access_ttl),
            trust=tuple(_trust(item) for item in images.tables("trust")),
        ),
        registries=_registries(top.table("registries")),
        network=config.Network(subnet=_subnet(network), mtu=_mtu(network), dns=_dns(network), egress=_egress(network)),
        limits=_limits(limits),
        service_limits=_service_limits(top.table("service_limits")),
        gitlab=_gitlab(gitlab),
        gc=_gc(top.table("gc")),
        docker=_docker(top.table("docker", short="mode")),
        github=config.GitHub(
            trust_domain=github.choice("trust_domain", ("repository", "owner", "runner")),
            allowed_volumes=github.texts("allowed_volumes"),
        ),
        disk=_disk(limits),
        security=_security(top.table("security")),
    )
    for table in (images, network, limits, gitlab, github, top):
        table.refuse_unknown()
    return settings


def _check_repositories(pattern: str, where: str) -> None:
    """Raise UserError for a pattern that matches no registry/repository, as the reference of an image has them."""
    if not globs.is_pattern(pattern):
        raise UserError(f"{where} is no pattern", "a brace, a bracket or a backslash in it has no end")
    host, slash, name = pattern.partition("/")
    if ":" in name.rpartition("/")[2] or "@" in pattern:
        raise UserError(f"{where} has a tag or a digest", "rules are for whole repositories: leave it out")
    if set(host) & set("*?[{\\"):
        return
    if not slash or not ("." in host or ":" in host or host == "localhost"):
        raise UserError(f"{where} has no registry", "write it in full, such as docker.io/library/debian, or ** for all images")
    if registry_name.fold(host) != host:
        raise UserError(f"{where} has another spelling of its registry", f"write {registry_name.fold(host)}/{name}")


def _trust(table: Table) -> config.Trust:
    """Read a rule about images. A pattern that can match nothing is refused: one that denies would deny nothing."""
    patterns = table.texts("images")
    rule, keys = table.choice("rule", ("", *_TRUST_RULES)), table.texts("keys")
    table.refuse_unknown()
    if not patterns or not rule:
        missing = "rule" if patterns else "images"
        raise UserError(f"configuration {table.where}{missing} is missing", f"write images and a rule: {', '.join(_TRUST_RULES)}")
    for pattern in patterns:
        _check_repositories(pattern, f"configuration {table.where}images: {shown(pattern)}")
    for key in keys:
        if not key.startswith("/") or not key.isprintable():
            raise UserError(f"configuration {table.where}keys: {shown(key)} is not an absolute path", "begin it with a slash")
    if bool(keys) != (rule == "signed"):
        wrong = "keys is missing" if rule == "signed" else f"keys: the rule {rule} has none"
        raise UserError(f"configuration {table.where}{wrong}", "the rule signed needs public keys of cosign, and no other has any")
    return config.Trust(patterns, rule, keys)


def _gitlab(table: Table) -> config.GitLab:
    default = config.GitLab()
    return config.GitLab(
        trust_domain=table.choice("trust_domain", ("project", "namespace", "runner")),
        builds_dir=_absolute(table, "builds_dir") or default.builds_dir,
        cache_dir=_absolute(table, "cache_dir") or default.cache_dir,
        helper_image=table.word("helper_image", default.helper_image),
        runner_binary=_absolute(table, "runner_binary"),
        user=table.text("user", ""),
        allowed_users=table.texts("allowed_users"),
        allowed_services=table.texts("allowed_services"),
        services_limit=table.integer("services_limit", 0, low=0, high=250),
        services=tuple(_service(item) for item in table.tables("services")),
        wait_for_services_timeout=table.integer("wait_for_services_timeout", 30, low=-1, high=3600),
        volumes=table.texts("volumes", default.volumes),
        disable_cache=table.flag("disable_cache"),
        disable_entrypoint_overwrite=table.flag("disable_entrypoint_overwrite"),
        hostname=table.text("hostname", ""),
        extra_hosts=_extra_hosts(table),
    )


def _extra_hosts(table: Table) -> tuple[str, ...]:
    entries = table.texts("extra_hosts")
    for entry in entries:
        name, _, address = entry.partition(":")
        if not name or not name.replace("-", "").replace(".", "").replace("_", "").isalnum() or not name.isascii():
            raise UserError(f"configuration {table.where}extra_hosts: {shown(entry)} begins with no host name", "write NAME:IP")
        _address(table, "extra_hosts", address)
    return entries


def _subnet(table: Table) -> str:
    """Return the subnet of jobs in its canonical form; sandbox.network divides it."""
    default = config.Network().subnet
    text = table.text("subnet", default)
    where = f"configuration {table.where}subnet: {shown(text)}"
    try:
        subnet = ipaddress.ip_network(text, strict=False)
    except ValueError as e:
        raise UserError(f"{where} is not a network", f"write one such as {default}") from e
    if not isinstance(subnet, ipaddress.IPv4Network):
        raise UserError(f"{where} is IPv6, which jobs do not have", f"write an IPv4 network such as {default}")
    if not 16 <= subnet.prefixlen <= 23:
        size = "small: containers and the way out need a /24 each" if subnet.prefixlen > 23 else "large"
        raise UserError(f"{where} is too {size}", "write a network between /16 and /23")
    for reserved, purpose in _RESERVED_NETWORKS:
        if subnet.overlaps(ipaddress.IPv4Network(reserved)):
            raise UserError(f"{where} overlaps {reserved}, which is {purpose}", f"write a private network such as {default}")
    return str(subnet)


def _mtu(table: Table) -> int:
    mtu = table.integer("mtu", 0, low=0, high=65521)
    if 0 < mtu < 576:  # the least that IPv4 may rely on
        raise UserError(f"configuration {table.where}mtu: {mtu} is out of range", "it is 0, or between 576 and 65521")
    return mtu


def _dns(table: Table) -> tuple[str, ...]:
    return tuple(_address(table, "dns", server) for server in table.texts("dns"))


def _egress(network: Table) -> config.Egress:
    table = network.table("egress", short="policy")
    servers = tuple(f"{server}/32:53" for server in _dns(network) if ":" not in server)  # whoever names them wants them to be reached
    allow, deny = (tuple(_destination(text, f"{table.where}{key}") for text in table.texts(key)) for key in ("allow", "deny"))
    found = config.Egress(policy=table.choice("policy", ("default", "none")), allow=(*allow, *servers), deny=deny)
    table.refuse_unknown()
    return found


def _destination(text: str, place: str) -> str:
    """Return a destination of packets in its canonical form, which sandbox.egress reads: NETWORK/LENGTH, NAME or host, and ports."""
    host, colon, ports = text.lower().partition(":")
    where = f"configuration {place}: {shown(text)}"
    if ":" in ports:
        raise UserError(f"{where} is IPv6, which jobs do not have", "leave it out")
    numbers = [int(port) if port.isascii() and port.isdigit() and len(port) < 6 else 0 for port in ports.split("-")]
    if colon and not (len(numbers) <= 2 and 0 < numbers[0] <= numbers[-1] < 65536):
        raise UserError(f"{where} has no port behind its colon", "write PORT, or FIRST-LAST, between 1 and 65535")
    if host.replace(".", "").replace("/", "").isdigit():
        try:
            host = str(ipaddress.IPv4Network(host))
        except ValueError as e:
            raise UserError(f"{where} is no network: {e}", "write one such as 10.0.0.0/8 or 192.0.2.7") from e
    elif not registry_name.is_valid(host):
        raise UserError(f"{where} is neither a network nor a name", "write 10.0.0.0/8, a name without patterns, or the word host")
    return f"{host}:{'-'.join(map(str, dict.fromkeys(numbers)))}" if colon else host


def _address(table: Table, key: str, text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError as e:
        raise UserError(f"configuration {table.where}{key}: {shown(text)} is no IP address", "write one such as 192.0.2.1") from e


def _service(table: Table) -> config.ServiceSettings:
    environment = table.mapping("environment")
    service = config.ServiceSettings(
        name=table.text("name", ""),
        alias=table.text("alias", ""),
        entrypoint=table.texts("entrypoint"),
        command=table.texts("command"),
        environment=tuple((key, _variable(table, key, value)) for key, value in environment.items()),
    )
    table.refuse_unknown()
    if not service.name:
        raise UserError(f"configuration {table.where}name is missing", "write the image of the service as its name")
    return service


def _variable(table: Table, key: str, value: Any) -> str:
    if not isinstance(value, (str, int, float)) or isinstance(value, bool):
        raise UserError(f"configuration {table.where}environment.{key}: {shown(value)} is not a text", "put it in quotes")
    return str(value)


def _registries(table: Table) -> tuple[tuple[str, config.Registry], ...]:
    found: dict[str, config.Registry] = {}
    for written in table.names():
        name = _normalised(registry_name.of_setting, written, table.place())
        entry = table.table(written)
        if name in found:
            raise UserError(f"configuration {table.place()}: {name} stands there twice", "docker.io and index.docker.io are the same")
        found[name] = config.Registry(
            mirrors=tuple(_normalised(registry_name.mirror, url, f"{entry.where}mirrors") for url in entry.texts("mirrors")),
            plain_http=entry.flag("plain_http"),
            ca_file=_absolute(entry, "ca_file"),
            mirrors_trusted=entry.flag("mirrors_trusted"),
        )
        entry.refuse_unknown()
    return tuple(found.items())


def _normalised(function: Callable[[str], str], text: str, place: str) -> str:
    """Apply a function of registry_name; its UserError gets the place."""
    try:
        return function(text)
    except UserError as e:
        raise UserError(f"configuration {place}: {e.message}", e.hint) from e


def _limits(table: Table) -> model.Limits:
    return model.Limits(
        memory=table.convert("memory", quantities.parse_size, 0),
        cpus=table.convert("cpus", quantities.parse_cpus, 0.0),
        pids=table.integer("pids", 0, low=0, high=4194304),
    )


def _service_limits(table: Table) -> model.Limits:
    found = _limits(table)
    table.refuse_unknown()
    return found


def _disk(table: Table) -> config.Disk:
    default = config.Disk()
    found = config.Disk(
        disk=table.convert("disk", _bound(quantities.parse_size), default.disk),
        disk_reserve=table.convert("disk_reserve", _bound(quantities.parse_size), default.disk_reserve),
        log=table.convert("log", _bound(quantities.parse_size), default.log),
    )
    for key, value in found._asdict().items():
        if 0 < value < _LEAST_BYTES:
            raise UserError(f"configuration {table.where}{key}: {value} bytes are too few", "write a size such as 10g, or 0 for no limit")
    return found


def _bound(parse: Callable[[str], int]) -> Callable[[str], int]:
    """Return a parser that takes 0 as well, for no limit."""
    return lambda text: 0 if text.strip() == "0" else parse(text)


def _age(text: str) -> int:
    """Return a duration that has its unit: an age of 14 that was meant as days would remove all but the last seconds' caches."""
    if text.strip().isdigit():
        raise ValueError("write it with its unit, such as 14d")
    return quantities.parse_duration(text)


def _gc(table: Table) -> config.Gc:
    default = config.Gc()
    found = config.Gc(
        high=table.integer("high", default.high, low=0, high=100),
        low=table.integer("low", default.low, low=0, high=100),
        volumes_max_age=table.convert("volumes_max_age", _bound(_age), default.volumes_max_age),
        volumes_max_size=table.convert("volumes_max_size", _bound(quantities.parse_size), default.volumes_max_size),
        storage_max_age=table.convert("storage_max_age", _bound(_age), default.storage_max_age),
        storage_max_size=table.convert("storage_max_size", _bound(quantities.parse_size), default.storage_max_size),
    )
    table.refuse_unknown()
    if found.low > found.high:
        raise UserError(f"configuration {table.where}low: {found.low} is above high, which is {found.high}", "make it smaller")
    return found


def _docker(table: Table) -> config.Docker:
    found = config.Docker(mode=table.choice("mode", _DOCKER_MODES), engine=table.choice("engine", ("auto", "podman", "dockerd")))
    table.refuse_unknown()
    return found


def _security(table: Table) -> config.Security:
    found = config.Security(open=table.texts("open"), core_dumps=table.flag("core_dumps"))
    table.refuse_unknown()
    for group in found.open:
        if group not in _CLOSED_CALLS:
            raise UserError(f"configuration {table.where}open: {shown(group)} is not known", f"choose among {', '.join(_CLOSED_CALLS)}")
    return found


def _policies(table: Table, key: str) -> tuple[str, ...]:
    policies = table.texts(key)
    for policy in policies:
        if policy not in _POLICIES:
            raise UserError(f"configuration {table.where}{key}: {shown(policy)} is no pull policy", f"there are {', '.join(_POLICIES)}")
    return policies


def _absolute(table: Table, key: str) -> str:
    path = table.text(key, "")
    if path and (not path.startswith("/") or not path.isprintable()):
        raise UserError(f"configuration {table.where}{key}: {shown(path)} is not an absolute path", "begin it with a slash")
    if path and not path.strip("/"):
        raise UserError(f"configuration {table.where}{key}: it cannot be the root directory", "name a directory in it")
    return path.rstrip("/")
