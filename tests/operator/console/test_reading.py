"""Calls are shown as they were meant: opened, whatever they are."""

from __future__ import annotations

import json
import os
import socket
from base64 import b64decode, b64encode
from contextlib import suppress
from http.client import IncompleteRead, RemoteDisconnected
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from uid2_async.models import Email
from uid2_async.operator import Fault
from uid2_async.operator.console.calls import CHARS_SHOWN
from uid2_async.protocol.client_side import (
    build_client_generate_request,
    load_server_public_key,
    shared_cipher,
)

GENERATE = "/v2/token/generate"
REFRESH = "/v2/token/refresh"
CLIENT_GENERATE = "/v2/token/client-generate"
MAP = "/v3/identity/map"


def generate(desk: Any) -> dict[str, Any]:
    """Generate tokens, and read them off the console."""
    desk.call(GENERATE, {"email": "jane@example.com"})
    body: dict[str, Any] = json.loads(desk.last()["reply"]["text"])["body"]
    return body


def test_a_sealed_call_is_opened(desk: Any) -> None:
    """Both halves, with the times of both sides."""
    desk.call(GENERATE, {"email": "jané@example.com"}, late=30)

    call = desk.last()
    request, reply = call["request"], call["reply"]
    assert request["text"] == '{\n  "email": "jané@example.com"\n}'
    assert request["how"] == "Encrypted with the client secret of everything."
    assert json.loads(reply["text"])["status"] == "success"
    assert reply["how"] == "Encrypted with the client secret of everything."
    assert (request["json"], reply["json"]) == (True, True)
    assert 29_000 < call["at_ms"] - call["sent_ms"] < 32_000
    assert call["took_ms"] >= 0
    assert call["reason"] is None
    assert call["client"] == "everything"
    assert ["content-type", "text/plain"] in call["reply_headers"]


def test_raw_bytes_are_opened(desk: Any) -> None:
    """The same in binary, and base64 that is declared as binary."""
    desk.call(MAP, {"email": ["a@b.c"]}, Content_Type="application/octet-stream")
    call = desk.last()
    assert json.loads(call["request"]["text"]) == {"email": ["a@b.c"]}
    assert "body" in json.loads(call["reply"]["text"])

    body = b64encode(bytes(50))
    desk.post(MAP, body, Content_Type="application/octet-stream")
    assert desk.last()["request"]["how"].startswith("Not encrypted, or not with")


def test_keys_are_asked_for_with_nothing(desk: Any) -> None:
    """An empty payload is said to be empty."""
    desk.call("/v2/key/sharing")

    call = desk.last()
    assert call["request"]["how"].endswith("It is empty.")
    assert call["request"]["text"] == ""
    assert "keys" in json.loads(call["reply"]["text"])["body"]


@pytest.mark.parametrize("key", ["Authorization", "Nobody"])
def test_a_refresh_is_opened(desk: Any, key: str) -> None:
    """The token by the operator's keys, the reply by the key inside the wrapper."""
    tokens = generate(desk)
    none = {"Authorization": None} if key == "Nobody" else {}
    desk.post(REFRESH, tokens["refresh_token"].encode(), **none)

    call = desk.last()
    token = json.loads(call["request"]["text"])["refresh_token"]
    assert token["site_id"] == 105
    assert token["identity_type"] == "email"
    assert token["client_side_generated"] is False
    assert json.loads(call["reply"]["text"])["body"]["advertising_token"]
    assert "refresh_response_key" in call["reply"]["how"]
    assert call["reason"] is None


def test_a_refresh_of_garbage_is_shown_as_it_is(desk: Any) -> None:
    """With the reason why it is not valid."""
    desk.post(REFRESH, b"<script>alert(1)</script>")

    call = desk.last()
    assert call["request"]["text"] == "<script>alert(1)</script>"
    assert call["request"]["how"].endswith("cannot be decrypted: not base64.")
    assert "Invalid Token presented" in call["reason"]["said"]


def client_generate(
    desk: Any, subscription: str | None = None, inner: Any = None
) -> None:
    """Generate as a page does; *inner* takes the place of the hash."""
    pair = desk.operator.data.keypairs[0]
    client_key = generate_private_key(SECP256R1())
    cipher = shared_cipher(client_key, load_server_public_key(pair.public_key))
    now_ms = int(desk.operator.now.timestamp() * 1000)
    iv = os.urandom(12)
    body = build_client_generate_request(
        Email("jane@example.com"),
        subscription_id=subscription or pair.subscription_id,
        client_key=client_key,
        cipher=cipher,
        now_ms=now_ms,
        iv=iv,
    )
    if inner is not None:
        sealed = cipher.encrypt(iv, json.dumps(inner).encode(), f"[{now_ms}]".encode())
        fields = {**json.loads(body), "payload": b64encode(sealed).decode()}
        body = json.dumps(fields).encode()
    desk.send("POST", CLIENT_GENERATE, body, Origin="http://localhost:3000")


def test_a_call_of_a_page_is_opened(desk: Any) -> None:
    """By the private key of the subscription."""
    client_generate(desk)

    call = desk.last()
    asked = json.loads(call["request"]["text"])
    assert set(asked["payload"]) == {"email_hash"}
    assert asked["subscription_id"] == "sandbox-subscription"
    assert json.loads(call["reply"]["text"])["status"] == "success"


