"""The example site in a real browser: what its visitors see and do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from readable import complaints, emulate, measure
from uid2_async.operator import LocalOperator

pytest.importorskip("selenium")

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

pytestmark = pytest.mark.browser

SCREENSHOT = Path(__file__).parents[2] / "docs" / "publisher-site.png"
EMAIL = "reader@example.com"
PATIENCE = 15


class Page:
    """What can be seen and done on the page."""

    def __init__(self, driver: Any, url: str) -> None:
        """Open it."""
        self.driver = driver
        self.url = url
        driver.get(url)

    def text(self, name: str) -> str:
        """Read what is shown, which is nothing where it is hidden."""
        found = self.driver.find_elements(By.ID, name)
        return found[0].text if found else ""

    def wait(self, name: str, text: str) -> None:
        """Wait until *text* is shown."""
        WebDriverWait(self.driver, PATIENCE).until(
            lambda _: self.text(name) == text, f"{name} is {self.text(name)!r}"
        )

    def press(self, *keys: str) -> None:
        """Type where the focus is."""
        ActionChains(self.driver).send_keys(*keys).perform()

    def tab_to(self, name: str) -> None:
        """Move the focus forward until it is on the element."""
        for _ in range(12):
            if self.driver.switch_to.active_element.get_attribute("id") == name:
                return
            self.press(Keys.TAB)
        pytest.fail(f"the keyboard does not reach {name}")

    def log_in(self, email: str = EMAIL) -> None:
        """Type an address into the field that has the focus."""
        self.press(email, Keys.ENTER)
        self.wait("state", "Fresh")


@pytest.fixture
def page(driver: Any, site: str) -> Page:
    """Open the site."""
    return Page(driver, site)


def test_a_visit_from_login_to_opt_out(page: Page, operator: LocalOperator) -> None:
    """Only by keyboard: log in, see the token refreshed while open, opt out."""
    page.log_in()
    first = page.text("advertising_token")
    assert len(first) > 100
    assert first in page.text("eid")

    operator.advance(7_200)
    page.wait("refreshes", "1")
    second = page.text("advertising_token")
    assert second != first
    assert second in page.text("eid")
    assert first not in page.driver.page_source

    page.tab_to("opt-out")
    page.press(Keys.ENTER)
    page.wait("state", "Opted out")
    assert page.text("identity") == ""
    assert second not in page.driver.page_source

    page.tab_to("log-out")
    page.press(Keys.ENTER)
    WebDriverWait(page.driver, PATIENCE).until(lambda _: page.text("log-in"))
    assert page.driver.get_cookies() == []
    assert complaints(page.driver) == []


def test_an_opt_out_elsewhere_reaches_the_open_page(
    page: Page, operator: LocalOperator
) -> None:
    """The page drops the token without being loaded again."""
    page.log_in()
    token = page.text("advertising_token")

    operator.opt_out(EMAIL)
    operator.advance(7_200)

    page.wait("state", "Opted out")
    assert token not in page.driver.page_source


def test_logging_out_in_another_tab_ends_this_one(page: Page) -> None:
    """The script notices that the session has ended."""
    page.log_in()
    here = page.driver.current_window_handle
    page.driver.switch_to.new_window("tab")
    other = Page(page.driver, page.url)
    other.tab_to("log-out")
    other.press(Keys.ENTER)
    page.driver.switch_to.window(here)

    WebDriverWait(page.driver, PATIENCE).until(lambda _: page.text("log-in"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_readable(page: Page, scheme: str) -> None:
    """No sideways scrolling on a phone, labels for all fields, enough contrast."""
    emulate(page.driver, scheme)
    assert_readable(page.driver)
    page.log_in(f"a.reader.with.a.very.long.name.indeed.{EMAIL}")
    assert_readable(page.driver)


def assert_readable(driver: Any) -> None:
    """Measure in the page itself."""
    found = measure(driver, smallest=44)
    assert found["wide"] <= 360
    assert found["unnamed"] == []
    assert found["small"] == []
    assert min(found["contrasts"]) >= 4.5


def test_the_page_is_pictured(page: Page) -> None:
    """The page can be pictured; UPDATE_SCREENSHOT=1 writes the picture in docs/."""
    page.driver.set_window_size(620, 1150)
    page.log_in()
    page.driver.execute_script("document.activeElement.blur()")

    image = page.driver.get_screenshot_as_png()

    assert image.startswith(b"\x89PNG")
    if os.environ.get("UPDATE_SCREENSHOT"):
        SCREENSHOT.write_bytes(image)
    assert SCREENSHOT.exists()
