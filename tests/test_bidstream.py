"""The bid stream: tokens of bid requests, their domains, and the opt-out webhook."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlencode

import attrs
import pytest
from msgspec import structs

from uid2_async import (
    BidstreamClient,
    ClientSideClient,
    DecryptedToken,
    IdentityScope,
    IdentityTokens,
    KeyRing,
    KeyStore,
    TokenFailure,
    UID2Client,
    errors,
)
from uid2_async.bidstream import OptOutNotice, parse_optout_webhook
from uid2_async.models import IdentityType
from uid2_async.operator import LocalOperator, OperatorData
from uid2_async.protocol.keyring import Key
from uid2_async.protocol.token_codec import AdvertisingToken, seal_token

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NOW_MS = int(NOW.timestamp() * 1000)
TIMES = {"created": 0, "activates": 0, "expires": 2**40}
KEYS = {
    number: Key(id=number, secret=bytes([number]) * 32, **TIMES) for number in (1, 2)
}
RING = KeyRing(
    keys=KEYS,
    max_bidstream_lifetime_seconds=3600,
    site_data={9: frozenset({"example.com", "com.example.app"})},
)
CLIENT = BidstreamClient(RING, clock=lambda: NOW)
UID = base64.b64encode(bytes(33)).decode()
# The first byte of a raw UID of 33 bytes holds its scope (docs/protocol.md 4.4).
EUID_UID = base64.b64encode(b"\x10" + bytes(32)).decode()


def make_token(**change: Any) -> str:
    """Make a token that is accepted, changed as told."""
    fields = {
        "version": 4,
        "scope": IdentityScope.UID2,
        "identity_type": IdentityType.EMAIL,
        "master_key_id": 1,
        "site_key_id": 2,
        "expires_ms": NOW_MS + 3_600_000,
        "created_ms": NOW_MS,
        "site_id": 9,
        "privacy_bits": 1,
        "established_ms": NOW_MS,
        "refreshed_ms": NOW_MS,
        "raw_uid": UID,
    } | change
    size = 16 if fields["version"] == 2 else 12
    return seal_token(
        AdvertisingToken(**fields),
        KEYS.get,
        master_iv=b"m" * size,
        site_iv=b"s" * size,
    )


CLIENT_SIDE = make_token(privacy_bits=3)


@pytest.mark.parametrize("version", [2, 3, 4])
@pytest.mark.parametrize("name", [None, "elsewhere.example"])
def test_a_token_of_a_publishers_server_is_opened(
    version: int, name: str | None
) -> None:
    """Wherever the bid request comes from; no datetime is made before it is asked."""
    found = CLIENT.decrypt(make_token(version=version), name)

    assert (found.raw_uid, found.site_id, found.version) == (UID, 9, version)
    assert found.established == NOW
    assert found.created == (None if version == 2 else NOW)
    assert not found.client_side_generated


@pytest.mark.parametrize("version", [3, 4])
def test_an_euid_token_is_opened_with_the_keys_of_euid(version: int) -> None:
    """Its first byte has the bit of the scope, like its raw UID."""
    ring = attrs.evolve(RING, identity_scope=IdentityScope.EUID)
    client = BidstreamClient(ring, clock=lambda: NOW)
    token = make_token(version=version, scope=IdentityScope.EUID, raw_uid=EUID_UID)

    found = client.decrypt(token, "elsewhere.example")

    assert (found.raw_uid, found.scope) == (EUID_UID, IdentityScope.EUID)
    assert token.startswith("E")
    assert client.decrypt_many([make_token(version=version)]) == [
        TokenFailure.INVALID_IDENTITY_SCOPE
    ]


@pytest.mark.parametrize("name", ["example.com", "EXAMPLE.com", "com.example.App"])
def test_a_client_side_token_is_opened_at_home(name: str) -> None:
    """On its site's domains and in its apps, in any letter case."""
    found = CLIENT.decrypt(CLIENT_SIDE, name)

    assert found.client_side_generated


@pytest.mark.parametrize("name", [None, "", "sub.example.com", "example.net", 1.5])
def test_a_client_side_token_is_refused_elsewhere(name: Any) -> None:
    """For real: an unknown name, and none at all, fail (docs/protocol.md 6.6)."""
    failure = TokenFailure.DOMAIN_OR_APP_NAME_CHECK_FAILED

    with pytest.raises(errors.TokenError) as caught:
        CLIENT.decrypt(CLIENT_SIDE, name)
    assert caught.value.reason is failure
    assert CLIENT.decrypt_many([CLIENT_SIDE], [name]) == [failure]


