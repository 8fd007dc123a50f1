"""From an HTTP answer to an error."""

from __future__ import annotations

import pytest

from uid2_async import errors
from uid2_async.protocol.wire import error_from_reply, parse_retry_after, read_body

NOW_MS = 1_700_000_000_000  # Tue, 14 Nov 2023 22:13:20 GMT


def refusal(code: str, message: str) -> bytes:
    """Make the JSON of a refusal."""
    return f'{{"message":"{message}","status":"{code}"}}'.encode()


@pytest.mark.parametrize(
    ("status", "body", "cls", "code"),
    [
        (400, refusal("client_error", "x"), errors.BadRequestError, "client_error"),
        (400, b"", errors.BadRequestError, None),
        (
            400,
            refusal("client_error", "Invalid body: Check encryption key (x). See y"),
            errors.AuthError,
            "client_error",
        ),
        (
            400,
            refusal("client_error", "Invalid timestamp: Request too old or client"),
            errors.ClockSkewError,
            "client_error",
        ),
        (400, refusal("invalid_token", "x"), errors.InvalidTokenError, "invalid_token"),
        (400, refusal("expired_token", "x"), errors.ExpiredTokenError, "expired_token"),
        (400, refusal("error", "Error refreshing"), errors.InvalidTokenError, "error"),
        (401, b'{"status":"unauthorized"}', errors.AuthError, "unauthorized"),
        (403, refusal("x", "y"), errors.UnexpectedStatusError, "x"),
        (
            403,
            refusal("invalid_http_origin", "unexpected http origin"),
            errors.AuthError,
            "invalid_http_origin",
        ),
        (
            403,
            refusal("invalid_app_name", "unexpected app name"),
            errors.AuthError,
            "invalid_app_name",
        ),
        (404, b"<html>", errors.UnexpectedStatusError, None),
        (405, b"", errors.UnexpectedStatusError, None),
        (301, b"", errors.UnexpectedStatusError, None),
        (413, b"Request Too Long", errors.PayloadTooLargeError, None),
        (429, b"", errors.RateLimitError, None),
        (500, refusal("unknown", "x"), errors.ServerError, "unknown"),
        (502, b"", errors.ServerError, None),
        (503, b"", errors.ServerError, None),
        (504, b"", errors.ServerError, None),
        (501, b"", errors.UnexpectedStatusError, None),
        (511, b"", errors.UnexpectedStatusError, None),
    ],
)
def test_a_status_has_one_class(
    status: int, body: bytes, cls: type, code: str | None
) -> None:
    """Status, status word and message choose the class, and stand on the error."""
    error = error_from_reply(status, {}, body, now_ms=NOW_MS)

    assert type(error) is cls
    assert isinstance(error, errors.OperatorError)
    assert (error.status, error.code, error.retry_after) == (status, code, None)


@pytest.mark.parametrize("status", [202, 204, 206])
def test_another_success_is_no_reply(status: int) -> None:
    """An operator answers 200 or an error, nothing between."""
    error = error_from_reply(status, {}, b"", now_ms=NOW_MS)

    assert type(error) is errors.ProtocolError


def test_a_wrong_secret_is_named() -> None:
    """The 400 that says the secret is wrong has a hint about the secret."""
    body = refusal("client_error", "Invalid body: Check encryption key (ClientSecret).")

    assert "client secret" in error_from_reply(400, {}, body, now_ms=NOW_MS).hint


def test_a_wrong_link_is_named() -> None:
    """A 401 over a service link is not about the API key."""
    body = refusal("unauthorized", "Invalid link_id")

    assert "link_id" in error_from_reply(401, {}, body, now_ms=NOW_MS).hint


@pytest.mark.parametrize(
    "body",
    [b"{", b"[]", b'{"status":7}', b"\xff", b"{" + b"x" * 70_000, b'{"status":"\xff"}'],
)
def test_an_unreadable_body_says_nothing(body: bytes) -> None:
    """What is not the documented JSON leaves the status to speak."""
    error = error_from_reply(400, {}, body, now_ms=NOW_MS)

    assert error.message == "HTTP 400."


def test_a_message_cannot_forge_a_log_line() -> None:
    """Control characters are escaped, and the length is bounded."""
    body = b'{"message":"a\\r\\n\\u001b[31mb' + b"x" * 500 + b'","status":"s\\n"}'

    error = error_from_reply(400, {}, body, now_ms=NOW_MS)

    assert "a\\r\\n\\x1b[31mbx" in error.message
    assert len(error.message) < 250
    assert isinstance(error, errors.OperatorError)
    assert error.code is None


def test_only_400_and_401_show_a_message() -> None:
    """What an edge or a failing operator writes is not shown."""
    error = error_from_reply(500, {}, refusal("unknown", "canary"), now_ms=NOW_MS)

    assert "canary" not in str(error)


def test_the_wait_stands_on_the_error() -> None:
    """A Retry-After is on every error that carries one."""
    error = error_from_reply(503, {"retry-after": "7"}, b"", now_ms=NOW_MS)

    assert isinstance(error, errors.ServerError)
    assert error.retry_after == 7


@pytest.mark.parametrize(
    ("text", "date", "expected"),
    [
        ("0", None, 0),
        ("120", None, 120),
        ("999999", None, 999_999),
        ("Tue, 14 Nov 2023 22:13:50 GMT", None, 30),
        ("Tue, 14 Nov 2023 22:13:00 GMT", None, 0),
        # A local clock that is off does not matter where the reply has its own.
        ("Tue, 14 Nov 2023 23:00:30 GMT", "Tue, 14 Nov 2023 23:00:00 GMT", 30),
        ("Tue, 14 Nov 2023 22:13:50 GMT", "garbage", 30),
        (None, None, None),
        ("", None, None),
        ("-5", None, None),
        ("+5", None, None),
        ("1.5", None, None),
        ("1e3", None, None),
        ("inf", None, None),
        ("nan", None, None),
        ("1_000", None, None),
        ("\uff15", None, None),
        ("60, 120", None, None),
        ("12345678901234567890123", None, None),
        ("Tue Nov 14 22:13:50 2023", None, None),
        ("Tue, 14 Nov 2023 22:13:50", None, None),
        ("Tue, 99 Nov 2023 22:13:50 GMT", None, None),
        ("GMT", None, None),
        (" GMT", None, None),
        ("Tue, 14 Nov 100000 22:13:50 GMT", None, None),
    ],
)
def test_retry_after_is_read_strictly(
    text: str | None, date: str | None, expected: float | None
) -> None:
    """Digits or an HTTP date; everything else is no hint, and never an exception."""
    assert parse_retry_after(text, date=date, now_ms=NOW_MS) == expected


@pytest.mark.parametrize(
    ("word", "code"),
    [("new_word", "new_word"), (r"new\nword", None), ("optout", "optout")],
)
def test_another_status_word_is_an_error(word: str, code: str | None) -> None:
    """A 200 whose word the endpoint does not know is no success."""
    with pytest.raises(errors.OperatorError) as caught:
        read_body(f'{{"status":"{word}","body":{{}}}}'.encode(), dict, {"other": 1})

    assert (caught.value.status, caught.value.code) == (200, code)


def test_a_success_has_a_body() -> None:
    """``success`` is not enough if a body is required."""
    assert read_body(b'{"status":"success","body":[]}', list) == []
    with pytest.raises(errors.ProtocolError):
        read_body(b'{"status":"success","body":null}', list)


def test_other_words_of_an_endpoint_are_results() -> None:
    """A status word that the endpoint documents is a return value."""
    assert read_body(b'{"status":"optout"}', list, {"optout": 1}) == 1
