"""JSON as the real operator reads it: Vert.x on Jackson (docs/protocol.md 1.3).

The standard library's scanner does the reading, made as strict as Jackson where it is
more lenient (``NaN``, endless numbers and names, nesting without end), and as lenient
where it is stricter (comments). Numbers that Java reads as ``Double`` come back as
:class:`~uid2_async.operator.java_text.JavaDouble`, since a value of the wrong type is
not refused: it is turned into text and judged as that.

Before Python 3.12 the scanner shares the interpreter's recursion limit, which ends well
before Jackson's 1,000 levels of nesting: what is deeper is read without recursion.
"""

from __future__ import annotations

import json
import re
from json.decoder import scanstring  # type: ignore[attr-defined] # not in typeshed
from typing import Any

from uid2_async.operator.java_text import JavaDouble, utf16_length

# Jackson's StreamReadConstraints, as they come.
_MAX_DEPTH = 1_000
_MAX_NUMBER_DIGITS = 1_000
_MAX_NAME_UNITS = 50_000

# Java's decoder makes one replacement character of a surrogate, even of a cut one;
# Python's makes one of each byte.
_ENCODED_SURROGATE = re.compile(rb"\xed[\xa0-\xbf][\x80-\xbf]?")
_REPLACEMENT = "\ufffd".encode()

# Strings come first, so that nothing inside of one is taken for anything else. Jackson
# takes no control characters in comments either.
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
    """The operator would not read this as JSON; the error shows nothing of it."""


def decode_utf8(data: bytes) -> str:
    """Decode *data* as Java's ``new String(data, UTF_8)`` does; this never fails."""
    return _ENCODED_SURROGATE.sub(_REPLACEMENT, data).decode("utf-8", "replace")


def parse(data: bytes | str) -> object:
    """Read the payload of a request, bytes as UTF-8 with replacement characters.

    Returns:
        None, bool, int, ``JavaDouble``, str, list or dict. Of equal keys the last
        wins; lone surrogates stay as they are.

    Raises:
        JavaJsonError: If Jackson would refuse it.
    """
    text = data if isinstance(data, str) else decode_utf8(data)
    try:
        return _decode(_without_comments(text))
    except ValueError:
        pass
    # Outside of the handler: the scanner's own error holds the whole text.
    raise JavaJsonError("This is no JSON that the operator reads.")


def _decode(text: str) -> object:
    """Read JSON without comments, however deep the interpreter's stack is already.

    Raises:
        ValueError: If it is not JSON.
    """
    try:
        return _DECODER.decode(text)
    except RecursionError:
        pass
    return _DeepReader(text).read()


def parse_raw(data: bytes) -> object:
    """Read bytes as Jackson itself does, without a text in between.

    So it is with the body and the inner payload of client-generate (docs/protocol.md
    2.10): wrong UTF-8 is an error; a byte order mark, UTF-16 and UTF-32 are understood.

    Returns:
        As :func:`parse`.

    Raises:
        JavaJsonError: If Jackson would refuse it.
    """
    try:
        text = data.decode(json.detect_encoding(data))
    except UnicodeDecodeError:
        text = ""
    return parse(text)


def parse_object(data: bytes | str) -> dict[str, object] | None:
    """Read the payload of a request, or return None if it is not JSON object."""
    try:
        value = parse(data)
    except JavaJsonError:
        return None
    return value if isinstance(value, dict) else None


def _without_comments(text: str) -> str:
    """Replace the comments in *text* by spaces, and check how deep it is nested.

    Raises:
        JavaJsonError: If it is nested too deep, a string or a comment has no end, or a
            comment follows a number outside of any list or object, where Jackson wants
            white space.
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
    """Read a number without fraction and exponent: Integer, Long or BigInteger."""
    _check_digits(text)
    return int(text)


def _double(text: str) -> JavaDouble:
    """Read a number with a fraction or an exponent."""
    _check_digits(text)
    return JavaDouble(text)


def _check_digits(text: str) -> None:
    """Refuse a number with more digits, those of the exponent included, than Jackson.

    Raises:
        JavaJsonError: If it has.
    """
    # Signs, point and E make up five characters at most; most numbers are short.
    if len(text) <= _MAX_NUMBER_DIGITS:
        return
    digits = sum(map(str.isdigit, text))
    # Jackson does not count a lone 0 before a point or an exponent, unless both follow.
    digits -= _ZERO_FIRST.match(text) is not None
    if digits > _MAX_NUMBER_DIGITS:
        raise JavaJsonError


def _constant(_name: str) -> object:
    """Refuse NaN, Infinity and -Infinity.

    Raises:
        JavaJsonError: Always.
    """
    raise JavaJsonError


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Make an object; of equal keys the last wins, at the place of the first.

    Raises:
        JavaJsonError: If a key is longer than Jackson takes, in UTF-16 code units.
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
    """Reads JSON with a stack of its own, slower than the standard library's scanner.

    What lists, objects, strings and numbers are made of is checked as there.
    """

    _SPACE = re.compile(r"[ \t\n\r]*")
    _NUMBER = re.compile(r"(-?(?:0|[1-9][0-9]*))(\.[0-9]+)?([eE][-+]?[0-9]+)?")
    _WORDS = {"true": True, "false": False, "null": None}  # noqa: RUF012 - read only

    def __init__(self, text: str) -> None:
        """Stand before the first token of *text*."""
        self._text = text
        self._at = 0

    def read(self) -> object:
        """Read the one value that is there.

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
        """Read a scalar, or open a list or an object; return whether it is complete."""
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
        """Put a complete *value* where it belongs; return whether that is complete."""
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
        """Read a name and its colon."""
        if self._peek() != '"':
            raise JavaJsonError
        name: str
        name, self._at = scanstring(self._text, self._at + 1, True)  # noqa: FBT003 - strict
        if not self._takes(":"):
            raise JavaJsonError
        return name

    def _scalar(self, mark: str) -> object:
        """Read a string, a number or a word."""
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
        """Skip white space, and give the next character, or nothing at the end."""
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
    """A list or an object that is being read."""

    def __init__(self, start: str) -> None:
        """Begin what *start* begins."""
        self.end: str = {"[": "]", "{": "}"}[start]
        self.name: str = ""
        self._items: list[Any] = []

    def add(self, value: object) -> None:
        """Add a value, under the name that was read last where it is an object."""
        self._items.append(value if self.end == "]" else (self.name, value))

    def close(self) -> object:
        """Make the list or the object."""
        return self._items if self.end == "]" else _object(self._items)
