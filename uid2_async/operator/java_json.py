"""Parses JSON as the real operator does, with Vert.x on Jackson (docs/protocol.md 1.3).

The standard library's scanner does the parsing. It is made as strict as Jackson where
it is more lenient (``NaN``, long numbers and names, deep nesting), and as lenient where
it is stricter (comments). Numbers that Java reads as ``Double`` become
:class:`~uid2_async.operator.java_text.JavaDouble`, because the operator does not reject
a value of the wrong type. It converts the value to a string and validates that.

Before Python 3.12, the scanner shares the interpreter's recursion limit, which is well
below Jackson's 1,000 levels of nesting. Deeper input is parsed without recursion.
"""

from __future__ import annotations

import json
import re
from json.decoder import scanstring  # type: ignore[attr-defined] # not in typeshed
from typing import Any

from uid2_async.operator.java_text import JavaDouble, utf16_length

# The defaults of Jackson's StreamReadConstraints.
_MAX_DEPTH = 1_000
_MAX_NUMBER_DIGITS = 1_000
_MAX_NAME_UNITS = 50_000

# Java's decoder replaces an encoded surrogate, even a truncated one, by one
# replacement character. Python's replaces each byte.
_ENCODED_SURROGATE = re.compile(rb"\xed[\xa0-\xbf][\x80-\xbf]?")
_REPLACEMENT = "\ufffd".encode()

# Strings come first, so that nothing inside a string matches anything else. Jackson
# rejects control characters in comments, too.
_LEXEME = re.compile(
    r"""
    (?P<string>  "[^"\\]*+(?:\\.[^"\\]*+)*+" )
  | (?P<comment> /\*[^\x00-\x08\x0b\x0c\x0e-\x1f]*?\*/ | //[^\x00-\x08\x0a-\x1f]* )
  | (?P<open>    [\[{] )
  | (?P<close>   [\]}] )
  | (?P<stray>   ["/] )
    """,
    re.VERBOSE | re.DOTALL,
)

_ZERO_FIRST = re.compile(r"-?0(?:\.[0-9]+|[eE].+)\Z")


class JavaJsonError(ValueError):
    """The operator would reject this as JSON. The error does not quote the input."""


def decode_utf8(data: bytes) -> str:
    """Decode *data* like Java's ``new String(data, UTF_8)``, which never fails."""
    return _ENCODED_SURROGATE.sub(_REPLACEMENT, data).decode("utf-8", "replace")


def parse(data: bytes | str) -> object:
    """Parse the payload of a request. Bytes are decoded as by :func:`decode_utf8`.

    Returns:
        None, bool, int, ``JavaDouble``, str, list or dict. If a key is repeated, the
        last value wins. Lone surrogates are preserved.

    Raises:
        JavaJsonError: If Jackson would reject it.
    """
    text = data if isinstance(data, str) else decode_utf8(data)
    try:
        return _decode(_without_comments(text))
    except ValueError:
        pass
    # Raised outside the handler, because the scanner's own error holds the whole
    # text.
    raise JavaJsonError("The operator would not accept this as JSON.")


def _decode(text: str) -> object:
    """Parse JSON without comments, however deep the interpreter's stack already is.

    Raises:
        ValueError: If it is not JSON.
    """
    try:
        return _DECODER.decode(text)
    except RecursionError:
        pass
    return _DeepReader(text).read()


def parse_raw(data: bytes) -> object:
    """Parse bytes as Jackson does if it reads them directly, not as decoded text.

    The operator does so for the body and the inner payload of client-generate
    (docs/protocol.md 2.10). Invalid UTF-8 is an error. A byte order mark, UTF-16 and
    UTF-32 are accepted.

    Returns:
        The same as :func:`parse`.

    Raises:
        JavaJsonError: If Jackson would reject it.
    """
    try:
        text = data.decode(json.detect_encoding(data))
    except UnicodeDecodeError:
        text = ""
    return parse(text)


def parse_object(data: bytes | str) -> dict[str, object] | None:
    """Parse the payload of a request, or return None if it is not a JSON object."""
    try:
        value = parse(data)
    except JavaJsonError:
        return None
    return value if isinstance(value, dict) else None


def _without_comments(text: str) -> str:
    """Replace each comment in *text* by a space, and check the nesting depth.

    Raises:
        JavaJsonError: If the nesting is too deep, a string or a comment is not
            terminated, or a comment follows a number at the top level, where Jackson
            requires white space.
    """
    brackets = text.count("[") + text.count("{")
    if brackets <= _MAX_DEPTH and "/*" not in text and "//" not in text:
        return text
    pieces = []
    done = depth = 0
    for found in _LEXEME.finditer(text):
        kind = found.lastgroup
        depth += (kind == "open") - (kind == "close")
        if depth > _MAX_DEPTH or kind == "stray":
            raise JavaJsonError
        if kind == "comment":
            pieces.append(text[done : found.start()])
            done = found.end()
            if depth == 0 and pieces[-1][-1:].isdigit():
                raise JavaJsonError
    pieces.append(text[done:])
    return " ".join(pieces)


