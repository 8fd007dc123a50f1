"""The changes of a state: runs, deltas, history, removal, and statistics.

A delta is the difference between what the last delta said about an identity and what
its row says now. The former is the row itself, unless it has changed since then: then
it is in the history. So changes that cancel out leave nothing to export. All queries
run in the SQLite thread.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final

import attrs
import msgspec

from uid2_async.bulk.state_db import (
    CHANGE,
    CHECKSUM_CHARS,
    EXPORTED_UID,
    REPLACED,
    REWRITE,
    WITHHELD,
    StateDatabase,
    plain_uid,
    sort_distinct,
)
from uid2_async.bulk.state_rows import (
    AFTER,
    ASKED,
    CHANGE_NOW,
    DUE,
    FIRST_PAGE,
    IN_KEYS,
    IN_RANGE,
    KEY_COLUMNS,
    OPTED_OUT,
    PENDING,
    UIDS,
    Position,
    add_members,
    by_kind,
    decode_keys,
    find_rows,
    key_parameters,
    keys_after,
    kind_of,
    segment_number,
    strip_checksums,
    to_json,
)
from uid2_async.bulk.state_values import (
    AGE_DAYS,
    DEFAULT_SEGMENT,
    DUE_DAYS,
    KINDS,
    OPT_OUT_DAYS,
    RETENTION_SECONDS,
    Change,
    ChangeKind,
    IdentityKey,
    Run,
    StateRow,
    StateStatistics,
)
from uid2_async.errors import InputError, JobError
from uid2_async.models import IdentityScope, IdentityType
from uid2_async.protocol import base64
from uid2_async.protocol.raw_uid import RAW_UID_SIZES, raw_uid_version

_PURGED: Final = "(purged)"
DELTA: Final = ""
"""The entry for the delta of a run among the names of its inputs."""
RESUME_SECONDS: Final = 86_400
"""How long after its start a run can be resumed, or its summary returned again."""

# --- runs -----------------------------------------------------------------------------


def start_run(
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
                _bind_state(db, name, str(value))
        last = None if job is None else _last_run(db, job)
        # An older one would work with an old clock: opt-outs would stay unseen.
        if last and not last.ended and last.started >= started - RESUME_SECONDS:
            return last
        db.connection.execute(
            "INSERT INTO run (job, segment, started, epoch) VALUES (?, ?, ?, ?)",
            (job, segment, started, db.epoch),
        )
        return list_runs(db)[-1]


def _bind_state(db: StateDatabase, name: str, value: str) -> None:
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


def _last_run(db: StateDatabase, job: str) -> Run | None:
    """Return the last run of *job*."""
    return next((run for run in reversed(list_runs(db)) if run.job == job), None)


def set_file_done(db: StateDatabase, run: Run, name: str, detail: str) -> None:
    """Record that the output of an input of *run* has its final name."""
    db.connection.execute(
        "INSERT OR REPLACE INTO file_done VALUES (?, ?, ?)", (run.number, name, detail)
    )


def unfinished_deltas(db: StateDatabase, job: str | None) -> list[str]:
    """Return the details of complete deltas whose runs of *job* have not ended."""
    rows = db.connection.execute(
        "SELECT detail FROM file_done JOIN run ON number = run"
        " WHERE name = ? AND job IS ? AND NOT ended",
        (DELTA, job),
    )
    return [detail for (detail,) in rows.fetchall()]


def files_done(db: StateDatabase, run: Run) -> dict[str, str]:
    """Return the details of the inputs of *run* whose outputs are done."""
    rows = db.connection.execute(
        "SELECT name, detail FROM file_done WHERE run = ?", (run.number,)
    )
    return dict(rows.fetchall())


def finished_run(
    db: StateDatabase, job: str, now: int
) -> tuple[str, dict[str, str]] | None:
    """Return the summary and files of the last run of *job*, if it has ended."""
    last = _last_run(db, job)
    if last is None or not last.ended or last.started < now - RESUME_SECONDS:
        return None
    files = files_done(db, last)
    (summary,) = db.connection.execute(
        "SELECT summary FROM run WHERE number = ?", (last.number,)
    ).fetchone()
    return (summary, files) if summary and files else None


def forget_files(db: StateDatabase, job: str) -> None:
    """Forget the files of the runs of *job*, so that it can be done once more."""
    db.connection.execute(
        "DELETE FROM file_done WHERE run IN (SELECT number FROM run WHERE job = ?)",
        (job,),
    )


def finish(
    db: StateDatabase, run: Run, *, exported: bool, summary: str | None = None
) -> None:
    """End *run* in one transaction; *exported* means that its delta is durable."""
    given = {
        "run": run.number,
        "summary": summary,
        "epoch": db.epoch,
        "before": run.started - RETENTION_SECONDS,
        "stale": run.started - RESUME_SECONDS,
    }
    purged = exported and db.meta("purged")
    parts = [_FORGET_PURGED] * bool(purged) + [_EXPORT] * exported + [_END]
    with db.transaction():
        if exported:
            _withhold(db)
        for statement in ";".join(parts).split(";"):
            db.connection.execute(statement, given)
    db.epoch += exported


_FORGET_PURGED: Final = f"""DELETE FROM history_row WHERE epoch = :epoch AND EXISTS (
    SELECT 1 FROM mapping_row AS m WHERE m.identity = history_row.identity
    AND m.kind = history_row.kind AND m.reason = '{_PURGED}');
    INSERT OR REPLACE INTO meta VALUES ('purged', 0), ('{REWRITE}', 1)"""
# The next epoch number is enough to count everything as exported.
_EXPORT: Final = f"""
    DELETE FROM mapping_row WHERE removed IS NOT NULL;
    UPDATE mapping_row AS m SET exported = NULL WHERE changed = :epoch AND uid IS NULL
        AND reason IS NOT '{OPTED_OUT}' AND {REPLACED} <> '';
    UPDATE run SET exported = :epoch WHERE number = :run;
    DELETE FROM file_done WHERE name = '{DELTA}' AND run <> :run
        AND run IN (SELECT number FROM run WHERE NOT ended);
    UPDATE meta SET value = :epoch + 1 WHERE name = 'epoch'"""
_END: Final = """
    UPDATE mapping_row SET previous_uid = NULL, previous_since = NULL
        WHERE previous_since <= :before;
    DELETE FROM history_row WHERE epoch < (
        SELECT min(epoch) FROM run WHERE started > :before);
    DELETE FROM file_done WHERE run IN (
        SELECT number FROM run WHERE started < :stale);
    UPDATE run SET ended = 1, summary = :summary WHERE number = :run"""

# --- changes --------------------------------------------------------------------------

_CHANGES: Final = f"""SELECT {KEY_COLUMNS},
    json_group_array({CHANGE.format(said="said")}), json_group_array(uid),
    json_group_array(nullif(said, '')) FROM ({{page}})"""
_PENDING: Final = f"""SELECT identity, kind, uid, reason, {EXPORTED_UID} AS said
    FROM mapping_row AS m WHERE {PENDING} AND"""
_PENDING_PAGE: Final = _CHANGES.format(
    page=f"{_PENDING} {AFTER} ORDER BY identity, kind LIMIT :limit"
)
# What was exported before an epoch: the earliest later change shows it, unless the
# identity was added even later. A delta that says REMOVED ends an opt-out: who comes
# back after it is ADDED, as in the deltas.
_HISTORY_PAGE: Final = _CHANGES.format(
    page=f"""SELECT k.identity, k.kind,
        CASE WHEN m.exported <= :epoch THEN m.uid END AS uid, m.reason,
        CASE WHEN h.replaced = '' AND m.exported >= :since THEN NULL
            WHEN h.added < :since THEN h.replaced
            WHEN h.added IS NULL AND m.exported < :since THEN coalesce(m.uid, '')
            END AS said
    FROM (SELECT identity, kind FROM history_row WHERE {AFTER} AND epoch >= :since
        UNION SELECT identity, kind FROM mapping_row
        WHERE {AFTER} AND exported BETWEEN :since AND :epoch
        ORDER BY identity, kind LIMIT :limit) AS k
    LEFT JOIN mapping_row AS m USING (identity, kind)
    LEFT JOIN history_row AS h ON h.identity = k.identity AND h.kind = k.kind
        AND h.epoch = (SELECT min(epoch) FROM history_row AS e
            WHERE e.identity = k.identity AND e.kind = k.kind
            AND e.epoch >= :since)"""
)
_CHANGES_OF: Final = f"{ASKED} {_CHANGES.format(page=f'{_PENDING} {IN_KEYS}')}"
_CHANGE_KINDS: Final = msgspec.json.Decoder(list[ChangeKind | None])


def changes_page(
    db: StateDatabase, since: int | None, after: Position, limit: int
) -> tuple[list[Change], Position | None]:
    """List the changes after a position; return also the next position.

    These are the pending changes that the job has not written yet, or the net changes
    compared to what was exported before the epoch *since*.
    """
    statement = _PENDING_PAGE if since is None else _HISTORY_PAGE
    position = {"identity": after[0], "last_kind": after[1], "limit": limit}
    keys, bits, changes = _read_changes(db, statement, {"since": since, **position})
    following = (keys[-1], bits[-1]) if len(keys) == limit else None
    return changes if since is not None else _drop_handled(db, changes), following


def changes_of(
    db: StateDatabase, kind: IdentityType, identities: Sequence[bytes]
) -> dict[bytes, StateRow]:
    """Return the pending changes of *identities*, also of those purged."""
    found: dict[bytes, StateRow] = {}
    for _, given in key_parameters(kind.bit, sort_distinct(identities)):
        for one in _read_changes(db, _CHANGES_OF, given)[2]:
            found[one.identity] = StateRow(
                raw_uid=one.uid, change=one.change, old_uid=one.old_uid
            )
    return found


def _read_changes(
    db: StateDatabase, statement: str, given: dict[str, Any]
) -> tuple[list[bytes], list[int], list[Change]]:
    """Read the identities that *statement* selects, their kinds and the changes."""
    *key_columns, change_text, uid_text, old_text = db.connection.execute(
        statement, {"epoch": db.epoch, **given}
    ).fetchone()
    keys, bits = decode_keys(*key_columns)
    uids = strip_checksums(keys, UIDS.decode(uid_text))
    old_uids = strip_checksums(keys, UIDS.decode(old_text))
    kinds = _CHANGE_KINDS.decode(change_text)
    columns: tuple[Any, ...] = (map(kind_of, bits), keys, kinds, uids, old_uids)
    return keys, bits, [one for one in map(Change, *columns) if one.change]


def _drop_handled(db: StateDatabase, page: list[Change]) -> list[Change]:
    """Leave out changes that the job has already written or withheld."""
    for name in ("written", "withheld") if db.has_scratch else ():
        handled = db.spill(name)
        if handled.count:
            page = [
                one for one in page if not handled.contains(one.kind.bit, one.identity)
            ]
    return page


def mark_written(
    db: StateDatabase, kind: IdentityType, identities: Sequence[bytes]
) -> None:
    """Leave out of the pending changes what the delta has; it is not withheld."""
    db.spill("written").add(kind.bit, identities)
    if db.meta("withheld"):
        for _, keys in key_parameters(kind.bit, sort_distinct(identities)):
            db.connection.execute(_RELEASE, {"epoch": db.epoch, **keys})


def _withhold(db: StateDatabase) -> None:
    """Keep what the delta has not added, because of its row, for a later one."""
    if not db.has_scratch or not db.spill("withheld").count:
        return
    withheld, written = db.spill("withheld"), db.spill("written")
    db.set_meta("withheld", 1)
    for part in range(withheld.parts):
        for kind, keys in withheld.read(part):
            some = [one for one in keys if not written.contains(kind, one)]
            for _, given in key_parameters(kind, some):
                db.connection.execute(_WITHHOLD, {"epoch": db.epoch, **given})


_WITHHOLD: Final = f"""{ASKED} UPDATE mapping_row SET exported = {WITHHELD}
    WHERE {IN_KEYS} AND {PENDING} AND uid IS NOT NULL"""
_RELEASE: Final = f"""{ASKED} UPDATE mapping_row SET exported = :epoch
    WHERE {IN_KEYS} AND exported = {WITHHELD}"""


def export_page(
    db: StateDatabase, now: int, after: Position, limit: int
) -> tuple[list[tuple[IdentityKey, StateRow]], Position | None]:
    """List the identities after a position, with their rows; and the next position."""
    keys, bits, following = keys_after(
        db, "mapping_row", "removed IS NULL", {}, after, limit
    )
    rows: dict[tuple[int, bytes], StateRow | None] = {}
    for bit, some in by_kind(keys, bits):
        for group, _, found in find_rows(db, now, bit, some):
            rows.update(zip([(bit, key) for key in group], found, strict=True))
    page = [
        (IdentityKey(kind_of(bit), key), row)
        for key, bit in zip(keys, bits, strict=True)
        if (row := rows[bit, key]) is not None
    ]
    return page, following


# --- removal --------------------------------------------------------------------------

_OTHER_MEMBER: Final = """EXISTS (SELECT 1 FROM segment AS s CROSS JOIN member AS o
    ON o.segment = s.number AND o.identity = m.identity AND o.kind = m.kind)"""
_FORGET: Final = f"""DELETE FROM mapping_row AS m WHERE {IN_KEYS} AND {{condition}}
    AND NOT coalesce(({EXPORTED_UID}) <> '', 0)"""
_FORGET_CHANGE: Final = f"""DELETE FROM history_row WHERE {IN_KEYS} AND epoch = :epoch
    AND NOT EXISTS (SELECT 1 FROM mapping_row AS m
    WHERE m.identity = history_row.identity AND m.kind = history_row.kind)"""
_MARK: Final = f"""UPDATE mapping_row AS m SET removed = coalesce(removed, :started),
    changed = CASE WHEN uid IS NULL THEN changed ELSE :epoch END,
    uid = NULL, previous_uid = NULL, previous_since = NULL, refresh_from = NULL,
    bucket = NULL, reason = {{reason}} WHERE {IN_KEYS} AND {{condition}}"""


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
        db.connection.execute(f"{ASKED} {statement}", {**given, **keys})
        if template is not _FORGET_CHANGE:
            removed += db.connection.execute("SELECT changes()").fetchone()[0]
    return removed


def remove_absent(db: StateDatabase, run: Run, segment: str, max_removed: float) -> int:
    """Remove people of *segment* who are neither staged nor in another segment.

    See :func:`check_absent`, which comes before the operator is asked.
    All steps can be repeated: nothing that they need is deleted before they are done.
    """
    check_absent(db, segment, max_removed)
    with db.transaction():
        db.connection.execute(
            "UPDATE run SET removed = removed + ? WHERE number = ?",
            (_remove_members(db, run, segment), run.number),
        )
    for part in range(db.spill("staged").parts):
        with db.transaction():
            for kind, identities in db.spill("staged").read(part):
                add_members(db, segment, kind, identities)
    (removed,) = db.connection.execute(
        "SELECT removed FROM run WHERE number = ?", (run.number,)
    ).fetchone()
    return int(removed)


def check_absent(db: StateDatabase, segment: str, max_removed: float) -> None:
    """Reject an input that lacks too many people of *segment*.

    People that no delta has contained yet do not count: an aborted job with the wrong
    input may have added them.
    """
    if not db.has_scratch or not db.spill("staged").count:
        raise JobError(
            "The input contains no valid identity, so the whole audience would be "
            "removed.",
            hint="Check the input and its columns. To remove people, use "
            "uid2 state purge.",
        )
    if max_removed >= 1:
        return
    members = absent = 0
    for _, keys, gone in _absent_members(db, segment, _IS_EXPORTED):
        members, absent = members + len(keys), absent + len(gone)
    if absent > max_removed * members:
        raise JobError(
            f"{absent} of the {members} identities of the segment are missing "
            f"from the input: more than {max_removed:.1%} would be removed.",
            hint="Check that the input is the whole audience, or allow a larger share "
            "(`max_removed`).",
        )


_IS_EXPORTED: Final = """NOT EXISTS (SELECT 1 FROM mapping_row AS x
    WHERE x.identity = m.identity AND x.kind = m.kind
    AND coalesce(x.exported >= :epoch, true))"""


def _absent_members(
    db: StateDatabase, segment: str, condition: str = "true"
) -> Iterator[tuple[int, list[bytes], list[bytes]]]:
    """Read the members of *segment*: the kind, some of them, and who is not staged.

    The default segment also has the mapped people who are in no segment.
    """
    staged = db.spill("staged")
    given = {"segment": segment_number(db, segment), "epoch": db.epoch}
    sources = [("member", "segment = :segment")]
    if segment == DEFAULT_SEGMENT:
        sources.append(("mapping_row", f"uid IS NOT NULL AND NOT {_OTHER_MEMBER}"))
    for table, where in sources:
        at: Position | None = FIRST_PAGE
        while at is not None:
            keys, kinds, at = keys_after(
                db, f"{table} AS m", f"{where} AND {condition}", given, at
            )
            for kind, some in by_kind(keys, kinds):
                gone = [one for one in some if not staged.contains(kind, one)]
                yield kind, some, gone


def _remove_members(db: StateDatabase, run: Run, segment: str) -> int:
    """Remove the members who are not staged; return how many were removed."""
    given = {"started": run.started, "epoch": db.epoch}
    number = segment_number(db, segment)
    condition, removed = f"removed IS NULL AND NOT {_OTHER_MEMBER}", 0
    for kind, _, gone in _absent_members(db, segment):
        for _, keys in key_parameters(kind, gone):
            db.connection.execute(
                f"{ASKED} DELETE FROM member WHERE segment = :segment AND {IN_KEYS}",
                {**keys, "segment": number},
            )
            removed += _remove(db, given, keys, condition)
    return removed


def purge(
    db: StateDatabase,
    now: int,
    people: Sequence[IdentityKey],
    raw_uids: Sequence[str],
    suppress: bool,
) -> int:
    """Delete people so that they can no longer be read from the files.

    If a delta has exported a person's UID, UID and identity are kept until the next
    delta has reported the removal. Returns the number of people found.
    """
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
        db.set_meta(REWRITE, 1)
    db.suppressed.update(digests)
    db.rewrite()
    return purged


def _purge_kind(
    db: StateDatabase, now: int, kind: IdentityType, identities: list[bytes]
) -> int:
    """Delete people of one type from all tables; return how many were found."""
    given = {"started": now, "epoch": db.epoch}
    purged = 0
    for _, keys in key_parameters(kind.bit, sort_distinct(identities)):
        for where in ("history_row WHERE epoch < :epoch AND", "member WHERE"):
            statement = f"{ASKED} DELETE FROM {where} {IN_KEYS}"
            db.connection.execute(statement, {**given, **keys})
        purged += _remove(db, given, keys, "true", _PURGED)
    return purged


def _find_by_uid(db: StateDatabase, raw_uids: Sequence[str]) -> list[IdentityKey]:
    """Find the identities with these UIDs, now or in the last export."""
    if not raw_uids:
        return []
    given, previous = plain_uid("uid"), plain_uid("previous_uid")
    rows = db.connection.execute(
        "WITH wanted(uid) AS MATERIALIZED (SELECT value FROM json_each(?))"
        f" SELECT identity, kind FROM mapping_row WHERE {given} IN wanted"
        f" OR {previous} IN wanted"
        f" UNION SELECT identity, kind FROM history_row"
        f" WHERE {plain_uid('replaced')} IN wanted",
        (to_json(list(raw_uids)),),
    )
    return [IdentityKey(kind_of(bit), identity) for identity, bit in rows.fetchall()]


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
    total(CASE WHEN {PENDING} THEN ({CHANGE_NOW}) IS NOT NULL END),
    total({DUE}), min(checked)
    FROM mapping_row AS m WHERE {IN_RANGE} GROUP BY 1, 2, 3, 4, 5, 6"""


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
            totals["row", kind_of(kind), str(status)] += number
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
