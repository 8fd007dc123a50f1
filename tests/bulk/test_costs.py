"""What identities cost, and that docs/scale.md says the same."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from uid2_async import SessionPool, UID2Client
from uid2_async.bulk import estimate as costs
from uid2_async.bulk.estimate import Costs, RunCosts, work_out
from uid2_async.errors import ConfigError
from uid2_async.operator import LocalOperator
from uid2_async.transport import Reply, Request

PAGE = Path(__file__).parents[2] / "docs" / "scale.md"
SIZES = {
    "80 million": 80_000_000,
    "1 billion": 1_000_000_000,
    "10 billion": 10_000_000_000,
}
PUBLIC = {"concurrency": 20, "latency": 0.5, "processes": 1}
SLOW = PUBLIC | {"latency": 2.0}
PRIVATE = {"concurrency": 160, "latency": 0.5, "processes": 8}


def time(seconds: float) -> str:
    """Write a time as the page does."""
    if seconds < 2 * 3600:
        return f"{max(1, round(seconds / 60))} min"
    return f"{seconds / 3600:.1f} h"


def size(count: float) -> str:
    """Write a size as the page does."""
    if count >= 1e12:
        return f"{count / 1e12:.1f} TB"
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def traffic(run: RunCosts) -> str:
    """Write what goes out and comes in."""
    return f"{size(run.sent_bytes)} out, {size(run.received_bytes)} in"


LINES: dict[str, Callable[[Costs, Costs, Costs], str]] = {
    "requests, once for all": lambda usual, *_: f"{usual.once.batches:,}",
    "on the wire": lambda usual, *_: traffic(usual.once),
    "public operator, no state": lambda usual, *_: time(usual.once.seconds),
    "public operator, first load": lambda usual, *_: time(usual.first_load.seconds),
    "the same, 2 s a request": lambda _, slow, __: time(slow.first_load.seconds),
    "private operators, no state": lambda *all_: time(all_[2].once.seconds),
    "private operators, first load": lambda *all_: time(all_[2].first_load.seconds),
    "state on disk": lambda usual, *_: size(usual.state_bytes),
    "due each day": lambda usual, *_: f"{usual.daily.identities:,}",
    "requests each day": lambda usual, *_: f"{usual.daily.batches:,}",
    "on the wire each day": lambda usual, *_: traffic(usual.daily),
    "daily run, one process": lambda usual, *_: time(usual.daily.seconds),
    "daily run, 8 processes": lambda *all_: time(all_[2].daily.seconds),
    "what is due alone, no state": lambda usual, *_: time(
        work_out(usual.daily.identities, **PUBLIC).once.seconds
    ),
}


def table() -> str:
    """Write the table that docs/scale.md has to show."""
    found = [
        [work_out(count, **options) for options in (PUBLIC, SLOW, PRIVATE)]
        for count in SIZES.values()
    ]
    rows = [["", *SIZES], ["---", *["--:" for _ in SIZES]]]
    rows += [[name, *[line(*one) for one in found]] for name, line in LINES.items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def test_the_page_shows_what_the_function_works_out() -> None:
    """The table of docs/scale.md comes from the same figures; this is how it reads."""
    page = PAGE.read_text(encoding="utf-8")

    shown = re.search(r"<!-- sizes -->\n(.*?)\n<!-- end -->", page, re.DOTALL)
    assert shown is not None
    assert shown[1] == table()


@pytest.mark.parametrize(
    ("name", "figure"),
    [
        ("no state", f"{costs.ROW_SECONDS * 1e6:.0f} us"),
        ("first load", f"{costs.FIRST_LOAD_ROW_SECONDS * 1e6:.1f} us"),
        ("daily run", f"{costs.DAILY_ROW_SECONDS * 1e6:.1f} us"),
        ("state", f"{costs.STATE_BYTES} bytes"),
        ("sent", f"{costs.SENT_BYTES} bytes"),
        ("received", f"{costs.RECEIVED_BYTES} bytes"),
        ("due", f"1/{1 / costs.DUE_SHARE:.0f}"),
    ],
)
def test_the_page_shows_the_figures(name: str, figure: str) -> None:
    """The figures that users put their own in place of are those of the code."""
    assert f"| `{name}` | {figure} |" in PAGE.read_text(encoding="utf-8")


def test_the_slower_of_operator_and_machine_counts() -> None:
    """Either requests in rounds, or rows on cores."""
    far = work_out(1_000_000, latency=60, concurrency=20)
    near = work_out(1_000_000, latency=0, processes=4)

    assert far.once.seconds == 10 * 60
    assert near.once.seconds == pytest.approx(1_000_000 * costs.ROW_SECONDS / 4)


def test_rows_are_read_and_identities_are_asked_about() -> None:
    """A row that repeats an identity costs no request."""
    found = work_out(1_000, rows=1_000_000, latency=0)

    assert found.once.batches == found.daily.batches == 1
    assert found.once.seconds == pytest.approx(1_000_000 * costs.ROW_SECONDS)
    assert found.state_bytes == 1_000 * costs.STATE_BYTES
    assert found.daily.identities == 3


def test_nothing_costs_nothing() -> None:
    """An empty file is no division by zero and no request."""
    found = work_out(0)

    assert set(attrs.asdict(found.once).values()) == {0}
    assert found.daily.batches == found.state_bytes == 0


class CountingTransport:
    """Counts what goes over the wire."""

    def __init__(self, url: str) -> None:
        """Send to *url*."""
        self.pool = SessionPool(url)
        self.sent = self.received = 0

    async def send(self, request: Request) -> Reply:
        """Count bodies, and headers as HTTP writes them."""
        reply = await self.pool.send(request)
        self.sent += len(request.body) + sum(map(header_bytes, request.headers.items()))
        self.received += len(reply.body) + sum(map(header_bytes, reply.headers.items()))
        return reply

    async def aclose(self) -> None:
        """Close what was opened."""
        await self.pool.aclose()


def header_bytes(header: tuple[str, str]) -> int:
    """Count a header with its colon, space and line end."""
    name, value = header
    return len(name) + len(value) + 4


async def test_an_identity_takes_that_many_bytes() -> None:
    """What goes over the wire for 5,000 identities is what the page says."""
    async with LocalOperator() as operator:
        wire = CountingTransport(operator.url)
        async with UID2Client(
            operator.url,
            api_key=operator.api_key,
            client_secret=operator.client_secret,
            transport=wire,
        ) as client:
            found = await client.map_identities(
                f"p{n}@example.com" for n in range(5_000)
            )
        await wire.aclose()

    before = sum(row.previous_raw_uid is not None for row in found)
    # 44 characters and quotes in place of null.
    told = (wire.received + (1_250 - before) * 42) / 5_000
    assert wire.sent / 5_000 == pytest.approx(costs.SENT_BYTES, abs=0.5)
    assert told == pytest.approx(costs.RECEIVED_BYTES, abs=0.5)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        *(("concurrency", 0), ("processes", 0), ("batch_size", -1)),
        *(("identities", -1), ("rows", -1), ("latency", -1)),
    ],
)
def test_costs_of_impossible_numbers_are_refused(name: str, number: int) -> None:
    """The error names them."""
    with pytest.raises(ConfigError, match=name):
        work_out(**{"identities": 1, name: number})