def _integer(text: str) -> int:
    """Parse a number without a fraction or an exponent: Integer, Long or BigInteger."""
    _check_digits(text)
    return int(text)


def _double(text: str) -> JavaDouble:
    """Parse a number with a fraction or an exponent."""
    _check_digits(text)
    return JavaDouble(text)


def _check_digits(text: str) -> None:
    """Raise if a number has more digits, including its exponent, than Jackson accepts.

    Raises:
        JavaJsonError: If there are too many digits.
    """
    # Most numbers are short, and need not be counted.
    if len(text) <= _MAX_NUMBER_DIGITS:
        return
    digits = sum(map(str.isdigit, text))
    # Jackson does not count a lone 0 before a point or an exponent, unless both
    # follow.
    digits -= _ZERO_FIRST.match(text) is not None
    if digits > _MAX_NUMBER_DIGITS:
        raise JavaJsonError


def _constant(_name: str) -> object:
    """Reject NaN, Infinity and -Infinity.

    Raises:
        JavaJsonError: Always.
    """
    raise JavaJsonError


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Build an object. A repeated key keeps its first position and its last value.

    Raises:
        JavaJsonError: If a key has more UTF-16 code units than Jackson accepts.
    """
    for name, _ in pairs:
        if len(name) * 2 > _MAX_NAME_UNITS and utf16_length(name) > _MAX_NAME_UNITS:
            raise JavaJsonError
    return dict(pairs)


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object,
    parse_int=_integer,
    parse_float=_double,
    parse_constant=_constant,
)


class _DeepReader:
    """Parses JSON with its own stack. Slower than the standard library's scanner.

    It applies the same checks to objects, strings and numbers.
    """

    _SPACE = re.compile(r"[ \t\n\r]*")
    _NUMBER = re.compile(r"(-?(?:0|[1-9][0-9]*))(\.[0-9]+)?([eE][-+]?[0-9]+)?")
    _WORDS = {"true": True, "false": False, "null": None}  # noqa: RUF012 - read only

    def __init__(self, text: str) -> None:
        """Start before the first token of *text*."""
        self._text = text
        self._at = 0

    def read(self) -> object:
        """Parse the whole text as one value.

        Raises:
            ValueError: If it is not JSON.
        """
        holders: list[_Holder] = []
        value: object = None
        is_complete = False
        while not is_complete or holders:
            if not is_complete:
                value, is_complete = self._begin(holders)
            else:
                value, is_complete = self._go_on(holders, value)
        if self._peek():
            raise JavaJsonError
        return value

    def _begin(self, holders: list[_Holder]) -> tuple[object, bool]:
        """Parse a scalar or open a container; return it, and whether it is complete."""
        mark = self._peek()
        if mark not in {"[", "{"}:
            return self._scalar(mark), True
        self._at += 1
        holder = _Holder(mark)
        if self._takes(holder.end):
            return holder.close(), True
        holders.append(holder)
        if holder.end == "}":
            holder.name = self._name()
        return None, False

    def _go_on(self, holders: list[_Holder], value: object) -> tuple[object, bool]:
        """Add a complete *value* to its container, and return that like ``_begin``."""
        holder = holders[-1]
        holder.add(value)
        if self._takes(holder.end):
            return holders.pop().close(), True
        if not self._takes(","):
            raise JavaJsonError
        if holder.end == "}":
            holder.name = self._name()
        return None, False

    def _name(self) -> str:
        """Parse a name and its colon."""
        if self._peek() != '"':
            raise JavaJsonError
        name: str
        name, self._at = scanstring(self._text, self._at + 1, True)  # noqa: FBT003 - strict
        if not self._takes(":"):
            raise JavaJsonError
        return name

    def _scalar(self, mark: str) -> object:
        """Parse a string, a number or a literal."""
        if mark == '"':
            value, self._at = scanstring(self._text, self._at + 1, True)  # noqa: FBT003 - strict
            return value
        number = self._NUMBER.match(self._text, self._at)
        if number is not None:
            self._at = number.end()
            is_double = number[2] is not None or number[3] is not None
            return _double(number[0]) if is_double else _integer(number[0])
        for word, constant in self._WORDS.items():
            if self._text.startswith(word, self._at):
                self._at += len(word)
                return constant
        raise JavaJsonError

    def _peek(self) -> str:
        """Skip white space, and return the next character, or "" at the end."""
        found = self._SPACE.match(self._text, self._at)
        self._at = found.end() if found else self._at
        return self._text[self._at : self._at + 1]

    def _takes(self, mark: str) -> bool:
        """Skip *mark* if it comes next, and return whether it did."""
        if self._peek() != mark:
            return False
        self._at += 1
        return True


class _Holder:
    """A list or an object that is being parsed."""

    def __init__(self, start: str) -> None:
        """Start the container that *start* opens."""
        self.end: str = {"[": "]", "{": "}"}[start]
        self.name: str = ""
        self._items: list[Any] = []

    def add(self, value: object) -> None:
        """Add a value. In an object, it gets the name that was parsed last."""
        self._items.append(value if self.end == "]" else (self.name, value))

    def close(self) -> object:
        """Return the complete list or object."""
        return self._items if self.end == "]" else _object(self._items)
