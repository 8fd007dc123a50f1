"""key/sharing, key/bidstream and key/latest (docs/protocol.md 2.8 and 6.1 to 6.3).

The operator's half, and the little that a client sends. A client reads the replies to
key/sharing and key/bidstream with
:meth:`uid2_async.KeyRing.from_json`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from uid2_async._traceback import strip_tracebacks
from uid2_async.models import IdentityScope
from uid2_async.protocol import wire
from uid2_async.protocol.key import Key
from uid2_async.protocol.keyring import KeysBody, KeysReply, WireKey, WireSite
from uid2_async.protocol.reply import expect_success

__all__ = [
    "BIDSTREAM_PATH",
    "LATEST_PATH",
    "MASTER_KEYSET_ID",
    "SHARING_PATH",
    "build_bidstream_reply",
    "build_keys_request",
    "build_latest_reply",
    "build_sharing_reply",
    "parse_latest_reply",
]

SHARING_PATH: Final = "/v2/key/sharing"
BIDSTREAM_PATH: Final = "/v2/key/bidstream"
LATEST_PATH: Final = "/v2/key/latest"

MASTER_KEYSET_ID: Final = 9_999_999
"""What stands for the master keyset, -1, since SDKs assume positive ids."""

# Lifetimes on the wire are longer than configured, so that SDKs do not refuse tokens
# over a small difference between clocks.
_TOLERANCE_SECONDS = 10


class _LatestReply(msgspec.Struct):
    status: str
    body: tuple[WireKey, ...] | None = None


def build_keys_request() -> bytes:
    """Build the payload of all three: there is nothing to say."""
    return b""


def build_sharing_reply(
    *,
    caller_site_id: int,
    default_keyset_id: int | None,
    token_expiry_seconds: int,
    max_lifetime_seconds: int | None,
    scope: IdentityScope,
    clock_skew_seconds: int,
    keys: Iterable[WireKey],
    sites: Iterable[WireSite] | None,
) -> bytes:
    """Build the reply to key/sharing (docs/protocol.md 6.1).

    Args:
        caller_site_id: The site of the API key.
        default_keyset_id: What it seals with, None where it has none.
        token_expiry_seconds: How long sharing tokens hold.
        max_lifetime_seconds: The configured limit; None for callers that do not share.
        scope: UID2 or EUID.
        clock_skew_seconds: How far in the future a token may be made.
        keys: The keys, by ascending id.
        sites: Their sites' names; None where the operator does not generate
            client-side.
    """
    body = KeysBody(
        caller_site_id=caller_site_id,
        master_keyset_id=MASTER_KEYSET_ID,
        default_keyset_id=default_keyset_id,
        token_expiry_seconds=str(token_expiry_seconds),
        max_sharing_lifetime_seconds=_tolerant(max_lifetime_seconds),
        identity_scope=scope,
        allow_clock_skew_seconds=clock_skew_seconds,
        keys=tuple(keys),
        site_data=None if sites is None else tuple(sites),
    )
    return wire.encode(KeysReply(body))


def build_bidstream_reply(
    *,
    max_lifetime_seconds: int,
    scope: IdentityScope,
    clock_skew_seconds: int,
    keys: Iterable[WireKey],
    sites: Iterable[WireSite] | None,
) -> bytes:
    """Build the reply to key/bidstream (docs/protocol.md 6.2).

    Args:
        max_lifetime_seconds: The configured limit.
        scope: UID2 or EUID.
        clock_skew_seconds: How far in the future a token may be made.
        keys: The keys without keyset ids, by ascending id.
        sites: As in :func:`build_sharing_reply`.
    """
    body = KeysBody(
        max_bidstream_lifetime_seconds=_tolerant(max_lifetime_seconds),
        identity_scope=scope,
        allow_clock_skew_seconds=clock_skew_seconds,
        keys=tuple(keys),
        site_data=None if sites is None else tuple(sites),
    )
    return wire.encode(KeysReply(body))


def _tolerant(seconds: int | None) -> int | None:
    """Lengthen a configured lifetime to the one on the wire."""
    return None if seconds is None else seconds + _TOLERANCE_SECONDS


def build_latest_reply(keys: Iterable[WireKey]) -> bytes:
    """Build the reply to key/latest: keys with site ids, without keyset ids."""
    return wire.encode({"body": tuple(keys), "status": "success"})


def parse_latest_reply(payload: bytes) -> tuple[Key, ...]:
    """Read the opened reply to key/latest.

    Raises:
        ProtocolError: If it is not of the documented shape.
        OperatorError: If the status word is another one.
    """
    reply = wire.decode(payload, _LatestReply)
    expect_success(reply.status, reply.body)
    return tuple(key.to_key() for key in reply.body or ())


strip_tracebacks(globals())
