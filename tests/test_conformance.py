"""Replays what a real operator answered against the embedded one, over HTTP.

The rules of the comparison are those of tests/conformance/README.md.
"""

from __future__ import annotations

import json
import socket
from base64 import b64decode
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import msgspec
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from uid2_async.operator import LocalOperator, OperatorData
from uid2_async.operator.minting import decrypt_inner_token, unwrap_refresh_token
from uid2_async.protocol.keyring import Key
from uid2_async.protocol.token_codec import open_token

FOLDER = Path(__file__).parent / "conformance"
CASES_PER_WORLD = 597
TOLERANCE_MS = 2_000
COMPARED_HEADERS = (
    "allow",
    "vary",
    "access-control-allow-origin",
    "access-control-allow-methods",
    "access-control-allow-headers",
)
CLOCK_FIELDS = {
    "identity_expires",
    "refresh_expires",
    "refresh_from",
    "expires_ms",
    "created_ms",
    "refreshed_ms",
    "established_ms",
}
JAVA_OBJECT = b"Invalid Token presented com."


@attrs.define
class Clock:
    """The operator's clock, set for each case."""

    now_ms: int = 0

    def __call__(self) -> datetime:
        """Tell the time."""
        return datetime.fromtimestamp(self.now_ms / 1000, UTC)


