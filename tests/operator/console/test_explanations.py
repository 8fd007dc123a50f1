"""Why a call failed, in plain words."""

from __future__ import annotations

import ast
import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import attrs
import pytest

import uid2_async
from uid2_async.operator import LocalOperator, OperatorData
from uid2_async.operator.console.explanations import (
    format_duration,
    format_fault,
    read_explanations,
)
from uid2_async.operator.state import Fault

GENERATE = "/v2/token/generate"
# A consent string without some of the purposes.
TOO_LITTLE = "CPehNtWPehNtWABAMBFRACBoAAAAAEJAAIYgAKwAQAKgArABAAqAAA"
SOURCES = [
    path
    for folder in ("operator", "protocol")
    for path in (Path(uid2_async.__file__).parent / folder).rglob("*.py")
    if path.parent.name != "console"
]


@pytest.mark.parametrize(
    ("path", "payload", "options", "words"),
    [
        (GENERATE, {}, {}, "must name one identity"),
        (GENERATE, {"email": "x"}, {}, "The identity is not valid"),
        (GENERATE, [1], {}, "not a JSON object"),
        (GENERATE, {"email": "a@b.c"}, {"late": 600}, "is 10 minutes behind the"),
        (GENERATE, {"email": "a@b.c"}, {"late": -600}, "is 10 minutes ahead of the"),
        (
            GENERATE,
            {},
            {"key": "bidder"},
            "of bidder has ID_READER. This call needs GEN",
        ),
        (GENERATE, {}, {"secret": "bidder"}, "with the client secret of bidder"),
        (
            GENERATE,
            {},
            {"Authorization": "Bearer x"},
            "This sandbox does not have the key",
        ),
        (GENERATE, {}, {"Authorization": None}, "The call has no API key"),
        (GENERATE, {}, {"Authorization": "x"}, "not of the form 'Bearer KEY'"),
        ("/v2/optout/status", {}, {}, "Send the raw UIDs as a list"),
        ("/v2/optout/status", None, {}, "The envelope is empty"),
        ("/v2/identity/map", {"email": "x"}, {}, "sent as a list"),
        ("/v3/identity/map", {}, {}, "names nobody"),
        ("/v3/identity/map", {"mail": []}, {}, "no other key"),
        ("/v2/identity/buckets", {}, {}, "Send since_timestamp"),
        ("/v2/identity/buckets", {"since_timestamp": "x"}, {}, "without a time zone"),
        (
            "/v2/token/validate",
            {"email": "a@b.c", "token": "x"},
            {},
            "not an advertising",
        ),
        ("/v2/token/logout", {}, {}, "not exactly one valid identity"),
        ("/V2/token/generate", {}, {}, "are case-sensitive"),
    ],
)
def test_a_refusal_in_plain_words(
    desk: Any, path: str, payload: Any, options: dict[str, Any], words: str
) -> None:
    """What it means and what to do, in addition to the operator's message."""
    desk.call(path, payload, **options)

    reason = desk.last()["reason"]
    assert words in reason["text"]
    assert reason["said"].startswith("HTTP 4")
    assert reason["failed"] is True
    assert "https://" not in reason["said"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "has no body"),
        (b'{"email": "a@b.c"}', "unencrypted JSON"),
        (b"-_-_", "no line breaks"),
        (b"AAAA", "fewer than the 45 bytes"),
        (b64encode(bytes(60)), "begins with the byte 1"),
        (b64encode(b"\x01" + bytes(60)), "nor with any other"),
    ],
)
def test_what_is_no_envelope(desk: Any, body: bytes, words: str) -> None:
    """Each of the faults of an envelope has its advice."""
    desk.post(GENERATE, body)

    assert words in desk.last()["reason"]["text"]


def test_a_wrong_method_and_a_large_body(desk: Any) -> None:
    """Statuses that come without any message."""
    desk.send("GET", GENERATE)
    assert "Call it with POST" in desk.last()["reason"]["text"]
    desk.post(GENERATE, bytes(1_048_577))
    assert "larger than 1 MiB" in desk.last()["reason"]["text"]


