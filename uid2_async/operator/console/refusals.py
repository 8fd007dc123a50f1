"""What the operator's messages mean, and what to do (docs/protocol.md 1.7 and 2).

The key is a part of the message that it alone has; the first that is found counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["MEANINGS"]

_FORMS: Final = (
    "An e-mail address needs an @ with something on both sides, a phone number is + "
    "and 10 to 15 digits, and a hash is SHA-256: 44 characters of base64 or 64 of hex."
)

MEANINGS: Final[Mapping[str, str]] = {
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
