"""The few fields of a TCF v2 consent string that decide on an EUID.

Only what docs/protocol.md 2.1 names is kept, but the whole string is read: to the real
operator's decoder (iabtcf) a string that ends too early anywhere is no consent string.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TypeAlias

import attrs

from uid2_async.protocol import base64

REQUIRED_PURPOSES = frozenset({1, 2, 3, 4, 7, 10})
"""The purposes that an EUID needs (docs/protocol.md 2.1)."""

_VERSION_BITS = 6
_OLD_VERSION, _VERSION = 1, 2
_PURPOSE_BITS = 24

# Fields of no interest, in bits: between version and purposes (created, updated, CMP id
# and version, screen, language, vendor list, policy, two flags, special features), and
# between purposes and vendors (purpose one treatment, publisher country).
_BEFORE_PURPOSES = 36 + 36 + 12 + 12 + 6 + 12 + 12 + 6 + 1 + 1 + 12
_BEFORE_VENDORS = 1 + 12

# The kinds of segments after the first dot, of which the first of each is read.
_VENDOR_SEGMENTS = (2, 1)
_PUBLISHER_SEGMENT = 3
_Ids: TypeAlias = frozenset[int]


@attrs.frozen(kw_only=True)
class Consent:
    """What a person has agreed to (docs/protocol.md 2.1).

    Attributes:
        purposes: Purposes with consent.
        legitimate_purposes: Purposes on the ground of legitimate interest.
        vendors: Vendors with consent.
        legitimate_vendors: Vendors on the ground of legitimate interest.
    """

    purposes: _Ids
    legitimate_purposes: _Ids
    vendors: _Ids = attrs.field(repr=False)
    legitimate_vendors: _Ids = attrs.field(repr=False)

    def allows(self, purposes: Collection[int], vendor_id: int) -> bool:
        """Return whether *vendor_id* may act for every one of *purposes*.

        A purpose counts by consent or by legitimate interest, each only if the vendor
        is on the list of the same ground.
        """
        granted: set[int] = set()
        if vendor_id in self.vendors:
            granted |= self.purposes
        if vendor_id in self.legitimate_vendors:
            granted |= self.legitimate_purposes
        return granted.issuperset(purposes)


class UnusableConsentError(Exception):
    """A consent string of TCF version 1, which knows no legitimate interest.

    The real operator's decoder takes it without reading further than the version, and
    then fails on being asked for what version 1 does not have.
    """


def read_consent(text: str) -> Consent | None:
    """Read the TCF v2 consent string *text*, or return None if it is not one.

    Raises:
        UnusableConsentError: If it is of version 1.
    """
    # Java's split drops empty parts at the end.
    core, *segments = text.rstrip(".").split(".")
    try:
        bits = _decode(core)
        version = bits.take(_VERSION_BITS)
        if version == _OLD_VERSION:
            raise UnusableConsentError
        if version != _VERSION:
            return None
        rest = [_decode(segment) for segment in segments]
        consent = _read_core(bits)
        _read_segments(rest)
    except (EOFError, ValueError):
        return None
    return consent


class _Bits:
    """Reads numbers of any width, bit by bit from the front."""

    __slots__ = ("_end", "_value", "at")

    def __init__(self, data: bytes) -> None:
        self._end = len(data) * 8
        self._value = int.from_bytes(data)
        self.at = 0

    def take(self, width: int) -> int:
        """Read the next *width* bits.

        Raises:
            EOFError: If there are fewer.
        """
        self.at += width
        if self.at > self._end:
            raise EOFError
        return self._value >> (self._end - self.at) & ((1 << width) - 1)


def _decode(part: str) -> _Bits:
    """Decode a part.

    Raises:
        ValueError: If it is not base64.
    """
    data = base64.decode_url(part)
    if data is None:
        raise ValueError("A part is no base64.")
    return _Bits(data)


def _read_core(bits: _Bits) -> Consent:
    """Read the first part, from behind its version."""
    bits.take(_BEFORE_PURPOSES)
    purposes = _read_flags(bits, _PURPOSE_BITS)
    legitimate_purposes = _read_flags(bits, _PURPOSE_BITS)
    bits.take(_BEFORE_VENDORS)
    consent = Consent(
        purposes=purposes,
        legitimate_purposes=legitimate_purposes,
        vendors=_read_vendors(bits),
        legitimate_vendors=_read_vendors(bits),
    )
    for _ in range(bits.take(12)):  # publisher restrictions: purpose, kind, vendors
        bits.take(6 + 2)
        _read_ranges(bits)
    return consent


def _read_segments(segments: list[_Bits]) -> None:
    """Read the parts after the first dot, only for their errors."""
    for kind in _VENDOR_SEGMENTS:
        for bits in _first_of(kind, segments):
            _read_vendors(bits)
    for bits in _first_of(_PUBLISHER_SEGMENT, segments):
        bits.take(2 * _PURPOSE_BITS)
        custom_purposes = bits.take(6)
        bits.take(2 * custom_purposes)


def _first_of(kind: int, segments: list[_Bits]) -> Iterator[_Bits]:
    """Find the first segment of *kind*, read up to behind its kind."""
    for bits in segments:
        bits.at = 0
        if bits.take(3) == kind:
            yield bits
            return


def _read_vendors(bits: _Bits) -> _Ids:
    """Read a list of vendors, as flags or as ranges."""
    max_id = bits.take(16)
    return _read_ranges(bits, max_id) if bits.take(1) else _read_flags(bits, max_id)


def _read_flags(bits: _Bits, width: int) -> _Ids:
    """Read *width* flags into the ids, from 1, of those that are set."""
    flags = bits.take(width)
    return frozenset(at for at in range(1, width + 1) if flags >> (width - at) & 1)


def _read_ranges(bits: _Bits, max_id: int | None = None) -> _Ids:
    """Read ids and ranges of ids.

    Raises:
        ValueError: If a range runs backwards or beyond *max_id*.
    """
    ids: set[int] = set()
    for _ in range(bits.take(12)):
        is_range = bits.take(1)
        first = bits.take(16)
        last = bits.take(16) if is_range else first
        if first > last or (is_range and max_id is not None and last > max_id):
            raise ValueError("A range of vendors is out of order.")
        ids.update(range(first, last + 1))
    return frozenset(ids)