@attrs.frozen
class Answer:
    """An HTTP answer with its headers as they came."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def values(self, name: str) -> list[str]:
        """List the values of a header, taken apart at the commas."""
        found = [value for key, value in self.headers if key == name]
        return [part.strip().lower() for value in found for part in value.split(",")]

    @property
    def content_type(self) -> str | None:
        """The content type, or None for no such header."""
        return dict(self.headers).get("content-type")


class RawClient:
    """Sends requests byte by byte, over one connection while it lasts."""

    def __init__(self, host: str, port: int) -> None:
        """Remember where the operator is."""
        self._address = (host, port)
        self._socket: socket.socket | None = None

    def send(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> Answer:
        """Send a request and read the answer."""
        if self._socket is None:
            self._socket = socket.create_connection(self._address, timeout=20)
        lines = [f"{method} {path} HTTP/1.1", "Host: operator"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        lines.append(f"Content-Length: {len(body)}")
        head = "\r\n".join(lines) + "\r\n\r\n"
        self._socket.sendall(head.encode("latin-1") + body)
        with self._socket.makefile("rb") as stream:
            status = int(stream.readline().split()[1])
            found = []
            while line := stream.readline().strip():
                name, _, value = line.decode("latin-1").partition(":")
                found.append((name.lower(), value.strip()))
            size = int(dict(found).get("content-length", 0))
            answer = Answer(status, found, stream.read(size))
        if status == 413 or "close" in answer.values("connection"):
            self.close()
        return answer

    def close(self) -> None:
        """Close the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class World:
    """A recorded world: its data, its keys, and an operator that is loaded with it."""

    def __init__(self, name: str) -> None:
        """Read the files of the world."""
        folder = FOLDER / name / "world"
        self.data = OperatorData.load(folder)
        self.clock = Clock()
        self.secrets = {
            one["key"]: b64decode(one["secret"])
            for one in json.loads((folder / "clients.json").read_bytes())
        }
        keys = json.loads((folder / "keyset_keys.json").read_bytes())
        self._keys = {
            one["id"]: Key(**{**one, "secret": b64decode(one["secret"])})
            for one in keys
        }
        self.cases = json.loads((FOLDER / name / "exchanges.json").read_bytes())[
            "cases"
        ]

    @contextmanager
    def running(self) -> Iterator[RawClient]:
        """Run the operator, and make a client of it."""
        with LocalOperator.in_thread(self.data, clock=self.clock) as operator:
            host, _, port = operator.url.removeprefix("http://").partition(":")
            client = RawClient(host, int(port))
            try:
                yield client
            finally:
                client.close()

    def replay(self, case: dict[str, Any], client: RawClient) -> list[str]:
        """Send a case, and list what differs from the recorded answer."""
        self.clock.now_ms = case["server_ms"]
        sent = sent_body(case)
        got = client.send(case["method"], case["path"], case["headers"], sent)
        recorded = case["response"]
        want_body = b64decode(recorded["body_b64"] or "")
        differences = [
            *compare_value("status", recorded["status"], got.status),
            *compare_value("content type", recorded["content_type"], got.content_type),
            *compare_headers(recorded["headers"], got),
        ]
        if differences:
            return differences
        if got.status != 200 or got.body == b"OK":
            return compare_bodies(want_body, got.body)
        return self._compare_opened(case, sent, want_body, got.body)

    def _compare_opened(
        self, case: dict[str, Any], sent: bytes, want_body: bytes, got_body: bytes
    ) -> list[str]:
        """Open both replies to a successful request, and compare their JSON."""
        if case["response"]["content_type"] == "application/json":
            return self._compare(json.loads(want_body), json.loads(got_body), "$")
        sealed, got = self._open(case, sent, got_body)
        _, want = self._open(case, sent, want_body)
        recorded = case["response"]["opened"]
        if recorded is not None:
            assert json.loads(recorded) == want, "the recording contradicts itself"
        differences = self._compare(want, got, "$")
        if sealed is not None and abs(sealed - case["server_ms"]) > TOLERANCE_MS:
            differences.append(f"time of the reply: {sealed}")
        return differences

    def _open(
        self, case: dict[str, Any], sent: bytes, body: bytes
    ) -> tuple[int | None, Any]:
        """Open a reply into its time, if it carries one, and its JSON."""
        if case["response"]["content_type"] != "application/octet-stream":
            body = b64decode(body, validate=True)
        if case.get("open_as") in {"refresh", "cstg"}:
            key = b64decode(case["open_key_b64"])
            return None, json.loads(AESGCM(key).decrypt(body[:12], body[12:], None))
        if case.get("open_as") == "sealed":
            key, nonce = b64decode(case["open_key_b64"]), case["nonce_hex"]
        else:
            key = self.secrets[case["headers"]["Authorization"].split()[1]]
            nonce = sent_nonce(sent, key)
        inner = AESGCM(key).decrypt(body[:12], body[12:], None)
        assert inner[8:16].hex() == nonce, "the reply carries another nonce"
        return int.from_bytes(inner[:8], "big"), json.loads(inner[16:])

    def _compare(self, want: Any, got: Any, place: str) -> list[str]:
        """List what differs between two JSON values."""
        if type(want) is not type(got):
            return [f"{place}: {want!r} became {got!r}"]
        if isinstance(want, dict):
            if want.keys() != got.keys():
                return [f"{place}: keys {sorted(want)} became {sorted(got)}"]
            pairs = [(f"{place}.{key}", key, want[key], got[key]) for key in want]
            return [
                line
                for at, key, one, other in pairs
                for line in self._compare_field(key, one, other, at, got)
            ]
        if isinstance(want, list):
            if len(want) != len(got):
                return [f"{place}: {len(want)} elements became {len(got)}"]
            return [
                line
                for at, (one, other) in enumerate(zip(want, got, strict=True))
                for line in self._compare(one, other, f"{place}[{at}]")
            ]
        return compare_value(place, want, got)

    def _compare_field(
        self, key: str, want: Any, got: Any, place: str, around: dict[str, Any]
    ) -> list[str]:
        """Compare a field of an object, by its content where that is random."""
        if key == "advertising_token":
            return self._compare(self._token(want), self._token(got), place)
        if key == "refresh_token":
            opened, response_key = self._refresh_token(got)
            differences = self._compare(self._refresh_token(want)[0], opened, place)
            if response_key != around["refresh_response_key"]:
                differences.append(f"{place}: holds another refresh_response_key")
            return differences
        if key == "refresh_response_key":
            return compare_value(place, *(len(b64decode(one)) for one in (want, got)))
        if key in CLOCK_FIELDS and type(want) is type(got) is int:
            return (
                [] if abs(want - got) <= TOLERANCE_MS else [f"{place}: {want}, {got}"]
            )
        return self._compare(want, got, place)

    def _token(self, text: str) -> dict[str, Any]:
        """Open an advertising token into all that it says."""
        token = open_token(text, self._keys.get, strict=True)
        return {**msgspec.structs.asdict(token), "length": len(text), "head": text[:4]}

    def _refresh_token(self, text: str) -> tuple[dict[str, Any], str]:
        """Open a refresh token and its wrapper into all that they say."""
        inner, _ = unwrap_refresh_token(text, self._keys.get)
        raw, inner_raw = b64decode(text), b64decode(inner)
        fields = attrs.asdict(decrypt_inner_token(inner, self._keys.get))
        fields |= {"head": raw[:5], "inner head": inner_raw[:6], "length": len(inner)}
        wrapped = AESGCM(self._keys[int.from_bytes(raw[1:5], "big")].secret)
        opened = json.loads(wrapped.decrypt(raw[5:17], raw[17:], None))
        fields["wrapper"] = list(opened)
        return fields, opened["refresh_response_key"]


