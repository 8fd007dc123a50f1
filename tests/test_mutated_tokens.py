"""Ten thousand tokens that somebody has tampered with."""

from __future__ import annotations

import base64
import random
import string
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from uid2_async import (
    BidstreamClient,
    DecryptedToken,
    IdentityScope,
    KeyRing,
    SharingClient,
    TokenFailure,
    errors,
)
from uid2_async.models import IdentityType
from uid2_async.protocol.keyring import Key
from uid2_async.protocol.token_codec import AdvertisingToken, seal_token

COUNT = 10_000
NOW = datetime(2026, 1, 1, tzinfo=UTC)
NOW_MS = int(NOW.timestamp() * 1000)
TIMES = {"created": 0, "activates": 0, "expires": 2**40}
RING = KeyRing(
    keys={one: Key(id=one, secret=bytes([one]) * 32, **TIMES) for one in range(1, 5)},
    site_data={9: frozenset({"example.com"})},
)


def make_token(version: int, number: int) -> str:
    """Make one of several tokens that are accepted, of 32- and 33-byte raw UIDs."""
    dice = random.Random(number)  # noqa: S311 - to be repeated, not to be secret
    identity_type = dice.choice(tuple(IdentityType))
    head = bytes([identity_type.bit << 2]) if number % 2 else b""
    size = 16 if version == 2 else 12
    token = AdvertisingToken(
        version=version,
        scope=IdentityScope.UID2,
        identity_type=identity_type,
        master_key_id=dice.choice((1, 2)),
        site_key_id=dice.choice((3, 4)),
        expires_ms=NOW_MS + dice.randrange(10**9),
        created_ms=NOW_MS - dice.randrange(10**6),
        site_id=9,
        privacy_bits=dice.choice((1, 3)),
        established_ms=NOW_MS - dice.randrange(10**9),
        refreshed_ms=NOW_MS,
        raw_uid=base64.b64encode(head + dice.randbytes(32)).decode(),
    )
    return seal_token(
        token, RING.key, master_iv=dice.randbytes(size), site_iv=dice.randbytes(size)
    )


def to_bytes(text: str) -> bytes:
    """Decode either alphabet."""
    padded = text + "=" * (-len(text) % 4)
    return base64.b64decode(padded.replace("-", "+").replace("_", "/"))


def flip_bits(text: str, dice: random.Random, other: str) -> str:
    """Change up to three bits of the bytes."""
    data = bytearray(to_bytes(text))
    for _ in range(dice.randrange(1, 4)):
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    return base64.b64encode(data).decode()


def cut(text: str, dice: random.Random, other: str) -> str:
    """Leave out a part of the text."""
    start = dice.randrange(len(text))
    return text[:start] + text[start + dice.randrange(1, 30) :]


def swap_parts(text: str, dice: random.Random, other: str) -> str:
    """Put a part of another token, or of the same, in its place."""
    data, foreign = bytearray(to_bytes(text)), to_bytes(dice.choice((text, other)))
    start, source = dice.randrange(len(data)), dice.randrange(len(foreign))
    size = dice.randrange(1, 64)
    data[start : start + size] = foreign[source : source + size]
    return base64.b64encode(data).decode()


def change_alphabet(text: str, dice: random.Random, other: str) -> str:
    """Write it otherwise, wholly or at one place."""
    place = dice.randrange(len(text))
    foreign = dice.choice((*string.printable, "\u00e4", "\uff21", "\ud800", "\0"))
    return dice.choice(
        (
            text[:place] + foreign + text[place + 1 :],
            text[:place] + foreign + text[place:],
            base64.b32encode(to_bytes(text)).decode(),
            to_bytes(text).hex(),
            text.swapcase(),
            base64.b85encode(to_bytes(text)).decode(),
            text + "=" * dice.randrange(1, 5),
        )
    )


MUTATIONS: tuple[Callable[[str, random.Random, str], str], ...] = (
    flip_bits,
    cut,
    swap_parts,
    change_alphabet,
)
CLIENTS = (
    BidstreamClient(RING, clock=lambda: NOW),
    SharingClient(RING, clock=lambda: NOW),
)


def facts(token: DecryptedToken) -> tuple[object, ...]:
    """List what nobody can change without the keys.

    The type in byte 0 of a token is not authenticated. A raw UID of 33 bytes tells its
    own, which must agree; where it has 32, the identity type can be changed.
    """
    bare = len(to_bytes(token.raw_uid)) == 32
    return (
        token.raw_uid,
        token.site_id,
        token.established_ms,
        token.created_ms,
        token.expires_ms,
        token.client_side_generated,
        None if bare else token.identity_type,
    )


@pytest.mark.parametrize("version", [2, 3, 4])
@pytest.mark.parametrize("client", CLIENTS, ids=lambda one: type(one).__name__)
def test_a_mutated_token_is_refused_or_says_the_same(
    version: int, client: BidstreamClient | SharingClient
) -> None:
    """No other exception than TokenError; v2 is not authenticated, and may lie."""
    dice = random.Random(version)  # noqa: S311 - as above
    originals = [make_token(version, number) for number in range(20)]
    names = ["example.com"] * COUNT
    picked = [dice.choice(originals) for _ in range(COUNT)]
    mutated = [
        dice.choice(MUTATIONS)(text, dice, dice.choice(originals)) for text in picked
    ]
    rows = open_many(client, mutated, names)
    expected = open_many(client, picked, names)

    refused = 0
    for text, found, original in zip(mutated, rows, expected, strict=True):
        assert isinstance(original, DecryptedToken)
        if isinstance(found, TokenFailure):
            refused += 1
            continue
        assert version == 2 or facts(found) == facts(original), text
    assert refused > 0.8 * COUNT
    for text, found in zip(mutated[:500], rows, strict=False):
        if isinstance(found, TokenFailure):
            with pytest.raises(errors.TokenError) as caught:
                client.decrypt(text)
            assert caught.value.reason is found


def open_many(
    client: BidstreamClient | SharingClient, tokens: list[str], names: list[str]
) -> list[DecryptedToken | TokenFailure]:
    """Open with either client."""
    if isinstance(client, BidstreamClient):
        return client.decrypt_many(tokens, names)
    return client.decrypt_many(tokens)
