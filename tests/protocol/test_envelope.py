"""Sealing and opening of requests and replies."""

from __future__ import annotations

from base64 import b64decode
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis.strategies import binary, integers

from uid2_async.errors import EnvelopeError
from uid2_async.operator.envelope import (
    RequestEnvelopeError,
    decrypt_request,
    encrypt_reply,
    is_timely,
)
from uid2_async.protocol.envelope import AesGcmEnvelope

KEY = bytes(range(32))
IV = bytes(12)
NONCE = b"nonce-08"
ENVELOPE = AesGcmEnvelope()


@pytest.mark.parametrize("name", ["request_envelope", "request_envelope_empty_payload"])
def test_a_request_is_sealed_to_the_byte(vectors: dict[str, Any], name: str) -> None:
    """The envelope of fixed inputs is the recorded one, and opens again."""
    vector = vectors[name]
    key = b64decode(vector["client_secret_b64"])

    sealed = ENVELOPE.seal(
        vector["json_utf8"].encode(),
        key=key,
        now_ms=vector["timestamp_ms"],
        nonce=bytes.fromhex(vector["nonce_hex"]),
        iv=bytes.fromhex(vector["iv_hex"]),
    )

    assert sealed == b64decode(vector["envelope_b64"])
    assert len(sealed) == vector["envelope_len"]
    opened = decrypt_request(sealed, key)
    assert opened.sent_ms == vector["timestamp_ms"]
    assert opened.nonce.hex() == vector["nonce_hex"]
    assert opened.payload.decode() == vector["json_utf8"]


def test_a_reply_is_sealed_to_the_byte(vectors: dict[str, Any]) -> None:
    """The reply of fixed inputs is the recorded one, and opens again."""
    vector = vectors["response_envelope"]
    key = b64decode(vector["client_secret_b64"])
    nonce = bytes.fromhex(vector["nonce_hex"])

    sealed = encrypt_reply(
        vector["json_utf8"].encode(),
        key=key,
        now_ms=vector["timestamp_ms"],
        nonce=nonce,
        iv=bytes.fromhex(vector["iv_hex"]),
    )

    assert sealed == b64decode(vector["envelope_b64"])
    opened = ENVELOPE.open(sealed, key=key, nonce=nonce)
    assert opened.payload.decode() == vector["json_utf8"]
    assert opened.server_ms == vector["timestamp_ms"]


def test_a_refresh_reply_has_no_head(vectors: dict[str, Any]) -> None:
    """The reply to a refresh carries neither time nor nonce."""
    vector = vectors["refresh_response"]
    key = b64decode(vector["refresh_response_key_b64"])

    opened = ENVELOPE.open(b64decode(vector["body_b64"]), key=key, nonce=None)

    assert opened.payload.decode() == vector["json_utf8"]
    assert opened.server_ms is None


@given(
    binary(max_size=200), integers(-(2**63), 2**63 - 1), binary(min_size=8, max_size=8)
)
def test_requests_round_trip(payload: bytes, now_ms: int, nonce: bytes) -> None:
    """What the client seals the operator opens."""
    sealed = ENVELOPE.seal(payload, key=KEY, now_ms=now_ms, nonce=nonce, iv=IV)

    opened = decrypt_request(sealed, KEY)

    assert (opened.payload, opened.sent_ms, opened.nonce) == (payload, now_ms, nonce)


def forged() -> list[bytes]:
    """Make every cut and every flipped bit of a small reply."""
    sealed = encrypt_reply(b"{}", key=KEY, now_ms=5, nonce=NONCE, iv=IV)
    cuts = [sealed[:end] for end in range(len(sealed))]
    flips = [
        bytes([*sealed[:at], sealed[at] ^ 1 << bit, *sealed[at + 1 :]])
        for at in range(len(sealed))
        for bit in range(8)
    ]
    return cuts + flips