def test_a_client_side_token_of_an_unknown_site_is_refused() -> None:
    """Its names are not known, so that no name is right."""
    token = make_token(privacy_bits=3, site_id=10)

    assert CLIENT.decrypt_many([token], ["example.com"]) == [
        TokenFailure.DOMAIN_OR_APP_NAME_CHECK_FAILED
    ]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"scope": IdentityScope.EUID}, TokenFailure.INVALID_IDENTITY_SCOPE),
        ({"expires_ms": NOW_MS - 1}, TokenFailure.EXPIRED_TOKEN),
        ({"expires_ms": NOW_MS + 3_601_000}, TokenFailure.INVALID_TOKEN_LIFETIME),
        ({"created_ms": NOW_MS + 1_801_000}, TokenFailure.INVALID_TOKEN_LIFETIME),
    ],
)
def test_the_reason_of_a_refusal_is_told(
    change: dict[str, Any], reason: TokenFailure
) -> None:
    """Each has its own; 33 bytes of raw UID are of the token's scope."""
    if change.get("scope") is IdentityScope.EUID:
        change = change | {"raw_uid": EUID_UID}
    token = make_token(**change)

    with pytest.raises(errors.TokenError) as caught:
        CLIENT.decrypt(token)
    assert caught.value.reason is reason
    assert token not in str(caught.value)


@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        (1, TokenFailure.NOT_AUTHORIZED_FOR_MASTER_KEY),
        (2, TokenFailure.NOT_AUTHORIZED_FOR_KEY),
    ],
)
def test_a_key_that_was_not_given_opens_nothing(
    missing: int, reason: TokenFailure
) -> None:
    """The result says which of the two it was."""
    keys = {number: key for number, key in KEYS.items() if number != missing}
    client = BidstreamClient(attrs.evolve(RING, keys=keys), clock=lambda: NOW)

    assert client.decrypt_many([make_token()]) == [reason]


def test_bulk_gives_one_answer_for_each_row() -> None:
    """Tokens are paired with their domains; what is no token at all is a failure."""
    tokens: Any = iter([make_token(), CLIENT_SIDE, CLIENT_SIDE, None, "A4", "A5AAAAAA"])
    names = iter([None, "example.com", "example.net", None, None, None])

    found = CLIENT.decrypt_many(tokens, names)

    assert [isinstance(one, DecryptedToken) for one in found[:2]] == [True, True]
    assert found[2:] == [
        TokenFailure.DOMAIN_OR_APP_NAME_CHECK_FAILED,
        TokenFailure.INVALID_PAYLOAD,
        TokenFailure.INVALID_PAYLOAD,
        TokenFailure.VERSION_NOT_SUPPORTED,
    ]
    assert CLIENT.decrypt_many([]) == []


def test_bulk_wants_lists_of_one_length() -> None:
    """A name too many or too few would shift all others."""
    for tokens, names in (("A4", None), ([], "example.com")):
        with pytest.raises(errors.InputError, match="not a str"):
            CLIENT.decrypt_many(tokens, names)
    with pytest.raises(errors.InputError, match="1 tokens, but 2 domains"):
        CLIENT.decrypt_many(["A4"], [None, None])


def test_expired_keys_are_no_keys() -> None:
    """That concerns all tokens, and so it is raised."""
    old = {number: structs.replace(key, expires=1) for number, key in KEYS.items()}
    client = BidstreamClient(attrs.evolve(RING, keys=old), clock=lambda: NOW)
    for call in (lambda: client.decrypt("A4"), lambda: client.decrypt_many(["A4"])):
        with pytest.raises(errors.KeysUnavailableError):
            call()


def test_the_repr_shows_the_keys_state() -> None:
    """And no key."""
    assert repr(CLIENT) == (
        "<BidstreamClient <KeyRing UID2 keys=2 caller_site_id=None>>"
    )


