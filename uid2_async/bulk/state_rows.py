"""The rows of a state: who is known or due, look-ups, and recording of answers.

All queries run in the SQLite thread. Those about changes are in ``state_changes``.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Annotated, Any, Final, TypeAlias, TypeVar
from zlib import crc32

import msgspec

from uid2_async.bulk.outcomes import MapFailure, Outcome
from uid2_async.bulk.state_db import (
    CHANGE,
    CHECKSUM_CHARS,
    EXPORTED_UID,
    PREVIOUS,
    REPLACED,
    STATEMENT_ROWS,
    StateDatabase,
    by_size,
    damaged,
    sort_distinct,
    split,
)
from uid2_async.bulk.state_values import (
    KINDS,
    RETENTION_SECONDS,
    SUPPRESSED,
    ChangeKind,
    Run,
    StateRow,
)
from uid2_async.models import IdentityType, MapRow, UnmappedReason

T = TypeVar("T")

Recorded: TypeAlias = tuple[Run, IdentityType, Sequence[bytes], Sequence[Outcome]]
Position: TypeAlias = tuple[bytes, int]
"""The last identity of a page, and its kind."""

FIRST_PAGE: Final[Position] = (b"", -1)
Pages: TypeAlias = "Callable[..., tuple[list[T], Position | None]]"

ADDED: Final = ChangeKind.ADDED.value
OPTED_OUT: Final = UnmappedReason.OPTED_OUT.value

ASKED: Final = "WITH asked(i) AS (SELECT i FROM memory.number WHERE i < :count)"
KEY: Final = "substr(:keys, i * :size + 1, :size)"
IN_KEYS: Final = f"kind = :kind AND identity IN (SELECT {KEY} FROM asked)"
IN_RANGE: Final = "identity >= :low AND identity < :high"
AFTER: Final = "(identity, kind) > (:identity, :last_kind)"
KEY_COLUMNS: Final = """CAST(group_concat(identity, '') AS BLOB),
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
# The v2 endpoint returns no `refresh_from`, as none is known of the unmapped.
_IS_DUE: Final = f"""CASE WHEN refresh_from IS NOT NULL
    THEN refresh_from <= :started ELSE checked <= :started - {_RECHECK} END"""
DUE: Final = f"{_STALE} {_IS_DUE}"
UNCHECKED: Final = f"""{_STALE} (uid IS NOT NULL OR reason = 'optout')
    AND checked <= :started - :unchecked_for"""
# Both times are rounded down, so an answer of the same second may be older.
ROTATED: Final = f"""{_STALE} CASE WHEN bucket IS NULL THEN {_IS_DUE} ELSE checked <= (
    SELECT at FROM scratch.rotated WHERE name = bucket) END"""


def load_rotated(db: StateDatabase, rotated: Sequence[tuple[str, int]]) -> None:
    """Put the rotated salt buckets into a table for joins."""
    db.spill("staged")
    db.connection.execute("DELETE FROM scratch.rotated")
    db.connection.executemany("INSERT INTO scratch.rotated VALUES (?, ?)", rotated)


def oldest_bucket_check(db: StateDatabase) -> int | None:
    """Return the earliest check of an identity with a known salt bucket."""
    (checked,) = db.connection.execute(
        "SELECT min(checked) FROM mapping_row"
        " WHERE bucket IS NOT NULL AND removed IS NULL"
    ).fetchone()
    return None if checked is None else int(checked)


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
    groups: dict[int, list[bytes]] = {}
    while part < spill.parts and looked_at < STATEMENT_ROWS:
        for kind, keys in spill.read(part):
            groups.setdefault(kind, []).extend(keys)
            looked_at += len(keys)
        part += 1
    selected = [
        (kind, keys if all_new else _unknown(db, given, kind, keys))
        for kind, keys in groups.items()
    ]
    return looked_at, _selected(db, selected), part if part < spill.parts else None


def select_known(
    db: StateDatabase,
    given: tuple[dict[str, Any], str],
    after: Position,
    limit: int,
) -> tuple[list[tuple[IdentityType, list[bytes]]], Position | None]:
    """Select the next known identities to ask about; see :func:`select_staged`."""
    times, condition = given
    keys, kinds, following = keys_after(
        db, "mapping_row", condition, times, after, limit
    )
    return _selected(db, by_kind(keys, kinds)), following


def _selected(
    db: StateDatabase, groups: Iterable[tuple[int, list[bytes]]]
) -> list[tuple[IdentityType, list[bytes]]]:
    """Return the group of each type, sorted, without suppressed people."""
    # Few have another size, so the groups are nearly sorted.
    selected = [
        (kind_of(bit), sorted(db.without_suppressed(bit, keys))) for bit, keys in groups
    ]
    return [(kind, keys) for kind, keys in selected if keys]