def test_every_damage_to_a_reply_is_one_error() -> None:
    """Any cut and any flipped bit end in the same words, with nothing attached."""
    texts = set()
    for body in forged():
        with pytest.raises(EnvelopeError) as caught:
            ENVELOPE.open(body, key=KEY, nonce=NONCE)
        texts.add(str(caught.value))
        assert caught.value.__cause__ is caught.value.__context__ is None
        assert caught.value.foreign_nonce is False

    assert len(texts) == 1


def test_a_foreign_nonce_is_told_apart() -> None:
    """An authentic reply to another request is refused for good."""
    sealed = encrypt_reply(b"{}", key=KEY, now_ms=5, nonce=b"another!", iv=IV)

    with pytest.raises(EnvelopeError) as caught:
        ENVELOPE.open(sealed, key=KEY, nonce=NONCE)

    assert caught.value.foreign_nonce is True


def test_a_reply_too_short_for_its_head_is_refused() -> None:
    """A refresh reply in place of another cannot pass, however short."""
    body = IV + AESGCM(KEY).encrypt(IV, b"short", None)

    with pytest.raises(EnvelopeError):
        ENVELOPE.open(body, key=KEY, nonce=NONCE)


@pytest.mark.parametrize("length", range(45))
def test_a_short_request_is_refused(length: int) -> None:
    """Less than 45 bytes hold no envelope."""
    with pytest.raises(RequestEnvelopeError) as caught:
        decrypt_request(b"\x01" * length, KEY)

    assert "Body too short." in str(caught.value)


def test_a_request_of_another_version_is_refused() -> None:
    """The first byte is named as unsigned."""
    with pytest.raises(RequestEnvelopeError) as caught:
        decrypt_request(b"\xff" * 45, KEY)

    assert "version: received 255, must be 1." in str(caught.value)


def test_a_request_under_another_key_is_refused() -> None:
    """The client secret must belong to the API key."""
    sealed = ENVELOPE.seal(b"", key=KEY, now_ms=0, nonce=NONCE, iv=IV)

    with pytest.raises(RequestEnvelopeError) as caught:
        decrypt_request(sealed, bytes(32))

    assert "Check encryption key (ClientSecret)." in str(caught.value)


def test_the_time_window_is_exact(vectors: dict[str, Any]) -> None:
    """Less than 120 s late and at most 119 s early pass."""
    now = 1_700_000_000_000
    for vector in vectors["timestamp_window"]:
        sent = now - vector["server_now_minus_request_ts_ms"]
        assert is_timely(sent, now) is vector["accepted"], vector


def test_secrets_stay_out_of_reprs() -> None:
    """Neither envelope nor what it opened shows a payload."""
    sealed = ENVELOPE.seal(b"canary", key=KEY, now_ms=0, nonce=NONCE, iv=IV)

    assert "canary" not in repr(decrypt_request(sealed, KEY)) + repr(ENVELOPE)


def test_a_prepared_cipher_serves_its_own_key_alone() -> None:
    """What is kept of one key neither seals nor opens under another."""
    envelope = AesGcmEnvelope()
    keys = [bytes([number]) * 32 for number in (1, 2)]
    for key in (keys[0], keys[0], keys[1], keys[0]):
        sealed = envelope.seal(b"question", key=key, now_ms=1, nonce=NONCE, iv=IV)
        assert decrypt_request(sealed, key).payload == b"question"
        for other in keys:
            reply = encrypt_reply(b"answer", key=other, now_ms=1, nonce=NONCE, iv=IV)
            opened = envelope.open(reply, key=other, nonce=NONCE)
            assert opened.payload == b"answer"


def test_a_prepared_cipher_is_not_shown() -> None:
    """An envelope shows its kind, and nothing of the key that it has used."""
    envelope = AesGcmEnvelope()
    envelope.seal(b"", key=b"canary!!" * 4, now_ms=1, nonce=NONCE, iv=IV)

    assert repr(envelope) == "AesGcmEnvelope()"
    assert "canary" not in repr(vars(envelope))
