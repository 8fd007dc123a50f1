"""The rows of a state and their changes: all queries, in the SQLite thread.

A delta is the difference between what the last delta said about an identity and what
its row says now. The former is the row itself, unless it has changed since then: then
it is in the history. So changes that cancel out leave nothing to export.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Annotated, Any, Final, TypeAlias, TypeVar
from zlib import crc32

import attrs
import msgspec

from uid2_async.bulk.outcomes import MapFailure
from uid2_async.bulk.state_db import (
    CHANGE,
    CHECKSUM_CHARS,
    EXPORTED_UID,
    PREVIOUS,
    REPLACED,
    StateDatabase,
    by_size,
    damaged,
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

FIRST_PAGE: Final[Position] = (b"", -1)
Pages: TypeAlias = "Callable[..., tuple[list[T], Position | None]]"

ADDED: Final = ChangeKind.ADDED.value
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
_IN_RANGE: Final = "identity >= :low AND identity < :high"
_AFTER: Final = "(identity, kind) > (:identity, :last_kind)"
_KEY_COLUMNS: Final = """CAST(group_concat(identity, '') AS BLOB),
    json_group_array(length(identity)), json_group_array(kind)"""

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


def is_empty(db: StateDatabase) -> bool:
    """Return whether nobody is known."""
    return db.connection.execute("SELECT 1 FROM mapping_row LIMIT 1").fetchone() is None


def select_staged(
    db: StateDatabase, given: dict[str, Any], part: int, *, all_new: bool
) -> tuple[int, list[tuple[IdentityType, list[bytes]]], int | None]:
    """Select the staged identities to ask about in the next parts of the spill.

    With *all_new*, none of them can be known.

    Returns:
        The number of identities checked, the selected ones by type, sorted, and the
        next part.
    """
    spill, looked_at = db.spill("staged"), 0
    groups = []
    while part < spill.parts and looked_at < _STATEMENT_ROWS:
        for kind, keys in spill.read(part):
            looked_at += len(keys)
            groups.append((kind, keys if all_new else _unknown(db, given, kind, keys)))
        part += 1
    return looked_at, _selected(db, groups), part if part < spill.parts else None


def select_known(
    db: StateDatabase,
    given: tuple[dict[str, Any], StateSelection],
    after: Position,
    limit: int,
) -> tuple[list[tuple[IdentityType, list[bytes]]], Position | None]:
    """Select the next known identities to ask about; see :func:`select_staged`."""
    times, selection = given
    condition = _SELECTIONS[selection.source]
    times = {**times, "unchecked_for": selection.unchecked_for}
    keys, kinds, following = _keys_after(
        db, "mapping_row", condition, times, after, limit
    )
    return _selected(db, _by_kind(keys, kinds)), following


def _selected(
    db: StateDatabase, groups: Iterable[tuple[int, list[bytes]]]
) -> list[tuple[IdentityType, list[bytes]]]:
    """Join the groups of each type, sorted, without suppressed people."""
    selected: dict[IdentityType, list[bytes]] = {}
    for bit, keys in groups:
        kind, some = _kind(bit), keys
        if db.suppressed:
            some = [one for one in keys if not db.is_suppressed(bit, one)]
        if kind in selected:
            # Most come after those before them; few have another size.
            some = sorted([*selected[kind], *some])
        if some:
            selected[kind] = some
    return list(selected.items())


def _by_kind(keys: list[bytes], kinds: list[int]) -> Iterator[tuple[int, list[bytes]]]:
    """Group identities by their kinds, keeping their order."""
    for kind in sorted(set(kinds)):
        yield kind, [key for key, one in zip(keys, kinds, strict=True) if one == kind]


def _keys_after(
    db: StateDatabase,
    table: str,
    condition: str,
    given: dict[str, Any],
    after: Position,
    limit: int = _STATEMENT_ROWS,
) -> tuple[list[bytes], list[int], Position | None]:
    """Read the next identities of a table that meet *condition*, and their kinds."""
    row = db.connection.execute(
        f"SELECT {_KEY_COLUMNS} FROM (SELECT identity, kind FROM {table}"
        f" WHERE {_AFTER} AND ({condition}) ORDER BY identity, kind LIMIT :limit)",
        {**given, "identity": after[0], "last_kind": after[1], "limit": limit},
    ).fetchone()
    keys, kinds = _decode_keys(*row)
    return keys, kinds, (keys[-1], kinds[-1]) if len(keys) == limit else None


def _decode_keys(
    joined: bytes | None, sizes: str, kinds: str
) -> tuple[list[bytes], list[int]]:
    """Decode the columns of ``_KEY_COLUMNS``."""
    lengths, joined = _INTEGERS.decode(sizes), joined or b""
    if sum(lengths) != len(joined):
        raise damaged()
    if len(set(lengths)) == 1:
        return split(joined, lengths[0]), _INTEGERS.decode(kinds)
    ends = list(accumulate(lengths))
    keys = [joined[end - size : end] for size, end in zip(lengths, ends, strict=True)]
    return keys, _INTEGERS.decode(kinds)


_INTEGERS: Final = msgspec.json.Decoder(list[int])


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
    for some, keys in _keys(kind, identities):
        (found,) = db.connection.execute(statement, {**given, **keys}).fetchone()
        unknown += some if found == keys["keys"] else split(found or b"", keys["size"])
    return unknown


def _keys(
    kind: int, identities: Sequence[bytes]
) -> Iterator[tuple[Sequence[bytes], dict[str, Any]]]:
    """Group *identities*, with the parameters by which a statement finds them."""
    for size, same in by_size(identities).items() if identities else ():
        for start in range(0, len(same), _STATEMENT_ROWS):
            some = same[start : start + _STATEMENT_ROWS]
            keys = b"".join(some)
            yield some, {"keys": keys, "size": size, "count": len(some), "kind": kind}


def _kind(bit: object) -> IdentityType:
    """Return the identity type that the state stores as *bit*."""
    kind = _KIND_OF_BIT.get(bit)
    if kind is None:
        raise damaged()
    return kind


_KIND_OF_BIT: Final[dict[object, IdentityType]] = {kind.bit: kind for kind in KINDS}


# --- rows -----------------------------------------------------------------------------


def _plain(column: str) -> str:
    """Return the SQL that reads a UID without its checksum."""
    return f"substr({column}, 1, length({column}) - {CHECKSUM_CHARS})"


_CHANGE_NOW: Final = CHANGE.format(said=f"({EXPORTED_UID})")
_PENDING: Final = "(changed = :epoch OR exported >= :epoch)"
_OLD_UID: Final = f"""CASE changed WHEN :epoch
    THEN nullif(nullif({REPLACED}, ''), coalesce(uid, '')) END"""
_PREVIOUS_UID: Final = f"""CASE WHEN uid IS NOT NULL
    AND previous_since > :started - {RETENTION_SECONDS} THEN {PREVIOUS} END"""
# The last time that datetime can represent.
_LAST_SECOND: Final = 253_402_300_799
_Texts: TypeAlias = list[str | None]
_Second: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=_LAST_SECOND)]
# One array per column costs half as much as one array per row, and most rows have
# nothing in the others.
_ROW_COLUMNS: Final = f"""
    json_group_array(CASE WHEN removed IS NULL THEN checked END),
    json_group_array(uid), json_group_array(refresh_from),
    json_group_array(i) FILTER (WHERE exported >= :epoch AND uid IS NOT NULL),
    json_group_array(json_array(i, {_PREVIOUS_UID}, {_OLD_UID}, reason, bucket,
        {_CHANGE_NOW})) FILTER (WHERE previous_uid IS NOT NULL
        OR changed = :epoch OR reason IS NOT NULL OR bucket IS NOT NULL)"""
# What was replaced is joined once, and not looked up by each rule that needs it.
_LOOK_UP: Final = (
    f"{_ASKED} SELECT {_ROW_COLUMNS.replace(REPLACED, 'h.replaced')}"
    f" FROM asked LEFT JOIN mapping_row AS m ON m.identity = {_KEY} AND m.kind = :kind"
    " LEFT JOIN history_row AS h ON h.identity = m.identity AND h.kind = m.kind"
    " AND h.epoch = m.changed"
)
_MAYBE_INTEGERS: Final = msgspec.json.Decoder(list[int | None])
_UIDS: Final = msgspec.json.Decoder(_Texts)
_INSTANTS: Final = msgspec.json.Decoder(list[_Second | None])
_OTHERS: Final = msgspec.json.Decoder(
    list[tuple[int, str | None, str | None, str | None, str | None, str | None]]
)
_FAILURES: Final = msgspec.json.Decoder(list[tuple[int, str, int | None]])


def look_up(
    db: StateDatabase, now: int, kind: IdentityType, identities: Sequence[bytes]
) -> list[StateRow | MapFailure | None]:
    """Return what is known about *identities*, regardless of age.

    Sorted in tens of thousands, they cost half as much as in small groups, since
    neighbors share pages.
    """
    rows: dict[bytes, StateRow | MapFailure | None] = {}
    for some, keys, found in _find_rows(db, now, kind.bit, sort_distinct(identities)):
        rows.update(zip(some, found, strict=True))
        if db.failures:
            rows.update(_failures(db, some, keys))
    if db.suppressed:
        for identity in rows:
            if db.is_suppressed(kind.bit, identity):
                rows[identity] = SUPPRESSED
    return [rows[identity] for identity in identities]


def _find_rows(
    db: StateDatabase, now: int, kind: int, identities: Sequence[bytes]
) -> Iterator[tuple[Sequence[bytes], dict[str, Any], list[StateRow | None]]]:
    """Find the rows of sorted *identities*, with None for unknown ones."""
    for some, keys in _keys(kind, identities):
        given = {"started": now, "epoch": db.epoch, **keys}
        answer = db.connection.execute(_LOOK_UP, given).fetchone()
        yield some, keys, _read_rows(some, *answer)


def _read_rows(
    identities: Sequence[bytes],
    checked_text: str,
    uid_text: str,
    refresh_text: str,
    added_text: str,
    other_text: str,
) -> list[StateRow | None]:
    """Make rows from columns, with None for unknown *identities*.

    This runs for every row of a file, so it works by column.
    """
    checked = _MAYBE_INTEGERS.decode(checked_text)
    uids = _verified(identities, _UIDS.decode(uid_text))
    empty: list[Any] = [None] * len(uids)
    changes: _Texts = empty.copy()
    previous, old, reasons, buckets = [empty] * 4
    for i in _INTEGERS.decode(added_text):
        changes[i] = ADDED
    others = _OTHERS.decode(other_text)
    if others:
        previous, old, reasons, buckets = [empty.copy() for _ in range(4)]
        for i, *values in others:
            previous[i], old[i], reasons[i], buckets[i], changes[i] = values
        previous, old = _verified(identities, previous), _verified(identities, old)
    refresh = _INSTANTS.decode(refresh_text)
    columns = (uids, previous, refresh, reasons, buckets, checked, changes, old)
    rows: list[StateRow | None] = list(map(StateRow, *columns))
    if None in checked:
        return [
            None if at is None else row for at, row in zip(checked, rows, strict=True)
        ]
    return rows


def _verified(identities: Sequence[bytes], column: _Texts) -> _Texts:
    """Check and remove the checksums of the UIDs of *identities*."""
    missing = column.count(None)
    if missing == len(column):
        return column
    if missing:
        present = [at for at, one in enumerate(column) if one is not None]
        given = [identities[at] for at in present]
        some = _verified(given, [column[at] for at in present])
        column = column.copy()
        for at, uid in zip(present, some, strict=True):
            column[at] = uid
        return column
    stored: list[str] = column  # type: ignore[assignment] # by the above
    plain = [one[:-CHECKSUM_CHARS] for one in stored]
    if "".join([one[-CHECKSUM_CHARS:] for one in stored]) != _checksums(
        identities, plain
    ):
        raise damaged()
    return plain  # type: ignore[return-value] # as above


def _checksums(identities: Sequence[bytes], uids: Sequence[str]) -> str:
    """Return the CRC-32 of each identity and its UID, as hexadecimal digits."""
    found = map(crc32, map(str.encode, uids), map(crc32, identities))
    return struct.pack(f">{len(uids)}I", *found).hex()


def _with_checksum(identity: bytes, uid: str) -> str:
    """Return a UID with its checksum, as the state stores it."""
    return uid + _checksums([identity], [uid])


def _failures(
    db: StateDatabase, identities: Sequence[bytes], keys: dict[str, Any]
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


def _previous_rules(stored: str) -> tuple[str, str]:
    """Return the SQL for the previous UID after an answer, and since when it is that.

    The answer is ``excluded``, and the row ``m``, with the previous UID in *stored*.
    The operator's takes precedence: it knows rotations that the state missed.
    """
    uid = f"""CASE
    WHEN excluded.previous_uid IS NOT NULL THEN excluded.previous_uid
    WHEN m.uid <> coalesce(excluded.uid, '') THEN m.uid
    WHEN m.previous_since > :started - {RETENTION_SECONDS}
        AND {stored} <> coalesce(excluded.uid, '') THEN {stored} END"""
    since = f"""CASE WHEN {uid} IS NULL THEN NULL
    WHEN {uid} = {stored} THEN m.previous_since ELSE :started END"""
    return uid, since


PREVIOUS_UID, PREVIOUS_SINCE = _previous_rules("m.previous_uid")
_NEXT_PREVIOUS, _NEXT_SINCE = _previous_rules(f"({PREVIOUS})")
# The first change after an export moves what was exported into the history.
_IS_MOVED: Final = """(m.exported < :epoch AND m.changed IS NOT :epoch
    AND coalesce(m.uid, '') <> coalesce(excluded.uid, ''))"""
_STORED_PREVIOUS: Final = f"""CASE {_NEXT_PREVIOUS} WHEN
    CASE WHEN {_IS_MOVED} THEN m.uid WHEN m.previous_uid = '' THEN {PREVIOUS} END
    THEN '' ELSE {_NEXT_PREVIOUS} END"""
_UPSERT: Final = f"""INSERT INTO mapping_row AS m (identity, kind, uid, previous_uid,
    previous_since, refresh_from, reason, bucket, checked, exported)
