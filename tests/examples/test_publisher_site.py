"""The example site as its visitors see it."""

from __future__ import annotations

from typing import Any

import pytest

from uid2_async.operator import Fault, LocalOperator

EMAIL = "reader@example.com"
DAY_HOURS = 24


def log_in(browser: Any, email: str = EMAIL) -> Any:
    """Fill in the form."""
    return browser.post("/login", data={"email": email})


def identity(browser: Any) -> dict[str, Any]:
    """Ask what the page's script asks."""
    return browser.get("/identity").json()


def test_a_visitor_sees_the_form(browser: Any) -> None:
    """Nobody is logged in at first, and the script knows it."""
    page = browser.get("/")

    assert 'action="/login"' in page.text
    assert browser.get("/identity").status_code == 401
    assert "set-cookie" not in page.headers


def test_logging_in_shows_token_and_eid(browser: Any) -> None:
    """The page holds state, token and eid, and the cookie holds none of them."""
    page = log_in(browser)

    view = identity(browser)
    assert view["state"] == "fresh"
    assert view["advertising_token"] in page.text
    assert view["advertising_token"] in view["eid"]
    assert "uidapi.com" in view["eid"]
    (cookie,) = browser.cookies.jar
    assert cookie.has_nonstandard_attr("HttpOnly")
    assert len(cookie.value) < 64


def test_due_tokens_are_refreshed_for_an_open_page(browser: Any) -> None:
    """The script's next question brings new tokens, and counts them."""
    log_in(browser)
    before = identity(browser)

    browser.post("/advance", data={"hours": 2})

    after = identity(browser)
    assert after["refreshes"] == 1
    assert after["advertising_token"] != before["advertising_token"]


@pytest.mark.parametrize("days", [4, 31], ids=["expired", "dead"])
def test_a_reader_who_comes_back_late_has_a_token(browser: Any, days: int) -> None:
    """Expired tokens are refreshed, dead ones generated again."""
    log_in(browser)

    browser.post("/advance", data={"hours": days * DAY_HOURS})

    assert identity(browser)["state"] == "fresh"


def test_logging_out_ends_the_session(browser: Any) -> None:
    """A cookie that was copied before is worth nothing afterwards."""
    log_in(browser)
    (cookie,) = browser.cookies.jar
    copied = f"{cookie.name}={cookie.value}"

    assert 'action="/login"' in browser.post("/logout").text

    reply = browser.get("/identity", headers={"Cookie": copied})
    assert reply.status_code == 401


def test_logging_in_changes_the_name_of_the_session(browser: Any) -> None:
    """Who has planted a session is not logged in with the next person (fixation)."""
    log_in(browser, "attacker@example.com")
    (planted,) = browser.cookies.jar
    cookie = f"{planted.name}={planted.value}"

    log_in(browser)

    (renewed,) = browser.cookies.jar
    assert renewed.value != planted.value
    assert identity(browser)["email"] == EMAIL
    copied = browser.get("/identity", headers={"Cookie": cookie})
    assert copied.status_code == 401


def test_a_name_that_the_browser_brings_is_not_taken_over(browser: Any) -> None:
    """A session never has a name that another person chose."""
    browser.cookies.set("site_session", "chosen")

    log_in(browser)

    assert "chosen" not in {one.value for one in browser.cookies.jar if one.domain}
    copied = browser.get("/identity", headers={"Cookie": "site_session=chosen"})
    assert copied.status_code == 401


def test_opting_out_here_takes_effect_at_once(browser: Any) -> None:
    """The token is gone, and logging in again brings none."""
    log_in(browser)

    page = browser.post("/opt-out")

    assert identity(browser)["state"] == "opted_out"
    assert "advertising_token" not in identity(browser)
    assert "Opted out" in page.text
    browser.post("/logout")
    log_in(browser)
    assert identity(browser)["state"] == "opted_out"


def test_opting_out_elsewhere_is_found_by_the_next_refresh(
    browser: Any, operator: LocalOperator
) -> None:
    """Who opts out at the official site loses the token here as well."""
    log_in(browser)
    operator.opt_out(EMAIL)
    browser.post("/advance", data={"hours": 2})

    assert identity(browser)["state"] == "opted_out"


def test_an_outage_leaves_the_token_and_says_so(
    browser: Any, operator: LocalOperator
) -> None:
    """While the token is valid, the page does not change."""
    log_in(browser)
    before = identity(browser)
    operator.advance(7_200)
    # Over a kept connection one is confirmed by the next.
    operator.fail_next(Fault(status=400, body="{}"), 2, path="/v2/token/refresh")

    after = identity(browser)

    assert after["advertising_token"] == before["advertising_token"]
    assert after["error"]


@pytest.mark.parametrize("email", ["", "nobody"])
def test_a_bad_address_is_refused(browser: Any, email: str) -> None:
    """The form comes back with what was typed, and says what is wrong."""
    page = log_in(browser, email)

    assert page.status_code == 422
    assert "Please enter an email address" in page.text
    assert f'value="{email}"' in page.text


@pytest.mark.parametrize("domain", ["", "@example.com"], ids=["refused", "taken"])
def test_what_was_typed_is_escaped(browser: Any, domain: str) -> None:
    """No input becomes a part of the page."""
    page = log_in(browser, '"><script>alert(1)</script>' + domain)

    assert "<script>alert" not in page.text
    assert "&lt;script&gt;alert" in page.text


def test_a_failing_operator_is_named_at_login(
    browser: Any, operator: LocalOperator
) -> None:
    """The visitor reads that no tokens could be had."""
    operator.fail_next(Fault(status=403, body="{}"))

    page = log_in(browser)

    assert page.status_code == 503
    assert "No tokens could be had" in page.text


def test_every_answer_forbids_foreign_scripts(browser: Any) -> None:
    """Pages, files and errors carry the policy."""
    for path in ("/", "/static/site.js", "/missing"):
        policy = browser.get(path).headers["Content-Security-Policy"]
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
