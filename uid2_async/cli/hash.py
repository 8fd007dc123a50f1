"""``uid2 hash``: what the operator makes of identities, without asking it."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from uid2_async.cli.failure import ExitCode, complain
from uid2_async.cli.options import FileOption, KindOption
from uid2_async.cli.values import as_kind, read_lines
from uid2_async.protocol.normalize import identity_hash

__all__ = ["hash_values"]


def hash_values(
    values: Annotated[
        list[str] | None,
        typer.Argument(metavar="VALUE", help="Identities; - alone is stdin."),
    ] = None,
    *,
    file: FileOption = None,
    kind: KindOption = None,
) -> None:
    """Normalize and hash identities on this machine; nothing is sent.

    One line for each value, in order: its type, a tab, and the SHA-256 in base64 that
    the operator would make of it, or INVALID. Hashes given in hex come out in base64.
    Exits with 3 if a value is invalid.
    """
    invalid = 0
    for value in read_lines(values or [], file):
        identity = as_kind(value, kind)
        digest = identity_hash(identity)
        invalid += digest is None
        sys.stdout.write(f"{identity.kind}\t{digest or 'INVALID'}\n")
    if invalid:
        complain(f"Invalid values: {invalid}.")
        raise typer.Exit(ExitCode.INCOMPLETE)
