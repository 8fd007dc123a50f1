"""generate, refresh, validate and logout, both halves."""

from __future__ import annotations

import json
from typing import Any

import pytest

from operator_answers import answer
from uid2_async import Email, IdentityTokens, InsufficientConsent, OptedOut
from uid2_async.errors import OperatorError, ProtocolError
from uid2_async.models import datetime_from_ms
from uid2_async.operator import tokens as endpoints
from uid2_async.operator.http_messages import RefusedError, encode_success
from uid2_async.protocol import tokens

BODY = tokens.TokensBody(
    advertising_token="canary-advertising",
    refresh_token="canary-refresh",
    identity_expires=1,
    refresh_expires=2,
    refresh_from=3,
    refresh_response_key="canary-key",
)


def test_a_generate_request_is_read_as_built() -> None:
    """What the client asks is what the operator reads."""
    built = tokens.generate_call(
        Email("User@example.com"), tcf_consent_string="CP", send_raw=True
    ).payload

    assert json.loads(built) == {
        "email": "User@example.com",
        "tcf_consent_string": "CP",
    }
    found = json.loads(answer(endpoints.generate, json.loads(built)))
    assert found["status"] == "success"


def test_tokens_are_read_as_built() -> None:
    """What the operator answers is what the client gets, in datetimes."""
    read = tokens.parse_tokens_reply(encode_success(BODY))

    assert read == IdentityTokens(
        advertising_token="canary-advertising",
        refresh_token="canary-refresh",
        refresh_response_key="canary-key",
        identity_expires=datetime_from_ms(1),
        refresh_expires=datetime_from_ms(2),
        refresh_from=datetime_from_ms(3),
    )
    assert "canary" not in repr(BODY) + repr(read)


@pytest.mark.parametrize(
    "parse", [tokens.parse_tokens_reply, tokens.parse_refresh_reply]
)
def test_an_opt_out_is_a_value(parse: Any) -> None:
    """200 with ``optout`` is an answer, not an error."""
    assert parse(endpoints.encode_status("optout")) == OptedOut()


def test_insufficient_consent_is_a_value_of_generate_alone() -> None:
    """Refresh never answers it, so there it is an error."""
    payload = endpoints.encode_status("insufficient_user_consent")

    assert tokens.parse_tokens_reply(payload) == InsufficientConsent()
    with pytest.raises(OperatorError):
        tokens.parse_refresh_reply(payload)


@pytest.mark.parametrize(
    ("payload", "cls"),
    [
        (b'{"status":"other"}', OperatorError),
        (b'{"status":"success"}', ProtocolError),
        (b'{"body":{}}', ProtocolError),
        (b'{"status":"success","body":{"advertising_token":"canary"}}', ProtocolError),
    ],
)
def test_other_replies_are_errors(payload: bytes, cls: type) -> None:
    """No half a reply passes for tokens."""
    with pytest.raises(cls) as caught:
        tokens.parse_tokens_reply(payload)

    assert "canary" not in str(caught.value)


def test_a_validate_request_is_read_as_built() -> None:
    """Identity and token reach the operator."""
    call = tokens.validate_call(Email("a@b.com"), "canary")
    built = json.loads(call.payload)

    assert built["token"] == "canary"
    with pytest.raises(RefusedError, match="Invalid token") as caught:
        answer(endpoints.validate, built)
    assert "canary" not in str(caught.value)
    for same in (True, False):
        assert call.parse(encode_success(same)) is same


def test_a_validate_request_needs_a_token() -> None:
    """The identity is judged first, the token after it."""
    with pytest.raises(RefusedError, match="Invalid token"):
        answer(endpoints.validate, {"email": "a@b.com"})
    with pytest.raises(RefusedError, match="Invalid Identifier"):
        answer(endpoints.validate, {"email": "ab"})


def test_a_logout_request_is_read_as_built() -> None:
    """Logout takes one identity and answers OK."""
    built = json.loads(tokens.logout_call(Email("a@b.com")).payload)

    tokens.parse_logout_reply(answer(endpoints.opt_out, built))


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (None, "Invalid Token presented null"),
        ({"email": "ab"}, "Invalid Token presented InputVal"),
    ],
)
def test_a_logout_without_identity_is_refused(
    payload: dict | None, message: str
) -> None:
    """The status word is invalid_token, whatever is wrong."""
    with pytest.raises(RefusedError) as caught:
        answer(endpoints.opt_out, payload)

    assert (caught.value.code, caught.value.message) == ("invalid_token", message)
