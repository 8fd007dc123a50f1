"""What a bulk job asks the operator: which endpoint, in which words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, TypeAlias

import attrs

from uid2_async.bulk.batches import Route
from uid2_async.models import MapRow, UnmappedReason
from uid2_async.protocol import base64
from uid2_async.protocol.identity import (
    MAP_REPLY_BYTES,
    MAP_V2_PATH,
    MAP_V3_PATH,
    build_map_v2_request,
    parse_map_v2_reply,
    parse_map_v3_rows,
)
from uid2_async.protocol.normalize import HASH_KINDS, KINDS, many_identity_bytes
from uid2_async.protocol.optout import (
    STATUS_PATH,
    build_status_request,
    parse_status_reply,
)
from uid2_async.protocol.raw_uid import inspect_raw_uid
from uid2_async.protocol.wire import encode

__all__ = ["MAP_V2", "MAP_V3", "OPTOUT_STATUS", "RAW_UID", "Endpoint", "Rows"]

RAW_UID: Final = "raw_uid"
"""The kind of values that are raw UIDs."""

Values: TypeAlias = Mapping[str, list[str]]
Rows: TypeAlias = Mapping[str, Sequence[MapRow]]

# The operator refuses bodies over 1 MiB; what the envelope adds is far below 5 %.
_BINARY_BODY_BYTES: Final = int(1024 * 1024 * 0.95)
# In base64, three bytes become four.
_TEXT_BODY_BYTES: Final = _BINARY_BODY_BYTES * 3 // 4
_OPTED_OUT: Final = MapRow(e=UnmappedReason.OPTED_OUT.value)


@attrs.frozen(kw_only=True)
class Endpoint:
    """One endpoint that takes many identities at once.

    Attributes:
        path: Where it is.
        routes: How each kind is asked about.
        ask: Builds the JSON that asks about values, which come by key.
        read: Reads the opened reply to that: one row for each value, by key; raises
            ProtocolError if it is not of the documented shape.
        binary: Whether raw bytes go both ways instead of base64 text.
        one_kind: Whether all identities of a request must be of one kind.
        body_bytes: How large the JSON of a request may be, with a margin.
    """

    path: str
    routes: Sequence[Route]
    ask: Callable[[Values], bytes]
    read: Callable[[bytes, Values], Rows]
    binary: bool = False
    one_kind: bool = False
    body_bytes: int = _TEXT_BODY_BYTES
    reply_bytes: int = MAP_REPLY_BYTES


def _route(kind: str) -> Route:
    """Say how DII and hashes of one kind are asked about: as hashes."""
    subject = kind.partition("_")[0]
    return Route(
        kind=kind,
        subject=subject,
        key=HASH_KINDS[kind],
        read=partial(many_identity_bytes, kind),
        prefix=b"" if subject == "email" else b"phone:",
    )


_PEOPLE: Final = tuple(map(_route, KINDS))


def _ask_v2(values: Values) -> bytes:
    ((key, texts),) = values.items()
    return build_map_v2_request(key, texts)


def _read_v2(reply: bytes, values: Values) -> Rows:
    ((key, texts),) = values.items()
    return {key: parse_map_v2_reply(reply, texts)}


MAP_V3: Final = Endpoint(
    path=MAP_V3_PATH,
    routes=_PEOPLE,
    ask=encode,
    read=parse_map_v3_rows,
    binary=True,
    body_bytes=_BINARY_BODY_BYTES,
)
"""identity/map v3: all four kinds in one request (docs/protocol.md 2.5)."""

MAP_V2: Final = Endpoint(
    path=MAP_V2_PATH, routes=_PEOPLE, ask=_ask_v2, read=_read_v2, one_kind=True
)
"""identity/map v2, with salt buckets (docs/protocol.md 2.6)."""


def _read_raw_uids(texts: Sequence[str]) -> list[bytes | None]:
    return list(map(_read_raw_uid, texts))


def _read_raw_uid(text: str) -> bytes | None:
    """Decode a raw UID, or return None where no operator spells one like that."""
    data = base64.decode(text)
    if data is None or inspect_raw_uid(text) is None:
        return None
    return data if base64.encode_text(data) == text else None


def _ask_status(values: Values) -> bytes:
    return build_status_request(values[RAW_UID])


def _read_status(reply: bytes, values: Values) -> Rows:
    found = parse_status_reply(reply).opted_out
    return {
        RAW_UID: [
            _OPTED_OUT if uid in found else MapRow(u=uid) for uid in values[RAW_UID]
        ]
    }


OPTOUT_STATUS: Final = Endpoint(
    path=STATUS_PATH,
    routes=(
        Route(
            kind=RAW_UID,
            subject=RAW_UID,
            key=RAW_UID,
            read=_read_raw_uids,
            prefix=b"",
        ),
    ),
    ask=_ask_status,
    read=_read_status,
)
"""optout/status, which takes raw UIDs (docs/protocol.md 2.7)."""
