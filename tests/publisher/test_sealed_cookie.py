"""Tokens in an encrypted cookie."""

from __future__ import annotations

from typing import Any

import pytest

from uid2_async import IdentityTokens, errors
from uid2_async.publisher import SealedCookie, to_session

OLD, NEW = "an older key of the application, 1", "a newer key of the application, 02"


class Response:
    """Notes what is set."""

    def __init__(self) -> None:
        """Nothing is set."""
        self.cookies: list[tuple[tuple[str, ...], dict[str, Any]]] = []

    def set_cookie(self, *names: str, **attributes: Any) -> None:
        """Note it."""
        self.cookies.append((names, attributes))


def test_nothing_of_the_tokens_can_be_read(plain: IdentityTokens) -> None:
    """It comes back as it was, fits into a cookie, and shows nothing."""
    cookie, content = SealedCookie(NEW), {"uid2": to_session(plain)}
    value = cookie.seal(content)
    assert cookie.open(value) == content
    assert value.isascii()
    assert len(value) < 3_800
    assert plain.refresh_token[:12] not in value
    assert value != cookie.seal(content)
    assert NEW not in repr(cookie)


def test_keys_are_rotated() -> None:
    """The first one encrypts, all decrypt, and a dropped one is gone."""
    value = SealedCookie(OLD).seal({"a": 1})
    assert SealedCookie([NEW, OLD]).open(value) == {"a": 1}
    assert SealedCookie(NEW).open(value) == {}
    assert SealedCookie(NEW).open(SealedCookie([NEW, OLD]).seal({"a": 1})) == {"a": 1}


@pytest.mark.parametrize("forged", [None, "", "{}", "gAAAA", "\ud800", "ä", '{"a": 1}'])
def test_anybody_may_send_any_cookie(forged: str | None) -> None:
    """What this application did not make counts as no cookie."""
    assert SealedCookie(NEW).open(forged) == {}


def test_a_cookie_is_bound_to_its_name_and_bytes() -> None:
    """One cookie cannot take the place of another, nor be changed."""
    value = SealedCookie(NEW).seal({"a": 1})
    assert SealedCookie(NEW, name="other").open(value) == {}
    assert SealedCookie(NEW).open(value[:-6] + "AAAAA=") == {}


def test_the_attributes_are_safe() -> None:
    """Scripts never read it, http does not carry it; nothing deletes it."""
    response, cookie = Response(), SealedCookie(NEW)
    cookie.save(response, {"a": 1})
    cookie.save(response, {})
    (kept, deleted) = response.cookies
    assert kept[1] == {
        "max_age": 2_592_000,
        "path": "/",
        "domain": None,
        "secure": True,
        "httponly": True,
        "samesite": "Lax",
    }
    assert deleted == (("uid2", ""), {**kept[1], "max_age": 0})


def test_what_is_refused() -> None:
    """A short key when it is configured, and what no browser keeps."""
    for keys in ("short", [], [NEW, "short"]):
        with pytest.raises(errors.ConfigError, match="32 characters"):
            SealedCookie(keys)
    for content in ({"a": "x" * 4_000}, {"a": object()}):
        with pytest.raises(errors.InputError):
            SealedCookie(NEW).seal(content)