SELECT substr(:keys, key * :size + 1, :size), :kind, {{uid}}, {{previous}},
    CASE WHEN {{previous}} IS NOT NULL THEN :started END, {{refresh_from}}, {{reason}},
    {{bucket}}, :started, CASE WHEN {{uid}} IS NOT NULL THEN :epoch END
FROM json_each(:answers) WHERE true
ON CONFLICT (identity, kind) DO UPDATE SET
    uid = excluded.uid, refresh_from = excluded.refresh_from,
    reason = excluded.reason, bucket = excluded.bucket, checked = excluded.checked,
    previous_uid = {_STORED_PREVIOUS}, previous_since = {_NEXT_SINCE},
    removed = NULL,
    exported = CASE WHEN m.exported < :epoch THEN m.exported ELSE excluded.exported END,
    changed = CASE WHEN {_IS_MOVED} THEN :epoch ELSE m.changed END"""
_DIGITS: Final = 12
_INSTANT: Final = f"%0{_DIGITS}d"
# Most answers are a UID and a time. Reading them from one string each takes a third of
# the time of an array of arrays.
_RECORD_UIDS: Final = _UPSERT.format(
    uid=f"substr(value, 1, length(value) - {_DIGITS})",
    previous="NULL",
    refresh_from=f"CAST(substr(value, -{_DIGITS}) AS INTEGER)",
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
            rows: dict[bytes, Any] = dict(zip(identities, outcomes, strict=True))
            if MapFailure in set(map(type, outcomes)):
                for identity, one in list(rows.items()):
                    if isinstance(one, MapFailure):
                        failures.append((identity, kind.bit, one.error, one.status))
                        del rows[identity]
            if db.suppressed:
                for identity in identities:
                    if db.is_suppressed(kind.bit, identity):
                        rows.pop(identity, None)
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
    plain = [
        identity
        for identity, row in rows.items()
        if row.raw_uid
        and row.refresh_from_s is not None
        and row.reason is None
        and not (row.previous_raw_uid or row.bucket_id)
    ]
    other: Iterable[bytes] = ()
    if len(plain) < len(rows):
        other = rows.keys() - set(plain)
    given = {"started": run.started, "epoch": db.epoch}
    for some, keys in _keys(kind, plain):
        keys["answers"] = _json(_stamped(some, [rows[one] for one in some]))
        db.connection.execute(_RECORD_UIDS, {**given, **keys})
    for some, keys in _keys(kind, sorted(other)):
        keys["answers"] = _json([_columns(one, rows[one]) for one in some])
        db.connection.execute(_RECORD_ROWS, {**given, **keys})


def _stamped(identities: Sequence[bytes], rows: list[MapRow]) -> list[str]:
    """Join UIDs with their checksums and times."""
    uids = [row.raw_uid or "" for row in rows]
    checksums, size = _checksums(identities, uids), CHECKSUM_CHARS
    parts = [checksums[at : at + size] for at in range(0, len(checksums), size)]
    instants = map(_INSTANT.__mod__, [row.refresh_from_s for row in rows])
    return list(map("".join, zip(uids, parts, instants, strict=True)))


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
    purged = exported and db.meta("purged")
    parts = [_FORGET_PURGED] * bool(purged) + [_EXPORT] * exported + [_END]
    with db.transaction():
        for statement in ";".join(parts).split(";"):
            db.connection.execute(statement, given)
    db.epoch += exported
    db.drop_scratch()
    # Deleted data is also in the write-ahead log, and a long log is slow to read.
    db.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    if purged:
        db.rewrite()
        db.set_meta("purged", 0)


_FORGET_PURGED: Final = f"""DELETE FROM history_row WHERE epoch = :epoch AND EXISTS (
    SELECT 1 FROM mapping_row AS m WHERE m.identity = history_row.identity
    AND m.kind = history_row.kind AND m.reason = '{_PURGED}')"""
# The next epoch number is enough to count everything as exported.
_EXPORT: Final = f"""
    DELETE FROM mapping_row WHERE removed IS NOT NULL;
    UPDATE mapping_row AS m SET exported = NULL WHERE changed = :epoch AND uid IS NULL
        AND reason IS NOT '{OPTED_OUT}' AND {REPLACED} <> '';
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

