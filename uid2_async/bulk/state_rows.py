"""The rows of a state and their changes: all queries, in the SQLite thread.

A delta is the difference between what the last delta said about an identity and what
its row says now. Only the former is stored with the row (``exported`` and
``exported_uid``), so changes that cancel out leave nothing to export.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, Final, TypeAlias, TypeVar
from zlib import crc32

import attrs
import msgspec

from uid2_async.bulk.outcomes import MapFailure
from uid2_async.bulk.state_db import (
    CHANGE,
    CHECKSUM_CHARS,
    EXPORTED_UID,
    SHARDS,
    StateDatabase,
    by_size,
    damaged,
    shard_bounds,
    sort_distinct,
    split,
)
from uid2_async.bulk.state_values import (
    AGE_DAYS,
    DUE_DAYS,
    KINDS,
    OPT_OUT_DAYS,
    RETENTION_SECONDS,
    SUPPRESSED,
    Change,
    ChangeKind,
    IdentityKey,
    Run,
    StateRow,
    StateSelection,
    StateStatistics,
)
from uid2_async.errors import InputError, JobError
from uid2_async.models import IdentityScope, IdentityType, MapRow, UnmappedReason
from uid2_async.protocol import base64
from uid2_async.protocol.raw_uid import RAW_UID_SIZES, raw_uid_version

T = TypeVar("T")

Outcome: TypeAlias = MapRow | MapFailure
Recorded: TypeAlias = tuple[Run, IdentityType, Sequence[bytes], Sequence[Outcome]]
Position: TypeAlias = tuple[bytes, int]
"""The last identity of a page, and its kind."""

_START: Final[Position] = (b"", -1)
Pages: TypeAlias = "Callable[..., tuple[list[T], Position | None]]"
FIRST_PAGE: Final = (0, _START)
# Each call to the state's thread costs as much as a few hundred rows.
_SHARDS_AT_ONCE: Final = 16

OPTED_OUT: Final = UnmappedReason.OPTED_OUT.value
_PURGED: Final = "(purged)"
DELTA: Final = ""
"""The entry for the delta of a run among the names of its inputs."""

_STATEMENT_ROWS: Final = 5_000
"""This many rows decode in 2 ms, which limits the wait of the event loop."""

_ASKED: Final = """WITH RECURSIVE asked(i) AS (
    SELECT 0 UNION ALL SELECT i + 1 FROM asked WHERE i + 1 < :count)"""
_KEY: Final = "substr(:keys, i * :size + 1, :size)"
_IN_KEYS: Final = f"kind = :kind AND identity IN (SELECT {_KEY} FROM asked)"
_GROUPED: Final = "kind, length(identity), CAST(group_concat(identity, '') AS BLOB)"
_IN_SHARD: Final = "identity >= :low AND identity < :high"

# --- what is known and due ------------------------------------------------------------

_RECHECK: Final = """CASE reason
    WHEN 'optout' THEN :optout_recheck
    WHEN 'invalid identifier' THEN :invalid_recheck
    ELSE :recheck END"""
# Identities checked in this run are never asked about again in it.
_KNOWN: Final = f"""removed IS NULL AND (checked >= :started OR (
    checked > :started - {_RECHECK}
    AND (refresh_from IS NULL OR refresh_from > :started)))"""
TO_ASK: Final = f"checked IS NULL OR NOT ({_KNOWN})"
"""Selects whom to ask about among the people in the input, including unknown ones.

