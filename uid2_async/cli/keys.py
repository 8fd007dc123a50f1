"""Keys for the commands, ``uid2 keys`` and ``uid2 buckets``."""

from __future__ import annotations

import csv
import sys
import warnings
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from uid2_async._private import printable
from uid2_async.bulk.paths import STDIO, attempt_read
from uid2_async.cli.connection import Connection, run_async
from uid2_async.cli.options import JsonOption, with_shared_options
from uid2_async.cli.output import dump_json, print_error, print_lines, print_message
from uid2_async.errors import InputError
from uid2_async.models import ms_from_datetime
from uid2_async.protocol.keyring import Key, KeyRing
from uid2_async.protocol.wire import iso

if TYPE_CHECKING:
    from uid2_async.keystore import KeyStore

_SETTINGS: Final = (
    *("identity_scope", "caller_site_id", "master_keyset_id", "default_keyset_id"),
    *("token_expiry_seconds", "max_sharing_lifetime_seconds"),
    *("max_bidstream_lifetime_seconds", "allow_clock_skew_seconds"),
)
_COLUMNS: Final = ("id", "keyset_id", "created", "activates", "expires", "state")


class KeysKind(StrEnum):
    """Which keys: for sharers or for bidders."""

    SHARING = "sharing"
    BIDSTREAM = "bidstream"


KeysOption = Annotated[
    KeysKind | None,
    typer.Option(
        "--keys",
        help="Fetch keys from the operator: those for sharers, or those for bidders.",
    ),
]
KeysFileOption = Annotated[
    str | None,
    typer.Option(
        "--keys-file",
        metavar="FILE",
        help="Use the keys saved by 'uid2 keys --save FILE'. Nothing is fetched.",
    ),
]


def load_keys(kind: KeysKind, connection: Connection, file: str | None) -> KeyRing:
    """Fetch keys of *kind* from the operator, or read them from *file*."""
    if file is None:
        if kind is KeysKind.SHARING:
            return connection.ask(lambda client: client.fetch_sharing_keys())
        return connection.ask(lambda client: client.fetch_bidstream_keys())
    if connection.sandbox:
        raise InputError("Give either --keys-file or --sandbox.")
    store = _store(KeyRing(keys={}))
    if not attempt_read(Path(file), lambda: store.load(file)):
        raise InputError(
            f"{file} cannot be read: it does not exist.",
            hint="Write it with 'uid2 keys --save FILE'.",
        )
    return store.ring


def kind_of(ring: KeyRing) -> KeysKind:
    """Return the kind of keys; only replies to sharers name the caller's site."""
    return KeysKind.BIDSTREAM if ring.caller_site_id is None else KeysKind.SHARING


def _store(ring: KeyRing) -> KeyStore:
    """Make a store for *ring*, which reads and writes the file format."""
    from uid2_async.keystore import KeyStore  # noqa: PLC0415 - imports aiohttp

    async def give() -> KeyRing:
        return ring

    return KeyStore(give)


# --- uid2 keys ------------------------------------------------------------------------


@with_shared_options()
def list_keys(
    *,
    kind: Annotated[
        KeysKind,
        typer.Option("--keys", help="The keys for sharers, or those for bidders."),
    ] = KeysKind.SHARING,
    as_json: JsonOption = False,
    save: Annotated[
        str | None,
        typer.Option(
            "--save",
            metavar="FILE",
            help="Write the keys, including their secrets, to FILE, for --keys-file. "
            "Only you can read it.",
        ),
    ] = None,
    keys_file: KeysFileOption = None,
    connection: Connection,
) -> None:
    """List the keys for tokens, without their secrets."""
    if save == STDIO:
        raise InputError("Keys are not written to stdout.", hint="Name a file.")
    if save is not None and (Path(save).is_dir() or not Path(save).parent.is_dir()):
        raise InputError(
            f"{save} cannot be written: it is a folder, or its folder does not exist.",
            hint="Correct --save.",
        )
    ring = load_keys(kind, connection, keys_file)
    report = _describe(ring, ms_from_datetime(datetime.now(UTC)))
    if as_json:
        sys.stdout.write(dump_json(report, indent=2))
    else:
        print_lines(_key_lines(report))
    if save is not None:
        store = _store(ring)
        run_async(store.ensure_fresh(0))
        store.save(save)
        print_error(f"The keys are saved in {save}. Protect it like the client secret.")


def _describe(ring: KeyRing, now_ms: int) -> dict[str, Any]:
    """Return the fields of ``--json``, without secrets."""
    return {
        "kind": kind_of(ring).value,
        **{name: getattr(ring, name) for name in _SETTINGS},
        "keys": [_describe_key(key, now_ms) for key in ring.keys.values()],
    }


def _describe_key(key: Key, now_ms: int) -> dict[str, Any]:
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


def _key_lines(report: dict[str, Any]) -> Iterator[str]:
    """Format the settings as ``name: value`` lines, and the keys as a table."""
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
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(padded).rstrip()


# --- uid2 buckets ---------------------------------------------------------------------


@with_shared_options()
def list_buckets(
    *,
    since: Annotated[
        str,
        typer.Option(
            "--since",
            metavar="TIME",
            help="An ISO 8601 time such as 2026-01-01T00:00; UTC unless it has a time "
            "zone.",
        ),
    ],
    output: Annotated[
        Literal["jsonl", "csv"],
        typer.Option("--format", help="One JSON object per line, or CSV."),
    ] = "jsonl",
    connection: Connection,
) -> None:
    """List the salt buckets that rotated at or after a time.

    The endpoint is past its announced end on the public service. 'uid2 map' returns
    when to refresh each raw UID.
    """
    instant = _parse_time(since)
    print_message(
        "warning",
        "note: identity/buckets is deprecated; REFRESH_FROM of map replaces it.",
    )
    with warnings.catch_warnings():
        # The note above says so already.
        warnings.simplefilter("ignore", DeprecationWarning)
        buckets = connection.ask(lambda client: client.identity_buckets(instant))
    if output == "jsonl":
        for one in buckets:
            sys.stdout.write(
                dump_json(
                    {"bucket_id": one.bucket_id, "last_updated": one.last_updated}
                )
            )
        return
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["bucket_id", "last_updated"])
    for one in buckets:
        time = one.last_updated.isoformat().replace("+00:00", "Z")
        writer.writerow([printable(one.bucket_id), time])


def _parse_time(text: str) -> datetime:
    """Parse a time, which is UTC if it has no time zone."""
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        instant = None
    if instant is None:
        raise InputError(
            "--since is not an ISO 8601 time.", hint="Write it as 2026-01-01T00:00."
        )
    return instant.replace(tzinfo=instant.tzinfo or UTC)