def test_what_the_operator_keeps_to_itself_about_a_refresh(desk: Any) -> None:
    """Without an API key the reply is always the same; the console knows the cause."""
    desk.call(GENERATE, {"email": "jane@example.com"})
    token = json.loads(desk.last()["reply"]["text"])["body"]["refresh_token"].encode()
    desk.operator.advance(31 * 86_400)
    for body, words in (
        (token, "it expired 1 day ago"),
        (b"x", "it is not valid here"),
    ):
        desk.post("/v2/token/refresh", body, Authorization=None)
        reason = desk.last()["reason"]
        assert words in reason["text"]
        assert reason["said"] == "HTTP 400 error: Error refreshing token"
    desk.post("/v2/token/refresh", token)
    assert "has expired" in desk.last()["reason"]["text"]
    for letter, words in ((b"!", "not standard base64"), (b"A", "does not have")):
        desk.post("/v2/token/refresh", letter * 388)
        assert words in desk.last()["reason"]["text"]


def test_a_disabled_key_and_no_key_at_all(make_desk: Any) -> None:
    """What else an operator keeps to itself."""
    data = OperatorData.sample()
    clients = [attrs.evolve(one, disabled=one.name == "bidder") for one in data.clients]
    data = attrs.evolve(data, clients=tuple(clients))
    with LocalOperator.in_thread(data, console=True) as operator:
        desk = make_desk(operator)
        desk.call("/v2/key/bidstream", key="bidder")
        assert "key of bidder is disabled" in desk.last()["reason"]["text"]
        desk.call(GENERATE, {"email": "jane@example.com"})
        token = json.loads(desk.last()["reply"]["text"])["body"]["refresh_token"]
    keyless = attrs.evolve(data, keysets=[k for k in data.keysets if k.keyset_id < 0])
    with LocalOperator.in_thread(keyless, console=True) as operator:
        desk = make_desk(operator)
        desk.post("/v2/token/refresh", token.encode(), Authorization=None)
        assert "no key for a new one" in desk.last()["reason"]["text"]
        desk.call(GENERATE, {"email": "jane@example.com"})
        assert "has a key that is active now" in desk.last()["reason"]["text"]


def test_an_answer_of_no_is_no_failure(desk: Any) -> None:
    """People may opt out, and consent may not suffice."""
    desk.operator.opt_out("gone@example.com")
    desk.call(GENERATE, {"email": "gone@example.com"})

    reason = desk.last()["reason"]
    assert "has opted out" in reason["text"]
    assert reason["failed"] is False


def test_consent(make_desk: Any) -> None:
    """The same for EUID's consent."""
    data = OperatorData.sample(scope=uid2_async.IdentityScope.EUID)
    with LocalOperator.in_thread(data, console=True) as operator:
        desk = make_desk(operator)
        consent = {"email": "a@b.c", "tcf_consent_string": "CPe"}
        desk.call(GENERATE, consent)
        assert "is not a TC string" in desk.last()["reason"]["text"]
        consent["tcf_consent_string"] = TOO_LITTLE
        desk.call(GENERATE, consent)
        assert "for an EUID" in desk.last()["reason"]["text"]


def test_a_fault_that_makes_a_refusal(desk: Any) -> None:
    """Both are shown: the fault that was armed, and its effect."""
    desk.operator.fail_next(Fault(clock_offset=600))
    desk.call(GENERATE, {"email": "a@b.c"})

    text = desk.last()["reason"]["text"]
    assert text.startswith("You armed it: the operator's clock 10 minutes ahead. The")


def test_every_message_is_one_of_the_operators() -> None:
    """An advice for what is never said would be found by nobody."""
    trees = [ast.parse(path.read_text("utf-8")) for path in SOURCES]
    texts = {
        node.value
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }

    assert [
        words
        for words in read_explanations()
        if not any(words in text for text in texts)
    ] == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 seconds"),
        (1, "1 second"),
        (59.96, "60 seconds"),
        (90, "1.5 minutes"),
        (3_600, "1 hour"),
        (86_400 * 1_000, "1,000 days"),
    ],
)
def test_a_span_of_time(seconds: float, text: str) -> None:
    """In the largest unit."""
    assert format_duration(seconds) == text


def test_faults_in_words() -> None:
    """All that can go wrong at once."""
    fault = Fault(
        status=429,
        retry_after=2,
        delay=60,
        cut_after=5,
        drop=True,
        payload=b"x",
        wrong_nonce=True,
        wrong_key=True,
        clock_offset=-60,
    )

    assert format_fault(fault) == (
        "HTTP 429, Retry-After 2, no answer, a delay of 1 minute, the answer cut after "
        "5 bytes, the operator's clock 1 minute behind, another payload, another "
        "nonce, another key"
    )
    assert format_fault(Fault()) == "nothing"
