"""The daily run with a state: who is asked about, and what the delta tells."""

from __future__ import annotations

import asyncio
import csv
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from uid2_async import Email, IdentityScope, UID2Client
from uid2_async.bulk.jobs import check_file, map_file
from uid2_async.bulk.options import (
    JobOptions,
    JobSummary,
    MapOptions,
    RefreshOptions,
    StatusOptions,
)
from uid2_async.bulk.private_files import System
from uid2_async.bulk.state import MappingState
from uid2_async.bulk.state_jobs import refresh_state, sweep_by_status
from uid2_async.bulk.state_values import Run
from uid2_async.errors import InputError, JobError
from uid2_async.models import MappedUID
from uid2_async.operator import Fault, LocalOperator, OperatorData
from uid2_async.protocol.normalize import identity_hash

DAY = 86_400
PEOPLE = [f"person{number}@example.com" for number in range(4_000)]


def rows_of(path: Path) -> list[dict[str, str]]:
    """Read the rows of a CSV file."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@attrs.frozen
class World:
    """An operator, a folder, and a client."""

    operator: LocalOperator
    folder: Path
    client: UID2Client
    seen: list[int] = attrs.field(factory=lambda: [0])

    async def map(self, people: Sequence[str], **options: Any) -> JobSummary:
        """Map *people* as the command does every day."""
        lines = [f"{number},{one}\n" for number, one in enumerate(people)]
        return await self.map_text("id,mail\n" + "".join(lines), **options)

    async def map_text(
        self,
        text: str,
        *,
        state: MappingState | None = None,
        stop: asyncio.Event | None = None,
        **options: Any,
    ) -> JobSummary:
        """Map the rows of a file."""
        source = self.folder / "in.csv"
        if not source.exists() or source.read_text() != text:
            source.write_text(text)
        if "identifiers" not in options:
            options = {"column": "mail", "type": "email", **options}
        return await map_file(
            source,
            self.folder / "out.csv",
            client=self.client,
            options=MapOptions(**{"keys": ["id"], "force": True, **options}),
            state=state or self.state,
            delta=self.delta,
            stop=stop,
            _system=self.system,
        )

    @property
    def system(self) -> System:
        """Run at the operator's time."""
        return System(clock=lambda: self.operator.now)

    @property
    def state(self) -> Path:
        """Name the state."""
        return self.folder / "people.db"

    @property
    def delta(self) -> Path:
        """Name the delta."""
        return self.folder / "delta.csv"

    def asked(self) -> int:
        """Say how many identities the operator was asked about since the last time."""
        calls = self.operator.calls[self.seen[0] :]
        self.seen[0] += len(calls)
        return sum(call.items or 0 for call in calls)

    async def uid(self, person: str) -> MappedUID:
        """Ask directly."""
        found = (await self.client.map_identities([Email(person)]))[0]
        assert isinstance(found, MappedUID)
        return found

    async def uids_in_state(self) -> dict[str, str | None]:
        """Return the raw UIDs that the state has."""
        async with MappingState(self.state, clock=lambda: self.operator.now) as state:
            rows = await state.get_many(PEOPLE)
        return {
            person: row and row.raw_uid
            for person, row in zip(PEOPLE, rows, strict=True)
        }

    async def due_on(self, day: int) -> dict[str, MappedUID]:
        """Say who is due when so many days have passed."""
        found = await self.client.map_identities(list(map(Email, PEOPLE)))
        self.asked()
        until = self.operator.now.timestamp() + day * DAY
        return {
            person: row
            for person, row in zip(PEOPLE, found, strict=True)
            if isinstance(row, MappedUID)
            and row.refresh_from is not None
            and row.refresh_from.timestamp() <= until
        }


@pytest.fixture
async def operator(scope: IdentityScope) -> AsyncIterator[LocalOperator]:
    """Start the operator at noon: buckets rotate at midnight, and tests add hours."""
    started = datetime.now(UTC)
    ahead = started.replace(hour=12, minute=0, second=0) - started
    async with LocalOperator(
        OperatorData.sample(scope=scope, base=started + ahead),
        clock=lambda: datetime.now(UTC) + ahead,
    ) as running:
        yield running