_CHANGES: Final = f"""SELECT {_KEY_COLUMNS},
    json_group_array({CHANGE.format(said="said")}), json_group_array(uid),
    json_group_array(nullif(said, '')) FROM ({{page}})"""
_PENDING_PAGE: Final = _CHANGES.format(
    page=f"""SELECT identity, kind, uid, reason, {EXPORTED_UID} AS said
    FROM mapping_row AS m WHERE {_AFTER} AND {_PENDING}
    ORDER BY identity, kind LIMIT :limit"""
)
# What was exported before an epoch: the earliest later change shows it, unless the
# identity was added even later.
_HISTORY_PAGE: Final = _CHANGES.format(
    page=f"""SELECT k.identity, k.kind, m.uid, m.reason,
        CASE WHEN h.added < :since THEN h.replaced
            WHEN h.added IS NULL AND m.exported < :since THEN coalesce(m.uid, '')
            END AS said
    FROM (SELECT identity, kind FROM history_row WHERE {_AFTER} AND epoch >= :since
        UNION SELECT identity, kind FROM mapping_row
        WHERE {_AFTER} AND exported >= :since
        ORDER BY identity, kind LIMIT :limit) AS k
    LEFT JOIN mapping_row AS m USING (identity, kind)
    LEFT JOIN history_row AS h ON h.identity = k.identity AND h.kind = k.kind
        AND h.epoch = (SELECT min(epoch) FROM history_row AS e
            WHERE e.identity = k.identity AND e.kind = k.kind
            AND e.epoch >= :since)"""
)
_CHANGE_KINDS: Final = msgspec.json.Decoder(list[ChangeKind | None])


