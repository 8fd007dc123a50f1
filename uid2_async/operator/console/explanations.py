"""Why a call failed, in plain words, and what to do."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from typing import Any, Final

from uid2_async.operator import dispatch
from uid2_async.operator.console.calls import DecryptedCall, Exchange, KeyCheck
from uid2_async.operator.data import OperatorSettings
from uid2_async.operator.http_messages import HttpReply
from uid2_async.operator.state import Fault
from uid2_async.protocol.tokens import REFRESH_PATH

_UNITS = (("day", 86_400), ("hour", 3_600), ("minute", 60))


def format_duration(seconds: float) -> str:
    """Write a length of time in its largest unit, such as ``1.5 hours``."""
    for name, size in _UNITS:
        if seconds >= size:
            return _count(seconds / size, name)
    return _count(seconds, "second")


def _count(number: float, name: str) -> str:
    """Write a number with at most one decimal, and its unit."""
    text = f"{number:,.1f}".removesuffix(".0")
    return f"{text} {name}{'' if text == '1' else 's'}"


def format_fault(fault: Fault) -> str:
    """Describe what a fault does."""
    clock = fault.clock_offset
    where = "ahead" if clock > 0 else "behind"
    words = (
        "" if fault.status is None else f"HTTP {fault.status}",
        "" if fault.retry_after is None else f"Retry-After {fault.retry_after}",
        "no answer" if fault.drop else "",
        f"a delay of {format_duration(fault.delay)}" if fault.delay else "",
        ""
        if fault.cut_after is None
        else f"the answer cut after {fault.cut_after} bytes",
        f"the operator's clock {format_duration(abs(clock))} {where}" if clock else "",
        "another payload" if fault.payload is not None else "",
        "another nonce" if fault.wrong_nonce else "",
        "another key" if fault.wrong_key else "",
    )
    return ", ".join(filter(None, words)) or "nothing"


def explain(
    exchange: Exchange, reading: DecryptedCall, settings: OperatorSettings
) -> dict[str, Any] | None:
    """Return why *exchange* failed, in plain words and in the operator's, or None.

    ``failed`` is False if the call succeeded, and the answer was no.
    """
    status, fault = exchange.call.status, exchange.call.fault
    armed = "" if fault is None else f"You armed it: {format_fault(fault)}."
    is_success = status == 200  # noqa: PLR2004 - an HTTP status reads best as its number
    text: str | None
    if fault is not None and _hides_reply(fault, is_success=is_success):
        text, failed = armed, True
    elif is_success:
        text, failed = _STATUS_WORDS.get(str(_fields(reading).get("status"))), False
    elif status == 204:  # noqa: PLR2004 - as above
        return None
    else:
        refusal = _explain_refusal(exchange, reading, settings)
        text, failed = f"{armed} {refusal}".lstrip(), True
    if text is None:
        return None
    said = _operator_message(exchange, reading)
    return {"said": said, "text": text, "failed": failed}


def _hides_reply(fault: Fault, *, is_success: bool) -> bool:
    """Return whether *fault* keeps clients from reading the operator's own reply."""
    if fault.drop or fault.status is not None:
        return True
    return is_success and (
        fault.cut_after is not None
        or fault.wrong_key
        or fault.wrong_nonce
        or fault.payload is not None
    )


def _operator_message(exchange: Exchange, reading: DecryptedCall) -> str:
    """Repeat what the operator said, without its links."""
    if not exchange.call.status:
        return "No answer"
    fields = _fields(reading)
    words = [str(fields[key]) for key in ("status", "message") if fields.get(key)]
    said = ": ".join(words).partition(" See https://")[0]
    return f"HTTP {exchange.call.status} {said}".rstrip()


def _fields(reading: DecryptedCall) -> dict[str, Any]:
    """Return the reply's JSON object, or an empty one."""
    data = reading.reply.data
    return data if isinstance(data, dict) else {}


_STATUS_WORDS: Final = {
    "optout": (
        "This person has opted out, so there is no token. Do not ask about them again."
    ),
    "insufficient_user_consent": (
        "The TC string does not allow everything that is needed for an EUID: purposes "
        "1, 2, 3, 4, 7 and 10 for the vendor."
    ),
}