@pytest.fixture
def world(tmp_path: Path, operator: LocalOperator, client: UID2Client) -> World:
    """Make a world."""
    return World(operator, tmp_path, client)


def by_change(path: Path) -> dict[str, list[dict[str, str]]]:
    """Sort the lines of a delta."""
    found: dict[str, list[dict[str, str]]] = {}
    for row in rows_of(path):
        found.setdefault(row["CHANGE"], []).append(row)
    return found


async def test_the_first_day(world: World) -> None:
    """Everybody is asked about once, and is ADDED with the columns named by --key."""
    summary = await world.map([*PEOPLE, "optout@example.com", "bad"])

    changes = rows_of(world.delta)
    assert world.asked() == len(PEOPLE) + 1
    assert summary.changes == len(changes) == len(PEOPLE)
    assert {row["CHANGE"] for row in changes} == {"ADDED"}
    assert [row["id"] for row in changes] == [str(n) for n in range(len(PEOPLE))]
    assert changes[7]["IDENTITY_HASH"] == identity_hash(Email(PEOPLE[7]))
    assert changes[7]["INPUT_TYPE"] == "email_hash"
    assert changes[7]["UID"] == rows_of(world.folder / "out.csv")[7]["UID"]


async def test_the_second_day(world: World) -> None:
    """Only due and new identities are sent, and only their changes are exported."""
    await world.map(PEOPLE)
    due = await world.due_on(1)
    gone, *others = due
    world.operator.advance(DAY)
    world.operator.opt_out(gone)

    summary = await world.map([*PEOPLE, "new@example.com"])

    changes = by_change(world.delta)
    assert 2 < len(due) < 100
    assert world.asked() == len(due) + 1
    assert summary.from_state == len(PEOPLE) - len(due)
    assert [row["OLD_UID"] for row in changes.pop("OPTED_OUT")] == [due[gone].raw_uid]
    assert [row["id"] for row in changes.pop("ADDED")] == [str(len(PEOPLE))]
    rotated = changes.pop("ROTATED")
    assert changes == {}
    assert {row["OLD_UID"] for row in rotated} == {due[one].raw_uid for one in others}
    rows = rows_of(world.folder / "out.csv")
    assert {row["UID"] for row in rotated} < {row["UID"] for row in rows}
    for row, person in zip(rows[::400], PEOPLE[::400], strict=False):
        now = await world.uid(person)
        assert (row["UID"], row["PREV_UID"]) == (
            now.raw_uid,
            now.previous_raw_uid or "",
        )


BOTH = {"email": "mail", "phone": "tel"}
GONE, PHONE = "+12025550123", "+12025550124"


def lines_of(path: Path) -> list[tuple[str, str, str]]:
    """Return change, type and key of each line of a delta."""
    return [(row["CHANGE"], row["INPUT_TYPE"], row["id"]) for row in rows_of(path)]


async def test_a_row_that_is_opted_out_adds_nobody(world: World) -> None:
    """Neither its other identifiers, nor later without rows; until the row is mapped.

    An identifier that another row may use is added for that row.
    """
    rows = f"id,mail,tel\n1,a@example.com,{GONE}\n2,b@example.com,{PHONE}\n"
    world.operator.opt_out(GONE)
    added = [("ADDED", "email_hash", "2"), ("ADDED", "phone_hash", "2")]

    await world.map_text(rows, identifiers=BOTH)
    assert lines_of(world.delta) == added
    assert rows_of(world.folder / "out.csv")[0]["UNMAPPED"] == "OPTOUT"
    await world.map_text(rows, identifiers=BOTH)
    assert lines_of(world.delta) == []

    world.operator.advance(8 * DAY)
    every = RefreshOptions(unchecked_for=timedelta(days=1), force=True)
    for delta in (None, world.delta):
        await refresh_state(
            world.state,
            client=world.client,
            options=every,
            delta=delta,
            _system=world.system,
        )
        world.operator.advance(8 * DAY)
    assert not [row for row in rows_of(world.delta) if row["CHANGE"] != "ROTATED"]
    async with MappingState(world.state) as state:
        pages = [page async for page in state.history(1)]
        assert [one.change for page in pages for one in page] == ["ADDED"] * 2
        assert (await state.statistics()).pending == 0

    await world.map_text(f"{rows}3,a@example.com,\n", identifiers=BOTH)
    assert [one for one in lines_of(world.delta) if one[0] != "ROTATED"] == [
        ("ADDED", "email_hash", "3")
    ]
    await world.map_text(f"{rows}3,a@example.com,\n", identifiers=BOTH)
    assert lines_of(world.delta) == []