def sent_body(case: dict[str, Any]) -> bytes:
    """Make the body that was sent."""
    if case["body_b64"] is not None:
        return b64decode(case["body_b64"])
    return (case["body_fill"] or "").encode() * (case["body_len"] or 0)


def sent_nonce(sent: bytes, key: bytes) -> str:
    """Find the nonce in the request that was sent as text, padded or not."""
    raw = b64decode(sent + b"=" * (-len(sent) % 4))
    return AESGCM(key).decrypt(raw[1:13], raw[13:], None)[8:16].hex()


def compare_value(place: str, want: object, got: object) -> list[str]:
    """Compare two plain values."""
    return [] if want == got else [f"{place}: {want!r} became {got!r}"]


def compare_headers(recorded: Mapping[str, str], got: Answer) -> list[str]:
    """Compare the five headers as lists, and see that two others never come."""
    differences = []
    for name in COMPARED_HEADERS:
        want = [part.strip().lower() for part in recorded.get(name, "").split(",")]
        found = got.values(name) or [""]
        if Counter(want) != Counter(found):
            differences.append(f"{name}: {want} became {found}")
    sent = [name for name in ("date", "server") if got.values(name)]
    return differences + [f"{name}: sent" for name in sent]


def compare_bodies(want: bytes, got: bytes) -> list[str]:
    """Compare two bodies exactly, but for the name of a Java object."""
    if JAVA_OBJECT in want:
        cut = want.index(JAVA_OBJECT) + len(JAVA_OBJECT) - len(b"com.")
        want, got = want[:cut], got[:cut]
    return compare_value("body", want, got)


@pytest.mark.parametrize("name", ["uid2", "euid"])
def test_answers_are_those_of_the_real_operator(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every recorded exchange is answered as the real operator answered it."""
    world = World(name)
    skipped = [case for case in world.cases if case["body_fill"] == "?"]
    differing = {}
    replayed = 0
    with world.running() as client:
        for case in world.cases:
            if case["body_fill"] == "?":
                continue
            replayed += 1
            if differences := world.replay(case, client):
                differing[f"{case['id']} {case['name']} {case['path']}"] = differences
    with capsys.disabled():
        counts = f"{replayed} exchanges replayed, {len(skipped)} skipped"
        print(f"\n{name}: {counts}, {len(differing)} differ")  # noqa: T201 - the count
    assert not differing, "\n".join(
        f"{case}: {'; '.join(lines)}" for case, lines in differing.items()
    )
    assert replayed == CASES_PER_WORLD - len(skipped)