This and the other public rules here are plain SQL, which Spark evaluates as well.
"""
_STALE: Final = "removed IS NULL AND checked < :started AND "
_DUE: Final = f"""{_STALE} CASE WHEN uid IS NOT NULL
    THEN refresh_from <= :started ELSE checked <= :started - {_RECHECK} END"""
_UNCHECKED: Final = f"""{_STALE} (uid IS NOT NULL OR reason = 'optout')
    AND checked <= :started - :unchecked_for"""
_ROTATED: Final = f"""{_STALE} uid IS NOT NULL AND checked < (
    SELECT at FROM scratch.rotated WHERE name = bucket)"""
_SELECTIONS: Final = {"due": _DUE, "sweep": _UNCHECKED, "buckets": _ROTATED}


def load_rotated(db: StateDatabase, selection: StateSelection) -> None:
    """Put the rotated salt buckets into a table for joins."""
    db.spill("staged")
    db.connection.execute("DELETE FROM scratch.rotated")
    db.connection.executemany(
        "INSERT INTO scratch.rotated VALUES (?, ?)", selection.rotated.items()
    )


def select_some(
    db: StateDatabase, given: dict[str, Any], selection: StateSelection, shard: int
) -> tuple[int, int, list[tuple[IdentityType, list[bytes]]]]:
    """Select the identities to ask about from *shard* and the following shards.

    Returns:
        The next shard, the number of staged identities checked, and the selected ones
        by type, sorted.
    """
    looked_at, pages = 0, []
    for at in range(shard, min(shard + _SHARDS_AT_ONCE, SHARDS)):
        count, some = _select_shard(db, given, selection, at)
        shard, looked_at = at + 1, looked_at + count
        pages += some
        if looked_at >= _STATEMENT_ROWS or pages:
            break
    return shard, looked_at, pages


def _select_shard(
    db: StateDatabase, given: dict[str, Any], selection: StateSelection, shard: int
) -> tuple[int, list[tuple[IdentityType, list[bytes]]]]:
    """Select the identities of one shard; see :func:`select_some`."""
    staged = []
    if selection.source == "staged":
        staged = list(db.spill("staged").read(shard))
        groups = [(kind, _unknown(db, given, kind, keys)) for kind, _, keys in staged]
    else:
        bounds = {"unchecked_for": selection.unchecked_for, **shard_bounds(shard)}
        condition = _SELECTIONS[selection.source]
        groups = list(_grouped(db, "mapping_row", condition, {**given, **bounds}))
    merged: dict[int, list[bytes]] = {}
    for kind, keys in groups:
        merged.setdefault(kind, []).extend(_not_suppressed(db, kind, keys))
    pages = [(_kind(kind), sort_distinct(merged[kind], byte=1)) for kind in merged]
    return sum(len(keys) for _, _, keys in staged), [page for page in pages if page[1]]


def _grouped(
    db: StateDatabase, table: str, condition: str, given: dict[str, Any]
) -> Iterator[tuple[int, list[bytes]]]:
    """Read the identities of a shard that meet *condition*."""
    rows = db.connection.execute(
        f"SELECT {_GROUPED} FROM {table} WHERE {_IN_SHARD} AND ({condition})"
        " GROUP BY 1, 2",
        given,
    )
    for kind, size, keys in rows.fetchall():
        yield kind, split(keys, size)


def _unknown(
    db: StateDatabase, given: dict[str, Any], kind: int, identities: list[bytes]
) -> list[bytes]:
    """Return those of the sorted *identities* that are unknown or due."""
    statement = (
        f"{_ASKED} SELECT CAST(group_concat({_KEY}, '') AS BLOB)"
        f" FROM asked LEFT JOIN mapping_row AS m"
        f" ON m.identity = {_KEY} AND m.kind = :kind"
        f" WHERE {TO_ASK}"
    )
    unknown: list[bytes] = []
    for keys in _keys(kind, identities):
        (found,) = db.connection.execute(statement, {**given, **keys}).fetchone()
        unknown += split(found or b"", keys["size"])
    return unknown


def _keys(kind: int, identities: Sequence[bytes]) -> Iterator[dict[str, Any]]:
    """Make the parameters with which a statement finds *identities*, in groups."""
    for size, same in by_size(identities).items() if identities else ():
        for start in range(0, len(same), _STATEMENT_ROWS):
            some = same[start : start + _STATEMENT_ROWS]
            keys = b"".join(some)
            yield {"keys": keys, "size": size, "count": len(some), "kind": kind}


def _kind(bit: object) -> IdentityType:
    """Return the identity type that the state stores as *bit*."""
    kind = _KIND_OF_BIT.get(bit)
    if kind is None:
        raise damaged()
    return kind


_KIND_OF_BIT: Final[dict[object, IdentityType]] = {kind.bit: kind for kind in KINDS}


def _not_suppressed(
    db: StateDatabase, kind: int, identities: Sequence[bytes]
) -> Sequence[bytes]:
    """Leave out suppressed people."""
    if not db.suppressed:
        return identities
    return [one for one in identities if not db.is_suppressed(kind, one)]


# --- rows -----------------------------------------------------------------------------


def _plain(column: str) -> str:
    """Return the SQL that reads a UID without its checksum."""
    return f"substr({column}, 1, length({column}) - {CHECKSUM_CHARS})"


_CHANGE_NOW: Final = CHANGE.format(said=f"({EXPORTED_UID})")
# What was exported is stored only if it differs from the row.
_PENDING: Final = "(exported_uid IS NOT NULL OR exported >= :epoch)"
_OLD_UID: Final = "nullif(exported_uid, '')"
_PREVIOUS_UID: Final = f"""CASE WHEN uid IS NOT NULL
    AND previous_since > :started - {RETENTION_SECONDS} THEN previous_uid END"""
# The last time that datetime can represent.
_LAST_SECOND: Final = 253_402_300_799
_Texts: TypeAlias = list[str | None]
_Seconds: TypeAlias = list[Annotated[int, msgspec.Meta(ge=0, le=_LAST_SECOND)] | None]
# One array per column costs half as much as one array per row.
_ROW_COLUMNS: Final = ", ".join(
    f"json_group_array({column})"
    for column in (
        "CASE WHEN removed IS NULL THEN checked END",
        "uid",
        _PREVIOUS_UID,
        _OLD_UID,
        "refresh_from",
        "reason",
        "bucket",
        _CHANGE_NOW,
    )
)
_ROWS: Final = msgspec.json.Decoder(
    tuple[list[int | None], _Texts, _Texts, _Texts, _Seconds, _Texts, _Texts, _Texts]
)
_FAILURES: Final = msgspec.json.Decoder(list[tuple[int, str, int | None]])


def look_up(
    db: StateDatabase, now: int, kind: IdentityType, identities: Sequence[bytes]
) -> list[StateRow | MapFailure | None]:
    """Return what is known about *identities*, regardless of age.

    Sorted in tens of thousands, they cost half as much as in small groups, since
    neighbors share pages.
    """
    given = {"started": now, "epoch": db.epoch}
    statement = (
        f"{_ASKED} SELECT json_array({_ROW_COLUMNS}) FROM asked LEFT JOIN mapping_row"
        f" AS m ON m.identity = {_KEY} AND m.kind = :kind"
    )
    rows: dict[bytes, StateRow | MapFailure | None] = {}
    for keys in _keys(kind.bit, sort_distinct(identities)):
        (answer,) = db.connection.execute(statement, {**given, **keys}).fetchone()
        some = split(keys["keys"], keys["size"])
        rows.update(zip(some, _read_rows(some, answer), strict=True))
        if db.failures:
            rows.update(_failures(db, some, keys))
    if db.suppressed:
        for identity in rows:
            if db.is_suppressed(kind.bit, identity):
                rows[identity] = SUPPRESSED
    return [rows[identity] for identity in identities]


def _read_rows(identities: Sequence[bytes], answer: str) -> list[StateRow | None]:
    """Make rows from columns, with None for unknown *identities*.

    This runs for every row of a file, so it works by column.
    """
    checked, uids, previous, old, refresh, reasons, buckets, changes = _ROWS.decode(
        answer
    )
    uids, previous, old = [_verified(identities, one) for one in (uids, previous, old)]
    columns = (uids, previous, refresh, reasons, buckets, checked, changes, old)
    rows: list[StateRow | None] = list(map(StateRow, *columns))
    if None in checked:
        return [
            None if at is None else row for at, row in zip(checked, rows, strict=True)
        ]
    return rows


def _verified(
    identities: Sequence[bytes], column: list[str | None]
) -> list[str | None]:
    """Check and remove the checksums of the UIDs of *identities*."""
    if column.count(None) == len(column):
        return column
    plain = [one if one is None else one[:-CHECKSUM_CHARS] for one in column]
    expected = [
        uid if uid is None else f"{uid}{crc32(uid.encode(), crc32(identity)):08x}"
        for identity, uid in zip(identities, plain, strict=True)
    ]
    if expected != column:
        raise damaged()
    return plain


def _with_checksum(identity: bytes, uid: str) -> str:
    """Return a UID with its checksum, as the state stores it."""
    return f"{uid}{crc32(uid.encode(), crc32(identity)):08x}"


def _failures(
    db: StateDatabase, identities: list[bytes], keys: dict[str, Any]
) -> dict[bytes, MapFailure]:
    """Find the identities that this run failed to ask about."""
    (answer,) = db.connection.execute(
        f"{_ASKED} SELECT json_group_array(json_array(i, error, status)) FROM asked"
        f" JOIN scratch.failure AS f ON f.identity = {_KEY} AND f.kind = :kind",
        keys,
    ).fetchone()
    return {
        identities[i]: MapFailure(error=error, status=status)
        for i, error, status in _FAILURES.decode(answer)
    }


# --- recording ------------------------------------------------------------------------

# The operator's previous UID takes precedence: the operator knows rotations that the
# state missed.
PREVIOUS_UID: Final = f"""CASE
    WHEN excluded.previous_uid IS NOT NULL THEN excluded.previous_uid
    WHEN m.uid <> coalesce(excluded.uid, '') THEN m.uid
    WHEN m.previous_since > :started - {RETENTION_SECONDS}
        AND m.previous_uid <> coalesce(excluded.uid, '') THEN m.previous_uid END"""
"""The previous UID after the answer ``excluded`` about the row ``m``."""
PREVIOUS_SINCE: Final = f"""CASE WHEN {PREVIOUS_UID} IS NULL THEN NULL
    WHEN {PREVIOUS_UID} = m.previous_uid THEN m.previous_since ELSE :started END"""
"""The time when it was replaced."""
_UPSERT: Final = f"""INSERT INTO mapping_row AS m (identity, kind, uid, previous_uid,
    previous_since, refresh_from, reason, bucket, checked, exported)