@pytest.mark.parametrize("options", [{"optout_rule": "each"}, {"explode": True}])
async def test_identifiers_on_their_own(world: World, options: Any) -> None:
    """The delta follows the rule of the outputs; one identity of a row has one line."""
    world.operator.opt_out(GONE)
    text = f"id,mail,tel,mail\n1,a@example.com,{GONE},a@example.com\n"

    summary = await world.map_text(
        text, identifiers={"email": "mail#*", "phone": "tel"}, **options
    )

    assert lines_of(world.delta) == [("ADDED", "email_hash", "1")]
    assert summary.changes == 1


async def test_a_line_of_the_input_has_its_keys(world: World) -> None:
    """Also if the request has failed today, or the person was purged."""
    await world.map(PEOPLE[:400])
    world.operator.advance(30 * DAY)
    await refresh_state(world.state, client=world.client, _system=world.system)
    async with MappingState(world.state) as state:
        await state.purge(PEOPLE[7])
        due = (await state.statistics()).pending
    world.operator.advance(8 * DAY)
    world.operator.fail_next(
        Fault(status=400, body=b"{}", content_type="application/json"),
        times=3,
        path="/v3/identity/map",
    )

    summary = await world.map(PEOPLE[:400])

    changes = by_change(world.delta)
    assert summary.failed > 300
    assert [row["id"] for row in changes.pop("REMOVED")] == ["7"]
    assert len(changes["ROTATED"]) == due - 1 > 0
    assert all(row["id"] for row in changes["ROTATED"])


async def test_a_key_has_the_text_of_the_output(world: World) -> None:
    """Whatever its type; a missing one is null where the format has that."""
    values: dict[str, Any] = {
        "bytes": pa.array([b"\xff\x00", None]),
        "bool": pa.array([True, None]),
        "f32": pa.array([0.1, None], pa.float32()),
        "list": pa.array([["a", None], None]),
        "at": pa.array([1767225600123456789, None], pa.timestamp("ns")),
        "text": pa.array(["=1+1", None]),
    }
    source = world.folder / "in.parquet"
    pq.write_table(pa.table({"mail": PEOPLE[:2], **values}), source)

    for number, name in enumerate(("out.csv", "out.jsonl")):
        await map_file(
            source,
            world.folder / name,
            client=world.client,
            options=MapOptions(column="mail", type="email", keys=list(values)),
            state=world.folder / f"{number}.db",
            delta=world.folder / f"delta-{name}",
            _system=world.system,
        )

    for out, line in zip(
        rows_of(world.folder / "out.csv"),
        rows_of(world.folder / "delta-out.csv"),
        strict=True,
    ):
        assert {name: line[name] for name in values} == {
            name: out[name] for name in values
        }
    lines = (world.folder / "delta-out.jsonl").read_text().splitlines()
    assert [json.loads(line)["f32"] for line in lines] == ["0.1", None]


async def test_formulas_in_keys(world: World) -> None:
    """The delta is safe in a spreadsheet if the output is."""
    text = "id,mail\n=1+1,a@example.com\n"

    await world.map_text(text, spreadsheet_safe=True)

    assert [row["id"] for row in rows_of(world.delta)] == ["'=1+1"]


