"""identity/buckets, both halves (docs/protocol.md 2.4)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from uid2_async._traceback import strip_tracebacks
from uid2_async.models import Bucket, ms_from_datetime
from uid2_async.protocol import wire
from uid2_async.protocol.java_text import as_java_string
from uid2_async.protocol.local_date_time import (
    format_local_date_time,
    parse_local_date_time,
)
from uid2_async.protocol.refusal import client_error, text_error
from uid2_async.protocol.reply import expect_success

BUCKETS_PATH: Final = "/v2/identity/buckets"


class _WireBucket(msgspec.Struct):
    bucket_id: str
    last_updated: datetime  # without zone on the wire, and UTC


class _Reply(msgspec.Struct):
    status: str
    body: list[_WireBucket] | None = None


def build_buckets_request(since: datetime) -> bytes:
    """Build the JSON that asks which buckets rotated at *since* or later.

    Raises:
        InputError: If *since* is naive.
    """
    text = format_local_date_time(ms_from_datetime(since))
    return wire.encode({"since_timestamp": text})


def parse_buckets_reply(payload: bytes) -> list[Bucket]:
    """Read the opened reply, in the operator's order.

    Raises:
        ProtocolError: If it is not of the documented shape.
    """
    reply = wire.decode(payload, _Reply)
    expect_success(reply.status, reply.body)
    return [
        Bucket(one.bucket_id, one.last_updated.replace(tzinfo=UTC))
        for one in reply.body or ()
    ]


def parse_buckets_request(payload: Mapping[str, Any] | None) -> int:
    """Read a buckets request as the operator does.

    Returns:
        The instant in ms since the Unix epoch.

    Raises:
        RefusedError: If it is missing or no ISO_LOCAL_DATE_TIME; with 500 where there
            is no payload at all, or the year is beyond what ms can hold.
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
    """Build the reply from pairs of bucket id and the ms of its last rotation."""
    body = [
        {"bucket_id": bucket_id, "last_updated": format_local_date_time(updated_ms)}
        for bucket_id, updated_ms in buckets
    ]
    return wire.encode({"body": body, "status": "success"})


strip_tracebacks(globals())