def changes_page(
    db: StateDatabase, since: int | None, after: Position, limit: int
) -> tuple[list[Change], Position | None]:
    """List the changes after a position; return also the next position.

    These are the pending changes that the job has not written yet, or the net changes
    compared to what was exported before the epoch *since*.
    """
    statement = _PENDING_PAGE if since is None else _HISTORY_PAGE
    place = {"identity": after[0], "last_kind": after[1], "limit": limit}
    given = {"epoch": db.epoch, "since": since, **place}
    *key_columns, change_text, uid_text, old_text = db.connection.execute(
        statement, given
    ).fetchone()
    keys, bits = _decode_keys(*key_columns)
    uids = _verified(keys, _UIDS.decode(uid_text))
    old_uids = _verified(keys, _UIDS.decode(old_text))
    kinds = _CHANGE_KINDS.decode(change_text)
    columns: tuple[Any, ...] = (map(_kind, bits), keys, kinds, uids, old_uids)
    changes = [one for one in map(Change, *columns) if one.change]
    following = (keys[-1], bits[-1]) if len(keys) == limit else None
    return changes if since is not None else _drop_named(db, changes), following


def _drop_named(db: StateDatabase, page: list[Change]) -> list[Change]:
    """Leave out changes that the job has already written."""
    named = db.spill("named") if db.has_scratch else None
    if named is None or not named.count:
        return page
    return [one for one in page if not named.contains(one.kind.bit, one.identity)]


