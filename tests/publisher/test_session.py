"""What a session stores: tokens, or the mark of an opt-out."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from uid2_async import IdentityTokens, OptedOut
from uid2_async.errors import InputError
from uid2_async.publisher import from_session, to_session

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(extra=st.dictionaries(st.text(), json_values))
def test_tokens_survive_a_session(plain: IdentityTokens, extra: dict[str, Any]) -> None:
    """As an object or as JSON, with unknown keys, they come back as they were."""
    fields = extra | plain.to_dict()
    if fields.get("status") == "optout":
        fields.pop("status")
    tokens = IdentityTokens.from_dict(fields)

    stored = to_session(tokens)

    assert from_session(stored) == tokens
    assert from_session(json.dumps(stored)) == tokens
    assert from_session(json.dumps(stored).encode()) == tokens
    assert to_session(tokens) == stored


@pytest.mark.parametrize("nothing", [None, "", b"", {}])
def test_nothing_stored_is_no_identity(nothing: Any) -> None:
    """A new visitor has none."""
    assert from_session(nothing) is None


def test_an_opt_out_is_stored_as_the_web_sdk_does(now: datetime) -> None:
    """Its marker counts for 72 hours."""
    stored = to_session(OptedOut(), now=now)

    ends = int(now.timestamp() * 1000) + 72 * 3_600_000
    assert stored == {
        "status": "optout",
        "identity_expires": ends,
        "refresh_expires": ends,
    }
    late = now + timedelta(hours=72)
    assert from_session(stored, now=late - timedelta(seconds=1)) == OptedOut()
    assert from_session(stored, now=late) is None


def test_an_opt_out_counts_now() -> None:
    """Without a time, the system's clock decides."""
    assert from_session(to_session(OptedOut())) == OptedOut()
    assert from_session({"status": "optout", "refresh_expires": 1}) is None


@pytest.mark.parametrize("ends", [None, "soon", True, 10**20])
def test_in_doubt_an_opt_out_counts(plain: IdentityTokens, ends: Any) -> None:
    """Neither a strange time nor tokens beside it make it void."""
    stored = plain.to_dict() | {"status": "optout", "refresh_expires": ends}

    assert from_session(stored) == OptedOut()


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ("canary", "not a JSON object"),
        (b"\xffcanary", "not a JSON object"),
        ("canary\udc80", "not a JSON object"),
        (5, "stored must be"),
        (["canary"], "stored must be"),
        ("[1]", "not a JSON object"),
        ('{"status":"canary"}', "advertising_token is missing"),
        ({"advertising_token": "canary"}, "refresh_token is missing"),
    ],
)
def test_damage_is_named_and_not_shown(stored: Any, message: str) -> None:
    """An error about a session shows nothing of it."""
    with pytest.raises(InputError, match=message) as caught:
        from_session(stored)

    assert "canary" not in str(caught.value)
    assert caught.value.__context__ is None
