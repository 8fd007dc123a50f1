"""What a pasted value is, by all that the operator knows."""

from __future__ import annotations

import json
from base64 import b64encode
from hashlib import sha256
from typing import Any
from urllib.parse import quote

import pytest

from uid2_async.models import Email
from uid2_async.operator import LocalOperator, OperatorData
from uid2_async.operator.console.views import look_up
from uid2_async.operator.minting import unwrap_refresh_token

ADDRESS = "jane@example.com"
HASH = b64encode(sha256(ADDRESS.encode()).digest()).decode()


@pytest.fixture
def reply(desk: Any) -> dict[str, Any]:
    """Give the reply to a generate."""
    desk.call("/v2/token/generate", {"email": ADDRESS})
    fields: dict[str, Any] = json.loads(desk.last()["reply"]["text"])
    return fields


def inspect(desk: Any, value: str) -> Any:
    """Paste a value."""
    answer = desk.order("inspect", {"value": value})
    assert answer.status == 200
    return answer.json


def test_an_advertising_token_is_opened(desk: Any, reply: dict[str, Any]) -> None:
    """With its site, its times and its raw UID, also out of a cookie."""
    token = reply["body"]["advertising_token"]
    for text in (token, f" {token}\n", quote(token, safe="")):
        found = inspect(desk, text)
        assert found["kinds"] == ["advertising token"]
        assert found["decrypted"]["site_id"] == 105
        assert found["decrypted"]["expired"] is False
    uid = inspect(desk, ADDRESS)["decrypted"]["raw_uid"]

    assert found["decrypted"]["raw_uid"] == uid
    desk.operator.advance(4 * 86_400)
    assert inspect(desk, token)["decrypted"]["expired"] is True


def test_a_refresh_token_is_opened(desk: Any, reply: dict[str, Any]) -> None:
    """With what decides on the next refresh."""
    token = reply["body"]["refresh_token"]
    found = inspect(desk, token)["decrypted"]
    assert (found["expired"], found["opted_out"]) == (False, False)
    desk.operator.opt_out(ADDRESS)

    assert inspect(desk, token)["decrypted"]["opted_out"] is True


def test_identity_tokens_are_opened_part_by_part(
    desk: Any, reply: dict[str, Any]
) -> None:
    """Bare, or in the reply that they came with."""
    for value in (reply, reply["body"]):
        found = inspect(desk, json.dumps(value))
        assert found["kinds"] == ["identity tokens"]
        assert found["advertising_token"]["decrypted"]["site_id"] == 105
        assert found["refresh_token"]["decrypted"]["expired"] is False
    cookie = inspect(desk, quote(json.dumps(reply["body"])))
    assert cookie["advertising_token"]["decrypted"]["site_id"] == 105


def test_a_refresh_token_without_its_wrapper(desk: Any, reply: dict[str, Any]) -> None:
    """Old ones are opened, too."""
    inner, _ = unwrap_refresh_token(
        reply["body"]["refresh_token"], desk.operator._index.keysets.key
    )

    assert inspect(desk, inner)["decrypted"]["site_id"] == 105


def test_an_identity_that_is_not_valid_is_not_looked_up(desk: Any) -> None:
    """The hash of nothing, as the operator sees it."""
    assert look_up(desk.operator._index, Email("nobody"), now_ms=0) == {}


def test_tokens_of_another_operator_stay_closed(desk: Any, make_desk: Any) -> None:
    """And that is said."""
    with LocalOperator.in_thread(OperatorData.sample(seed=1), console=True) as other:
        stranger = make_desk(other)
        stranger.call("/v2/token/generate", {"email": ADDRESS})
        tokens = json.loads(stranger.last()["reply"]["text"])["body"]

    assert (
        "no: " in inspect(desk, tokens["advertising_token"])["decrypted"]["decrypted"]
    )
    assert "no: " in inspect(desk, tokens["refresh_token"])["decrypted"]["decrypted"]


def test_people_are_looked_up(desk: Any) -> None:
    """By email, phone or hash; a hash does not say of which it is."""
    found = inspect(desk, ADDRESS)
    hashed = inspect(desk, HASH)
    assert found["decrypted"]["opted_out"] is False
    assert hashed["decrypted"]["as_email_hash_raw_uid"] == found["decrypted"]["raw_uid"]
    assert hashed["decrypted"]["as_phone_hash_raw_uid"]
    assert "raw_uid" in inspect(desk, "+12025550123")["decrypted"]
    desk.operator.opt_out(ADDRESS)

    assert inspect(desk, ADDRESS)["decrypted"]["opted_out"] is True
    uid = found["decrypted"]["raw_uid"]
    assert "opted_out_since" in inspect(desk, uid)["decrypted"]


@pytest.mark.parametrize("value", ["", "?", "{", '{"body": 1}', "null", "[1]", "\x00"])
def test_what_is_nothing_known(desk: Any, value: str) -> None:
    """It is said to be nothing, and never fails."""
    found = inspect(desk, value)

    assert found["kinds"] == []
    assert "decrypted" not in found


def test_an_api_key_is_not_looked_up(desk: Any) -> None:
    """It is known for what it is."""
    found = inspect(desk, desk.operator.api_key)

    assert found["kinds"] == ["API key"]
    assert found["site_id"] == 105
