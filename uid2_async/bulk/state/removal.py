"""Who is gone: from a whole audience, or purged on request.

Whoever was told in a delta leaves a row of status ``removed`` behind, which ends when
the next delta has told that, too; of others nothing stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

import msgspec

from uid2_async.bulk.state.reading import ASKED, IDENTITY, STORED, by_size
from uid2_async.bulk.state.schema import transaction
from uid2_async.bulk.state.store import KINDS, Store
from uid2_async.bulk.state.stored import COLUMNS, remove
from uid2_async.bulk.state.values import IdentityKey, Run
from uid2_async.errors import JobError
from uid2_async.models import IdentityType

__all__ = ["mark_present", "purge", "remove_absent"]

_CHUNK: Final = 5_000
_INSERT: Final = f"INSERT INTO mapping VALUES (?, ?{', ?' * len(COLUMNS)})"
_FIRST_BYTES: Final = [bytes([first]) for first in range(256)]


def mark_present(
    store: Store,
    run: Run,
    segment: str,
    kind: IdentityType,
    identities: Sequence[bytes],
) -> None:
    """Note that the input of *run* holds *identities*.

    They are kept by their first byte, so that what is written goes to few places, and
    can later be sorted part by part.
    """
    connection = store.connection
    with transaction(connection):
        call = (store.meta("calls") or 0) + 1
        store.set_meta("calls", call)
        for size, places in by_size(identities).items():
            some = identities if places is None else [identities[at] for at in places]
            connection.execute(
                f"{ASKED} INSERT OR IGNORE INTO present"
                f" SELECT :run, :segment, substr({IDENTITY}, 1, 1), :call, {IDENTITY},"
                " :kind FROM asked",
                {
                    "run": run.number,
                    "segment": segment,
                    "call": call,
                    "kind": kind.bit,
                    "keys": b"".join(some),
                    "size": size,
                    "count": len(some),
                },
            )


def remove_absent(store: Store, run: Run, segment: str, most: float) -> int:
    """Remove who was in *segment* before *run* and is not any more, nor in another.

    Raises:
        JobError: If that is more than the share *most* of the segment.
    """
    connection = store.connection
    (members,) = connection.execute(
        "SELECT count(*) FROM member WHERE segment = ?", (segment,)
    ).fetchone()
    absent = list(_find_absent(store, run, segment))
    if len(absent) > most * members:
        raise JobError(
            f"{len(absent)} of the {members} identities of the segment are missing "
            f"from the input: more than {most:.1%} would be removed.",
            hint="Check that the input is the whole audience, or allow a larger share.",
        )
    store.pending.merge()
    with transaction(connection):
        connection.executemany(
            "DELETE FROM member WHERE segment = ? AND identity = ? AND kind = ?",
            ((segment, key.identity, key.kind.bit) for key in absent),
        )
        others = _list_segments(store, but=segment)
        gone = [key for key in absent if not _is_member(store, key, others)]
        removed = _remove(store, run, gone)
    _take_over(store, run, segment)
    return removed


def _find_absent(store: Store, run: Run, segment: str) -> Iterator[IdentityKey]:
    """Find the members of *segment* whom *run* has not seen."""
    for first in _FIRST_BYTES:
        found = store.connection.execute(
            "SELECT identity, kind FROM member WHERE segment = :segment"
            " AND identity >= :first AND identity < :next"
            " EXCEPT SELECT identity, kind FROM present WHERE run = :run"
            " AND segment = :segment AND first = :first",
            {
                "segment": segment,
                "run": run.number,
                "first": first,
                "next": _next(first),
            },
        )
        for identity, bit in found:
            yield IdentityKey(KINDS[bit], identity)


def _next(first: bytes) -> bytes:
    """Give the least key behind all that begin with *first*."""
    return b"\xff" * 64 if first == _FIRST_BYTES[-1] else bytes([first[0] + 1])


def _take_over(store: Store, run: Run, segment: str) -> None:
    """Make members of whom *run* has seen, in the order of their keys."""
    connection = store.connection
    for first in _FIRST_BYTES:
        with transaction(connection):
            connection.execute(
                "INSERT OR IGNORE INTO member SELECT segment, identity, kind"
                " FROM present WHERE run = ? AND segment = ? AND first = ?"
                " ORDER BY identity, kind",
                (run.number, segment, first),
            )
    with transaction(connection):
        connection.execute(
            "DELETE FROM present WHERE run = ? AND segment = ?", (run.number, segment)
        )


def _list_segments(store: Store, *, but: str) -> list[str]:
    """List the names of the other segments, each found behind the one before it."""
    found = store.connection.execute(
        "WITH RECURSIVE name(segment) AS (SELECT min(segment) FROM member UNION ALL"
        " SELECT (SELECT min(segment) FROM member WHERE segment > name.segment)"
        " FROM name WHERE segment IS NOT NULL)"
        " SELECT segment FROM name WHERE segment IS NOT NULL AND segment <> ?",
        (but,),
    )
    return [segment for (segment,) in found]


def _is_member(store: Store, key: IdentityKey, segments: Sequence[str]) -> bool:
    """Tell whether *key* is in any of *segments*."""
    found = (
        store.connection.execute(
            "SELECT 1 FROM member WHERE segment = ? AND identity = ? AND kind = ?",
            (segment, key.identity, key.kind.bit),
        ).fetchone()
        for segment in segments
    )
    return any(found)


def _remove(store: Store, run: Run, keys: Iterable[IdentityKey]) -> int:
    """Remove *keys*, all of which are merged; return how many were known."""
    removed = 0
    for kind in KINDS:
        each = iter([key.identity for key in keys if key.kind is kind])
        while chunk := list(islice(each, _CHUNK)):
            removed += _remove_kind(store, run, kind.bit, chunk)
    return removed


def _remove_kind(store: Store, run: Run, bit: int, identities: list[bytes]) -> int:
    """Remove identities of one type."""
    connection = store.connection
    olds = store.pending.read(bit, identities, STORED, {})
    known = [(key, old) for key, old in zip(identities, olds, strict=True) if old]
    connection.executemany(
        "DELETE FROM mapping WHERE identity = ? AND kind = ?",
        ((key, bit) for key, _ in known),
    )
    for key, old in known:
        row = remove(
            old, now=run.started, told_seq=store.told_seq, next_seq=store.next_seq
        )
        if old.seq > store.told_seq and (row is None or row.seq != old.seq):
            connection.execute("DELETE FROM change WHERE seq = ?", (old.seq,))
        if row is None:
            continue
        connection.execute(_INSERT, (key, bit, *msgspec.structs.astuple(row)))
        if row.seq == store.next_seq:
            store.next_seq += 1
            connection.execute(
                "INSERT INTO change (seq, run, identity, kind, change, old_uid)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (row.seq, run.number, key, bit, row.change, row.told_uid),
            )
    return len(known)


def purge(
    store: Store,
    run: Run,
    identities: Sequence[IdentityKey],
    raw_uids: Sequence[str],
    remember: bool,
) -> int:
    """Delete identities so that they cannot be read from the files any more.

    Of whom a delta has told the UID, that and the identity are kept until the next one
    has told that they are removed.

    Returns:
        How many were known.
    """
    connection = store.connection
    store.pending.merge()
    keys = list(dict.fromkeys([*identities, *_find_by_uid(store, raw_uids)]))
    with transaction(connection):
        for kind in KINDS:
            each = iter([key.identity for key in keys if key.kind is kind])
            while chunk := list(islice(each, _CHUNK)):
                _erase_traces(store, kind.bit, chunk)
        first = store.next_seq
        removed = _remove(store, run, keys)
        connection.execute("UPDATE change SET purged = 1 WHERE seq >= ?", (first,))
        if remember:
            store.forget(keys)
    store.empty_wal()
    return removed


def _erase_traces(store: Store, bit: int, identities: list[bytes]) -> None:
    """Erase what lies about identities outside of ``mapping``.

    An untold removal stays, as one that is erased once it is told.
    """
    untold = "change = 'REMOVED' AND seq > :told"
    statements = [
        f"DELETE FROM change WHERE NOT ({untold})",
        f"UPDATE change SET purged = 1 WHERE {untold}",
        "DELETE FROM member WHERE 1",
        "DELETE FROM present WHERE 1",
    ]
    for size, places in by_size(identities).items():
        some = identities if places is None else [identities[at] for at in places]
        for statement in statements:
            store.connection.execute(
                f"{ASKED} {statement} AND kind = :kind"
                f" AND identity IN (SELECT {IDENTITY} FROM asked)",
                {
                    "keys": b"".join(some),
                    "size": size,
                    "count": len(some),
                    "kind": bit,
                    "told": store.told_seq,
                },
            )


def _find_by_uid(store: Store, raw_uids: Sequence[str]) -> list[IdentityKey]:
    """Find whose UIDs these are, or were when they were told last."""
    if not raw_uids:
        return []
    found = store.connection.execute(
        "WITH wanted(uid) AS MATERIALIZED (SELECT value FROM json_each(?))"
        " SELECT identity, kind FROM mapping WHERE uid IN wanted OR prev IN wanted"
        " OR told_uid IN wanted",
        (msgspec.json.encode(list(raw_uids)).decode(),),
    )
    return [IdentityKey(KINDS[bit], identity) for identity, bit in found]
