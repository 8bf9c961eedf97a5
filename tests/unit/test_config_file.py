"""The configuration file: what it means, and one sentence with a way out for everything that it cannot mean."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import config, config_file, errors
from runner.config import Disk, Egress, Gc, GitLab, Images, Network, Registry, Security, ServiceSettings, Settings, Trust
from runner.model import Limits
from runner.sandbox import closed_calls, network

TRUST = (
    Trust(("docker.io/**", "registry.example:5000/a{b,c}/*"), "digest"),
    Trust(("registry.example/team/**",), "signed", ("/etc/cosign.pub",)),
    Trust(("**",), "deny"),
)
Load = Callable[[str | bytes], Settings]
Refuse = Callable[[str | bytes], errors.UserError]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def write_and_load(text: str | bytes) -> Settings:
        path = tmp_path / "config.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return config_file.load(str(path))

    return write_and_load


@pytest.fixture
def refuse(load: Load, tmp_path: Path) -> Refuse:
    def error_of(text: str | bytes) -> errors.UserError:
        with pytest.raises(errors.UserError) as caught:
            load(text)
        error = caught.value
        assert error.message.startswith(f"configuration {tmp_path}/config.yaml")
        assert error.message.isprintable() and len(error.message) < len(str(tmp_path)) + 250
        assert error.hint.isprintable() and error.hint
        error.message = error.message.removeprefix(f"configuration {tmp_path}/config.yaml").removeprefix(": ")
        return error

    return error_of


@pytest.mark.parametrize("text", ["", "{}", "# nothing\n", "---\n", "images:\n", "images: {}\ngitlab:\nlimits: ~\n"])
def test_what_is_not_written_is_the_default(load: Load, text: str) -> None:
    assert load(text) == Settings()


def test_no_file_is_the_defaults() -> None:
    assert config_file.load("") == Settings()


def test_every_setting_is_understood(load: Load) -> None:
    assert load("""
