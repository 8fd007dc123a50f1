"""Why a call failed, in plain words, and what to do (docs/protocol.md 1.7 and 2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs

from uid2_async.operator import dispatch
from uid2_async.operator.console.calls import Exchange, KeyCheck, OpenedCall
from uid2_async.operator.data import Settings
from uid2_async.operator.http_messages import Reply
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
    words = [text for text in _fault_parts(fault) if text]
    return ", ".join(words) or "nothing"


def _fault_parts(fault: Fault) -> tuple[str, ...]:
    """Describe each part of a fault; empty for those that are off."""
    clock = fault.clock_offset
    where = "ahead" if clock > 0 else "behind"
    return (
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


@attrs.frozen
class Explanation:
    """Why a call did not bring what it was for.

    Attributes:
        text: What it means and what to do, in plain words.
        said: What the operator said.
        failed: False where the call was as it should be, and the answer was no.
    """

    text: str
    said: str
    failed: bool = True


def explain(
    exchange: Exchange, reading: OpenedCall, settings: Settings
) -> Explanation | None:
    """Return why *exchange* failed, or None if it did not."""
    call = exchange.call
    fault = call.fault
    if fault is not None and (fault.drop or fault.status is not None):
        return Explanation(
            f"You armed it: {format_fault(fault)}.", _said(exchange, reading)
        )
    if call.status == 200:  # noqa: PLR2004 - an HTTP status reads best as its number
        return _explain_success(exchange, reading)
    if call.status == 204:  # noqa: PLR2004 - as above
        return None
    text = _explain_refusal(exchange, reading, settings)
    if fault is not None:
        text = f"You armed it: {format_fault(fault)}. {text}"
    return Explanation(text, _said(exchange, reading))


def _said(exchange: Exchange, reading: OpenedCall) -> str:
    """Repeat what the operator said, without its links."""
    if not exchange.call.status:
        return "No answer"
    fields = _fields(reading)
    words = [str(fields[key]) for key in ("status", "message") if fields.get(key)]
    said = ": ".join(words).partition(" See https://")[0]
    return f"HTTP {exchange.call.status} {said}".rstrip()


def _fields(reading: OpenedCall) -> dict[str, Any]:
    """Return the reply's JSON object, or an empty one."""
    data = reading.reply.data
    return data if isinstance(data, dict) else {}


_STATUS_WORDS: Final = {
    "optout": (
        "This person has opted out: there is no token. Do not ask again about them."
    ),
    "insufficient_user_consent": (
        "The TC string does not allow all that is needed for an EUID: purposes 1, 2, "
        "3, 4, 7 and 10 for the vendor."
    ),
}


def _explain_success(exchange: Exchange, reading: OpenedCall) -> Explanation | None:
    """Explain a 200 without success, or a fault that makes it unreadable."""
    fault = exchange.call.fault
    said = _said(exchange, reading)
    if fault is not None and _spoils(fault):
        return Explanation(f"You armed it: {format_fault(fault)}.", said)
    text = _STATUS_WORDS.get(str(_fields(reading).get("status")))
    return None if text is None else Explanation(text, said, failed=False)


def _spoils(fault: Fault) -> bool:
    """Return whether a client cannot read a 200 with *fault*."""
    cut = fault.cut_after is not None
    return cut or fault.wrong_key or fault.wrong_nonce or fault.payload is not None


