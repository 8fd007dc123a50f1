"""identity/map v3 and v2, identity/buckets and optout/status: the client's half.

docs/protocol.md 2.4 to 2.7. A prepared query remembers how to put its reply back into
the order of the input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from uid2_async._traceback import strip_tracebacks, unwrapped
from uid2_async.errors import InputError, ProtocolError
from uid2_async.models import (
    Bucket,
    Email,
    EmailHash,
    Identity,
    IdentityMap,
    MapRow,
    OptOutStatus,
    Phone,
    PhoneHash,
    UnmappedReason,
    datetime_from_ms,
    kind_and_value,
    ms_from_datetime,
)
from uid2_async.protocol import base64, wire
from uid2_async.protocol.normalize import (
    HASH_KINDS,
    KINDS,
    many_identity_bytes,
    sendable,
)
from uid2_async.protocol.reply import expect_success
from uid2_async.veiled import Veiled

MAP_V3_PATH: Final = "/v3/identity/map"
MAP_V2_PATH: Final = "/v2/identity/map"

# How large a reply may be: far more than the rows that fit into one request.
MAP_REPLY_BYTES: Final = 8 * 1024 * 1024

_KINDS_OF: Final[dict[type, str]] = {
    one: one.kind for one in (Email, EmailHash, Phone, PhoneHash)
}
_INVALID: Final = MapRow(reason=UnmappedReason.INVALID_IDENTIFIER.value)

# Called for each identity, by functions that are wrapped themselves.
_kind_and_value = unwrapped(kind_and_value)


class _MapV3Body(msgspec.Struct):
    email: list[MapRow] = []
    email_hash: list[MapRow] = []
    phone: list[MapRow] = []
    phone_hash: list[MapRow] = []


class _MapV3Reply(msgspec.Struct):
    status: str
    body: _MapV3Body | None = None


class _MappedV2(Veiled, frozen=True):
    identifier: str
    advertising_id: str
    bucket_id: str | None = None


class _UnmappedV2(Veiled, frozen=True):
    identifier: str
    reason: str


class _MapV2Body(msgspec.Struct):
    mapped: list[_MappedV2] = []
    unmapped: list[_UnmappedV2] = []


class _MapV2Reply(msgspec.Struct):
    status: str
    body: _MapV2Body | None = None


class MapQuery(Veiled, frozen=True, kw_only=True):
    """The identities of one call, ready to be sent.

    Attributes:
        identities: What the caller gave.
        order: For each of them the key under which it is sent, None if it is
            invalid and is not sent.
        values: What is sent, by key.
    """

    identities: Sequence[Identity | str]
    order: Sequence[str | None]
    values: Mapping[str, list[str]]


def prepare_map(
    identities: Sequence[Identity | str], *, send_raw: bool = False
) -> MapQuery:
    """Normalize and hash *identities*; invalid ones are kept back.

    Most batches are of one kind, and are hashed at once, which takes half of the time.

    Raises:
        InputError: If an element is neither an identity nor a str; names its index.
    """
    alike = None if send_raw else values_of_one_kind(identities)
    if alike is None:
        return _prepare_each(identities, send_raw=send_raw)
    kind, values = alike
    found = many_identity_bytes(kind, values)
    key = HASH_KINDS[kind]
    valid = [data for data in found if data is not None]
    order: list[str | None] = [key] * len(found)
    if len(valid) < len(found):
        order = [None if data is None else key for data in found]
    sent = {key: base64.encode_texts(valid)} if valid else {}
    return MapQuery(identities=identities, order=order, values=sent)


def values_of_one_kind(
    identities: Sequence[Any],
) -> tuple[str, Sequence[str]] | None:
    """Return the kind and the values of *identities*, or None if there are several.

    Found by calls that look at all of them; a phone among e-mails is found by its first
    character (an e-mail with a line end in it may be taken for one: None is safe).
    """
    types = set(map(type, identities))
    if len(types) != 1:
        return None
    (one,) = types
    if one is str:
        is_mixed = "\n+" in "\n".join(["", *identities])
        return None if is_mixed else ("email", identities)
    kind = _KINDS_OF.get(one)
    return None if kind is None else (kind, [each.value for each in identities])


def _prepare_each(identities: Sequence[Identity | str], *, send_raw: bool) -> MapQuery:
    """Prepare the identities one by one."""
    order: list[str | None] = []
    values: dict[str, list[str]] = {kind: [] for kind in KINDS}
    try:
        for one in identities:
            kind, value = _kind_and_value(one)
            field = sendable(kind, value, send_raw=send_raw)
            if field is None:
                order.append(None)
                continue
            order.append(field[0])
            values[field[0]].append(field[1])
    except InputError as error:
        reason = error.message
    else:
        sent = {key: texts for key, texts in values.items() if texts}
        return MapQuery(identities=identities, order=order, values=sent)
    raise InputError(f"Item {len(order)}: {reason}")


def align_map(query: MapQuery, rows: Mapping[str, Sequence[MapRow]]) -> IdentityMap:
    """Put *rows*, by key and as many as were sent, into the order of *query*."""
    for found in rows.values():
        if len(found) == len(query.order):
            # All were sent, under one key: they are in order.
            return IdentityMap(query.identities, found)
    each = {key: iter(found) for key, found in rows.items()}
    aligned = [_INVALID if key is None else next(each[key]) for key in query.order]
    return IdentityMap(query.identities, aligned)


def build_map_v3_request(query: MapQuery) -> bytes:
    """Build the JSON of a v3 map; no key beyond the four is allowed there."""
    return wire.encode(query.values)


def parse_map_v3_rows(
    payload: bytes, values: Mapping[str, Sized]
) -> dict[str, list[MapRow]]:
    """Read the opened reply to a v3 map: as many rows by key as *values* were sent.

    Raises:
        ProtocolError: If a list is not as long as what was sent, or the reply is not of
            the documented shape: rows are never guessed.
    """
    reply = wire.decode(payload, _MapV3Reply)
    expect_success(reply.status, reply.body)
    rows = {}
    for key, sent in values.items():
        found: list[MapRow] = getattr(reply.body, key)
        if len(found) != len(sent):
            raise ProtocolError(
                f"The reply has {len(found)} rows where {len(sent)} were sent.",
                path=f"body.{key}",
            )
        rows[key] = found
    return rows


def parse_map_v3_reply(payload: bytes, query: MapQuery) -> IdentityMap:
    """Read the opened reply to a v3 map and align it with *query*.

    Raises:
        ProtocolError: As :func:`parse_map_v3_rows`.
    """
    return align_map(query, parse_map_v3_rows(payload, query.values))


def build_map_v2_request(
    key: str, values: Sequence[str], *, link_id: str | None = None
) -> bytes:
    """Build the JSON of a v2 map, which takes one kind of identity at a time.

    Args:
        key: The kind, one of the four.
        values: What is sent.
        link_id: The service link, for API keys of a service.
    """
    fields: dict[str, object] = {key: values}
    if link_id is not None:
        fields["link_id"] = link_id
    return wire.encode(fields)


def parse_map_v2_reply(payload: bytes, values: Sequence[str]) -> list[MapRow]:
    """Read the opened reply to a v2 map, one row for each of *values*.

    Raises:
        ProtocolError: If one of *values* has no answer.
    """
    reply = wire.decode(payload, _MapV2Reply)
    expect_success(reply.status, reply.body)
    rows = {}
    body = reply.body or _MapV2Body()
    for one in body.mapped:
        rows[one.identifier] = MapRow(
            raw_uid=one.advertising_id, bucket_id=one.bucket_id
        )
    for other in body.unmapped:
        rows[other.identifier] = MapRow(reason=other.reason)
    found = [rows.get(value) for value in values]
    if None in found:
        raise ProtocolError("The reply lacks an identity that was sent.", path="body")
    return [row for row in found if row is not None]


BUCKETS_PATH: Final = "/v2/identity/buckets"


class _WireBucket(msgspec.Struct):
    bucket_id: str
    last_updated: datetime  # without zone on the wire, and UTC


class _BucketsReply(msgspec.Struct):
    status: str
    body: list[_WireBucket] | None = None


def build_buckets_request(since: datetime) -> bytes:
    """Build the JSON that asks which buckets rotated at *since* or later.

    Raises:
        InputError: If *since* is naive.
    """
    # In UTC, the first and the last day of the calendar may lie outside of it.
    ms = min(max(ms_from_datetime(since), wire.FIRST_MS), wire.LAST_MS)
    utc = datetime_from_ms(ms).replace(tzinfo=None)
    text = utc.isoformat(timespec="milliseconds")
    return wire.encode({"since_timestamp": text})


def parse_buckets_reply(payload: bytes) -> list[Bucket]:
    """Read the opened reply, in the operator's order.

    Raises:
        ProtocolError: If it is not of the documented shape.
    """
    reply = wire.decode(payload, _BucketsReply)
    expect_success(reply.status, reply.body)
    return [
        Bucket(one.bucket_id, one.last_updated.replace(tzinfo=UTC))
        for one in reply.body or ()
    ]


STATUS_PATH: Final = "/v2/optout/status"


class OptedOutUID(Veiled, frozen=True):
    """One opted-out raw UID of a reply; the time in ms."""

    advertising_id: str
    opted_out_since: wire.EpochMs


class _StatusBody(msgspec.Struct):
    opted_out: list[OptedOutUID]


class _StatusReply(msgspec.Struct):
    status: str
    body: _StatusBody | None = None


def build_status_request(raw_uids: Sequence[str]) -> bytes:
    """Build the JSON that asks for the status of *raw_uids*."""
    return wire.encode({"advertising_ids": raw_uids})


def parse_status_reply(payload: bytes) -> OptOutStatus:
    """Read the opened reply, which lists only raw UIDs that are opted out.

    Raises:
        ProtocolError: If it is not of the documented shape.
    """
    reply = wire.decode(payload, _StatusReply)
    expect_success(reply.status, reply.body)
    found = reply.body.opted_out if reply.body else []
    return OptOutStatus(
        {one.advertising_id: datetime_from_ms(one.opted_out_since) for one in found}
    )


strip_tracebacks(globals())
