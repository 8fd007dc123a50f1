"""Tokens in OpenRTB bid requests: what is added, kept and found."""

from __future__ import annotations

import json
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import pytest
from hypothesis import given, strategies as st

from uid2_async import IdentityScope, IdentityTokens
from uid2_async.bidstream import domain_or_app_in, tokens_in
from uid2_async.errors import InputError
from uid2_async.openrtb import OpenRTBVersion
from uid2_async.publisher import add_openrtb_eid, to_openrtb_eid

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
TOKENS = IdentityTokens(
    advertising_token="adv+/=" * 30,
    refresh_token="ref+/=" * 60,
    refresh_response_key="wR5t6HKMfJ2r4J7fEGX9Gw==",
    refresh_from=NOW + timedelta(hours=1),
    identity_expires=NOW + timedelta(hours=72),
    refresh_expires=NOW + timedelta(days=30),
)
TOKEN = TOKENS.advertising_token
OTHER = {"source": "other.example", "uids": [{"id": "x"}], "ext": {"a": 1}}
EID = {
    "source": "uidapi.com",
    "uids": [{"id": TOKEN, "atype": 3, "ext": {"rtiPartner": "UID2"}}],
}
VERSIONS: tuple[OpenRTBVersion, ...] = get_args(OpenRTBVersion)


def eid(*ids: Any, source: Any = "uidapi.com") -> dict[str, Any]:
    """Make an entry of some uids."""
    return {"source": source, "uids": [{"id": one} for one in ids]}


# --- made ---------------------------------------------------------------------------


def test_a_uid2_token_is_an_eid() -> None:
    """Source, id and agent type are those that Prebid.js sends."""
    assert to_openrtb_eid(TOKENS) == {"user": {"eids": [EID]}}
    assert to_openrtb_eid(TOKENS, "2.6") == {"user": {"eids": [EID]}}
    assert to_openrtb_eid(TOKENS, "2.5") == {"user": {"ext": {"eids": [EID]}}}


def test_an_euid_token_is_an_eid() -> None:
    """EUID has a source of its own, and no partner name is published for it."""
    expected = {"source": "euid.eu", "uids": [{"id": TOKEN, "atype": 3}]}
    scope = IdentityScope.EUID

    assert to_openrtb_eid(TOKENS, scope=scope) == {"user": {"eids": [expected]}}
    added = add_openrtb_eid({"user": {"eids": [EID]}}, TOKENS, scope=scope)
    assert added["user"]["eids"] == [EID, expected]


def test_other_versions_are_refused() -> None:
    """A place that nobody reads is a mistake."""
    version: Any = "3.0"
    with pytest.raises(InputError, match=r"2\.5 or 2\.6"):
        to_openrtb_eid(TOKENS, version)


def test_results_can_be_changed_without_harm() -> None:
    """Each call makes an object of its own."""
    first = to_openrtb_eid(TOKENS)
    first["user"]["eids"][0]["uids"][0]["ext"]["provider"] = "sso.example"

    assert to_openrtb_eid(TOKENS) != first


# --- added --------------------------------------------------------------------------


def test_adding_keeps_id_consent_and_other_eids() -> None:
    """The rest of the user and of the request stays as it was."""
    request = {
        "id": "1",
        "user": {"id": "u", "consent": "C", "ext": {"consent": "C"}, "eids": [OTHER]},
    }
    before = deepcopy(request)

    assert add_openrtb_eid(request, TOKENS) == {
        "id": "1",
        "user": {
            "id": "u",
            "consent": "C",
            "ext": {"consent": "C"},
            "eids": [OTHER, EID],
        },
    }
    assert request == before


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ({"eids": [OTHER]}, {"eids": [OTHER, EID]}),
        ({"ext": {"eids": [OTHER]}}, {"ext": {"eids": [OTHER, EID]}}),
    ],
    ids=["2.6", "2.5"],
)
def test_the_token_joins_the_eids_that_are_there(
    version: OpenRTBVersion, user: dict[str, Any], expected: dict[str, Any]
) -> None:
    """A second place would hide the first one from Prebid Server."""
    assert add_openrtb_eid({"user": user}, TOKENS, version) == {"user": expected}


def test_where_both_places_are_used_the_version_decides() -> None:
    """Eids in both places stay, and the token is where it was asked for."""
    request = {"user": {"eids": [OTHER], "ext": {"eids": [OTHER]}}}

    new = add_openrtb_eid(request, TOKENS, "2.6")
    old = add_openrtb_eid(request, TOKENS, "2.5")

    assert new["user"] == {"eids": [OTHER, EID], "ext": {"eids": [OTHER]}}
    assert old["user"] == {"eids": [OTHER], "ext": {"eids": [OTHER, EID]}}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "user", [None, {}, {"eids": None}, {"ext": None}, {"ext": {"eids": None}}]
)
def test_null_is_as_good_as_missing(version: OpenRTBVersion, user: Any) -> None:
    """Objects that are null are made where they are needed."""
    added = add_openrtb_eid({"user": user, "site": None}, TOKENS, version)

    assert tokens_in(added) == [TOKEN]
    assert added["site"] is None


