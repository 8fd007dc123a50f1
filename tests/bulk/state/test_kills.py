"""Killed or out of disk space at each statement: run again, all is equal."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest

from uid2_async import MappingState
from uid2_async.bulk.outcomes import MapFailure
from uid2_async.errors import JobError
from uid2_async.models import IdentityType, MapRow

EMAIL = IdentityType.EMAIL


class Killed(BaseException):
    """Stands for the death of the process."""


class NoSpaceError(sqlite3.OperationalError):
    """What SQLite raises if the disk is full."""

    sqlite_errorcode = sqlite3.SQLITE_FULL


class FailingConnection(sqlite3.Connection):
    """Raises before statement number ``fails_at``, and before all later ones.

    Attributes:
        fails_at: The number; none by default.
        error: What to raise.
        executed: The statements that there were, since it was last emptied.
    """

    fails_at: ClassVar[int] = 10**9
    error: ClassVar[Callable[[], BaseException]] = Killed
    executed: ClassVar[list[str]] = []

    def _count(self, statement: str) -> None:
        cls = FailingConnection
        cls.executed.append(statement)
        if len(cls.executed) >= cls.fails_at:
            raise cls.error()

    def execute(self, *args: Any) -> sqlite3.Cursor:
        """Count, and execute."""
        self._count(args[0])
        return super().execute(*args)

    def executemany(self, *args: Any) -> sqlite3.Cursor:
        """Count, and execute."""
        self._count(args[0])
        return super().executemany(*args)

    def executescript(self, script: str) -> sqlite3.Cursor:
        """Count, and execute."""
        self._count(script)
        return super().executescript(script)


class FailingState(MappingState):
    """A state whose connection fails."""

    _connection_factory = FailingConnection


@pytest.fixture(autouse=True)
def connection() -> Any:
    """Return the class of the connection, set back before and after."""
    FailingConnection.fails_at = 10**9
    FailingConnection.error = Killed
    yield FailingConnection
    FailingConnection.fails_at = 10**9


async def daily_job(days: Any, delta: Path) -> None:
    """Do what a job with ``--full --delta --key`` does, on the second day.

    40 people were mapped on the first one. Now 2 are gone, 2 are new, and those that
    are asked about have other UIDs or opted out.
    """
    run = await days.start_run(9, job="daily", segment="all")
    numbers = range(2, 42)
    await days.state.stage(EMAIL, [days.identity(n) for n in numbers])
    for number in await days.to_ask(run):
        answer: Any = (
            days.mapped(("new", number)) if number % 5 else MapRow(reason="optout")
        )
        if number == 12:
            answer = MapFailure(error="ServerError", status=500)
        await days.record(run, {number: answer})
    await days.state.remove_absent(run, "all", 0.1)
    lines = []
    if "in" not in await days.state.files_done(run):
        rows = await days.look_up(*numbers)
        delta.with_name("out").write_text(repr([repr(row) for row in rows]))
        await days.state.set_file_done(run, "in", "{}")
    keys = [days.identity(number) for number in range(5)]
    for number, row in enumerate(await days.look_up(*range(5))):
        if row is not None and row.change is not None:
            lines.append((number, row.change, row.raw_uid, row.old_uid))
    await days.state.mark_written(EMAIL, keys[2:])
    lines += await days.pending(run)
    part = delta.with_name("part")
    part.write_text("\n".join(map(repr, sorted(lines, key=repr))))
    part.replace(delta)
    await days.state.finish(run, exported=True)


async def first_day(days: Any) -> None:
    """Map 40 people, and export them."""
    await days.full(0, range(40))


async def everything(days: Any) -> list[Any]:
    """List the rows of all tables."""
    tables = ("mapping_row", "history_row", "member", "run", "file_done")
    found = []
    for table in (*tables, "meta WHERE name <> 'salt'"):
        found += await days.state._call(
            lambda db, sql: db.connection.execute(sql).fetchall(),
            f"SELECT * FROM {table} ORDER BY 1, 2",  # noqa: S608 - names of ours
        )
    return found


@pytest.fixture
async def prepared(path: Path, of: Any) -> Path:
    """Return a folder with the state of the first day."""
    days = of(path)
    async with days.state:
        await first_day(days)
    return path.parent


async def job_in_copy(
    prepared: Path, folder: Path, of: Any, work: Callable[[Any, Path], Awaitable[None]]
) -> None:
    """Work on the state in *folder*, which is a copy of the first day's if new."""
    if not folder.exists():  # noqa: ASYNC240 - nothing else runs
        shutil.copytree(prepared, folder)
    days = of(folder / "people.db", FailingState)
    async with days.state:
        FailingConnection.executed.clear()
        await work(days, folder / "delta")


