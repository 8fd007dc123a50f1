"""token/client-generate, both halves."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256K1,
    SECP256R1,
    SECP384R1,
    SECP521R1,
    EllipticCurvePrivateKey,
    derive_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from uid2_async.errors import ConfigError, EnvelopeError, InputError
from uid2_async.models import Email, EmailHash, Phone
from uid2_async.operator import (
    client_side as operator_client_side,
    indexes as operator_indexes,
)
from uid2_async.operator.http_messages import RefusedError
from uid2_async.protocol import client_side
from uid2_async.protocol.envelope import gcm_seal

CLIENT_KEY = derive_private_key(int("11" * 32, 16), SECP256R1())
SERVER_KEY = derive_private_key(int("22" * 32, 16), SECP256R1())
IV = b"0123456789:;"
NOW_MS = 1_700_000_000_123


def public_text(key: Any) -> str:
    """Write the public half of *key* in base64 DER."""
    public = key.public_key()
    return b64encode(
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    ).decode()


def private_text(key: Any) -> str:
    """Write *key* in base64 DER."""
    return b64encode(
        key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    ).decode()


def build(**options: Any) -> dict[str, Any]:
    """Build a request to the server of SERVER_KEY."""
    built = client_side.build_client_generate_request(
        options.pop("identity", Email("validate@example.com")),
        subscription_id="sub",
        client_key=CLIENT_KEY,
        cipher=client_side.shared_cipher(CLIENT_KEY, SERVER_KEY.public_key()),
        now_ms=NOW_MS,
        iv=IV,
        **options,
    )
    return json.loads(built)


def open_fields(
    fields: dict[str, Any], server_key: EllipticCurvePrivateKey = SERVER_KEY
) -> dict[str, object]:
    """Open a request as the operator does."""
    request = operator_client_side.parse_client_generate_request(
        json.dumps(fields).encode()
    )
    return operator_client_side.decrypt_client_generate_request(request, server_key)[0]


def refusal(fields: dict[str, Any], **options: Any) -> RefusedError:
    """Open a request that is refused."""
    with pytest.raises(RefusedError) as caught:
        open_fields(fields, **options)
    return caught.value


def test_requests_are_the_recorded_ones(vectors: dict[str, Any]) -> None:
    """Key agreement, AAD and JSON are those of the official scripts."""
    recorded = vectors["cstg"]
    server = client_side.load_server_public_key(recorded["server_public_key"])
    for case in recorded["requests"]:
        scalar = int(case["client_private_scalar_hex"], 16)
        client_key = derive_private_key(scalar, SECP256R1())
        expected = case["request_json"]

        built = client_side.build_client_generate_request(
            EmailHash(json.loads(case["inner_json"])["email_hash"]),
            subscription_id=expected["subscription_id"],
            client_key=client_key,
            cipher=client_side.shared_cipher(client_key, server),
            now_ms=expected["timestamp"],
            iv=b64decode(expected["iv"]),
            app_name=expected.get("app_name"),
        )

        assert json.loads(built) == expected


def test_replies_are_the_recorded_ones(vectors: dict[str, Any]) -> None:
    """A reply is base64 text without time and nonce (docs/protocol.md 2.10)."""
    recorded = vectors["cstg"]
    cipher = AESGCM(bytes.fromhex(recorded["requests"][0]["shared_secret_hex"]))
    iv = bytes.fromhex(recorded["response_iv_hex"])
    body = recorded["response_optout_body_b64"].encode()

    opened = client_side.open_client_generate_reply(body, cipher)

    assert opened == b'{"status":"optout"}'
    assert b64encode(gcm_seal(opened, cipher, iv)) == body


def test_an_operator_reads_what_a_client_builds() -> None:
    """Both halves understand each other, with and without an app name."""
    assert open_fields(build()) == open_fields(build(app_name='an "app"'))
    assert list(open_fields(build(identity=Phone("+12345678901")))) == ["phone_hash"]


def test_an_invalid_identity_is_not_sent() -> None:
    """A client refuses what the operator would refuse."""
    with pytest.raises(InputError):
        build(identity=Email("nobody"))


@pytest.mark.parametrize("body", [b"", b"null", b" null "])
def test_a_request_without_json_is_refused(body: bytes) -> None:
    """No body and a null are the same (docs/protocol.md 2.10)."""
    with pytest.raises(RefusedError) as caught:
        operator_client_side.parse_client_generate_request(body)

    assert caught.value.message == "json payload expected but not found"


def test_a_body_that_is_no_json_is_refused() -> None:
    """Anything but JSON is rejected as such."""
    with pytest.raises(RefusedError) as caught:
        operator_client_side.parse_client_generate_request(b"{bad")

    assert caught.value.message == "json payload is not valid"


@pytest.mark.parametrize(
    "body", [b"[]", b'"x"', b"1", b'{"x":1}', b'{"timestamp":"x"}']
)
def test_json_of_another_shape_makes_the_operator_fail(body: bytes) -> None:
    """The schema is strict, and the answer to a deviation is 500."""
    with pytest.raises(RefusedError) as caught:
        operator_client_side.parse_client_generate_request(body)

    found = caught.value
    assert (found.status, found.code) == (500, "unknown")
    assert found.message == "Unknown error while handling client side token generate"


@pytest.mark.parametrize(
    ("text", "timestamp"),
    [
        ("null", 0),
        ('""', 0),
        ('" \\t\\u0001"', 0),
        ('"null"', 0),
        ('" null "', 0),
        ('"123"', 123),
        ('" 5 "', 5),
        ('"+5"', 5),
        ('"-0"', 0),
        ('"00005"', 5),
        ('"\\u0661\\u0662"', 12),
        ('"+\\uff11"', 1),
        ("1.5", 1),
        ("-1.9", -1),
        ("-0.0", 0),
        ("1e3", 1_000),
        ("1e18", 10**18),
        ("1e-400", 0),
        ("9.223372036854775808e18", 2**63 - 1),
        ("-9223372036854775808", -(2**63)),
        ('"9223372036854775807"', 2**63 - 1),
    ],
)
def test_a_timestamp_is_read_as_a_long(text: str, timestamp: int) -> None:
    """Texts and fractions are taken as Jackson takes them (docs/protocol.md 2.10)."""
    body = f'{{"timestamp":{text}}}'.encode()

    assert (
        operator_client_side.parse_client_generate_request(body).timestamp == timestamp
    )


@pytest.mark.parametrize(
    "text",
    [
        *("true", "false", "[]", "{}", "[5]", "9223372036854775808", "1e19", "1e400"),
        *("-9.3e18", '"x"', '"1_0"', '"1.0"', '"1e3"', '"+"', '"0x5"', '"5L"'),
        *('"\\ud835\\udfce"', '"\\u00b2"', '"\\u00a05"', '"true"', '"NaN"'),
        '"9223372036854775808"',
        f'"{"9" * 5_000}"',
    ],
)
def test_a_timestamp_that_is_no_long_makes_the_operator_fail(text: str) -> None:
    """The answer to it is 500 (docs/protocol.md 2.10)."""
    with pytest.raises(RefusedError) as caught:
        operator_client_side.parse_client_generate_request(
            f'{{"timestamp":{text}}}'.encode()
        )

    assert (caught.value.status, caught.value.code) == (500, "unknown")


@pytest.mark.parametrize("value", ["[]", "{}", '["a"]', '{"a":1}'])
@pytest.mark.parametrize(
    "key", ["payload", "iv", "public_key", "subscription_id", "app_name"]
)
def test_a_text_is_no_list_and_no_object(key: str, value: str) -> None:
    """Here, unlike elsewhere, neither becomes text (docs/protocol.md 2.10)."""
    with pytest.raises(RefusedError) as caught:
        operator_client_side.parse_client_generate_request(
            f'{{"{key}":{value}}}'.encode()
        )

    assert (caught.value.status, caught.value.code) == (500, "unknown")


@pytest.mark.parametrize(
    ("value", "text"), [("1e3", "1000.0"), ("true", "true"), ("1.50", "1.5")]
)
def test_another_scalar_becomes_text(value: str, text: str) -> None:
    """As everywhere (docs/protocol.md 1.3)."""
    request = operator_client_side.parse_client_generate_request(
        f'{{"iv":{value}}}'.encode()
    )

    assert request.iv == text


@pytest.mark.parametrize(
    ("app_name", "data"),
    [
        (None, b"[5]"),
        ("a\u00e9/<\u2028\x7f", '[5,"a\u00e9/<\u2028\x7f"]'.encode()),
        ("\U0001f600", b'[5,"\\uD83D\\uDE00"]'),
        ("\ud800x", b'[5,"\\uD800x"]'),
        ('"\\\b\t\n\x0b\f\r\x1f', b'[5,"\\"\\\\\\b\\t\\n\\u000B\\f\\r\\u001F"]'),
    ],
)
def test_what_is_authenticated_is_written_as_jackson_writes_it(
    app_name: str | None, data: bytes
) -> None:
    """A character beyond U+FFFF is two escapes (docs/protocol.md 2.10)."""
    assert client_side.additional_data(5, app_name) == data


def test_a_missing_timestamp_is_zero() -> None:
    """The time is only authenticated, so that its absence counts as 0."""
    request = operator_client_side.parse_client_generate_request(b"{}")

    assert request.timestamp == 0
    assert request.subscription_id is None


@pytest.mark.parametrize("key", ["payload", "iv", "public_key"])
def test_three_fields_are_required(key: str) -> None:
    """The message names all three whichever is missing."""
    fields = build()
    del fields[key]

    assert refusal(fields).message == "required parameters: payload, iv, public_key"


@pytest.mark.parametrize(
    "text",
    ["", "%", "AAAA", public_text(Ed25519PrivateKey.from_private_bytes(bytes(32)))],
)
def test_a_public_key_that_is_none_is_refused(text: str) -> None:
    """It must be a DER of an EC key."""
    assert refusal({**build(), "public_key": text}).message == "bad public key"


@pytest.mark.parametrize("curve", [SECP384R1, SECP521R1, SECP256K1])
def test_a_key_of_another_curve_makes_the_operator_fail(curve: Any) -> None:
    """The key agreement fails, and the answer is 500 (docs/protocol.md 2.10)."""
    other = public_text(derive_private_key(7, curve()))

    assert refusal({**build(), "public_key": other}).status == 500


KEY = b64decode(public_text(CLIENT_KEY))
HEAD = KEY[:26]


@pytest.mark.parametrize(
    ("key", "status"),
    [
        # Of the right form: it is found out only when the key is agreed on.
        (KEY[:-1] + bytes((KEY[-1] ^ 1,)), 500),
        (HEAD + b"\x04" + bytes(64), 500),
        (HEAD + b"\x04" + b"\xff" * 64, 500),
        # Of no form that Java reads.
        (HEAD + b"\x02" + KEY[27:], 400),
        (KEY[:-1], 400),
        (KEY + b"x", 400),
        (b"\x30\x19" + HEAD[2:24] + b"\x02\x00" + b"\x00", 400),
        (b"\x30\x39" + HEAD[2:24] + b"\x22\x00\x02" + KEY[27:59], 400),
        (b"", 400),
    ],
)
def test_a_point_off_the_curve_makes_the_operator_fail(key: bytes, status: int) -> None:
    """What is no uncompressed point is refused before (docs/protocol.md 2.10)."""
    fields = {**build(), "public_key": b64encode(key).decode()}

    assert refusal(fields).status == status


@pytest.mark.parametrize("text", ["%", "", b64encode(bytes(11)).decode()])
def test_an_iv_of_another_length_is_refused(text: str) -> None:
    """It must be 12 bytes in base64."""
    assert refusal({**build(), "iv": text}).message == "bad iv"


@pytest.mark.parametrize("text", ["%", "", b64encode(bytes(40)).decode()])
def test_a_forged_payload_is_refused(text: str) -> None:
    """It must be base64 and authentic."""
    assert refusal({**build(), "payload": text}).message == "payload decryption failed"


@pytest.mark.parametrize(
    "change", [{"timestamp": 1}, {"app_name": "other"}, {"timestamp": None}]
)
def test_time_and_app_name_are_authenticated(change: dict[str, Any]) -> None:
    """They are the AAD of the payload (docs/protocol.md 2.10)."""
    message = refusal({**build(app_name="app"), **change}).message

    assert message == "payload decryption failed"


@pytest.mark.parametrize("inner", [b"", b"{bad", b"[]", b"null"])
def test_an_inner_payload_that_is_no_object_is_refused(inner: bytes) -> None:
    """The sealed part must be a JSON object."""
    cipher = client_side.shared_cipher(CLIENT_KEY, SERVER_KEY.public_key())
    sealed = cipher.encrypt(IV, inner, f"[{NOW_MS}]".encode())
    fields = {**build(), "payload": b64encode(sealed).decode()}

    assert refusal(fields).message == "encrypted payload contains invalid json"


@pytest.mark.parametrize("body", [b"%", b"", b64encode(bytes(40))])
def test_a_forged_reply_is_not_opened(body: bytes) -> None:
    """One message for every cause."""
    with pytest.raises(EnvelopeError):
        client_side.open_client_generate_reply(body, AESGCM(bytes(32)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "UID2-X-L-",
        "UID2-X-L-%",
        "UID2-X-L-" + public_text(derive_private_key(7, SECP384R1())),
        "UID2-X-L-" + private_text(SERVER_KEY),
    ],
)
def test_a_bad_server_public_key_is_a_config_error(text: str) -> None:
    """A publisher's setting is checked before it is used."""
    with pytest.raises(ConfigError) as caught:
        client_side.load_server_public_key(text)

    assert "MFkw" not in str(caught.value)


def test_a_server_private_key_is_loaded() -> None:
    """It has 9 characters of prefix, and PKCS#8 in base64."""
    loaded = operator_indexes.load_server_private_key(
        "UID2-Y-L-" + private_text(SERVER_KEY)
    )

    assert loaded.private_numbers() == SERVER_KEY.private_numbers()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "UID2-Y-L-%",
        "UID2-Y-L-" + public_text(SERVER_KEY),
        "UID2-Y-L-" + private_text(Ed25519PrivateKey.from_private_bytes(bytes(32))),
    ],
)
def test_a_bad_server_private_key_is_a_config_error(text: str) -> None:
    """An operator's data are checked before they are used."""
    with pytest.raises(ConfigError):
        operator_indexes.load_server_private_key(text)


def test_no_repr_shows_the_payload() -> None:
    """It is sealed DII."""
    fields = build()
    request = operator_client_side.parse_client_generate_request(
        json.dumps(fields).encode()
    )

    assert fields["payload"] not in repr(request)
