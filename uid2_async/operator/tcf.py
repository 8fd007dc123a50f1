"""Reads the fields of a TCF v2 consent string that an EUID requires.

Only the fields of docs/protocol.md 2.1 are returned, but the whole string is parsed.
The real operator's decoder (iabtcf) rejects a string that is truncated anywhere.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TypeAlias

import attrs

from uid2_async.protocol import base64

REQUIRED_PURPOSES = frozenset({1, 2, 3, 4, 7, 10})
"""The purposes that an EUID requires (docs/protocol.md 2.1)."""

_VERSION_BITS = 6
_OLD_VERSION, _VERSION = 1, 2
_PURPOSE_BITS = 24

# The number of bits to skip. Between version and purposes: created, updated, CMP ID
# and version, screen, language, vendor list, policy, two flags, special features.
# Between purposes and vendors: purpose one treatment, publisher country.
_BEFORE_PURPOSES = 36 + 36 + 12 + 12 + 6 + 12 + 12 + 6 + 1 + 1 + 12
_BEFORE_VENDORS = 1 + 12

# The segment types after the first dot. Only the first segment of each type is read.
_VENDOR_SEGMENTS = (2, 1)
_PUBLISHER_SEGMENT = 3
_Ids: TypeAlias = frozenset[int]


@attrs.frozen(kw_only=True)
class Consent:
    """The purposes and vendors that a person allows, by either legal basis."""

    purposes: _Ids
    legitimate_purposes: _Ids
    vendors: _Ids = attrs.field(repr=False)
    legitimate_vendors: _Ids = attrs.field(repr=False)

    def allows(self, purposes: Collection[int], vendor_id: int) -> bool:
        """Return whether *vendor_id* is allowed all of *purposes*.

        A purpose may be allowed by consent or by legitimate interest. Either counts
        only if the vendor is allowed on the same legal basis.
        """
        granted: set[int] = set()
        if vendor_id in self.vendors:
            granted |= self.purposes
        if vendor_id in self.legitimate_vendors:
            granted |= self.legitimate_purposes
        return granted.issuperset(purposes)


class UnusableConsentError(Exception):
    """A string of TCF version 1, on which the real decoder fails only later."""


def read_consent(text: str) -> Consent | None:
    """Read the TCF v2 consent string *text*, or return None if it is not one."""
    # Java's split() drops empty parts at the end.
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
    """Reads unsigned integers of any width from a sequence of bits, in order."""

    __slots__ = ("_end", "_value", "at")

    def __init__(self, data: bytes) -> None:
        self._end = len(data) * 8
        self._value = int.from_bytes(data)
        self.at = 0

    def take(self, width: int) -> int:
        """Read the next *width* bits."""
        self.at += width
        if self.at > self._end:
            raise EOFError
        return self._value >> (self._end - self.at) & ((1 << width) - 1)


def _decode(part: str) -> _Bits:
    """Decode one part of a consent string."""
    data = base64.decode_url(part)
    if data is None:
        raise ValueError("A part of the consent string is not base64.")
    return _Bits(data)


def _read_core(bits: _Bits) -> Consent:
    """Read the core segment. Its version has been read already."""
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
    for _ in range(bits.take(12)):  # publisher restrictions: purpose, type, vendors
        bits.take(6 + 2)
        _read_ranges(bits)
    return consent


def _read_segments(segments: list[_Bits]) -> None:
    """Parse the segments after the core, only to find errors."""
    for kind in _VENDOR_SEGMENTS:
        for bits in _first_of(kind, segments):
            _read_vendors(bits)
    for bits in _first_of(_PUBLISHER_SEGMENT, segments):
        bits.take(2 * _PURPOSE_BITS)
        custom_purposes = bits.take(6)
        bits.take(2 * custom_purposes)


def _first_of(kind: int, segments: list[_Bits]) -> Iterator[_Bits]:
    """Yield the first segment of *kind*, positioned after its type."""
    for bits in segments:
        bits.at = 0
        if bits.take(3) == kind:
            yield bits
            return


def _read_vendors(bits: _Bits) -> _Ids:
    """Read a vendor list, which is either a bit field or a list of ranges."""
    max_id = bits.take(16)
    return _read_ranges(bits, max_id) if bits.take(1) else _read_flags(bits, max_id)


def _read_flags(bits: _Bits, width: int) -> _Ids:
    """Read a bit field of *width* bits, and return the IDs of the set bits from 1."""
    flags = bits.take(width)
    return frozenset(at for at in range(1, width + 1) if flags >> (width - at) & 1)


def _read_ranges(bits: _Bits, max_id: int | None = None) -> _Ids:
    """Read a list of IDs and ranges of IDs."""
    ids: set[int] = set()
    for _ in range(bits.take(12)):
        is_range = bits.take(1)
        first = bits.take(16)
        last = bits.take(16) if is_range else first
        if first > last or (is_range and max_id is not None and last > max_id):
            raise ValueError("A vendor range is not valid.")
        ids.update(range(first, last + 1))
    return frozenset(ids)
