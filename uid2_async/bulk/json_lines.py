"""JSON lines: objects read with their text unchanged, and written with added keys."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Collection, Sequence
from io import BufferedIOBase
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from uid2_async.bulk.columns import is_encodable, refuse_repeated, refuse_taken
from uid2_async.bulk.paths import Content, FileFormatOptions
from uid2_async.bulk.text import (
    DAMAGE,
    TextOutput,
    TextReader,
    TextRows,
    iso_texts,
    split_line_end,
)
from uid2_async.errors import InputError

if TYPE_CHECKING:
    from uid2_async.bulk.files import Reader, Rows

_encode_json: Final = msgspec.json.Encoder().encode
# The number of lines that determine the keys, since the first may lack optional keys,
# and the number of characters in them.
_HEADER_ROWS: Final = 1_000
_HEADER_CHARS: Final = 16 * 1024 * 1024

_Object: TypeAlias = dict[str, msgspec.Raw]

_decode_object: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_str: Final = msgspec.json.Decoder(str | None).decode
_ODD: Final = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=str)
_NULL: Final = msgspec.Raw(b"null")
# RecursionError: nested too deeply. UnicodeError: half of a surrogate pair.
_DEFECTS: Final = (msgspec.MsgspecError, RecursionError, UnicodeError)
_JSON_HINT: Final = "Each line must have one JSON object."
_KEY_HINT: Final = (
    "Write JSON lines, or make sure that one of the first lines has all keys."
)
_HALF_HINT: Final = (
    "A \\u escape is half of a surrogate pair. Write the character, or both halves."
)


def _decode_odd(line: str) -> _Object | None:
    """Decode an object with NaN or a lone surrogate; None if it is not an object.

    Other programs write these. They are passed on unchanged.
    """
    try:
        if DAMAGE.search(line) or not isinstance(_ODD.decode(line), dict):
            return None
    except (ValueError, RecursionError):
        return None
    found: _Object = {}
    at = _skip_marks(line, line.index("{") + 1)
    while line[at] != "}":
        key, at = _ODD.raw_decode(line, at)
        start = _skip_marks(line, at)
        _, at = _ODD.raw_decode(line, start)
        found[key] = msgspec.Raw(line[start:at])
        at = _skip_marks(line, at)
    return found


def _skip_marks(line: str, at: int) -> int:
    """Return the index of the next key, value or end of a valid object."""
    while line[at] in " \t\r\n:,":
        at += 1
    return at


class JsonReader(TextReader):
    """Reads JSON lines: one object per line, possibly with different keys.

    Skips blank lines. A file without lines has no rows. The header is the keys of the
    first 1,000 lines, or of those in the first 16 Mi characters.
    """

    def __init__(
        self, stream: BufferedIOBase, options: FileFormatOptions, **more: Any
    ) -> None:
        """Look at the first objects."""
        super().__init__(stream, options, **more)
        self._added: Collection[str] = ()
        self._taken: frozenset[str] = frozenset()
        self._checked: list[str] = []
        # The keys whose values are written in another format or to the delta, and in
        # which encoding. In another format, these are all keys that a row may have.
        self._is_converted = False
        self._written: frozenset[str] | None = None
        self._written_in: str = "utf-8"
        self.header: Sequence[str] = self._read_header()

    def _read_header(self) -> list[str]:
        """Return the keys of the first lines, whatever is loaded at once."""
        sizes: list[int] = []
        while len(sizes) < _HEADER_ROWS and sum(sizes) <= _HEADER_CHARS and self.load():
            self._skip_while(str.isspace)
            sizes = list(map(len, self._lines[:_HEADER_ROWS]))
        count = max(1, bisect_right(list(accumulate(sizes)), _HEADER_CHARS))
        on_bad_row = self._on_bad_row
        if on_bad_row is not None:  # such a row is reported when taken
            self._on_bad_row = lambda _: None
        _, found = self._parse(self._lines[:count])
        self._on_bad_row = on_bad_row
        if not found and (count == _HEADER_ROWS or sum(sizes) > _HEADER_CHARS):
            raise InputError(
                f"{self.name}: none of the first lines is a JSON object.",
                hint=_JSON_HINT,
            )
        self._has_rows = bool(found)
        return list(dict.fromkeys(key for row in found for key in row))

    def select(
        self,
        columns: Sequence[int],
        keys: Sequence[str] = (),
        added: Collection[str] = (),
    ) -> None:
        """See :meth:`TextReader.select`; no object may have an *added* key."""
        self._added = added
        self._taken = frozenset(map(str.casefold, added))
        if columns and self._has_rows and not self.header:
            raise InputError(
                f"{self.name}: the first objects have no keys.",
                hint="Write the identifiers of each row as a key of its object.",
            )
        super().select(columns, keys, added)
        named = [at for key, at in self._wanted.items() if isinstance(key, str)]
        if named and not self._is_converted:
            self._written = frozenset(map(self.header.__getitem__, named))

    def convert_to(self, encoding: str) -> None:
        """See :meth:`TextReader.convert_to`."""
        super().convert_to(encoding)
        self._is_converted = True
        self._written, self._written_in = frozenset(self.header), encoding

    def take(self, rows: int) -> TextRows | None:
        """See :meth:`TextReader.take`."""
        some = self._lines[:rows]
        if not some:
            return None
        lines, found = self._parse(some)
        records = some if len(lines) == len(some) else [some[at] for at in lines]
        columns = {
            column: self._values(at, found, is_key=isinstance(column, str))
            for column, at in self._wanted.items()
        }
        bad = {at for _, wrong in columns.values() for at in wrong}
        for at in sorted(bad):
            cause = "an identifier is not a string"
            self._reject(cause, "Write each as a JSON string.", records[at], lines[at])
        kept = {name: values for name, (values, _) in columns.items()}
        if bad:
            good = [at for at in range(len(records)) if at not in bad]
            records = [records[at] for at in good]
            kept = {name: [one[at] for at in good] for name, one in kept.items()}
        self._drop(len(some))
        return TextRows(records, kept, self)

    def _values(
        self, index: int, found: list[_Object], *, is_key: bool
    ) -> tuple[list[str], list[int]]:
        """List the values of a column, and those that cannot be identifiers."""
        key = self.header[index] if found else ""
        raw = [one.get(key, _NULL) for one in found]
        try:
            return self._without_null([_decode_str(one) or "" for one in raw]), []
        except _DEFECTS:
            values = self._without_null(list(map(_text, raw)))
        if is_key:
            return values, []
        is_other = [bytes(one)[:1] != b'"' for one in raw]
        return values, [at for at, one in enumerate(values) if one and is_other[at]]

    def _parse(self, some: list[str]) -> tuple[list[int], list[_Object]]:
        """Return the indexes of non-blank lines, and the fields of their objects."""
        lines: list[int] = []
        found: list[_Object] = []
        for at, line in enumerate(some):
            row = None
            try:
                row = _decode_object(line)
            except _DEFECTS:
                if line.isspace():
                    continue
                row = _decode_odd(line)
            if row is None:
                self._reject(*self._explain(line), line, at)
                continue
            keys = list(row)
            if keys != self._checked:  # most rows repeat the keys of the last
                if not self._taken.isdisjoint(map(str.casefold, keys)):
                    where = f"{self.name}, line {self._line + at + 1}"
                    refuse_taken(keys, self._added, name=where)
                self._checked = keys
            if self._written is not None and (
                lost := self._find_loss(row, line, self._written)
            ):
                self._reject(*lost, line, at)
                continue
            lines.append(at)
            found.append(row)
        return lines, found

    def _find_loss(
        self, row: _Object, line: str, written: frozenset[str]
    ) -> tuple[str, str] | None:
        """Return why a row cannot be written in another format, and a hint."""
        if self._is_converted and not written.issuperset(row):
            cause = f"a key is missing in the first {_HEADER_ROWS:,} rows"
            return cause, _KEY_HINT
        # Only escapes can mean characters that the encoding of the file lacks.
        if "\\u" not in line:
            return None
        text = "".join([_text(row.get(key, _NULL)) for key in written])
        if not is_encodable(text, "utf-8"):
            return "a value is not valid Unicode", _HALF_HINT
        if not is_encodable(text, self._written_in):
            hint = 'Convert the input to UTF-8, and use `encoding="utf-8"`.'
            return f"a value cannot be written in {self._written_in}", hint
        return None

    def _explain(self, line: str) -> tuple[str, str]:
        """Return the cause and hint for a line that cannot be read."""
        if DAMAGE.search(line):
            return self._encoding_fault
        more = " To convert an array: jq -c '.[]'." if line.lstrip()[:1] == "[" else ""
        return "this is not a JSON object", _JSON_HINT + more

    def parse(self, records: list[str]) -> list[list[str]]:
        """List the values of all columns; see :meth:`TextRows.texts`."""
        _, found = self._parse(records)
        return [[_text(row.get(key, _NULL)) for row in found] for key in self.header]


def _text(value: msgspec.Raw) -> str:
    """Return a string; null as empty; other values as written."""
    try:
        return _decode_str(value) or ""
    except _DEFECTS:
        text = bytes(value).decode()
    return str(json.loads(text)) if text.startswith('"') else text


# --- Writing --------------------------------------------------------------------------


class JsonOutput(TextOutput):
    """Writes JSON lines: rows and their appended columns.

    Only the end of an object is changed, so that numbers keep all digits.
    """

    def _set_format(self, reader: Reader | None, options: FileFormatOptions) -> bool:  # noqa: ARG002 - there is one format
        keeps_text = isinstance(reader, JsonReader)
        header = [] if reader is None or keeps_text else list(reader.header)
        if reader is not None:
            refuse_repeated(header, name=reader.name)
        names = (_encode_json(name).decode() for name in (*header, *self.added))
        escaped = [name.replace("%", "%%") for name in names]
        self._shape = ",".join(f"{name}:%s" for name in escaped)
        return keeps_text

    def input_cells(self, rows: Rows) -> list[list[str]]:
        """Format the fields of the input; Arrow numbers stay numbers."""
        if isinstance(rows, TextRows):
            return super().input_cells(rows)
        return rows.json_cells()

    def lines(self, cells: list[list[str]]) -> str:
        """Format rows of our own, given by column."""
        shape = f"{{{self._shape}}}\n"
        return "".join([shape % one for one in zip(*cells, strict=True)])

    def cells(
        self, column: Sequence[Any], content: Content = Content.TEXT
    ) -> list[str]:
        """Format the values of a column."""
        if content is Content.INSTANT and self._iso:
            column = iso_texts(column)
        # All at once, which is faster, if no value contains a comma.
        cells = _encode_json(column).decode()[1:-1].split(",")
        if len(cells) == len(column):
            return cells
        return [_encode_json(one).decode() for one in column]

    def join(self, records: list[str], cells: list[list[str]], *, plain: bool) -> str:  # noqa: ARG002 - each end is looked at
        """Insert fields before the ends of objects."""
        rows = []
        shape = self._shape
        for record, values in zip(records, zip(*cells, strict=True), strict=True):
            if record[-2:] == "}\n" and record[-3:-2] not in " \t\r{":
                rows.append(f"{record[:-2]},{shape % values}}}\n")
                continue
            body = record.rstrip()[:-1].rstrip()
            comma = "" if body.endswith("{") else ","
            _, line_end = split_line_end(record, "\n")
            rows.append(f"{body}{comma}{shape % values}}}{line_end}")
        return "".join(rows)
