"""Immutable values: the identities that calls take, and the results they return.

Times are aware UTC datetimes. No repr contains DII, a token, a UID or a key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cached_property
from importlib import import_module
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Final,
    TypeAlias,
    overload,
)

import msgspec

from uid2_async._private import RedactedRepr
from uid2_async._traceback import strip_traceback, strip_tracebacks
from uid2_async.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_LAST_SECOND = 253_402_300_799  # 9999-12-31T23:59:59Z, the last that datetime holds


def datetime_from_ms(ms: int) -> datetime:
    """Convert ms since the Unix epoch to an aware UTC datetime.

    Raises:
        OverflowError: If the time is outside the years 1 to 9999.
    """
    return _EPOCH + timedelta(milliseconds=ms)


def ms_from_datetime(instant: datetime) -> int:
    """Convert an aware datetime to ms since the Unix epoch, rounded down.

    Raises:
        InputError: If *instant* is naive, because its time zone is unknown.
    """
    if instant.tzinfo is None:
        raise InputError(
            "The datetime has no time zone.",
            hint="Pass an aware datetime, such as datetime.now(UTC).",
        )
    return (instant - _EPOCH) // _MS


class IdentityScope(StrEnum):
    """The two systems that use this protocol."""

    UID2 = "UID2"
    EUID = "EUID"

    @property
    def bit(self) -> int:
        """The bit for the scope in tokens and raw UIDs, 0 or 1."""
        return 0 if self is IdentityScope.UID2 else 1


class IdentityType(StrEnum):
    """What an identity is derived from."""

    EMAIL = "email"
    PHONE = "phone"

    @property
    def bit(self) -> int:
        """The bit for the type in tokens and raw UIDs, 0 or 1."""
        return 0 if self is IdentityType.EMAIL else 1


class _Identity(RedactedRepr, frozen=True, gc=False):
    """Directly identifying information (DII), which the repr hides.

    This is a struct, because lists of millions of hashes are wrapped in these.
    """

    value: str

    kind: ClassVar[str]
    identity_type: ClassVar[IdentityType]
    hashed: ClassVar[bool] = False

    # msgspec looks it up when it creates the class.
    @strip_traceback
    def __post_init__(self) -> None:
        """Reject a value that is not a string, without quoting it."""
        if not isinstance(self.value, str):
            raise InputError(
                f"{type(self).__name__} takes a str, not {type(self.value).__name__}."
            )

    def __repr__(self) -> str:
        """Show only the type."""
        return f"{type(self).__name__}(***)"


class Email(_Identity, frozen=True, gc=False):
    """An email address, in any form that the operator normalizes.

    Example:
        >>> result = await client.map_identities([Email("User@Example.com")])

    Attributes:
        value: The address as given (docs/protocol.md 3.1).
        kind: Its key in requests.
    """

    kind = "email"
    identity_type = IdentityType.EMAIL


class Phone(_Identity, frozen=True, gc=False):
    """A phone number in E.164 format: ``+`` and 10 to 15 digits (docs/protocol.md 3.2).

    Example:
        >>> result = await client.map_identities([Phone("+4930123456")])

    Attributes:
        value: The number as given.
        kind: Its key in requests.
    """

    kind = "phone"
    identity_type = IdentityType.PHONE

    @classmethod
    def parse(cls, text: str, *, country: str | None = None) -> Phone:
        """Parse a phone number in national or international format (extra ``phone``).

        Args:
            text: A number such as ``030 123456`` or ``+49 30 123456``.
            country: The two-letter code of the country whose format it has. Not needed
                for a number that starts with its country code.

        Raises:
            InputError: If it is not a valid number of the country, or the extra is not
                installed. The message never contains the number.

        Example:
            >>> Phone.parse("030 123456", country="DE").value
            '+4930123456'
        """
        # Imported here, because few callers have national numbers.
        from uid2_async.phones import PhoneFault, to_e164  # noqa: PLC0415 - reason above

        found = to_e164(text, country)
        if isinstance(found, PhoneFault):
            raise InputError(found.sentence, hint=found.hint)
        return cls(found)


class EmailHash(_Identity, frozen=True, gc=False):
    """The SHA-256 of a normalized email address, in base64 or hex.

    See docs/protocol.md 3.3.

    Example:
        >>> digest = hashlib.sha256(b"user@example.com").hexdigest()
        >>> result = await client.map_identities([EmailHash(digest)])

    Attributes:
        value: The hash as given.
        kind: The key under which it is sent.
    """

    kind = "email_hash"
    identity_type = IdentityType.EMAIL
    hashed = True


class PhoneHash(_Identity, frozen=True, gc=False):
    """The SHA-256 of a normalized phone number, in base64 or hex.

    See docs/protocol.md 3.3.

    Attributes:
        value: The hash as given.
        kind: The key under which it is sent.
    """

    kind = "phone_hash"
    identity_type = IdentityType.PHONE
    hashed = True


Identity: TypeAlias = Email | Phone | EmailHash | PhoneHash


def kind_and_value(one: Identity | str) -> tuple[str, str]:
    """Return the kind and the value of an identity, as :func:`as_identity` reads it.

    This creates no object for a str, because bulk jobs call it millions of times.

    Raises:
        InputError: If *one* is neither an identity nor a str.
    """
    if type(one) is str:
        return ("phone" if one.startswith("+") else "email"), one
    identity = as_identity(one)
    return identity.kind, identity.value


def as_identity(value: Identity | str) -> Identity:
    """Return *value* as an identity. A str that starts with ``+`` is a phone number.

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


