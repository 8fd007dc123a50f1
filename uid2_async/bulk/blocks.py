"""Blocks that a job is inside of."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from functools import partial
from typing import TypeVar

from uid2_async.bulk.in_thread import in_thread
from uid2_async.bulk.state import MappingState

__all__ = ["entered", "opened_for"]

T = TypeVar("T")


@asynccontextmanager
async def opened_for(state: MappingState) -> AsyncIterator[None]:
    """Open a state for a job, unless its owner has."""
    if state.is_open:
        yield
        return
    async with state:
        yield


@asynccontextmanager
async def entered(block: AbstractContextManager[T]) -> AsyncIterator[T]:
    """Enter and leave a block that blocks in a thread."""
    value = await in_thread(block.__enter__)
    try:
        yield value
    except BaseException as error:
        await in_thread(
            partial(block.__exit__, type(error), error, error.__traceback__)
        )
        raise
    await in_thread(partial(block.__exit__, None, None, None))