def export_page(
    db: StateDatabase, now: int, after: Position, limit: int
) -> tuple[list[tuple[IdentityKey, StateRow]], Position | None]:
    """List the identities after a position, with their rows; and the next position."""
    keys, bits, following = _keys_after(
        db, "mapping_row", "removed IS NULL", {}, after, limit
    )
    rows: dict[tuple[int, bytes], StateRow | None] = {}
    for bit, some in _by_kind(keys, bits):
        for group, _, found in _find_rows(db, now, bit, some):
            rows.update(zip([(bit, key) for key in group], found, strict=True))
    page = [
        (IdentityKey(_kind(bit), key), row)
        for key, bit in zip(keys, bits, strict=True)
        if (row := rows[bit, key]) is not None
    ]
    return page, following


# --- removal --------------------------------------------------------------------------

_OTHER_MEMBER: Final = """EXISTS (SELECT 1 FROM segment AS s CROSS JOIN member AS o
    ON o.segment = s.number AND o.identity = m.identity AND o.kind = m.kind)"""
_FORGET: Final = f"""DELETE FROM mapping_row AS m WHERE {_IN_KEYS} AND {{condition}}
    AND NOT coalesce(({EXPORTED_UID}) <> '', 0)"""
_FORGET_CHANGE: Final = f"""DELETE FROM history_row WHERE {_IN_KEYS} AND epoch = :epoch
    AND NOT EXISTS (SELECT 1 FROM mapping_row AS m
    WHERE m.identity = history_row.identity AND m.kind = history_row.kind)"""