SELECT substr(:keys, key * :size + 1, :size), :kind, {{uid}}, {{previous}},
    CASE WHEN {{previous}} IS NOT NULL THEN :started END, {{refresh_from}}, {{reason}},
    {{bucket}}, :started, CASE WHEN {{uid}} IS NOT NULL THEN :epoch END
FROM json_each(:answers) WHERE true
ON CONFLICT (identity, kind) DO UPDATE SET
    uid = excluded.uid, refresh_from = excluded.refresh_from,
    reason = excluded.reason, bucket = excluded.bucket, checked = excluded.checked,
    previous_uid = {PREVIOUS_UID}, previous_since = {PREVIOUS_SINCE},
    removed = NULL,
    exported = CASE WHEN m.exported < :epoch THEN m.exported ELSE excluded.exported END,
    exported_uid = CASE WHEN m.exported < :epoch THEN nullif(
        coalesce(m.exported_uid, m.uid, ''), coalesce(excluded.uid, '')) END"""
_DIGITS: Final = 12
# Most answers are a UID and a time. Reading them from an array of strings and a blob
# takes a third of the time of an array of arrays.
_RECORD_UIDS: Final = _UPSERT.format(
    uid="value",
    previous="NULL",
    refresh_from=f"CAST(CAST(substr(:instants, key * {_DIGITS} + 1, {_DIGITS})"
    " AS TEXT) AS INTEGER)",
    reason="NULL",
    bucket="NULL",
)
_RECORD_ROWS: Final = _UPSERT.format(
    uid="json_extract(value, '$[0]')",
    previous="json_extract(value, '$[1]')",
    refresh_from="json_extract(value, '$[2]')",
    reason="json_extract(value, '$[3]')",
    bucket="json_extract(value, '$[4]')",
)


def record(db: StateDatabase, recorded: Sequence[Recorded]) -> None:
    """Apply the operator's answers, all of *recorded* in one transaction."""
    failures: list[tuple[bytes, int, str, int | None]] = []
    with db.transaction():
        for run, kind, identities, outcomes in recorded:
            rows: dict[bytes, MapRow] = {}
            for identity, outcome in zip(identities, outcomes, strict=True):
                if isinstance(outcome, MapFailure):
                    status = outcome.status
                    failures.append((identity, kind.bit, outcome.error, status))
                elif not db.suppressed or not db.is_suppressed(kind.bit, identity):
                    rows[identity] = outcome
            _record_rows(db, run, kind.bit, rows)
    if failures:
        db.spill("staged")
        db.failures += len(failures)
        db.connection.executemany(
            "INSERT OR REPLACE INTO scratch.failure VALUES (?, ?, ?, ?)", failures
        )


