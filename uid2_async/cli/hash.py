"""``uid2 hash``: what the operator makes of identities, without asking it."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Annotated

import typer

from uid2_async.cli.failure import ExitCode, complain
from uid2_async.cli.options import CountryOption, FileOption, Kind, KindOption
from uid2_async.cli.values import as_kind, read_lines
from uid2_async.errors import InputError
from uid2_async.phones import PhoneFault, check_country, to_sendable
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
    country: CountryOption = None,
) -> None:
    """Normalize and hash identities on this machine; nothing is sent.

    One line for each value, in order: its type, a tab, and the SHA-256 in base64 that
    the operator would make of it, or INVALID. Hashes given in hex come out in base64.
    Exits with 3 if a value is invalid.
    """
    if country is not None:
        if kind is not Kind.PHONE:
            raise InputError("--country is for phones alone: add --type phone.")
        check_country(country)
    reasons: Counter[str] = Counter()
    for value in read_lines(values or [], file):
        name, digest = _hash(value, kind, country)
        if isinstance(digest, PhoneFault):
            reasons[digest.sentence] += 1
            digest = None
        elif digest is None:
            reasons[""] += 1
        sys.stdout.write(f"{name}\t{digest or 'INVALID'}\n")
    if reasons:
        _complain_about(reasons)
        raise typer.Exit(ExitCode.INCOMPLETE)


def _hash(
    value: str, kind: Kind | None, country: str | None
) -> tuple[str, str | PhoneFault | None]:
    """Name the type of *value* and hash it, or say why there is no hash."""
    if country is not None:
        found = to_sendable(value, country)
        if isinstance(found, PhoneFault):
            return Kind.PHONE, found
        value = found
    identity = as_kind(value, kind)
    return identity.kind, identity_hash(identity)


def _complain_about(reasons: Counter[str]) -> None:
    """Tell how many values are invalid, and of phones how many for which reason."""
    complain(f"Invalid values: {reasons.total()}.")
    for sentence, count in reasons.most_common():
        if sentence:
            complain(f"{count} of them: {sentence}")
