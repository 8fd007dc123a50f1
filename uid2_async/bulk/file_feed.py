"""The rows of one file after another, as a job is fed with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from uid2_async.bulk.feed import Named, Step
from uid2_async.bulk.files import Chunk, IdentifierColumns, Reader
from uid2_async.bulk.in_thread import in_thread

__all__ = ["FileFeed", "RowStep"]


class RowStep:
    """Some rows of a file on their way.

    Attributes:
        file: Which file, from 0.
        chunk: The rows.
        named: Their identities, a list for each column of identifiers.
        bytes_read: How much of the file had been read with them.
    """

    __slots__ = ("bytes_read", "chunk", "file", "named")

    def __init__(
        self, file: int, chunk: Chunk, named: Sequence[Named], bytes_read: int
    ) -> None:
        """Hold what was read."""
        self.file: int = file
        self.chunk: Chunk = chunk
        self.named: Sequence[Named] = named
        self.bytes_read: int = bytes_read


class FileFeed:
    """Feeds files; reading is done in a thread, and parsing where it is asked for.

    A thread that parses would fight with the event loop for the interpreter's lock.
    """

    def __init__(
        self,
        opened: Sequence[tuple[int, Callable[[], tuple[Reader, IdentifierColumns]]]],
    ) -> None:
        """Feed files.

        Args:
            opened: Opens each, where it is to be gone on with; and its number.
        """
        self._to_open = list(reversed(opened))
        self._file = 0
        self._reader: Reader | None = None
        self._columns: IdentifierColumns | None = None
        self._ended = False

    async def load(self) -> bool:
        """See :meth:`~uid2_async.bulk.feed.Feed.load`."""
        if self._reader is not None and not self._ended:
            self._ended = not await in_thread(self._reader.load)
            return True
        await self.close()
        if not self._to_open:
            return False
        self._file, open_it = self._to_open.pop()
        self._reader, self._columns = await in_thread(open_it)
        self._ended = False
        return True

    def take(self, *, partial: bool) -> Step | None:  # noqa: ARG002 - a file is not waited for
        """See :meth:`~uid2_async.bulk.feed.Feed.take`.

        Raises:
            InputError: If a row cannot be read; says which.
        """
        if self._reader is None or self._columns is None:
            return None
        chunk = self._reader.take(self._columns.step_rows)
        if chunk is None:
            return None
        named = self._columns.identities(chunk)
        step = RowStep(self._file, chunk, named, self._reader.bytes_read)
        return Step(step, chunk.rows, named)

    async def close(self) -> None:
        """Close the file that is open."""
        if self._reader is not None:
            await in_thread(self._reader.close)
            self._reader = None
