"""How the operator reads a request body."""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Any

import pytest

from uid2_async.models import IdentityScope
from uid2_async.operator.envelope import RequestBody, read_request_body
from uid2_async.operator.http_messages import RefusedError
from uid2_async.protocol.envelope import AesGcmEnvelope

KEY = bytes(range(32))
NOW_MS = 1_700_000_000_123
NONCE = b"abcdefgh"
IV = b"0123456789ab"


def seal(payload: bytes, *, sent_ms: int = NOW_MS, key: bytes = KEY) -> bytes:
    """Seal a request."""
    return AesGcmEnvelope().seal(payload, key=key, now_ms=sent_ms, nonce=NONCE, iv=IV)


def read(
    body: bytes,
    *,
    binary: bool = False,
    now_ms: int = NOW_MS,
    scope: IdentityScope = IdentityScope.UID2,
) -> RequestBody:
    """Read a body as the operator does."""
    return read_request_body(body, binary=binary, key=KEY, now_ms=now_ms, scope=scope)


def refusal(body: bytes, **options: Any) -> RefusedError:
    """Read a body that is refused."""
    with pytest.raises(RefusedError) as caught:
        read(body, **options)
    return caught.value


def test_every_malformed_envelope_has_its_message(vectors: dict[str, Any]) -> None:
    """The message names the first fault (docs/protocol.md 1.7)."""
    for case in vectors["malformed_envelopes"]:
        with pytest.raises(RefusedError) as caught:
            read_request_body(
                (case["body_text"] or "").encode(),
                binary=False,
                key=b64decode(case["client_secret_b64"]),
                now_ms=case["server_now_ms"],
                scope=IdentityScope.UID2,
            )
        found = caught.value
        assert (found.status, found.code) == (400, "client_error"), case["name"]
        assert found.message == case["message"], case["name"]


def test_the_time_window_is_the_operators(vectors: dict[str, Any]) -> None:
    """Less than 120 s late, at most 119 s early (docs/protocol.md 1.4)."""
    body = b64encode(seal(b"{}"))
    for case in vectors["timestamp_window"]:
        now_ms = NOW_MS + case["server_now_minus_request_ts_ms"]
        if case["accepted"]:
            assert read(body, now_ms=now_ms).payload == {}
        else:
            message = refusal(body, now_ms=now_ms).message
            assert message == "Invalid timestamp: Request too old or client time drift."


def test_euid_operators_point_to_their_own_documentation() -> None:
    """The host in the hints follows the scope (docs/protocol.md 1.7)."""
    for body in (b"no base64", b'{"email":"a"}'):
        message = refusal(body, scope=IdentityScope.EUID).message
        assert message is not None
        assert "https://euid.eu/docs/" in message


def test_text_and_binary_give_the_same() -> None:
    """The form decides only about the reply."""
    sealed = seal(b'{"a":1}')

    text, binary = read(b64encode(sealed)), read(sealed, binary=True)

    assert text.payload == binary.payload == {"a": 1}
    assert text.nonce == binary.nonce == NONCE
    assert (text.binary, binary.binary) == (False, True)


def test_padding_may_be_missing() -> None:
    """The operator's decoder takes base64 without padding (docs/protocol.md 1.3)."""
    body = b64encode(seal(b"{}"))

    assert body.endswith(b"=")
    assert read(body.rstrip(b"=")).payload == {}


def test_an_empty_payload_is_no_json() -> None:
    """The key endpoints are asked without any JSON (docs/protocol.md 1.3)."""
    assert read(b64encode(seal(b""))).payload is None


def test_base64_in_a_binary_body_is_read_and_answered_as_text() -> None:
    """The binary fallback turns the request into a text one (docs/protocol.md 1.3)."""
    found = read(b64encode(seal(b'{"a":1}')), binary=True)

    assert found.payload == {"a": 1}
    assert not found.binary


def test_the_error_of_the_fallback_counts_when_it_is_base64() -> None:
    """Of two errors that of the decoded body wins (docs/protocol.md 1.3)."""
    stale = b64encode(seal(b"{}", sent_ms=NOW_MS - 200_000))

    message = refusal(stale, binary=True).message

    assert message == "Invalid timestamp: Request too old or client time drift."


def test_the_binary_error_counts_when_it_is_no_base64() -> None:
    """A binary envelope under a wrong key is reported so (docs/protocol.md 1.3)."""
    message = refusal(seal(b"{}", key=bytes(32)), binary=True).message

    assert message is not None
    assert message.startswith("Invalid body: Check encryption key (ClientSecret).")


def test_no_repr_shows_the_payload() -> None:
    """What was opened can hold DII."""
    assert "secret" not in repr(read(b64encode(seal(b'{"a":"secret"}'))))
