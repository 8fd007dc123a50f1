"""token/refresh."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import attrs
import pytest

from uid2_async.models import IdentityScope, IdentityType
from uid2_async.operator import OperatorData
from uid2_async.operator.minting import (
    RefreshToken,
    open_refresh_token,
    seal_refresh_token,
    unwrap_refresh_token,
    wrap_refresh_token,
)
from uid2_async.protocol.token_codec import open_token

GENERATE = "/v2/token/generate"
IV = b"0123456789ab"
RESPONSE_KEY = bytes(32)
ERROR = (400, {"message": "Error refreshing token", "status": "error"})


def generate(asker: Any, email: str = "a@example.com") -> dict[str, Any]:
    """Generate tokens."""
    return asker.ask(GENERATE, {"email": email}, who="publisher")[1]["body"]


def refresh(asker: Any, body: dict[str, Any], **options: Any) -> tuple[int, Any]:
    """Refresh tokens."""
    return asker.refresh(body["refresh_token"], body["refresh_response_key"], **options)


def seal(asker: Any, **changes: Any) -> str:
    """Seal a refresh token, without wrapper."""
    fields = {
        "scope": asker.data.scope,
        "identity_type": IdentityType.EMAIL,
        "expires_ms": asker.now_ms + 1,
        "created_ms": asker.now_ms,
        "site_id": 5,
        "privacy_bits": 3,
        "established_ms": asker.now_ms,
        "first_level_hash": bytes(32),
        **changes,
    }
    key = asker.world.keysets.refresh_key(asker.now_ms)
    return seal_refresh_token(RefreshToken(**fields), key, iv=IV)


def test_a_refresh_keeps_whose_identity_it_is(asker: Any) -> None:
    """Only times and keys change (docs/protocol.md 2.2)."""
    body = generate(asker)
    key_of = asker.world.keysets.key
    before = open_token(body["advertising_token"], key_of)
    asker.now_ms += 60_000

    status, reply = refresh(asker, body)

    after = open_token(reply["body"]["advertising_token"], key_of)
    assert status == 200
    assert after.established_ms == before.established_ms
    assert after.refreshed_ms == before.refreshed_ms + 60_000
    assert (after.site_id, after.raw_uid) == (before.site_id, before.raw_uid)
    assert reply["body"]["refresh_response_key"] != body["refresh_response_key"]


def test_the_wrapper_holds_the_response_key(asker: Any) -> None:
    """The key of the next answer lies in it and beside it (docs/protocol.md 5.5)."""
    body = generate(asker)

    _, key = unwrap_refresh_token(body["refresh_token"], asker.world.keysets.key)

    assert b64encode(key).decode() == body["refresh_response_key"]


def test_an_unwrapped_token_is_answered_bare(asker: Any) -> None:
    """Then the reply is plain JSON with a wrapped token (docs/protocol.md 2.2)."""
    status, reply = asker.refresh(seal(asker))

    assert (status, reply["status"]) == (200, "success")
    assert len(reply["body"]["refresh_token"]) == 388


def test_privacy_bits_and_site_are_those_of_the_token(asker: Any) -> None:
    """A caller may refresh a token of another site (docs/protocol.md 2.2)."""
    _, reply = asker.refresh(seal(asker), who="publisher")

    token = open_token(reply["body"]["advertising_token"], asker.world.keysets.key)
    assert (token.site_id, token.privacy_bits) == (5, 3)


def test_a_token_of_another_scope_is_invalid(asker: Any) -> None:
    """UID2 operators refresh no EUID token, nor the reverse (docs/protocol.md 2.2)."""
    (other,) = set(IdentityScope) - {asker.data.scope}
    token = seal(asker, scope=other)

    assert asker.refresh(token) == ERROR
    assert asker.refresh(token, who="publisher") == (
        400,
        {"message": "Invalid Token presented", "status": "invalid_token"},
    )


@pytest.mark.parametrize(("late_ms", "status"), [(0, 200), (1, 400)])
def test_a_token_expires_after_its_last_ms(
    asker: Any, late_ms: int, status: int
) -> None:
    """Exactly equal is still valid (docs/protocol.md 2.2)."""
    token = seal(asker, expires_ms=asker.now_ms - late_ms)

    assert asker.refresh(token)[0] == status


def test_an_expired_token_is_told_to_known_callers_alone(asker: Any) -> None:
    """Without an API key nothing is told (docs/protocol.md 2.2)."""
    token = seal(asker, expires_ms=asker.now_ms - 1)

    assert asker.refresh(token) == ERROR
    assert asker.refresh(token, who="bidder") == (
        400,
        {"message": "Expired Token presented", "status": "expired_token"},
    )


def test_very_old_identities_have_opted_out(asker: Any) -> None:
    """Whoever was established before March 2021 (docs/protocol.md 2.2)."""
    first = 1_615_222_800_000

    early = asker.refresh(seal(asker, established_ms=first - 1, expires_ms=0))

    assert early == (200, {"status": "optout"})
    assert asker.refresh(seal(asker, established_ms=first))[1]["status"] == "success"


def test_the_refresh_test_identity_opts_out_here(asker: Any) -> None:
    """It generates, and opts out on refresh (docs/protocol.md 7)."""
    body = generate(asker, "refresh-optout@example.com")

    assert refresh(asker, body) == (200, {"status": "optout"})


def test_an_opt_out_in_between_counts(asker: Any) -> None:
    """Refreshing asks the opt-out store anew."""
    body = generate(asker)
    asker.ask("/v2/token/logout", {"email": "a@example.com"})

    assert refresh(asker, body) == (200, {"status": "optout"})


def test_without_an_active_key_there_is_no_refresh(asker: Any) -> None:
    """The cause is told to known callers alone (docs/protocol.md 2.2)."""
    token = seal(asker)
    refresh_keys = [one for one in asker.data.keys if one.keyset_id == -2]
    asker.load(attrs.evolve(asker.data, keys=tuple(refresh_keys)))

    assert asker.refresh(token) == ERROR
    assert asker.refresh(token, who="publisher") == (
        500,
        {"message": "No active encryption key available", "status": "unknown"},
    )


def test_a_wrapper_without_its_json_has_its_message(asker: Any) -> None:
    """The wrapper opens, and what it holds is wrong (docs/protocol.md 2.2)."""
    key = asker.world.keysets.refresh_key(asker.now_ms)
    inner = json.dumps({"refresh_token": "x" * 236}).encode()
    raw = bytes(1) + key.id.to_bytes(4, "big") + key.seal_gcm(IV, inner)
    text = b64encode(raw).decode()
    assert len(text) == 388

    status, failure = asker.refresh(text)

    assert (status, failure["status"]) == (400, "client_error")
    assert failure["message"] == (
        "Invalid format: Payload is not valid json or missing required data."
    )


def test_a_wrapped_v2_token_is_refreshed_too(asker: Any) -> None:
    """Both inner versions are read, the old one as UID2's (docs/protocol.md 5.5)."""
    key = asker.world.keysets.refresh_key(asker.now_ms)
    fields = attrs.evolve(
        open_refresh_token(seal(asker), asker.world.keysets.key), version=2
    )
    inner = seal_refresh_token(fields, key, iv=IV + IV[:4])
    text = wrap_refresh_token(inner, RESPONSE_KEY, key, scope=asker.data.scope, iv=IV)

    status, reply = asker.refresh(text, b64encode(RESPONSE_KEY).decode())

    uid2 = asker.data.scope is IdentityScope.UID2
    assert (status, reply["status"]) == ((200, "success") if uid2 else (400, "error"))


