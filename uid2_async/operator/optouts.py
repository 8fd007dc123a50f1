"""Who has opted out (docs/protocol.md 2.7 and 7)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from uid2_async.errors import ConfigError
from uid2_async.models import IdentityType
from uid2_async.operator.buckets import Buckets
from uid2_async.operator.data import OptOutRecord
from uid2_async.protocol import base64
from uid2_async.protocol.normalize import identity_bytes

__all__ = ["NEVER_OPTED_OUT", "OPTED_OUT", "OPTED_OUT_ON_REFRESH", "OptOuts"]

# Test identities by type.
OPTED_OUT: Final = {
    IdentityType.EMAIL: "optout@example.com",
    IdentityType.PHONE: "+00000000000",
}
"""Whoever is opted out everywhere."""

OPTED_OUT_ON_REFRESH: Final = {
    IdentityType.EMAIL: "refresh-optout@example.com",
    IdentityType.PHONE: "+00000000002",
}
"""Whoever is opted out on refresh, and only there."""

NEVER_OPTED_OUT: Final = {
    IdentityType.EMAIL: "validate@example.com",
    IdentityType.PHONE: "+12345678901",
}
"""Whoever is never opted out."""

_RAW_UID_BYTES = 33
_KEPT_BITS = 0x3F


class OptOuts:
    """The opt-out store of an operator, by first-level hash and by raw UID."""

    def __init__(self, records: Iterable[OptOutRecord], buckets: Buckets) -> None:
        """Take who has opted out before the start.

        Raises:
            ConfigError: If a record names nobody; the message tells which one.
        """
        self._buckets = buckets
        self._tests = {
            kind: (self._hash(kind, OPTED_OUT_ON_REFRESH[kind]), self._hash(kind, name))
            for kind, name in NEVER_OPTED_OUT.items()
        }
        self._always = {
            kind: self._hash(kind, name) for kind, name in OPTED_OUT.items()
        }
        self._initial = tuple(
            self._read(at, record) for at, record in enumerate(records)
        )
        self._raw_uids: dict[bytes, str] = {}
        self._since: dict[str, int] = {}
        self.reset()

    def reset(self) -> None:
        """Go back to who had opted out at the start."""
        self._raw_uids.clear()
        self._since.clear()
        for flh, raw_uid, since in self._initial:
            self.add(flh, raw_uid, since)

    def _hash(self, kind: str, value: str) -> bytes | None:
        """Make the first-level hash of an e-mail or phone, or None where invalid."""
        data = identity_bytes(kind, value)
        return None if data is None else self._buckets.first_level_hash(data)

    def _read(self, at: int, record: OptOutRecord) -> tuple[bytes, str, int]:
        """Turn a record into first-level hash, raw UID and time in seconds."""
        if record.email is not None:
            flh = self._hash(IdentityType.EMAIL, record.email)
        else:
            flh = self._hash(IdentityType.PHONE, record.phone or "")
        if flh is None:
            raise ConfigError(f"Opt-out record {at} names neither e-mail nor phone.")
        return flh, record.advertising_id, record.opted_out_since

    def add(self, flh: bytes, raw_uid: str, since: int) -> None:
        """Record that someone opted out.

        Args:
            flh: Their first-level hash.
            raw_uid: Their raw UID of today, base64.
            since: When, in seconds since the Unix epoch.
        """
        self.remove(flh)
        recorded = _as_recorded(raw_uid)
        self._raw_uids[flh] = recorded
        self._since[recorded] = since

    def remove(self, flh: bytes) -> None:
        """Forget that someone opted out."""
        recorded = self._raw_uids.pop(flh, None)
        if recorded is not None:
            self._since.pop(recorded, None)

    def is_out(self, flh: bytes, identity_type: IdentityType) -> bool:
        """Tell whether someone gets no raw UID and no token (docs/protocol.md 7)."""
        if flh in self._raw_uids:
            return flh not in self._tests[identity_type]
        return flh == self._always[identity_type]

    def is_out_on_refresh(self, flh: bytes, identity_type: IdentityType) -> bool:
        """Tell whether someone's token is not refreshed (docs/protocol.md 7)."""
        refresh_out, _ = self._tests[identity_type]
        return flh == refresh_out or self.is_out(flh, identity_type)

    @property
    def people(self) -> list[tuple[bytes, int]]:
        """Who has opted out, latest first: first-level hash, and since when in s."""
        found = [
            (flh, self._since.get(uid, 0)) for flh, uid in list(self._raw_uids.items())
        ]
        return sorted(found, key=lambda one: one[1], reverse=True)

    def since_ms(self, raw_uid: str) -> int | None:
        """Tell since when a raw UID is opted out, in ms, or None where it is not."""
        since = self._since.get(raw_uid)
        return None if since is None else since * 1000


def _as_recorded(raw_uid: str) -> str:
    """Cut what a record keeps of a raw UID: six bits of the first byte of 33.

    Raw UIDs of the environments integ and prod are therefore never found again
    (docs/protocol.md 2.7).
    """
    data = base64.decode(raw_uid)
    if data is None or len(data) != _RAW_UID_BYTES:
        return raw_uid
    return base64.encode_text(bytes((data[0] & _KEPT_BITS,)) + data[1:])