def _explain_refusal(
    exchange: Exchange, reading: OpenedCall, settings: Settings
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
    for words, meaning in _BY_MESSAGE.items():
        if words in message:
            return meaning
    return _BY_STATUS.get(status, "The operator did not foresee this request.")


_BY_STATUS: Final = {
    400: "The request is not what this endpoint takes.",
    404: "There is no such path. Paths begin with /v2 or /v3, and letter case counts.",
    405: "The path exists; call it with POST.",
    413: "The body is larger than 1 MiB: send fewer identities, 5,000 at most.",
}


def _explain_key(exchange: Exchange, settings: Settings) -> str:
    """Return why an API key was rejected, which a real operator does not say."""
    client = exchange.caller.client
    if client is None:
        return _KEY_CHECKS[exchange.caller.check]
    if client.disabled:
        return f"The key of {client.name} is disabled."
    endpoint = dispatch.find("POST", exchange.call.path, settings)
    needed = frozenset() if isinstance(endpoint, Reply) else endpoint.roles
    has = ", ".join(sorted(client.roles)) or "no role"
    return (
        f"The key of {client.name} has {has}; this call needs "
        f"{' or '.join(sorted(needed))}. A real operator does not tell this from a "
        "wrong key."
    )


_KEY_CHECKS: Final = {
    KeyCheck.MISSING: "The call came without an API key: send 'Authorization: Bearer "
    "KEY'.",
    KeyCheck.MALFORMED: "The Authorization header is not of the form 'Bearer KEY', "
    "with one space.",
    KeyCheck.UNKNOWN: "No key of this sandbox is like the one that was sent: copy it "
    "anew from above. Keys of real operators do not work here.",
}


def _explain_secret(exchange: Exchange, reading: OpenedCall) -> str:
    """Explain whose secret sealed a request."""
    owner = exchange.caller.client.name if exchange.caller.client else "the key"
    if reading.sealed_by is not None and reading.sealed_by != owner:
        return (
            f"The API key is that of {owner}, but the request is sealed with the "
            f"client secret of {reading.sealed_by}: the two belong together."
        )
    return (
        f"The request is not sealed with the client secret of {owner}, nor with any "
        "other of this sandbox: check the secret, and that it is decoded from base64."
    )


def _explain_time(exchange: Exchange, sent_ms: int) -> str:
    """Explain the offset between the clocks."""
    off_ms = exchange.at_ms - sent_ms
    offset = format_duration(abs(off_ms) / 1000)
    where = "behind" if off_ms > 0 else "ahead of"
    return (
        f"The caller's clock is {offset} {where} the operator's; two "
        "minutes are the most. Seal each attempt anew, or set the clocks right (see "
        "Time)."
    )


def _explain_refresh(exchange: Exchange, reading: OpenedCall) -> str:
    """Explain what the operator does not tell callers without an API key."""
    token = reading.refresh_token
    if token is None:
        cause = "it is not valid here"
    elif token.expires_ms < exchange.at_ms:
        ended = (exchange.at_ms - token.expires_ms) / 1000
        cause = f"it ended {format_duration(ended)} ago"
    else:
        cause = "there is no key for a new one"
    return (
        f"The refresh token was refused: {cause}. Without a known API key the operator "
        "does not say so. Generate a new token."
    )


_FORMS: Final = (
    "An e-mail address needs an @ with something on both sides, a phone number is + "
    "and 10 to 15 digits, and a hash is SHA-256: 44 characters of base64 or 64 of hex."
)

_BY_MESSAGE: Final[Mapping[str, str]] = {
    # The envelope.
    "Body is missing": (
        "The request has no body. Even where there is nothing to ask, as for keys, an "
        "envelope is due, around no JSON."
    ),
    "unencrypted JSON": (
        "The body is bare JSON. It has to be sealed with the client secret first."
    ),
    "Body is not valid base64": (
        "The body is not standard base64: no line breaks, and + and / in place of - "
        "and _. Raw bytes need the content type application/octet-stream, exactly."
    ),
    "Body too short": (
        "The body has fewer than the 45 bytes of the smallest envelope. If it was made "
        "by hand: version, 12 bytes of IV, ciphertext, 16 bytes of tag."
    ),
    "envelope format version": (
        "An envelope begins with the byte 1. Something else was encoded, or the "
        "version byte was left out."
    ),
    "not valid json string": (
        "The envelope was opened, but what is in it is no JSON object."
    ),
    # Identities; in pages and apps they are hashes.
    "please provide": (
        "The payload has to hold one hash, email_hash or phone_hash; nothing else "
        "counts."
    ),
    "exactly one of": (
        "The request has to name one identity, under one key: email, email_hash, phone "
        "or phone_hash."
    ),
    "one or more of": (
        "The request names nobody: give at least one list of email, email_hash, phone "
        "or phone_hash."
    ),
    "Invalid Identifier": f"The identity is not valid. {_FORMS}",
    "must be an array": "Identities are sent as a list, even a single one.",
    "Incorrect request format": (
        "This endpoint takes lists of text under email, email_hash, phone and "
        "phone_hash, and nothing else: no null, no other key."
    ),
    "User consent is invalid": (
        "tcf_consent_string is no TC string. Leave the key out rather than send it "
        "empty."
    ),
    # Tokens.
    "Unauthorised to validate": (
        "The token was made by another site: only its own API key may validate it."
    ),
    "Invalid Token presented": (
        "What was sent is no refresh token of this operator, or was changed on the "
        "way; at token/logout, no single valid identity. Generate a new token."
    ),
    "Expired Token presented": "The refresh token has ended: generate a new one.",
    "Invalid token": (
        "What was sent is no advertising token of this operator, or was changed on the "
        "way."
    ),
    "Generator of this token": (
        "The refresh token is sealed with a key that this operator does not have: it "
        "is from another operator or another sandbox."
    ),
    "Check encryption method and encryption key": (
        "The refresh token has the right length but cannot be opened: it was changed "
        "on the way."
    ),
    "missing required data": "The refresh token was opened, but holds something else.",
    "No active encryption key": (
        "Neither the site nor the fallback has a key that holds now. The clock is far "
        "off, or the data have no such key."
    ),
    # Raw UIDs and buckets.
    "missing parameter since_timestamp": "Give since_timestamp.",
    "must conform to ISO 8601": (
        "since_timestamp is local time as in 2026-01-31T00:00:00, without a zone."
    ),
    "Parameter Missing: advertising_ids": (
        "Give the raw UIDs as a list, under advertising_ids."
    ),
    "Invalid request body": "The envelope is empty; this endpoint needs JSON.",
    "payload is too large": "At most 5,000 raw UIDs fit into one request.",
    # Generation in pages and apps.
    "payload expected but not found": "The request has no JSON.",
    "payload is not valid": "The request's body is no JSON.",
    "bad subscription_id": (
        "This sandbox has no such subscription: copy it from above, with its key."
    ),
    "required parameters: payload": "payload, iv and public_key are all due.",
    "bad public key": "public_key is no key of the curve P-256 in base64 of DER.",
    "bad iv": "iv is not base64 of 12 bytes.",
    "payload decryption failed": (
        "The payload cannot be opened: it was sealed for another server key, or the "
        "timestamp and app name are not those that were authenticated with it."
    ),
    "contains invalid json": "The payload was opened, but is no JSON object.",
    "unexpected app name": "app_name is none of the site's apps.",
    "unexpected http origin": (
        "The page's domain is none of the site's: those of the sandbox are example.com "
        "and localhost."
    ),
    # Everything else.
    "Invalid link_id": "The key belongs to a service, and link_id is none of its own.",
    "Unexpected client site id": "This endpoint is not open to reserved sites.",
    "Unauthorized": "The subscription is disabled.",
}
"""Meanings by a part of the message."""