def _record_rows(
    db: StateDatabase, run: Run, kind: int, rows: dict[bytes, MapRow]
) -> None:
    """Apply answers of one type."""
    plain: list[bytes] = []
    other: list[bytes] = []
    for identity, row in rows.items():
        is_plain = row.raw_uid and row.reason is None and row.refresh_from_s is not None
        is_plain = is_plain and not (row.previous_raw_uid or row.bucket_id)
        (plain if is_plain else other).append(identity)
    given = {"started": run.started, "epoch": db.epoch}
    for keys in _keys(kind, plain):
        some = split(keys["keys"], keys["size"])
        answers = [rows[identity] for identity in some]
        uids = [
            _with_checksum(identity, row.raw_uid or "")
            for identity, row in zip(some, answers, strict=True)
        ]
        instants = "".join([f"{row.refresh_from_s:0{_DIGITS}d}" for row in answers])
        keys |= {"answers": _json(uids), "instants": instants.encode()}
        db.connection.execute(_RECORD_UIDS, {**given, **keys})
    for keys in _keys(kind, other):
        some = split(keys["keys"], keys["size"])
        keys["answers"] = _json([_columns(one, rows[one]) for one in some])
        db.connection.execute(_RECORD_ROWS, {**given, **keys})


def _columns(identity: bytes, row: MapRow) -> list[str | int | None]:
    """Return the columns for *row*."""
    if not row.raw_uid or row.reason is not None:
        reason = row.reason or UnmappedReason.UNKNOWN.value
        return [None, None, None, reason, row.bucket_id]
    previous = row.previous_raw_uid and _with_checksum(identity, row.previous_raw_uid)
    uid = _with_checksum(identity, row.raw_uid)
    return [uid, previous or None, row.refresh_from_s, None, row.bucket_id]


def _json(value: object) -> str:
    """Encode an array for SQLite."""
    return msgspec.json.encode(value).decode()


# --- runs -----------------------------------------------------------------------------


def begin(
    db: StateDatabase,
    *,
    job: str | None,
    scope: IdentityScope | None,
    operator: str | None,
    segment: str | None,
    started: int,
) -> Run:
    """Start a run, or resume the unfinished one of the same *job*."""
    db.drop_scratch()
    with db.transaction():
        for name, value in (("scope", scope), ("operator", operator)):
            if value is not None:
                _bind(db, name, str(value))
        unfinished = [run for run in list_runs(db) if run.job == job and not run.ended]
        if job is not None and unfinished:
            return unfinished[-1]
        db.connection.execute(
            "INSERT INTO run (job, segment, started, epoch) VALUES (?, ?, ?, ?)",
            (job, segment, started, db.epoch),
        )
        return list_runs(db)[-1]


def _bind(db: StateDatabase, name: str, value: str) -> None:
    """Bind the state to its scope or operator permanently."""
    bound = db.meta(name)
    if bound is None:
        db.set_meta(name, value)
    elif bound != value:
        raise JobError(
            f"The state belongs to another {name}: {bound}, not {value}.",
            hint="Use one state for each operator and scope.",
        )


def list_runs(db: StateDatabase) -> list[Run]:
    """List all runs, oldest first."""
    columns = ", ".join(field.name for field in attrs.fields(Run))
    rows = db.connection.execute(f"SELECT {columns} FROM run ORDER BY number")
    names = columns.split(", ")
    return [Run(**dict(zip(names, row, strict=True))) for row in rows.fetchall()]