async def test_an_optout_does_not_stay_unseen(world: World) -> None:
    """After a week, people who are not due are asked about as well."""
    await world.map(PEOPLE)
    due = await world.due_on(8)
    gone = next(one for one in PEOPLE if one not in due)
    world.operator.opt_out(gone)
    world.operator.advance(6 * DAY)
    await world.map(PEOPLE)
    assert "OPTED_OUT" not in by_change(world.delta)
    world.asked()

    world.operator.advance(2 * DAY)
    await world.map(PEOPLE)

    assert len(by_change(world.delta)["OPTED_OUT"]) == 1
    assert world.asked() > len(PEOPLE) - 100


async def test_coming_back(world: World) -> None:
    """An opt-out is looked at again after a month; who opted in has RETURNED."""
    world.operator.opt_out(PEOPLE[0])
    await world.map(PEOPLE[1:])
    await world.map(PEOPLE)
    assert by_change(world.delta) == {}

    world.operator.opt_in(PEOPLE[0])
    world.operator.advance(31 * DAY)
    await world.map(PEOPLE)

    assert set(by_change(world.delta)) >= {"ADDED"}


async def test_changes_wait_for_a_delta(world: World) -> None:
    """Changes found by a refresh without a delta are in the next delta."""
    await world.map(PEOPLE)
    due = await world.due_on(2)
    world.operator.advance(2 * DAY)

    refreshed = await refresh_state(
        world.state, client=world.client, _system=world.system
    )
    asked = world.asked()
    summary = await world.map(PEOPLE[:10])

    assert refreshed.rows == asked == len(due)
    assert world.asked() == 0
    assert summary.changes == len(by_change(world.delta)["ROTATED"]) == len(due)


async def test_refresh_writes_a_delta(world: World) -> None:
    """Without an input there are no key columns."""
    await world.map(PEOPLE)
    world.operator.advance(2 * DAY)

    summary = await refresh_state(
        world.state,
        client=world.client,
        options=RefreshOptions(force=True),
        delta=world.delta,
        _system=world.system,
    )
    again = await refresh_state(world.state, client=world.client, _system=world.system)

    assert summary.changes == len(rows_of(world.delta))
    assert set(rows_of(world.delta)[0]) == {
        "CHANGE",
        "INPUT_TYPE",
        "IDENTITY_HASH",
        "UID",
        "OLD_UID",
    }
    assert again.rows == 0


async def test_a_refresh_by_buckets_forgets_none(world: World) -> None:
    """What has rotated is asked about, whatever jobs have run since then."""
    await world.map(PEOPLE, api="v2")
    world.operator.advance(3 * DAY)
    before = await world.uids_in_state()
    now = await world.client.map_identities(list(map(Email, PEOPLE)))
    stale = {
        one
        for one, row in zip(PEOPLE, now, strict=True)
        if isinstance(row, MappedUID) and row.raw_uid != before[one]
    }
    world.asked()

    asked = 0
    await world.map(["new@example.com"], api="v2")
    for limit in (5, None, None):
        world.operator.advance(60)
        options = RefreshOptions(api="v2", limit=limit)
        summary = await refresh_state(
            world.state, client=world.client, options=options, _system=world.system
        )
        asked += summary.rows

    assert asked == len(stale) > 5
    after = await world.uids_in_state()
    for one in stale:
        assert after[one] == (await world.uid(one)).raw_uid


@pytest.mark.parametrize("job", [refresh_state, sweep_by_status])
async def test_a_delta_is_replaced_by_force_only(world: World, job: Any) -> None:
    """As outputs of file jobs; nothing is asked before that is checked."""
    await world.map(PEOPLE[:5])
    world.asked()
    before = world.delta.read_bytes()

    with pytest.raises(InputError, match="exists"):
        await job(
            world.state,
            client=world.client,
            delta=world.delta,
            _system=world.system,
        )
    assert world.asked() == 0
    assert world.delta.read_bytes() == before


