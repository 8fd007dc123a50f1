"""Salt bucket ids by the Hashids scheme (docs/protocol.md 4.3).

Of Hashids only this is needed: encoding one number. The ``hashids`` package on PyPI has
not been maintained for years, so that the few lines stand here.
"""

from __future__ import annotations

from uid2_async.secret import Unpicklable

__all__ = ["BucketIds"]

_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ1234567890"
# Kept out of the alphabet: they stand between several numbers, which do not occur here.
_SEPARATORS = "cfhistuCFHISTU"
_GUARD_COUNT = 4
_MIN_LENGTH = 9


class BucketIds(Unpicklable):
    """Turns numbers of the salt file into the bucket ids of one salt snapshot."""

    __slots__ = ("_guards", "_prefix", "_tables")

    def __init__(self, prefix: str, secret: str) -> None:
        """Prepare everything that does not depend on the number.

        Args:
            prefix: ``id_prefix`` of the salt metadata.
            secret: ``id_secret`` of the salt metadata, the salt of the Hashids.
        """
        usable = "".join(char for char in _LETTERS if char not in _SEPARATORS)
        shuffled = _shuffle(usable, secret)
        self._prefix = prefix
        self._guards = shuffled[:_GUARD_COUNT]
        alphabet = shuffled[_GUARD_COUNT:]
        # The first character of an id, the lottery, decides the alphabet of the rest.
        self._tables = [
            (
                lottery,
                _shuffle(alphabet, (lottery + secret + alphabet)[: len(alphabet)]),
            )
            for lottery in alphabet
        ]

    def __call__(self, number: int) -> str:
        """Return the bucket id of *number*, the first column of the salt file.

        The scheme has no id for a negative number: the prefix alone remains, as it does
        in the Java library.
        """
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
        """Bring *text* to the least length: first with guards, then all around."""
        guards = self._guards
        text = guards[(small + ord(text[0])) % len(guards)] + text
        if len(text) < _MIN_LENGTH:
            text += guards[(small + ord(text[2])) % len(guards)]
        missing = _MIN_LENGTH - len(text)
        if missing > 0:
            # What both halves of the alphabet add is cut off again, on both sides; the
            # odd character is cut off at the end.
            around = _shuffle(alphabet, alphabet)
            half = len(around) // 2
            first = (len(around) - missing) // 2
            text = (around[half:] + text + around[:half])[first : first + _MIN_LENGTH]
        return text


def _shuffle(text: str, salt: str) -> str:
    """Shuffle *text* in the one way that *salt* decides."""
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