_MARK: Final = f"""UPDATE mapping_row AS m SET removed = coalesce(removed, :started),
    changed = CASE WHEN uid IS NULL THEN changed ELSE :epoch END,
    uid = NULL, previous_uid = NULL, previous_since = NULL, refresh_from = NULL,
    bucket = NULL, reason = {{reason}} WHERE {_IN_KEYS} AND {{condition}}"""


def _remove(
    db: StateDatabase,
    given: dict[str, Any],
    keys: dict[str, Any],
    condition: str,
    reason: str | None = None,
) -> int:
    """Remove identities; keep those whose removal a delta must report."""
    removed = 0
    for template in (_FORGET, _FORGET_CHANGE, _MARK):
        statement = template.format(
            condition=condition, reason=f"'{reason}'" if reason else "NULL"
        )
        db.connection.execute(f"{_ASKED} {statement}", {**given, **keys})
        if template is not _FORGET_CHANGE:
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
    if _count_absent(db, number, max_removed):
        with db.transaction():
            db.connection.execute(
                "UPDATE run SET removed = removed + ? WHERE number = ?",
                (_remove_members(db, run, number), run.number),
            )
    for part in range(db.spill("staged").parts):
        _add_members(db, number, part)
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


def _count_absent(db: StateDatabase, segment: int, max_removed: float) -> int:
    """Count the members of *segment* that are not staged; reject too many."""
    members = absent = 0
    for _, keys, gone in _absent_members(db, segment):
        members, absent = members + len(keys), absent + len(gone)
    if absent > max_removed * members:
        raise JobError(
            f"{absent} of the {members} identities of the segment are missing "
            f"from the input: more than {max_removed:.1%} would be removed.",
            hint="Check that the input is the whole audience, or allow a larger share "
            "(`max_removed`).",
        )
    return absent


