"""Work for minutes against an operator that fails: ``python -m tests.soak MINUTES``.

The server knows each right answer. 5 % of its answers are 503, 2 % resets, 1 % never
come; now and then it asks to slow down for a second, and once it is away for a while.
Bulk jobs and single calls go on all the time: no row may be wrong or missing, requests
may not multiply, and memory, descriptors and tasks may not grow.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import sys
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from uid2_async import RetryPolicy, SessionPool, UID2Client, UID2Error
from uid2_async.bulk import BulkMapper, MapFailure
from uid2_async.protocol.base64 import encode_text

sys.path.insert(0, str(Path(__file__).parents[1] / "doubles"))

from canaries import API_KEY, CLIENT_SECRET
from fault_server import Exchange, FaultServer, Seen, refuse
from sealed_answers import open_body, success, tokens_body

ROWS, BATCH = 20_000, 500
BURST_EVERY, BURST = 20.0, 1.0
OUTAGE = 10.0
MOST_AMPLIFIED, MOST_MEMORY, MOST_FILES = 1.25, 10_240, 2


def uid_of(text: str) -> str:
    """Give the one right raw UID."""
    return encode_text(sha256(text.encode()).digest())


class Operator:
    """Answers rightly or not at all."""

    def __init__(self, minutes: float) -> None:
        """Plan the outage for the middle."""
        self.dice = random.Random(7)  # noqa: S311 - faults
        self.began = time.monotonic()
        self.outage_at = minutes * 30
        self.requests = 0
        self.told = 0

    async def __call__(self, exchange: Exchange) -> None:
        """Take one request."""
        self.requests += 1
        now = time.monotonic() - self.began
        luck = self.dice.random()
        if self.outage_at <= now < self.outage_at + OUTAGE or luck < 0.02:
            exchange.reset()
        elif now % BURST_EVERY < BURST:
            self.told += 1
            await refuse("429 Slow", "Retry-After: 1")(exchange)
        elif luck < 0.07:
            await refuse("503 Busy")(exchange)
        elif luck < 0.08:
            await exchange.reader.read(1)
            exchange.writer.close()
        else:
            await exchange.answer(exchange.sealed(payload=self.right(exchange.request)))

    def right(self, request: Seen) -> bytes:
        """Make the right answer."""
        opened = open_body(request.path, request.body)
        assert opened is not None
        fields: dict[str, Any] = msgspec.json.decode(opened.payload)
        if request.path == "/v2/token/generate":
            (text,) = fields.values()
            return success(tokens_body(advertising_token=uid_of(text)))
        return success(
            {
                key: [{"u": uid_of(text), "p": None, "r": 1} for text in texts]
                for key, texts in fields.items()
            }
        )


class Server(FaultServer):
    """A server that keeps no record of what it saw."""

    async def read_request(self, number: int, reader: asyncio.StreamReader) -> Seen:
        """Read, and forget what came before."""
        self.requests.clear()
        self.received.clear()
        return await super().read_request(number, reader)


class Soak:
    """What works, and what has come of it."""

    def __init__(self, client: UID2Client, until: float) -> None:
        """Work with *client* until then, by the monotonic clock."""
        self.client = client
        self.until = until
        self.rows = self.failed = self.wrong = 0
        self.batches = self.calls = self.given_up = 0

    async def bulk(self) -> None:
        """Run job after job, and check each row."""
        mapper = BulkMapper(self.client, batch_size=BATCH, stall_timeout=60)
        number = 0
        while time.monotonic() < self.until:
            number += 1
            people = [f"{number}.{n}@example.com" for n in range(ROWS)]
            async with mapper.map(people) as records:
                at = 0
                async for record in records:
                    self.check(people[at], record)
                    at += 1
                self.rows += ROWS
                self.wrong += ROWS - at
                self.batches += records.progress.batches

    def check(self, one: str, record: Any) -> None:
        """Hold a record against what is right."""
        if isinstance(record.outcome, MapFailure):
            self.failed += 1
            return
        digest = encode_text(sha256(one.encode()).digest())
        self.wrong += record.item != one or record.result.raw_uid != uid_of(digest)

    async def single(self) -> None:
        """Make single calls, some a second, and check each answer."""
        while time.monotonic() < self.until:
            one = f"single{self.calls}@example.com"
            try:
                found = await self.client.generate_token(one, timeout=10)
            except UID2Error:
                self.given_up += 1
            else:
                digest = encode_text(sha256(one.encode()).digest())
                self.wrong += found.advertising_token != uid_of(digest)
            self.calls += 1
            await asyncio.sleep(0.05)


def measure() -> dict[str, int]:
    """Measure this process: kB, descriptors, tasks."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "memory": pages * os.sysconf("SC_PAGESIZE") // 1024,
        "files": len(list(Path("/proc/self/fd").iterdir())),
        "tasks": len(asyncio.all_tasks()),
    }


