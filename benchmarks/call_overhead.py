"""What a token call costs the client, beside a bare POST and beside the official SDK.

The operator is canned and runs in a process of its own. CPU is that of the calling
process alone: Python, OpenSSL, and its part of the kernel's work.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path

import trustme

from benchmarks.canned import Canned
from benchmarks.canned_tokens import canned_token_operator
from benchmarks.runner import Better, Effort, Measure, Sample, Table, interleave
from benchmarks.token_calls import (
    Call,
    Callers,
    official_generate,
    official_refresh,
)

AT_ONCE = 20
SDK = "official SDK"


@contextmanager
def certificate() -> Iterator[tuple[str, ssl.SSLContext]]:
    """Make a certificate for this machine; the official SDK is told to trust it."""
    authority = trustme.CA()
    with tempfile.TemporaryDirectory() as folder:
        trusted, served = Path(folder, "authority.pem"), Path(folder, "server.pem")
        authority.cert_pem.write_to_path(str(trusted))
        issued = authority.issue_cert("127.0.0.1")
        issued.private_key_and_cert_chain_pem.write_to_path(str(served))
        before = os.environ.get("SSL_CERT_FILE")
        os.environ["SSL_CERT_FILE"] = str(trusted)
        try:
            yield str(served), ssl.create_default_context(cafile=str(trusted))
        finally:
            del os.environ["SSL_CERT_FILE"]
            if before is not None:
                os.environ["SSL_CERT_FILE"] = before


def cpu_per_call(job: Callable[[], object], calls: int, canned: Canned) -> Measure:
    """Make a measurement of the CPU of *job*, in us for each of its *calls*."""

    def measure() -> Sample:
        seen = canned.rate(job, calls).also
        return Sample(seen["us CPU"], {"operator %": seen["operator %"]})

    return measure


async def one_by_one(call: Call, calls: int) -> None:
    """Make call after call."""
    for _ in range(calls):
        await call()


async def some_at_once(call: Call, calls: int) -> None:
    """Make calls, 20 at once."""
    work = repeat(None, calls)

    async def make_some() -> None:
        for _ in work:
            await call()

    await asyncio.gather(*(make_some() for _ in range(AT_ONCE)))


def in_threads(url: str, calls: int) -> None:
    """Make calls with the official SDK, 20 at once."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        assert all(pool.map(official_generate, repeat(url, calls)))


class Bench:
    """An event loop with callers, and an operator to call."""

    def __init__(
        self, canned: Canned, context: ssl.SSLContext | None, effort: Effort
    ) -> None:
        """Open the callers."""
        self.canned = canned
        self.loop = asyncio.Runner()
        self.rounds = effort.pick(5, 6)
        self.calls = effort.pick(100, 300)
        self.callers = self.loop.run(self._open(context))

    async def _open(self, context: ssl.SSLContext | None) -> Callers:
        return Callers.open(self.canned.url, context)

    def close(self) -> None:
        """Close callers and loop."""
        self.loop.run(self.callers.aclose())
        self.loop.close()

    def cost(
        self, title: str, calls: Mapping[str, Call], official: Callable[[str], object]
    ) -> Table:
        """Measure what one call after the other costs."""
        measures = {
            name: cpu_per_call(
                lambda call=call: self.loop.run(one_by_one(call, self.calls)),
                self.calls,
                self.canned,
            )
            for name, call in calls.items()
        }
        # It takes longer by far: fewer of its calls fill the same time.
        few = self.calls // 10
        measures[SDK] = cpu_per_call(
            lambda: [official(self.canned.url) for _ in range(few)], few, self.canned
        )
        return Table(
            title=title,
            unit="us of client CPU per call",
            baseline="bare POST",
            ours=("uid2_async",),
            lines=interleave(measures, rounds=self.rounds),
        )

    def rate(self, title: str) -> Table:
        """Measure how many calls a second there are with 20 at once."""
        generate = self.callers.generate()
        calls = {
            "bare POST": generate["bare POST"],
            "by hand": generate["by hand"],
            "token/generate": generate["uid2_async"],
            "token/refresh": self.callers.refresh()["uid2_async"],
        }
        many, few = self.calls * 4, self.calls // 3
        measures: dict[str, Measure] = {
            name: lambda call=call: self.canned.rate(
                lambda: self.loop.run(some_at_once(call, many)), many
            )
            for name, call in calls.items()
        }
        measures[f"{SDK}, 20 threads"] = lambda: self.canned.rate(
            lambda: in_threads(self.canned.url, few), few
        )
        return Table(
            title=title,
            unit="calls/s",
            better=Better.MORE,
            baseline="bare POST",
            ours=("token/generate", "token/refresh"),
            lines=interleave(measures, rounds=self.rounds // 2),
        )


def run(effort: Effort) -> Iterator[Table]:
    """Measure both calls, over plain TCP and over TLS."""
    with certificate() as (chain, context):
        for how, served, trusted in (("", "", None), (", over TLS", chain, context)):
            with canned_token_operator(served) as canned:
                bench = Bench(canned, trusted, effort)
                generate, refresh = bench.callers.generate(), bench.callers.refresh()
                yield bench.cost(f"token/generate{how}", generate, official_generate)
                yield bench.cost(f"token/refresh{how}", refresh, official_refresh)
                yield bench.rate(f"20 at once{how or ', without TLS'}")
                bench.close()