def test_a_call_of_a_page_that_cannot_be_opened(desk: Any) -> None:
    """It is shown as it came, with the reason."""
    client_generate(desk, "other")
    assert "no such subscription" in desk.last()["reason"]["text"]
    body = {"subscription_id": "sandbox-subscription"}
    desk.send(
        "POST", CLIENT_GENERATE, json.dumps(body).encode(), Origin="http://localhost"
    )
    assert json.loads(desk.last()["request"]["text"]) == body
    assert "are all required" in desk.last()["reason"]["text"]

    desk.operator.fail_next(Fault(wrong_key=True))
    client_generate(desk)
    assert desk.last()["reply"]["how"].startswith("Encrypted with a key that this")


@pytest.mark.parametrize(
    ("fault", "how"),
    [
        (
            Fault(wrong_key=True),
            "Encrypted with a key that this sandbox does not know.",
        ),
        (Fault(wrong_nonce=True), "everything. Its nonce is not the request's."),
        (Fault(drop=True), "Nothing was sent: the connection was closed."),
        (Fault(cut_after=5), "everything. Only its first 5 bytes were sent."),
        (Fault(status=503), "No body."),
        (Fault(status=503, body="<b>busy</b>"), "Not encrypted."),
        (Fault(payload=b"{"), "Encrypted with the client secret of everything."),
    ],
)
def test_what_a_fault_does_is_told(desk: Any, fault: Fault, how: str) -> None:
    """The call counts as failed, because somebody armed the fault."""
    desk.operator.fail_next(fault)
    # What a client sees of these two is no answer.
    with suppress(RemoteDisconnected, IncompleteRead):
        desk.call(MAP, {"email": ["a@b.c"]})

    call = desk.last()
    assert call["reply"]["how"].endswith(how)
    assert call["reason"]["text"].startswith("You armed it: ")
    assert call["fault"]


def test_a_late_answer_is_no_failure(desk: Any) -> None:
    """It is shown as well, with its time."""
    desk.operator.fail_next(Fault(delay=0.05))
    desk.call(MAP, {"email": ["a@b.c"]})

    call = desk.last()
    assert call["reason"] is None
    assert call["fault"] == "a delay of 0.1 seconds"
    assert call["took_ms"] >= 50


def test_very_long_bodies_are_cut(desk: Any) -> None:
    """The page stays usable, and says how much there is."""
    desk.call(MAP, {"email": [f"person{n}@example.com" for n in range(9_000)]})

    request = desk.last()["request"]
    assert len(request["text"]) == CHARS_SHOWN
    assert request["cut"] is True
    assert request["bytes"] > 250_000


@pytest.mark.parametrize(
    "text", ["<script>alert(1)</script>", "\ud800", "\u202e", "\x00"]
)
def test_any_text_can_be_shown(desk: Any, text: str) -> None:
    """Hostile values go through as text, whatever they are."""
    desk.call(GENERATE, {"email": f"{text}@example.com"}, X_Odd="<img src=x>")

    answer = desk.send("GET", f"/_console/calls/{desk.last()['number']}")
    assert answer.headers["content-type"] == "application/json"
    shown = json.loads(answer.json["request"]["text"])["email"]
    assert shown == f"{text}@example.com"
    assert ["x-odd", "<img src=x>"] in answer.json["request_headers"]


@pytest.mark.parametrize(
    "body",
    [b"", b"\xff\xfe", b"[" * 5_000, b'{"email": "a@b.c"}', b"1e999", bytes(200)],
)
@pytest.mark.parametrize(
    "path", [GENERATE, REFRESH, CLIENT_GENERATE, MAP, "/nowhere", "/"]
)
def test_nothing_makes_it_fail(desk: Any, path: str, body: bytes) -> None:
    """Every call can be looked at."""
    desk.post(path, body)

    call = desk.last()
    assert call["status"] >= 400
    assert call["reason"]["text"]


def test_headers_can_be_anything(desk: Any) -> None:
    """Bytes that are no UTF-8 are shown all the same."""
    head = f"POST {GENERATE} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n"
    host, _, port = desk.host.partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(head.encode() + b"UID-Trace-Id: \xff\xfe\r\n\r\n")
        connection.recv(1_000)

    call = desk.last()
    assert call["status"] == 401
    assert call["trace_id"]


def test_what_is_nested_deeply(desk: Any) -> None:
    """Indentation would make very much of it, of which the beginning is made."""
    wide = b"[" * 500 + b"1," * 200_000 + b"1" + b"]" * 500
    desk.post(GENERATE, wide)
    request = desk.last()["request"]
    assert (len(request["text"]), request["cut"]) == (CHARS_SHOWN, True)

    desk.post(GENERATE, b"[" * 990 + b"]" * 990)
    assert desk.last()["request"]["text"]


def test_a_preflight_is_no_failure(desk: Any) -> None:
    """Browsers ask before they call."""
    desk.send(
        "OPTIONS",
        CLIENT_GENERATE,
        Origin="http://localhost",
        Access_Control_Request_Method="POST",
    )

    call = desk.last()
    assert call["status"] == 204
    assert call["reason"] is None


def test_a_page_whose_payload_is_refused(desk: Any) -> None:
    """It is decrypted anyway, and the refusal is not encrypted."""
    client_generate(desk, inner={"email": "jane@example.com"})

    call = desk.last()
    assert json.loads(call["request"]["text"])["payload"] == {
        "email": "jane@example.com"
    }
    assert "please provide" in json.loads(call["reply"]["text"])["message"]
    assert "contain exactly one hash" in call["reason"]["text"]


def test_other_keys_secrets_are_tried(desk: Any) -> None:
    """A request is opened even where the operator could not."""
    desk.call(GENERATE, {"email": "jane@example.com"}, key="bidder", secret="sharer")

    call = desk.last()
    assert call["status"] == 401
    assert call["client"] == "bidder"
    assert call["request"]["how"] == "Encrypted with the client secret of sharer."
    assert b64decode(desk.operator.credentials["sharer"].client_secret)
