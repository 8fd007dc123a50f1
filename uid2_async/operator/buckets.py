"""From first-level hashes to raw UIDs by the salts of their buckets.

docs/protocol.md 4.2, 4.3, 4.5 and 4.6.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from uid2_async.models import IdentityType
from uid2_async.operator.data import OperatorData, SaltKey, SaltRow, SaltSnapshot
from uid2_async.operator.hashids import BucketIds
from uid2_async.protocol import base64
from uid2_async.protocol.identity import MappedRow
from uid2_async.protocol.raw_uid import (
    bucket_index,
    first_level_hash,
    raw_uid_v2,
    raw_uid_v3,
    raw_uid_v4,
)

__all__ = ["Buckets"]

_DAY_MS = 86_400_000
_PREVIOUS_MS = 90 * _DAY_MS
_CHOOSING_BYTES = 3
_V4_FIRST_BYTE = 16


class Buckets:
    """The salt buckets of an operator."""

    def __init__(self, data: OperatorData) -> None:
        """Take the salts, and what decides on the format of raw UIDs."""
        self._salts = data.salts
        self._scope = data.scope
        self._identity_v3 = data.settings.identity_v3
        self._environment = data.runtime.environment
        self._bucket_ids = BucketIds(data.salts.id_prefix, data.salts.id_secret)
        self._known_ids: dict[int, str] = {}

    def first_level_hash(self, identity: bytes) -> bytes:
        """Hash identity bytes; all salts of all times share this step."""
        return first_level_hash(identity, self._salts.first_level)

    def snapshot(self, now_ms: int) -> SaltSnapshot:
        """Choose the salts of an instant; stale ones are better than none.

        It is the last snapshot of the leading run that is in effect, else the last of
        all (docs/protocol.md 4.3).
        """
        snapshots = self._salts.snapshots
        chosen = snapshots[-1]
        for one in snapshots:
            if not one.effective <= now_ms < one.expires:
                break
            chosen = one
        return chosen

    def raw_uid(self, flh: bytes, identity_type: IdentityType, now_ms: int) -> str:
        """Make the raw UID of a first-level hash, in base64."""
        rows = self.snapshot(now_ms).rows
        row = rows[bucket_index(flh, len(rows))]
        found = self._make(flh, identity_type, row.salt, row.key)
        # A bucket without any salt is refused with the operator's data.
        return base64.encode_text(found or b"")

    def can_map(self, flh: bytes, now_ms: int) -> bool:
        """Tell whether *flh*, from a forged token, is long enough for its bucket.

        Three bytes choose the bucket, and v4 raw UIDs begin at the sixteenth
        (docs/protocol.md 4.2 and 4.4).
        """
        if len(flh) < _CHOOSING_BYTES:
            return False
        rows = self.snapshot(now_ms).rows
        is_v4 = rows[bucket_index(flh, len(rows))].salt is None
        return len(flh) >= _V4_FIRST_BYTE or not is_v4

    def bucket_id(self, flh: bytes, now_ms: int) -> str:
        """Name the bucket of a first-level hash."""
        rows = self.snapshot(now_ms).rows
        return self._name(rows[bucket_index(flh, len(rows))])

    def rotated_since(self, since_ms: int, now_ms: int) -> Iterator[tuple[str, int]]:
        """List the buckets that rotated at *since_ms* or later: name and ms."""
        for row in self.snapshot(now_ms).rows:
            if row.last_updated >= since_ms:
                yield self._name(row), row.last_updated

    def mapper(
        self, identity_type: IdentityType, now_ms: int
    ) -> Callable[[bytes], MappedRow]:
        """Make the function that maps first-level hashes at one instant.

        It is what bulk work spends its time in: everything that does not depend on the
        hash is settled here.
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
        """Make a raw UID in the format that the salt or key calls for, or None."""
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

    def _name(self, row: SaltRow) -> str:
        """Name a bucket; the name is the same in every snapshot."""
        known = self._known_ids.get(row.id)
        if known is None:
            known = self._known_ids[row.id] = self._bucket_ids(row.id)
        return known