def note_file_done(db: StateDatabase, run: Run, name: str, detail: str) -> None:
    """Record that the output of an input of *run* has its final name."""
    db.connection.execute(
        "INSERT OR REPLACE INTO file_done VALUES (?, ?, ?)", (run.number, name, detail)
    )


def has_unfinished_delta(db: StateDatabase, target: str) -> bool:
    """Return whether an interrupted run was writing its delta to *target*."""
    rows = db.connection.execute(
        "SELECT 1 FROM file_done WHERE name = ? AND detail = ?", (DELTA, target)
    )
    return rows.fetchone() is not None


def files_done(db: StateDatabase, run: Run) -> dict[str, str]:
    """Return the details of the inputs of *run* whose outputs are done."""
    rows = db.connection.execute(
        "SELECT name, detail FROM file_done WHERE run = ?", (run.number,)
    )
    return dict(rows.fetchall())


def summary_of(db: StateDatabase, job: str) -> str | None:
    """Return the summary of the finished run of *job*, if there is one."""
    row = db.connection.execute(
        "SELECT summary FROM run WHERE job = ? AND ended", (job,)
    ).fetchone()
    return None if row is None else row[0]


def finish(
    db: StateDatabase, run: Run, *, exported: bool, summary: str | None = None
) -> None:
    """End *run* in one transaction; *exported* means that its delta is durable."""
    given = {
        "run": run.number,
        "summary": summary,
        "epoch": db.epoch,
        "before": run.started - RETENTION_SECONDS,
    }
    statements = f"{_EXPORT};{_END}" if exported else _END
    with db.transaction():
        for statement in statements.split(";"):
            db.connection.execute(statement, given)
    db.epoch += exported
    db.drop_scratch()
    # Deleted data is also in the write-ahead log, and a long log is slow to read.
    db.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    if exported and db.meta("purged"):
        db.rewrite()
        db.set_meta("purged", 0)


# The next epoch number is enough to mark additions as exported, and the history derives
# them.
_EXPORT: Final = f"""
    INSERT INTO history_row SELECT identity, kind, :epoch, {_CHANGE_NOW}, exported_uid,
        exported FROM mapping_row
        WHERE exported_uid IS NOT NULL AND reason IS NOT '{_PURGED}';
    DELETE FROM mapping_row WHERE removed IS NOT NULL;
    UPDATE mapping_row SET exported_uid = NULL, exported = CASE
        WHEN uid IS NOT NULL OR reason = '{OPTED_OUT}' THEN exported END
        WHERE exported_uid IS NOT NULL;
    UPDATE run SET exported = :epoch WHERE number = :run;
    DELETE FROM file_done WHERE name = '{DELTA}';
    UPDATE meta SET value = :epoch + 1 WHERE name = 'epoch'"""
_END: Final = """
    UPDATE mapping_row SET previous_uid = NULL, previous_since = NULL
        WHERE previous_since <= :before;
    DELETE FROM history_row WHERE epoch < (
        SELECT min(epoch) FROM run WHERE started > :before);
    DELETE FROM file_done WHERE run = :run;
    UPDATE run SET ended = 1, summary = :summary WHERE number = :run"""

# --- changes --------------------------------------------------------------------------

_CHANGE_COLUMNS: Final = """json_array(json_group_array(hex(identity)),
    json_group_array(kind), json_group_array(change), json_group_array(uid),
    json_group_array(old_uid))"""
_CHANGES: Final = msgspec.json.Decoder(
    tuple[list[str], list[int], list[ChangeKind], _Texts, _Texts]
)
_AFTER: Final = f"{_IN_SHARD} AND (identity, kind) > (:identity, :last_kind)"
_PENDING_PAGE: Final = f"""SELECT {_CHANGE_COLUMNS} FROM (
    SELECT identity, kind, {_CHANGE_NOW} AS change, uid, {_OLD_UID} AS old_uid
    FROM mapping_row WHERE {_AFTER} AND {_PENDING}
    ORDER BY identity, kind LIMIT :limit)"""
# What was exported before an epoch: the earliest later change shows it, unless the
# identity was added even later.
_HISTORY_PAGE: Final = f"""SELECT {_CHANGE_COLUMNS} FROM (
    SELECT identity, kind, {CHANGE.format(said="said")} AS change, uid,
        nullif(said, '') AS old_uid FROM (
        SELECT k.identity, k.kind, m.uid, m.reason,
            CASE WHEN h.added < :since THEN h.old_uid
                WHEN h.added IS NULL AND m.exported < :since
                THEN coalesce(m.exported_uid, m.uid, '') END AS said
        FROM (SELECT identity, kind FROM history_row WHERE {_AFTER} AND epoch >= :since
            UNION SELECT identity, kind FROM mapping_row WHERE {_AFTER}
            AND (exported >= :since OR exported_uid IS NOT NULL)) AS k
        LEFT JOIN mapping_row AS m USING (identity, kind)
        LEFT JOIN history_row AS h ON h.identity = k.identity AND h.kind = k.kind
            AND h.epoch = (SELECT min(epoch) FROM history_row AS e
                WHERE e.identity = k.identity AND e.kind = k.kind
                AND e.epoch >= :since))
    WHERE change IS NOT NULL ORDER BY identity, kind LIMIT :limit)"""