async def soak(minutes: float) -> list[str]:
    """Work, print the figures, and list what is wrong."""
    operator = Operator(minutes)
    asyncio.get_running_loop().set_exception_handler(unretrieved)
    async with Server(operator) as server:
        pool = SessionPool(server.url)
        policy = RetryPolicy(attempt_timeout=3)
        async with UID2Client(
            server.url,
            api_key=API_KEY,
            client_secret=CLIENT_SECRET,
            transport=pool,
            retry=policy,
        ) as client:
            # The first quarter is for warming up.
            warm = Soak(client, operator.began + minutes * 15)
            await asyncio.gather(warm.bulk(), warm.single(), warm.single())
            await pool.aclose()
            before = measure()
        pool = SessionPool(server.url)
        async with (
            pool,
            UID2Client(
                server.url,
                api_key=API_KEY,
                client_secret=CLIENT_SECRET,
                transport=pool,
                retry=policy,
            ) as client,
        ):
            main = Soak(client, operator.began + minutes * 60)
            await asyncio.gather(main.bulk(), main.single(), main.single())
        await asyncio.sleep(0.5)
        after = measure()
    return judge(warm, main, operator, {one: after[one] - before[one] for one in after})


failures: list[str] = []


def unretrieved(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Remember what nobody took notice of."""
    failures.append(str(context.get("message")))


def judge(
    warm: Soak, main: Soak, operator: Operator, grown: dict[str, int]
) -> list[str]:
    """Print the figures; list those that are not as they must be."""
    rows = warm.rows + main.rows
    wrong, failed = warm.wrong + main.wrong, warm.failed + main.failed
    calls = warm.calls + main.calls
    needed = warm.batches + main.batches + calls
    amplified = operator.requests / needed
    print(f"rows {rows}, wrong or missing {wrong}, failed {failed}")
    print(f"single calls {calls}, given up {warm.given_up + main.given_up}")
    print(f"requests {operator.requests}, of them 429 {operator.told}", end=", ")
    print(f"needed {needed}, amplification {amplified:.3f}")
    print(
        f"growth: {grown['memory']} kB, {grown['files']} files, {grown['tasks']} tasks"
    )
    print(f"errors that nobody took: {len(failures)} {failures[:3]}")
    checks = {
        "rows are wrong or missing": wrong == failed == 0,
        "requests multiply": amplified <= MOST_AMPLIFIED,
        "memory grows": grown["memory"] < MOST_MEMORY,
        "descriptors grow": grown["files"] <= MOST_FILES,
        "tasks grow": grown["tasks"] == 0,
        "errors are lost": not failures,
    }
    return [name for name, holds in checks.items() if not holds]


if __name__ == "__main__":
    found = asyncio.run(soak(float(sys.argv[1]) if len(sys.argv) > 1 else 2.0))
    if found:
        raise SystemExit(f"not clean: {', '.join(found)}")
    print("clean")
