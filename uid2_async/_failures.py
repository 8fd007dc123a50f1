"""Copies errors for several callers, and detects errors that end a task silently."""

from __future__ import annotations

import asyncio
import copy
from typing import Any, Final, TypeVar, cast

E = TypeVar("E", bound=BaseException)

CONTROL_FLOW: Final = (
    asyncio.CancelledError,
    GeneratorExit,
    StopIteration,
    StopAsyncIteration,
)
"""Exceptions that end a task or a loop over a generator.

An error of a callback or source must not reach a caller as one of these, because the
caller would end silently.
"""


def fresh_error(error: E) -> E:
    """Return a copy of *error* that can be raised without changing the original.

    The class, arguments, attributes and notes are copied. The traceback, cause and
    context are not, because their frames hold the local variables of another caller.
    Raising one object for many callers would also add the frames of each to all of
    them.
    """
    fresh = _copy(error)
    fresh.__dict__.update(error.__dict__)
    # Errors of this package have a property instead, which shares nothing.
    if "__notes__" in fresh.__dict__:
        fresh.__notes__ = list(fresh.__notes__)
    return fresh.with_traceback(None)


def _copy(error: E) -> E:
    """Create another object of the class of *error*."""
    if isinstance(error, BaseExceptionGroup):
        # The members are separate objects with their own frames.
        members = [fresh_error(member) for member in error.exceptions]
        return cast("E", _allocate(error, error.message, members))
    try:
        copied = copy.copy(error)
    except Exception:  # noqa: BLE001 - a foreign class whose __init__ needs more
        copied = error
    if type(copied) is not type(error) or copied is error:
        copied = _allocate(error, *error.args)
    # A foreign __init__ may have formatted its message a second time.
    copied.args = error.args
    return copied


def _allocate(error: E, *args: object) -> E:
    """Create an object of the class of *error* without running code of that class."""
    bases: tuple[Any, ...] = type(error).__mro__
    builtin = next(base for base in bases if base.__module__ == "builtins")
    return cast("E", builtin.__new__(type(error), *args))


def is_cancelled() -> bool:
    """Return whether the current task has been asked to cancel.

    If not, a CancelledError was raised by the code that the task awaits, such as a
    source that awaited a canceled future of its own.
    """
    task = _current_task()
    return task is not None and task.cancelling() > 0


def is_stray(error: BaseException, task: asyncio.Task[object] | None) -> bool:
    """Return whether *error*, of :data:`CONTROL_FLOW`, was raised by awaited code.

    If not, *task*, which was the current task before, is being ended from outside: it
    was canceled, or its coroutine is closed while another task or none is running.
    """
    if isinstance(error, asyncio.CancelledError):
        return not is_cancelled()
    return task is not None and _current_task() is task


def _current_task() -> asyncio.Task[object] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None
