"""The state of bulk mapping: what is known about identities, in one SQLite file."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import (
    AsyncGenerator,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, Final, Self, TypeAlias, TypeVar

from uid2_async._traceback import strip_tracebacks
from uid2_async.bulk import state_changes, state_rows
from uid2_async.bulk.outcomes import RAW_UID, MapFailure, Outcome
from uid2_async.bulk.private_files import SYSTEM
from uid2_async.bulk.state_db import StateDatabase, explain
from uid2_async.bulk.state_rows import FIRST_PAGE, Pages, Position
from uid2_async.bulk.state_values import (
    INVALID_RECHECK,
    OPTOUT_RECHECK,
    RECHECK_AFTER,
    Change,
    IdentityKey,
    Run,
    StagingCounts,
    StateRow,
    StateStatistics,
    recheck_seconds,
    seconds_from,
)
from uid2_async.errors import InputError, JobError
from uid2_async.models import Identity, IdentityScope, IdentityType, as_identity
from uid2_async.protocol.normalize import HASH_KINDS, READERS
from uid2_async.protocol.raw_uid import inspect_raw_uid

T = TypeVar("T")

IdentityPage: TypeAlias = tuple[IdentityType, list[bytes]]
"""Identities of one type, in order."""

Person: TypeAlias = Identity | IdentityKey | str
"""An email address, a phone number, an identity, or its key."""

_PAGE: Final = 5_000


class MappingState:
    """What is known about the identities of all jobs so far, in one SQLite file.

    An async context manager. The file contains first-level hashes and raw UIDs, and
    only its owner can read it. Only one process can use it at a time. SQLite runs in
    its own thread.

    The views ``mapping``, ``change``, ``history`` and the table ``run`` of the file can
    be queried with other programs. Their times are seconds since the Unix epoch.

    Example:
        >>> async def show(path: str) -> None:
        ...     async with MappingState(path) as state:
        ...         print(await state.get("user@example.com"))
    """

    _connection_factory: ClassVar[type[sqlite3.Connection]] = sqlite3.Connection

    def __init__(
        self,
        path: str | Path,
        *,
        recheck_after: timedelta = RECHECK_AFTER,
        optout_recheck: timedelta = OPTOUT_RECHECK,
        invalid_recheck: timedelta = INVALID_RECHECK,
        shared_folders: bool = False,
        clock: Callable[[], datetime] = SYSTEM.clock,
    ) -> None:
        """Configure the state. Nothing is opened yet.

        Args:
            path: The file, which is created if it does not exist.
            recheck_after: How long a check of a mapped identity is valid. Then the
                operator is asked again, so that an opt-out is noticed before the salt
                rotates.
            optout_recheck: The same after an opt-out.
            invalid_recheck: The same for an identity that the operator reports as
                invalid.
            shared_folders: Whether the state may be in a folder that other users can
                write to.
            clock: Returns the time, as an aware datetime.

        Raises:
            ConfigError: If a duration is shorter than a second.
        """
        self._path = Path(path)
        self._intervals = recheck_seconds(
            recheck_after, optout_recheck, invalid_recheck
        )
        self._shared_folders = shared_folders
        self._clock = clock
        self._database: StateDatabase | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._released: ThreadPoolExecutor | None = None
        # Not whether there is a database: one that a cancelled caller was opening is
        # closed soon.
        self._is_open = False
        self._disk_failed = False
        self._started: int | None = None
        self._counts = StagingCounts()
        self._waiting: list[tuple[tuple[Any, ...], asyncio.Future[None]]] = []
        self._commits: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        """Show the path and whether it is open."""
        state = "open" if self.is_open else "closed"
        return f"<MappingState {str(self._path)!r} {state}>"

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    @property
    def is_open(self) -> bool:
        """Whether it is open."""
        return self._is_open

    # --- life -------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Open the state.

        Raises:
            JobError: If it cannot be used: locked, damaged, not a state, not private,
                or on a network file system.
        """
        if self._thread is not None:
            raise JobError("The state is already open.", hint="Open it only once.")
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="uid2-state")
        self._disk_failed, self._started = False, None
        try:
            await self._on_thread(self._open)
        except BaseException:
            self._release_thread()
            raise
        self._is_open = True
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the state."""
        await self.aclose()

    async def aclose(self) -> None:
        """Write everything into the one file and release it. Idempotent.

        Recorded answers are kept, including those of an unfinished run and of callers
        who were cancelled while they waited.
        """
        try:
            if self._commits is not None:
                await asyncio.wait([self._commits])
            if self._thread is not None:
                await self._on_thread(self._close)
        finally:
            self._release_thread()

    def _open(self) -> None:
        """Open the database, on its thread."""
        if self._released is not None:
            # Its last task closes what is open by then, which must not be this
            # database.
            self._released.shutdown()
        self._database = StateDatabase(
            self._path,
            now=self._clock(),
            allow_shared=self._shared_folders,
            factory=self._connection_factory,
        )

    def _close(self) -> None:
        """Close the database if it is open, on its thread."""
        database, self._database = self._database, None
        if database is not None:
            database.close()

    def _release_thread(self) -> None:
        """Let the thread end after its last task.

        Even if the waiting caller was cancelled, the state is closed.
        """
        thread, self._thread, self._is_open = self._thread, None, False
        if thread is not None:
            thread.submit(self._close)
            thread.shutdown(wait=False)
            self._released = thread

    async def _on_thread(self, work: Callable[[], T]) -> T:
        """Run *work* in the SQLite thread; convert all errors to ours."""
        if self._thread is None:
            raise JobError("The state is not open.", hint="Use it in `async with`.")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._explained, work)

    def _explained(self, work: Callable[[], T]) -> T:
        """Run *work*; errors keep neither values nor a foreign traceback."""
        try:
            return work()
        except Exception as error:  # noqa: BLE001 - all of them are converted
            code = getattr(error, "sqlite_errorcode", None) or 0
            # After a failed sync, the system has dropped what it could not write, so a
            # second attempt would succeed without saving anything.
            self._disk_failed |= code & 0xFF == sqlite3.SQLITE_IOERR
            failure = explain(error)
        raise failure

    async def _call(self, work: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run *work* on the open database."""

        def run() -> T:
            if self._database is None:
                raise JobError("The state is closed.", hint="Use it in `async with`.")
            if self._disk_failed:
                raise JobError(
                    "The disk failed earlier, so the state cannot be used.",
                    hint="Check the disk, then run the same command again.",
                )
            return work(self._database, *args, **kwargs)

        return await self._on_thread(run)

    @property
    def _now(self) -> int:
        """The time of the run, or the current time, in seconds since the Unix epoch.

        A resumed run keeps its time, so that it writes the same rows again.
        """
        return seconds_from(self._clock()) if self._started is None else self._started

    # --- questions --------------------------------------------------------------------

    async def get(self, person: Person) -> StateRow | None:
        """Return what is known about a person, regardless of age; None if unknown.

        Args:
            person: An email address, a phone number (a str that starts with ``+``), an
                identity such as :class:`~uid2_async.EmailHash`, or a key.

        Raises:
            InputError: If it is invalid.
        """
        return (await self.get_many([person]))[0]

    async def get_many(self, people: Sequence[Person]) -> list[StateRow | None]:
        """Return what is known about several people; see :meth:`get`.

        Raises:
            InputError: If one of them is invalid. The message says which.
        """
        keys = [_key(person, number) for number, person in enumerate(people, 1)]
        rows: dict[IdentityKey, StateRow | None] = {}
        for kind in IdentityType:
            some = [key for key in keys if key.kind is kind]
            found = await self.look_up(kind, [key.identity for key in some])
            for key in some:
                row = found[key.identity]
                rows[key] = row if isinstance(row, StateRow) else None
        return [rows[key] for key in keys]

    async def due(self) -> AsyncGenerator[list[IdentityKey], None]:
        """Iterate over pages of what a refresh would ask about now."""
        run = Run(number=0, started=self._now)
        async for kind, identities in self.to_ask(run, "due"):
            yield [IdentityKey(kind, identity) for identity in identities]

    async def export(
        self, *, limit: int = _PAGE
    ) -> AsyncGenerator[list[tuple[IdentityKey, StateRow]], None]:
        """Iterate over pages of everything, in the order of the identities.

        Args:
            limit: The maximum number of rows per page.
        """
        async for page in self._pages(state_changes.export_page, self._now, limit):
            yield page

    async def _pages(
        self,
        read: Pages[T],
        given: Any,
        limit: int,
    ) -> AsyncGenerator[list[T], None]:
        at: Position | None = FIRST_PAGE
        while at is not None:
            page, at = await self._call(read, given, at, limit)
            if page:
                yield page

    async def statistics(self) -> StateStatistics:
        """Count the contents. Reads the whole file once."""
        given = {**self._intervals, "started": self._now}
        return await self._call(state_changes.count, given)

    async def runs(self) -> list[Run]:
        """List all runs, oldest first."""
        return await self._call(state_changes.list_runs)

    async def history(
        self, since_run: int, *, limit: int = _PAGE
    ) -> AsyncGenerator[list[Change], None]:
        """Iterate over pages of what has changed since a run started.

        These are net changes compared to what was exported before that run.

        Args:
            since_run: The number of a run, at most 90 days old.
            limit: The maximum number of changes per page.

        Raises:
            InputError: If the run does not exist or is too old.
        """
        run = await self._call(state_changes.find_run, since_run, self._now)
        async for page in self._pages(state_changes.changes_page, run.epoch, limit):
            yield page

    # --- maintenance ------------------------------------------------------------------

    async def purge(
        self,
        people: Person | Iterable[Person],
        *,
        kind: str | None = None,
        suppress: bool = True,
    ) -> int:
        """Delete people, so that nothing about them can be read from the files.

        If a delta has exported a person's raw UID, the hash and UID are kept until the
        next delta has reported REMOVED. The file is rewritten, which needs disk space
        for a copy.

        Example:
            >>> await state.purge("user@example.com")

        Args:
            people: A person, or several. A str is an email address, a phone number,
                the hash of either, or a raw UID, current or previous. If it can be
                several of these, all of them are purged.
            kind: What each str is: ``email``, ``phone``, ``email_hash``, ``phone_hash``
                or ``raw_uid``. By default, their form determines it.
            suppress: Whether to block each person from now on: the state keeps a keyed
                digest, returns an opt-out for them, and never stores them again.
                Otherwise, they come back with the next input that contains them.

        Returns:
            The number of people found.

        Raises:
            InputError: If one of *people* is none of these. The message says which.
            JobError: If a job is using the state, or another program reads it.
        """
        await self._wait_until_unused()
        if isinstance(people, str | IdentityKey | Identity):
            people = [people]
        keys: list[IdentityKey] = []
        uids: list[str] = []
        for number, person in enumerate(people, 1):
            if not isinstance(person, str):
                keys.append(_key(person, number))
                continue
            is_uid = kind == RAW_UID or (
                kind is None and inspect_raw_uid(person) is not None
            )
            named = [] if kind == RAW_UID else list(_guess(person, kind))
            if not is_uid and not named:
                raise InputError(
                    f"Number {number} is not an email address, phone number, hash or "
                    "raw UID.",
                    hint="Pass `kind` if the form does not show it.",
                )
            uids += [person] if is_uid else []
            keys += named
        return await self._call(state_changes.purge, self._now, keys, uids, suppress)

    async def vacuum(self) -> None:
        """Return unused space in the file to the file system.

        SQLite needs space for a copy in the folder for temporary files.

        Raises:
            JobError: If a job is using the state, or another program reads it.
        """
        await self._wait_until_unused()
        await self._call(StateDatabase.rewrite)

    # --- jobs -------------------------------------------------------------------------

    async def start_run(
        self,
        *,
        job: str | None = None,
        scope: IdentityScope | None = None,
        operator: str | None = None,
        segment: str | None = None,
    ) -> Run:
        """Start a run, or resume the unfinished run of the same job.

        A resumed run keeps its number and time. A run that is more than a day old is
        not resumed. The first run binds the state to its scope and operator.

        Nothing else can use the state until :meth:`finish` or :meth:`leave_run`.

        Raises:
            JobError: If the state belongs to another scope or operator, or a job is
                using it.
        """
        await self._wait_until_unused()
        self._started = seconds_from(self._clock())
        try:
            run = await self._call(
                state_changes.start_run,
                job=job,
                scope=scope,
                operator=operator,
                segment=segment,
                started=self._started,
            )
        except BaseException:
            self._started = None
            raise
        self._started = run.started
        self._counts = StagingCounts()
        return run

    async def leave_run(self) -> None:
        """Let others use the state, even if the run is not finished. Idempotent."""
        try:
            # Answers of a cancelled job are still recorded.
            if self._commits is not None:
                await asyncio.wait([self._commits])
        finally:
            self._started = None

    async def _wait_until_unused(self) -> None:
        """Raise if a run is open: its scratch data and answers must not be mixed up."""
        if self._started is None and self._commits is not None:
            await asyncio.wait([self._commits])
        if self._started is not None:
            raise JobError(
                "A job is using the state.", hint="Wait until it ends, or stop it."
            )

    async def stage(self, kind: IdentityType, identities: Sequence[bytes]) -> None:
        """Add valid identities of the input to those that the run asks about.

        They are kept only in a scratch file, so a resumed run stages all of them again.
        """
        count = self._counts.staged + len(identities)
        self._counts = self._counts._replace(staged=count)
        await self._call(lambda db: db.spill("staged").add(kind.bit, identities))

    @property
    def staging_counts(self) -> StagingCounts:
        """Return the staging counts of the current run."""
        return self._counts

    async def to_ask(
        self,
        run: Run,
        source: str = "staged",
        *,
        unchecked_for: timedelta | None = None,
        rotated: Mapping[str, datetime] | None = None,
        limit: int = _PAGE,
    ) -> AsyncGenerator[IdentityPage, None]:
        """Iterate over the identities to ask the operator about, each once.

        The pages are in the order of the identities, except that those with the same
        first bits are ordered by type first. Identities recorded in *run* are left out,
        so a resumed run continues where it stopped.

        Args:
            run: The run.
            source: ``staged`` selects staged identities that are unknown or due.
                ``due`` selects identities that have reached ``refresh_from``, and
                those without one whose recheck interval is over: unmapped ones, and
                those mapped by API v2.
            unchecked_for: Selects mapped and opted-out identities not checked for this
                time, instead of *source*.
            rotated: Selects identities last checked before their salt bucket rotated,
                and what is due of those without a bucket, instead of *source* (v2).
            limit: The maximum number of identities per page.
        """
        given: dict[str, Any] = {**self._intervals, "started": run.started}
        condition = state_rows.DUE
        if unchecked_for is not None:
            condition = state_rows.UNCHECKED
            given["unchecked_for"] = int(unchecked_for.total_seconds())
        elif rotated is not None:
            condition = state_rows.ROTATED
            times = [(name, seconds_from(at)) for name, at in rotated.items()]
            await self._call(state_rows.load_rotated, times)
        elif source == "staged":
            async for kind, identities in self._select_staged(given):
                for start in range(0, len(identities), limit):
                    yield kind, identities[start : start + limit]
            return
        known = self._pages(state_rows.select_known, (given, condition), limit)
        async for pages in known:
            for page in pages:
                yield page

    async def _select_staged(
        self, given: dict[str, int]
    ) -> AsyncGenerator[IdentityPage, None]:
        """Select staged identities, and count them."""
        all_new = await self._call(state_rows.is_empty)
        part: int | None = 0
        while part is not None:
            looked_at, pages, part = await self._call(
                state_rows.select_staged, given, part, all_new=all_new
            )
            staged, distinct, known = self._counts
            known += looked_at - sum(len(identities) for _, identities in pages)
            self._counts = StagingCounts(staged, distinct + looked_at, known)
            for page in pages:
                yield page

    async def oldest_bucket_check(self) -> datetime | None:
        """Return the earliest check of an identity with a known salt bucket (v2)."""
        checked = await self._call(state_rows.oldest_bucket_check)
        return None if checked is None else datetime.fromtimestamp(checked, UTC)

    async def record(
        self,
        run: Run,
        kind: str,
        identities: Sequence[bytes],
        outcomes: Sequence[Outcome],
    ) -> None:
        """Apply the operator's answers; they are durable when this returns.

        Concurrent calls share one transaction. A failure is kept only for the current
        run: the next run asks again.

        Raises:
            InputError: If the arguments have different lengths.
        """
        if len(identities) != len(outcomes):
            raise InputError("There must be one outcome for each identity.")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        recorded = (run, IdentityType(kind), identities, outcomes)
        self._waiting.append((recorded, future))
        if self._commits is None:
            self._commits = asyncio.create_task(self._commit())
        await future

    async def _commit(self) -> None:
        """Apply the waiting answers, one transaction after the other."""
        try:
            while self._waiting:
                waiting, self._waiting = self._waiting, []
                await self._commit_together(waiting)
        finally:
            self._commits = None

    async def _commit_together(
        self, waiting: list[tuple[tuple[Any, ...], asyncio.Future[None]]]
    ) -> None:
        """Apply answers in one transaction, and wake the waiting callers."""
        failure: BaseException | None = None
        try:
            await self._call(state_rows.record, [recorded for recorded, _ in waiting])
        except BaseException as error:  # noqa: BLE001 - nobody may wait forever
            failure = error
        for _, future in waiting:
            if future.done():
                continue
            if failure is None:
                future.set_result(None)
            elif isinstance(failure, JobError):
                # A shared exception would collect the tracebacks of everyone who raises
                # it.
                future.set_exception(JobError(failure.message, hint=failure.hint))
            elif isinstance(failure, Exception):
                future.set_exception(failure)
            else:
                future.cancel()

    async def look_up(
        self, kind: IdentityType, identities: Sequence[bytes]
    ) -> dict[bytes, StateRow | MapFailure | None]:
        """Return what is known about each of *identities*, of any age.

        A failure means that the current run could not ask the operator. Suppressed
        people count as opted out. Looking up 20,000 or more at once costs half as much
        per identity as small numbers.
        """
        return await self._call(state_rows.look_up, self._now, kind, identities)

    async def mark_written(
        self, kind: IdentityType, identities: Sequence[bytes]
    ) -> None:
        """Leave *identities* out of :meth:`pending_changes`: the delta has them."""
        await self._call(state_changes.mark_written, kind, identities)

    async def withhold(self, kind: IdentityType, identities: Sequence[bytes]) -> None:
        """Leave *identities* out of the next deltas, because of their rows.

        Those that are marked as written in the same run are not withheld.
        Afterwards, they are not pending, and their rows still say ADDED, until a
        delta with the rows of an input has them.
        """
        await self._call(lambda db: db.spill("withheld").add(kind.bit, identities))

    async def changes_of(
        self, kind: IdentityType, identities: Sequence[bytes]
    ) -> dict[bytes, StateRow]:
        """Return the pending changes of *identities*.

        :meth:`look_up` does not show those of failed and suppressed ones.
        """
        return await self._call(state_changes.changes_of, kind, identities)

    async def check_absent(self, segment: str, max_removed: float) -> None:
        """Check who would be removed, before the operator is asked.

        Raises:
            JobError: If a larger share than *max_removed* (0 to 1) of the people of
                *segment* is not staged, or nobody is. People that no delta has
                contained yet do not count.
        """
        await self._call(state_changes.check_absent, segment, max_removed)

    async def remove_absent(
        self, run: Run, segment: str, max_removed: float = 1
    ) -> int:
        """Remove the people of *segment* who are not staged; return their number.

        The segment ``default`` also has the mapped people who are in no segment. People
        who are also in another segment stay. Repeating the call removes nobody else.

        Raises:
            JobError: As :meth:`check_absent`; nobody is removed.
        """
        return await self._call(state_changes.remove_absent, run, segment, max_removed)

    async def pending_changes(
        self, *, limit: int = _PAGE
    ) -> AsyncGenerator[list[Change], None]:
        """Iterate over pages of unexported changes, in identity order."""
        async for page in self._pages(state_changes.changes_page, None, limit):
            yield page

    async def finish(
        self, run: Run, *, exported: bool, summary: str | None = None
    ) -> None:
        """End *run*, in one transaction, with a *summary* for :meth:`finished_run`.

        If a durable delta contains all pending changes, they count as *exported*.
        """
        await self._call(state_changes.finish, run, exported=exported, summary=summary)
        # The run has ended, even if this fails: the next opening of the state does it.
        with suppress(JobError):
            await self._call(StateDatabase.tidy)
        self._started = None

    async def finished_run(self, job: str) -> tuple[str, dict[str, str]] | None:
        """Return the summary and :meth:`files_done` of a job that has just ended.

        None if its last run has not ended or is more than a day old, or after
        :meth:`forget_files`.
        """
        return await self._call(state_changes.finished_run, job, self._now)

    async def forget_files(self, job: str) -> None:
        """Forget the files of a job, so that the next run is another job."""
        await self._call(state_changes.forget_files, job)

    async def unfinished_deltas(self, job: str | None) -> list[str]:
        """Return the details of complete deltas of *job*, not counted as exported."""
        return await self._call(state_changes.unfinished_deltas, job)

    async def set_file_done(self, run: Run, name: str, detail: str) -> None:
        """Record that the output of the input *name* of *run* has its final name.

        For a delta, that it is about to get its name.
        """
        await self._call(state_changes.set_file_done, run, name, detail)

    async def files_done(self, run: Run) -> dict[str, str]:
        """Return the inputs of *run* whose outputs are done, with their details."""
        return await self._call(state_changes.files_done, run)


def _key(person: Person, number: int) -> IdentityKey:
    if isinstance(person, IdentityKey):
        return person
    identity = as_identity(person)
    hashed = READERS[identity.kind](identity.value)
    if hashed is None:
        raise InputError(f"Number {number} is not a valid {identity.kind}.")
    return IdentityKey(identity.identity_type, hashed)


def _guess(text: str, kind: str | None) -> Iterator[IdentityKey]:
    """Yield the identities that *text* may be; a hash fits email and phone."""
    if kind is None and not text.startswith("+") and "@" not in text:
        kinds = list(dict.fromkeys(HASH_KINDS.values()))
    else:
        kinds = [kind or ("phone" if text.startswith("+") else "email")]
    for one in kinds:
        identity = READERS[one](text)
        if identity is not None:
            yield IdentityKey(IdentityType(one.partition("_")[0]), identity)


strip_tracebacks(globals())
