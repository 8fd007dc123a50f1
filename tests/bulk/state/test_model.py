"""The state beside a dictionary, with kills: the same rows, changes and history."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import attrs
import pytest

from uid2_async.bulk.state_values import RETENTION_SECONDS
from uid2_async.models import IdentityType, MapRow

DAY = 86_400
EMAIL, PHONE = IdentityType.EMAIL, IdentityType.PHONE
KEYS = [sha256(b"%d" % number).digest() for number in range(14)]
KEYS += [KEYS[0][:31], KEYS[1] + b"x", b"\xff" * 33]
UIDS = [f"{number:a<43}=" for number in range(3)]
RECHECK = {"optout": 30 * DAY, "invalid identifier": 180 * DAY}
START = 1767225600  # 2026-01-01
Key = tuple[IdentityType, bytes]
Said = str | None


@attrs.define
class Known:
    """What the model knows of one identity."""

    uid: str | None = None
    reason: str | None = None
    previous: str | None = None
    since: int = 0
    due: int | None = None
    checked: int = 0


def change(said: Said, row: Known | None) -> str | None:
    """Name the change from what was said ('' for an opt-out) to what holds."""
    if row is not None and row.uid is not None:
        if said is None:
            return "ADDED"
        if said == "":
            return "RETURNED"
        return "ROTATED" if said != row.uid else None
    if not said:
        return None
    return "OPTED_OUT" if row is not None and row.reason == "optout" else "REMOVED"


class Model:
    """The same as a state, in dictionaries."""

    def __init__(self) -> None:
        """Know nobody."""
        self.now = START
        self.rows: dict[Key, Known] = {}
        self.said: dict[Key, Said] = {}
        self.runs: list[tuple[int, dict[Key, Said]]] = []
        self.members: dict[str, set[Key]] = {"a": set(), "b": set(), "default": set()}
        self.suppressed: set[Key] = set()
        self.added: dict[Key, int] = {}
        self.purged: set[Key] = set()
        self.withheld: set[Key] = set()
        self.lines: dict[tuple[Key, int], tuple[str, Said]] = {}

    def start_run(self) -> None:
        """Remember what was exported before a run."""
        self.runs.append((self.now, dict(self.said)))

    def record(self, key: Key, answer: MapRow) -> None:
        """Apply an answer."""
        if key in self.suppressed:
            return
        self.purged.discard(key)
        old = self.rows.get(key, Known())
        mapped = answer.raw_uid is not None and answer.reason is None
        new = Known(checked=self.now, uid=answer.raw_uid if mapped else None)
        new.reason = None if mapped else answer.reason
        new.due = answer.refresh_from_s if mapped else None
        new.previous = answer.previous_raw_uid if mapped else None
        if new.previous is None and old.uid not in (None, new.uid):
            new.previous = old.uid
        elif new.previous is None and old.since > self.now - RETENTION_SECONDS:
            new.previous = old.previous if old.previous != new.uid else None
        if new.previous is not None:
            new.since = old.since if new.previous == old.previous else self.now
        self.rows[key] = new
        if new.uid is None:
            self.withheld.discard(key)

    def withhold(self, key: Key) -> None:
        """Add nobody whose row must not be added, as if nothing had been said."""
        self.withheld.add(key)
        self.said.pop(key, None)
        self.forget_opt_outs(key)

    def remove(self, key: Key) -> None:
        """Forget a row; once no delta has to report that, also its opt-outs."""
        self.rows.pop(key, None)
        self.withheld.discard(key)
        if not self.said.get(key):
            self.forget_opt_outs(key)

    def forget_opt_outs(self, key: Key) -> None:
        """Forget that opt-outs were exported: who comes back is added."""
        for said in (self.said, *[said for _, said in self.runs]):
            if said.get(key) == "":
                del said[key]

    def full(self, segment: str, present: set[Key]) -> None:
        """Replace an audience."""
        absent = self.members[segment] - present
        if segment == "default":
            mapped = {key for key, row in self.rows.items() if row.uid is not None}
            absent |= mapped - present
        self.members[segment] = set(present)
        for key in absent - set.union(*self.members.values()):
            self.remove(key)

    def purge(self, key: Key, suppress: bool) -> None:
        """Forget a person: also in the history, before any run."""
        self.remove(key)
        for members in self.members.values():
            members.discard(key)
        if suppress:
            self.suppressed.add(key)
        if not self.said.get(key):
            self.said.pop(key, None)
        for number, (_, said) in enumerate(self.runs):
            is_later = self.added.get(key, 0) <= number
            said[key] = self.said.get(key) if is_later else None
        self.purged.add(key)
        self.lines = {line: one for line, one in self.lines.items() if line[0] != key}

    def pending(self) -> dict[Key, tuple[str, Said, Said]]:
        """List the pending changes."""
        return self.net(self.said)

    def net(self, said: dict[Key, Said]) -> dict[Key, tuple[str, Said, Said]]:
        """List the changes against what was said."""
        found = {}
        for key in {*self.rows, *said}:
            row, old = self.rows.get(key), said.get(key)
            if key in self.withheld:
                row = None
            name = change(old, row)
            if name is not None:
                found[key] = (name, row.uid if row else None, old or None)
        return found

    def export(self) -> None:
        """Say what holds."""
        for key, (name, uid, old) in self.pending().items():
            if name != "ADDED" and not (name == "REMOVED" and key in self.purged):
                self.lines[key, len(self.runs)] = (name, old)
            if name == "ADDED":
                self.added[key] = len(self.runs)
            if name == "REMOVED":
                self.said.pop(key)
                self.forget_opt_outs(key)
                for _, said in self.runs if key in self.purged else ():
                    said.pop(key, None)
            else:
                self.said[key] = uid or ""

    def expire(self) -> None:
        """Drop what is too old."""
        for row in self.rows.values():
            if row.since <= self.now - RETENTION_SECONDS:
                row.previous, row.since = None, 0

    def is_known(self, key: Key) -> bool:
        """Tell whether the operator need not be asked."""
        row = self.rows.get(key)
        if key in self.suppressed:
            return True
        if row is None:
            return False
        recheck = RECHECK.get(row.reason or "", 7 * DAY)
        is_due = row.due is not None and row.due <= self.now
        stale = row.checked <= self.now - recheck or is_due
        return row.checked >= self.now or not stale


class Walk:
    """A random walk of a state and its model."""

    def __init__(self, path: Path, of: Any, seed: int) -> None:
        """Begin with nothing."""
        self.path, self.of = path, of
        self.random = random.Random(seed)  # noqa: S311 - a seeded walk
        self.model = Model()
        self.copies = 0

    async def open(self) -> None:
        """Open the state, and start or resume the run."""
        self.days = self.of(self.path)
        await self.days.state.__aenter__()
        await self.start_run()

    async def start_run(self) -> None:
        """Begin the run of this time."""
        day = (self.model.now - START) / DAY
        self.run = await self.days.start_run(day, job=str(self.model.now))
        if not self.model.runs or self.model.runs[-1][0] != self.model.now:
            self.model.start_run()

    def some_keys(self) -> list[Key]:
        """Choose a few identities."""
        keys = [(kind, key) for kind in IdentityType for key in KEYS]
        return self.random.sample(keys, self.random.randrange(1, 8))

    def answer(self) -> MapRow:
        """Make an answer."""
        dice = self.random
        if dice.random() < 0.35:
            return MapRow(
                reason=dice.choice(["optout", "optout", "invalid identifier"])
            )
        day = dice.randrange(0, 400)
        previous = dice.choice([None, None, *UIDS])
        return MapRow(
            raw_uid=dice.choice(UIDS),
            previous_raw_uid=previous,
            refresh_from_s=START + day * DAY,
        )

    async def record(self) -> None:
        """Record answers."""
        for kind, key in self.some_keys():
            answer = self.answer()
            await self.days.state.record(self.run, kind, [key], [answer])
            self.model.record((kind, key), answer)

    async def finish(self) -> None:
        """End the run, maybe with a delta, and start another."""
        exported = self.random.random() < 0.6
        if exported:
            await self.withhold()
        await self.days.state.finish(self.run, exported=exported)
        if exported:
            self.model.export()
        self.model.expire()
        self.model.now += self.random.randrange(1, 40) * DAY
        await self.start_run()

    async def withhold(self) -> None:
        """Write a delta by rows: some add nobody, others do so again."""
        pending = self.model.pending()
        for kind, key in sorted(self.model.withheld):
            if self.random.random() < 0.3:
                await self.days.state.mark_written(kind, [key])
                self.model.withheld.discard((kind, key))
        for (kind, key), (name, *_) in pending.items():
            if name in ("ADDED", "RETURNED") and self.random.random() < 0.2:
                await self.days.state.withhold(kind, [key])
                # Another row may have the same identity.
                if self.random.random() < 0.2:
                    await self.days.state.mark_written(kind, [key])
                else:
                    self.model.withhold((kind, key))

    async def crash(self) -> None:
        """Go on with what is on the disk at this moment."""
        self.copies += 1
        folder = self.path.parent.parent / str(self.copies)
        folder.mkdir(mode=0o700)
        for name in ("people.db", "people.db-wal"):
            if (self.path.parent / name).exists():
                shutil.copy(self.path.parent / name, folder / name)
        await self.days.state.aclose()
        self.path = folder / "people.db"
        await self.open()

    async def full(self) -> None:
        """Replace an audience."""
        segment = self.random.choice(["a", "b", "default"])
        present = self.some_keys()
        await self.days.state.finish(self.run, exported=False)
        self.model.expire()
        self.model.now += 1
        await self.start_run()
        for kind, key in present:
            await self.days.state.stage(kind, [key])
        await self.days.state.remove_absent(self.run, segment, 1)
        self.model.full(segment, set(present))

    async def purge(self) -> None:
        """Purge a person."""
        await self.days.state.finish(self.run, exported=False)
        self.model.expire()
        self.model.now += 1
        key = self.random.choice(self.some_keys())
        suppress = self.random.random() < 0.1
        await self.days.state.purge(self.days.key_of(*key), suppress=suppress)
        self.model.purge(key, suppress)
        await self.start_run()

    async def check(self) -> None:
        """Compare rows, changes, the history of each run, and what is known."""
        model, state = self.model, self.days.state
        for kind in IdentityType:
            for key, row in (await state.look_up(kind, KEYS)).items():
                self.compare((kind, key), row)
        pages = [page async for page in state.pending_changes()]
        assert listed(pages) == model.pending()
        for number, (started, said) in enumerate(model.runs, 1):
            if started > model.now - RETENTION_SECONDS:
                pages = [page async for page in state.history(number)]
                assert listed(pages) == model.net(said), number
        self.check_view()

    def check_view(self) -> None:
        """Compare the view of what the deltas have said."""
        since = self.model.now - RETENTION_SECONDS
        recent = {
            number
            for number, (started, _) in enumerate(self.model.runs, 1)
            if started > since
        }
        with closing(sqlite3.connect(self.path)) as other:
            found = other.execute("SELECT * FROM history").fetchall()
        assert {
            ((IdentityType(kind), key), run): (name, old)
            for key, kind, name, old, run in found
            if run in recent
        } == {line: one for line, one in self.model.lines.items() if line[1] in recent}

    def compare(self, key: Key, row: Any) -> None:
        """Compare one row."""
        expected = self.model.rows.get(key)
        if key in self.model.suppressed:
            assert (row.reason, row.raw_uid) == ("optout", None)
        elif expected is None:
            assert row is None
        else:
            previous = expected.previous if expected.uid else None
            if expected.since <= self.model.now - RETENTION_SECONDS:
                previous = None
            assert (
                row.raw_uid,
                row.previous_raw_uid,
                row.refresh_from_s,
                row.reason,
                row.checked_s,
                row.change,
            ) == (
                expected.uid,
                previous,
                expected.due,
                expected.reason,
                expected.checked,
                change(self.model.said.get(key), expected),
            )

    async def check_known(self) -> None:
        """Compare what must be asked about, in a new run of its own."""
        await self.crash()
        keys = [(kind, key) for kind in IdentityType for key in KEYS]
        for kind, key in keys:
            await self.days.state.stage(kind, [key])
        pages = self.days.state.to_ask(self.run)
        asked = {(kind, key) async for kind, page in pages for key in page}
        assert asked == {key for key in keys if not self.model.is_known(key)}


def listed(pages: list[Any]) -> dict[Key, tuple[str, Said, Said]]:
    """Put changes into a dictionary."""
    changes = [one for page in pages for one in page]
    found = {
        (one.kind, one.identity): (str(one.change), one.uid, one.old_uid)
        for one in changes
    }
    assert len(found) == len(changes)
    return found


@pytest.mark.parametrize("seed", range(5))
async def test_a_random_walk(path: Path, of: Any, seed: int) -> None:
    """Whatever the order of records, deltas, removals, purges and crashes."""
    walk = Walk(path, of, seed)
    await walk.open()
    steps: list[Callable[[], Awaitable[None]]] = [
        walk.record,
        walk.record,
        walk.record,
        walk.finish,
        walk.crash,
        walk.full,
        walk.purge,
    ]
    for number in range(60):
        await walk.random.choice(steps)()
        if number % 4 == 0:
            await walk.check()
    await walk.check()
    await walk.check_known()
    await walk.days.state.aclose()
