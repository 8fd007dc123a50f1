"""The state of bulk mapping, for the event loop."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from uid2_async._traceback import strip_tracebacks
from uid2_async.bulk.state import removal, survey
from uid2_async.bulk.state.figures import StateFigures, count_figures
from uid2_async.bulk.state.store import Cadence, Store
from uid2_async.bulk.state.values import (
    Change,
    IdentityKey,
    Run,
    Selection,
    StateCounts,
    StateRow,
    seconds_from,
)
from uid2_async.errors import ConfigError, InputError, JobError
from uid2_async.models import IdentityScope, IdentityType, MapRow

__all__ = ["MappingState"]

T = TypeVar("T")

_PAGE: Final = 5_000


class MappingState:
    """What is known of the identities of all jobs so far, in one SQLite file.

    An async context manager. The file holds first-level hashes and raw UIDs, and is
    readable by its owner alone. One process can use it at a time; SQLite runs on a
    thread of its own.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        recheck_after: timedelta = timedelta(days=7),
        optout_recheck: timedelta = timedelta(days=30),
        invalid_recheck: timedelta = timedelta(days=180),
    ) -> None:
        """Say where the state is, and how long a check counts; nothing is opened yet.

        Args:
            path: The file; it is made where it does not exist.
            recheck_after: After that long a mapped identity is asked about again, so
                that an opt-out does not stay unseen until its salt rotates.
            optout_recheck: The same for one that is opted out.
            invalid_recheck: The same for one that the operator calls invalid.

        Raises:
            ConfigError: If a duration is not positive.
        """
        durations = (recheck_after, optout_recheck, invalid_recheck)
        if min(durations) < timedelta(seconds=1):
            raise ConfigError("A recheck must be a second or more after the last one.")
        self._path = Path(path)
        self._cadence = Cadence.of(*durations)
        self._store: Store | None = None
        self._thread: ThreadPoolExecutor | None = None

    def __repr__(self) -> str:
        """Show the path and whether it is open."""
        state = "closed" if self._store is None else "open"
        return f"<MappingState {str(self._path)!r} {state}>"

    @property
    def path(self) -> Path:
        """Where it is."""
        return self._path

    @property
    def is_open(self) -> bool:
        """Whether it is open."""
        return self._store is not None

    # --- life -------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Open the state, and merge what a job that was killed has left.

        Raises:
            JobError: If it cannot be used: locked, damaged, on a network, no state.
        """
        if self._thread is not None:
            raise JobError("The state is open already.", hint="Open it once.")
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="uid2-state")
        try:
            await self._run(self._open)
        except BaseException:
            self._release_thread()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it."""
        await self.aclose()

    async def aclose(self) -> None:
        """Write everything into the one file and let go of it; idempotent.

        What was recorded and not finished is kept, and merged when it is opened again.
        """
        if self._thread is not None:
            try:
                await self._run(self._close)
            finally:
                self._release_thread()

    def _open(self) -> None:
        """Open the store; on its thread."""
        self._store = Store(self._path, self._cadence)

    def _close(self) -> None:
        """Close it, if it is open; on its thread."""
        store, self._store = self._store, None
        if store is not None:
            store.close()

    def _release_thread(self) -> None:
        """Let the thread end, after it has done what was asked of it.

        Whoever was waiting may have been cancelled: the store is closed all the same.
        """
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.submit(self._close)
            thread.shutdown(wait=False)

    async def _run(self, work: Callable[..., T], *args: Any) -> T:
        """Run *work* on the thread of SQLite; its errors become ours, detached."""
        if self._thread is None:
            raise JobError("The state is not open.", hint="Use it in `async with`.")
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, work, *args)
        except (sqlite3.Error, OSError) as error:
            failure = _explain(error)
        raise failure

    async def _ask(self, work: Callable[..., T], *args: Any) -> T:
        """Run *work* on the open store."""
        return await self._run(self._work, work, args)

    def _work(self, work: Callable[..., T], args: tuple[Any, ...]) -> T:
        """Do it, on the thread of the store."""
        if self._store is None:
            raise JobError("The state is closed.", hint="Use it in `async with`.")
        return work(self._store, *args)

    # --- runs -------------------------------------------------------------------------

    async def begin(
        self,
        *,
        now: datetime,
        scope: IdentityScope | None = None,
        operator: str | None = None,
        job: str | None = None,
    ) -> Run:
        """Begin a run.

        Args:
            now: The time of all checks of this run.
            scope: The first run binds the state to it; None for one that asks nobody.
            operator: A name of the operator, such as its base URL; bound as well.
            job: What the caller calls it. While a run of that name is not finished, it
                is this one that goes on, with its number and its time.

        Raises:
            JobError: If the state belongs to another scope or operator.
        """
        return await self._ask(Store.begin, scope, operator, seconds_from(now), job)

    async def finish(self, run: Run, *, told_until: int | None) -> None:
        """End *run*: merge what it recorded, and drop what is kept no longer.

        Args:
            run: What :meth:`begin` gave.
            told_until: The number of the last change that is in a delta file which is
                whole, or None if none was written.
        """
        await self._ask(Store.finish, run, told_until)

    async def runs(self) -> list[Run]:
        """List all runs, the first one first."""
        return await self._ask(Store.runs)

    # --- rows -------------------------------------------------------------------------

    async def look_up(
        self, run: Run, kind: IdentityType, identities: Sequence[bytes]
    ) -> list[StateRow | None]:
        """Say what is known of *identities*, aligned with them.

        Returns:
            None for what the operator must be asked about, since it is unknown, due, or
            unchecked for too long. What was recorded in *run* is known.
        """
        return await self._ask(Store.look_up, run, kind, identities)

    async def get(
        self, run: Run, kind: IdentityType, identities: Sequence[bytes]
    ) -> list[StateRow | None]:
        """Say the same regardless of how old it is: None is unknown."""
        return await self._ask(Store.get, run, kind, identities)

    async def record(
        self,
        run: Run,
        kinds: Sequence[IdentityType],
        identities: Sequence[bytes],
        rows: Sequence[MapRow],
    ) -> list[StateRow]:
        """Keep what the operator answered, and what that changes, in one transaction.

        It is there when this returns, even if the process is killed then. After a
        power loss the last calls may be missing, and are to be made again.

        Returns:
            What the state says now, aligned with *identities*; :meth:`look_up` says
            the same.

        Raises:
            InputError: If the arguments are not of one length.
        """
        if not len(kinds) == len(identities) == len(rows):
            raise InputError("There is not one kind and one row for each identity.")
        return await self._ask(Store.record, run, kinds, identities, rows)

    # --- changes ----------------------------------------------------------------------

    async def changes(
        self, *, after: int, until: int, limit: int = _PAGE
    ) -> list[Change]:
        """List the changes with numbers above *after* up to *until*, in order.

        Those that no delta has told are all there, the others for 90 days. What cancels
        out before it is told is no change.
        """
        return await self._ask(Store.changes, after, until, limit)

    async def last_seq(self) -> int:
        """Number the last change that was ever found; 0 before the first."""
        return await self._ask(Store.last_seq)

    async def told_seq(self) -> int:
        """Number the last change that a delta has told; 0 before the first."""
        return await self._ask(lambda store: store.told_seq)

    # --- surveys ----------------------------------------------------------------------

    async def due(
        self, run: Run, selection: Selection, *, limit: int = _PAGE
    ) -> AsyncGenerator[list[IdentityKey], None]:
        """Go through what is to be asked about again, page by page.

        Repeatable: what was recorded in *run* is due no more.

        Args:
            run: What :meth:`begin` gave.
            selection: Which of the identities.
            limit: How many a page has at most; it may have fewer.
        """
        place: survey.Place | None = survey.START
        while place is not None:
            page, place = await self._ask(
                survey.select_page, run, selection, place, limit
            )
            if page:
                yield page

    async def export(
        self, *, now: datetime, limit: int = _PAGE
    ) -> AsyncGenerator[list[tuple[IdentityKey, StateRow]], None]:
        """Go through everything in the order of the identities, page by page.

        Args:
            now: Previous UIDs are shown as of this time.
            limit: How many rows a page has at most.
        """
        run = Run(number=0, started=seconds_from(now))
        last: IdentityKey | None = None
        while page := await self._ask(survey.export_page, run, last, limit):
            yield page
            last = page[-1][0]

    async def counts(self, *, now: datetime) -> StateCounts:
        """Count what there is; reads the whole file once."""
        return await self._ask(survey.count, seconds_from(now))

    async def figures(self, *, now: datetime) -> StateFigures:
        """Count what a report shows; reads the whole file once."""
        return await self._ask(count_figures, seconds_from(now))

    # --- removal ----------------------------------------------------------------------

    async def mark_present(
        self,
        run: Run,
        segment: str,
        kind: IdentityType,
        identities: Sequence[bytes],
    ) -> None:
        """Note that the input of *run*, the whole of *segment*, holds *identities*."""
        await self._ask(removal.mark_present, run, segment, kind, identities)

    async def remove_absent(self, run: Run, segment: str, *, most: float) -> int:
        """Remove who was in *segment* and was not marked as present in *run*.

        Whoever is in another segment stays.

        Args:
            run: What :meth:`begin` gave.
            segment: The name of the audience.
            most: The largest share of the segment that may go, from 0 to 1.

        Returns:
            How many were removed.

        Raises:
            JobError: If more would go; nothing is removed then.
        """
        return await self._ask(removal.remove_absent, run, segment, most)

    async def purge(
        self,
        run: Run,
        *,
        identities: Sequence[IdentityKey] = (),
        raw_uids: Sequence[str] = (),
        remember: bool,
    ) -> int:
        """Delete persons, so that nothing of them can be read from the files.

        Of whom a delta has told the UID, that and the hash stay until the run whose
        delta tells that they are removed is finished.

        Args:
            run: What :meth:`begin` gave.
            identities: Who.
            raw_uids: The same by raw UID, present or previous.
            remember: Keep salted digests, so that they are not added again: they are
                answered as opted out from now on.

        Returns:
            How many were known.
        """
        return await self._ask(removal.purge, run, identities, raw_uids, remember)

    async def vacuum(self) -> None:
        """Give unused room in the file back to the file system.

        SQLite needs room for a copy meanwhile, in the folder for temporary files.
        """
        await self._ask(Store.vacuum)


def _explain(error: Exception) -> JobError:
    """Say what an error of SQLite or the system means; it holds no values."""
    code = getattr(error, "sqlite_errorcode", None)
    primary = None if code is None else code & 0xFF
    if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return JobError(
            "The state is damaged, or no state at all.",
            hint="Restore it from a backup, or map everything into a new one.",
        )
    if primary == sqlite3.SQLITE_FULL:
        return JobError(
            "There is no room for the state.",
            hint="Free disk space and run the same again; what was recorded is kept.",
        )
    if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return JobError(
            "Another program holds a lock on the state.",
            hint="Close what else has it open.",
        )
    name = getattr(error, "sqlite_errorname", None) or getattr(error, "strerror", None)
    return JobError(
        f"The state could not be used ({name or type(error).__name__}).",
        hint="Check the path, its permissions and the disk.",
    )


strip_tracebacks(globals())