def by_kind(keys: list[bytes], kinds: list[int]) -> Iterator[tuple[int, list[bytes]]]:
    """Group identities by their kinds, keeping their order."""
    for kind in sorted(set(kinds)):
        yield kind, [key for key, one in zip(keys, kinds, strict=True) if one == kind]


def keys_after(
    db: StateDatabase,
    table: str,
    condition: str,
    given: dict[str, Any],
    after: Position,
    limit: int = STATEMENT_ROWS,
) -> tuple[list[bytes], list[int], Position | None]:
    """Read the next identities of a table that meet *condition*, and their kinds."""
    row = db.connection.execute(
        f"SELECT {KEY_COLUMNS} FROM (SELECT identity, kind FROM {table}"
        f" WHERE {AFTER} AND ({condition}) ORDER BY identity, kind LIMIT :limit)",
        {**given, "identity": after[0], "last_kind": after[1], "limit": limit},
    ).fetchone()
    keys, kinds = decode_keys(*row)
    return keys, kinds, (keys[-1], kinds[-1]) if len(keys) == limit else None


def decode_keys(
    joined: bytes | None, sizes: str, kinds: str
) -> tuple[list[bytes], list[int]]:
    """Decode the columns of ``KEY_COLUMNS``."""
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
        f"{ASKED} SELECT CAST(group_concat({KEY}, '') AS BLOB)"
        f" FROM asked LEFT JOIN mapping_row AS m"
        f" ON m.identity = {KEY} AND m.kind = :kind"
        f" WHERE {TO_ASK}"
    )
    unknown: list[bytes] = []
    for some, keys in key_parameters(kind, identities):
        (found,) = db.connection.execute(statement, {**given, **keys}).fetchone()
        unknown += some if found == keys["keys"] else split(found or b"", keys["size"])
    return unknown


def key_parameters(
    kind: int, identities: Sequence[bytes], rows: int = STATEMENT_ROWS
) -> Iterator[tuple[Sequence[bytes], dict[str, Any]]]:
    """Group *identities*, with the parameters by which a statement finds them."""
    for size, same in by_size(identities).items() if identities else ():
        for start in range(0, len(same), rows):
            some = same[start : start + rows]
            keys = b"".join(some)
            yield some, {"keys": keys, "size": size, "count": len(some), "kind": kind}


def kind_of(bit: object) -> IdentityType:
    """Return the identity type that the state stores as *bit*."""
    kind = _KIND_OF_BIT.get(bit)
    if kind is None:
        raise damaged()
    return kind


_KIND_OF_BIT: Final[dict[object, IdentityType]] = {kind.bit: kind for kind in KINDS}


# --- rows -----------------------------------------------------------------------------


