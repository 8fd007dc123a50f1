"""What is to be reached: the one place for targets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import attrs

from benchmarks.runner.measuring import Spread, Table


@attrs.frozen(kw_only=True)
class Reach:
    """A figure to be reached.

    Attributes:
        benchmark: The benchmark that measures it.
        title: The title of the table, or a part of it; of all tables if empty.
        line: The line that is to reach it.
        against: The line of the same table that it is a multiple of; None where the
            figure itself is meant.
        column: The column that is meant; None for the values.
        at_most: The figure where less is better.
        at_least: The figure where more is better.
    """

    benchmark: str
    title: str = ""
    line: str
    against: str | None = None
    column: str | None = None
    at_most: float | None = None
    at_least: float | None = None

    def measured(self, table: Table) -> Spread:
        """Find the figure in *table*."""
        if self.against is None:
            return table.spread(self.line, self.column)
        return table.ratio(self.line, self.against, self.column)

    def is_met(self, table: Table) -> bool:
        """Tell whether the middle of what was measured reaches it."""
        figure = self.measured(table).middle
        if self.at_most is not None:
            return figure <= self.at_most
        return self.at_least is not None and figure >= self.at_least

    def sentence(self, table: Table) -> str:
        """Say what is to be reached."""
        limit = self.at_most if self.at_most is not None else self.at_least
        sign = "<=" if self.at_most is not None else ">="
        what = f"{self.line}, {self.column}" if self.column else self.line
        unit = "" if self.column else f" {table.unit}"
        if self.against is not None:
            unit = f" x {self.against}"
        return f"{what} {sign} {limit:,g}{unit}"


def reaches_of(
    benchmark: str, table: Table, reaches: Iterable[Reach] | None = None
) -> list[Reach]:
    """List what *table* shows of what *benchmark* is to reach."""
    return [
        reach
        for reach in (REACHES if reaches is None else reaches)
        if reach.benchmark == benchmark
        and reach.title in table.title
        and reach.line in table.lines
        and (reach.against is None or reach.against in table.lines)
    ]


SDK = "official SDK"
WAY_20 = "map_identities, 20 in flight"

REACHES: Sequence[Reach] = (
    Reach(benchmark="map_cpu", line="uid2_async", against="floor", at_most=1.5),
    Reach(benchmark="map_cpu", line=SDK, against="uid2_async", at_least=7),
    Reach(
        benchmark="map_throughput",
        title=" 50 ms",
        line=WAY_20,
        against=SDK,
        at_least=10,
    ),
    Reach(
        benchmark="map_throughput",
        title=" 50 ms",
        line=WAY_20,
        against=f"{SDK}, 20 threads",
        at_least=6,
    ),
    *(
        Reach(
            benchmark="map_throughput",
            title=f", {milliseconds} ms",
            line="BulkMapper, 20 in flight",
            against=WAY_20,
            at_least=0.9,
        )
        for milliseconds in (0, 50)
    ),
    Reach(benchmark="map_rows", line="uid2_async", at_most=1.3),
    Reach(benchmark="map_rows", line=SDK, against="uid2_async", at_least=12),
    Reach(
        benchmark="blocking",
        title="threads",
        line="BlockingClient",
        against=f"{SDK}, 20 threads",
        at_least=8,
    ),
    # 80 % of what 20 batches of 5,000 can be, if each takes 300 ms.
    Reach(
        benchmark="map_throughput",
        title=" 300 ms",
        line=WAY_20,
        at_least=0.8 * 20 * 5_000 / 0.3,
    ),
    *(
        reach
        for kind, megabytes in (("CSV", 150), ("Parquet", 300))
        for rows in ("1 M", "10 M")
        for reach in (
            Reach(benchmark="bulk_file", line=f"{kind}, {rows}", at_least=290_000),
            Reach(
                benchmark="bulk_file",
                line=f"{kind}, {rows}",
                column="RSS MB",
                at_most=megabytes,
            ),
        )
    ),
    *(
        Reach(
            benchmark="bulk_file",
            line=f"{kind}, 10 M",
            against=f"{kind}, 1 M",
            column=column,
            at_most=1.1,
        )
        for kind in ("CSV", "Parquet")
        for column in ("us/row", "RSS MB")
    ),
    *(
        reach
        for line in ("map_frame, pandas", "map_frame, polars")
        for reach in (
            Reach(
                benchmark="frames",
                line=line,
                against="map_file, Parquet",
                at_least=0.8,
            ),
            Reach(benchmark="frames", line=line, column="MB added", at_most=600),
        )
    ),
    *(
        reach
        for line, rows in (
            ("first load", 110_000),
            ("nothing due", 200_000),
            ("refresh, all due", 100_000),
        )
        for reach in (
            Reach(benchmark="state", line=line, at_least=rows),
            Reach(benchmark="state", line=line, column="RSS MB", at_most=180),
        )
    ),
    Reach(
        benchmark="state",
        line="refresh, all due",
        column="bytes/row",
        at_most=250,
    ),
    Reach(
        benchmark="token_codec",
        title="v4",
        line="decrypt",
        against="floor",
        at_most=1.3,
    ),
    Reach(
        benchmark="token_codec", title="v4", line=SDK, against="decrypt", at_least=28
    ),
    Reach(benchmark="token_codec", line=SDK, against="encrypt", at_least=20),
    Reach(benchmark="loop_lag", line="BulkMapper", at_most=8),
    Reach(benchmark="import_time", line="UID2Client", against="aiohttp", at_most=1.15),
    Reach(benchmark="hash", line="uid2 hash", against="by hand", at_least=0.8),
    Reach(benchmark="operator", line="embedded operator", at_least=100_000),
    Reach(
        benchmark="call_overhead", line="uid2_async", against="bare POST", at_most=1.35
    ),
    Reach(
        benchmark="call_overhead",
        title="over TLS",
        line=SDK,
        against="uid2_async",
        at_least=5,
    ),
    Reach(
        benchmark="call_overhead",
        title="without TLS",
        line="token/generate",
        at_least=2_200,
    ),
    Reach(
        benchmark="java_sdk",
        title="token/generate",
        line="uid2_async",
        against="Java SDK, 20 threads",
        at_least=1.2,
    ),
    Reach(
        benchmark="concurrency",
        title="200 calls a second",
        line="uid2_async",
        column="p99 added ms",
        at_most=1,
    ),
)