def test_a_token_is_added_once() -> None:
    """A request that went through twice is as if it had gone through once."""
    once = add_openrtb_eid({}, TOKENS)

    assert add_openrtb_eid(once, TOKENS) == once
    assert add_openrtb_eid(once, TOKENS, "2.5") == once


@pytest.mark.parametrize(
    "request_",
    [
        [],
        "request",
        {"user": []},
        {"user": "x"},
        {"user": {"eids": {}}},
        {"user": {"eids": "x"}},
    ],
)
def test_what_would_be_lost_is_refused(request_: Any) -> None:
    """Nothing of another type is replaced; the message holds no value."""
    with pytest.raises(
        InputError, match=r"must be (an object|a list|Mapping)"
    ) as caught:
        add_openrtb_eid(request_, TOKENS)

    assert TOKEN not in str(caught.value)


# --- found --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ({"eids": [OTHER], "ext": {"eids": [eid("a")]}}, ["a"]),
        ({"eids": [eid("a")], "ext": {"eids": [eid("b")]}}, ["a", "b"]),
        ({"eids": [eid("a"), OTHER, eid("b", "c")]}, ["a", "b", "c"]),
        ({"eids": [eid("a")], "ext": {"eids": [eid("a")]}}, ["a"]),
        ({"eids": [eid("a", source="euid.eu")]}, []),
        ({"eids": [{"source": "uidapi.com", "uids": [{"atype": 3}, None]}]}, []),
        ({"eids": [{"source": "uidapi.com", "uids": None}, eid("a")]}, ["a"]),
        ({"eids": [eid(None, 5, "", ["x"], "a"), "x", None, 5]}, ["a"]),
        ({"eids": {"source": "uidapi.com"}, "ext": {"eids": [eid("a")]}}, ["a"]),
        ({"eids": [eid("a", source=["uidapi.com"])]}, []),
        ({"ext": None}, []),
        ({"ext": []}, []),
        ([], []),
        (None, []),
    ],
)
def test_every_token_is_found(user: Any, expected: list[str]) -> None:
    """Both places, all entries and uids; what is malformed is skipped."""
    assert tokens_in({"user": user}) == expected


def test_each_system_has_its_tokens() -> None:
    """The scope chooses the source."""
    request = {"user": {"eids": [eid("a"), eid("b", source="euid.eu")]}}

    assert tokens_in(request) == ["a"]
    assert tokens_in(request, scope=IdentityScope.EUID) == ["b"]


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({"site": {"domain": "example.com"}}, "example.com"),
        ({"app": {"bundle": "com.example"}}, "com.example"),
        ({"site": None, "app": {"bundle": "com.example"}}, "com.example"),
        ({"site": {"domain": ""}, "app": {"bundle": "com.example"}}, "com.example"),
        ({"site": {"domain": 5}}, None),
        ({"site": [], "app": "x"}, None),
        ({}, None),
        (None, None),
    ],
)
def test_domain_or_app(request_: Any, expected: str | None) -> None:
    """The site's domain, or else the app's bundle, or nothing."""
    assert domain_or_app_in(request_) == expected


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(
            st.sampled_from(["user", "ext", "eids", "source", "uids", "id", "x"]),
            children,
            max_size=4,
        )
    ),
    max_leaves=25,
)
EIDS = st.lists(st.just(OTHER) | st.just(eid("theirs")) | JSON, max_size=3)
USERS = st.fixed_dictionaries(
    {},
    optional={
        "id": st.text(),
        "consent": st.text(),
        "eids": st.none() | EIDS,
        "ext": st.none()
        | st.fixed_dictionaries(
            {}, optional={"eids": st.none() | EIDS, "consent": st.text()}
        ),
    },
)
REQUESTS = st.fixed_dictionaries(
    {}, optional={"id": st.text(), "site": JSON, "user": st.none() | USERS}
)


def without_null(value: Any) -> Any:
    """Leave out what is null, empty or our eid, so that only content is compared."""
    if isinstance(value, list):
        return [without_null(one) for one in value if one != EID]
    if isinstance(value, dict):
        kept = {name: without_null(one) for name, one in value.items()}
        return {name: one for name, one in kept.items() if one not in (None, [], {})}
    return value


@given(request=REQUESTS, version=st.sampled_from(VERSIONS))
def test_what_is_added_is_found_and_nothing_is_lost(
    request: dict[str, Any], version: OpenRTBVersion
) -> None:
    """Adding changes nothing but our own eid, which is the last to be found."""
    before = json.dumps(request)

    added = add_openrtb_eid(request, TOKENS, version)

    assert json.dumps(request) == before
    assert sorted(tokens_in(added)) == sorted([*tokens_in(request), TOKEN])
    assert without_null(added) == without_null(request)


@given(JSON, st.sampled_from(VERSIONS))
def test_foreign_requests_never_raise(value: Any, version: OpenRTBVersion) -> None:
    """Reading takes anything; adding takes it, or raises our own error."""
    tokens_in(value)
    domain_or_app_in(value)
    try:
        added = add_openrtb_eid(value, TOKENS, version)
    except InputError:
        return
    assert TOKEN in tokens_in(added)
