"""The client's half of identity/map v3 and v2, identity/buckets and optout/status.

See docs/protocol.md 2.4 to 2.7. A prepared query records how to restore the order of
the input from the reply.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Sized
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import msgspec

from uid2_async._private import RedactedRepr
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
from uid2_async.protocol.wire import Call

MAP_V3_PATH: Final = "/v3/identity/map"
MAP_V2_PATH: Final = "/v2/identity/map"

# The size limit of a reply, far more than the rows that fit into one request need.
MAP_REPLY_BYTES: Final = 8 * 1024 * 1024

_KINDS_OF: Final[dict[type, str]] = {
    one: one.kind for one in (Email, EmailHash, Phone, PhoneHash)
}
_INVALID: Final = MapRow(reason=UnmappedReason.INVALID_IDENTIFIER.value)

# Called for each identity, by functions that already strip tracebacks.
_kind_and_value = unwrapped(kind_and_value)


class _MapV3Body(msgspec.Struct):
    email: list[MapRow] = []
    email_hash: list[MapRow] = []
    phone: list[MapRow] = []
    phone_hash: list[MapRow] = []


class _MappedV2(RedactedRepr, frozen=True):
    identifier: str
    advertising_id: str
    bucket_id: str | None = None


class _UnmappedV2(RedactedRepr, frozen=True):
    identifier: str
    reason: str


class _MapV2Body(msgspec.Struct):
    mapped: list[_MappedV2] = []
    unmapped: list[_UnmappedV2] = []


class MapQuery(RedactedRepr, frozen=True, kw_only=True):
    """The identities of one call, prepared for sending.

    Attributes:
        identities: The identities that the caller passed.
        order: The key under which each identity is sent, or None if it is invalid and
            not sent.
        values: The values to send, by key. They are the JSON of a v3 request.
    """

    identities: Sequence[Identity | str]
    order: Sequence[str | None]
    values: Mapping[str, list[str]]

    def kinds(self) -> Iterator[str]:
        """Yield the kind of each identity, which is hashed if it was sent so."""
        for key, one in zip(self.order, self.identities, strict=True):
            yield key or _kind_and_value(one)[0]


def prepare_map(
    identities: Sequence[Identity | str], *, send_raw: bool = False
) -> MapQuery:
    """Normalize and hash *identities*. Invalid ones are not sent.

    Most batches have only one kind. They are hashed together, which takes half the
    time.

    Raises:
        InputError: If an element is neither an identity nor a str. The message names
            its index.
    """
    alike = None if send_raw else values_of_one_kind(identities)
    if alike is None:
        return _prepare_each(identities, send_raw=send_raw)
    kind, values = alike
    found = many_identity_bytes(kind, values)
    key = HASH_KINDS[kind]
    valid = list(filter(None, found))
    order: list[str | None] = [key] * len(found)
    if len(valid) < len(found):
        order = [None if data is None else key for data in found]
    sent = {key: base64.encode_texts(valid)} if valid else {}
    return MapQuery(identities=identities, order=order, values=sent)


def values_of_one_kind(
    identities: Sequence[Any],
) -> tuple[str, Sequence[str]] | None:
    """Return the kind and the values of *identities*, or None if the kinds differ.

    Only uses calls that handle all identities at once. Among strings, a phone is
    recognized by its first character. An email with a line end may be mistaken for one,
    which is safe because None is always a valid result.
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
    """Put *rows*, which are grouped by key, into the order of *query*."""
    for found in rows.values():
        if len(found) == len(query.order):
            # All identities were sent under one key, so the rows are in order.
            return IdentityMap(query.identities, found)
    each = {key: iter(found) for key, found in rows.items()}
    aligned = [_INVALID if key is None else next(each[key]) for key in query.order]
    return IdentityMap(query.identities, aligned)


def parse_map_v3_rows(
    payload: bytes, values: Mapping[str, Sized]
) -> dict[str, list[MapRow]]:
    """Parse the decrypted reply to a v3 map request into rows by key.

    A raw UID that is empty, or has a reason not to use it, is left out.

    Raises:
        ProtocolError: If a list does not have the length of the one in *values*, or the
            reply does not have the documented structure. Rows are never guessed.
    """
    body = wire.read_body(payload, _MapV3Body)
    rows = {}
    for key, sent in values.items():
        found: list[MapRow] = getattr(body, key)
        if len(found) != len(sent):
            raise ProtocolError(
                f"The reply has {len(found)} rows for {len(sent)} values.",
                path=f"body.{key}",
            )
        # This runs for every row, so it calls nothing.
        if [
            row
            for row in found
            if (not row.raw_uid or row.reason is not None) and row.raw_uid is not None
        ]:
            found = list(map(_without_unusable_uid, found))
        rows[key] = found
    return rows


def _without_unusable_uid(row: MapRow) -> MapRow:
    usable = row.raw_uid and row.reason is None
    return row if usable else MapRow(reason=row.reason)


