"""The operator's half of identity/map v3 and v2, identity/buckets and optout/status.

See docs/protocol.md 2.4 to 2.7.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from uid2_async._private import RedactedRepr
from uid2_async.models import IdentityType, UnmappedReason
from uid2_async.operator.http_messages import (
    RefusedError,
    client_error,
    text_error,
    unknown_error,
)
from uid2_async.operator.indexes import AuthorizedRequest, DataIndex
from uid2_async.operator.java_text import (
    as_java_string,
    format_local_date_time,
    literal_text,
    parse_local_date_time,
    replace_surrogates,
)
from uid2_async.operator.salts import MappedRow
from uid2_async.operator.tokens import missing_message
from uid2_async.protocol import wire
from uid2_async.protocol.mapping import OptedOutUID
from uid2_async.protocol.normalize import KINDS, identity_bytes


class UnmappedRow(msgspec.Struct, frozen=True, gc=False):
    """An unmapped row of a v3 reply."""

    reason: str = msgspec.field(name="e")


def parse_map_v3_request(
    payload: Mapping[str, Any] | None, *, phones: bool = True
) -> dict[str, list[str]]:
    """Parse a v3 map request as the operator does: a strict schema, lenient elements.

    Args:
        payload: The request's JSON object, or None if it was empty.
        phones: Whether the operator supports phones. If not, its error message omits
            them, but it maps them nevertheless.

    Returns:
        The values by key. A key may be missing.

    Raises:
        RefusedError: If there is no key, an unknown key, or a value that is not a list
            of scalars.
    """
    if not payload:
        kinds = ", ".join(KINDS if phones else KINDS[:2])
        raise client_error(
            f"Required Parameter Missing: one or more of [{kinds}] must be specified"
        )
    values = {}
    for key, items in payload.items():
        if key not in KINDS or not isinstance(items, list | None):
            raise client_error("Incorrect request format")
        texts = [
            item if isinstance(item, str) else literal_text(item)
            for item in items or ()
        ]
        if None in texts:
            raise client_error("Incorrect request format")
        values[key] = [text for text in texts if text is not None]
    return values


def build_map_v3_reply(rows: Mapping[str, Sequence[MappedRow | UnmappedRow]]) -> bytes:
    """Build the reply to a v3 map request, which always contains all four keys."""
    body = {key: rows.get(key, ()) for key in KINDS}
    return wire.encode({"body": body, "status": "success"})


class MappedV2(RedactedRepr, frozen=True, gc=False):
    """A mapped identity of a v2 reply."""

    identifier: str | None
    advertising_id: str
    bucket_id: str


class UnmappedV2(RedactedRepr, frozen=True, gc=False):
    """An unmapped identity of a v2 reply."""

    identifier: str | None
    reason: str


class MapV2Request(RedactedRepr, frozen=True, kw_only=True):
    """A v2 map request as the operator reads it.

    Attributes:
        kind: The kind of the values. Meaningless if there are none.
        values: The values to map. Only phones may be None.
        link_id: The service link, with a JSON null as the text ``null``, or None if the
            key is absent.
    """

    kind: str
    values: list[str | None]
    link_id: str | None


def parse_map_v2_request(
    payload: Mapping[str, Any] | None, *, phones: bool
) -> MapV2Request:
    """Parse a v2 map request as the operator does.

    Raises:
        RefusedError: If the JSON has the wrong structure. A null element rejects the
            whole batch.
    """
    if payload is None:
        raise _unknown_v2()
    kind, items = _one_list(payload, phones=phones)
    texts = [as_java_string(item) for item in items]
    # Java encodes a lone surrogate as "?", both for the hash and for the reply.
    values = [None if text is None else replace_surrogates(text) for text in texts]
    if None in values and kind != "phone":
        raise _unknown_v2()
    return MapV2Request(
        kind=kind,
        values=values,
        link_id=_read_link_id(payload),
    )


def _one_list(payload: Mapping[str, Any], *, phones: bool) -> tuple[str, list[Any]]:
    """Find the one key with a non-empty list, checking keys in the operator's order.

    The first fault raises (docs/protocol.md 2.5).
    """
    chosen: tuple[str, list[Any]] | None = None
    is_there = False
    for key in KINDS if phones else KINDS[:2]:
        items = payload.get(key)
        if items is None:
            continue
        is_there = True
        if not isinstance(items, list):
            raise client_error(f"{key} must be an array")
        if items and chosen is not None:
            raise client_error(missing_message(phones=phones))
        chosen = (key, items) if items else chosen
    if not is_there:
        raise client_error(missing_message(phones=phones))
    return chosen or (KINDS[0], [])


def _read_link_id(payload: Mapping[str, Any]) -> str | None:
    """Return the service link. Java converts a null to the text ``null``."""
    if "link_id" not in payload:
        return None
    text = as_java_string(payload["link_id"])
    return "null" if text is None else text


def _unknown_v2() -> RefusedError:
    return unknown_error("Unknown error while mapping identity v2")


def build_map_v2_reply(
    mapped: Sequence[MappedV2], unmapped: Sequence[UnmappedV2]
) -> bytes:
    """Build the reply to a v2 map request. An empty *unmapped* is omitted."""
    body: dict[str, object] = {"mapped": mapped}
    if unmapped:
        body["unmapped"] = unmapped
    return wire.encode({"body": body, "status": "success"})


def parse_buckets_request(payload: Mapping[str, Any] | None) -> int:
    """Parse a buckets request as the operator does.

    Returns:
        The time in ms since the Unix epoch.

    Raises:
        RefusedError: 400 if the time is missing or is not an ISO_LOCAL_DATE_TIME. 500
            if there is no payload, or the time in ms does not fit into 64 bits.
    """
    if payload is None:
        raise text_error()
    text = as_java_string(payload.get("since_timestamp"))
    if text is None:
        raise client_error("missing parameter since_timestamp")
    try:
        since = parse_local_date_time(text)
    except OverflowError:
        raise text_error() from None
    if since is None:
        raise client_error("invalid date, must conform to ISO 8601")
    return since


def build_buckets_reply(buckets: Iterable[tuple[str, int]]) -> bytes:
    """Build the reply from pairs of bucket ID and time of the last rotation in ms."""
    body = [
        {"bucket_id": bucket_id, "last_updated": format_local_date_time(updated_ms)}
        for bucket_id, updated_ms in buckets
    ]
    return wire.encode({"body": body, "status": "success"})


def parse_status_request(payload: Mapping[str, Any] | None, *, limit: int) -> list[str]:
    """Parse a status request as the operator does. Null elements are ignored.

    Raises:
        RefusedError: If there is no list, or it has more than *limit* elements.
    """
    if payload is None:
        raise client_error("Invalid request body")
    values = payload.get("advertising_ids")
    if values is None:
        raise client_error("Required Parameter Missing: advertising_ids")
    if not isinstance(values, list):
        raise unknown_error("Unknown error while getting optout status")
    if len(values) > limit:
        raise client_error("Request payload is too large")
    return [text for text in map(as_java_string, values) if text is not None]


def build_status_reply(found: Iterable[OptedOutUID]) -> bytes:
    """Build the reply that lists the opted-out raw UIDs."""
    return wire.encode({"body": {"opted_out": list(found)}, "status": "success"})


_OPTED_OUT = UnmappedRow(UnmappedReason.OPTED_OUT.value)
_INVALID = UnmappedRow(UnmappedReason.INVALID_IDENTIFIER.value)


def map_v3(index: DataIndex, call: AuthorizedRequest) -> bytes:
    """Answer identity/map v3."""
    values = parse_map_v3_request(
        call.payload, phones=index.settings.enable_phone_support
    )
    index.service_links.check(call.client)
    rows = {
        kind: _map(index, kind, items, call.now_ms) for kind, items in values.items()
    }
    return build_map_v3_reply(rows)


def _map(
    index: DataIndex, kind: str, values: Sequence[str], now_ms: int
) -> list[MappedRow | UnmappedRow]:
    """Map the values of one kind. Bulk jobs spend most of their time in this loop."""
    identity_type = IdentityType(kind.partition("_")[0])
    hash_one = index.buckets.first_level_hash
    is_out = index.opt_outs.is_out
    map_one = index.buckets.mapper(identity_type, now_ms)
    rows: list[MappedRow | UnmappedRow] = []
    for value in values:
        data = identity_bytes(kind, value)
        if data is None:
            rows.append(_INVALID)
            continue
        flh = hash_one(data)
        rows.append(_OPTED_OUT if is_out(flh, identity_type) else map_one(flh))
    return rows


def map_v2(index: DataIndex, call: AuthorizedRequest) -> bytes:
    """Answer identity/map v2."""
    request = parse_map_v2_request(
        call.payload, phones=index.settings.enable_phone_support
    )
    index.service_links.check(call.client, request.link_id)
    identity_type = IdentityType(request.kind.partition("_")[0])
    mapped: list[MappedV2] = []
    unmapped: list[UnmappedV2] = []
    for value in request.values:
        data = None if value is None else identity_bytes(request.kind, value)
        if data is None:
            unmapped.append(UnmappedV2(value, _INVALID.reason))
            continue
        flh = index.buckets.first_level_hash(data)
        if index.opt_outs.is_out(flh, identity_type):
            unmapped.append(UnmappedV2(value, _OPTED_OUT.reason))
            continue
        raw_uid = index.buckets.raw_uid(flh, identity_type, call.now_ms)
        bucket_id = index.buckets.bucket_id(flh, call.now_ms)
        mapped.append(MappedV2(value, raw_uid, bucket_id))
    return build_map_v2_reply(mapped, unmapped)


def buckets(index: DataIndex, call: AuthorizedRequest) -> bytes:
    """Answer identity/buckets."""
    since_ms = parse_buckets_request(call.payload)
    return build_buckets_reply(index.buckets.rotated_since(since_ms, call.now_ms))


def opt_out_status(index: DataIndex, call: AuthorizedRequest) -> bytes:
    """Answer optout/status from the recorded raw UIDs."""
    raw_uids = parse_status_request(
        call.payload, limit=index.settings.optout_status_max_request_size
    )
    found = [(raw_uid, index.opt_outs.since_ms(raw_uid)) for raw_uid in raw_uids]
    return build_status_reply(
        OptedOutUID(raw_uid, since) for raw_uid, since in found if since is not None
    )