INVALID = (400, {"message": "Invalid Token presented", "status": "invalid_token"})
NOT_BUILT = (500, {"message": "", "status": "error"})


def wrap(asker: Any, **fields: Any) -> str:
    """Forge a wrapper that holds these fields."""
    key = asker.world.keysets.refresh_key(asker.now_ms)
    data = json.dumps(fields).encode()
    head = bytes(1) + key.id.to_bytes(4)
    padding = b" " * (291 - len(head) - 28 - len(data))
    return b64encode(head + key.seal_gcm(IV, data + padding)).decode()


@pytest.mark.parametrize("token", [None, 5, [], {}, "", True, 1.5])
def test_a_forged_wrapper_holds_an_invalid_token(asker: Any, token: Any) -> None:
    """What is no text becomes one, and is no token (docs/protocol.md 2.2)."""
    body = wrap(asker, refresh_response_key="A" * 43, refresh_token=token)

    assert len(body) == 388
    assert asker.refresh(body) == ERROR
    assert asker.refresh(body, who="publisher") == INVALID


@pytest.mark.parametrize("key", ["", "AAAA", 1234])
def test_a_forged_key_seals_nothing(asker: Any, key: Any) -> None:
    """Only AES keys do, and it is found last of all (docs/protocol.md 2.2)."""
    body = wrap(asker, refresh_response_key=key, refresh_token=seal(asker))
    bad = wrap(asker, refresh_response_key=key, refresh_token="x")

    assert asker.refresh(body) == NOT_BUILT
    assert asker.refresh(bad) == ERROR


