"""token/generate, token/validate and token/logout."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from uid2_async import IdentityScope
from uid2_async.operator.data import EMBEDDED_OPT_OUT
from uid2_async.protocol.token_codec import AdvertisingToken, open_token

GENERATE = "/v2/token/generate"
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
