"""JSON lines: an object a line; they need not all have the same fields.

Only the end of a line is ever touched, so that numbers keep all of their digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from uid2_async.bulk.files.chunk import TextChunk
from uid2_async.bulk.files.columns import find_column, refuse_taken
from uid2_async.bulk.files.pieces import Lines, Position
from uid2_async.errors import InputError

__all__ = ["JsonlReader"]

_OBJECT: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


class JsonlReader:
    """See :class:`~uid2_async.bulk.files.chunk.Reader`.

    Blank lines are passed over.

    Attributes:
        header: The keys of the first object.
        first: Empty: there is no row of names.
    """

    def __init__(self, lines: Lines, *, added: Sequence[str]) -> None:
        """Look at the first object.

        Args:
            lines: The file.
            added: The keys that will be added, which no object may have.

        Raises:
            InputError: If it is none.
        """
        self._lines = lines
        self._added = {name.casefold() for name in added}
        self._names = added
        self._rows = 0
        self._wanted: dict[str, str] = {}
        self.first: str = ""
        self.header: Sequence[str] = self._read_first()

    def _read_first(self) -> list[str]:
        """List the keys of the first object."""
        while self._lines.load():
            for at, line in enumerate(self._lines.pending):
                if line.strip():
                    return list(self._decode(line, at))
        raise InputError(f"{self._lines.name} is empty.", hint="An object is needed.")

    @property
    def encoding(self) -> str:
        """What is found to be the file's encoding."""
        return self._lines.encoding

    @property
    def bytes_read(self) -> int:
        """How much of the file on disk has been read."""
        return self._lines.bytes_read

    def want(self, columns: Sequence[str], keys: Sequence[str] = ()) -> None:
        """See :meth:`Reader.want`; there must be such a key in the first object."""
        hint = "It is to be in the first line."
        self._wanted = {
            name: self.header[find_column(self.header, name, hint=hint)]
            for name in (*columns, *keys)
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
        found: list[dict[str, msgspec.Raw]] = []
        while not records and self._lines.pending:
            some = self._lines.pending[:rows]
            for at, line in enumerate(some):
                if line.strip():
                    found.append(self._decode(line, at))
                    records.append(line)
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

    def _decode(self, line: str, before: int) -> dict[str, msgspec.Raw]:
        """Find the fields of an object, which none of the added ones may be."""
        try:
            row = _OBJECT.decode(line.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}"))
        except (msgspec.MsgspecError, RecursionError, UnicodeEncodeError):
            row = None
        if row is None:
            raise self._lines.failed(
                "this is no JSON object",
                hint="Each line holds one object, in UTF-8.",
                before=before,
            )
        if not self._added.isdisjoint(map(str.casefold, row)):
            refuse_taken(row, self._names)
        return row

    def close(self) -> None:
        """See :meth:`Reader.close`."""
        self._lines.close()


def _text(raw: msgspec.Raw | None) -> str:
    """Read a JSON string; what is none is empty."""
    if raw is None:
        return ""
    try:
        return msgspec.json.decode(raw, type=str)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ""
