"""An async stream driven from synchronous code."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator

import pytest

from uid2_async.integrations.sync_stream import stream_in_thread


def threads() -> list[str]:
    """List the threads of streams."""
    return [one.name for one in threading.enumerate() if one.name == "uid2-stream"]


class Doubling:
    """A transform that notes where it ran and how it ended."""

    def __init__(self) -> None:
        """Nothing has been made yet."""
        self.made: list[int] = []
        self.ended = ""

    async def __call__(
        self, numbers: AsyncIterator[int]
    ) -> AsyncGenerator[tuple[int, str], None]:
        """Double each number."""
        try:
            async for number in numbers:
                self.made.append(number)
                yield 2 * number, threading.current_thread().name
        except asyncio.CancelledError:
            self.ended = "cancelled"
            raise
        finally:
            self.ended = self.ended or "closed"


def test_items_come_in_order_from_another_thread() -> None:
    """The loop has a thread of its own, which ends with the stream."""
    found = list(stream_in_thread(Doubling(), range(100)))

    assert found == [(2 * number, "uid2-stream") for number in range(100)]
    assert threads() == []


def test_the_source_is_read_in_the_callers_thread() -> None:
    """What Spark hands over may belong to the thread that got it."""
    readers = set()

    def source() -> Iterator[int]:
        for number in range(3):
            readers.add(threading.current_thread())
            yield number

    list(stream_in_thread(Doubling(), source()))

    assert readers == {threading.current_thread()}


def test_closing_early_stops_everything() -> None:
    """At most one item was made ahead, and nothing goes on behind the caller's back."""
    transform = Doubling()
    stream = stream_in_thread(transform, iter(range(1_000_000)))

    assert next(stream)[0] == 0
    stream.close()

    assert transform.ended in {"cancelled", "closed"}
    assert len(transform.made) <= 2
    assert threads() == []


def test_closing_interrupts_what_waits() -> None:
    """A request that hangs does not hold up who wants to leave."""
    waiting = threading.Event()

    async def transform(numbers: AsyncIterator[int]) -> AsyncGenerator[int, None]:
        yield await anext(numbers)
        waiting.set()
        await asyncio.Event().wait()

    stream = stream_in_thread(transform, [1])
    assert next(stream) == 1
    assert waiting.wait(10)
    stream.close()

    assert threads() == []


def test_the_loop_runs_while_the_caller_is_busy() -> None:
    """Time-outs mean what they say, however slow the caller is."""
    ticked = threading.Event()

    async def transform(numbers: AsyncIterator[int]) -> AsyncGenerator[int, None]:
        asyncio.get_running_loop().call_later(0.01, ticked.set)
        yield await anext(numbers)
        await asyncio.Event().wait()

    stream = stream_in_thread(transform, [1])
    next(stream)

    assert ticked.wait(10)
    stream.close()


def test_an_error_of_the_transform_comes_out_as_it_is() -> None:
    """Behind what was made before, and nothing is left."""
    error = ValueError("of the test")

    async def failing(numbers: AsyncIterator[int]) -> AsyncGenerator[int, None]:
        yield await anext(numbers)
        raise error

    stream = stream_in_thread(failing, range(9))

    assert next(stream) == 0
    with pytest.raises(ValueError, match="of the test") as caught:
        next(stream)
    assert caught.value is error
    assert threads() == []


def test_an_error_of_the_source_comes_out_as_it_is() -> None:
    """The transform is cancelled, since there is nothing more to come."""
    error = ValueError("of the test")
    transform = Doubling()

    def source() -> Iterator[int]:
        yield 0
        raise error

    with pytest.raises(ValueError, match="of the test") as caught:
        list(stream_in_thread(transform, source()))

    assert caught.value is error
    assert transform.ended == "cancelled"
    assert threads() == []


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (asyncio.CancelledError, RuntimeError),
        (GeneratorExit, RuntimeError),
        (SystemExit, SystemExit),
        (KeyboardInterrupt, KeyboardInterrupt),
    ],
)
def test_whatever_ends_the_loop_reaches_the_caller(
    error: type[BaseException], expected: type[BaseException]
) -> None:
    """And what would mean something else in synchronous code is a RuntimeError."""

    async def fail(numbers: AsyncIterator[int]) -> AsyncGenerator[int, None]:
        async for number in numbers:
            yield number
            raise error

    stream = stream_in_thread(fail, range(3))
    assert next(stream) == 0
    with pytest.raises(expected):
        next(stream)
    assert threads() == []