def next_page(
    db: StateDatabase,
    read: Pages[T],
    given: int | None,
    position: tuple[int, Position],
    limit: int,
) -> tuple[list[T], tuple[int, Position] | None]:
    """Read at most *limit* rows after a position; return also the next position."""
    page: list[T] = []
    shard, after = position
    for _ in range(_SHARDS_AT_ONCE):
        some, following = read(db, given, shard, after, limit - len(page))
        page += some
        if following is not None:
            return page, (shard, following)
        shard, after = shard + 1, _START
        if shard == SHARDS:
            return page, None
    return page, (shard, after)


def _page(shard: int, after: Position, limit: int) -> dict[str, Any]:
    """Return the parameters of a page."""
    place = {"identity": after[0], "last_kind": after[1], "limit": limit}
    return {**shard_bounds(shard), **place}


def _drop_named(db: StateDatabase, shard: int, page: list[Change]) -> list[Change]:
    """Leave out changes that the job has already written."""
    if not db.has_scratch or not db.spill("named").count:
        return page
    named = _read_set(db, "named", shard)
    return [one for one in page if (one.kind.bit, one.identity) not in named]


def _read_set(db: StateDatabase, table: str, shard: int) -> set[tuple[int, bytes]]:
    """Read a shard of a spill as a set."""
    groups = db.spill(table).read(shard)
    return {(kind, key) for kind, _, keys in groups for key in keys}


def changes_page(
    db: StateDatabase, since: int | None, shard: int, after: Position, limit: int
) -> tuple[list[Change], Position | None]:
    """List changes of a shard after a position; return also the next position.

    These are the pending changes that the job has not written yet, or the net changes
    compared to what was exported before the epoch *since*.
    """
    statement = _PENDING_PAGE if since is None else _HISTORY_PAGE
    given = {"epoch": db.epoch, "since": since, **_page(shard, after, limit)}
    (answer,) = db.connection.execute(statement, given).fetchone()
    names, bits, kinds, uids, old_uids = _CHANGES.decode(answer)
    keys = [bytes.fromhex(name) for name in names]
    uids, old_uids = _verified(keys, uids), _verified(keys, old_uids)
    changes = list(map(Change, map(_kind, bits), keys, kinds, uids, old_uids))
    following = (keys[-1], bits[-1]) if len(keys) == limit else None
    return changes if since is not None else _drop_named(db, shard, changes), following


_KEYS: Final = msgspec.json.Decoder(list[tuple[str, int]])


def export_page(
    db: StateDatabase, now: int, shard: int, after: Position, limit: int
) -> tuple[list[tuple[IdentityKey, StateRow]], Position | None]:
    """List identities of a shard and their rows; return also the next position."""
    given = {"started": now, "epoch": db.epoch, **_page(shard, after, limit)}
    names, answer = db.connection.execute(
        "SELECT json_group_array(json_array(hex(identity), kind)),"
        f" json_array({_ROW_COLUMNS}) FROM ("
        f" SELECT * FROM mapping_row WHERE {_AFTER} AND removed IS NULL"
        " ORDER BY identity, kind LIMIT :limit)",
        given,
    ).fetchone()
    keys = [
        IdentityKey(_kind(bit), bytes.fromhex(name))
        for name, bit in _KEYS.decode(names)
    ]
    rows = _read_rows([key.identity for key in keys], answer)
    page = [(key, row) for key, row in zip(keys, rows, strict=True) if row]
    last = keys[-1] if len(keys) == limit else None
    return page, last and (last.identity, last.kind.bit)


# --- removal --------------------------------------------------------------------------

_OTHER_MEMBER: Final = """EXISTS (SELECT 1 FROM segment AS s CROSS JOIN member AS o
    ON o.segment = s.number AND o.identity = mapping_row.identity
    AND o.kind = mapping_row.kind)"""
_FORGET: Final = f"""DELETE FROM mapping_row WHERE {_IN_KEYS} AND {{condition}}
    AND NOT coalesce(({EXPORTED_UID}) <> '', 0)"""
_MARK: Final = f"""UPDATE mapping_row SET removed = coalesce(removed, :started),
    exported_uid = coalesce(exported_uid, uid), uid = NULL, previous_uid = NULL,
    previous_since = NULL, refresh_from = NULL, bucket = NULL, reason = {{reason}}
    WHERE {_IN_KEYS} AND {{condition}}"""


def _remove(
    db: StateDatabase,
    given: dict[str, Any],
    keys: dict[str, Any],
    condition: str,
    reason: str | None = None,
) -> int:
    """Remove identities; keep those whose removal a delta must report."""
    removed = 0
    for template in (_FORGET, _MARK):
        statement = template.format(
            condition=condition, reason=f"'{reason}'" if reason else "NULL"
        )
        db.connection.execute(f"{_ASKED} {statement}", {**given, **keys})
        removed += db.connection.execute("SELECT changes()").fetchone()[0]
    return removed