async def outcome(folder: Path, of: Any) -> tuple[Any, str]:
    """Return the content of a state and its delta."""
    days = of(folder / "people.db")
    async with days.state:
        return await everything(days), (folder / "delta").read_text()


def kill_at(number: int, error: Callable[[], BaseException] = Killed) -> Any:
    """Return a job in which a statement and all later ones fail."""

    async def work(days: Any, delta: Path) -> None:
        FailingConnection.fails_at, FailingConnection.error = number, error
        await daily_job(days, delta)

    return work


def choose(statements: list[str]) -> list[int]:
    """Choose the first and the last place of each statement.

    Most do the same for each page or batch.
    """
    first = {text: place for place, text in reversed(list(enumerate(statements, 1)))}
    last = {text: place for place, text in enumerate(statements, 1)}
    return sorted({*first.values(), *last.values()})


async def is_finished(folder: Path, of: Any) -> bool:
    """Tell whether the last run was finished, so that nothing is left to do."""
    days = of(folder / "people.db")
    async with days.state:
        return (
            bool((await days.state.runs())[-1].ended)
            and len(await days.state.runs()) == 2
        )


async def run_twice(
    prepared: Path, folder: Path, of: Any, work: Callable[[Any, Path], Awaitable[None]]
) -> Any:
    """Do *work*, which is interrupted, and do it again without that."""
    with suppress(Killed, JobError):
        await job_in_copy(prepared, folder, of, work)
    FailingConnection.fails_at = 10**9
    if not await is_finished(folder, of):
        await job_in_copy(prepared, folder, of, daily_job)
    result = await outcome(folder, of)
    shutil.rmtree(folder)
    return result


@pytest.mark.parametrize("error", [Killed, NoSpaceError])
async def test_a_full_job_killed_at_each_statement(
    prepared: Path, tmp_path: Path, of: Any, connection: Any, error: Any
) -> None:
    """Or without disk space: run again, all is equal to an undisturbed run."""
    folder = tmp_path / "undisturbed"
    await job_in_copy(prepared, folder, of, daily_job)
    statements = list(connection.executed)
    expected = await outcome(folder, of)
    assert expected[1].count("REMOVED"), expected[1].count("ROTATED") == (2, 30)
    places = choose(statements)
    assert len(places) > 40

    for place in places[:: 1 if error is Killed else 4]:
        work = kill_at(place, error)
        again = await run_twice(prepared, tmp_path / str(place), of, work)
        assert again == expected, (place, statements[place - 1])


async def test_a_failed_sync_is_final(prepared: Path, of: Any, connection: Any) -> None:
    """The system has forgotten what it could not write: a second try would lie."""

    class SyncError(sqlite3.OperationalError):
        sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
        sqlite_errorname = "SQLITE_IOERR_FSYNC"

    days = of(prepared / "people.db", FailingState)
    async with days.state:
        run = await days.start_run(1)
        connection.error = SyncError
        connection.fails_at = len(connection.executed) + 1
        with pytest.raises(JobError, match="The disk failed while"):
            await days.record(run, {1: days.mapped("a")})
        connection.fails_at = 10**9
        with pytest.raises(JobError, match="The disk failed earlier"):
            await days.record(run, {1: days.mapped("a")})
        with pytest.raises(JobError, match="The disk failed earlier"):
            await days.look_up(1)
    async with days.state:
        assert (await days.look_up(1))[0].raw_uid == days.uid(1)


async def test_a_run_that_has_ended_cannot_fail(
    prepared: Path, of: Any, connection: Any
) -> None:
    """A disk that is full after the last commit fails neither the run nor the closing.

    A file that was purged, but not rewritten, is rewritten at the next opening.
    """
    days = of(prepared / "people.db", FailingState)
    async with days.state:
        run = await days.start_run(1)
        connection.executed.clear()
        await days.state.finish(run, exported=True)
        commit = connection.executed.index("COMMIT") + 1
        run = await days.start_run(2)
        connection.executed.clear()
        connection.error, connection.fails_at = NoSpaceError, commit + 1
        await days.state.finish(run, exported=True)
    connection.fails_at, connection.error = 10**9, Killed
    with suppress(Killed):
        async with days.state:
            assert [run.ended for run in await days.state.runs()] == [True] * 3
            connection.executed.clear()
            await days.state.purge(days.key(1))
            vacuum = connection.executed.index("VACUUM") + 1
            connection.executed.clear()
            connection.fails_at = vacuum
            await days.state.purge(days.key(2))
    connection.fails_at = 10**9
    for times in (1, 0):
        connection.executed.clear()
        async with days.state:
            assert connection.executed.count("VACUUM") == times
