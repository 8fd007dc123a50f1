"""What ``uid2 estimate`` says is what ``uid2 map`` then does."""

from __future__ import annotations

import json
import select
import socket
import socketserver
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import pytest

from uid2_async import IdentityScope
from uid2_async.operator import LocalOperator

Uid2 = Callable[..., Any]

ROWS = 3_000
FULL = ["--delta", "d.csv", "--key", "id", "--full"]


class Relay(socketserver.ThreadingTCPServer):
    """Passes TCP connections on, and counts the bytes of each direction."""

    def __init__(self, url: str) -> None:
        """Pass on to the host and port of *url*."""
        parts = urlsplit(url)
        self.target = (parts.hostname, parts.port)
        self.bytes: Counter[str] = Counter()
        super().__init__(("127.0.0.1", 0), _Connection)


class _Connection(socketserver.BaseRequestHandler):
    """One connection of a relay."""

    server: Relay

    def handle(self) -> None:
        """Pass on until either side closes."""
        with socket.create_connection(self.server.target) as other:
            names = {self.request: "sent", other: "received"}
            others = {self.request: other, other: self.request}
            while True:
                for one in select.select(list(names), [], [])[0]:
                    data = one.recv(65_536)
                    if not data:
                        return
                    self.server.bytes[names[one]] += len(data)
                    others[one].sendall(data)


@contextmanager
def relaying(url: str) -> Iterator[Relay]:
    """Run a relay in a thread."""
    with Relay(url) as relay:
        thread = Thread(target=relay.serve_forever)
        thread.start()
        try:
            yield relay
        finally:
            relay.shutdown()
            thread.join()


@pytest.mark.parametrize("scope", [IdentityScope.UID2])
@pytest.mark.parametrize(
    "options",
    [
        ["--email", "mail"],
        ["--email", "mail", "--phone", "tel"],
        ["--email", "mail", "--phone", "tel", "--state", "people.db"],
        [
            "--email",
            "mail",
            "--phone",
            "tel",
            "--state",
            "s.db",
            "--delta",
            "d.csv",
            "--key",
            "id",
            "--full",
        ],
    ],
)
@pytest.mark.parametrize("batch_size", ["50", "5000"])
def test_an_estimate_is_what_happens(
    uid2: Uid2,
    env: dict[str, str],
    local_operator: LocalOperator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    batch_size: str,
) -> None:
    """Requests and bytes are right within a fifth, and the time is of that order."""
    monkeypatch.chdir(tmp_path)
    count = ROWS // 10 if batch_size == "50" else ROWS
    rows = (f"{n},a{n % count}@example.com,+4930{n:08}\n" for n in range(count + 50))
    Path("in.csv").write_text("id,mail,tel\n" + "".join(rows))
    shared = [*options, "--batch-size", batch_size, "--json"]
    estimate = json.loads(uid2("estimate", "in.csv", *shared).stdout)
    with relaying(local_operator.url) as relay:
        began = time.monotonic()
        env = env | {"UID2_BASE_URL": f"http://127.0.0.1:{relay.server_address[1]}"}
        result = uid2("map", "in.csv", "out.csv", *shared, env=env)
        seconds = time.monotonic() - began
    requests = json.loads(result.stdout)["requests"]

    assert result.exit_code == 0, result.stderr
    assert estimate["batches"] == pytest.approx(requests, rel=0.2)
    assert estimate["sent_bytes"] == pytest.approx(relay.bytes["sent"], rel=0.2)
    assert estimate["received_bytes"] == pytest.approx(relay.bytes["received"], rel=0.2)
    assert seconds / 30 < estimate["seconds"] < 30 * (seconds + 1)


def test_identities_that_were_forgotten_are_asked_about_again(
    uid2: Uid2, tmp_path: Path
) -> None:
    """Without a state a job remembers 100,000 identities; with one it asks once."""
    path = tmp_path / "in.csv"
    people = "".join(f"a{n}@example.com\n" for n in range(110_000))
    path.write_text("mail\n" + 2 * people)
    line = ["estimate", str(path), "--email", "mail", "--json"]
    found = [
        json.loads(uid2(*line, *more).stdout)["batches"]
        for more in ([], ["--state", "people.db"])
    ]

    assert found == [44, pytest.approx(22, abs=1)]