@pytest.mark.parametrize("size", [16, 24])
def test_a_forged_key_may_be_a_shorter_aes_key(asker: Any, size: int) -> None:
    """Java does not look at the size of a key either (docs/protocol.md 2.2)."""
    key = b64encode(bytes(size)).decode()
    body = wrap(asker, refresh_response_key=key, refresh_token=seal(asker))

    assert asker.refresh(body, key)[0] == 200


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        *((size, "invalid") for size in (0, 1, 2)),
        *((size, "short") for size in (3, 15)),
        *((size, "not built") for size in (16, 30, 31, 35, 64)),
        *((size, "success") for size in (32, 33, 34)),
    ],
)
def test_a_forged_hash_of_another_size(
    base: Any, make_asker: Any, size: int, expected: str
) -> None:
    """Too short to choose a bucket, or of a size that no wrapper holds (2.2)."""
    asker = make_asker(OperatorData.sample(base=base))
    key = asker.world.keysets.refresh_key(asker.now_ms)
    fields = open_refresh_token(seal(asker), asker.world.keysets.key)
    for first in range(16):
        flh = bytes((first, first, first)).ljust(size, b"x")[:size]
        token = attrs.evolve(fields, version=2, first_level_hash=flh)
        is_v4 = (
            size > 2
            and asker.world.buckets.snapshot(asker.now_ms)
            .rows[(first << 12 | first << 4 | first) % 1_024]
            .salt
            is None
        )
        status, reply = asker.refresh(
            seal_refresh_token(token, key, iv=IV + IV[:4]), who="publisher"
        )
        if expected == "success":
            assert (status, reply["status"]) == (200, "success")
        elif expected == "not built" or (expected == "short" and not is_v4):
            assert (status, reply) == NOT_BUILT
        else:
            assert (status, reply) == INVALID


@pytest.mark.parametrize(
    ("body", "is_wrapper"),
    [
        ("A" * 386 + "\U0001f600", True),
        ("A" * 387 + "\U0001f600", False),
        ("A" * 387 + "\u00e9", True),
        ("!" * 388, True),
        ("!" * 387, False),
    ],
)
def test_the_length_counts_code_units(
    asker: Any, body: str, *, is_wrapper: bool
) -> None:
    """As Java's length() does (docs/protocol.md 2.2)."""
    status, reply = asker.refresh(body)

    assert status == 400
    assert (reply["status"] == "client_error") is is_wrapper