async def test_an_interrupted_refresh_replaces_its_delta(world: World) -> None:
    """The same command is safe after a kill between the delta and the run's end."""
    await world.map(PEOPLE)
    world.operator.advance(2 * DAY)
    delta = world.folder / "refresh.csv"
    job = partial(refresh_state, client=world.client, delta=delta, _system=world.system)

    with pytest.raises(JobError, match="killed"):
        async with Killed(world.state, clock=lambda: world.operator.now) as state:
            await job(state)
    killed = by_change(delta)
    summary = await job(world.state)
    with pytest.raises(InputError, match="exists"):
        await job(world.state)

    assert summary.changes == len(killed["ROTATED"]) > 0
    assert by_change(delta) == killed


class Killed(MappingState):
    """A state whose runs never end."""

    async def finish(self, run: Run, **_: Any) -> None:
        """Fail after the delta has its name."""
        raise JobError("killed")


async def test_a_full_input(world: World) -> None:
    """Who is missing from the whole audience is REMOVED, and comes back as ADDED."""
    await world.map(PEOPLE, full=True)
    await world.map(PEOPLE[:-20], full=True)
    removed = by_change(world.delta)
    await world.map(PEOPLE, full=True)
    added = by_change(world.delta)

    assert {name: len(rows) for name, rows in removed.items()} == {"REMOVED": 20}
    assert {name: len(rows) for name, rows in added.items()} == {"ADDED": 20}
    assert world.asked() == len(PEOPLE) + 20


async def test_a_full_input_with_bad_rows(world: World) -> None:
    """They are collected, and nobody is removed or asked about because of them."""
    await world.map(PEOPLE[:50], full=True)
    world.asked()
    lines = "".join(f"{number},{one}\n" for number, one in enumerate(PEOPLE[:49]))
    bad_rows = world.folder / "bad.csv"
    run = partial(world.map_text, full=True, bad_rows=bad_rows, force=False)
    for name in ("out.csv", "delta.csv"):
        (world.folder / name).unlink()

    for _ in range(2):
        with pytest.raises(JobError, match="1 rows cannot be read"):
            await run(f"id,mail\n{lines}{PEOPLE[49]}\n")
        assert len(rows_of(bad_rows)) == 1
    bad_rows.unlink()

    assert world.asked() == 0
    assert (await run(f"id,mail\n{lines}49,{PEOPLE[49]}\n")).changes == 0


async def test_too_many_removed(world: World) -> None:
    """A broken export does not empty an audience."""
    await world.map(PEOPLE, full=True)

    world.asked()
    with pytest.raises(JobError, match=r"2,000|2000"):
        await world.map([*PEOPLE[:2_000], "new@example.com"], full=True)
    assert world.asked() == 0
    summary = await world.map(PEOPLE[:2_000], full=True, max_removed=0.6)

    assert summary.changes == 2_000


async def test_a_sweep_finds_optouts_at_once(world: World) -> None:
    """Everybody who was not checked today is mapped again."""
    await world.map(PEOPLE)
    world.operator.opt_out(PEOPLE[5])
    world.operator.advance(3_600)

    summary = await refresh_state(
        world.state,
        client=world.client,
        options=RefreshOptions(unchecked_for=timedelta(seconds=60), force=True),
        delta=world.delta,
        _system=world.system,
    )

    assert (summary.rows, summary.opted_out) == (len(PEOPLE), 1)
    assert set(by_change(world.delta)) == {"OPTED_OUT"}


async def test_a_sweep_by_status(world: World) -> None:
    """The list of opt-outs is asked by raw UID."""
    await world.map(PEOPLE[:50])
    world.operator.opt_out(PEOPLE[5])

    summary = await sweep_by_status(
        world.state,
        client=world.client,
        options=JobOptions(concurrency=1, force=True),
        delta=world.delta,
        _system=world.system,
    )

    assert summary.rows == 50
    assert summary.opted_out + summary.other >= 1
    assert set(by_change(world.delta)) <= {"OPTED_OUT"}


