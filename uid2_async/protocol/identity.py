"""identity/map v3 and v2, both halves (docs/protocol.md 2.5 and 2.6).

A prepared query remembers how its reply is put back into the order of the input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from typing import Any, Final

import msgspec

from uid2_async._traceback import strip_tracebacks, unwrapped
from uid2_async.errors import InputError, ProtocolError
from uid2_async.models import (
    Email,
    EmailHash,
    Identity,
    IdentityMap,
    MapRow,
    Phone,
    PhoneHash,
    UnmappedReason,
    kind_and_value,
)
from uid2_async.protocol import base64, wire
from uid2_async.protocol.identity_input import missing_message, sendable
from uid2_async.protocol.java_text import (
    as_java_string,
    literal_text,
    replace_surrogates,
)
from uid2_async.protocol.normalize import HASH_KINDS, KINDS, many_identity_bytes
from uid2_async.protocol.refusal import RefusedError, client_error, unknown_error
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
        order: For each of them the key under which it is sent, None where it is
            invalid and stays here.
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
        InputError: If an element is neither an identity nor a str; names its place.
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
    """Give the kind and the values of *identities*, or None if there are several.

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
    """Do what :func:`prepare_map` does, with one after the other."""
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


# --- v3, the client's half ------------------------------------------------------------


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


# --- v3, the operator's half ----------------------------------------------------------


class MappedRow(Veiled, frozen=True, gc=False):
    """A mapped row of a v3 reply: all three keys are always there."""

    u: str
    p: str | None
    r: int


class UnmappedRow(msgspec.Struct, frozen=True, gc=False):
    """An unmapped row of a v3 reply."""

    e: str


def parse_map_v3_request(
    payload: Mapping[str, Any] | None, *, phones: bool = True
) -> dict[str, list[str]]:
    """Read a v3 map as the operator does: a strict schema with lenient elements.

    Args:
        payload: The request's JSON object, None where it was empty.
        phones: Whether the operator supports phones; if not, its message leaves them
            out, but it maps them all the same.

    Returns:
        The values by key; a key may be missing.

    Raises:
        RefusedError: If there is no key, an unknown one, or a value that is no list of
            scalars.
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
    """Build the reply to a v3 map; all four keys are always there."""
    body = {key: rows.get(key, ()) for key in KINDS}
    return wire.encode({"body": body, "status": "success"})


# --- v2, the client's half ------------------------------------------------------------


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


# --- v2, the operator's half ----------------------------------------------------------


class MappedV2(Veiled, frozen=True, gc=False):
    """A mapped identity of a v2 reply."""

    identifier: str | None
    advertising_id: str
    bucket_id: str


class UnmappedV2(Veiled, frozen=True, gc=False):
    """An unmapped identity of a v2 reply."""

    identifier: str | None
    reason: str


class MapV2Request(Veiled, frozen=True, kw_only=True):
    """A v2 map as the operator reads it.

    Attributes:
        kind: The kind of the values; meaningless where there are none.
        values: What is to be mapped; None only among phones.
        has_link: Whether the key link_id is there, even with null.
        link_id: Its value as text.
    """

    kind: str
    values: list[str | None]
    has_link: bool
    link_id: str | None


def parse_map_v2_request(
    payload: Mapping[str, Any] | None, *, phones: bool
) -> MapV2Request:
    """Read a v2 map as the operator does.

    Raises:
        RefusedError: For the wrong shape; for a null element, which costs the batch.
    """
    if payload is None:
        raise _unknown_v2()
    kind, items = _one_list(payload, phones=phones)
    texts = [as_java_string(item) for item in items]
    # Java encodes a lone surrogate as "?", for the hash as well as for the reply.
    values = [None if text is None else replace_surrogates(text) for text in texts]
    if None in values and kind != "phone":
        raise _unknown_v2()
    return MapV2Request(
        kind=kind,
        values=values,
        has_link="link_id" in payload,
        link_id=as_java_string(payload.get("link_id")),
    )


def _one_list(payload: Mapping[str, Any], *, phones: bool) -> tuple[str, list[Any]]:
    """Find the one key whose list is not empty, key by key in the operator's order.

    The first fault on the way ends it (docs/protocol.md 2.5).
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


def _unknown_v2() -> RefusedError:
    return unknown_error("Unknown error while mapping identity v2")


def build_map_v2_reply(
    mapped: Sequence[MappedV2], unmapped: Sequence[UnmappedV2]
) -> bytes:
    """Build the reply to a v2 map; *unmapped* is left out where it is empty."""
    body: dict[str, object] = {"mapped": mapped}
    if unmapped:
        body["unmapped"] = unmapped
    return wire.encode({"body": body, "status": "success"})


strip_tracebacks(globals())
