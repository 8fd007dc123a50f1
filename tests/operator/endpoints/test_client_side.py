"""token/client-generate."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, derive_private_key

from uid2_async.errors import EnvelopeError
from uid2_async.models import Email
from uid2_async.operator import Fault
from uid2_async.protocol import client_side
from uid2_async.protocol.base64 import encode_text
from uid2_async.protocol.token_codec import open_token

CLIENT_KEY = derive_private_key(77, SECP256R1())
IV = b"0123456789ab"
ORIGIN = "http://localhost:3000"


def ask(
    asker: Any,
    *,
    origin: str | None = ORIGIN,
    inner: dict[str, Any] | None = None,
    app_name: str | None = None,
    fault: Fault | None = None,
) -> tuple[int, Any]:
    """Ask for a token from a browser, and give the status and the opened JSON."""
    pair = asker.data.keypairs[0]
    cipher = client_side.shared_cipher(
        CLIENT_KEY, client_side.load_server_public_key(pair.public_key)
    )
    body = client_side.build_client_generate_request(
        Email("a@example.com"),
        subscription_id=pair.subscription_id,
        client_key=CLIENT_KEY,
        cipher=cipher,
        now_ms=1,
        iv=IV,
        app_name=app_name,
    )
    if inner is not None:
        sealed = cipher.encrypt(IV, json.dumps(inner).encode(), b"[1]")
        body = json.dumps({**json.loads(body), "payload": encode_text(sealed)}).encode()
    headers = {} if origin is None else {"Origin": origin}
    reply = asker.send(client_side.CLIENT_GENERATE_PATH, body, headers, fault)
    if reply.status != 200:
        return reply.status, json.loads(reply.body)
    assert reply.content_type is None
    opened = client_side.open_client_generate_reply(reply.body, cipher)
    return 200, json.loads(opened)


def test_a_browser_gets_a_token_of_its_site(asker: Any) -> None:
    """The privacy bits tell that it was client-side (docs/protocol.md 2.10)."""
    status, reply = ask(asker)

    token = open_token(reply["body"]["advertising_token"], asker.world.keysets.key)
    assert status == 200
    assert (token.site_id, token.privacy_bits) == (101, 3)


def test_the_token_is_refreshed_like_any_other(asker: Any) -> None:
    """Refresh is the same for both ways (docs/protocol.md 2.10)."""
    body = ask(asker)[1]["body"]

    status, reply = asker.refresh(body["refresh_token"], body["refresh_response_key"])

    token = open_token(reply["body"]["advertising_token"], asker.world.keysets.key)
    assert (status, token.privacy_bits) == (200, 3)


@pytest.mark.parametrize("origin", [None, "https://example.net", "nonsense"])
def test_a_foreign_origin_is_refused(asker: Any, origin: str | None) -> None:
    """Only the site's own pages may ask (docs/protocol.md 2.10)."""
    assert ask(asker, origin=origin) == (
        403,
        {"message": "unexpected http origin", "status": "invalid_http_origin"},
    )


def test_an_app_is_known_by_its_name(asker: Any) -> None:
    """An app name counts in place of the origin (docs/protocol.md 2.10)."""
    assert ask(asker, origin=None, app_name="COM.example.App")[0] == 200
    assert ask(asker, app_name="other") == (
        403,
        {"message": "unexpected app name", "status": "invalid_app_name"},
    )


def test_the_origin_may_be_left_unchecked(make_asker: Any) -> None:
    """It is a setting of the operator (docs/protocol.md 2.10)."""
    asker = make_asker(client_side_token_generate_domain_name_check_enabled=False)

    assert ask(asker, origin=None)[0] == 200


def test_a_reply_can_be_sealed_with_a_wrong_key(asker: Any) -> None:
    """So that clients can be tested with it."""
    with pytest.raises(EnvelopeError):
        ask(asker, fault=Fault(wrong_key=True))


def test_a_disabled_subscription_is_unauthorized(asker: Any) -> None:
    """The message says no more (docs/protocol.md 2.10)."""
    pair = attrs.evolve(asker.data.keypairs[0], disabled=True)
    asker.load(attrs.evolve(asker.data, keypairs=(pair,)))

    assert ask(asker) == (401, {"message": "Unauthorized", "status": "unauthorized"})


def test_an_unknown_subscription_is_refused(asker: Any) -> None:
    """The subscription names the key pair (docs/protocol.md 2.10)."""
    reply = asker.send(client_side.CLIENT_GENERATE_PATH, b"{}", {})

    assert json.loads(reply.body)["message"] == "bad subscription_id"


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        ({}, "please provide exactly one of: email_hash, phone_hash"),
        ({"email": "a@b.c"}, "please provide exactly one of: email_hash, phone_hash"),
        (
            {"email_hash": "x", "phone_hash": "y"},
            "please provide exactly one of: email_hash, phone_hash",
        ),
        ({"phone_hash": "x"}, "Invalid Identifier"),
    ],
)
def test_exactly_one_hash_is_needed(
    asker: Any, inner: dict[str, Any], message: str
) -> None:
    """DII as it is does not count (docs/protocol.md 2.10)."""
    assert ask(asker, inner=inner) == (
        400,
        {"message": message, "status": "client_error"},
    )


def test_without_phone_support_there_is_one_hash(make_asker: Any) -> None:
    """The messages leave phones out (docs/protocol.md 2.10)."""
    asker = make_asker(enable_phone_support=False)

    with_phone = ask(asker, inner={"phone_hash": "x"})[1]["message"]
    without = ask(asker, inner={})[1]["message"]

    assert with_phone == "phone support not enabled"
    assert without == "please provide email_hash"


def test_people_who_opted_out_get_no_token(asker: Any) -> None:
    """As with every other way (docs/protocol.md 7)."""
    asker.ask("/v2/token/logout", {"email": "a@example.com"})

    assert ask(asker) == (200, {"status": "optout"})


def test_without_an_active_key_there_is_no_token(asker: Any) -> None:
    """The message is that of generate (docs/protocol.md 2.10)."""
    asker.load(attrs.evolve(asker.data, keys=()))

    assert ask(asker) == (
        500,
        {"message": "No active encryption key available", "status": "unknown"},
    )
