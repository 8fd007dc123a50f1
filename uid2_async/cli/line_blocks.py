"""Lines by the thousand: read, handed to processes, and decoded there."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator
from io import BufferedIOBase
from typing import TYPE_CHECKING, Final, TypeVar, cast

from uid2_async.cli.open_file import open_file
from uid2_async.cli.values import STANDARD, decode_lines
from uid2_async.veiled import Veiled

if TYPE_CHECKING:
    from concurrent.futures import Future

__all__ = ["LineBlock", "map_blocks", "read_blocks"]

T = TypeVar("T")

_BLOCK_BYTES: Final = 256 * 1024


class LineBlock(Veiled, frozen=True):
    """Some whole lines of a file.

    Attributes:
        name: The file's name.
        first: The number of its first line, from 1.
        data: The lines.
    """

    name: str
    first: int
    data: bytes

    def lines(self) -> list[str]:
        """Decode the lines, without their ends.

        Raises:
            InputError: If one is not UTF-8; says which one.
        """
        raw = self.data.split(b"\n")
        if not raw[-1]:
            del raw[-1]
        return list(decode_lines(raw, self.name, first=self.first))


def read_blocks(path: str) -> Iterator[LineBlock]:
    """Read a file, or stdin where *path* is ``-``, as it comes.

    Raises:
        InputError: If it cannot be opened.
    """
    if path == STANDARD:
        yield from _cut(cast("BufferedIOBase", sys.stdin.buffer), "stdin")
        return
    with open_file(path) as stream:
        yield from _cut(cast("BufferedIOBase", stream), path)


def _cut(stream: BufferedIOBase, name: str) -> Iterator[LineBlock]:
    """Cut what is there behind its last line end."""
    first, held = 1, []
    while piece := stream.read1(_BLOCK_BYTES):
        end = piece.rfind(b"\n") + 1
        if not end:
            held.append(piece)
            continue
        data = b"".join([*held, piece[:end]])
        yield LineBlock(name, first, data)
        first += data.count(b"\n")
        held = [piece[end:]]
    if last := b"".join(held):
        yield LineBlock(name, first, last)


def map_blocks(
    work: Callable[[LineBlock], T], blocks: Iterator[LineBlock], jobs: int
) -> Iterator[T]:
    """Apply *work* to each block, in *jobs* processes if there are to be several.

    A few blocks are under way at once, however many there are; the results keep their
    order.
    """
    if jobs == 1:
        yield from map(work, blocks)
        return
    from concurrent.futures import ProcessPoolExecutor  # noqa: PLC0415 - --help need not wait

    under_way: deque[Future[T]] = deque()
    with ProcessPoolExecutor(jobs) as pool:
        for block in blocks:
            under_way.append(pool.submit(work, block))
            if len(under_way) > 2 * jobs:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
