"""v4 tokens: what opening and making one costs, beside the official SDK.

Both work on the same ring and the same 2,000 tokens of 33-byte raw UIDs, and both check
what they check by default. Floor: the two AES-GCM calls and the base64 alone.
"""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from uid2_client import encryption as sdk
from uid2_client.refresh_keys_util import parse_keys_json

from benchmarks.runner import Effort, Table, cpu_per_item, interleave
from uid2_async import BidstreamClient, KeyRing, SharingClient
from uid2_async.protocol.token_codec import open_token, seal_token

TOKENS = 2_000
# The official SDK is slower by far: fewer of its calls fill the same time.
SDK_TOKENS = 100
MASTER_KEYSET, KEYSET = 9_999_999, 700
SECRETS = {64: os.urandom(32), 65: os.urandom(32)}


def _make_body() -> dict[str, Any]:
    """Make the body of a key/sharing reply that serves for the bid stream too."""
    now = int(time.time())
    keys = [
        {
            "id": number,
            "keyset_id": keyset,
            "created": now - 100,
            "activates": now - 100,
            "expires": now + 86_400,
            "secret": base64.b64encode(SECRETS[number]).decode(),
        }
        for number, keyset in ((64, MASTER_KEYSET), (65, KEYSET))
    ]
    return {
        "caller_site_id": 124,
        "master_keyset_id": MASTER_KEYSET,
        "default_keyset_id": KEYSET,
        "token_expiry_seconds": "86400",
        "max_sharing_lifetime_seconds": 86_410,
        "max_bidstream_lifetime_seconds": 86_410,
        "identity_scope": "UID2",
        "allow_clock_skew_seconds": 1800,
        "keys": keys,
    }


BODY = _make_body()
RING = KeyRing.from_json(msgspec.json.encode({"body": BODY, "status": "success"}))
SDK_KEYS = parse_keys_json(BODY).keys
UIDS = [base64.b64encode(b"\xa0" + os.urandom(32)).decode() for _ in range(TOKENS)]
SHARING = SharingClient(RING)
BIDSTREAM = BidstreamClient(RING)
SEALED = [SHARING.encrypt(uid) for uid in UIDS]


def as_version(token: str, version: int) -> str:
    """Make a token of an older version that says the same as *token*."""
    opened = open_token(token, RING.keys.get)
    size = 16 if version == 2 else 12
    return seal_token(
        msgspec.structs.replace(opened, version=version),
        RING.keys.get,
        master_iv=os.urandom(size),
        site_iv=os.urandom(size),
    )


TOKENS_OF = {
    4: SEALED,
    3: [as_version(token, 3) for token in SEALED],
    2: [as_version(token, 2) for token in SEALED],
}


def decrypt(tokens: Sequence[str]) -> None:
    """Open each token with a call of its own, as a bid request does."""
    for token in tokens:
        BIDSTREAM.decrypt(token, "example.com")


def decrypt_many(tokens: Sequence[str]) -> None:
    """Open all tokens with one call, as a file does."""
    BIDSTREAM.decrypt_many(tokens)


def encrypt() -> None:
    """Make each token with a call of its own."""
    for uid in UIDS:
        SHARING.encrypt(uid)


def encrypt_many() -> None:
    """Make all tokens with one call."""
    SHARING.encrypt_many(UIDS)


def sdk_decrypt(tokens: Sequence[str]) -> None:
    """Open tokens with the official SDK."""
    now = datetime.now(UTC)
    for token in tokens[:SDK_TOKENS]:
        sdk.decrypt_token(token, SDK_KEYS, "example.com", sdk.ClientType.BIDSTREAM, now)


def sdk_encrypt() -> None:
    """Make tokens with the official SDK."""
    for uid in UIDS[:SDK_TOKENS]:
        sdk.encrypt(uid, None, SDK_KEYS)


def floor_decrypt(tokens: Sequence[str]) -> None:
    """Open both shells of v4 or v3 and do nothing else: no check, no value."""
    ciphers = {number: AESGCM(secret) for number, secret in SECRETS.items()}
    for token in tokens:
        data = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        master = ciphers[64].decrypt(data[6:18], data[18:], None)
        site = ciphers[65].decrypt(master[33:45], master[45:], None)
        base64.b64encode(site[36:])


def floor_decrypt_v2(tokens: Sequence[str]) -> None:
    """Do the same with v2, whose shells are CBC."""
    ciphers = {number: AES(secret) for number, secret in SECRETS.items()}
    for token in tokens:
        data = base64.b64decode(token)
        opener = Cipher(ciphers[64], CBC(data[5:21])).decryptor()
        master = opener.update(data[21:]) + opener.finalize()
        master = master[: -master[-1]]
        opener = Cipher(ciphers[65], CBC(master[12:28])).decryptor()
        site = opener.update(master[28:]) + opener.finalize()
        site[8 : -site[-1] - 12].decode()


def floor_encrypt() -> None:
    """Seal both shells and do nothing else."""
    ciphers = {number: AESGCM(secret) for number, secret in SECRETS.items()}
    for uid in UIDS:
        ivs = os.urandom(24)
        site = ciphers[65].encrypt(ivs[:12], bytes(36) + base64.b64decode(uid), None)
        payload = bytes(33) + ivs[:12] + site
        master = ciphers[64].encrypt(ivs[12:], payload, None)
        base64.urlsafe_b64encode(bytes(6) + ivs[12:] + master)


def compare(
    title: str, subjects: Mapping[str, Callable[[], None]], effort: Effort
) -> Table:
    """Measure *subjects*."""
    measures = {
        name: cpu_per_item(function, SDK_TOKENS if name == "official SDK" else TOKENS)
        for name, function in subjects.items()
    }
    return Table(
        title=title,
        unit="us of CPU per token",
        baseline="floor",
        ours=tuple(name for name in subjects if name not in {"floor", "official SDK"}),
        lines=interleave(measures, rounds=effort.pick(9, 15)),
    )


def run(effort: Effort) -> Iterator[Table]:
    """Measure both ways."""
    for version, tokens in TOKENS_OF.items():
        functions = {
            "floor": partial(
                floor_decrypt_v2 if version == 2 else floor_decrypt, tokens
            ),
            "decrypt": partial(decrypt, tokens),
            "decrypt_many": partial(decrypt_many, tokens),
            "official SDK": partial(sdk_decrypt, tokens),
        }
        yield compare(f"Decrypt a v{version} token", functions, effort)
    yield compare(
        "Encrypt a v4 token",
        {
            "floor": floor_encrypt,
            "encrypt": encrypt,
            "encrypt_many": encrypt_many,
            "official SDK": sdk_encrypt,
        },
        effort,
    )
