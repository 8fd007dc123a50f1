"""Errors leave the library without the frames in which DII and keys are at hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from uid2_async.errors import UID2Error

__all__ = ["cut_frames", "without_frames"]

P = ParamSpec("P")
T = TypeVar("T")


def cut_frames(make: Callable[[], T]) -> T:
    """Let what *make* raises end its traceback here; see :func:`without_frames`."""
    try:
        return make()
    except UID2Error as error:
        failure = error.with_traceback(None)
    raise failure


def without_frames(
    method: Callable[P, Coroutine[Any, Any, T]],
) -> Callable[P, Coroutine[Any, Any, T]]:
    """Let what a public *method* raises end its traceback here.

    Tools that report errors show the local variables of each frame of a traceback: in
    ours these are identities, tokens and keys. Cancellation is no exception, since a
    time-out of the caller's own carries it. What is not ours, a bug, keeps its frames.
    """

    @wraps(method)
    async def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await method(*args, **kwargs)
        except (UID2Error, asyncio.CancelledError) as error:
            failure = error.with_traceback(None)
        # This frame stays on the error.
        del args, kwargs
        raise failure

    return call
