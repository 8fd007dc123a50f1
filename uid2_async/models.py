"""Frozen values: identities in, results out.

Instants are aware UTC datetimes. No repr shows DII, a token, a UID or a key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeAlias

import attrs
import msgspec

from uid2_async._traceback import strip_traceback, strip_tracebacks
from uid2_async.errors import InputError
from uid2_async.veiled import Veiled

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa

__all__ = [
    "Bucket",
    "Email",
    "EmailHash",
    "Identity",
    "IdentityMap",
    "IdentityScope",
    "IdentityType",
    "InsufficientConsent",
    "MapRow",
    "MappedUID",
    "OptOutStatus",
    "OptedOut",
    "Phone",
    "PhoneHash",
    "Unmapped",
    "UnmappedReason",
    "as_identity",
    "datetime_from_ms",
    "kind_and_value",
    "ms_from_datetime",
]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_LAST_SECOND = 253_402_300_799  # 9999-12-31T23:59:59Z, the last that datetime holds


def datetime_from_ms(ms: int) -> datetime:
    """Turn *ms* since the Unix epoch into an aware UTC datetime.

    Raises:
        OverflowError: If the instant is outside of the years 1 to 9999.
    """
    return _EPOCH + timedelta(milliseconds=ms)


def ms_from_datetime(instant: datetime) -> int:
    """Turn an aware *instant* into whole ms since the Unix epoch, rounded down.

    Raises:
        InputError: If *instant* is naive: it could mean any zone.
    """
    if instant.tzinfo is None:
        raise InputError(
            "A datetime without a time zone was given.",
            hint="Pass an aware datetime, such as datetime.now(UTC).",
        )
    return (instant - _EPOCH) // _MS


class IdentityScope(StrEnum):
    """The two systems that speak this protocol."""

    UID2 = "UID2"
    EUID = "EUID"

    @property
    def bit(self) -> int:
        """The scope as it stands in tokens and raw UIDs, 0 or 1."""
        return 0 if self is IdentityScope.UID2 else 1


class IdentityType(StrEnum):
    """What an identity is made from."""

    EMAIL = "email"
    PHONE = "phone"

    @property
    def bit(self) -> int:
        """The type as it stands in tokens and raw UIDs, 0 or 1."""
        return 0 if self is IdentityType.EMAIL else 1


class _Identity(Veiled, frozen=True, gc=False):
    """One value of directly identifying information (DII); repr hides it.

    A struct, because lists of millions of hashes are wrapped into these.
    """

    value: str

    kind: ClassVar[str]
    identity_type: ClassVar[IdentityType]
    hashed: ClassVar[bool] = False

    # msgspec looks it up when the class is made.
    @strip_traceback
    def __post_init__(self) -> None:
        """Refuse what is no string, without showing it."""
        if not isinstance(self.value, str):
            raise InputError(
                f"{type(self).__name__} takes a str, not {type(self.value).__name__}."
            )

    def __repr__(self) -> str:
        """Show the kind alone."""
        return f"{type(self).__name__}(***)"


class Email(_Identity, frozen=True, gc=False):
    """An e-mail address, in any spelling that the operator normalizes.

    Attributes:
        value: The address as given (docs/protocol.md 3.1).
        kind: The key under which it is sent.
    """

    kind = "email"
    identity_type = IdentityType.EMAIL


class Phone(_Identity, frozen=True, gc=False):
    """A phone number in E.164 form: ``+`` and 10 to 15 digits (docs/protocol.md 3.2).

    Attributes:
        value: The number as given.
        kind: The key under which it is sent.
    """

    kind = "phone"
    identity_type = IdentityType.PHONE

    @classmethod
    def parse(cls, text: str, *, country: str | None = None) -> Phone:
        """Make a phone of a number as people write it; needs the extra ``phone``.

        Args:
            text: Such as ``030 123456`` or ``+49 30 123456``.
            country: The two letters of the country where it is written like that; a
                number with its country code needs none.

        Raises:
            InputError: If it is no valid number of the country, or the extra is not
                installed; says which, and never shows the number.

        Example:
            >>> Phone.parse("030 123456", country="DE").value
            '+4930123456'
        """
        # Few have national numbers, and the others do not pay for this.
        from uid2_async.phones import PhoneFault, to_e164  # noqa: PLC0415 - reason above

        found = to_e164(text, country)
        if isinstance(found, PhoneFault):
            raise InputError(found.sentence, hint=found.hint)
        return cls(found)


class EmailHash(_Identity, frozen=True, gc=False):
    """The SHA-256 of a normalized e-mail address, base64 or hex (docs/protocol.md 3.3).

    Attributes:
        value: The hash as given.
        kind: The key under which it is sent.
    """

    kind = "email_hash"
    identity_type = IdentityType.EMAIL
    hashed = True


class PhoneHash(_Identity, frozen=True, gc=False):
    """The SHA-256 of a normalized phone number, base64 or hex (docs/protocol.md 3.3).

    Attributes:
        value: The hash as given.
        kind: The key under which it is sent.
    """

    kind = "phone_hash"
    identity_type = IdentityType.PHONE
    hashed = True


Identity: TypeAlias = Email | Phone | EmailHash | PhoneHash


def kind_and_value(one: Identity | str) -> tuple[str, str]:
    """Name the kind and the value of an identity; a str as :func:`as_identity`.

    Makes no object of a str: this is done for each of the millions of a bulk job.

    Raises:
        InputError: If *one* is neither an identity nor a str.
    """
    if type(one) is str:
        return ("phone" if one.startswith("+") else "email"), one
    identity = as_identity(one)
    return identity.kind, identity.value


def as_identity(value: Identity | str) -> Identity:
    """Take an identity as it is; a str is a phone if it starts with ``+``, else e-mail.

    Raises:
        InputError: If *value* is neither an identity nor a str.
    """
    if isinstance(value, str):
        return Phone(value) if value.startswith("+") else Email(value)
    if isinstance(value, Email | Phone | EmailHash | PhoneHash):
        return value
    raise InputError(
        f"An identity is a str, Email, Phone, EmailHash or PhoneHash, "
        f"not {type(value).__name__}."
    )


@attrs.frozen
class OptedOut:
    """The person has opted out: use no identity for them, and do not ask again."""


@attrs.frozen
class InsufficientConsent:
    """The consent string does not allow an EUID (docs/protocol.md 2.1)."""


class UnmappedReason(StrEnum):
    """Why an identity has no raw UID."""

    OPTED_OUT = "optout"
    INVALID_IDENTIFIER = "invalid identifier"
    UNKNOWN = "unknown"


@attrs.frozen(kw_only=True)
class MappedUID:
    """The raw UID of an identity.

    Attributes:
        raw_uid: 44 characters of base64, opaque and case-sensitive.
        previous_raw_uid: The raw UID before the last rotation, for 90 days after it.
        refresh_from: Until when *raw_uid* cannot change; None from the v2 endpoint.
        bucket_id: The salt bucket, from the v2 endpoint only.
    """

    raw_uid: str = attrs.field(repr=False)
    previous_raw_uid: str | None = attrs.field(default=None, repr=False)
    refresh_from: datetime | None = None
    bucket_id: str | None = None


@attrs.frozen
class Unmapped:
    """An identity without raw UID.

    Attributes:
        reason: Why.
        detail: The operator's own word where *reason* is UNKNOWN.
    """

    reason: UnmappedReason
    detail: str | None = None


class MapRow(Veiled, frozen=True, gc=False):
    """One row of a map reply as it lies on the wire (docs/protocol.md 2.5 and 2.6).

    A struct and not a :class:`MappedUID`, because it is decoded 5,000 times a reply.

    Attributes:
        u: The raw UID, or None.
        p: The previous raw UID, or None.
        r: When to ask again, in seconds since the Unix epoch.
        e: Why there is no raw UID; where it is set, *u* does not count.
        bucket_id: The salt bucket, from the v2 endpoint only.
    """

    shown: ClassVar[tuple[str, ...]] = ("mapped",)

    u: str | None = None
    p: str | None = None
    r: Annotated[int, msgspec.Meta(ge=0, le=_LAST_SECOND)] | None = None
    e: str | None = None
    bucket_id: str | None = None

    @property
    def mapped(self) -> bool:
        """Whether there is a raw UID to use."""
        return self.u is not None and self.e is None

    def result(self) -> MappedUID | Unmapped:
        """Turn the row into its public form."""
        if self.u is not None and self.e is None:
            due = None if self.r is None else datetime_from_ms(self.r * 1000)
            return MappedUID(
                raw_uid=self.u,
                previous_raw_uid=self.p,
                refresh_from=due,
                bucket_id=self.bucket_id,
            )
        try:
            return Unmapped(UnmappedReason(self.e or ""))
        except ValueError:
            return Unmapped(UnmappedReason.UNKNOWN, self.e)


class IdentityMap:
    """What a map call answered, aligned with what was asked.

    Attributes:
        identities: What the caller gave, in order, duplicates included.
    """

    __slots__ = ("__dict__", "_wire", "identities")

    def __init__(
        self, identities: Sequence[Identity | str], wire: Sequence[MapRow]
    ) -> None:
        """Pair *identities* with the rows of the reply, one for each."""
        self.identities: Sequence[Identity | str] = identities
        self._wire = wire

    @cached_property
    def rows(self) -> tuple[MappedUID | Unmapped, ...]:
        """One result for each identity, in the order of the input."""
        return tuple([row.result() for row in self._wire])

    @property
    def wire_rows(self) -> Sequence[MapRow]:
        """The same as *rows*, as decoded: nothing is made of them, which is faster."""
        return self._wire

    @cached_property
    def _index(self) -> dict[Identity, int]:
        """Where each identity stands."""
        return {as_identity(one): at for at, one in enumerate(self.identities)}

    def __getitem__(self, identity: Identity | str) -> MappedUID | Unmapped:
        """Look up the result of *identity* by what the caller gave.

        Raises:
            KeyError: If it was not asked for; the error does not show it.
        """
        at = self._index.get(as_identity(identity))
        if at is None:
            raise KeyError("This identity was not in the call.")
        return self.rows[at]

    def __contains__(self, identity: object) -> bool:
        """Tell whether *identity* was asked for."""
        if not isinstance(identity, str | _Identity):
            return False
        return as_identity(identity) in self._index  # type: ignore[arg-type] # _Identity is private: its subclasses are the union

    def __len__(self) -> int:
        """Count the rows, duplicates included."""
        return len(self._wire)

    def __iter__(self) -> Iterator[tuple[Identity | str, MappedUID | Unmapped]]:
        """Go through pairs of what was given and its result."""
        return iter(zip(self.identities, self.rows, strict=True))

    def to_arrow(self) -> pa.Table:
        """Return a table: INPUT, INPUT_TYPE, and the columns that ``map_frame`` adds.

        Raises:
            InputError: If the extra ``frames`` is not installed.
        """
        table: pa.Table = _frames().to_arrow(self)
        return table

    def to_pandas(self) -> pd.DataFrame:
        """Return what :meth:`to_arrow` does as a DataFrame of pandas."""
        frame: pd.DataFrame = _frames().to_pandas(self)
        return frame

    def to_polars(self) -> pl.DataFrame:
        """Return what :meth:`to_arrow` does as a DataFrame of polars."""
        frame: pl.DataFrame = _frames().to_polars(self)
        return frame

    def __repr__(self) -> str:
        """Show counts alone."""
        mapped = sum(row.mapped for row in self._wire)
        return f"<IdentityMap rows={len(self)} mapped={mapped}>"


def _frames() -> Any:
    """Import the integration by its name: values do not depend on integrations."""
    return import_module("uid2_async.integrations.frames")


@attrs.frozen
class Bucket:
    """A salt bucket and when it last rotated (docs/protocol.md 2.4)."""

    bucket_id: str
    last_updated: datetime


@attrs.frozen
class OptOutStatus:
    """Which of the raw UIDs of one optout/status call are opted out.

    The operator does not find v4 raw UIDs of its environments *integ* and *prod* here
    (docs/protocol.md 2.7): mapping the identity again does.

    Attributes:
        opted_out: The raw UIDs that are opted out, and since when (whole seconds).
    """

    opted_out: Mapping[str, datetime] = attrs.field(repr=False)

    def __contains__(self, raw_uid: object) -> bool:
        """Tell whether *raw_uid* is known to be opted out."""
        return raw_uid in self.opted_out


strip_tracebacks(globals())
