"""An operator in a process of its own that answers maps without thinking.

It opens the request for its nonce and its length, and sends as many rows as were asked
about, all alike. It stands in where the embedded operator would be the limit.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path

import attrs
import msgspec

from benchmarks.runner import Sample
from uid2_async import UID2Client
from uid2_async.operator.envelope import decrypt_request, encrypt_reply
from uid2_async.protocol.normalize import KINDS

KEY = bytes(range(32))
SECRET = base64.b64encode(KEY).decode()
API_KEY = "UID2-C-L-1-canned"
_UID = base64.b64encode(bytes(32)).decode()
_ROW = {"u": _UID, "p": None, "r": 4_000_000_000}
_request = msgspec.json.Decoder(dict[str, list[str]])
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: "


@attrs.frozen
class Canned:
    """A running canned operator.

    Attributes:
        url: Its base URL.
        pid: Its process.
    """

    url: str
    pid: int

    def client(self) -> UID2Client:
        """Make a client of it."""
        return UID2Client(self.url, api_key=API_KEY, client_secret=SECRET)

    def rate(self, job: Callable[[], object], items: int) -> Sample:
        """Run *job*; say how many of its *items* it did in a second."""
        return rate(job, items, self.pid)


def rate(
    job: Callable[[], object],
    items: int,
    operator: int,
    caller_cpu: Callable[[], float] = time.process_time,
) -> Sample:
    """Run *job*; say how many of its *items* it did in a second.

    Beside it, the CPU that an item cost here (or what *caller_cpu* returns) and in the
    process *operator*, and the share of all CPU that the operator had.
    """
    own, theirs, began = caller_cpu(), cpu_of(operator), time.perf_counter()
    job()
    seconds = time.perf_counter() - began
    own, theirs = caller_cpu() - own, cpu_of(operator) - theirs
    seen = {
        "us CPU": own / items * 1e6,
        "operator's us CPU": theirs / items * 1e6,
        "operator %": 100 * theirs / (own + theirs),
    }
    return Sample(items / seconds, seen)


def cpu_of(process: int) -> float:
    """Read how many seconds of CPU a process has used."""
    stat = Path(f"/proc/{process}/stat").read_text(encoding="ascii")
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def run_canned(module: str, argument: str, scheme: str = "http") -> Iterator[Canned]:
    """Run a *module* of the benchmarks that prints the port it serves at."""
    command = [sys.executable, "-m", module, argument]
    with subprocess.Popen(  # noqa: S603 - our own module
        command, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            port = int(process.stdout.readline())
            yield Canned(f"{scheme}://127.0.0.1:{port}", process.pid)
        finally:
            process.terminate()


def canned_operator(service_seconds: float = 0.0) -> AbstractContextManager[Canned]:
    """Run a canned operator that takes *service_seconds* for each request."""
    return run_canned("benchmarks.canned", str(service_seconds))


@cache
def _reply(counts: tuple[tuple[str, int], ...]) -> bytes:
    """Write the JSON of a reply; most batches are of the same size."""
    body = {key: [_ROW] * count for key, count in counts}
    body |= {key: [] for key in KINDS if key not in body}
    return json.dumps({"body": body, "status": "success"}).encode()


def _answer(body: bytes) -> bytes:
    """Answer one request."""
    opened = decrypt_request(body, KEY)
    asked = _request.decode(opened.payload)
    counts = tuple((key, len(values)) for key, values in asked.items())
    sealed = encrypt_reply(
        _reply(counts),
        key=KEY,
        now_ms=opened.sent_ms,
        nonce=opened.nonce,
        iv=os.urandom(12),
    )
    return _HEAD + b"%d\r\n\r\n" % len(sealed) + sealed


async def _serve(
    seconds: float, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Answer the requests of one connection."""
    while True:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()
            return
        length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
        body = await reader.readexactly(int(length))
        if seconds:
            await asyncio.sleep(seconds)
        writer.write(_answer(body))
        await writer.drain()


async def _main(seconds: float) -> None:
    """Serve until terminated."""
    server = await asyncio.start_server(
        lambda reader, writer: _serve(seconds, reader, writer),
        "127.0.0.1",
        0,
        limit=4 * 1024 * 1024,
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main(float(sys.argv[1])))