account: ci
state_dir: /srv/dockless/
images:
  default: debian:12
  allowed: ["debian:*", 7]
  pull_policy: [always, if-not-present]
  allowed_pull_policies: never
  public: ["debian:*"]
  access_ttl: 10m
  trust:
    - {images: ["docker.io/**", "registry.example:5000/a{b,c}/*"], rule: digest}
    - {images: registry.example/team/**, rule: signed, keys: /etc/cosign.pub}
    - {images: "**", rule: deny}
registries:
  docker.io: {mirrors: ["https://mirror.example"], ca_file: /etc/ca.pem, mirrors_trusted: true}
  "registry.example:5000": {plain_http: true}
network:
  subnet: 10.1.0.0/20
  mtu: 1400
  dns: [192.0.2.1, "2001:db8::1"]
  egress: {policy: none, allow: [10.0.0.0/8:80-90, Mirror.example:443, "host:22"], deny: [192.0.2.7]}
limits: {memory: 512m, cpus: 1.5, pids: 100, disk: 10g, disk_reserve: 0, log: 1m}
service_limits: {memory: 1024}
gitlab:
  trust_domain: namespace
  builds_dir: /b
  cache_dir: /c
  helper_image: helper
  runner_binary: /opt/gitlab-runner
  user: app
  allowed_users: [app]
  allowed_services: ["redis:*"]
  services_limit: 3
  services:
    - {name: "redis:7", alias: cache, entrypoint: run, command: [a, b], environment: {A: "1", B: 2}}
  wait_for_services_timeout: -1
  volumes: [/cache, /x]
  disable_cache: true
  disable_entrypoint_overwrite: true
  hostname: build
  extra_hosts: ["db:192.0.2.7", "db6:2001:db8::7"]
gc: {high: 90, low: 50, volumes_max_age: 14d, volumes_max_size: 20g, storage_max_age: 12h, storage_max_size: 0}
security: {open: [userns, io_uring], core_dumps: true}
""") == Settings(
        account="ci",
        state_dir="/srv/dockless",
        images=Images("debian:12", ("debian:*", "7"), ("always", "if-not-present"), ("never",), ("debian:*",), 600, TRUST),
        registries=(
            ("docker.io", Registry(("https://mirror.example",), False, "/etc/ca.pem", True)),
            ("registry.example:5000", Registry(plain_http=True)),
        ),
        network=Network(
            "10.1.0.0/20",
            1400,
            ("192.0.2.1", "2001:db8::1"),
            Egress("none", ("10.0.0.0/8:80-90", "mirror.example:443", "host:22", "192.0.2.1/32:53"), ("192.0.2.7/32",)),
        ),
        limits=Limits(512 * 1024**2, 1.5, 100),
        disk=Disk(10 * 1024**3, 0, 1024**2),
        service_limits=Limits(memory=1024),
        gitlab=GitLab(
            trust_domain="namespace",
            builds_dir="/b",
            cache_dir="/c",
            helper_image="helper",
            runner_binary="/opt/gitlab-runner",
            user="app",
            allowed_users=("app",),
            allowed_services=("redis:*",),
            services_limit=3,
            services=(ServiceSettings("redis:7", "cache", ("run",), ("a", "b"), (("A", "1"), ("B", "2"))),),
            wait_for_services_timeout=-1,
            volumes=("/cache", "/x"),
            disable_cache=True,
            disable_entrypoint_overwrite=True,
            hostname="build",
            extra_hosts=("db:192.0.2.7", "db6:2001:db8::7"),
        ),
        gc=Gc(90, 50, 14 * 86400, 20 * 1024**3, 12 * 3600, 0),
        security=Security(("userns", "io_uring"), core_dumps=True),
    )


@pytest.mark.parametrize(
    ("text", "key", "nearest"),
    [
        ("imagse: {}", "imagse", "images"),
        ("state-dir: /x", "state-dir", "state_dir"),
        ("images: {pul_policy: never}", "images.pul_policy", "images.pull_policy"),
        ("network: {sub_net: x}", "network.sub_net", "network.subnet"),
        ("limits: {memroy: 1m}", "limits.memroy", "limits.memory"),
        ("limits: {disc: 1g}", "limits.disc", "limits.disk"),
        ("service_limits: {cpu: 1}", "service_limits.cpu", "service_limits.cpus"),
        ("registries: {docker.io: {mirors: []}}", "registries.docker.io.mirors", "registries.docker.io.mirrors"),
        ("gc: {hihg: 1}", "gc.hihg", "gc.high"),
        ("gitlab: {volume: []}", "gitlab.volume", "gitlab.volumes"),
        ("gitlab: {services: [{nmae: redis}]}", "gitlab.services[0].nmae", "gitlab.services[0].name"),
        ("gitlab: {services: [{name: a}, {name: b, comand: c}]}", "gitlab.services[1].comand", "gitlab.services[1].command"),
    ],
)
def test_misspelt_key_is_refused_with_the_nearest(refuse: Refuse, text: str, key: str, nearest: str) -> None:
    error = refuse(text)
    assert error.message == f"{key} is not a setting"
    assert error.hint == f"did you mean {nearest}?"


@pytest.mark.parametrize("text", ["zzz: 1", "1: 2", "true: 2", "~: 1", "? 2020-01-01\n: 1"])
def test_key_that_is_near_nothing_is_refused_with_all_that_there_are(refuse: Refuse, text: str) -> None:
    error = refuse(text)
    assert error.message.endswith(" is not a setting")
    assert (
        error.hint
        == "known keys: account, docker, gc, github, gitlab, images, limits, network, registries, security, service_limits, state_dir"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("images: []", "images: [] is not a table of keys"),
        ("images: text", "images: 'text' is not a table of keys"),
        ("images: {default: true}", "images.default: True is not a text"),
        ("images: {default: 1.5}", "images.default: 1.5 is not a text"),
        ("images: {default: [a]}", "images.default: ['a'] is not a text"),
        ("images: {allowed: {a: 1}}", "images.allowed: {'a': 1} is not a list of texts"),
        ("images: {allowed: [true]}", "images.allowed: True is not a text"),
        ("images: {allowed: [~]}", "images.allowed: None is not a text"),
        ("images: {allowed: [[a]]}", "images.allowed: ['a'] is not a text"),
        ("limits: {memory: true}", "limits.memory: True is not a size or number"),
        ("limits: {pids: 1.5}", "limits.pids: 1.5 is not a whole number"),
        ("limits: {pids: '5'}", "limits.pids: '5' is not a whole number"),
        ("gitlab: {disable_cache: 1}", "gitlab.disable_cache: 1 is not true or false"),
        ("gitlab: {disable_cache: 'yes'}", "gitlab.disable_cache: 'yes' is not true or false"),
        ("gitlab: {services: {name: x}}", "gitlab.services: {'name': 'x'} is not a list"),
        ("gitlab: {services: [x]}", "gitlab.services[0] is not a table of keys"),
        ("gitlab: {services: [{name: x, environment: [A]}]}", "gitlab.services[0].environment: ['A'] is not a table of keys"),
        ("gitlab: {services: [{name: x, environment: {A: ~}}]}", "gitlab.services[0].environment.A: None is not a text"),
        ("gitlab: {services: [{name: x, environment: {A: on}}]}", "gitlab.services[0].environment.A: True is not a text"),
        ("gitlab: {services: [{name: x, environment: {A: [1]}}]}", "gitlab.services[0].environment.A: [1] is not a text"),
        ("registries: {docker.io: x}", "registries.docker.io: 'x' is not a table of keys"),
        ("registries: [docker.io]", "registries: ['docker.io'] is not a table of keys"),
    ],
)
def test_wrong_type_is_refused_with_the_key_and_the_value(refuse: Refuse, text: str, message: str) -> None:
    error = refuse(text)
    assert error.message == message
    assert error.hint.startswith(("put ", "write ", "begin "))


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("images: {pull_policy: sometimes}", "images.pull_policy: 'sometimes' is no pull policy", "always, if-not-present, never"),
        ("images: {allowed_pull_policies: ['']}", "images.allowed_pull_policies: '' is no pull policy", "always, if-not-present, never"),
        ("gitlab: {trust_domain: user}", "gitlab.trust_domain: 'user' is not known", "project, namespace, runner"),
        ("gitlab: {services_limit: 251}", "gitlab.services_limit: 251 is out of range", "between 0 and 250"),
        ("gitlab: {wait_for_services_timeout: -2}", "gitlab.wait_for_services_timeout: -2 is out of range", "between -1 and 3600"),
        ("gitlab: {services: [{alias: x}]}", "gitlab.services[0].name is missing", "the image"),
        ("gitlab: {builds_dir: builds}", "gitlab.builds_dir: 'builds' is not an absolute path", "slash"),
        ("gitlab: {extra_hosts: [db]}", "gitlab.extra_hosts: '' is no IP address", "192.0.2.1"),
        ("gitlab: {extra_hosts: ['db:host']}", "gitlab.extra_hosts: 'host' is no IP address", "192.0.2.1"),
        ("gitlab: {extra_hosts: ['a b:192.0.2.1']}", "gitlab.extra_hosts: 'a b:192.0.2.1' begins with no host name", "NAME:IP"),
        ("state_dir: ~/x", "state_dir: '~/x' is not an absolute path", "slash"),
        ('state_dir: "/a\\0b"', "state_dir: '/a\\x00b' is not an absolute path", "slash"),
        ("state_dir: //", "state_dir: it cannot be the root directory", "in it"),
        ("registries: {a: {ca_file: ca.pem}}", "registries.a.ca_file: 'ca.pem' is not an absolute path", "slash"),
        ("network: {mtu: 65522}", "network.mtu: 65522 is out of range", "between 0 and 65521"),
        ("network: {mtu: -1}", "network.mtu: -1 is out of range", "between 0 and 65521"),
        ("network: {mtu: 20}", "network.mtu: 20 is out of range", "576"),
        ("network: {dns: [dns.example]}", "network.dns: 'dns.example' is no IP address", "192.0.2.1"),
        ('network: {dns: ["192.0.2.1\\noptions x"]}', "network.dns: '192.0.2.1\\noptions x' is no IP address", "192.0.2.1"),
        ("network: {egress: closed}", "network.egress.policy: 'closed' is not known", "default, none"),
        ("network: {egress: {allow: ['fd00::1']}}", "network.egress.allow: 'fd00::1' is IPv6, which jobs do not have", "leave"),
        ("network: {egress: {deny: ['[::1]:80']}}", "network.egress.deny: '[::1]:80' is IPv6, which jobs do not have", "leave"),
        ("network: {egress: {deny: ['a:']}}", "network.egress.deny: 'a:' has no port behind its colon", "PORT"),
        ("network: {egress: {deny: ['a:0']}}", "network.egress.deny: 'a:0' has no port behind its colon", "PORT"),
        ("network: {egress: {deny: ['a:9-8']}}", "network.egress.deny: 'a:9-8' has no port behind its colon", "FIRST-LAST"),
        ("network: {egress: {deny: ['a:1-2-3']}}", "network.egress.deny: 'a:1-2-3' has no port behind its colon", "FIRST-LAST"),
        ("network: {egress: {deny: ['a:65536']}}", "network.egress.deny: 'a:65536' has no port behind its colon", "65535"),
        ("network: {egress: {deny: ['a:http']}}", "network.egress.deny: 'a:http' has no port behind its colon", "PORT"),
        (
            "network: {egress: {allow: [10.0.0.1/8]}}",
            "network.egress.allow: '10.0.0.1/8' is no network: 10.0.0.1/8 has host bits set",
            "/8",
        ),
        ("network: {egress: {allow: ['*.example']}}", "network.egress.allow: '*.example' is neither a network nor a name", "patterns"),
        ("network: {egress: {allow: ['a} accept']}}", "network.egress.allow: 'a} accept' is neither a network nor a name", "host"),
        ("gc: {high: 101}", "gc.high: 101 is out of range", "between 0 and 100"),
        ("gc: {high: 60}", "gc.low: 70 is above high, which is 60", "smaller"),
        ("gc: {volumes_max_age: 14}", "gc.volumes_max_age: 14 cannot be used", "14d"),
        ("gc: {storage_max_size: 14d}", "gc.storage_max_size: '14d' cannot be used", "512m"),
        ("limits: {memory: 512x}", "limits.memory: '512x' cannot be used", "512m"),
        ("limits: {memory: 0}", "limits.memory: 0 cannot be used", "512m"),
        ("limits: {memory: .inf}", "limits.memory: inf cannot be used", "512m"),
        ("images: {trust: [{images: x/y, rule: deny}]}", "images.trust[0].images: 'x/y' has no registry", "docker.io/library/debian"),
        (
            "images: {trust: [{images: R.example/y, rule: deny}]}",
            "images.trust[0].images: 'R.example/y' has another spelling of its registry",
            "write r.example/y",
        ),
        (
            "images: {trust: [{images: index.docker.io/**, rule: deny}]}",
            "images.trust[0].images: 'index.docker.io/**' has another spelling of its registry",
            "write docker.io/**",
        ),
        ("images: {trust: {images: a/b}}", "images.trust: {'images': 'a/b'} is not a list", "hyphen"),
        ("images: {trust: [{images: a/b}]}", "images.trust[0].rule is missing", "allow, deny, digest, signed"),
        ("images: {trust: [{rule: deny}]}", "images.trust[0].images is missing", "allow, deny, digest, signed"),
        ("images: {trust: [{images: 'a.b/c', rule: forbid}]}", "images.trust[0].rule: 'forbid' is not known", "deny"),
        ("images: {trust: [{images: 'a.b/{b', rule: deny}]}", "images.trust[0].images: 'a.b/{b' is no pattern", "brace"),
        ("images: {trust: [{images: 'a.b/[b', rule: deny}]}", "images.trust[0].images: 'a.b/[b' is no pattern", "bracket"),
        ("images: {trust: [{images: debian, rule: deny}]}", "images.trust[0].images: 'debian' has no registry", "docker.io/library/debian"),
        (
            "images: {trust: [{images: 'r.example/a:1', rule: deny}]}",
            "images.trust[0].images: 'r.example/a:1' has a tag or a digest",
            "whole",
        ),
        ("images: {trust: [{images: 'a.b/c', rule: signed}]}", "images.trust[0].keys is missing", "cosign"),
        ("images: {trust: [{images: 'a.b/c', rule: deny, keys: /k}]}", "images.trust[0].keys: the rule deny has none", "cosign"),
        (
            "images: {trust: [{images: 'a.b/c', rule: signed, keys: k.pub}]}",
            "images.trust[0].keys: 'k.pub' is not an absolute path",
            "slash",
        ),
        ("images: {access_ttl: soon}", "images.access_ttl: 'soon' cannot be used", "10m"),
        ("images: {access_ttl: -1}", "images.access_ttl: -1 cannot be used", "10m"),
        ("limits: {cpus: many}", "limits.cpus: 'many' cannot be used", "1.5"),
        ("limits: {cpus: .nan}", "limits.cpus: nan cannot be used", "1.5"),
        ("limits: {disk: 10}", "limits.disk: 10 bytes are too few", "10g"),
        ("limits: {log: much}", "limits.log: 'much' cannot be used", "512m"),
        ("limits: {pids: -1}", "limits.pids: -1 is out of range", "4194304"),
    ],
)
def test_bad_value_is_refused_with_what_it_can_be(refuse: Refuse, text: str, message: str, hint: str) -> None:
    error = refuse(text)
    assert error.message == message
    assert hint in error.hint


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("docker.io", "docker.io"), ("Docker.IO", "docker.io"), ("index.docker.io", "docker.io"), ("Index.Docker.io/", "docker.io"),
        ("registry.example/", "registry.example"), ("Registry.Example:5000", "registry.example:5000"), ("LOCALHOST", "localhost"),
        ("[::1]:5000", "[::1]:5000"), ("[FD00::1]", "[fd00::1]"), ("cache", "cache"),
    ],
)  # fmt: skip
def test_name_of_a_registry_is_the_one_that_images_have(load: Load, written: str, name: str) -> None:
    found = load(f"registries: {{'{written}': {{plain_http: true}}}}")
    assert found.registries == ((name, Registry(plain_http=True)),)
    assert found.registry(name).plain_http


@pytest.mark.parametrize(
    ("written", "message", "hint"),
    [
        ("https://docker.io", "'https://docker.io' has a scheme, which the name of a registry has not", "write docker.io"),
        (
            "https://Index.docker.io/v1/",
            "'https://Index.docker.io/v1/' has a scheme, which the name of a registry has not",
            "write docker.io",
        ),
        ("http://registry.example:5000/", "'http://registry.example:5000/' has a scheme, ", "write registry.example:5000"),
        ("https://", "'https://' has a scheme, ", "write it as in an image name"),
        ("docker.io/library", "'docker.io/library' has a path, which the name of a registry has not", "write docker.io"),
        ("registry.example//", "'registry.example//' has a path, ", "write registry.example"),
        ("me:hunter2@registry.example", "a registry's name has credentials in it", "DOCKER_AUTH_CONFIG"),
        ("", "'' is not the name of a registry", "docker.io, registry.example or registry.example:5000"),
        ("/", "'/' is not the name of a registry", "docker.io"),
        ("a b", "'a b' is not the name of a registry", "docker.io"),
        ("registry.example:http", "'registry.example:http' is not the name of a registry", "docker.io"),
        ("registry.example:0", "'registry.example:0' is not the name of a registry", "docker.io"),
        ("*.example", "'*.example' is not the name of a registry", "docker.io"),
        ("x" * 500 + "_", f"'{'x' * 77}...' is not the name of a registry", "docker.io"),
    ],
)
def test_what_is_no_name_of_a_registry_is_refused_with_the_name(refuse: Refuse, written: str, message: str, hint: str) -> None:
    error = refuse(f"registries: {{'{written}': {{}}}}")
    assert error.message.startswith(f"registries: {message}")
    assert hint in error.hint
    assert "hunter2" not in error.message + error.hint


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("https://mirror.example", "https://mirror.example"), ("https://mirror.example/", "https://mirror.example"),
        ("HTTPS://Mirror.Example:5000/", "https://mirror.example:5000"), ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("http://[::1]:5000/", "http://[::1]:5000"), ("https://Harbor.example/hub", "https://harbor.example/hub"),
        ("https://gitlab.example:8443/a-group/dependency_proxy/containers/", "https://gitlab.example:8443/a-group/dependency_proxy/containers"),
    ],
)  # fmt: skip
def test_url_of_a_mirror_is_normalised(load: Load, written: str, url: str) -> None:
    assert load(f"registries: {{docker.io: {{mirrors: ['{written}']}}}}").registry("docker.io").mirrors == (url,)


@pytest.mark.parametrize(
    ("written", "message", "hint"),
    [
        ("Mirror.example:5000/", "'Mirror.example:5000/' has no scheme", "write https://mirror.example:5000"),
        ("", "'' has no scheme", "https://mirror.example"),
        ("mirror.example/v2", "'mirror.example/v2' has no scheme", "https://mirror.example"),
        ("ftp://mirror.example", "'ftp://mirror.example' is neither https nor http", "https://mirror.example"),
        ("https://", "'https://' names no host", "https://mirror.example"),
        ("https://[", "'https://[' names no host", "https://mirror.example"),
        ("https://mirror.example?x=1", "'https://mirror.example?x=1' names no host", "https://mirror.example"),
        *(
            (
                f"https://mirror.example/{path}",
                f"'https://mirror.example/{path}' has a path that no repository can begin with",
                "write http",
            )
            for path in ("?x", "hub?x=1", "hub#a", "Hub", "/hub", "hub//", "a//b", "..", "hub/../b", "hub/./b", "a b", "a%2fb", "hub:5")
        ),
        (
            "https://Mirror.example/v2",
            "'https://Mirror.example/v2' has a path with the version of the protocol",
            "write https://mirror.example",
        ),
        (
            "https://m.example/v2/hub/",
            "'https://m.example/v2/hub/' has a path with the version of the protocol",
            "write https://m.example/hub",
        ),
        ("https://me:hunter2@mirror.example", "a registry's URL has credentials in it", "DOCKER_AUTH_CONFIG"),
    ],
)
def test_what_is_no_mirror_is_refused_with_what_it_can_be(refuse: Refuse, written: str, message: str, hint: str) -> None:
    error = refuse(f"registries: {{docker.io: {{mirrors: ['http://a', '{written}']}}}}")
    assert error.message == f"registries.docker.io.mirrors: {message}"
    assert hint in error.hint
    assert "hunter2" not in error.message + error.hint


def test_registry_that_stands_twice_under_two_names_is_refused(refuse: Refuse) -> None:
    assert refuse("registries: {docker.io: {}, Index.Docker.IO: {}}").message == "registries: docker.io stands there twice"


@pytest.mark.parametrize("value", ["''", "' '", '"\\n"'])
@pytest.mark.parametrize(
    ("text", "key", "default"),
    [
        ("account: {value}", "account", "dockless"),
        ("images: {{default: {value}}}", "images.default", "toolbox"),
        ("gitlab: {{helper_image: {value}}}", "gitlab.helper_image", "toolbox"),
    ],
)
def test_empty_name_is_refused_with_the_default(refuse: Refuse, text: str, key: str, default: str, value: str) -> None:
    error = refuse(text.format(value=value))
    assert error.message == f"{key}: it is empty"
    assert error.hint == f"leave it out for {default}"


@pytest.mark.parametrize(
    ("written", "subnet"),
    [
        ("10.1.0.0/16", "10.1.0.0/16"), ("192.168.76.0/23", "192.168.76.0/23"), ("192.168.77.5/23", "192.168.76.0/23"),
        ("10.1.16.0/255.255.240.0", "10.1.16.0/20"), ("100.64.0.0/16", "100.64.0.0/16"),
    ],
)  # fmt: skip
def test_every_subnet_that_is_understood_can_be_used(load: Load, written: str, subnet: str) -> None:
    found = load(f"network: {{subnet: {written}}}").network.subnet
    assert found == subnet
    assert network.addresses(found).uplink.endswith(".0/24")


@pytest.mark.parametrize(
    ("written", "message", "hint"),
    [
        ("", "'' is not a network", "10.99.0.0/16"),
        ("private", "'private' is not a network", "10.99.0.0/16"),
        ("7", "'7' is not a network", "10.99.0.0/16"),
        ("10.0.0.0/33", "'10.0.0.0/33' is not a network", "10.99.0.0/16"),
        ("10.0.0.256/16", "'10.0.0.256/16' is not a network", "10.99.0.0/16"),
        ("fd00::/64", "'fd00::/64' is IPv6, which jobs do not have", "IPv4"),
        ("10.0.0.0", "'10.0.0.0' is too small: containers and the way out need a /24 each", "between /16 and /23"),
        ("10.0.0.0/24", "'10.0.0.0/24' is too small: containers and the way out need a /24 each", "between /16 and /23"),
        ("10.0.0.0/8", "'10.0.0.0/8' is too large", "between /16 and /23"),
        ("0.0.0.0/16", "'0.0.0.0/16' overlaps 0.0.0.0/8, which is this host", "10.99.0.0/16"),
        ("127.7.0.0/16", "'127.7.0.0/16' overlaps 127.0.0.0/8, which is loopback in every container", "10.99.0.0/16"),
        ("169.254.0.0/20", "'169.254.0.0/20' overlaps 169.254.0.0/16, which is link-local and refused to jobs", "10.99.0.0/16"),
        ("224.0.0.0/16", "'224.0.0.0/16' overlaps 224.0.0.0/4, which is multicast", "10.99.0.0/16"),
        ("255.255.0.0/16", "'255.255.0.0/16' overlaps 240.0.0.0/4, which is reserved", "10.99.0.0/16"),
    ],
)
def test_subnet_that_cannot_be_used_is_refused_with_the_reason(refuse: Refuse, written: str, message: str, hint: str) -> None:
    error = refuse(f"network: {{subnet: '{written}'}}")
    assert error.message == f"network.subnet: {message}"
    assert hint in error.hint


@pytest.mark.parametrize(
    ("text", "key", "line"),
    [
        ("account: a\naccount: b\n", "account", 2),
        ("images:\n  default: a\n  allowed: []\n  default: b\n", "default", 4),
        ("images: {}\n\n\nimages: {}\n", "images", 4),
        ("registries:\n  docker.io: {}\n  'docker.io': {}\n", "docker.io", 3),
        ("gitlab: {services: [{name: a, name: b}]}", "name", 1),
    ],
)
def test_key_that_stands_twice_is_refused(refuse: Refuse, text: str, key: str, line: int) -> None:
    assert refuse(text).message == f" is not YAML (line {line}): {key} stands there twice"


@pytest.mark.parametrize("text", ["[]", "text", "7", "true", "- images", "2020-01-01"])
def test_document_that_is_no_table_is_refused(refuse: Refuse, text: str) -> None:
    assert refuse(text).message == "the document is not a table of keys"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a: b: c", "(line 1)"), ("images:\n\tdefault: x", "(line 2)"), ('account: "', "(line 1)"), ("{", "(line 1)"), ("%", "(line 1)"),
        ("account: *gone", "(line 1)"), ("{}\n---\n{}\n", "(line 2)"), ("images: {default: x}\n default: y", "(line 2)"),
        ("<<: 1", "(line 1)"),
        ("account: !!python/object/apply:os.system [x]", "(line 1)"), ("images: !mine {}", "(line 1)"), ("account: !!binary z", "(line 1)"),
        ("? [a]\n: b", "(line 1)"), ("account: 2020-13-45", "month must be"), ("\0", "byte 0"),
        (b"account: \xe9", "byte 9"), (b"\xff\xfe\xfa", "byte"),
    ],
)  # fmt: skip
def test_what_is_not_yaml_is_refused_with_its_place(refuse: Refuse, text: str | bytes, place: str) -> None:
    assert place in refuse(text).message


@pytest.mark.parametrize(
    "text", ["[" * 5000, "{a: " * 3000, "- " * 5000, "images: &a\n  default: *a\n", "account: " + "x" * 1024**2 + "\nx: 1"]
)
def test_odd_shapes_are_refused_in_one_sentence(refuse: Refuse, text: str) -> None:
    refuse(text)


def bomb(use: str, item: str) -> str:
    """Return ten lines of which each names the one before nine times."""
    lines = [f"b0: &b0 {item}"]
    lines += [f"b{number}: &b{number} {use.format(alias=', '.join([f'*b{number - 1}'] * 9))}" for number in range(1, 10)]
    return "\n".join(lines)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("text", [bomb("[{alias}]", "[x, x]"), bomb("{{<<: [{alias}]}}", "{k: v}")])
def test_aliases_cannot_multiply(refuse: Refuse, text: str) -> None:
    assert "there is too much of it" in refuse(f"{text}\nimages: {{default: *b9}}").message


def test_aliases_and_merges_of_an_ordinary_size_work(load: Load) -> None:
    found = load("limits: &l {memory: 1g, pids: 5}\nservice_limits: {<<: *l, memory: 2g}\n")
    assert (found.limits, found.service_limits) == (Limits(1024**3, 0, 5), Limits(2 * 1024**3, 0, 5))


def test_file_without_end_is_refused(refuse: Refuse) -> None:
    assert refuse("#" * (4 * 1024**2 + 1)).message == " cannot be read: File too large"


@pytest.mark.timeout(10)
@pytest.mark.parametrize("kind", ["missing", "directory", "fifo", "device", "closed", "below a file"])
def test_file_that_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "config.yaml"
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "closed":
        path.touch(mode=0)
    elif kind == "below a file":
        path.touch()
        path = path / "config.yaml"
    with pytest.raises(errors.UserError, match="cannot be read: ") as caught:
        config_file.load(str(path))
    assert caught.value.hint == "check the path and its permissions"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from([*config.Settings._fields, *config.GitLab._fields, *config.Images._fields, *config.Network._fields, *Limits._fields])


@given(st.dictionaries(KEYS, VALUES | st.dictionaries(KEYS, VALUES, max_size=4), max_size=4))
def test_whatever_is_written_is_understood_or_refused(value: dict[str, object]) -> None:
    try:
        found = config_file.parse(value, "file")
    except errors.UserError as e:
        assert e.message.startswith("configuration file: ")
        assert len(e.message) < 200
        return
    assert found.gitlab.builds_dir.startswith("/")
    assert found.network.mtu == 0 or found.network.mtu >= 576


@given(st.binary(max_size=60) | st.text("[]{}:,&*!|>-?#'\" \n\tabc<", max_size=60).map(str.encode))
def test_whatever_bytes_there_are_the_answer_is_a_sentence(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(raw)
    try:
        config_file.load(str(path))
    except errors.UserError as e:
        assert "\n" not in e.message


@pytest.mark.parametrize(
    ("text", "mode", "engine"),
    [
        ("", "replace", "auto"),
        ("docker: provide", "provide", "auto"),
        ("docker: off", "off", "auto"),  # a boolean in YAML 1.1
        ("docker: 'off'", "off", "auto"),
        ("docker: {mode: off}", "off", "auto"),
        ("docker: {engine: podman}", "replace", "podman"),
        ("docker: {mode: provide, engine: dockerd}", "provide", "dockerd"),
    ],
)
def test_docker_is_one_word_or_a_table(tmp_path: Path, text: str, mode: str, engine: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    assert config_file.load(str(path)).docker == config.Docker(mode, engine)


@pytest.mark.parametrize(
    "text", ["docker: yes", "docker: sometimes", "docker: [off]", "docker: {engine: off}", "docker: {engine: containerd}"]
)
def test_docker_is_nothing_else(refuse: Refuse, text: str) -> None:
    assert "docker" in refuse(text).message


def test_groups_of_system_calls_are_those_that_there_are(load: Load, refuse: Refuse) -> None:
    for group in closed_calls.GROUPS:
        assert load(f"security: {{open: {group}}}").security.open == (group,)
    error = refuse("security: {open: [userns, everything]}")
    assert error.message == "security.open: 'everything' is not known"
    assert error.hint == f"choose among {', '.join(closed_calls.GROUPS)}"
    assert refuse("security: {opened: [userns]}").hint == "did you mean security.open?"
