"""token/generate, refresh, validate and logout, as the operator answers them."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import attrs
import pytest

from refresh_tokens import encrypt_refresh_token
from uid2_async.models import IdentityScope, IdentityType
from uid2_async.operator import OperatorData
from uid2_async.operator.data import EMBEDDED_OPT_OUT
from uid2_async.operator.minting import (
    RefreshToken,
    decrypt_inner_token,
    unwrap_refresh_token,
    wrap_refresh_token,
)
from uid2_async.protocol.token_codec import AdvertisingToken, open_token

VALIDATE = "/v2/token/validate"
LOGOUT = "/v2/token/logout"


def open_advertising(asker: Any, body: dict[str, Any]) -> AdvertisingToken:
    """Open the advertising token of a reply with the operator's keys."""
    return open_token(body["advertising_token"], asker.world.keysets.key, strict=True)


def test_a_token_says_who_generated_it(asker: Any) -> None:
    """Site, privacy bits and times are those of the call (docs/protocol.md 2.1)."""
    status, reply = asker.ask(GENERATE, {"email": "a@example.com"}, who="publisher")

    body = reply["body"]
    token = open_advertising(asker, body)
    assert status == 200
    assert token.site_id == asker.data.credentials["publisher"].site_id
    assert token.privacy_bits == 1
    assert token.established_ms == token.created_ms == asker.now_ms
    assert token.expires_ms == body["identity_expires"] == asker.now_ms + 259_200_000
    assert body["refresh_from"] == asker.now_ms + 3_600_000
    assert body["refresh_expires"] == asker.now_ms + 2_592_000_000
    assert len(body["refresh_token"]) == 388


def test_a_site_without_keyset_uses_the_fallback(asker: Any) -> None:
    """Site 2 seals for those who have no keyset (docs/protocol.md 6.4)."""
    publisher = asker.data.credentials["publisher"].site_id
    data = attrs.evolve(
        asker.data,
        keysets=tuple(one for one in asker.data.keysets if one.site_id != publisher),
    )
    asker.load(data)

    _, reply = asker.ask(GENERATE, {"email": "a@example.com"}, who="publisher")

    token = open_advertising(asker, reply["body"])
    key = asker.world.keysets.key(token.site_key_id)
    assert asker.world.keysets.site_of(key) == 2
    assert token.site_id == publisher


def test_without_an_active_key_there_is_no_token(asker: Any) -> None:
    """Neither the site nor the fallback has a key (docs/protocol.md 2.1)."""
    asker.load(attrs.evolve(asker.data, keys=()))

    assert asker.ask(GENERATE, {"email": "a@example.com"}) == (
        500,
        {"message": "No active encryption key available", "status": "unknown"},
    )


@pytest.mark.parametrize("kind", ["email", "phone"])
def test_the_test_identity_is_opted_out(asker: Any, kind: str) -> None:
    """Some identities are opted out in every world (docs/protocol.md 7)."""
    value = {"email": "OptOut@example.com", "phone": "+00000000000"}[kind]

    assert asker.ask(GENERATE, {kind: value}) == (200, {"status": "optout"})


def test_an_operator_without_phones_ignores_them(make_asker: Any) -> None:
    """The keys count as absent (docs/protocol.md 2)."""
    asker = make_asker(enable_phone_support=False)

    status, failure = asker.ask(GENERATE, {"phone": "+12345678901"})

    assert status == 400
    assert failure["message"] == (
        "Required Parameter Missing: exactly one of email or email_hash must be "
        "specified"
    )


@pytest.mark.parametrize("scope", [IdentityScope.EUID])
@pytest.mark.parametrize("text", ["", None, "xyz"])
def test_a_consent_string_must_be_readable(asker: Any, text: str | None) -> None:
    """An EUID operator refuses what is no TC string (docs/protocol.md 2.1)."""
    status, failure = asker.ask(
        GENERATE, {"email": "a@example.com", "tcf_consent_string": text}
    )

    assert (status, failure["message"]) == (400, "User consent is invalid")


@pytest.mark.parametrize("scope", [IdentityScope.EUID])
@pytest.mark.parametrize("text", ["BA", "BOEFEAyOEFEAyAHABDENAI4AAAB9vABAASA", "BA.!"])
def test_a_consent_string_of_version_1_makes_the_operator_fail(
    asker: Any, text: str
) -> None:
    """It can be read, but not asked for what it lacks (docs/protocol.md 2.1)."""
    found = asker.ask(GENERATE, {"email": "a@example.com", "tcf_consent_string": text})

    assert found == (
        500,
        {"message": "Unknown error while generating token v2", "status": "unknown"},
    )


def test_a_key_of_no_keyset_opens_and_belongs_to_nobody(asker: Any) -> None:
    """The operator fails on looking for whose it is (docs/protocol.md 2.3)."""
    email = {"email": "a@example.com"}
    _, reply = asker.ask(GENERATE, email, who="publisher")
    publisher = asker.data.credentials["publisher"].site_id
    keysets = tuple(one for one in asker.data.keysets if one.site_id != publisher)
    asker.load(attrs.evolve(asker.data, keysets=keysets))

    token = {"token": reply["body"]["advertising_token"]}
    found = asker.ask("/v2/token/validate", email | token, who="publisher")

    assert found == (500, "Internal Server Error")


