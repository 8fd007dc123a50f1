"""The outcomes of identities and items in bulk jobs, and the progress of a job."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from functools import partial
from typing import ClassVar, Final, Generic, TypeAlias, TypeVar

import attrs
import msgspec

from uid2_async._traceback import strip_tracebacks
from uid2_async.models import MappedUID, MapRow, Unmapped, UnmappedReason
from uid2_async.phones import PhoneFault
from uid2_async.protocol import base64, wire
from uid2_async.protocol.mapping import (
    MAP_V2_PATH,
    MAP_V3_PATH,
    STATUS_PATH,
    build_map_v2_request,
    build_status_request,
    parse_map_v2_reply,
    parse_map_v3_rows,
    parse_status_reply,
)
from uid2_async.protocol.normalize import HASH_KINDS, KINDS, many_identity_bytes

T = TypeVar("T")


@attrs.frozen(kw_only=True)
class MapFailure:
    """An identity whose request failed. This is not an opt-out.

    Attributes:
        error: The name of the error's class, such as ``ServerError``.
        status: The HTTP status, or None if there was no HTTP response.
    """

    # These distinguish it from a mapped row without checking its class.
    raw_uid: ClassVar[None] = None
    reason: ClassVar[None] = None

    error: str
    status: int | None = None

    @property
    def code(self) -> str:
        """The error and status, for the column ERROR of a file."""
        return self.error if self.status is None else f"{self.error} {self.status}"


class OptOutRule(StrEnum):
    """What an opt-out of one identifier means for a row with several.

    ``any``: the person has opted out if any identifier is opted out. ``each``: the
    other identifiers still count.
    """

    ANY = "any"
    EACH = "each"


class InvalidPhone(MapRow, frozen=True, gc=False):
    """An invalid identifier for which the reason is known: see PhoneFault."""

    code: str = ""


Outcome: TypeAlias = MapRow | MapFailure

ABSENT: Final = MapRow()
"""The outcome of a cell without an identity."""

INVALID: Final = MapRow(reason=UnmappedReason.INVALID_IDENTIFIER.value)
"""The outcome of an identity that the operator would reject. It is not sent."""

UNKNOWN_KIND: Final = MapRow(reason="invalid input type")
"""The outcome of an identity whose kind the endpoint does not accept."""

INVALID_PHONES: Final = {
    fault: InvalidPhone(reason=INVALID.reason, code=fault.code) for fault in PhoneFault
}
"""The outcome of each fault of a phone number."""


class MapRecord(msgspec.Struct, Generic[T], gc=False, eq=False):
    """An input item and its outcome.

    Don't store a record on its own item. Records are not tracked by the garbage
    collector, which would otherwise run over the whole program every thousand records,
    so the cycle would leak.

    Attributes:
        item: The object from the caller's iterable.
        outcome: The row of the reply as decoded, or the failure.
    """

    item: T
    outcome: Outcome

    @property
    def result(self) -> MappedUID | Unmapped | MapFailure:
        """The result as a type of the public API."""
        if isinstance(self.outcome, MapFailure):
            return self.outcome
        return self.outcome.result

    def __repr__(self) -> str:
        """Show only the outcome, because the item may be DII."""
        return f"MapRecord(outcome={self.outcome!r})"


@attrs.frozen(kw_only=True)
class Progress:
    """How far a job is.

    Attributes:
        rows: Records handed out.
        mapped: Records with a raw UID.
        opted_out: Records of people who have opted out.
        invalid: Records that are invalid, or unmapped for an unknown reason.
        failed: Records whose request failed.
        duplicates: Records answered by the request for an earlier record.
        batches: Batches that are done.
        in_flight: Requests in flight.
        limit: The current limit of requests in flight.
        throttled: How often the operator asked to slow down.
    """

    rows: int = 0
    mapped: int = 0
    opted_out: int = 0
    invalid: int = 0
    failed: int = 0
    duplicates: int = 0
    batches: int = 0
    in_flight: int = 0
    limit: int = 0
    throttled: int = 0


# --- what the operator is asked -------------------------------------------------------

RAW_UID: Final = "raw_uid"
"""The kind of values that are raw UIDs."""

Values: TypeAlias = Mapping[str, Sequence[str] | Sequence[bytes]]
Replies: TypeAlias = Mapping[str, Sequence[MapRow]]

# The operator rejects bodies over 1 MiB. The envelope adds far less than 5 %.
_BODY_BYTES: Final = int(1024 * 1024 * 0.95)
_OPTED_OUT: Final = MapRow(reason=UnmappedReason.OPTED_OUT.value)


@attrs.frozen(kw_only=True)
class IdentityKind:
    """A kind of identity that an endpoint accepts.

    Attributes:
        name: The kind, such as ``phone`` or ``phone_hash``.
        subject: ``email``, ``phone`` or ``raw_uid``. A phone number and its hash are
            the same identity.
        key: The JSON key of its hashes.
        read: Returns the identity bytes of each value, None if it is invalid.
    """

    name: str
    subject: str
    key: str
    read: Callable[[Sequence[str]], list[bytes | None]]


@attrs.frozen(kw_only=True)
class Endpoint:
    """An endpoint that accepts many identities at once.

    Attributes:
        path: The path of its URL.
        kinds: The kinds of identity that it accepts, by name.
        ask: Builds the JSON of a request from values by key, as bytes or as text.
        read: Parses the decrypted reply to these values: one row per value, by key.
            Raises a ProtocolError if it does not have the documented shape.
        binary: Whether requests and replies use raw bytes instead of base64 text.
        one_kind: Whether all identities of a request must be of one kind.
        body_bytes: The maximum length of a request's JSON, with a margin.
    """

    path: str
    kinds: Mapping[str, IdentityKind]
    ask: Callable[[Values], bytes]
    read: Callable[[bytes, Values], Replies]
    binary: bool = False
    one_kind: bool = False
    # In base64, three bytes become four.
    body_bytes: int = _BODY_BYTES * 3 // 4


_PEOPLE: Final = {
    kind: IdentityKind(
        name=kind,
        subject=kind.partition("_")[0],
        key=HASH_KINDS[kind],
        read=partial(many_identity_bytes, kind),
    )
    for kind in KINDS
}


def _texts(values: Values) -> tuple[str, list[str]]:
    """Return the only key of *values* and the base64 of what is sent under it."""
    ((key, found),) = values.items()
    return key, [
        one if isinstance(one, str) else base64.encode_text(one) for one in found
    ]


def _read_v2(reply: bytes, values: Values) -> Replies:
    key, texts = _texts(values)
    return {key: parse_map_v2_reply(reply, texts)}


MAP_V3: Final = Endpoint(
    path=MAP_V3_PATH,
    kinds=_PEOPLE,
    # msgspec writes bytes as base64.
    ask=wire.encode,
    read=parse_map_v3_rows,
    binary=True,
    body_bytes=_BODY_BYTES,
)
"""identity/map v3: all four kinds in one request (docs/protocol.md 2.5)."""

MAP_V2: Final = Endpoint(
    path=MAP_V2_PATH,
    kinds=_PEOPLE,
    ask=lambda values: build_map_v2_request(*_texts(values)),
    read=_read_v2,
    one_kind=True,
)
"""identity/map v2, with salt buckets (docs/protocol.md 2.6)."""


def _read_raw_uid(text: str) -> bytes | None:
    """Decode a raw UID; return None for a spelling that no operator uses."""
    from uid2_async.protocol.raw_uid import inspect_raw_uid  # noqa: PLC0415 - imports cryptography

    data = base64.decode(text)
    if data is None or inspect_raw_uid(text) is None:
        return None
    return data if base64.encode_text(data) == text else None


def _read_status(reply: bytes, values: Values) -> Replies:
    key, uids = _texts(values)
    opted_out = parse_status_reply(reply, uids).opted_out
    return {
        key: [_OPTED_OUT if uid in opted_out else MapRow(raw_uid=uid) for uid in uids]
    }


OPTOUT_STATUS: Final = Endpoint(
    path=STATUS_PATH,
    kinds={
        RAW_UID: IdentityKind(
            name=RAW_UID,
            subject=RAW_UID,
            key=RAW_UID,
            read=lambda texts: list(map(_read_raw_uid, texts)),
        )
    },
    ask=lambda values: build_status_request(_texts(values)[1]),
    read=_read_status,
)
"""optout/status, which takes raw UIDs (docs/protocol.md 2.7)."""


strip_tracebacks(globals())
