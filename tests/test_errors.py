"""The error tree: what every error must keep to."""

from __future__ import annotations

import copy
import inspect
import pickle
import traceback
from collections.abc import Callable

import pytest

import uid2_async
from uid2_async import errors
from uid2_async._failures import fresh_error
from uid2_async.errors import TokenError, TokenFailure, UID2Error

CLASSES = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, Exception)
]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_error_belongs_to_the_tree_and_says_what_to_do(cls: type) -> None:
    """Every error ends in Error, descends from UID2Error and has a hint."""
    error = cls()

    assert cls.__name__.endswith("Error")
    assert isinstance(error, UID2Error)
    assert error.hint
    assert error.retryable is False
    assert cls.__name__ in errors.__all__


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_error_survives_pickling(cls: type) -> None:
    """An error that crosses processes keeps all it knows."""
    error = cls() if cls is TokenError else cls("something")
    error.endpoint, error.trace_id, error.attempts = "/v2/x", "trace", 3
    error.retryable = True

    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes

    assert type(again) is cls
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_no_error_is_caught_as_a_built_in_one_of_the_network() -> None:
    """A caller's ``except TimeoutError`` catches only the caller's own time-out."""
    assert not [cls for cls in CLASSES if issubclass(cls, OSError)]


def test_a_traceback_shows_message_hint_and_call_once() -> None:
    """The text is the message; what to do, and which call it was, are notes."""
    error = errors.RateLimitError(
        "Slow down.", status=429, code="busy", retry_after=2.5
    )
    error.endpoint, error.trace_id, error.attempts = "/v3/identity/map", "abc", 2

    assert str(error) == "Slow down."
    assert "".join(traceback.format_exception(error)) == (
        "uid2_async.errors.RateLimitError: Slow down.\n"
        "Send fewer concurrent requests, or wait for retry_after seconds.\n"
        "[POST /v3/identity/map, attempts 2, trace id abc, HTTP 429, status busy, "
        "retry after 2.5 s]\n"
    )


@pytest.mark.parametrize(
    "copied",
    [
        copy.copy,
        copy.deepcopy,
        fresh_error,
        lambda error: pickle.loads(pickle.dumps(error)),  # noqa: S301 - our own bytes
    ],
)
@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_a_copy_has_each_note_once_and_to_itself(
    cls: type[UID2Error], copied: Callable[[UID2Error], UID2Error]
) -> None:
    """Copies, pickles and errors for several waiters neither repeat nor share notes."""
    error = cls()
    error.hint = "Do this."
    error.add_note("Not retried.")

    again = copied(copied(error))
    again.add_note("For one waiter.")

    assert again.__notes__ == ["Do this.", "Not retried.", "For one waiter."]
    assert error.__notes__ == ["Do this.", "Not retried."]
    again.__notes__ = list(again.__notes__)
    assert again.__notes__ == ["Do this.", "Not retried.", "For one waiter."]
    with pytest.raises(TypeError, match="note"):
        error.add_note(1)  # type: ignore[arg-type] # that is the point


def test_all_errors_can_be_imported_from_the_package() -> None:
    """``from uid2_async import AuthError`` needs no second import."""
    for name in errors.__all__:
        assert getattr(uid2_async, name) is getattr(errors, name)
        assert name in uid2_async.__all__


def test_a_token_failure_is_not_a_str() -> None:
    """Among the results of encrypt_many, only a token is a str; the values stay."""
    assert not any(isinstance(failure, str) for failure in TokenFailure)
    assert TokenFailure("token expired") is TokenFailure.EXPIRED_TOKEN
    assert f"{TokenFailure.EXPIRED_TOKEN}" == "token expired"


@pytest.mark.parametrize(
    ("offset", "told"),
    [
        (300.4, "the time sent was 300 s behind the operator's"),
        (-61.0, "the time sent was 61 s ahead of the operator's"),
    ],
)
def test_a_clock_error_tells_by_how_much(offset: float, told: str) -> None:
    """The message says in which direction to set the clock."""
    error = errors.ClockSkewError("x")
    error.offset = offset

    assert any(told in note for note in error.__notes__)


def test_an_error_outside_of_a_call_names_no_call() -> None:
    """Where nothing was sent there is nothing in brackets."""
    error = errors.ConfigError("Bad.", hint="Do it.")
    assert (str(error), error.__notes__) == ("Bad.", ["Do it."])


def test_an_operator_error_without_details_shows_none() -> None:
    """What the operator did not say is not made up."""
    assert len(errors.ServerError("Broken.").__notes__) == 1


def test_a_token_error_keeps_its_reason() -> None:
    """The cause of a token failure can be branched on."""
    error = TokenError(TokenFailure.EXPIRED_TOKEN)

    assert error.reason is TokenFailure.EXPIRED_TOKEN
    assert error.message == "The token was rejected: token expired."
