"""identity/map v3 and v2, identity/buckets, optout/status.

docs/protocol.md 2.4 to 2.7.
"""

from __future__ import annotations

from collections.abc import Sequence

from uid2_async.models import IdentityType, UnmappedReason
from uid2_async.operator.world import Question, World
from uid2_async.protocol.buckets import build_buckets_reply, parse_buckets_request
from uid2_async.protocol.identity import (
    MappedRow,
    MappedV2,
    UnmappedRow,
    UnmappedV2,
    build_map_v2_reply,
    build_map_v3_reply,
    parse_map_v2_request,
    parse_map_v3_request,
)
from uid2_async.protocol.normalize import identity_bytes
from uid2_async.protocol.optout import (
    OptedOutUID,
    build_status_reply,
    parse_status_request,
)

__all__ = ["buckets", "map_v2", "map_v3", "opt_out_status"]

_OPTED_OUT = UnmappedRow(UnmappedReason.OPTED_OUT.value)
_INVALID = UnmappedRow(UnmappedReason.INVALID_IDENTIFIER.value)


def map_v3(world: World, question: Question) -> bytes:
    """Answer identity/map v3."""
    values = parse_map_v3_request(
        question.payload, phones=world.settings.enable_phone_support
    )
    world.service_links.check(question.client)
    rows = {
        kind: _map(world, kind, items, question.now_ms)
        for kind, items in values.items()
    }
    return build_map_v3_reply(rows)


def _map(
    world: World, kind: str, values: Sequence[str], now_ms: int
) -> list[MappedRow | UnmappedRow]:
    """Map the values of one kind: the loop that bulk work spends its time in."""
    identity_type = IdentityType(kind.partition("_")[0])
    hash_one = world.buckets.first_level_hash
    is_out = world.opt_outs.is_out
    map_one = world.buckets.mapper(identity_type, now_ms)
    rows: list[MappedRow | UnmappedRow] = []
    for value in values:
        data = identity_bytes(kind, value)
        if data is None:
            rows.append(_INVALID)
            continue
        flh = hash_one(data)
        rows.append(_OPTED_OUT if is_out(flh, identity_type) else map_one(flh))
    return rows


def map_v2(world: World, question: Question) -> bytes:
    """Answer identity/map v2."""
    request = parse_map_v2_request(
        question.payload, phones=world.settings.enable_phone_support
    )
    world.service_links.check(question.client, request)
    identity_type = IdentityType(request.kind.partition("_")[0])
    mapped: list[MappedV2] = []
    unmapped: list[UnmappedV2] = []
    for value in request.values:
        data = None if value is None else identity_bytes(request.kind, value)
        if data is None:
            unmapped.append(UnmappedV2(value, _INVALID.e))
            continue
        flh = world.buckets.first_level_hash(data)
        if world.opt_outs.is_out(flh, identity_type):
            unmapped.append(UnmappedV2(value, _OPTED_OUT.e))
            continue
        raw_uid = world.buckets.raw_uid(flh, identity_type, question.now_ms)
        bucket_id = world.buckets.bucket_id(flh, question.now_ms)
        mapped.append(MappedV2(value, raw_uid, bucket_id))
    return build_map_v2_reply(mapped, unmapped)


def buckets(world: World, question: Question) -> bytes:
    """Answer identity/buckets."""
    since_ms = parse_buckets_request(question.payload)
    return build_buckets_reply(world.buckets.rotated_since(since_ms, question.now_ms))


def opt_out_status(world: World, question: Question) -> bytes:
    """Answer optout/status, from the recorded raw UIDs alone."""
    raw_uids = parse_status_request(
        question.payload, limit=world.settings.optout_status_max_request_size
    )
    found = [(raw_uid, world.opt_outs.since_ms(raw_uid)) for raw_uid in raw_uids]
    return build_status_reply(
        OptedOutUID(raw_uid, since) for raw_uid, since in found if since is not None
    )