class OptedOut(msgspec.Struct, frozen=True):
    """The person has opted out. Use no identity for them, and do not ask again."""


class InsufficientConsent(msgspec.Struct, frozen=True):
    """The consent string does not allow an EUID (docs/protocol.md 2.1)."""


class UnmappedReason(StrEnum):
    """Why an identity has no raw UID."""

    OPTED_OUT = "optout"
    INVALID_IDENTIFIER = "invalid identifier"
    UNKNOWN = "unknown"


_Seconds: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=_LAST_SECOND)]


class _Datetimes(dict[int | None, datetime | None]):
    """Aware UTC datetimes by seconds since the Unix epoch, made on first use.

    A reply has few distinct values: the days on which the salt buckets rotate. Each row
    is looked up, for which an LRU cache would take 0.03 us longer.
    """

    def __missing__(self, seconds: int | None) -> datetime | None:
        if len(self) >= _MOST_DATETIMES:
            self.clear()
        self[seconds] = (
            None if seconds is None else datetime.fromtimestamp(seconds, UTC)
        )
        return self[seconds]


_MOST_DATETIMES: Final = 1024
_datetimes: Final = _Datetimes()


class MappedUID(RedactedRepr, frozen=True, gc=False, kw_only=True):
    """The raw UID of an identity.

    Attributes:
        raw_uid: An opaque, case-sensitive string of 44 base64 characters.
        previous_raw_uid: The raw UID before the last rotation. It is returned for 90
            days.
        refresh_from_s: *refresh_from* in seconds since the Unix epoch.
        bucket_id: The salt bucket. Only the v2 endpoint returns it.
        reason: Always None, as opposed to :class:`Unmapped`.
    """

    _repr_fields: ClassVar[tuple[str, ...]] = ("refresh_from", "bucket_id")
    reason: ClassVar[None] = None

    raw_uid: str
    previous_raw_uid: str | None = None
    refresh_from_s: int | None = None
    bucket_id: str | None = None

    @property
    def refresh_from(self) -> datetime | None:
        """When *raw_uid* can change at the earliest. None from the v2 endpoint."""
        return _datetimes[self.refresh_from_s]


class Unmapped(msgspec.Struct, frozen=True, gc=False):
    """An identity without a raw UID.

    Attributes:
        reason: Why there is none.
        detail: The operator's reason if *reason* is UNKNOWN.
        raw_uid: Always None, like the other attributes of :class:`MappedUID`. All
            results have the same attributes.
    """

    raw_uid: ClassVar[None] = None
    previous_raw_uid: ClassVar[None] = None
    refresh_from: ClassVar[None] = None
    refresh_from_s: ClassVar[None] = None
    bucket_id: ClassVar[None] = None

    reason: UnmappedReason
    detail: str | None = None


class MapRow(RedactedRepr, frozen=True, gc=False):
    """One row of a map reply as the operator sends it (docs/protocol.md 2.5 and 2.6).

    A reply has up to 5,000 rows, which are converted only when they are read.

    Attributes:
        raw_uid: The raw UID, or None if there is a *reason*.
        previous_raw_uid: The raw UID before the last rotation, or None.
        refresh_from_s: *refresh_from* in seconds since the Unix epoch.
        reason: The operator's reason for not returning a raw UID, or None.
        bucket_id: The salt bucket. Only the v2 endpoint returns it.
    """

    _repr_fields: ClassVar[tuple[str, ...]] = ("mapped",)

    raw_uid: str | None = msgspec.field(default=None, name="u")
    previous_raw_uid: str | None = msgspec.field(default=None, name="p")
    refresh_from_s: _Seconds | None = msgspec.field(default=None, name="r")
    reason: str | None = msgspec.field(default=None, name="e")
    bucket_id: str | None = None

    @property
    def mapped(self) -> bool:
        """Whether there is a valid raw UID."""
        return self.raw_uid is not None and self.reason is None

    @property
    def refresh_from(self) -> datetime | None:
        """When *raw_uid* can change at the earliest. None from the v2 endpoint."""
        return _datetimes[self.refresh_from_s]

    @property
    def result(self) -> MappedUID | Unmapped:
        """The row as a result, without a raw UID that must be ignored."""
        return _result(self)


def _result(row: MapRow) -> MappedUID | Unmapped:
    """Convert a row to a result. This runs for each row that is read."""
    if row.raw_uid is not None and row.reason is None:
        return MappedUID(
            raw_uid=row.raw_uid,
            previous_raw_uid=row.previous_raw_uid,
            refresh_from_s=row.refresh_from_s,
            bucket_id=row.bucket_id,
        )
    return _UNMAPPED.get(row.reason) or Unmapped(UnmappedReason.UNKNOWN, row.reason)