@pytest.mark.parametrize("scope", IdentityScope)
async def test_a_bidder_opens_what_a_page_sends(scope: IdentityScope) -> None:
    """With the keys and the names of the operator."""
    async with LocalOperator(OperatorData.sample(scope=scope)) as operator:
        pair = operator.data.keypairs[0]
        bidder = operator.credentials["bidder"]
        async with (
            ClientSideClient(
                operator.url,
                subscription_id=pair.subscription_id,
                server_public_key=pair.public_key,
                origin="https://www.example.com",
            ) as page,
            UID2Client(
                operator.url,
                api_key=bidder.api_key,
                client_secret=bidder.client_secret,
                scope=scope,
            ) as client,
            KeyStore(client.fetch_bidstream_keys) as keys,
        ):
            tokens = await page.generate_token("user@example.com")
            assert isinstance(tokens, IdentityTokens)
            token = tokens.advertising_token
            bidstream = BidstreamClient(keys)

            found = bidstream.decrypt(token, "example.com")

            assert (found.scope, found.site_id) == (scope, pair.site_id)
            assert (found.version, found.client_side_generated) == (4, True)
            assert bidstream.decrypt_many([token]) == [
                TokenFailure.DOMAIN_OR_APP_NAME_CHECK_FAILED
            ]


# --- the opt-out webhook --------------------------------------------------------------

PLUS_UID = base64.b64encode(b"\xfb\xef\xbe" * 11).decode()
BARE_UID = base64.b64encode(bytes(range(200, 232))).decode()


@pytest.mark.parametrize("uid", [UID, PLUS_UID, BARE_UID])
def test_a_notice_is_read(uid: str) -> None:
    """Raw UID and time in seconds, escaped as they should be."""
    query = urlencode({"identity": uid, "timestamp": 1_700_000_000})

    notice = parse_optout_webhook(query)

    assert notice == OptOutNotice(
        raw_uid=uid, opted_out=datetime.fromtimestamp(1_700_000_000, UTC)
    )
    assert uid not in repr(notice)
    assert parse_optout_webhook(f"?{query}") == notice


@pytest.mark.parametrize("uid", [PLUS_UID, BARE_UID])
def test_a_raw_uid_that_was_not_escaped_is_put_right(uid: str) -> None:
    """A plus arrives as a space, or as it is; the padding may be lost."""
    assert "+" in PLUS_UID
    for text in (uid, uid.replace("+", "%20"), uid.rstrip("="), quote(uid)):
        assert parse_optout_webhook(f"identity={text}").raw_uid == uid


def test_the_names_are_those_of_the_registered_url() -> None:
    """Such as the ones in the documentation's example."""
    query = urlencode({"user": UID, "optouttime": 60, "action": "dooptout"})

    notice = parse_optout_webhook(query, identity="user", timestamp="optouttime")

    assert notice.raw_uid == UID
    assert notice.opted_out == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(minutes=1)


@pytest.mark.parametrize("text", ["", "soon", "-1", "1.5", "1700000000000", "\u0661"])
def test_a_wrong_time_costs_no_opt_out(text: str) -> None:
    """It is only for information."""
    query = urlencode({"identity": UID, "timestamp": text})

    assert parse_optout_webhook(query) == OptOutNotice(raw_uid=UID, opted_out=None)
    assert parse_optout_webhook(f"identity={quote(UID)}").opted_out is None


@pytest.mark.parametrize(
    "query",
    [
        *("", "identity=", "identity=canary", "timestamp=1", f"user={UID}"),
        f"identity={UID}&identity={UID}",
        f"identity={UID[:40]}",
        f"identity={UID}" + "&a=b" * 200,
    ],
)
def test_a_notice_without_one_raw_uid_is_refused(query: str) -> None:
    """Without showing what there was."""
    with pytest.raises(errors.InputError, match="exactly one raw UID") as caught:
        parse_optout_webhook(query)

    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("first", [0x20, 0x64, 0xB0])
def test_the_environment_that_opt_out_records_drop_is_restored(first: int) -> None:
    """So that the raw UID is the one that tokens hold (docs/protocol.md 2.7)."""
    whole = bytes([first]) + bytes(range(31))
    check = 0
    for byte in whole:
        check ^= byte
    whole += bytes([check])
    dropped = bytes([first & 0x3F]) + whole[1:]

    found = parse_optout_webhook(urlencode({"identity": base64.b64encode(dropped)}))

    assert found.raw_uid == base64.b64encode(whole).decode()