def _explain_refusal(
    exchange: Exchange, reading: DecryptedCall, settings: OperatorSettings
) -> str:
    """Explain a status other than 200."""
    status = exchange.call.status
    message = str(_fields(reading).get("message") or "")
    if status == 401 and not message:  # noqa: PLR2004 - as above
        return _explain_key(exchange, settings)
    if message.startswith("Invalid body: Check encryption key"):
        return _explain_secret(exchange, reading)
    if message.startswith("Invalid timestamp") and reading.sent_ms is not None:
        return _explain_time(exchange, reading.sent_ms)
    if exchange.call.path == REFRESH_PATH and message == "Error refreshing token":
        return _explain_refresh(exchange, reading)
    for words, meaning in read_explanations().items():
        if words in message:
            return meaning
    return _BY_STATUS.get(status, "An operator has no explanation for this request.")


@cache
def read_explanations() -> dict[str, str]:
    """Read the explanations by a part of the operator's message."""
    file = files("uid2_async.operator.console") / "explanations.toml"
    return tomllib.loads(file.read_text("utf-8"))


_BY_STATUS: Final = {
    400: "The request is not what this endpoint expects.",
    404: "There is no such path. Paths begin with /v2 or /v3 and are case-sensitive.",
    405: "The path exists. Call it with POST.",
    413: "The body is larger than 1 MiB. Send fewer identities, at most 5,000.",
}


def _explain_key(exchange: Exchange, settings: OperatorSettings) -> str:
    """Return why an API key was rejected, which a real operator does not say."""
    client = exchange.client
    if client is None:
        return _KEY_CHECKS[exchange.key_check]
    if client.disabled:
        return f"The key of {client.name} is disabled."
    endpoint = dispatch.find("POST", exchange.call.path, settings)
    needed = frozenset() if isinstance(endpoint, HttpReply) else endpoint.roles
    has = ", ".join(sorted(client.roles)) or "no role"
    return (
        f"The key of {client.name} has {has}. This call needs "
        f"{' or '.join(sorted(needed))}. A real operator answers the same for a wrong "
        "key."
    )


_KEY_CHECKS: Final = {
    KeyCheck.MISSING: "The call has no API key. Send 'Authorization: Bearer KEY'.",
    KeyCheck.MALFORMED: "The Authorization header is not of the form 'Bearer KEY', "
    "with one space.",
    KeyCheck.UNKNOWN: "This sandbox does not have the key that was sent. Copy one from "
    "above. Keys of real operators do not work here.",
}


def _explain_secret(exchange: Exchange, reading: DecryptedCall) -> str:
    """Explain whose secret encrypted a request."""
    owner = exchange.client.name if exchange.client else "the key"
    if reading.encrypted_by is not None and reading.encrypted_by != owner:
        return (
            f"The API key belongs to {owner}, but the request is encrypted with the "
            f"client secret of {reading.encrypted_by}. Use the secret of the same key."
        )
    return (
        f"The request is not encrypted with the client secret of {owner}, nor with any "
        "other of this sandbox. Check the secret, and that it is decoded from base64."
    )


def _explain_time(exchange: Exchange, sent_ms: int) -> str:
    """Explain the offset between the clocks."""
    off_ms = exchange.at_ms - sent_ms
    offset = format_duration(abs(off_ms) / 1000)
    where = "behind" if off_ms > 0 else "ahead of"
    return (
        f"The caller's clock is {offset} {where} the operator's. Two minutes are "
        "allowed. Encrypt each attempt again, or correct the clocks (see Time)."
    )


def _explain_refresh(exchange: Exchange, reading: DecryptedCall) -> str:
    """Explain what the operator does not tell callers without an API key."""
    token = reading.refresh_token
    if token is None:
        cause = "it is not valid here"
    elif token.expires_ms < exchange.at_ms:
        ended = (exchange.at_ms - token.expires_ms) / 1000
        cause = f"it expired {format_duration(ended)} ago"
    else:
        cause = "there is no key for a new one"
    return (
        f"The refresh token was rejected: {cause}. Without a known API key, the "
        "operator does not say so. Generate a new token."
    )
