"""Computes raw UIDs and the IDs of salt buckets (docs/protocol.md 4)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, reduce
from hashlib import sha256
from operator import xor

import msgspec
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from uid2_async._private import RedactedRepr, Unpicklable
from uid2_async.models import IdentityScope, IdentityType
from uid2_async.operator.data import OperatorData, SaltKey, SaltRow, SaltSnapshot
from uid2_async.protocol import base64
from uid2_async.protocol.raw_uid import V4_FLAG, Environment, type_byte

_V4_ENCRYPTED = slice(16, 32)
_V4_IV_SIZE = 12
_CTR_START = bytes(4)


def first_level_hash(identity: bytes, first_level_salt: str) -> bytes:
    """Hash an identity with the salt shared by all buckets (docs/protocol.md 4.1).

    The salt is used as text, exactly as in the metadata.
    """
    return sha256(base64.encode(identity) + first_level_salt.encode()).digest()


def bucket_index(flh: bytes, count: int) -> int:
    """Choose a line in a salt file of *count* lines (docs/protocol.md 4.2)."""
    return (flh[0] << 12 | flh[1] << 4 | flh[2] & 0x0F) % count


def raw_uid_v2(flh: bytes, salt: str) -> bytes:
    """Compute the 32 bytes of a v2 raw UID from the first-level hash *flh*."""
    return sha256(base64.encode(flh) + salt.encode()).digest()


def raw_uid_v3(
    flh: bytes, salt: str, *, scope: IdentityScope, identity_type: IdentityType
) -> bytes:
    """Compute the 33 bytes of a v3 raw UID from the first-level hash *flh*."""
    return bytes((type_byte(scope, identity_type),)) + raw_uid_v2(flh, salt)


def raw_uid_v4(
    flh: bytes,
    key_id: int,
    key: str,
    salt: str,
    *,
    scope: IdentityScope,
    identity_type: IdentityType,
    environment: Environment,
) -> bytes:
    """Compute the 33 bytes of a v4 raw UID from the first-level hash *flh*.

    *key* is 32 ASCII characters and *salt* is text. Neither is decoded.
    """
    # Only a forged refresh token contains a shorter hash. Java pads it with zeros.
    plain = flh[_V4_ENCRYPTED].ljust(_V4_ENCRYPTED.stop - _V4_ENCRYPTED.start, b"\0")
    metadata = environment << 6 | V4_FLAG | type_byte(scope, identity_type)
    header = bytes((metadata,)) + (key_id & 0xFFFFFF).to_bytes(3, "big")
    iv = sha256(salt.encode() + plain + header).digest()[:_V4_IV_SIZE]
    cipher = Cipher(AES(key.encode()), CTR(iv + _CTR_START)).encryptor()
    body = header + iv + cipher.update(plain) + cipher.finalize()
    return body + bytes((reduce(xor, body),))


_DAY_MS = 86_400_000
_PREVIOUS_MS = 90 * _DAY_MS
_CHOOSING_BYTES = 3
_V4_FIRST_BYTE = 16


class MappedRow(RedactedRepr, frozen=True, gc=False):
    """A mapped row of identity/map v3, which always has all three keys."""

    raw_uid: str = msgspec.field(name="u")
    previous_raw_uid: str | None = msgspec.field(name="p")
    refresh_from: int = msgspec.field(name="r")


class SaltBuckets:
    """The salt buckets of an operator."""

    def __init__(self, data: OperatorData) -> None:
        """Read the salts and settings from *data*."""
        self._salts = data.salts
        self._scope = data.scope
        self._identity_v3 = data.settings.identity_v3
        self._environment = data.runtime.environment
        # The ID of a bucket is the same in every snapshot.
        self._bucket_id = cache(BucketIds(data.salts.id_prefix, data.salts.id_secret))

    def first_level_hash(self, identity: bytes) -> bytes:
        """Return the first-level hash of identity bytes. It never changes."""
        return first_level_hash(identity, self._salts.first_level)

    def snapshot(self, now_ms: int) -> SaltSnapshot:
        """Return the salts in effect at *now_ms*, or stale ones if there are no others.

        Looks at the snapshots in order, up to the first that is not in effect, and
        returns the last one before it. If the first one is not in effect, returns the
        last snapshot of all (docs/protocol.md 4.3).
        """
        snapshots = self._salts.snapshots
        chosen = snapshots[-1]
        for one in snapshots:
            if not one.effective <= now_ms < one.expires:
                break
            chosen = one
        return chosen

    def _row(self, flh: bytes, now_ms: int) -> SaltRow:
        """Return the bucket of a first-level hash."""
        rows = self.snapshot(now_ms).rows
        return rows[bucket_index(flh, len(rows))]

    def raw_uid(self, flh: bytes, identity_type: IdentityType, now_ms: int) -> str:
        """Compute the raw UID of a first-level hash, in base64."""
        row = self._row(flh, now_ms)
        found = self._make(flh, identity_type, row.salt, row.key)
        # A bucket without a salt or a key is rejected when the data is loaded.
        return base64.encode_text(found or b"")

    def is_long_enough(self, flh: bytes, now_ms: int) -> bool:
        """Return whether *flh*, from a forged token, is long enough for its bucket.

        The first three bytes choose the bucket, and a v4 raw UID uses the bytes from
        the sixteenth (docs/protocol.md 4.2 and 4.4).
        """
        if len(flh) < _CHOOSING_BYTES:
            return False
        is_v4 = self._row(flh, now_ms).salt is None
        return len(flh) >= _V4_FIRST_BYTE or not is_v4

    def bucket_id(self, flh: bytes, now_ms: int) -> str:
        """Return the ID of the bucket of a first-level hash."""
        return self._bucket_id(self._row(flh, now_ms).id)

    def rotated_since(self, since_ms: int, now_ms: int) -> Iterator[tuple[str, int]]:
        """Yield the ID and rotation time in ms of buckets rotated since *since_ms*."""
        for row in self.snapshot(now_ms).rows:
            if row.last_updated >= since_ms:
                yield self._bucket_id(row.id), row.last_updated

    def mapper(
        self, identity_type: IdentityType, now_ms: int
    ) -> Callable[[bytes], MappedRow]:
        """Return a function that maps first-level hashes as of *now_ms*.

        Bulk jobs spend most of their time in it.
        """
        rows = self.snapshot(now_ms).rows
        count = len(rows)
        make = self._make
        encode = base64.encode_text
        midnight = (now_ms // _DAY_MS + 1) * _DAY_MS

        def map_one(flh: bytes) -> MappedRow:
            row = rows[bucket_index(flh, count)]
            previous = None
            if now_ms - row.last_updated < _PREVIOUS_MS:
                previous = make(flh, identity_type, row.previous_salt, row.previous_key)
            due = midnight if row.refresh_from < now_ms else row.refresh_from
            return MappedRow(
                encode(make(flh, identity_type, row.salt, row.key) or b""),
                None if previous is None else encode(previous),
                due // 1000,
            )

        return map_one

    def _make(
        self,
        flh: bytes,
        identity_type: IdentityType,
        salt: str | None,
        key: SaltKey | None,
    ) -> bytes | None:
        """Compute a raw UID with the salt or the key. Return None if both are None."""
        if salt is not None:
            if self._identity_v3:
                return raw_uid_v3(
                    flh, salt, scope=self._scope, identity_type=identity_type
                )
            return raw_uid_v2(flh, salt)
        if key is None:
            return None
        return raw_uid_v4(
            flh,
            key.id,
            key.key,
            key.salt,
            scope=self._scope,
            identity_type=identity_type,
            environment=self._environment,
        )


_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ1234567890"

# Not in the alphabet. Hashids uses them between several numbers, but an ID encodes
# one.
_SEPARATORS = "cfhistuCFHISTU"
_GUARD_COUNT = 4
_MIN_LENGTH = 9


class BucketIds(Unpicklable):
    """Converts numbers of the salt file to bucket IDs, as Hashids."""

    __slots__ = ("_guards", "_prefix", "_tables")

    def __init__(self, prefix: str, secret: str) -> None:
        """Take ``id_prefix`` and ``id_secret`` of the salt metadata."""
        usable = "".join(char for char in _LETTERS if char not in _SEPARATORS)
        shuffled = _shuffle(usable, secret)
        self._prefix = prefix
        self._guards = shuffled[:_GUARD_COUNT]
        alphabet = shuffled[_GUARD_COUNT:]
        # The first character of an ID, the lottery, determines the alphabet of the
        # rest.
        self._tables = [
            (
                lottery,
                _shuffle(alphabet, (lottery + secret + alphabet)[: len(alphabet)]),
            )
            for lottery in alphabet
        ]

    def __call__(self, number: int) -> str:
        """Return the bucket ID of *number*, or only the prefix if it is negative."""
        if number < 0:
            return self._prefix
        tables = self._tables
        small = number % 100
        lottery, alphabet = tables[small % len(tables)]
        digits = []
        rest = number
        while True:
            rest, at = divmod(rest, len(alphabet))
            digits.append(alphabet[at])
            if not rest:
                break
        text = lottery + "".join(reversed(digits))
        if len(text) < _MIN_LENGTH:
            text = self._pad(text, alphabet, small)
        return self._prefix + text

    def _pad(self, text: str, alphabet: str, small: int) -> str:
        """Pad *text* to the minimum length, first with guards, then on both sides."""
        guards = self._guards
        text = guards[(small + ord(text[0])) % len(guards)] + text
        if len(text) < _MIN_LENGTH:
            text += guards[(small + ord(text[2])) % len(guards)]
        missing = _MIN_LENGTH - len(text)
        if missing > 0:
            # Both halves of the alphabet are added, and the excess is cut off at both
            # ends. If it is odd, one more character is cut off at the end.
            around = _shuffle(alphabet, alphabet)
            half = len(around) // 2
            first = (len(around) - missing) // 2
            text = (around[half:] + text + around[:half])[first : first + _MIN_LENGTH]
        return text


def _shuffle(text: str, salt: str) -> str:
    """Shuffle *text* deterministically by *salt*."""
    if not salt:
        return text
    chars = list(text)
    total = 0
    for step, last in enumerate(range(len(chars) - 1, 0, -1)):
        at = step % len(salt)
        total += ord(salt[at])
        other = (ord(salt[at]) + at + total) % last
        chars[last], chars[other] = chars[other], chars[last]
    return "".join(chars)
