"""``uid2 keys``: which keys an operator gives out, without their secrets."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from uid2_async.cli.failure import print_error
from uid2_async.cli.key_source import (
    KeysFileOption,
    KeysKind,
    kind_of,
    load_keys,
    save_keys,
)
from uid2_async.cli.options import SandboxOption, ScopeOption
from uid2_async.cli.printing import dump_json, print_lines
from uid2_async.cli.run_async import run_async
from uid2_async.models import IdentityScope, ms_from_datetime
from uid2_async.protocol.wire import iso

if TYPE_CHECKING:
    from uid2_async.protocol.keyring import Key, KeyRing

__all__ = ["list_keys"]

_COLUMNS = ("id", "keyset_id", "created", "activates", "expires", "state")


def list_keys(
    *,
    kind: Annotated[
        KeysKind, typer.Option("--keys", help="The keys of sharers, or of bidders.")
    ] = KeysKind.SHARING,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object.")
    ] = False,
    save: Annotated[
        str | None,
        typer.Option(
            "--save",
            metavar="FILE",
            help="Write the keys, secrets included, to FILE, which only you can read: "
            "for --keys-file.",
        ),
    ] = None,
    keys_file: KeysFileOption = None,
    sandbox: SandboxOption = False,
    scope: ScopeOption = IdentityScope.UID2,
) -> None:
    """List the keys of tokens, without their secrets."""
    ring = run_async(load_keys(kind, scope, sandbox=sandbox, file=keys_file))
    report = _describe(ring, ms_from_datetime(datetime.now(UTC)))
    if as_json:
        sys.stdout.write(dump_json(report, indent=2))
    else:
        print_lines(_lines(report))
    if save is not None:
        run_async(save_keys(ring, save))
        print_error(f"The keys are in {save}; guard it like the client secret.")


def _describe(ring: KeyRing, now_ms: int) -> dict[str, Any]:
    """Turn a ring into fields that JSON has, without secrets."""
    return {
        "kind": kind_of(ring).value,
        "identity_scope": ring.identity_scope.value,
        "caller_site_id": ring.caller_site_id,
        "master_keyset_id": ring.master_keyset_id,
        "default_keyset_id": ring.default_keyset_id,
        "token_expiry_seconds": ring.token_expiry_seconds,
        "max_sharing_lifetime_seconds": ring.max_sharing_lifetime_seconds,
        "max_bidstream_lifetime_seconds": ring.max_bidstream_lifetime_seconds,
        "allow_clock_skew_seconds": ring.allow_clock_skew_seconds,
        "keys": [_describe_key(key, now_ms) for key in ring.keys.values()],
    }


def _describe_key(key: Key, now_ms: int) -> dict[str, Any]:
    """Turn a key into fields."""
    if key.is_active(now_ms):
        state = "active"
    else:
        state = "future" if now_ms // 1000 < key.activates else "expired"
    return {
        "id": key.id,
        "keyset_id": key.keyset_id,
        "created": iso(key.created * 1000),
        "activates": iso(key.activates * 1000),
        "expires": iso(key.expires * 1000),
        "state": state,
    }


def _lines(report: dict[str, Any]) -> Iterator[str]:
    """Write the settings as lines of ``name: value``, and the keys as a table."""
    for name, value in report.items():
        if name != "keys" and value is not None:
            yield f"{name.replace('_', ' ')}: {value}"
    yield ""
    rows = [[name.upper().replace("_", " ") for name in _COLUMNS]]
    for key in report["keys"]:
        cells = [key[name] for name in _COLUMNS]
        rows.append(["-" if cell is None else str(cell) for cell in cells])
    yield from _align(rows)


def _align(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Pad cells, so that columns stand under each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(padded).rstrip()
