"""The endpoints for identities, raw UIDs and keys, which create no tokens.

See docs/protocol.md 2.4 to 2.8 and 6.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgspec.structs import replace

from uid2_async.models import IdentityType, UnmappedReason
from uid2_async.operator.data import MASTER_KEYSET
from uid2_async.operator.http_messages import (
    RefusedError,
    client_error,
    encode_success,
    text_error,
    unknown_error,
)
from uid2_async.operator.indexes import (
    AuthorizedRequest,
    DataIndex,
    check_service_link,
)
from uid2_async.operator.java import (
    as_java_string,
    format_local_date_time,
    literal_text,
    parse_local_date_time,
    replace_surrogates,
)
from uid2_async.operator.salts import MappedRow
from uid2_async.operator.tokens import missing_message
from uid2_async.protocol.keyring import Key, KeysBody, WireSite
from uid2_async.protocol.mapping import OptedOutUID
from uid2_async.protocol.normalize import KINDS, identity_bytes

_OPTED_OUT: Final = {"e": UnmappedReason.OPTED_OUT.value}
_INVALID: Final = {"e": UnmappedReason.INVALID_IDENTIFIER.value}


# --- identity/map v3 ------------------------------------------------------------------


def map_v3(index: DataIndex, call: AuthorizedRequest) -> bytes:
    """Answer identity/map v3, whose reply always contains all four keys."""
    values = _read_v3(call.payload, phones=index.settings.enable_phone_support)
    check_service_link(index.data, call.client)
    return encode_success(
        {kind: _map(index, kind, values.get(kind, ()), call.now_ms) for kind in KINDS}
    )


def _read_v3(
    payload: Mapping[str, Any] | None, *, phones: bool
) -> dict[str, list[str]]:
    """Read the values by key. The schema is strict, but its elements are lenient.

    Without *phones*, the error message omits them, but they are mapped nevertheless.
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


def _map(
    index: DataIndex, kind: str, values: Sequence[str], now_ms: int
) -> list[MappedRow | dict[str, str]]:
    """Map the values of one kind. Bulk jobs spend most of their time in this loop."""
    identity_type = _type_of(kind)
    hash_one = index.buckets.first_level_hash
    is_out = index.opt_outs.is_out
    map_one = index.buckets.mapper(identity_type, now_ms)
    rows: list[MappedRow | dict[str, str]] = []
    for value in values:
        data = identity_bytes(kind, value)
        if data is None:
            rows.append(_INVALID)
            continue
        flh = hash_one(data)
        rows.append(_OPTED_OUT if is_out(flh, identity_type) else map_one(flh))
    return rows


def _type_of(kind: str) -> IdentityType:
    """Return the type of the identities of one kind, hashed or not."""
    return IdentityType(kind.partition("_")[0])


# --- identity/map v2 ------------------------------------------------------------------


def map_v2(index: DataIndex, call: AuthorizedRequest) -> bytes:
    """Answer identity/map v2, whose reply omits an empty list of unmapped identities.

    A null among emails or hashes rejects the whole batch.
    """
    payload = call.payload
    if payload is None:
        raise _unknown_v2()
    kind, items = _one_list(payload, phones=index.settings.enable_phone_support)
    texts = [as_java_string(item) for item in items]
    if None in texts and kind != "phone":
        raise _unknown_v2()
    # Java converts a null to the text "null".
    link_id = as_java_string(payload.get("link_id")) or "null"
    check_service_link(
        index.data, call.client, link_id if "link_id" in payload else None
    )
    mapped: list[dict[str, str | None]] = []
    unmapped: list[dict[str, str | None]] = []
    for text in texts:
        # Java encodes a lone surrogate as "?", both for the hash and for the reply.
        value = None if text is None else replace_surrogates(text)
        row = _map_one_v2(index, kind, value, call.now_ms)
        (unmapped if "reason" in row else mapped).append({"identifier": value, **row})
    return encode_success(
        {"mapped": mapped, **({"unmapped": unmapped} if unmapped else {})}
    )


def _map_one_v2(
    index: DataIndex, kind: str, value: str | None, now_ms: int
) -> dict[str, str]:
    """Return the fields of a mapped identity, or the reason why it is not mapped."""
    data = None if value is None else identity_bytes(kind, value)
    if data is None:
        return {"reason": UnmappedReason.INVALID_IDENTIFIER.value}
    flh = index.buckets.first_level_hash(data)
    if index.opt_outs.is_out(flh, _type_of(kind)):
        return {"reason": UnmappedReason.OPTED_OUT.value}
    return {
        "advertising_id": index.buckets.raw_uid(flh, _type_of(kind), now_ms),
        "bucket_id": index.buckets.bucket_id(flh, now_ms),
    }


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


def _unknown_v2() -> RefusedError:
    return unknown_error("Unknown error while mapping identity v2")


# --- identity/buckets and optout/status -----------------------------------------------


def buckets(index: DataIndex, call: AuthorizedRequest) -> bytes:
    """Answer identity/buckets."""
    since_ms = _read_since(call.payload)
    return encode_success(
        [
            {"bucket_id": bucket_id, "last_updated": format_local_date_time(updated_ms)}
            for bucket_id, updated_ms in index.buckets.rotated_since(
                since_ms, call.now_ms
            )
        ]
    )


