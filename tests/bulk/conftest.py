"""Virtual time and an operator without sockets, for jobs of any length."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from shutil import disk_usage
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest

from failing_disk import FailingDisk
from uid2_async import UID2Client, errors
from uid2_async.operator.envelope import decrypt_request, encrypt_reply
from uid2_async.protocol import base64
from uid2_async.transport import Reply, Request
from virtual_time import run_virtual

KEY = bytes(range(32))
NOBODY = 65534
MEMORY = Path("/dev/shm")  # noqa: S108 - a private folder is made in it


def uid_of(hashed: str) -> str:
    """Give the raw UID that the operator below answers for a hash."""
    return base64.encode_text(sha256(hashed.encode()).digest())


class Operator:
    """A transport that answers maps, in virtual time, and counts.

    Attributes:
        respond: Returns an error to raise, a Reply, or None to answer a request.
        requests: How many came.
        seen: All texts that were asked about, with duplicates.
        in_flight: How many are being answered, and the most there ever were.
    """

    max_connections = 100

    def __init__(self, respond: Callable[[list[str]], Any] | None = None) -> None:
        """Answer in half a second, give or take."""
        self.respond = respond or (lambda texts: None)
        self.requests = 0
        self.seen: list[str] = []
        self.in_flight = 0
        self.most = 0
        self.random = random.Random(7)  # noqa: S311 - service times
        self.sizes: list[int] = []

    async def send(self, request: Request) -> Reply:
        """Answer one request."""
        self.requests += 1
        self.sizes.append(len(request.body))
        opened = decrypt_request(request.body, KEY)
        values: dict[str, list[str]] = msgspec.json.decode(opened.payload)
        texts = [text for one in values.values() for text in one]
        respond = self.respond(texts)
        if respond is not None:
            await asyncio.sleep(0.05)
            if isinstance(respond, Exception):
                raise respond
            return respond
        self.seen += texts
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        try:
            await asyncio.sleep(0.2 + 0.4 * self.random.random())
        finally:
            self.in_flight -= 1
        return self.answer(values, opened.nonce, opened.sent_ms)

    def answer(self, values: dict[str, list[str]], nonce: bytes, now_ms: int) -> Reply:
        """Seal the rows."""
        body: dict[str, Any] = {key: [] for key in ("email", "phone")}
        body |= {
            key: [
                {"e": "optout"}
                if text.startswith("out")
                else {"u": uid_of(text), "p": None, "r": 1}
                for text in texts
            ]
            for key, texts in values.items()
        }
        payload = msgspec.json.encode({"body": body, "status": "success"})
        sealed = encrypt_reply(
            payload, key=KEY, now_ms=now_ms, nonce=nonce, iv=os.urandom(12)
        )
        return Reply(status=200, headers={}, body=sealed)

    async def aclose(self) -> None:
        """Hold nothing."""

    def client(self, **options: Any) -> UID2Client:
        """Make a client that sends here."""
        secret = base64.encode_text(KEY)
        return UID2Client(
            "https://operator.example",
            api_key="key",
            client_secret=secret,
            transport=self,
            **options,
        )


def refusal(status: int, **headers: str) -> Reply:
    """Make a refusal."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status=status, headers=named, body=b"")


@pytest.fixture
def memory_path() -> Iterator[Path]:
    """Return a private folder, in memory if possible, for tests that sync all the time.

    Memory is enough for them: no test cuts the power, so none depends on what a real
    disk has synced.
    """
    # The largest needs 30 MB, and other workers need theirs.
    usable = os.access(MEMORY, os.W_OK) and disk_usage(MEMORY).free > 2**28
    with TemporaryDirectory(dir=MEMORY if usable else None) as folder:
        yield Path(folder).resolve()


@pytest.fixture
def virtual() -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Give the runner of virtual time."""
    return run_virtual


@pytest.fixture
def make_operator() -> type[Operator]:
    """Give the operator's class."""
    return Operator


@pytest.fixture(name="uid_of")
def give_uid_of() -> Callable[[str], str]:
    """Give what knows the raw UID of a hash."""
    return uid_of


@pytest.fixture
def refuse() -> Callable[..., Reply]:
    """Give the maker of refusals."""
    return refusal


@pytest.fixture
def lost() -> errors.ConnectError:
    """Give the error of a lost connection."""
    return errors.ConnectError("lost", disconnected=True)


@pytest.fixture
def failing() -> type[FailingDisk]:
    """Give the class of failing disks."""
    return FailingDisk


@pytest.fixture
def now() -> datetime:
    """Give a time."""
    return datetime(2026, 11, 25, 12, tzinfo=UTC)


@pytest.fixture
def umask() -> Iterator[Callable[[int], Any]]:
    """Set the umask for the length of a test."""
    old = os.umask(0)
    os.umask(old)
    yield os.umask
    os.umask(old)


@pytest.fixture
def unprivileged() -> Iterator[None]:
    """Be somebody whom the modes of files concern, also where root runs the tests."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    yield
    if root:
        os.seteuid(0)
