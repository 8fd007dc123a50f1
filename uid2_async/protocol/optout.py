"""optout/status, both halves (docs/protocol.md 2.7)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from uid2_async._traceback import strip_tracebacks
from uid2_async.models import OptOutStatus, datetime_from_ms
from uid2_async.protocol import wire
from uid2_async.protocol.java_text import as_java_string
from uid2_async.protocol.refusal import client_error, unknown_error
from uid2_async.protocol.reply import expect_success
from uid2_async.veiled import Veiled

STATUS_PATH: Final = "/v2/optout/status"


class OptedOutUID(Veiled, frozen=True):
    """One opted-out raw UID of a reply; the time in ms."""

    advertising_id: str
    opted_out_since: wire.EpochMs


class _Body(msgspec.Struct):
    opted_out: list[OptedOutUID]


class _Reply(msgspec.Struct):
    status: str
    body: _Body | None = None


def build_status_request(raw_uids: Sequence[str]) -> bytes:
    """Build the JSON that asks for the status of *raw_uids*."""
    return wire.encode({"advertising_ids": raw_uids})


def parse_status_reply(payload: bytes) -> OptOutStatus:
    """Read the opened reply: the opted-out ones alone, each once.

    Raises:
        ProtocolError: If it is not of the documented shape.
    """
    reply = wire.decode(payload, _Reply)
    expect_success(reply.status, reply.body)
    found = reply.body.opted_out if reply.body else []
    return OptOutStatus(
        {one.advertising_id: datetime_from_ms(one.opted_out_since) for one in found}
    )


def parse_status_request(payload: Mapping[str, Any] | None, *, limit: int) -> list[str]:
    """Read a status request as the operator does; null elements are left out.

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
    """Build the reply that lists the opted-out ones."""
    return wire.encode({"body": {"opted_out": list(found)}, "status": "success"})


strip_tracebacks(globals())
