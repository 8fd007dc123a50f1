"""Tokens in OpenRTB bid requests."""

from __future__ import annotations

from typing import Any

import pytest

from uid2_async import IdentityScope, IdentityTokens
from uid2_async.errors import InputError
from uid2_async.publisher import to_openrtb_eid


def test_a_uid2_token_is_an_eid(plain: IdentityTokens) -> None:
    """Source, id and agent type are those that Prebid.js sends."""
    eid = {
        "source": "uidapi.com",
        "uids": [
            {"id": plain.advertising_token, "atype": 3, "ext": {"rtiPartner": "UID2"}}
        ],
    }

    assert to_openrtb_eid(plain) == {"user": {"eids": [eid]}}
    assert to_openrtb_eid(plain, "2.6") == {"user": {"eids": [eid]}}
    assert to_openrtb_eid(plain, "2.5") == {"user": {"ext": {"eids": [eid]}}}


def test_an_euid_token_is_an_eid(plain: IdentityTokens) -> None:
    """EUID has a source of its own, and no partner name is published for it."""
    assert to_openrtb_eid(plain, scope=IdentityScope.EUID) == {
        "user": {
            "eids": [
                {
                    "source": "euid.eu",
                    "uids": [{"id": plain.advertising_token, "atype": 3}],
                }
            ]
        }
    }


def test_other_versions_are_refused(plain: IdentityTokens) -> None:
    """A place that nobody reads is a mistake."""
    version: Any = "3.0"
    with pytest.raises(InputError, match=r"2\.5 or 2\.6"):
        to_openrtb_eid(plain, version)


def test_results_can_be_changed_without_harm(plain: IdentityTokens) -> None:
    """Each call makes an object of its own."""
    first = to_openrtb_eid(plain)
    first["user"]["eids"][0]["uids"][0]["ext"]["provider"] = "sso.example"

    assert to_openrtb_eid(plain) != first
