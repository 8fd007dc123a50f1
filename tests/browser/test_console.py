"""The sandbox console in a real browser, and the official SDK as its caller."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest

from readable import complaints, emulate, measure
from uid2_async.operator import Fault, LocalOperator

pytest.importorskip("selenium")
pytest.importorskip("uid2_client")

import uid2_client as sdk
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

pytestmark = [
    pytest.mark.browser,
    # The official SDK leaves its connections to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SCREENSHOT = Path(__file__).parents[2] / "docs" / "sandbox-console.png"
EMAIL = "jane@example.com"
PATIENCE = 15
GENERATE = "/v2/token/generate"


class Page:
    """What can be seen and done at the console."""

    def __init__(self, driver: Any, operator: LocalOperator) -> None:
        """Open it."""
        self.driver = driver
        self.operator = operator
        driver.get(f"{operator.url}/")
        self.wait(lambda: self.text("#link") == "Live")

    def all(self, css: str) -> list[Any]:
        """Find elements."""
        found: list[Any] = self.driver.find_elements(By.CSS_SELECTOR, css)
        return found

    def text(self, css: str) -> str:
        """Read what is shown, which is nothing where it is hidden."""
        return "\n".join(one.text for one in self.all(css))

    def wait(self, reached: Any) -> None:
        """Wait until something is so."""
        WebDriverWait(self.driver, PATIENCE).until(lambda _: reached())

    def wait_for(self, css: str, text: str) -> None:
        """Wait until *text* is shown."""
        WebDriverWait(self.driver, PATIENCE).until(
            lambda _: text in self.text(css), f"no {text!r} in {css}"
        )

    def press(self, *keys: str) -> None:
        """Type where the focus is."""
        ActionChains(self.driver).send_keys(*keys).perform()

    def tab_to(self, css: str) -> None:
        """Move the focus forward until it is on the element, and visibly so.

        What a field holds is selected by that.
        """
        for _ in range(80):
            self.press(Keys.TAB)
            focus = self.driver.switch_to.active_element
            if self.driver.execute_script(
                "return arguments[0].matches(arguments[1])", focus, css
            ):
                outline = self.driver.execute_script(OUTLINE, focus)
                assert outline != "none", f"the focus is not seen on {css}"
                return
        pytest.fail(f"the keyboard does not reach {css}")

    def open_newest(self) -> None:
        """Open the newest call by keyboard."""
        self.tab_to("#list > li:first-child summary")
        self.press(Keys.ENTER)
        self.wait_for("#list > li:first-child .opened", "Reply")

    def part(self, title: str) -> Any:
        """Read the JSON of the open call."""
        (pre,) = self.all(f"#list > li:first-child pre[aria-label={title}]")
        return json.loads(pre.text)


# Of radio buttons, what is beside them is outlined.
OUTLINE = """
const e = arguments[0].type === "radio" ? arguments[0].nextSibling : arguments[0];
return getComputedStyle(e).outlineStyle;
"""


@pytest.fixture
def operator() -> Iterator[LocalOperator]:
    """Run a sandbox with its console."""
    with LocalOperator.in_thread(console=True) as running:
        yield running


@pytest.fixture
def page(driver: Any, operator: LocalOperator) -> Page:
    """Open the console."""
    return Page(driver, operator)


def generate(
    operator: LocalOperator, email: str = EMAIL, *, key: str = "publisher"
) -> Any:
    """Generate a token with the official SDK."""
    credentials = operator.credentials[key]
    client = sdk.Uid2PublisherClient(
        operator.url, credentials.api_key, credentials.client_secret
    )
    return client.generate_token(sdk.TokenGenerateInput.from_email(email))


def test_a_sealed_call_shows_up_decrypted(page: Page) -> None:
    """By keyboard: what the official SDK has sealed is read, both ways."""
    tokens = generate(page.operator).get_identity()
    page.wait_for("#list", f"POST {GENERATE}")
    page.open_newest()

    assert set(page.part("Request")) == {"email_hash"}
    body = page.part("Reply")["body"]
    assert body["advertising_token"] == tokens.get_advertising_token()
    assert body["refresh_token"] == tokens.get_refresh_token()
    assert "uid2-client-python" in page.text(".facts")
    page.tab_to("#list details details summary")
    page.press(Keys.ENTER)
    page.wait_for("#list table", "x-uid2-client-version")
    key = page.operator.credentials["publisher"].api_key
    assert "authorization" not in page.text("#list table").lower()
    assert key not in page.text("#list")
    assert complaints(page.driver) == []


def test_an_armed_429_hits_the_next_call(page: Page) -> None:
    """By keyboard: armed, it is shown, hits once, and is explained."""
    page.tab_to("#amount")
    page.press("7", Keys.ENTER)
    page.wait_for("#armed", "HTTP 429, Retry-After 7")

    with pytest.raises(HTTPError) as caught:
        generate(page.operator)
    assert (caught.value.code, caught.value.headers["Retry-After"]) == (429, "7")
    page.wait_for("#list .status.failed", "429")
    page.wait_for("#unarmed", "Nothing.")
    page.open_newest()
    page.wait_for(".reason", "You armed it: HTTP 429, Retry-After 7.")

    assert generate(page.operator).is_success()
    assert complaints(page.driver) == []


def test_a_fault_is_disarmed(page: Page) -> None:
    """Each kind can be armed for one path and taken back before it hits."""
    for kind in ("503", "delay", "cut", "drop", "clock"):
        page.driver.execute_script(
            "const e = document.getElementById('fault'); e.value = arguments[0];"
            "e.dispatchEvent(new Event('change'));",
            kind,
        )
        page.all("#fault-form button")[0].click()
    page.wait(lambda: len(page.all("#armed li")) == 5)
    for left in (4, 3, 2, 1, 0):
        page.tab_to("#armed button")
        page.press(Keys.ENTER)
        page.wait(lambda left=left: len(page.all("#armed li")) == left)

    assert generate(page.operator).is_success()
    assert complaints(page.driver) == []


def test_opting_a_person_out_changes_the_next_generate(page: Page) -> None:
    """By keyboard: out, and in again by the button in the list."""
    assert generate(page.operator).is_success()
    page.tab_to("#identity")
    page.press(EMAIL, Keys.ENTER)
    page.wait_for("#people-said", f"{EMAIL} is opted out.")
    page.wait_for("#out", EMAIL)

    assert generate(page.operator).is_optout()
    page.wait(lambda: len(page.all("#list > li")) == 2)
    page.open_newest()
    page.wait_for(".reason", "This person has opted out")
    page.tab_to("#out button")
    page.press(Keys.ENTER)
    page.wait_for("#people-said", f"{EMAIL} is opted in.")
    assert generate(page.operator).is_success()
    page.tab_to("#identity")
    page.press("nobody", Keys.ENTER)
    page.wait_for("#people-said", "The email is not valid.")


def test_time_travel(page: Page) -> None:
    """By keyboard: an hour ahead for the operator, and back to now."""
    before = page.operator.now
    page.tab_to("#length")
    page.press(Keys.ENTER)
    page.wait_for("#ahead", "1 hour ahead")
    assert 3_600 <= (page.operator.now - before).total_seconds() < 3_660

    page.tab_to("#back")
    page.press(Keys.ENTER)
    page.wait(lambda: page.text("#ahead") == "")
    assert (page.operator.now - before).total_seconds() < 60
    assert complaints(page.driver) == []


def test_a_token_is_inspected(page: Page) -> None:
    """A pasted token is explained."""
    token = generate(page.operator).get_identity().get_advertising_token()
    page.tab_to("#value")
    page.press(token, Keys.TAB, Keys.ENTER)
    page.wait_for("#inspected", "Advertising token")
    assert "Raw UID" in page.text("#inspected")
    page.all("#value")[0].clear()
    page.all("#value")[0].send_keys("nothing")
    page.all("#inspect-form button")[0].click()

    page.wait_for("#inspected", "Nothing known")
    assert complaints(page.driver) == []


def test_hostile_values_stay_text(page: Page) -> None:
    """Neither an email nor a path nor a header becomes a part of the page."""
    hostile = '<img src=x onerror="window.hit=1"><script>window.hit=1</script>'
    page.operator.opt_in(EMAIL)
    page.all("#identity")[0].send_keys(f"{hostile}@example.com", Keys.ENTER)
    page.wait_for("#out", "<script>")
    page.driver.execute_async_script(
        "fetch('/v2/' + encodeURIComponent(arguments[0]), {method: 'POST',"
        "body: arguments[0], headers: {'X-UID2-Client-Version': arguments[0]}})"
        ".finally(arguments[1])",
        hostile,
    )
    page.wait(lambda: page.all("#list > li"))
    page.all("#list summary")[0].click()
    page.wait_for("#list .facts", "<script>")
    page.all("#value")[0].send_keys(hostile)
    page.all("#inspect-form button")[0].click()
    page.wait(lambda: page.text("#inspected"))

    found = (
        "return [window.hit, document.querySelectorAll('main img, aside img').length]"
    )
    assert page.driver.execute_script(found) == [None, 0]


def test_new_calls_are_announced(page: Page) -> None:
    """To those who do not see them; what was there before is no news."""
    assert (
        page.driver.find_element(By.ID, "news").get_attribute("aria-live") == "polite"
    )
    generate(page.operator)
    page.wait(lambda: "New call 1: /v2/token/generate, 200" in hidden(page, "news"))
    page.driver.refresh()
    page.wait(lambda: page.text("#count") == "1 call")

    assert hidden(page, "news") == ""


def test_the_list_is_filtered_and_cleared(page: Page) -> None:
    """By keyboard: only the failed calls, and none."""
    generate(page.operator)
    with pytest.raises(HTTPError):
        generate(page.operator, key="bidder")
    page.wait(lambda: page.text("#count") == "2 calls")
    page.tab_to("#only-failed")
    page.press(Keys.SPACE)
    page.wait(lambda: page.text("#list .status").strip() == "401")
    page.tab_to("#clear")
    page.press(Keys.ENTER)

    page.wait_for("#empty", "No calls yet.")
    assert page.all("#list > li") == []


def hidden(page: Page, name: str) -> str:
    """Read what only screen readers are told."""
    text: str = page.driver.find_element(By.ID, name).get_attribute("textContent")
    return text


def test_everything_has_a_name(page: Page) -> None:
    """Each landmark, field and button has a distinct accessible name."""
    page.operator.opt_out(EMAIL)
    page.operator.fail_next(Fault(status=503), path="/nowhere")
    generate(page.operator)
    page.wait(lambda: page.all("#list > li") and page.all("#out li"))
    page.open_newest()
    for css in ("header", "main", "aside", "footer"):
        assert len(page.all(f"body > {css}")) == 1

    names = [one.accessible_name for one in page.all(CONTROLS) if one.is_displayed()]

    assert all(names)
    buttons = [one.accessible_name for one in page.all("button") if one.is_displayed()]
    assert len(buttons) == len(set(buttons))
    headings = [one.tag_name for one in page.all("h1, h2, h3")]
    assert headings[:2] == ["h1", "h2"]
    assert headings.count("h1") == 1


CONTROLS = "button, input, select, textarea, summary, fieldset, section, aside, pre"


def test_copying(page: Page) -> None:
    """What is copied is what was shown."""
    page.driver.execute_cdp_cmd(
        "Browser.grantPermissions",
        {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]},
    )
    page.tab_to("[data-copy=client-secret]")
    page.press(Keys.ENTER)
    page.wait_for("[data-copy=client-secret]", "Copied")

    read = "navigator.clipboard.readText().then(arguments[0])"
    secret = page.operator.credentials["publisher"].client_secret
    assert page.driver.execute_async_script(read) == secret


def test_a_sandbox_that_was_started_anew(driver: Any) -> None:
    """The open page says that it is gone, and then shows only the new one's calls."""
    with LocalOperator.in_thread(console=True) as first:
        page = Page(driver, first)
        port = int(first.url.rpartition(":")[2])
        for _ in range(2):
            generate(first)
        page.wait(lambda: len(page.all("#list > li")) == 2)
    page.wait_for("#link", "does not answer")
    with LocalOperator.in_thread(console=True, port=port) as second:
        page.wait_for("#link", "Live")
        generate(second)
        page.wait(lambda: page.text("#count") == "1 call")

        assert len(page.all("#list > li")) == 1


