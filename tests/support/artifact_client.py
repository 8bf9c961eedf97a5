"""What of gitlab-runner a job's helper calls for artifacts, as one file for the toolbox: upload and download of zip archives.

`install` writes it as a program called gitlab-runner, which needs nothing but Python's standard library. It talks to the coordinator.
"""

import argparse
import io
import os
import sys
import urllib.error
import urllib.parse
import urllib.request
import zipfile

_BOUNDARY = "artifact-client"


def install(directory: str) -> str:
    """Write the program into a new directory and return its path."""
    os.mkdir(directory, 0o755)
    target = f"{directory}/gitlab-runner"
    with open(__file__, encoding="utf-8") as source, open(target, "w", encoding="utf-8") as program:
        program.write("#!/usr/bin/python3 -IS\n" + source.read())
    os.chmod(target, 0o755)
    return target


def main(arguments: list[str]) -> int:
    """Do what the command line says; return the exit code."""
    if arguments == ["--version"]:
        print("artifact-client")
        return 0
    command, *rest = arguments
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in ("--url", "--token", "--id"):
        parser.add_argument(name, required=True)
    if command == "artifacts-uploader":
        parser.add_argument("--path", action="append", default=[])
        for name in ("--expire-in", "--artifact-format", "--artifact-type", "--name", "--timeout", "--response-header-timeout"):
            parser.add_argument(name, default="")
        return _upload(parser.parse_args(rest))
    assert command == "artifacts-downloader", command
    return _download(parser.parse_args(rest))


def _upload(options: argparse.Namespace) -> int:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as content:
        for path in options.path:
            for name in _files(path.rstrip("/")):
                content.write(name)
        if not content.namelist():
            print(f"WARNING: {options.path}: no matching files", file=sys.stderr)
            return 1
    head = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="artifacts.zip"\r\n\r\n'
    body = head.encode() + archive.getvalue() + f"\r\n--{_BOUNDARY}--\r\n".encode()
    described = urllib.parse.urlencode(
        {"artifact_format": options.artifact_format, "artifact_type": options.artifact_type, "expire_in": options.expire_in}
    )
    status, answer = _ask(options, f"artifacts?{described}", body, {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"})
    print(f"Uploading artifacts... {status} {answer.decode(errors='replace')}")
    return 0 if status == 201 else 1


def _files(path: str) -> list[str]:
    if not os.path.isdir(path):
        return [path] if os.path.exists(path) else []
    return sorted(os.path.join(directory, name) for directory, _, names in os.walk(path) for name in names)


def _download(options: argparse.Namespace) -> int:
    status, answer = _ask(options, "artifacts?direct_download=true", None, {})
    print(f"Downloading artifacts... {status}")
    if status != 200:
        return 1
    with zipfile.ZipFile(io.BytesIO(answer)) as content:
        content.extractall(".")
    return 0


def _ask(options: argparse.Namespace, what: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, bytes]:
    url = f"{options.url}/api/v4/jobs/{options.id}/{what}"
    request = urllib.request.Request(url, data=body, headers={**headers, "JOB-TOKEN": options.token})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as e:
        with e:
            return e.code, e.read()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