_UNMAPPED: Final[dict[str | None, Unmapped]] = {
    reason.value: Unmapped(reason) for reason in UnmappedReason
}


class IdentityMap(Sequence[MappedUID | Unmapped]):
    """The results of a map call, as a sequence in the order of the identities.

    Example:
        >>> result = await client.map_identities(["user@example.com"])
        >>> result[0].raw_uid
        >>> result.get("user@example.com")
        >>> for identity, row in result.items(): ...

    Attributes:
        identities: The identities as passed, in order, including duplicates.
    """

    __slots__ = ("__dict__", "_rows", "identities")

    def __init__(
        self, identities: Sequence[Identity | str], rows: Sequence[MapRow]
    ) -> None:
        """Create the results from the rows of a reply, one for each identity."""
        self.identities: Sequence[Identity | str] = identities
        self._rows = rows

    @cached_property
    def _index(self) -> dict[Identity, int]:
        return {as_identity(one): at for at, one in enumerate(self.identities)}

    @overload
    def __getitem__(self, index: int) -> MappedUID | Unmapped: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[MappedUID | Unmapped, ...]: ...

    def __getitem__(
        self, index: int | slice | Identity | str
    ) -> MappedUID | Unmapped | tuple[MappedUID | Unmapped, ...]:
        """Return the result of the identity at *index*, or a tuple for a slice.

        Raises:
            IndexError: If *index* is out of range.
            InputError: If *index* is an identity. Use :meth:`get` to look it up.
        """
        if isinstance(index, slice):
            return tuple(map(_result, self._rows[index]))
        if isinstance(index, str | _Identity):
            raise _use_get()
        return _result(self._rows[index])

    def get(self, identity: Identity | str) -> MappedUID | Unmapped | None:
        """Return the result of *identity*, or None if it was not in the call.

        Args:
            identity: An identity as passed to the call. A str equals its Email or
                Phone.

        Raises:
            InputError: If it is neither an identity nor a str.
        """
        at = self._index.get(as_identity(identity))
        return None if at is None else _result(self._rows[at])

    def items(self) -> Iterator[tuple[Identity | str, MappedUID | Unmapped]]:
        """Iterate over pairs of an identity, as passed, and its result."""
        return zip(self.identities, self, strict=True)

    def __contains__(self, result: object) -> bool:
        """Return whether one of the results equals *result*.

        Raises:
            InputError: If it is an identity. Use :meth:`get` to look it up.
        """
        if isinstance(result, str | _Identity):
            raise _use_get()
        return any(result == one for one in self)

    def __len__(self) -> int:
        """Return the number of results, including duplicates."""
        return len(self._rows)

    def __iter__(self) -> Iterator[MappedUID | Unmapped]:
        """Iterate over the results in the order of the input."""
        return map(_result, self._rows)

    def to_arrow(self) -> pa.Table:
        """Return a table: INPUT, INPUT_TYPE, and the columns that ``map_frame`` adds.

        Raises:
            InputError: If the extra ``frames`` is not installed.
        """
        table: pa.Table = _frames().to_arrow(self.identities, self._rows)
        return table

    def to_pandas(self) -> pd.DataFrame:
        """Return the table of :meth:`to_arrow` as a pandas DataFrame."""
        frame: pd.DataFrame = _frames().to_pandas(self.identities, self._rows)
        return frame

    def to_polars(self) -> pl.DataFrame:
        """Return the table of :meth:`to_arrow` as a polars DataFrame."""
        frame: pl.DataFrame = _frames().to_polars(self.identities, self._rows)
        return frame

    def __repr__(self) -> str:
        """Show only counts."""
        mapped = sum(row.mapped for row in self._rows)
        return f"<IdentityMap rows={len(self)} mapped={mapped}>"


def _frames() -> Any:
    """Import the integration by name, because models must not depend on it."""
    return import_module("uid2_async.integrations.frames")


def _use_get() -> InputError:
    """Return the error for an identity that is used as a key, without quoting it."""
    return InputError(
        "An IdentityMap is a sequence of results, not a mapping.",
        hint="Use .get(identity) to look one up.",
    )


class Bucket(msgspec.Struct, frozen=True):
    """A salt bucket and when it last rotated (docs/protocol.md 2.4)."""

    bucket_id: str
    last_updated: datetime


class OptOutStatus(RedactedRepr, frozen=True):
    """The raw UIDs of one optout/status call that have opted out.

    The operator does not find raw UIDs of version 4 in the environments *integ* and
    *prod* (docs/protocol.md 2.7). Map the identity again instead.

    Attributes:
        opted_out: The opted-out raw UIDs, with the time of the opt-out (in whole
            seconds).
    """

    opted_out: Mapping[str, datetime]

    def __contains__(self, raw_uid: object) -> bool:
        """Return whether the operator reported *raw_uid* as opted out."""
        return raw_uid in self.opted_out


strip_tracebacks(globals())
