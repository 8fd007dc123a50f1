"""What goes from a state into files, and who is to be forgotten."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

from uid2_async.bulk.delta_task import write_delta
from uid2_async.bulk.files import FilePair, check_targets
from uid2_async.bulk.files.output import beside
from uid2_async.bulk.in_thread import in_thread
from uid2_async.bulk.private_files import open_private, replace
from uid2_async.bulk.run_options import now
from uid2_async.bulk.state import IdentityKey, MappingState, StateRow
from uid2_async.errors import InputError
from uid2_async.models import IdentityType
from uid2_async.protocol import base64
from uid2_async.protocol.normalize import HASH_KINDS, READERS
from uid2_async.protocol.raw_uid import inspect_raw_uid

__all__ = ["delta_since", "export_state", "purge_people"]

_EXPORTED: Final = (
    "INPUT_TYPE",
    "IDENTITY_HASH",
    "UID",
    "PREV_UID",
    "REFRESH_FROM",
    "UNMAPPED",
    "BUCKET_ID",
    "CHECKED",
)


async def export_state(state: MappingState, target: Path, *, force: bool) -> int:
    """Write everything that *state* knows as CSV, whole or not at all.

    Args:
        state: It must be open.
        target: Where to.
        force: Whether an existing file may be replaced.

    Returns:
        How many identities there are.
    """
    check_targets([FilePair(state.path, target)], force=force, begun=False)
    unfinished = beside(target)
    count = 0
    with os.fdopen(open_private(unfinished), "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_EXPORTED)
        async for page in state.export(now=now()):
            count += len(page)
            await in_thread(partial(writer.writerows, [_cells(*one) for one in page]))
    await in_thread(partial(replace, unfinished, target))
    return count


def _cells(key: IdentityKey, row: StateRow) -> list[str | int | None]:
    """Write what is known about one identity as cells."""
    reason = None if row.mapped else (row.e or "").upper()
    return [
        f"{key.kind}_hash",
        base64.encode_text(key.identity),
        row.u,
        row.p,
        row.r,
        reason,
        row.bucket_id,
        row.c,
    ]


async def delta_since(
    state: MappingState, target: Path, number: int, *, force: bool
) -> int:
    """Write what has changed since run *number* began; nothing counts as told by it.

    Returns:
        How many changes there are.

    Raises:
        InputError: If there was no such run.
    """
    runs = {run.number: run for run in await state.runs()}
    if number not in runs:
        raise InputError(
            "There was no such run.",
            hint=f"The last one was {max(runs, default=0)} (uid2 state show).",
        )
    check_targets([FilePair(state.path, target)], force=force, begun=False)
    return await write_delta(
        state, target, after=runs[number].after, until=await state.last_seq()
    )


async def purge_people(
    state: MappingState, lines: Sequence[str], *, kind: str | None, remember: bool
) -> int:
    """Forget the people that *lines* name: e-mails, phones, hashes or raw UIDs.

    Args:
        state: It must be open.
        lines: The names. What may be a hash of an e-mail, one of a phone, and a raw
            UID, is taken for all of them.
        kind: What they all are; by default each tells it.
        remember: Whether a digest of each is kept, so that it is not added again.

    Returns:
        How many were known.

    Raises:
        InputError: If a line names nobody; says which.
    """
    keys: list[IdentityKey] = []
    uids: list[str] = []
    for number, line in enumerate(lines, 1):
        found = list(_keys(line, kind))
        if kind is None and inspect_raw_uid(line) is not None:
            uids.append(line)
        elif not found:
            raise InputError(
                f"Line {number} is no e-mail, phone, hash or raw UID.",
                hint="One a line is needed; --type says what they are.",
            )
        keys += found
    run = await state.begin(now=now())
    count = await state.purge(run, identities=keys, raw_uids=uids, remember=remember)
    await state.finish(run, told_until=None)
    return count


def _keys(text: str, kind: str | None) -> list[IdentityKey]:
    """List whom *text* may name."""
    if kind is None and not text.startswith("+") and "@" not in text:
        kinds = list(dict.fromkeys(HASH_KINDS.values()))
    else:
        kinds = [kind or ("phone" if text.startswith("+") else "email")]
    found = [(one, READERS[one](text)) for one in kinds]
    return [
        IdentityKey(IdentityType(one.partition("_")[0]), identity)
        for one, identity in found
        if identity is not None
    ]