def remove_absent(db: StateDatabase, run: Run, segment: str, max_removed: float) -> int:
    """Remove people of *segment* who are neither staged nor in another segment.

    All steps can be repeated: nothing that they need is deleted before they are done.
    """
    if not db.has_scratch or not db.spill("staged").count:
        raise JobError(
            "The input contains no valid identity, so the whole audience would be "
            "removed.",
            hint="Check the input and its columns. To remove people, use "
            "uid2 state purge.",
        )
    number = _segment_number(db, segment)
    _find_absent(db, number, max_removed)
    if db.spill("absent").count:
        with db.transaction():
            gone = [_remove_shard(db, run, number, shard) for shard in range(SHARDS)]
            db.connection.execute(
                "UPDATE run SET removed = removed + ? WHERE number = ?",
                (sum(gone), run.number),
            )
    for shard in range(SHARDS):
        _add_members(db, number, shard)
    (removed,) = db.connection.execute(
        "SELECT removed FROM run WHERE number = ?", (run.number,)
    ).fetchone()
    return int(removed)


def _segment_number(db: StateDatabase, name: str) -> int:
    """Return the number of a segment, assigning one to a new name."""
    with db.transaction():
        db.connection.execute(
            "INSERT OR IGNORE INTO segment (name) VALUES (?)", (name,)
        )
    (number,) = db.connection.execute(
        "SELECT number FROM segment WHERE name = ?", (name,)
    ).fetchone()
    return int(number)


def _find_absent(db: StateDatabase, segment: int, max_removed: float) -> None:
    """Put the members of *segment* that are not staged into the scratch database."""
    absent = db.clear_absent()
    members = 0
    for shard in range(SHARDS):
        given = {"segment": segment, **shard_bounds(shard)}
        groups = list(_grouped(db, "member", "segment = :segment", given))
        present = _read_set(db, "staged", shard) if groups else set()
        for kind, keys in groups:
            members += len(keys)
            gone = [key for key in keys if (kind, key) not in present]
            if gone:
                absent.add(kind, gone)
    if absent.count > max_removed * members:
        raise JobError(
            f"{absent.count} of the {members} identities of the segment are missing "
            f"from the input: more than {max_removed:.1%} would be removed.",
            hint="Check that the input is the whole audience, or allow a larger share "
            "(`max_removed`).",
        )


def _remove_shard(db: StateDatabase, run: Run, segment: int, shard: int) -> int:
    """Remove the absent identities of a shard; return how many were removed."""
    given = {"started": run.started, "epoch": db.epoch}
    removed = 0
    for kind, _, identities in db.spill("absent").read(shard):
        for keys in _keys(kind, identities):
            db.connection.execute(
                f"{_ASKED} DELETE FROM member WHERE segment = :segment AND {_IN_KEYS}",
                {**keys, "segment": segment},
            )
            condition = f"removed IS NULL AND NOT {_OTHER_MEMBER}"
            removed += _remove(db, given, keys, condition)
    return removed


def _add_members(db: StateDatabase, segment: int, shard: int) -> None:
    """Make the staged identities of a shard members of *segment*."""
    with db.transaction():
        for kind, _, identities in db.spill("staged").read(shard):
            for keys in _keys(kind, identities):
                db.connection.execute(
                    f"{_ASKED} INSERT OR IGNORE INTO member"
                    f" SELECT :segment, {_KEY}, :kind FROM asked",
                    {**keys, "segment": segment},
                )


def purge(
    db: StateDatabase,
    now: int,
    people: Sequence[IdentityKey],
    raw_uids: Sequence[str],
    suppress: bool,
) -> int:
    """Delete people so that they can no longer be read from the files.

    If a delta has exported a person's UID, UID and identity are kept until the next
    delta has reported the removal.

    Returns:
        The number of people found.
    """
    if db.has_scratch:
        raise JobError(
            "A job is using the state.",
            hint="Purge before the job starts or after it ends.",
        )
    keys = dict.fromkeys([*people, *_find_by_uid(db, raw_uids)])
    digests = [db.digest(key.kind.bit, key.identity) for key in keys] * suppress
    with db.transaction():
        purged = sum(
            _purge_kind(db, now, kind, [one.identity for one in keys if one[0] is kind])
            for kind in KINDS
        )
        db.connection.executemany(
            "INSERT OR IGNORE INTO suppressed VALUES (?)",
            [(digest,) for digest in digests],
        )
        db.set_meta("purged", 1)
    db.suppressed.update(digests)
    db.rewrite()
    return purged


def _purge_kind(
    db: StateDatabase, now: int, kind: IdentityType, identities: list[bytes]
) -> int:
    """Delete people of one type from all tables; return how many were found."""
    given = {"started": now, "epoch": db.epoch}
    purged = 0
    for keys in _keys(kind.bit, sort_distinct(identities)):
        for table in ("history_row", "member"):
            statement = f"{_ASKED} DELETE FROM {table} WHERE {_IN_KEYS}"
            db.connection.execute(statement, keys)
        purged += _remove(db, given, keys, "true", _PURGED)
    return purged


