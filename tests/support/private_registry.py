"""A registry on loopback that opens one repository to some passwords, and counts who asks."""

from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.images import BuiltImage
from tests.support.registries import Answer, LyingRegistry, Request


class PrivateRegistry:
    """Holds an image as team/app:v1 for those who send one of `passwords`; others get `status`. Names are there while it is `running`."""

    def __init__(self, image: BuiltImage) -> None:
        self.server = LyingRegistry()
        self.server.add(image, "team/app", "v1")
        self.server.lie = self._judge
        self.passwords = {"s3cret"}
        self.status = 401
        self.host = self.name = ""
        self.seen: list[Request] = []

    def _judge(self, request: Request, _truth: Answer) -> Answer | None:
        if request.basic().partition(":")[2] in self.passwords:
            return None
        return Answer(self.status, b"", {"WWW-Authenticate": 'Basic realm="x"'})

    @contextmanager
    def running(self) -> Iterator["PrivateRegistry"]:
        """Serve; yields the registry itself."""
        with self.server.running() as (self.host, self.seen):
            self.name = f"{self.host}/team/app:v1"
            yield self

    def asked(self) -> list[tuple[str, str]]:
        """Return what was asked with credentials since the last time, as (method, kind of object), and forget it."""
        found = [(request.method, request.path.split("/")[4]) for request in self.seen if request.basic()]
        self.seen.clear()
        return found