@pytest.mark.parametrize("scope", [IdentityScope.EUID])
def test_consent_is_not_asked_for_without_a_string(asker: Any) -> None:
    """No key, no check (docs/protocol.md 2.1)."""
    status, reply = asker.ask(GENERATE, {"email": "a@example.com"})

    assert (status, reply["status"]) == (200, "success")


@pytest.mark.parametrize("scope", [IdentityScope.UID2])
def test_a_uid2_operator_does_not_look_at_consent(asker: Any) -> None:
    """The key is one of many that do not matter (docs/protocol.md 2.1)."""
    payload = {"email": "a@example.com", "tcf_consent_string": "xyz"}

    assert asker.ask(GENERATE, payload)[1]["status"] == "success"


def test_a_token_is_valid_for_its_identity_alone(asker: Any) -> None:
    """The raw UID decides (docs/protocol.md 2.3)."""
    _, reply = asker.ask(GENERATE, {"email": "a@example.com"})
    token = reply["body"]["advertising_token"]

    same = asker.ask(VALIDATE, {"email": "A@example.com", "token": token})
    other = asker.ask(VALIDATE, {"email": "b@example.com", "token": token})

    assert same == (200, {"body": True, "status": "success"})
    assert other == (200, {"body": False, "status": "success"})


def test_the_token_of_another_site_is_not_validated(asker: Any) -> None:
    """The site key must be the caller's (docs/protocol.md 2.3)."""
    _, reply = asker.ask(GENERATE, {"email": "a@example.com"}, who="everything")
    token = reply["body"]["advertising_token"]

    status, failure = asker.ask(
        VALIDATE, {"email": "a@example.com", "token": token}, who="publisher"
    )

    assert (status, failure["message"]) == (400, "Unauthorised to validate token")


def test_garbage_is_no_token(asker: Any) -> None:
    """Whatever cannot be opened has one message (docs/protocol.md 2.3)."""
    status, failure = asker.ask(VALIDATE, {"email": "a@example.com", "token": "AAAA"})

    assert (status, failure["message"]) == (400, "Invalid token")


def test_logging_out_opts_out_at_once(asker: Any) -> None:
    """The built-in opt-out service is the operator itself."""
    assert asker.data.settings.optout_api_uri == EMBEDDED_OPT_OUT

    answer = asker.ask(LOGOUT, {"email": "gone@example.com"})

    assert answer == (200, {"body": {"optout": "OK"}, "status": "success"})
    assert asker.ask(GENERATE, {"email": "gone@example.com"})[1] == {"status": "optout"}


def test_logging_out_fails_without_an_opt_out_service(make_asker: Any) -> None:
    """The real operator only forwards (docs/protocol.md 2.9)."""
    asker = make_asker(optout_api_uri=None)

    assert asker.ask(LOGOUT, {"email": "gone@example.com"}) == (
        500,
        "Internal Server Error",
    )


def test_logging_out_nobody_is_an_invalid_token(asker: Any) -> None:
    """The message names no identity (docs/protocol.md 2.9)."""
    status, failure = asker.ask(LOGOUT, {})

    assert (status, failure["status"]) == (400, "invalid_token")
    assert failure["message"] == "Invalid Token presented null"


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
    return encrypt_refresh_token(RefreshToken(**fields), key, iv=IV)


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
    """Without an API key the cause is not reported (docs/protocol.md 2.2)."""
    token = seal(asker, expires_ms=asker.now_ms - 1)

    assert asker.refresh(token) == ERROR
    assert asker.refresh(token, who="bidder") == (
        400,
        {"message": "Expired Token presented", "status": "expired_token"},
    )


def test_very_old_identities_have_opted_out(asker: Any) -> None:
    """A token that was established before March 2021 (docs/protocol.md 2.2)."""
    first = 1_615_222_800_000

    early = asker.refresh(seal(asker, established_ms=first - 1, expires_ms=0))

    assert early == (200, {"status": "optout"})
    assert asker.refresh(seal(asker, established_ms=first))[1]["status"] == "success"


def test_the_refresh_test_identity_opts_out_here(asker: Any) -> None:
    """It generates, and opts out on refresh (docs/protocol.md 7)."""
    body = generate(asker, "refresh-optout@example.com")

    assert refresh(asker, body) == (200, {"status": "optout"})


def test_an_opt_out_in_between_counts(asker: Any) -> None:
    """A refresh asks the opt-out store again."""
    body = generate(asker)
    asker.ask("/v2/token/logout", {"email": "a@example.com"})

    assert refresh(asker, body) == (200, {"status": "optout"})


def test_without_an_active_key_there_is_no_refresh(asker: Any) -> None:
    """Only known callers are told the cause (docs/protocol.md 2.2)."""
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
        decrypt_inner_token(seal(asker), asker.world.keysets.key), version=2
    )
    inner = encrypt_refresh_token(fields, key, iv=IV + IV[:4])
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
    fields = decrypt_inner_token(seal(asker), asker.world.keysets.key)
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
            encrypt_refresh_token(token, key, iv=IV + IV[:4]), who="publisher"
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