async def test_a_file_before_it_is_shared(world: World) -> None:
    """STATUS says who must be left out; --drop leaves them out."""
    await world.map(PEOPLE[:50])
    world.operator.opt_out(PEOPLE[5])
    shared = world.folder / "shared.csv"

    checked = await check_file(
        world.folder / "out.csv", shared, client=world.client, _system=world.system
    )
    statuses = [row["STATUS"] for row in rows_of(shared)]
    dropped = await check_file(
        world.folder / "out.csv",
        shared,
        client=world.client,
        options=StatusOptions(drop=True, force=True),
        _system=world.system,
    )

    assert set(statuses) <= {"ok", "opted_out", "unverifiable"}
    assert checked.mapped == statuses.count("ok")
    assert len(rows_of(shared)) == dropped.mapped
    assert {row["STATUS"] for row in rows_of(shared)} <= {"ok"}


async def test_a_state_of_another_operator(world: World) -> None:
    """It is refused, since its UIDs would be mixed up."""
    await world.map(PEOPLE[:5])
    data = world.operator.data
    async with LocalOperator(data) as other:
        stranger = UID2Client(
            other.url,
            api_key=other.api_key,
            client_secret=other.client_secret,
            scope=data.scope,
        )
        with pytest.raises(JobError, match="belongs to another operator"):
            await refresh_state(world.state, client=stranger, _system=world.system)
        await stranger.aclose()


async def test_a_state_that_is_open(world: World) -> None:
    """Its owner may keep it open over several jobs."""
    async with MappingState(world.state) as state:
        summaries = [
            await refresh_state(state, client=world.client, _system=world.system)
            for _ in range(2)
        ]

    assert [one.rows for one in summaries] == [0, 0]


@pytest.mark.parametrize("job", [refresh_state, sweep_by_status])
async def test_a_missing_state_is_not_created(world: World, job: Any) -> None:
    """A mistyped path is an error, not an empty state without anything due."""
    with pytest.raises(InputError, match="no state"):
        await job(world.state, client=world.client, _system=world.system)
    assert not world.state.exists()


class Crowded(MappingState):
    """A state that others try to use before a run ends."""

    others: Sequence[Callable[[], Awaitable[Any]]] = ()

    async def finish(self, run: Run, **how: Any) -> None:
        """Let the others try."""
        others, self.others = self.others, ()
        for other in others:
            with pytest.raises(JobError, match="A job is using the state"):
                await other()
        await super().finish(run, **how)


async def test_one_job_at_a_time(world: World) -> None:
    """On one open state, others are refused, and the job is not disturbed by them."""
    source = world.folder / "other.csv"
    source.write_text("mail\nother@example.com\n")
    async with Crowded(world.state) as state:
        second = partial(
            map_file,
            source,
            world.folder / "other_out.csv",
            client=world.client,
            options=MapOptions(column="mail", type="email"),
            state=state,
        )
        refresh = partial(refresh_state, state, client=world.client)
        sweep = partial(sweep_by_status, state, client=world.client)
        state.others = [second, refresh, sweep, state.vacuum]
        first = await world.map(PEOPLE, state=state)
        await second()

    assert first.changes == len(PEOPLE) == len(rows_of(world.delta))
    assert state.others == ()


class Ended(MappingState):
    """A state whose process is killed right after a run has ended."""

    async def finish(self, run: Run, **how: Any) -> None:
        """End the run, and fail."""
        await super().finish(run, **how)
        raise RuntimeError("killed")


async def kill_at_the_end(world: World, job: Callable[[MappingState], Any]) -> None:
    """Do a job that is killed after its last step."""
    state = Ended(world.state, clock=lambda: world.operator.now)
    with pytest.raises(RuntimeError, match="killed"):
        await job(state)


