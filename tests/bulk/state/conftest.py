"""Identities, answers and a state in a private folder."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from uid2_async.bulk.state import MappingState
from uid2_async.bulk.state_values import Change, IdentityKey, Run
from uid2_async.models import IdentityScope, IdentityType, MapRow

START = datetime(2026, 1, 1, tzinfo=UTC)
EMAIL = IdentityType.EMAIL
OPERATOR = "https://operator.example"


def identity(number: int) -> bytes:
    """Return the first-level hash of a person."""
    return sha256(b"%d" % number).digest()


NUMBERS = {identity(number): number for number in range(10_000)}


def uid(name: object) -> str:
    """Return a raw UID."""
    return base64.b64encode(sha256(repr(name).encode()).digest()).decode()


def at(days: float) -> datetime:
    """Return an instant, in days after the start."""
    return START + timedelta(days=days)


def seconds(days: float) -> int:
    """Return the same in seconds since the Unix epoch."""
    return int(at(days).timestamp())


def mapped(name: object, *, due: float = 365, prev: str | None = None) -> MapRow:
    """Return the answer for a mapped person."""
    return MapRow(raw_uid=uid(name), previous_raw_uid=prev, refresh_from_s=seconds(due))


class Days:
    """A state and one run a day, as short as a test wants to write it."""

    uid = staticmethod(uid)
    mapped = staticmethod(mapped)
    identity = staticmethod(identity)
    seconds = staticmethod(seconds)
    at = staticmethod(at)
    numbers = NUMBERS

    def __init__(self, path: Path, kind: type[MappingState] = MappingState) -> None:
        """Make a state at *path*, which is not open yet."""
        self.now = START
        self.state = kind(path, clock=lambda: self.now)

    async def start_run(self, day: float, **options: Any) -> Run:
        """Start a run; one that the test has not finished is left."""
        await self.state.leave_run()
        self.now = at(day)
        options = {"scope": IdentityScope.UID2, "operator": OPERATOR, **options}
        return await self.state.start_run(**options)

    async def run(
        self, day: float, answers: dict[int, Any], *, export: bool = True
    ) -> list[tuple[Any, ...]]:
        """Do a whole run and return the pending changes, exported now or not."""
        run = await self.start_run(day)
        await self.record(run, answers)
        changes = await self.pending(run)
        await self.state.finish(run, exported=export)
        return changes

    async def full(
        self,
        day: float,
        numbers: range,
        *,
        segment: str = "all",
        max_removed: float = 0.05,
        export: bool = True,
        job: str | None = None,
    ) -> list[tuple[Any, ...]]:
        """Do a run over a whole audience and return its changes."""
        run = await self.start_run(day, job=job, segment=segment)
        keys = [identity(number) for number in numbers]
        await self.state.stage(EMAIL, keys)
        for number in await self.to_ask(run):
            await self.record(run, {number: mapped(number)})
        self.removed = await self.state.remove_absent(run, segment, max_removed)
        changes = await self.pending(run)
        await self.state.finish(run, exported=export)
        return changes

    async def record(
        self, run: Run, answers: dict[int, Any], kind: IdentityType = EMAIL
    ) -> None:
        """Record answers by the number of the identity."""
        keys = [identity(number) for number in answers]
        await self.state.record(run, kind, keys, list(answers.values()))

    async def look_up(self, *numbers: int, kind: IdentityType = EMAIL) -> list[Any]:
        """Look identities up."""
        keys = [identity(number) for number in numbers]
        rows = await self.state.look_up(kind, keys)
        return [rows[key] for key in keys]

    async def to_ask(
        self, run: Run, source: str = "staged", **options: Any
    ) -> list[int]:
        """List who must be asked about, by number."""
        pages = self.state.to_ask(run, source, **options)
        return [NUMBERS[key] async for _, page in pages for key in page]

    async def unknown(self, day: float, *numbers: int) -> set[int]:
        """Return for whom a job that begins on *day* must ask the operator."""
        run = await self.start_run(day)
        await self.state.stage(EMAIL, [identity(number) for number in numbers])
        return set(await self.to_ask(run))

    async def pending(self, run: Run) -> list[tuple[Any, ...]]:
        """List pending changes as plain tuples, by number."""
        return self.plain([p async for p in self.state.pending_changes()])

    async def history(self, since: int) -> list[tuple[Any, ...]]:
        """List net changes since a run, by number."""
        return self.plain([page async for page in self.state.history(since)])

    @staticmethod
    def plain(pages: list[list[Change]]) -> list[tuple[Any, ...]]:
        """Return changes as tuples, by number."""
        return sorted(
            (NUMBERS[one.identity], str(one.change), one.uid, one.old_uid)
            for page in pages
            for one in page
        )

    key_of = staticmethod(IdentityKey)

    @staticmethod
    def key(number: int) -> IdentityKey:
        """Return the key of a person."""
        return IdentityKey(EMAIL, identity(number))


@pytest.fixture
def tmp_path(memory_path: Path) -> Path:
    """Return a folder in memory: the tests of this folder sync 10,000 times."""
    return memory_path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a state that does not exist yet."""
    folder = tmp_path / "private"
    folder.mkdir(mode=0o700)
    return folder / "people.db"


@pytest.fixture
async def days(path: Path) -> AsyncIterator[Days]:
    """Return an open state."""
    made = Days(path)
    async with made.state:
        yield made


@pytest.fixture
def of() -> type[Days]:
    """Return the class, for states that a test opens itself."""
    return Days


@pytest.fixture
def on_disk(path: Path) -> Callable[..., bytes]:
    """Return what reads all bytes in the folder of the state."""

    def read(name: str = "*") -> bytes:
        return b"".join(one.read_bytes() for one in sorted(path.parent.glob(name)))

    return read
