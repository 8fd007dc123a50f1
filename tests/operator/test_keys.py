"""key/sharing, key/bidstream and key/latest."""

from __future__ import annotations

from typing import Any

import attrs

SHARING = "/v2/key/sharing"
BIDSTREAM = "/v2/key/bidstream"
LATEST = "/v2/key/latest"


def test_a_sharer_learns_what_it_seals_with(asker: Any) -> None:
    """Only the caller's own keys and the master keys have keyset ids."""
    status, reply = asker.ask(SHARING, who="sharer")

    body = reply["body"]
    keysets = {one.get("keyset_id") for one in body["keys"]}
    assert status == 200
    assert keysets == {9_999_999, body["default_keyset_id"], None}
    assert body["max_sharing_lifetime_seconds"] == 2_592_000 + 10
    assert body["token_expiry_seconds"] == "2592000"


def test_a_bidder_has_no_sharing_lifetime(asker: Any) -> None:
    """It needs the role SHARER (docs/protocol.md 6.1)."""
    body = asker.ask(SHARING, who="bidder")[1]["body"]

    assert "max_sharing_lifetime_seconds" not in body
    assert "default_keyset_id" not in body


def test_configured_lifetimes_count(asker: Any) -> None:
    """They replace what they are derived from otherwise (docs/protocol.md 6)."""
    runtime = attrs.evolve(
        asker.data.runtime,
        max_sharing_lifetime_seconds=50,
        max_bidstream_lifetime_seconds=60,
    )
    asker.load(attrs.evolve(asker.data, runtime=runtime))

    sharing = asker.ask(SHARING, who="sharer")[1]["body"]
    bidstream = asker.ask(BIDSTREAM, who="bidder")[1]["body"]

    assert sharing["max_sharing_lifetime_seconds"] == 60
    assert bidstream["max_bidstream_lifetime_seconds"] == 70


def test_the_bidstream_lifetime_is_that_of_tokens(asker: Any) -> None:
    """Unless it is configured (docs/protocol.md 6.2)."""
    body = asker.ask(BIDSTREAM, who="bidder")[1]["body"]

    assert body["max_bidstream_lifetime_seconds"] == 259_200 + 10
    assert all("keyset_id" not in one for one in body["keys"])


def test_app_names_are_told_if_configured(make_asker: Any) -> None:
    """Site data lists domains, and app names by a setting (docs/protocol.md 6.3)."""
    names = []
    for provided in (True, False):
        asker = make_asker(key_sharing_endpoint_provide_app_names=provided)
        body = asker.ask(BIDSTREAM, who="bidder")[1]["body"]
        names.append({one["id"]: one["domain_names"] for one in body["site_data"]})

    assert names[0][101] == ["com.example.app", "example.com", "localhost"]
    assert names[1][101] == ["example.com", "localhost"]


def test_site_data_goes_with_client_side_generation(make_asker: Any) -> None:
    """Without it the field is missing (docs/protocol.md 6.1)."""
    asker = make_asker(client_side_token_generate=False)

    assert "site_data" not in asker.ask(BIDSTREAM, who="bidder")[1]["body"]


def test_the_latest_keys_name_their_sites(asker: Any) -> None:
    """-1 is the site of master keys (docs/protocol.md 6.3)."""
    body = asker.ask(LATEST, who="bidder")[1]["body"]

    assert {one["site_id"] for one in body} >= {-1, 2, 101, 104}
    assert [one["id"] for one in body] == sorted(one["id"] for one in body)


def test_reserved_sites_get_no_latest_keys(asker: Any) -> None:
    """Sites up to 2 are the operators' own (docs/protocol.md 2.8)."""
    clients = tuple(attrs.evolve(one, site_id=2) for one in asker.data.clients)
    asker.load(attrs.evolve(asker.data, clients=clients))

    assert asker.ask(LATEST, who="bidder") == (
        401,
        {"message": "Unexpected client site id 2", "status": "invalid_client"},
    )


def test_without_a_master_key_there_are_no_keys(asker: Any) -> None:
    """The operator fails (docs/protocol.md 2.8)."""
    asker.load(attrs.evolve(asker.data, keys=()))

    assert asker.ask(SHARING)[0] == asker.ask(BIDSTREAM)[0] == 500
