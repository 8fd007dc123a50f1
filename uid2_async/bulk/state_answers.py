"""Between the rows of files and a state: what to stage, and the rows' outcomes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Final, TypeAlias

from uid2_async.bulk.batches import STEP_ROWS, Chunk, IdentityColumn
from uid2_async.bulk.endpoints import RAW_UID, Endpoint
from uid2_async.bulk.job_files import FileSource
from uid2_async.bulk.outcomes import INVALID, UNKNOWN_KIND, Outcome
from uid2_async.bulk.state import MappingState
from uid2_async.bulk.state_values import IdentityKey, Run, StateRow
from uid2_async.errors import JobError
from uid2_async.models import IdentityType

# A sorted look-up of so many identities touches each page of the state once.
_GROUP_ROWS: Final = 40_000
_GROUPS_AHEAD: Final = 2


class StateSource:
    """Identities of a state, page by page, as a dispatcher's source."""

    def __init__(
        self,
        pages: AsyncIterator[tuple[IdentityType, Sequence[bytes]]],
        *,
        limit: int | None = None,
    ) -> None:
        """Read *pages*, up to *limit* identities."""
        self._pages = pages
        self._left = limit
        self._loaded: deque[Chunk] = deque()

    async def load(self) -> bool:
        """Read a page; see :meth:`uid2_async.bulk.batches.Source.load`."""
        if self._left == 0:
            return False
        async for kind, identities in self._pages:
            taken = identities if self._left is None else identities[: self._left]
            if self._left is not None:
                self._left -= len(taken)
            for start in range(0, len(taken), STEP_ROWS):
                some = taken[start : start + STEP_ROWS]
                column = IdentityColumn(f"{kind.value}_hash", identities=some)
                self._loaded.append(Chunk((kind, some), len(some), [column]))
            return True
        return False

    def take(self, *, partial: bool) -> Chunk | None:  # noqa: ARG002 - pages are not waited for
        """Return the next chunk; see :meth:`uid2_async.bulk.batches.Source.take`."""
        return self._loaded.popleft() if self._loaded else None


class UidSource:
    """The raw UIDs of a state, page by page, as a dispatcher's source."""

    def __init__(
        self, pages: AsyncIterator[Sequence[tuple[IdentityKey, StateRow]]]
    ) -> None:
        """Read those of *pages* that are mapped."""
        self._pages = pages
        self._loaded: deque[Chunk] = deque()

    async def load(self) -> bool:
        """Read a page; see :meth:`uid2_async.bulk.batches.Source.load`."""
        async for page in self._pages:
            mapped = [
                (key, row.raw_uid) for key, row in page if row.raw_uid is not None
            ]
            for start in range(0, len(mapped), STEP_ROWS):
                some = mapped[start : start + STEP_ROWS]
                column = IdentityColumn(RAW_UID, [uid for _, uid in some])
                self._loaded.append(
                    Chunk([key for key, _ in some], len(some), [column])
                )
            return True
        return False

    def take(self, *, partial: bool) -> Chunk | None:  # noqa: ARG002 - pages are not waited for
        """Return the next chunk; see :meth:`uid2_async.bulk.batches.Source.take`."""
        return self._loaded.popleft() if self._loaded else None


async def stage_all(
    source: FileSource,
    state: MappingState,
    run: Run,
    endpoint: Endpoint,
    on_chunk: Callable[[Chunk], bool],
) -> bool:
    """Stage the identities of all rows.

    Returns:
        Whether all were read.
    """
    waiting: dict[IdentityType, list[bytes]] = {}
    staging: asyncio.Future[None] | None = None
    rows = 0
    async for chunk in source.chunks():
        if not on_chunk(chunk):
            return False
        for column in chunk.columns:
            _collect(endpoint, column, waiting)
        rows += chunk.rows
        if rows >= _GROUP_ROWS:
            if staging is not None:
                await staging
            staging = asyncio.ensure_future(_stage(state, run, waiting))
            waiting, rows = {}, 0
    if staging is not None:
        await staging
    await _stage(state, run, waiting)
    return True


async def _stage(
    state: MappingState, run: Run, identities: dict[IdentityType, list[bytes]]
) -> None:
    for kind, some in identities.items():
        await state.stage(run, kind, some)


def _collect(
    endpoint: Endpoint,
    column: IdentityColumn,
    identities: dict[IdentityType, list[bytes]],
) -> None:
    """Add the valid identities of a column."""
    for name, rows in column.rows_by_kind():
        kind = endpoint.kinds.get(name)
        if kind is not None:
            subject = IdentityType(kind.subject)
            found = column.read(kind, rows)
            identities.setdefault(subject, []).extend(filter(None, found))


