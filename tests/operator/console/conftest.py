"""An operator with its console, and what a browser and a client do with them."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from typing import Any

import attrs
import pytest

from uid2_async.operator import LocalOperator
from uid2_async.protocol.envelope import AesGcmEnvelope

NONCE = b"abcdefgh"
IV = b"0123456789ab"


@attrs.frozen
class Answer:
    """An HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """Its JSON."""
        return json.loads(self.body)


class Desk:
    """What is done at a console, and calls to be seen there."""

    def __init__(self, operator: LocalOperator) -> None:
        """Sit down at the console of *operator*."""
        self.operator = operator
        self.host = operator.url.removeprefix("http://")

    def send(
        self, method: str, path: str, body: bytes = b"", **headers: str | None
    ) -> Answer:
        """Send a request; None leaves a header out."""
        connection = HTTPConnection(self.host, timeout=10)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        host = named.pop("Host", self.host)
        connection.putrequest(method, path, skip_host=True)
        fields = {"Host": host, "Content-Length": str(len(body)), **named}
        for name, value in fields.items():
            if value is not None:
                connection.putheader(name, value.encode())
        connection.endheaders(body)
        try:
            reply = connection.getresponse()
            content = reply.read()
        finally:
            connection.close()
        got = {name.lower(): value for name, value in reply.getheaders()}
        return Answer(reply.status, got, content)

    def see(self, name: str) -> Any:
        """Ask the console."""
        answer = self.send("GET", f"/_console/{name}")
        assert answer.status == 200
        return answer.json

    def order(self, name: str, order: Any, **headers: str | None) -> Answer:
        """Tell the console."""
        headers = {"Content_Type": "application/json", **headers}
        return self.send(
            "POST", f"/_console/{name}", json.dumps(order).encode(), **headers
        )

    def call(
        self,
        path: str,
        payload: Any = None,
        *,
        key: str = "everything",
        secret: str | None = None,
        late: float = 0,
        **headers: str | None,
    ) -> Answer:
        """Call the operator with a sealed request; None is an empty payload."""
        credentials = self.operator.credentials
        text = b"" if payload is None else json.dumps(payload).encode()
        body = AesGcmEnvelope().seal(
            text,
            key=b64decode(credentials[secret or key].client_secret),
            now_ms=int((self.operator.now.timestamp() - late) * 1000),
            nonce=NONCE,
            iv=IV,
        )
        if headers.get("Content_Type") != "application/octet-stream":
            body = b64encode(body)
        return self.post(path, body, key=key, **headers)

    def post(
        self, path: str, body: bytes, *, key: str = "everything", **headers: str | None
    ) -> Answer:
        """Call the operator with a body as it is."""
        bearer = f"Bearer {self.operator.credentials[key].api_key}"
        return self.send("POST", path, body, **{"Authorization": bearer, **headers})

    def last(self) -> Any:
        """Open the newest call."""
        number = self.see("updates/0")["calls"][-1]["number"]
        return self.see(f"calls/{number}")


@pytest.fixture
def desk() -> Iterator[Desk]:
    """Run an operator with its console."""
    with LocalOperator.in_thread(console=True) as operator:
        yield Desk(operator)


@pytest.fixture
def make_desk() -> Callable[[LocalOperator], Desk]:
    """Sit down at another operator's console."""
    return Desk