CHANGE_NOW: Final = CHANGE.format(said=f"({EXPORTED_UID})")
PENDING: Final = "(changed = :epoch OR exported = :epoch)"
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
        {CHANGE_NOW})) FILTER (WHERE previous_uid IS NOT NULL
        OR changed = :epoch OR reason IS NOT NULL OR bucket IS NOT NULL)"""
# What was replaced is joined once, and not looked up by each rule that needs it.
_LOOK_UP: Final = (
    f"{ASKED} SELECT {_ROW_COLUMNS.replace(REPLACED, 'h.replaced')}"
    f" FROM asked LEFT JOIN mapping_row AS m ON m.identity = {KEY} AND m.kind = :kind"
    " LEFT JOIN history_row AS h ON h.identity = m.identity AND h.kind = m.kind"
    " AND h.epoch = m.changed"
)
_MAYBE_INTEGERS: Final = msgspec.json.Decoder(list[int | None])
UIDS: Final = msgspec.json.Decoder(_Texts)
_INSTANTS: Final = msgspec.json.Decoder(list[_Second | None])
_OTHERS: Final = msgspec.json.Decoder(
    list[tuple[int, str | None, str | None, str | None, str | None, str | None]]
)
_FAILURES: Final = msgspec.json.Decoder(list[tuple[int, str, int | None]])


def look_up(
    db: StateDatabase, now: int, kind: IdentityType, identities: Sequence[bytes]
) -> dict[bytes, StateRow | MapFailure | None]:
    """Return what is known about each of *identities*, regardless of age.

    Sorted in tens of thousands, they cost half as much as in small groups, since
    neighbors share pages.
    """
    rows: dict[bytes, StateRow | MapFailure | None] = {}
    for some, keys, found in find_rows(db, now, kind.bit, sort_distinct(identities)):
        rows.update(zip(some, found, strict=True))
        if db.failures:
            rows.update(_failures(db, some, keys))
    if db.suppressed:
        for identity in rows:
            if db.is_suppressed(kind.bit, identity):
                rows[identity] = SUPPRESSED
    return rows


def find_rows(
    db: StateDatabase, now: int, kind: int, identities: Sequence[bytes]
) -> Iterator[tuple[Sequence[bytes], dict[str, Any], list[StateRow | None]]]:
    """Find the rows of sorted *identities*, with None for unknown ones."""
    for some, keys in key_parameters(kind, identities):
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
    uids = strip_checksums(identities, UIDS.decode(uid_text))
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
        previous, old = (
            strip_checksums(identities, previous),
            strip_checksums(identities, old),
        )
    refresh = _INSTANTS.decode(refresh_text)
    columns = (uids, previous, refresh, reasons, buckets, checked, changes, old)
    rows: list[StateRow | None] = list(map(StateRow, *columns))
    if None in checked:
        return [
            None if at is None else row for at, row in zip(checked, rows, strict=True)
        ]
    return rows


def strip_checksums(identities: Sequence[bytes], column: _Texts) -> _Texts:
    """Check and remove the checksums of the UIDs of *identities*."""
    missing = column.count(None)
    if missing == len(column):
        return column
    if missing:
        present = [at for at, one in enumerate(column) if one is not None]
        given = [identities[at] for at in present]
        some = strip_checksums(given, [column[at] for at in present])
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
        f"{ASKED} SELECT json_group_array(json_array(i, error, status)) FROM asked"
        f" JOIN scratch.failure AS f ON f.identity = {KEY} AND f.kind = :kind",
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
    exported = CASE WHEN m.exported < :epoch THEN m.exported
        ELSE max(excluded.exported, coalesce(m.exported, 0)) END,
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
            if run.segment is not None:
                # If the run is aborted, the next one can remove them.
                add_members(db, run.segment, kind.bit, sorted(rows))
    if failures:
        db.spill("staged")
        db.failures += len(failures)
        db.connection.executemany(
            "INSERT OR REPLACE INTO scratch.failure VALUES (?, ?, ?, ?)", failures
        )


def _record_rows(
    db: StateDatabase, run: Run, kind: int, rows: dict[bytes, MapRow]
) -> None:
    if not rows:  # all of them failed or are suppressed
        return
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
    at_once = _rows_at_once(db, list(rows))
    for some, keys in key_parameters(kind, plain, at_once):
        keys["answers"] = to_json(_join_answers(some, [rows[one] for one in some]))
        db.connection.execute(_RECORD_UIDS, {**given, **keys})
    for some, keys in key_parameters(kind, sorted(other), at_once):
        keys["answers"] = to_json([_columns(one, rows[one]) for one in some])
        db.connection.execute(_RECORD_ROWS, {**given, **keys})


def segment_number(db: StateDatabase, name: str) -> int:
    """Return the number of a segment, assigning one to a new name."""
    db.connection.execute("INSERT OR IGNORE INTO segment (name) VALUES (?)", (name,))
    (number,) = db.connection.execute(
        "SELECT number FROM segment WHERE name = ?", (name,)
    ).fetchone()
    return int(number)


def add_members(
    db: StateDatabase, segment: str, kind: int, identities: list[bytes]
) -> None:
    """Make sorted identities members of *segment*."""
    number = segment_number(db, segment)
    for _, keys in key_parameters(kind, db.without_suppressed(kind, identities)):
        db.connection.execute(
            f"{ASKED} INSERT OR IGNORE INTO member"
            f" SELECT :segment, {KEY}, :kind FROM asked",
            {**keys, "segment": number},
        )


def _rows_at_once(db: StateDatabase, identities: Sequence[bytes]) -> int:
    """Return how many of the sorted *identities* one statement may record.

    Until it ends, SQLite keeps a copy of each page that it changes in memory: 80 MB for
    5,000 rows that are scattered over a large state.
    """
    first, last = (int.from_bytes(key[:2]) for key in (identities[0], identities[-1]))
    (pages,) = db.connection.execute("PRAGMA page_count").fetchone()
    changed = pages * (last - first) >> 16
    return STATEMENT_ROWS if changed < _CHANGED_PAGES else _CHANGED_PAGES


_CHANGED_PAGES: Final = 1_000


def _join_answers(identities: Sequence[bytes], rows: list[MapRow]) -> list[str]:
    """Join UIDs with their checksums and times."""
    uids = [row.raw_uid or "" for row in rows]
    checksums, size = _checksums(identities, uids), CHECKSUM_CHARS
    parts = [checksums[at : at + size] for at in range(0, len(checksums), size)]
    instants = map(_INSTANT.__mod__, [row.refresh_from_s for row in rows])
    return list(map("".join, zip(uids, parts, instants, strict=True)))


def _columns(identity: bytes, row: MapRow) -> list[str | int | None]:
    if not row.raw_uid or row.reason is not None:
        reason = row.reason or UnmappedReason.UNKNOWN.value
        return [None, None, None, reason, row.bucket_id]
    previous = row.previous_raw_uid and _with_checksum(identity, row.previous_raw_uid)
    uid = _with_checksum(identity, row.raw_uid)
    return [uid, previous or None, row.refresh_from_s, None, row.bucket_id]


def to_json(value: object) -> str:
    """Encode an array for SQLite."""
    return msgspec.json.encode(value).decode()