def _read_since(payload: Mapping[str, Any] | None) -> int:
    """Read the time, in ms since the Unix epoch."""
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


def opt_out_status(index: DataIndex, call: AuthorizedRequest) -> bytes:
    """Answer optout/status from the recorded raw UIDs."""
    limit = index.settings.optout_status_max_request_size
    raw_uids = _read_raw_uids(call.payload, limit)
    found = [(raw_uid, index.opt_outs.since_ms(raw_uid)) for raw_uid in raw_uids]
    opted_out = [
        OptedOutUID(raw_uid, since) for raw_uid, since in found if since is not None
    ]
    return encode_success({"opted_out": opted_out})


def _read_raw_uids(payload: Mapping[str, Any] | None, limit: int) -> list[str]:
    """Read the raw UIDs. Null elements are ignored."""
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


# --- keys -----------------------------------------------------------------------------

MASTER_KEYSET_ID: Final = 9_999_999
"""The master keyset's ID in replies, instead of -1: SDKs expect a positive ID."""

# Replies state longer lifetimes than configured, so that SDKs do not reject tokens
# because of a small clock difference.
_TOLERANCE_SECONDS = 10
_LAST_RESERVED_SITE = 2


def sharing_keys(index: DataIndex, call: AuthorizedRequest) -> bytes:
    """Answer key/sharing."""
    client, runtime = call.client, index.runtime
    keys = _visible(index, call)
    default = index.keysets.defaults.get(client.site_id)
    longest = runtime.max_sharing_lifetime_seconds
    if longest is None:
        longest = runtime.sharing_token_expiry_seconds
    shares = "SHARER" in client.roles
    body = KeysBody(
        caller_site_id=client.site_id,
        master_keyset_id=MASTER_KEYSET_ID,
        default_keyset_id=None if default is None else default.keyset_id,
        token_expiry_seconds=str(runtime.sharing_token_expiry_seconds),
        max_sharing_lifetime_seconds=longest + _TOLERANCE_SECONDS if shares else None,
        identity_scope=index.scope,
        allow_clock_skew_seconds=index.settings.allow_clock_skew_seconds,
        keys=tuple(
            _visible_key(key, keyset_id=_encrypting_keyset(index, key, client.site_id))
            for key in keys
        ),
        site_data=_sites(index, keys),
    )
    return encode_success(body)


def _encrypting_keyset(index: DataIndex, key: Key, site_id: int) -> int | None:
    """Return the keyset ID of *key* if the site may encrypt with it, else None."""
    keyset = index.keysets.keyset_of(key)
    if keyset.keyset_id == MASTER_KEYSET:
        return MASTER_KEYSET_ID
    return keyset.keyset_id if keyset.site_id == site_id else None


def bidstream_keys(index: DataIndex, call: AuthorizedRequest) -> bytes:
    """Answer key/bidstream."""
    keys = _visible(index, call)
    longest = index.runtime.max_bidstream_lifetime_seconds
    if longest is None:
        longest = index.runtime.identity_token_expires_after_seconds
    body = KeysBody(
        max_bidstream_lifetime_seconds=longest + _TOLERANCE_SECONDS,
        identity_scope=index.scope,
        allow_clock_skew_seconds=index.settings.allow_clock_skew_seconds,
        keys=tuple(map(_visible_key, keys)),
        site_data=_sites(index, keys),
    )
    return encode_success(body)


def latest_keys(index: DataIndex, call: AuthorizedRequest) -> bytes:
    """Answer key/latest, which reserved sites may not call."""
    site_id = call.client.site_id
    if site_id <= _LAST_RESERVED_SITE:
        message = f"Unexpected client site id {site_id}"
        raise RefusedError(401, "invalid_client", message)
    keys = index.keysets.visible_to(call.client)
    return encode_success(
        [
            _visible_key(key, site_id=index.keysets.keyset_of(key).site_id)
            for key in keys
        ]
    )


def _visible(index: DataIndex, call: AuthorizedRequest) -> Sequence[Key]:
    """List the caller's keys, if the master keyset has an active key."""
    if index.keysets.master_key(call.now_ms) is None:
        raise text_error()
    return index.keysets.visible_to(call.client)


def _visible_key(
    key: Key, *, keyset_id: int | None = None, site_id: int | None = None
) -> Key:
    """Return a key with only those IDs that the caller may know."""
    return replace(key, keyset_id=keyset_id, site_id=site_id)


def _sites(index: DataIndex, keys: Sequence[Key]) -> tuple[WireSite, ...] | None:
    """List the named sites that own *keys*, or return None if the setting is off."""
    if not index.settings.client_side_token_generate:
        return None
    with_apps = index.settings.key_sharing_endpoint_provide_app_names
    found = []
    for site_id in index.keysets.owners(keys):
        site = index.site(site_id)
        names = {*site.domain_names, *(site.app_names if with_apps else ())}
        if names:
            found.append(WireSite(id=site_id, domain_names=tuple(sorted(names))))
    return tuple(found)
