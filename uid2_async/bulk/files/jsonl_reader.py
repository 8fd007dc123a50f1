"""JSON lines: an object a line; they need not all have the same fields.

Only the end of a line is ever touched, so that numbers keep all of their digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NoReturn, TypeAlias

import msgspec

from uid2_async.bulk.files.chunk import TextChunk
from uid2_async.bulk.files.columns import find_column, refuse_taken
from uid2_async.bulk.files.pieces import Lines, Position

__all__ = ["JsonlReader"]

# How many objects tell which keys there are: an optional one may lack in the first.
_HEADER_ROWS: Final = 1_000

_Object: TypeAlias = dict[str, msgspec.Raw]

_decode_object: Final = msgspec.json.Decoder(_Object).decode
_decode_str: Final = msgspec.json.Decoder(str | None).decode
# RecursionError: nested too deeply. UnicodeError: half of a surrogate pair.
_DEFECTS: Final = (msgspec.MsgspecError, RecursionError, UnicodeError)


class JsonlReader:
    """See :class:`~uid2_async.bulk.files.chunk.Reader`.

    Blank lines are passed over. A file without any line has no rows.

    Attributes:
        header: The keys of the first thousand objects.
        first: The byte order mark, if there is one: there is no row of names.
    """

    def __init__(self, lines: Lines, *, added: Sequence[str]) -> None:
        """Look at the first objects.

        Args:
            lines: The file.
            added: The keys that will be added, which no object may have.

        Raises:
            InputError: If one of them is none.
        """
        self._lines = lines
        self._added = {name.casefold() for name in added}
        self._names = added
        self._rows = 0
        self._wanted: dict[str, str] = {}
        self._checked: list[str] = []
        self.header: Sequence[str] = self._read_header()
        self.first: str = lines.mark

    def _read_header(self) -> list[str]:
        """List the keys of the first objects."""
        while self._lines.load():
            _, found = self._decode(self._lines.pending, _HEADER_ROWS)
            if found:
                return list(dict.fromkeys(key for row in found for key in row))
        return []

    @property
    def encoding(self) -> str:
        """What is found to be the file's encoding."""
        return self._lines.encoding

    @property
    def bytes_read(self) -> int:
        """How much of the file on disk has been read."""
        return self._lines.bytes_read

    def want(self, columns: Sequence[str], keys: Sequence[str] = ()) -> None:
        """See :meth:`Reader.want`; there must be such a key in the header."""
        hint = "One of the first thousand lines must have it."
        self._wanted = {
            name: self.header[find_column(self.header, name, hint=hint)]
            for name in (*columns, *keys)
            if self.header
        }

    def seek(self, position: object) -> None:
        """See :meth:`Reader.seek`."""
        place = msgspec.convert(position, Position)
        self._lines.seek(place)
        self._rows = place.rows

    def load(self) -> bool:
        """See :meth:`Reader.load`."""
        return self._lines.load()

    def take(self, rows: int) -> TextChunk | None:
        """See :meth:`Reader.take`."""
        records: list[str] = []
        found: list[_Object] = []
        while not records and self._lines.pending:
            some = self._lines.pending[:rows]
            records, found = self._decode(some, rows)
            self._lines.drop(len(some))
        if not records:
            return None
        self._rows += len(records)
        columns = {
            name: [_text(one.get(key)) for one in found]
            for name, key in self._wanted.items()
        }
        end = Position(self._lines.offset, self._lines.line, self._rows)
        return TextChunk(records, columns, end)

    def _decode(self, some: list[str], most: int) -> tuple[list[str], list[_Object]]:
        """Find the first lines that are not blank, and the fields of their objects."""
        records: list[str] = []
        found: list[_Object] = []
        bad = -1
        for at, line in enumerate(some):
            if line.isspace():
                continue
            try:
                row = _decode_object(line)
            except _DEFECTS:
                bad = at
                break
            keys = list(row)
            if keys != self._checked:
                self._check_keys(keys)
            records.append(line)
            found.append(row)
            if len(found) == most:
                break
        if bad >= 0:
            self._refuse(bad)
        return records, found

    def _check_keys(self, keys: list[str]) -> None:
        """Refuse keys that will be added; most rows have those of the row before."""
        if not self._added.isdisjoint(map(str.casefold, keys)):
            refuse_taken(keys, self._names)
        self._checked = keys

    def _refuse(self, before: int) -> NoReturn:
        """Refuse a line."""
        raise self._lines.failed(
            "this is no JSON object",
            hint="Each line holds one object, in UTF-8.",
            before=before,
        )

    def close(self) -> None:
        """See :meth:`Reader.close`."""
        self._lines.close()


def _text(raw: msgspec.Raw | None) -> str:
    """Give a string; a number as it stands there; what is null or lacks is empty."""
    if raw is None:
        return ""
    try:
        return _decode_str(raw) or ""
    except msgspec.ValidationError:
        return bytes(raw).decode()
