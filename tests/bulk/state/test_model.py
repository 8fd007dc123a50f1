"""The state beside a dict: journal, layers and merges must not be seen."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

from hypothesis import settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from uid2_async.bulk.state.reading import VIEW_IF_KNOWN
from uid2_async.bulk.state.store import Cadence, Store
from uid2_async.bulk.state.stored import Stored, settle, view
from uid2_async.bulk.state.survey import START, select_page
from uid2_async.bulk.state.values import ChangeKind, Run, Selection
from uid2_async.models import IdentityScope, IdentityType, MapRow

DAY = 86_400
CADENCE = Cadence.of(timedelta(days=7), timedelta(days=30), timedelta(days=180))
KEYS = [sha256(b"%d" % number).digest() for number in range(24)]
KEYS += [KEYS[0][:31], KEYS[1] + b"x", KEYS[2][:31], b"\xff" * 33]
UIDS = [f"{number:a<43}=" for number in range(4)]

answers = st.one_of(
    st.builds(
        MapRow,
        # Any text is kept as it came, though the operator's are all 44 letters.
        u=st.sampled_from([*UIDS, "short ", "ü" * 44]),
        p=st.none() | st.sampled_from(UIDS),
        r=st.integers(0, 400).map(lambda day: day * DAY),
    ),
    st.builds(
        MapRow,
        u=st.sampled_from(["short", "Ünicode", *UIDS]),
        bucket_id=st.sampled_from(["b1", 'b"2']),
    ),
    st.builds(MapRow, e=st.sampled_from(["optout", "invalid identifier", "new \n"])),
)
batches = st.lists(
    st.tuples(st.sampled_from(list(IdentityType)), st.sampled_from(KEYS), answers),
    max_size=12,
)


class Model(RuleBasedStateMachine):
    """Does the same to a state with tiny layers and to a dict."""

    def __init__(self) -> None:
        """Make a folder."""
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "people.db"
        self.rows: dict[tuple[int, bytes], Stored] = {}
        self.told = self.seq = 0
        self.now = 100 * DAY

    def teardown(self) -> None:
        """Delete it."""
        self.store.close()
        shutil.rmtree(self.folder)

    @initialize()
    def open(self) -> None:
        """Open the state."""
        self.store = Store(self.path, CADENCE, recent_rows=8)
        self.begin()

    def begin(self) -> None:
        """Begin a run, or go on with it."""
        self.run: Run = self.store.begin(
            IdentityScope.UID2, "operator", self.now, str(self.now)
        )

    @rule(batch=batches)
    def record(self, batch: list[tuple[IdentityType, bytes, MapRow]]) -> None:
        """Record; the rows that come back are those of the dict."""
        last = {(kind.bit, key): answer for kind, key, answer in batch}
        for (bit, key), answer in sorted(last.items(), key=self._order(batch)):
            row = settle(
                self.rows.get((bit, key)),
                answer,
                now=self.now,
                told_seq=self.told,
                next_seq=self.seq + 1,
            )
            self.seq = max(self.seq, row.seq)
            self.rows[bit, key] = row
        kinds, keys, rows = zip(*batch, strict=True) if batch else ((), (), ())

        views = self.store.record(self.run, kinds, keys, rows)

        assert views == [self._view(kind.bit, key) for kind, key, _ in batch]

    def _order(self, batch: list[tuple[IdentityType, bytes, MapRow]]) -> object:
        """Order as changes are numbered: e-mails first, and who is new and mapped."""
        places: dict[tuple[int, bytes], int] = {}
        for at, (kind, key, _) in enumerate(batch):
            places.setdefault((kind.bit, key), at)

        def order(item: tuple[tuple[int, bytes], MapRow]) -> tuple[int, bool, int]:
            (bit, key), answer = item
            is_added = (
                (bit, key) not in self.rows
                and answer.u in UIDS
                and (answer.p, answer.bucket_id) == (None, None)
                and len(key) == 32
            )
            return bit, not is_added, places[bit, key]

        return order

    def _view(self, bit: int, key: bytes) -> object:
        """Say what the state is to say."""
        row = self.rows.get((bit, key))
        return row and view(row, now=self.now, told_seq=self.told)

    @rule(tell=st.booleans(), days=st.integers(0, 120))
    def finish(self, tell: bool, days: int) -> None:
        """End the run and begin another."""
        last = self.store.last_seq()
        assert last == self.seq
        self.store.finish(self.run, last if tell else None)
        self.told = last if tell else self.told
        before = self.now - 90 * DAY
        for key, row in self.rows.items():
            if row.since is not None and row.since <= before:
                fields = {name: getattr(row, name) for name in row.__struct_fields__}
                self.rows[key] = Stored(**{**fields, "prev": None, "since": None})
        # Of told changes the dict says by their number what the state may have dropped.
        self.now += days * DAY + 1
        self.begin()

    @rule()
    def reopen(self) -> None:
        """Close it and open it again."""
        self.store.close()
        self.open()

    @rule()
    def crash(self) -> None:
        """Go on with what lies on the disk at this moment."""
        other = Path(tempfile.mkdtemp(dir=self.folder))
        for name in ("people.db", "people.db-wal"):
            if (self.path.parent / name).exists():
                shutil.copy(self.path.parent / name, other / name)
        self.store.close()
        self.path = other / "people.db"
        self.open()

    @rule()
    def flush(self) -> None:
        """Make a layer."""
        self.store.pending.flush()

    @precondition(lambda self: self.store.pending._layers)
    @rule()
    def compact(self) -> None:
        """Make one layer of all."""
        self.store.pending._merge_into_one()

    @rule()
    def merge(self) -> None:
        """Move all into the table."""
        self.store.pending.merge()

    @invariant()
    def rows_agree(self) -> None:
        """All rows are found as they are, and the due ones are not."""
        for kind in IdentityType:
            expected = [self._view(kind.bit, key) for key in KEYS]
            assert self.store.get(self.run, kind, KEYS) == expected
            given = self.store.parameters(self.run)
            known = [
                row and VIEW_IF_KNOWN.of(row, given)
                for row in (self.rows.get((kind.bit, key)) for key in KEYS)
            ]
            assert self.store.look_up(self.run, kind, KEYS) == known

    @rule()
    def changes_agree(self) -> None:
        """The untold changes are those of the rows."""
        expected = sorted(
            (row.seq, bit, key, row.change, row.uid, row.told_uid)
            for (bit, key), row in self.rows.items()
            if row.seq > self.told
        )
        found = self.store.changes(self.told, 10**9, 1000)
        assert expected == [
            (one.seq, one.kind.bit, one.identity, one.change, one.uid, one.old_uid)
            for one in found
        ]
        assert all(isinstance(one.change, ChangeKind) for one in found)

    @rule(limit=st.integers(1, 5))
    def due_agree(self, limit: int) -> None:
        """A refresh selects what a look through the dict does."""
        given = self.store.parameters(self.run)
        expected = {
            key
            for key, row in self.rows.items()
            if row.checked < self.now
            and (row.status is not None or row.refresh_from is not None)
            and VIEW_IF_KNOWN.of(row, given) is None
            and (row.status or row.refresh_from <= self.now)
        }
        assert set(self._select(limit)) == expected

    def _select(self, limit: int) -> Iterator[tuple[int, bytes]]:
        """Go through the pages."""
        place = START
        while place is not None:
            page, place = select_page(
                self.store, self.run, Selection.refresh(), place, limit
            )
            yield from ((key.kind.bit, key.identity) for key in page)


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=25, stateful_step_count=30)