class AnsweredChunk(Chunk):
    """A chunk whose outcomes came from a state."""

    __slots__ = ("_found",)

    def __init__(self, chunk: Chunk, outcomes: list[list[Outcome]]) -> None:
        """Give *chunk* its outcomes, a list for each column."""
        super().__init__(chunk.payload, chunk.rows, chunk.columns)
        self._found = outcomes

    def outcomes(self) -> list[list[Outcome]]:
        """Return the outcomes of each column."""
        return self._found


async def answer_from_state(
    source: FileSource,
    state: MappingState,
    endpoint: Endpoint,
    is_stopped: Callable[[], bool],
) -> AsyncIterator[Chunk]:
    """Yield the rows of *source*, in order, with what the state knows about them.

    Rows are looked up by the ten thousand, while the rows before them are written.
    """
    groups: deque[asyncio.Task[list[Chunk]]] = deque()
    waiting: list[Chunk] = []
    rows = 0
    try:
        async for chunk in source.chunks():
            waiting.append(chunk)
            rows += chunk.rows
            if rows < _GROUP_ROWS:
                continue
            groups.append(asyncio.create_task(_answer(waiting, state, endpoint)))
            waiting, rows = [], 0
            if len(groups) >= _GROUPS_AHEAD:
                for answered in await groups.popleft():
                    yield answered
            if is_stopped():
                return
        groups.append(asyncio.create_task(_answer(waiting, state, endpoint)))
        while groups:
            for answered in await groups.popleft():
                yield answered
    finally:
        for group in groups:
            group.cancel()
        await asyncio.gather(*groups, return_exceptions=True)


class _Lookup:
    """The identities of some chunks that a state is asked about, by type.

    A column whose rows all have a valid identity of one type gets its outcomes as one
    slice; only other columns cost a step for each row.
    """

    def __init__(self) -> None:
        """Start empty."""
        self.identities: dict[IdentityType, list[bytes]] = {}
        self.found: dict[IdentityType, list[Outcome]] = {}

    def add(self, endpoint: Endpoint, column: IdentityColumn) -> _Outcomes:
        """Add a column; what is returned makes its outcomes once they are found."""
        parts: list[tuple[IdentityType, int, Sequence[int]]] = []
        outcomes: list[Outcome] = [UNKNOWN_KIND] * len(column)
        for name, rows in column.rows_by_kind():
            kind = endpoint.kinds.get(name)
            if kind is None:
                continue
            subject = IdentityType(kind.subject)
            identities = self.identities.setdefault(subject, [])
            start = len(identities)
            read = column.read(kind, rows)
            if None not in read:
                identities += read  # type: ignore[arg-type] # by the line above
                parts.append((subject, start, rows))
                continue
            for row in rows:
                outcomes[row] = INVALID
            valid = [row for row, one in zip(rows, read, strict=True) if one]
            identities += filter(None, read)
            parts.append((subject, start, valid))
        for row, outcome in column.special_outcomes().items():
            outcomes[row] = outcome
        return partial(self._outcomes, outcomes, parts)

    def _outcomes(
        self,
        outcomes: list[Outcome],
        parts: Sequence[tuple[IdentityType, int, Sequence[int]]],
    ) -> list[Outcome]:
        """Put what was found into the outcomes of a column."""
        for subject, start, rows in parts:
            found = self.found[subject][start : start + len(rows)]
            if len(rows) == len(outcomes):
                return found
            for row, outcome in zip(rows, found, strict=True):
                outcomes[row] = outcome
        return outcomes


_Outcomes: TypeAlias = Callable[[], list[Outcome]]


async def _answer(
    chunks: Sequence[Chunk], state: MappingState, endpoint: Endpoint
) -> list[Chunk]:
    """Look up the identities of some chunks."""
    lookup = _Lookup()
    waiting: list[tuple[Chunk, list[_Outcomes]]] = []
    for chunk in chunks:
        waiting.append((chunk, [lookup.add(endpoint, one) for one in chunk.columns]))
        await asyncio.sleep(0)
    for kind, identities in lookup.identities.items():
        found = await state.look_up(kind, identities)
        if None in found:
            raise JobError(
                "The state lacks the answer to an identifier of the input.",
                hint="The input may have changed while it was read. Run the same "
                "command again.",
            )
        lookup.found[kind] = found  # type: ignore[assignment] # by the line above
    return [
        AnsweredChunk(chunk, [make() for make in outcomes])
        for chunk, outcomes in waiting
    ]