def _absent_members(
    db: StateDatabase, segment: int
) -> Iterator[tuple[int, list[bytes], list[bytes]]]:
    """Read the members of *segment*: the kind, some of them, and who is not staged."""
    staged, given = db.spill("staged"), {"segment": segment}
    at: Position | None = FIRST_PAGE
    while at is not None:
        keys, kinds, at = _keys_after(db, "member", "segment = :segment", given, at)
        for kind, some in _by_kind(keys, kinds):
            yield kind, some, [one for one in some if not staged.contains(kind, one)]


def _remove_members(db: StateDatabase, run: Run, segment: int) -> int:
    """Remove the members who are not staged; return how many were removed."""
    given = {"started": run.started, "epoch": db.epoch}
    condition, removed = f"removed IS NULL AND NOT {_OTHER_MEMBER}", 0
    for kind, _, gone in _absent_members(db, segment):
        for _, keys in _keys(kind, gone):
            db.connection.execute(
                f"{_ASKED} DELETE FROM member WHERE segment = :segment AND {_IN_KEYS}",
                {**keys, "segment": segment},
            )
            removed += _remove(db, given, keys, condition)
    return removed


def _add_members(db: StateDatabase, segment: int, part: int) -> None:
    """Make the staged identities of a part members of *segment*."""
    with db.transaction():
        for kind, identities in db.spill("staged").read(part):
            for _, keys in _keys(kind, identities):
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
    for _, keys in _keys(kind.bit, sort_distinct(identities)):
        for where in ("history_row WHERE epoch < :epoch AND", "member WHERE"):
            statement = f"{_ASKED} DELETE FROM {where} {_IN_KEYS}"
            db.connection.execute(statement, {**given, **keys})
        purged += _remove(db, given, keys, "true", _PURGED)
    return purged


def _find_by_uid(db: StateDatabase, raw_uids: Sequence[str]) -> list[IdentityKey]:
    """Find the identities with these UIDs, now or in the last export."""
    if not raw_uids:
        return []
    given, previous = _plain("uid"), _plain("previous_uid")
    rows = db.connection.execute(
        "WITH wanted(uid) AS MATERIALIZED (SELECT value FROM json_each(?))"
        f" SELECT identity, kind FROM mapping_row WHERE {given} IN wanted"
        f" OR {previous} IN wanted"
        f" UNION SELECT identity, kind FROM history_row"
        f" WHERE {_plain('replaced')} IN wanted",
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
    removed IS NOT NULL, count(*),
    total(CASE WHEN {_PENDING} THEN ({_CHANGE_NOW}) IS NOT NULL END),
    total({_DUE}), min(checked)
    FROM mapping_row AS m WHERE {_IN_RANGE} GROUP BY 1, 2, 3, 4, 5, 6"""


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
    for bounds in db.key_ranges():
        parameters = {**given, "epoch": db.epoch, **bounds}
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