async def test_a_map_that_was_killed_after_its_last_step(world: World) -> None:
    """The same command leaves its delta alone, unless its input has changed."""

    async def kill(people: Sequence[str]) -> None:
        await kill_at_the_end(world, lambda state: world.map(people, state=state))

    await kill(PEOPLE[:50])
    delta, asked = world.delta.read_bytes(), world.asked()
    again = await world.map(PEOPLE[:50])
    assert (again.rows, again.changes, len(again.outputs)) == (50, 50, 1)
    assert (world.asked(), world.delta.read_bytes()) == (0, delta)
    assert (await world.map(PEOPLE[:50])).changes == 0

    await kill(PEOPLE[:60])
    with pytest.raises(InputError, match="exists"):
        await world.map(PEOPLE[:70], force=False)
    assert len(rows_of(world.delta)) == 10
    changed = await world.map(PEOPLE[:70])
    assert (changed.rows, changed.changes) == (70, 10)
    assert len(rows_of(world.folder / "out.csv")) == 70

    await kill(PEOPLE[:80])
    world.delta.rename(world.folder / "moved.csv")
    assert (await world.map(PEOPLE[:80])).changes == 0
    assert len(rows_of(world.delta)) == 0

    await kill(PEOPLE[:90])
    world.operator.advance(9 * DAY)
    world.asked()
    assert (await world.map(PEOPLE[:90])).changes is not None
    assert world.asked() == 90
    assert asked == 50


@pytest.mark.parametrize("name", ["delta.csv.gz", "delta.parquet"])
@pytest.mark.parametrize("job", [refresh_state, sweep_by_status])
async def test_a_refresh_that_was_killed_after_its_last_step(
    world: World, job: Any, name: str
) -> None:
    """The same command leaves its delta alone, even by force; once, and for a day."""
    await world.map(PEOPLE[:50])
    delta = world.folder / name
    options: Any = RefreshOptions(unchecked_for=timedelta(hours=1), force=True)
    if job is sweep_by_status:
        options = JobOptions(concurrency=1, force=True)
    run = partial(
        job, client=world.client, options=options, delta=delta, _system=world.system
    )
    world.operator.opt_out(PEOPLE[5])
    world.operator.advance(2 * DAY)
    await kill_at_the_end(world, run)
    before = delta.read_bytes()
    world.asked()
    again = await run(world.state)
    assert (again.rows, again.complete, world.asked()) == (50, True, 0)
    assert (again.changes or 0) > 0
    assert delta.read_bytes() == before

    world.operator.advance(2 * 3_600)
    await kill_at_the_end(world, run)
    assert world.asked() > 0
    world.operator.advance(2 * DAY)
    await run(world.state)
    assert world.asked() > 0


async def test_a_delta_of_another_run_is_not_replaced(world: World) -> None:
    """Nor that of another state: a resumed job replaces only its own without force."""
    stop = asyncio.Event()
    stopped = partial(world.map, PEOPLE, force=False, batch_size=100, concurrency=1)
    source = world.folder / "in.csv"

    class Stopped(MappingState):
        async def record(self, *recorded: Any) -> None:
            await super().record(*recorded)
            stop.set()

    state = Stopped(world.state, clock=lambda: world.operator.now)
    assert not (await stopped(state=state, stop=stop)).complete
    refresh = partial(refresh_state, client=world.client, _system=world.system)
    done = (await refresh(world.state, delta=world.delta)).changes or 0
    assert 0 < done < len(PEOPLE)
    with pytest.raises(InputError, match="exists"):
        await stopped()
    world.delta.unlink()
    await map_file(
        source,
        world.folder / "another.csv",
        client=world.client,
        options=MapOptions(column="mail", type="email"),
        state=world.folder / "another.db",
        delta=world.delta,
    )
    with pytest.raises(InputError, match="exists"):
        await stopped()
    assert len(rows_of(world.delta)) == len(PEOPLE)

    world.delta.unlink()
    with pytest.raises(JobError, match="killed"):
        await stopped(state=Killed(world.state, clock=lambda: world.operator.now))
    with pytest.raises(InputError, match="exists"):
        await refresh(world.state, delta=world.delta)
    assert (await stopped()).changes == len(PEOPLE) - done
    assert len(rows_of(world.delta)) == len(PEOPLE) - done
