"""Some rows of a file, on their way through a job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

__all__ = ["Chunk", "Reader", "TextChunk"]


class Chunk(Protocol):
    """Some rows in a row.

    Attributes:
        rows: How many.
        end: The place behind them, which JSON can hold; :meth:`Reader.seek` takes it.
    """

    @property
    def rows(self) -> int:
        """See above."""
        ...

    @property
    def end(self) -> Any:
        """See above."""
        ...

    def values(self, column: str) -> Sequence[str]:
        """List what stands in a column that is read; what is missing is empty."""
        ...


class Reader(Protocol):
    """A file whose header has been read.

    What blocks and what computes are apart: a thread that computes would fight with the
    event loop for the interpreter's lock.

    Attributes:
        header: The names of the columns; of JSON lines, the keys of the first ones.
        bytes_read: How much of the file on disk has been read.
    """

    @property
    def header(self) -> Sequence[str]:
        """See above."""
        ...

    @property
    def bytes_read(self) -> int:
        """See above."""
        ...

    def want(self, columns: Sequence[str], keys: Sequence[str] = ()) -> None:
        """Say of which columns the values are needed, before any rows are taken.

        Args:
            columns: Those of the identifiers, which must be text.
            keys: Others, of any type.

        Raises:
            InputError: If one is missing, or there twice, or no text.
        """
        ...

    def seek(self, position: Any) -> None:
        """Go on behind a chunk of an earlier life; blocks."""
        ...

    def load(self) -> bool:
        """Read more into memory; False at the end of the file. Blocks.

        Raises:
            InputError: If the file cannot be read.
        """
        ...

    def take(self, rows: int) -> Chunk | None:
        """Give at most so many rows of what has been loaded; None if there are none.

        Raises:
            InputError: If a row cannot be read; says which, and shows no value.
        """
        ...

    def close(self) -> None:
        """Close the file."""
        ...


class TextChunk:
    """Some rows of text.

    Attributes:
        rows: How many.
        end: The place behind them.
        records: The rows as they stand in the file, with their ends.
    """

    __slots__ = ("_columns", "end", "records", "rows")

    def __init__(
        self, records: list[str], columns: Mapping[str, Sequence[str]], end: Any
    ) -> None:
        """Hold the rows; *columns* are those that are wanted."""
        self.rows: int = len(records)
        self.end: Any = end
        self.records: list[str] = records
        self._columns = columns

    def values(self, column: str) -> Sequence[str]:
        """See :meth:`Chunk.values`."""
        return self._columns[column]