def map_v3_call(query: MapQuery) -> Call[Mapping[str, Sequence[MapRow]]]:
    """Build an identity/map v3 call, which returns rows by key."""
    return Call(
        path=MAP_V3_PATH,
        payload=wire.encode(query.values),
        parse=partial(parse_map_v3_rows, values=query.values),
        binary=True,
        max_reply_bytes=MAP_REPLY_BYTES,
    )


def map_v2_call(
    key: str, values: Sequence[str], *, link_id: str | None = None
) -> Call[list[MapRow]]:
    """Build an identity/map v2 call, which accepts only one kind of identity."""
    return Call(
        path=MAP_V2_PATH,
        payload=build_map_v2_request(key, values, link_id=link_id),
        parse=partial(parse_map_v2_reply, values=values),
        max_reply_bytes=MAP_REPLY_BYTES,
    )


def build_map_v2_request(
    key: str, values: Sequence[str], *, link_id: str | None = None
) -> bytes:
    """Build the JSON of a v2 map request, which accepts only one kind of identity."""
    fields: dict[str, object] = {key: values}
    if link_id is not None:
        fields["link_id"] = link_id
    return wire.encode(fields)


_CONTRADICTION: Final = "The reply has different rows for one identity."


def parse_map_v2_reply(payload: bytes, values: Sequence[str]) -> list[MapRow]:
    """Parse the decrypted reply to a v2 map request, into one row for each of *values*.

    Raises:
        ProtocolError: If the reply has no row for one of *values*, or different rows
            for one of them.
    """
    body = wire.read_body(payload, _MapV2Body)
    rows: dict[str, MapRow] = {}
    for one in body.mapped:
        row = MapRow(raw_uid=one.advertising_id or None, bucket_id=one.bucket_id)
        if rows.setdefault(one.identifier, row) != row:
            raise ProtocolError(_CONTRADICTION, path="body.mapped")
    for other in body.unmapped:
        row = MapRow(reason=other.reason)
        if rows.setdefault(other.identifier, row) != row:
            raise ProtocolError(_CONTRADICTION, path="body.unmapped")
    found = [rows.get(value) for value in values]
    if None in found:
        raise ProtocolError("The reply has no row for a sent identity.", path="body")
    return [row for row in found if row is not None]


BUCKETS_PATH: Final = "/v2/identity/buckets"
_BUCKETS_BYTES: Final = 128 * 1024 * 1024


class _WireBucket(msgspec.Struct):
    bucket_id: str
    last_updated: datetime  # sent without a time zone, in UTC


def buckets_call(since: datetime) -> Call[list[Bucket]]:
    """Build a call that asks which buckets have rotated since *since*.

    Raises:
        InputError: If *since* is naive.
    """
    # In UTC, the first and the last day of the calendar may be out of range.
    ms = min(max(ms_from_datetime(since), wire.FIRST_MS), wire.LAST_MS)
    utc = datetime_from_ms(ms).replace(tzinfo=None)
    text = utc.isoformat(timespec="milliseconds")
    return Call(
        path=BUCKETS_PATH,
        payload=wire.encode({"since_timestamp": text}),
        parse=_parse_buckets_reply,
        max_reply_bytes=_BUCKETS_BYTES,
    )


def _parse_buckets_reply(payload: bytes) -> list[Bucket]:
    """Parse the decrypted reply, in the operator's order."""
    buckets = wire.read_body(payload, list[_WireBucket])
    return [
        Bucket(one.bucket_id, one.last_updated.replace(tzinfo=UTC)) for one in buckets
    ]


STATUS_PATH: Final = "/v2/optout/status"


class OptedOutUID(RedactedRepr, frozen=True):
    """One opted-out raw UID in a reply, with the time in ms."""

    advertising_id: str
    opted_out_since: wire.EpochMs


class _StatusBody(msgspec.Struct):
    opted_out: list[OptedOutUID]


def status_call(raw_uids: Sequence[str]) -> Call[OptOutStatus]:
    """Build a call that asks for the opt-out status of *raw_uids*."""
    return Call(
        path=STATUS_PATH,
        payload=build_status_request(raw_uids),
        parse=partial(parse_status_reply, raw_uids=raw_uids),
    )


def build_status_request(raw_uids: Sequence[str]) -> bytes:
    """Build the JSON that asks for the opt-out status of *raw_uids*."""
    return wire.encode({"advertising_ids": raw_uids})


def parse_status_reply(payload: bytes, raw_uids: Sequence[str]) -> OptOutStatus:
    """Parse the decrypted reply, which lists only the raw UIDs that are opted out.

    Raises:
        ProtocolError: If it does not have the documented structure, or lists a raw UID
            that is not one of *raw_uids*.
    """
    found = wire.read_body(payload, _StatusBody).opted_out
    if not {one.advertising_id for one in found} <= set(raw_uids):
        raise ProtocolError(
            "The reply lists a raw UID that was not sent.", path="body.opted_out"
        )
    return OptOutStatus(
        {one.advertising_id: datetime_from_ms(one.opted_out_since) for one in found}
    )


strip_tracebacks(globals())