@pytest.mark.parametrize("width", [360, 1_280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_readable(page: Page, scheme: str, width: int) -> None:
    """No sideways scrolling, labels, targets that can be hit, enough contrast."""
    emulate(page.driver, scheme, width=width)
    generate(page.operator)
    page.operator.fail_next(Fault(status=503), path="/nowhere")
    page.operator.opt_out("a.person.with.a.very.long.name.indeed@example.com")
    page.operator.advance(3_600)
    with pytest.raises(HTTPError):
        generate(page.operator, key="bidder")
    page.wait(lambda: len(page.all("#list > li")) == 2)
    for one in page.all("#list > li > details > summary, aside summary"):
        one.click()
    page.all("#value")[0].send_keys(EMAIL)
    page.all("#inspect-form button")[0].click()
    page.wait(
        lambda: page.all(".reason") and page.all(".part pre") and page.all(".note")
    )
    time.sleep(2.1)  # until what is new has stopped to glow

    found = measure(page.driver, smallest=24)
    assert found["wide"] <= width
    assert found["unnamed"] == []
    assert found["small"] == []
    assert min(found["contrasts"]) >= 4.5


def test_the_console_is_pictured(page: Page) -> None:
    """The page can be pictured; UPDATE_SCREENSHOT=1 writes the picture in docs/."""
    page.driver.set_window_size(1_280, 1_400)
    generate(page.operator)
    page.operator.fail_next(Fault(status=429, retry_after=2))
    for key in ("publisher", "bidder"):
        with pytest.raises(HTTPError):
            generate(page.operator, key=key)
    page.operator.fail_next(Fault(delay=2), times=3, path="/v2/token/refresh")
    advertiser = page.operator.credentials["advertiser"]
    sdk.IdentityMapV3Client(
        page.operator.url, advertiser.api_key, advertiser.client_secret
    ).generate_identity_map(sdk.IdentityMapV3Input.from_emails([EMAIL]))
    page.all("#identity")[0].send_keys("gone@example.com", Keys.ENTER)
    page.wait_for("#out", "gone@example.com")
    generate(page.operator, "gone@example.com")
    page.wait(lambda: len(page.all("#list > li")) == 5 and page.all("#armed li"))
    page.all("#identity")[0].clear()
    page.open_newest()
    page.driver.execute_script("document.activeElement.blur(); scrollTo(0, 0)")

    image = page.driver.get_screenshot_as_png()

    assert image.startswith(b"\x89PNG")
    if os.environ.get("UPDATE_SCREENSHOT"):
        SCREENSHOT.write_bytes(image)
    assert SCREENSHOT.exists()
