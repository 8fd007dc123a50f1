"""Identity tokens: stored JSON in and out, and how far they have aged."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, strategies as st

from uid2_async import IdentityTokens, TokenState
from uid2_async.errors import InputError
from uid2_async.models import datetime_from_ms

TOKENS = {
    "advertising_token": "canary-advertising",
    "refresh_token": "canary-refresh",
    "identity_expires": 1_700_000_000_123,
    "refresh_expires": 1_700_000_000_456,
    "refresh_from": 1_700_000_000_789,
    "refresh_response_key": "canary-key",
}


def test_tokens_survive_json_with_unknown_keys() -> None:
    """What another SDK adds to the stored JSON is still there afterwards."""
    text = json.dumps(TOKENS | {"private": {"x": [1]}})

    tokens = IdentityTokens.from_json(text)

    assert tokens.identity_expires == datetime_from_ms(1_700_000_000_123)
    assert json.loads(tokens.to_json()) == json.loads(text)
    assert json.loads(IdentityTokens.from_json(text.encode()).to_json())["private"]


def test_tokens_without_response_key_are_read() -> None:
    """Operators without encryption give no refresh_response_key."""
    fields = {key: TOKENS[key] for key in TOKENS if key != "refresh_response_key"}

    tokens = IdentityTokens.from_json(json.dumps(fields))

    assert tokens.refresh_response_key is None
    assert json.loads(tokens.to_json()) == fields


def test_tokens_hide_in_repr() -> None:
    """A repr of tokens shows times and no token."""
    shown = repr(IdentityTokens.from_json(json.dumps(TOKENS | {"x": "canary"})))

    assert "canary" not in shown
    assert "2023" in shown


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"advertising_token": None}, "advertising_token is missing"),
        ({"advertising_token": 7}, "advertising_token is not of type str"),
        ({"refresh_response_key": 7}, "refresh_response_key is not a str"),
        ({"refresh_from": "canary"}, "refresh_from is not of type int"),
        ({"refresh_from": True}, "refresh_from is not of type int"),
        ({"identity_expires": 10**17}, "identity_expires is not a time in ms"),
    ],
)
def test_wrong_tokens_are_named_by_field(change: dict, message: str) -> None:
    """A stored identity that is damaged says where, never what."""
    with pytest.raises(InputError, match=message) as caught:
        IdentityTokens.from_json(json.dumps(TOKENS | change))

    assert "canary" not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    "text", ["", "canary", "[]", "null", "{", '"x"', b"\xff{}", "\udc80", 5, None, [1]]
)
def test_tokens_must_be_an_object(text: Any) -> None:
    """What is no JSON object is refused without being kept in the error."""
    words = "not a JSON object|text must be str"
    with pytest.raises(InputError, match=words) as caught:
        IdentityTokens.from_json(text)

    assert caught.value.__context__ is None


@pytest.mark.parametrize("fields", [None, 5, "canary", b"canary", [["canary", 1]]])
def test_a_dict_must_be_a_mapping(fields: Any) -> None:
    """What is not a mapping is refused, and not shown."""
    with pytest.raises(InputError, match="fields must be Mapping"):
        IdentityTokens.from_dict(fields)


def test_tokens_go_through_a_dict() -> None:
    """A dict is as good as its JSON, and is not changed by being read."""
    fields = TOKENS | {"private": True}

    tokens = IdentityTokens.from_dict(fields)

    assert tokens == IdentityTokens.from_json(json.dumps(fields))
    assert tokens.to_dict() == fields == TOKENS | {"private": True}


# What JSON can hold: no lone surrogates, and integers that JavaScript keeps.
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values))
def test_any_unknown_keys_survive(extra: dict[str, Any]) -> None:
    """What other software stores with the tokens is kept unchanged."""
    text = json.dumps(extra | TOKENS)

    assert json.loads(IdentityTokens.from_json(text).to_json()) == json.loads(text)


FROM = datetime(2026, 1, 1, 1, tzinfo=UTC)
AGED = IdentityTokens(
    advertising_token="a",
    refresh_token="r",
    refresh_response_key=None,
    refresh_from=FROM,
    identity_expires=FROM + timedelta(hours=71),
    refresh_expires=FROM + timedelta(days=29),
)


@pytest.mark.parametrize(
    ("now", "state", "usable"),
    [
        (FROM - timedelta(microseconds=1), TokenState.FRESH, True),
        (FROM, TokenState.DUE, True),
        (FROM + timedelta(hours=71, microseconds=-1), TokenState.DUE, True),
        (FROM + timedelta(hours=71), TokenState.EXPIRED_REFRESHABLE, False),
        (FROM + timedelta(days=28), TokenState.EXPIRED_REFRESHABLE, False),
        (FROM + timedelta(days=29), TokenState.DEAD, False),
        (FROM.astimezone(timezone(timedelta(hours=9))), TokenState.DUE, True),
    ],
)
def test_tokens_know_their_state(
    now: datetime, state: TokenState, usable: bool
) -> None:
    """Each instant belongs to the state that it begins, in every time zone."""
    assert AGED.state(now) is state
    assert state.usable is usable


def test_tokens_that_cannot_be_refreshed_any_more_are_dead() -> None:
    """The web SDK drops an identity whose refresh token has ended, and so do we."""
    odd = IdentityTokens.from_dict(
        TOKENS | {"refresh_expires": 5, "identity_expires": 10, "refresh_from": 10}
    )

    assert odd.state(datetime_from_ms(5)) is TokenState.DEAD
    assert odd.state(datetime_from_ms(4)) is TokenState.FRESH


def test_a_naive_time_has_no_state() -> None:
    """A time that could mean any zone is refused."""
    with pytest.raises(InputError, match="time zone"):
        AGED.state(datetime(2026, 1, 1))  # noqa: DTZ001 - the mistake under test


def test_nobody_but_the_operator_knows_of_an_opt_out() -> None:
    """OPTED_OUT is a state too, and not a usable one."""
    assert not TokenState.OPTED_OUT.usable
