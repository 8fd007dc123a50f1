"""Why a call failed, in plain words, and what to do (docs/protocol.md 1.7 and 2)."""

from __future__ import annotations

from typing import Any, Final

import attrs

from uid2_async.operator import dispatch
from uid2_async.operator.console.exchanges import Exchange, KeyCheck
from uid2_async.operator.console.reading import Reading
from uid2_async.operator.console.refusals import MEANINGS
from uid2_async.operator.console.wording import fault_words, span
from uid2_async.operator.data import Settings
from uid2_async.operator.state import Fault
from uid2_async.protocol.tokens import REFRESH_PATH

__all__ = ["Reason", "explain"]


@attrs.frozen
class Reason:
    """Why a call did not bring what it was for.

    Attributes:
        text: What it means and what to do, in plain words.
        said: What the operator said.
        failed: False where the call was as it should be, and the answer was no.
    """

    text: str
    said: str
    failed: bool = True


def explain(exchange: Exchange, reading: Reading, settings: Settings) -> Reason | None:
    """Say why *exchange* failed, or return None where it did not."""
    call = exchange.call
    fault = call.fault
    if fault is not None and (fault.drop or fault.status is not None):
        return Reason(f"You armed it: {fault_words(fault)}.", _said(exchange, reading))
    if call.status == 200:  # noqa: PLR2004 - an HTTP status reads best as its number
        return _explain_success(exchange, reading)
    if call.status == 204:  # noqa: PLR2004 - as above
        return None
    text = _explain_refusal(exchange, reading, settings)
    if fault is not None:
        text = f"You armed it: {fault_words(fault)}. {text}"
    return Reason(text, _said(exchange, reading))


def _said(exchange: Exchange, reading: Reading) -> str:
    """Repeat what the operator said, without its links."""
    if not exchange.call.status:
        return "No answer"
    fields = _fields(reading)
    words = [str(fields[key]) for key in ("status", "message") if fields.get(key)]
    said = ": ".join(words).partition(" See https://")[0]
    return f"HTTP {exchange.call.status} {said}".rstrip()


def _fields(reading: Reading) -> dict[str, Any]:
    """Give the reply's JSON object, or an empty one."""
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


def _explain_success(exchange: Exchange, reading: Reading) -> Reason | None:
    """Say what a 200 without success means, or a fault that spoils one."""
    fault = exchange.call.fault
    said = _said(exchange, reading)
    if fault is not None and _spoils(fault):
        return Reason(f"You armed it: {fault_words(fault)}.", said)
    text = _STATUS_WORDS.get(str(_fields(reading).get("status")))
    return None if text is None else Reason(text, said, failed=False)


def _spoils(fault: Fault) -> bool:
    """Tell whether a client cannot read a 200 with *fault*."""
    cut = fault.cut_after is not None
    return cut or fault.wrong_key or fault.wrong_nonce or fault.payload is not None


def _explain_refusal(exchange: Exchange, reading: Reading, settings: Settings) -> str:
    """Say what a status other than 200 means."""
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
    for words, meaning in MEANINGS.items():
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
    """Say why an API key was not accepted, which the operator keeps to itself."""
    client = exchange.caller.client
    if client is None:
        return _KEY_CHECKS[exchange.caller.check]
    if client.disabled:
        return f"The key of {client.name} is disabled."
    endpoint = dispatch.find("POST", exchange.call.path, settings)
    needed = endpoint.roles if isinstance(endpoint, dispatch.Sealed) else frozenset()
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


def _explain_secret(exchange: Exchange, reading: Reading) -> str:
    """Say with whose secret a request was sealed."""
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
    """Say how far the clocks are apart."""
    off_ms = exchange.at_ms - sent_ms
    where = "behind" if off_ms > 0 else "ahead of"
    return (
        f"The caller's clock is {span(abs(off_ms) / 1000)} {where} the operator's; two "
        "minutes are the most. Seal each attempt anew, or set the clocks right (see "
        "Time)."
    )


def _explain_refresh(exchange: Exchange, reading: Reading) -> str:
    """Say what the operator tells nobody without an API key."""
    token = reading.refresh_token
    if token is None:
        cause = "it is not valid here"
    elif token.expires_ms < exchange.at_ms:
        cause = f"it ended {span((exchange.at_ms - token.expires_ms) / 1000)} ago"
    else:
        cause = "there is no key for a new one"
    return (
        f"The refresh token was refused: {cause}. Without a known API key the operator "
        "does not say so. Generate a new token."
    )