def _find_by_uid(db: StateDatabase, raw_uids: Sequence[str]) -> list[IdentityKey]:
    """Find the identities with these UIDs, now or in the last export."""
    if not raw_uids:
        return []
    columns = ("uid", "previous_uid", "exported_uid")
    matches = " OR ".join(f"{_plain(column)} IN wanted" for column in columns)
    rows = db.connection.execute(
        "WITH wanted(uid) AS MATERIALIZED (SELECT value FROM json_each(?))"
        f" SELECT identity, kind FROM mapping_row WHERE {matches}",
        (_json(list(raw_uids)),),
    )
    return [IdentityKey(_kind(bit), identity) for identity, bit in rows.fetchall()]


# --- statistics -----------------------------------------------------------------------

_OVERDUE: Final = -1
_AGES: Final = " ".join(
    f"WHEN checked > :started - {days * 86_400} THEN {number}"
    for number, days in enumerate(AGE_DAYS)
)
# The first character of a raw UID shows its version; version 2 ends with "=".
_STATISTICS: Final = f"""SELECT kind, coalesce(reason, 'mapped'),
    CASE WHEN substr(uid, -{CHECKSUM_CHARS + 1}, 1) = '=' THEN '='
        ELSE substr(uid, 1, 1) END,
    CASE {_AGES} ELSE {len(AGE_DAYS)} END,
    CASE
        WHEN uid IS NOT NULL THEN CASE WHEN refresh_from <= :started THEN {_OVERDUE}
            ELSE min(refresh_from / 86400 - :started / 86400, {DUE_DAYS}) END
        WHEN reason = '{OPTED_OUT}' THEN :started / 86400 - previous_since / 86400
    END,
    removed IS NOT NULL, count(*), total({_PENDING}), total({_DUE}), min(checked)
    FROM mapping_row WHERE {_IN_SHARD} GROUP BY 1, 2, 3, 4, 5, 6"""


def _version(mark: str) -> int | None:
    """Return the version of a raw UID by its mark: the first character, or ``=``."""
    if mark == "=":
        return raw_uid_version(RAW_UID_SIZES[0], 0)
    # It contains the high six bits of the first byte; the others are zero.
    head = base64.decode(f"{mark}AAA")
    return None if head is None else raw_uid_version(RAW_UID_SIZES[1], head[0])


def count(db: StateDatabase, given: dict[str, Any]) -> StateStatistics:
    """Count the contents; read the whole state once, in parts that fit in memory."""
    totals: Counter[Any] = Counter()
    oldest: list[int] = []
    for shard in range(SHARDS):
        parameters = {**given, "epoch": db.epoch, **shard_bounds(shard)}
        groups = db.connection.execute(_STATISTICS, parameters).fetchall()
        for kind, status, mark, age, day, gone, number, pending, due, first in groups:
            totals.update(pending=int(pending), due=int(due), removed=number * gone)
            if gone:
                continue
            oldest.append(first)
            totals["row", _kind(kind), str(status)] += number
            totals["age", age] += number
            if status == OPTED_OUT:
                totals["opt-out", day] += number
            elif mark is not None:
                totals["day", day] += number
                totals["version", _version(mark)] += number
    return _statistics(db, given["started"], totals, min(oldest, default=None))


def _statistics(
    db: StateDatabase, now: int, totals: Counter[Any], oldest: int | None
) -> StateStatistics:
    """Assemble the totals."""
    opt_outs = [totals["opt-out", day] for day in range(OPT_OUT_DAYS)]
    keys = [key for key in totals if isinstance(key, tuple)]
    all_opt_outs = sum(totals[key] for key in keys if key[0] == "opt-out")
    (pages,) = db.connection.execute("PRAGMA page_count").fetchone()
    (size,) = db.connection.execute("PRAGMA page_size").fetchone()
    scope = db.meta("scope")
    return StateStatistics(
        now=now,
        rows={key[1:]: totals[key] for key in keys if key[0] == "row"},
        removed=totals["removed"],
        pending=totals["pending"],
        due=totals["due"],
        overdue=totals["day", _OVERDUE],
        due_days=[totals["day", day] for day in range(DUE_DAYS)],
        due_later=totals["day", DUE_DAYS],
        due_by_bucket=totals["day", None],
        opt_outs=opt_outs,
        opt_outs_before=all_opt_outs - sum(opt_outs),
        versions={key[1]: totals[key] for key in keys if key[0] == "version"},
        ages=[totals["age", age] for age in range(len(AGE_DAYS) + 1)],
        oldest_check=oldest,
        suppressed=len(db.suppressed),
        runs=list_runs(db),
        scope=None if scope is None else IdentityScope(scope),
        operator=db.meta("operator"),
        file_bytes=pages * size,
    )


def find_run(db: StateDatabase, number: int, now: int) -> Run:
    """Return a run whose changes are still known."""
    runs = {run.number: run for run in list_runs(db)}
    if number not in runs:
        raise InputError(
            f"There is no run {number}.",
            hint=f"The last one is {max(runs, default=0)} (uid2 state show).",
        )
    if runs[number].started <= now - RETENTION_SECONDS:
        raise InputError(
            f"Run {number} is too old. The history is kept for 90 days.",
            hint="Export the whole state instead (uid2 state export).",
        )
    return runs[number]
