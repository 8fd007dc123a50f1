"""``uid2 hash``: normalize and hash identities as the operator does, locally."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

from uid2_async.bulk.paths import Content, FileFormatOptions
from uid2_async.cli.options import (
    CountryOption,
    FormatOptions,
    Kind,
    KindOption,
    with_shared_options,
)
from uid2_async.cli.rows import (
    Columns,
    RowFiles,
    RowJob,
    column_option,
    values_option,
)
from uid2_async.errors import InputError
from uid2_async.phones import PhoneFault, check_country, to_sendable
from uid2_async.protocol import base64
from uid2_async.protocol.normalize import (
    HASH_KINDS,
    identity_bytes,
    many_identity_bytes,
)

INVALID: Final = "INVALID_IDENTIFIER"


@with_shared_options
def hash_identities(
    *,
    values: Annotated[
        list[str] | None, values_option("--value", "VALUE", "An identity")
    ] = None,
    column: Annotated[str | None, column_option("the identities", "INPUT")] = None,
    kind: KindOption = None,
    country: CountryOption = None,
    files: RowFiles,
    formats: FormatOptions,
) -> None:
    """Normalize and hash identities locally.

    Nothing is sent. Every row and column of IN is kept, in order; HASH, HASH_TYPE and
    HASH_STATUS are appended. With --value, the results are printed as JSON, one per
    line.

    HASH is the SHA-256 in base64, as the operator computes it; a hash in hex is
    converted to base64. HASH_TYPE is email_hash or phone_hash. HASH_STATUS is empty
    (null) for a hashed identity, else INVALID_IDENTIFIER; with --country, it says why a
    phone number is invalid. Exits with 3 if an identity cannot be hashed.
    """
    if country is not None:
        if kind is not Kind.PHONE:
            raise InputError("--country applies only to phones. Add --type phone.")
        check_country(country)

    def hash_some(values: Sequence[Sequence[str]]) -> Columns:
        (identities,) = values
        if country is not None:
            return _hash_phones(identities, country)
        return _hash(identities, kind)

    RowJob(
        option="--value",
        values=values or (),
        files=files,
        options=FileFormatOptions(**formats),
        wanted={"--column": column or "INPUT"},
        named=bool(column),
        added=dict.fromkeys(("HASH", "HASH_TYPE", "HASH_STATUS"), Content.TEXT),
        result="a hash",
    ).run(lambda: hash_some)


def _hash(identities: Sequence[str], kind: Kind | None) -> Columns:
    """Hash identities of one kind, or of the kind that each one's form shows."""
    if kind is None:
        kinds = [Kind.PHONE if one[:1] == "+" else Kind.EMAIL for one in identities]
        found = list(map(identity_bytes, kinds, identities))
        types = [HASH_KINDS[one] for one in kinds]
    else:
        found = many_identity_bytes(kind, identities)
        types = [HASH_KINDS[kind]] * len(identities)
    hashes = base64.encode_texts([one or b"" for one in found])
    if None not in found:
        return hashes, types, [None] * len(found)
    return (
        [text or None for text in hashes],
        [name if text else None for text, name in zip(hashes, types, strict=True)],
        [None if text else INVALID for text in hashes],
    )


def _hash_phones(identities: Sequence[str], country: str) -> Columns:
    """Hash phone numbers in the national format of a country."""
    found = [to_sendable(one, country) for one in identities]
    # An empty string keeps the position of a fault.
    texts = ["" if isinstance(one, PhoneFault) else one for one in found]
    hashes, types, failed = _hash(texts, Kind.PHONE)
    reasons = [
        one.code if isinstance(one, PhoneFault) else why
        for one, why in zip(found, failed, strict=True)
    ]
    return hashes, types, reasons
