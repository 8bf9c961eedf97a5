"""One server that may hold a repository: how it lets us in (Basic, Bearer), and what its refusals mean.

Follows OCI distribution-spec, and distribution's spec/auth/token.md and oauth.md for tokens.
"""

import binascii
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from runner import log
from runner.errors import InfraError, RunnerError, Temporary, UserError
from runner.image import auth, challenge, transport
from runner.model import Reference

_TOKEN_BYTES = 1024**2
_SIGN_IN = "set DOCKER_AUTH_CONFIG, or run: docker login (or podman login --authfile ~/.docker/config.json) as this account"


class Endpoint:
    """A base URL and what it takes to read one repository there; credentials for `name` go to it and its token realm only.

    Usable from several threads: the first 401 asks for a token, the others wait for it.
    """

    def __init__(
        self, ref: Reference, *, name: str, url: str, http: transport.Transport, keychain: auth.Keychain, actions: str = "pull"
    ) -> None:
        """Connect to nothing; `url` has no trailing slash. `actions` are the rights to ask for: "pull" or "pull,push"."""
        self.url, self.http = url, http
        self._ref, self._name, self._keychain = ref, name, keychain
        self._actions = actions
        self._lock = threading.Lock()
        self._authorization = ""
        self._credentials: auth.Credentials | None = None

    @contextmanager
    def get(self, path: str, headers: Mapping[str, str], *, missing: RunnerError, method: str = "GET") -> Iterator[transport.Response]:
        """Ask for <url>/v2/<repository>/<path> by a method without a body; yields an answer with status 200, 202, 204, 206 or 416.

        Raises `missing` for 404, UserError for what is refused, Temporary for 429 and 5xx after all tries, InfraError for any other answer.
        """
        url = f"{self.url}/v2/{self._ref.repository}/{path}"
        for last in (False, False, True):  # as we are; with fresh authorization; once more if that had just expired
            used = self._authorization
            sent = {**headers, "Authorization": used} if used else headers
            with self.http.open(url, sent, method=method) as response:
                if response.status_code in (200, 202, 204, 206, 416):
                    yield response
                    return
                if last or not self._may_enter(response, used):
                    raise self._refusal(response, missing)

    def _may_enter(self, response: transport.Response, used: str) -> bool:
        """Get authorization after a refusal, if that may change the answer: then True."""
        if response.status_code == 401:
            self._authorize(challenge.parse(response.headers.get("WWW-Authenticate", "")), used)
            return True
        if response.status_code in (403, 404) and not used and self._keychain.lookup(self._place()):
            # Some registries hide private images from strangers, who are not even asked for a password. The front door asks everybody.
            front = self.http.get(f"{self.url}/v2/", {}, limit_bytes=_TOKEN_BYTES)
            if front.status == 401:
                self._authorize(challenge.parse(front.headers.get("WWW-Authenticate", "")), used)
                return True
        return False

    def _place(self) -> Reference:
        return self._ref._replace(registry=self._name)

    def _authorize(self, challenges: tuple[challenge.Challenge, ...], used: str) -> None:
        with self._lock:
            if self._authorization != used:
                return  # another thread was faster
            if self._credentials is None:
                self._credentials = self._keychain.lookup(self._place())
                if self._credentials:
                    log.say(f"Authenticating with credentials from {self._credentials.source}")
            offered = {one.scheme: one for one in reversed(challenges)}
            if "bearer" in offered:
                self._authorization = f"Bearer {self._token(offered['bearer'])}"
            elif "basic" in offered:
                self._authorization = self._basic()
                if used == self._authorization:
                    raise self._no_entry()
            else:
                raise InfraError(f"registry {self._name} asks for a kind of credentials that is not supported")

    def _basic(self) -> str:
        """Return the Authorization header for Basic (RFC 7617)."""
        credentials = self._credentials
        if credentials is None or not credentials.username:
            raise self._no_entry()
        pair = f"{credentials.username}:{credentials.password}".encode()
        return "Basic " + binascii.b2a_base64(pair, newline=False).decode()

    def _token(self, asked: challenge.Challenge) -> str:
        """Return a token for this repository, with our credentials if we have some, else an anonymous one."""
        url = challenge.token_url(asked, registry_url=self.url, repository=self._ref.repository, actions=self._actions)
        credentials = self._credentials
        if credentials and credentials.identity_token:
            bare, _, _ = url.partition("?")
            form = {
                "grant_type": "refresh_token",
                "refresh_token": credentials.identity_token,
                "service": asked.parameters.get("service", ""),
                "scope": challenge.scope(self._ref.repository, self._actions),
                "client_id": "dockless",
            }
            reply = self.http.post_form(bare, form, limit_bytes=_TOKEN_BYTES)
        else:
            headers = {"Authorization": self._basic()} if credentials else {}
            reply = self.http.get(url, headers, limit_bytes=_TOKEN_BYTES)
        if reply.status in (400, 401, 403):
            raise self._no_entry()
        if reply.status != 200:
            error = Temporary if reply.status == 429 or reply.status >= 500 else InfraError
            raise error(f"token server of registry {self._name} answers {reply.status}")
        return self._token_in(reply.body)

    def _token_in(self, body: bytes) -> str:
        try:
            answer: Any = json.loads(body)
            token = answer.get("token") or answer.get("access_token")
        except (ValueError, AttributeError, RecursionError):
            token = None
        if not isinstance(token, str) or not token.isascii() or not token.isprintable() or " " in token:
            raise InfraError(f"token server of registry {self._name} answers without a usable token")
        return token

    def _no_entry(self) -> UserError:
        """Say that we were not let in, with or without credentials."""
        repository = self._ref.repository
        if self._credentials:
            return UserError(f"registry {self._name} refuses the credentials from {self._credentials.source} for {repository}", _SIGN_IN)
        return UserError(f"registry {self._name} wants credentials for {repository}: it is private or does not exist", _SIGN_IN)

    def _refusal(self, response: transport.Response, missing: RunnerError) -> RunnerError:
        """Return what an answer that is no success means."""
        status, words = response.status_code, transport.error_text(response)
        said = f": {words}" if words else ""
        if status == 401:
            return self._no_entry()
        if status == 403:
            return UserError(f"registry {self._name} denies access to {self._ref.repository}{said}", _SIGN_IN)
        if status == 404:
            return missing
        if status == 429 or status >= 500:
            return Temporary(f"registry {self._name} answers {status} for {self._ref.repository}{said}", "try again later")
        return InfraError(f"registry {self._name} answers {status} for {self._ref.repository}{said}")
