"""The state itself, on the thread that SQLite runs on; no asyncio here."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from hashlib import blake2b
from pathlib import Path
from typing import Any

import attrs

from uid2_async.bulk.state.location import (
    StateLock,
    check_place,
    create_private,
    read_mounts,
)
from uid2_async.bulk.state.pending import RECENT_ROWS, Pending
from uid2_async.bulk.state.reading import STORED, VIEW, VIEW_IF_KNOWN, Shape
from uid2_async.bulk.state.schema import connect, transaction
from uid2_async.bulk.state.settling import Batch, settle_batch
from uid2_async.bulk.state.stored import KEPT_SECONDS, REMOVED
from uid2_async.bulk.state.values import (
    FORGOTTEN,
    Change,
    ChangeKind,
    IdentityKey,
    Run,
    StateRow,
)
from uid2_async.errors import InputError, JobError
from uid2_async.models import IdentityScope, IdentityType, MapRow

__all__ = ["KINDS", "Cadence", "Store"]

KINDS = tuple(sorted(IdentityType, key=lambda kind: kind.bit))
"""The identity types by their bit."""


@attrs.frozen(kw_only=True)
class Cadence:
    """How long a check counts, in seconds: mapped, opted out, invalid."""

    recheck: int
    optout_recheck: int
    invalid_recheck: int

    @classmethod
    def of(
        cls, recheck: timedelta, optout_recheck: timedelta, invalid_recheck: timedelta
    ) -> Cadence:
        """Take durations."""
        return cls(
            recheck=int(recheck.total_seconds()),
            optout_recheck=int(optout_recheck.total_seconds()),
            invalid_recheck=int(invalid_recheck.total_seconds()),
        )


class Store:
    """One open state: looked into and written to by one thread.

    Attributes:
        connection: To the file.
        pending: What was recorded and is not merged yet.
        told_seq: The number of the last change that a delta has told.
    """

    def __init__(
        self, path: Path, cadence: Cadence, *, recent_rows: int = RECENT_ROWS
    ) -> None:
        """Open the state at *path*, or make a new one.

        Raises:
            JobError: If it cannot be used.
        """
        self.path: Path = path
        check_place(path, read_mounts())
        self._lock = StateLock(path)
        try:
            create_private(path)
            self.connection: sqlite3.Connection = connect(path)
        except BaseException:
            self._lock.release()
            raise
        try:
            self.pending: Pending = Pending(self.connection, recent_rows)
            self._load(cadence)
        except BaseException:
            self.close()
            raise

    def _load(self, cadence: Cadence) -> None:
        """Read what is kept in memory."""
        self._parameters = attrs.asdict(cadence)
        self.told_seq: int = self.meta("told_seq")
        self._salt: bytes = self.meta("salt")
        (listed,) = self.connection.execute(
            "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'change'"
        ).fetchone()
        self.next_seq: int = listed + 1
        digests = self.connection.execute("SELECT digest FROM forgotten")
        self._forgotten: set[bytes] = {digest for (digest,) in digests}

    def close(self) -> None:
        """Write everything into the one file, and let go of it."""
        try:
            self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            self.connection.close()
            self._lock.release()

    def meta(self, name: str) -> Any:
        """Read a value that the state keeps about itself, or None."""
        found = self.connection.execute(
            "SELECT value FROM meta WHERE name = ?", (name,)
        ).fetchone()
        return None if found is None else found[0]

    def set_meta(self, name: str, value: Any) -> None:
        """Keep a value."""
        self.connection.execute(
            "INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value)
        )

    def parameters(self, run: Run) -> dict[str, int]:
        """Give what the SQL of a look-up refers to."""
        return {**self._parameters, "started": run.started, "told": self.told_seq}

    # --- runs -------------------------------------------------------------------------

    def begin(
        self,
        scope: IdentityScope | None,
        operator: str | None,
        started: int,
        job: str | None,
    ) -> Run:
        """Begin a run, or go on with the unfinished one of the same *job*."""
        self.pending.merge()
        with transaction(self.connection):
            for name, value in (("scope", scope), ("operator", operator)):
                if value is not None:
                    self._bind(name, str(value))
            for run in self.runs():
                if job is not None and run.job == job and not run.ended:
                    return run
            number = self.connection.execute(
                "INSERT INTO run (job, started, after) VALUES (?, ?, ?)",
                (job, started, self.last_seq()),
            ).lastrowid
        return Run(number=number or 0, started=started, job=job, after=self.last_seq())

    def _bind(self, name: str, value: str) -> None:
        """Keep to whom the state belongs, once and for all."""
        bound = self.meta(name)
        if bound is None:
            self.set_meta(name, value)
        elif bound != value:
            raise JobError(
                f"The state belongs to another {name}: {bound}, not {value}.",
                hint="Use one state for each operator and scope.",
            )

    def runs(self) -> list[Run]:
        """List all runs, the first one first."""
        found = self.connection.execute(
            "SELECT number, started, job, after, ended FROM run ORDER BY number"
        )
        return [
            Run(number=number, started=started, job=job, after=after, ended=bool(ended))
            for number, started, job, after, ended in found
        ]

    def finish(self, run: Run, told_until: int | None) -> None:
        """Merge what is pending, end *run*, and drop what is kept no longer."""
        if told_until is not None and not 0 <= told_until <= self.last_seq():
            raise InputError("There is no change with the number told_until.")
        self.pending.merge()
        told = max(self.told_seq, told_until or 0)
        with transaction(self.connection):
            self._drop_told(told)
            self._drop_old(run.started - KEPT_SECONDS, told)
            self.connection.execute("DELETE FROM present WHERE run = ?", (run.number,))
            self.connection.execute(
                "UPDATE run SET ended = 1 WHERE number = ?", (run.number,)
            )
            self.set_meta("told_seq", told)
        self.told_seq = told
        # What was deleted lies in the WAL, too; and reading through a long one is slow.
        self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _drop_told(self, told: int) -> None:
        """Drop what was kept for the deltas up to *told*: who is gone, and old UIDs."""
        self.connection.execute(
            "DELETE FROM mapping WHERE status = ? AND (identity, kind) IN ("
            " SELECT identity, kind FROM change WHERE change = ?"
            " AND seq > ? AND seq <= ?)",
            (REMOVED, ChangeKind.REMOVED.value, self.told_seq, told),
        )
        self.connection.execute(
            "DELETE FROM change WHERE purged AND seq > ? AND seq <= ?",
            (self.told_seq, told),
        )
        self.connection.execute(
            "UPDATE mapping SET told_uid = NULL"
            " WHERE seq <= ? AND (identity, kind) IN ("
            " SELECT identity, kind FROM change WHERE old_uid IS NOT NULL"
            " AND seq > ? AND seq <= ?)",
            (told, self.told_seq, told),
        )

    def _drop_old(self, before: int, told: int) -> None:
        """Drop the UIDs that do not hold since *before*, and changes told before it."""
        self.connection.execute(
            "UPDATE mapping SET prev = NULL, since = NULL WHERE since <= ?", (before,)
        )
        self.connection.execute(
            "DELETE FROM change WHERE seq <= min(?, ("
            " SELECT coalesce(min(after), 0) FROM run WHERE started > ?))",
            (told, before),
        )

    def vacuum(self) -> None:
        """Give unused room back."""
        self.pending.merge()
        self.connection.execute("VACUUM")
        self.empty_wal()

    def empty_wal(self) -> None:
        """Make sure that what was deleted does not lie in the WAL any more.

        Raises:
            JobError: If that cannot be done now.
        """
        (busy, *_) = self.connection.execute(
            "PRAGMA wal_checkpoint(TRUNCATE)"
        ).fetchone()
        if busy:
            raise JobError(
                "Another program reads the state: what was deleted is still in the "
                "log.",
                hint="Close that program and do the same again.",
            )

    # --- rows -------------------------------------------------------------------------

    def look_up(
        self, run: Run, kind: IdentityType, identities: Sequence[bytes]
    ) -> list[StateRow | None]:
        """Say what is known; None is what must be asked."""
        return self._view(run, kind, identities, VIEW_IF_KNOWN)

    def get(
        self, run: Run, kind: IdentityType, identities: Sequence[bytes]
    ) -> list[StateRow | None]:
        """Say what is known, however old."""
        return self._view(run, kind, identities, VIEW)

    def _view(
        self, run: Run, kind: IdentityType, identities: Sequence[bytes], shape: Shape
    ) -> list[StateRow | None]:
        """Read views, and answer for the forgotten."""
        rows: list[StateRow | None] = self.pending.read(
            kind.bit, identities, shape, self.parameters(run)
        )
        for at in self._find_forgotten(kind.bit, identities):
            rows[at] = FORGOTTEN
        return rows

    def record(
        self,
        run: Run,
        kinds: Sequence[IdentityType],
        identities: Sequence[bytes],
        answers: Sequence[MapRow],
    ) -> list[StateRow]:
        """Store *answers* and the changes they make, in one transaction."""
        views: list[StateRow] = [FORGOTTEN] * len(identities)
        batches: list[Batch] = []
        next_seq = self.next_seq
        for kind, places in self._split(kinds, identities):
            # What comes twice is stored once, as the last answer has it.
            each = {identities[at]: answers[at] for at in places}
            batch = settle_batch(
                kind.bit,
                self.pending.read(kind.bit, list(each), STORED, {}),
                each,
                now=run.started,
                told_seq=self.told_seq,
                next_seq=next_seq,
            )
            next_seq = batch.next_seq
            batches.append(batch)
            rows = dict(batch.each_view())
            for at in places:
                row = rows[identities[at]]
                if row is not None:
                    views[at] = row
        self.pending.write(run.number, batches)
        self.next_seq = next_seq
        self.pending.tidy()
        return views

    def _split(
        self, kinds: Sequence[IdentityType], identities: Sequence[bytes]
    ) -> Iterator[tuple[IdentityType, Sequence[int]]]:
        """List the places of each type, but for those who were purged for good."""
        for kind in KINDS:
            places = [at for at, one in enumerate(kinds) if one is kind]
            places = self._drop_forgotten(kind.bit, identities, places)
            if places:
                yield kind, places

    def _drop_forgotten(
        self, bit: int, identities: Sequence[bytes], places: list[int]
    ) -> list[int]:
        """Leave out the places of those who were purged for good."""
        if not self._forgotten:
            return places
        gone = set(self._find_forgotten(bit, [identities[at] for at in places]))
        return [place for at, place in enumerate(places) if at not in gone]

    @property
    def forgotten(self) -> int:
        """How many were purged for good."""
        return len(self._forgotten)

    def forget(self, keys: Iterable[IdentityKey]) -> None:
        """Keep digests of *keys*, so that they are never stored again.

        Whoever has the file and a list of addresses can try each of them, as with any
        digest; the salt only keeps those of two states apart.
        """
        digests = {self._digest(key.kind.bit, key.identity) for key in keys}
        self.connection.executemany(
            "INSERT OR IGNORE INTO forgotten VALUES (?)",
            ((digest,) for digest in digests),
        )
        self._forgotten |= digests

    def _find_forgotten(self, bit: int, identities: Sequence[bytes]) -> list[int]:
        """List the places of those who were purged for good."""
        if not self._forgotten:
            return []
        return [
            at
            for at, identity in enumerate(identities)
            if self._digest(bit, identity) in self._forgotten
        ]

    def _digest(self, bit: int, identity: bytes) -> bytes:
        """Make what is kept of a person who was purged for good."""
        return blake2b(bytes([bit]) + identity, key=self._salt, digest_size=32).digest()

    # --- changes ----------------------------------------------------------------------

    def changes(self, after: int, until: int, limit: int) -> list[Change]:
        """List changes by number."""
        self.pending.flush()
        found = self.connection.execute(
            "SELECT seq, run, kind, identity, change, uid, old_uid FROM change"
            " WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?",
            (after, until, limit),
        )
        return [
            Change(
                seq=seq,
                run=run,
                kind=KINDS[bit],
                identity=identity,
                change=ChangeKind(change),
                uid=uid,
                old_uid=old_uid,
            )
            for seq, run, bit, identity, change, uid, old_uid in found
        ]

    def last_seq(self) -> int:
        """Number the last change that was ever found."""
        return self.next_seq - 1
