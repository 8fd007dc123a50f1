"""Copies of errors that several callers get."""

from __future__ import annotations

import asyncio
import traceback
from typing import Any, Self

import pytest

from uid2_async import errors
from uid2_async._failures import fresh_error


class PickyError(Exception):
    """An error whose constructor needs more than its arguments."""

    def __init__(self, *, status: int) -> None:
        """Keep the status."""
        super().__init__(f"status {status}")
        self.status = status


class WordyError(Exception):
    """An error that formats its message."""

    def __init__(self, name: str) -> None:
        """Say what there is none of."""
        super().__init__(f"no {name}")


class ParticularError(OSError):
    """An error whose objects cannot be made from its arguments."""

    def __new__(cls, *, code: int) -> Self:
        """Make one."""
        return super().__new__(cls, code, "particular")

    def __init__(self, *, code: int) -> None:
        """Keep nothing more."""
        super().__init__(code, "particular")


class UncopiedError(Exception):
    """An error that its own __copy__ gives back."""

    def __copy__(self) -> UncopiedError:
        """Make no copy."""
        return self


def operator_error() -> errors.OperatorError:
    """Make an error with all that a call adds to it."""
    error = errors.RateLimitError("slow", retry_after=3.0, hint="wait")
    error.endpoint, error.trace_id, error.attempts = "/v2/token/refresh", "trace", 4
    error.retryable = True
    return error


def missing_file() -> OSError:
    """Make an error whose fields are set by its class."""
    try:
        open("/nowhere/at/all")  # noqa: PTH123, SIM115 - it fails
    except OSError as error:
        return error
    raise AssertionError


def undecodable() -> UnicodeDecodeError:
    """Make an error of five arguments."""
    return UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad")


MAKERS: list[Any] = [
    operator_error,
    missing_file,
    undecodable,
    lambda: errors.ConnectError("lost", disconnected=True),
    lambda: errors.ProtocolError("odd", path="body.keys"),
    lambda: errors.UnexpectedStatusError("no", status=418),
    lambda: PickyError(status=7),
    lambda: WordyError("bread"),
    lambda: UncopiedError("x"),
    lambda: ParticularError(code=5),
    lambda: ImportError("x", name="y"),
    lambda: SystemExit(3),
    lambda: asyncio.CancelledError("why"),
    RuntimeError,
]


@pytest.mark.parametrize("make", MAKERS)
def test_a_copy_says_the_same(make: Any) -> None:
    """Class, arguments, attributes and notes are kept, in an object of its own."""
    error = make()
    error.add_note("a note")

    fresh = fresh_error(error)

    assert fresh is not error
    assert type(fresh) is type(error)
    assert fresh.args == error.args
    assert str(fresh) == str(error)
    assert vars(fresh) == vars(error)
    for name in ("errno", "filename", "reason", "name", "code"):
        assert getattr(fresh, name, None) == getattr(error, name, None)
    fresh.add_note("of one caller")
    assert error.__notes__[-1] == "a note"


def test_a_copy_has_no_frames() -> None:
    """Neither a traceback of its own nor that of a cause or context."""

    def fail() -> None:
        try:
            missing = {}["canary"]
        except KeyError as error:
            raise errors.ServerError("x") from error
        raise AssertionError(missing)

    with pytest.raises(errors.ServerError) as caught:
        fail()

    fresh = fresh_error(caught.value)
    assert caught.value.__cause__ is not None
    assert fresh.__traceback__ is fresh.__cause__ is fresh.__context__ is None


async def test_the_members_of_a_group_are_copied_as_well() -> None:
    """A fetch may use a TaskGroup; each of its errors has frames."""

    async def fail() -> None:
        raise KeyError

    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fail())
    caught.value.add_note("note")

    fresh = fresh_error(caught.value)

    assert fresh.message == caught.value.message
    assert fresh.__notes__ == ["note"]
    (member,) = fresh.exceptions
    assert type(member) is KeyError
    assert member.__traceback__ is None
    assert caught.value.exceptions[0].__traceback__ is not None
    assert "fail" not in "".join(traceback.format_exception(fresh))
