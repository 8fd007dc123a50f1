"""Identities, answers and a state in a private folder."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from uid2_async.bulk.state import MappingState, Run, StateRow
from uid2_async.models import IdentityScope, IdentityType, MapRow

START = datetime(2026, 1, 1, tzinfo=UTC)
EMAIL = IdentityType.EMAIL


def identity(number: int) -> bytes:
    """Give the first-level hash of somebody."""
    return sha256(b"%d" % number).digest()


def uid(name: object) -> str:
    """Give a raw UID."""
    return base64.b64encode(sha256(repr(name).encode()).digest()).decode()


def at(days: float) -> datetime:
    """Give an instant, in days after the start."""
    return START + timedelta(days=days)


def seconds(days: float) -> int:
    """Give the same in seconds since the Unix epoch."""
    return int(at(days).timestamp())


def mapped(name: object, *, due: float = 365, prev: str | None = None) -> MapRow:
    """Give the answer for somebody who is mapped."""
    return MapRow(u=uid(name), p=prev, r=seconds(due))


class Days:
    """A state and one run a day, as short as a test wants to write it."""

    uid = staticmethod(uid)
    mapped = staticmethod(mapped)
    identity = staticmethod(identity)
    seconds = staticmethod(seconds)
    at = staticmethod(at)

    def __init__(self, state: MappingState) -> None:
        """Work with *state*."""
        self.state = state

    async def begin(self, day: float, job: str | None = None) -> Run:
        """Begin a run."""
        return await self.state.begin(
            scope=IdentityScope.UID2,
            operator="https://operator.example",
            now=at(day),
            job=job,
        )

    async def run(
        self, day: float, answers: dict[int, MapRow], *, tell: bool = True
    ) -> dict[int, StateRow]:
        """Do a whole run: record *answers*, and tell the changes or not."""
        run = await self.begin(day)
        rows = await self.record(run, answers)
        told = await self.state.last_seq() if tell else None
        await self.state.finish(run, told_until=told)
        return rows

    async def record(
        self, run: Run, answers: dict[int, MapRow], kind: IdentityType = EMAIL
    ) -> dict[int, StateRow]:
        """Record *answers* by the number of the identity."""
        rows = await self.state.record(
            run,
            [kind] * len(answers),
            [identity(number) for number in answers],
            list(answers.values()),
        )
        return dict(zip(answers, rows, strict=True))

    async def look_up(self, run: Run, *numbers: int) -> list[StateRow | None]:
        """Look identities up."""
        return await self.state.look_up(run, EMAIL, [identity(n) for n in numbers])

    async def get(self, run: Run, *numbers: int) -> list[StateRow | None]:
        """Get identities, however old."""
        return await self.state.get(run, EMAIL, [identity(n) for n in numbers])

    async def changes(self, after: int = 0) -> list[tuple[Any, ...]]:
        """List changes as plain tuples."""
        numbers = {identity(number): number for number in range(100)}
        return [
            (numbers[one.identity], str(one.change), one.uid, one.old_uid)
            for one in await self.state.changes(after=after, until=10**9)
        ]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give the path of a state that is not there yet."""
    folder = tmp_path / "private"
    folder.mkdir(mode=0o700)
    return folder / "people.db"


@pytest.fixture
async def days(path: Path) -> AsyncIterator[Days]:
    """Give an open state."""
    async with MappingState(path) as state:
        yield Days(state)


@pytest.fixture
def of() -> type[Days]:
    """Give the class, for states that a test opens itself."""
    return Days


@pytest.fixture
def on_disk(path: Path) -> Callable[..., bytes]:
    """Give what reads all bytes in the folder of the state, or of one of its files."""

    def read(name: str = "*") -> bytes:
        return b"".join(one.read_bytes() for one in sorted(path.parent.glob(name)))

    return read
