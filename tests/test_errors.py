"""The error tree: what every error must keep to."""

from __future__ import annotations

import inspect
import pickle

import pytest

from uid2_async import errors
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

    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes

    assert type(copy) is cls
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


def test_no_error_is_caught_as_a_built_in_one_of_the_network() -> None:
    """A caller's ``except TimeoutError`` catches only the caller's own time-out."""
    assert not [cls for cls in CLASSES if issubclass(cls, OSError)]


def test_the_text_names_hint_call_and_operator() -> None:
    """A traceback alone is enough to act on."""
    error = errors.RateLimitError(
        "Slow down.", status=429, code="busy", retry_after=2.5
    )
    error.endpoint, error.trace_id, error.attempts = "/v3/identity/map", "abc", 2

    assert str(error) == (
        "Slow down. Hint: Send fewer requests at once, or wait for retry_after seconds."
        " [POST /v3/identity/map, attempts 2, trace id abc, HTTP 429, status busy, "
        "retry after 2.5 s]"
    )


@pytest.mark.parametrize(
    ("offset", "told"),
    [
        (300.4, "the time sent was 300 s behind the operator's"),
        (-61.0, "the time sent was 61 s ahead of the operator's"),
    ],
)
def test_a_clock_error_tells_by_how_much(offset: float, told: str) -> None:
    """Whoever sets the clock knows in which direction."""
    error = errors.ClockSkewError("x")
    error.offset = offset

    assert told in str(error)


def test_an_error_outside_of_a_call_names_no_call() -> None:
    """Where nothing was sent there is nothing in brackets."""
    assert str(errors.ConfigError("Bad.", hint="Do it.")) == "Bad. Hint: Do it."


def test_an_operator_error_without_details_shows_none() -> None:
    """What the operator did not say is not made up."""
    assert "[" not in str(errors.ServerError("Broken."))


def test_a_token_error_keeps_its_reason() -> None:
    """The cause of a token failure can be branched on."""
    error = TokenError(TokenFailure.EXPIRED_TOKEN)

    assert error.reason is TokenFailure.EXPIRED_TOKEN
    assert error.message == "The token was refused: token expired."
