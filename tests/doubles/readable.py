"""Measures in the browser whether people can read and use a page."""

from __future__ import annotations

from typing import Any

__all__ = ["complaints", "emulate", "measure"]


def emulate(driver: Any, scheme: str, *, width: int = 360, height: int = 740) -> None:
    """Display the page as on a phone, in ``light`` or ``dark`` mode."""
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": True},
    )
    feature = {"name": "prefers-color-scheme", "value": scheme}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def measure(driver: Any, *, smallest: int) -> dict[str, Any]:
    """Measure the visible page.

    Returns:
        A dict with ``wide`` (the width of the page), ``unnamed`` (fields without a
        label), ``small`` (buttons and fields of less than *smallest* pixels) and
        ``contrasts`` (those of all texts).
    """
    found: dict[str, Any] = driver.execute_script(_MEASURE, smallest)
    return found


def complaints(driver: Any) -> list[str]:
    """Return the errors in the browser's log, including policy violations."""
    return [e["message"] for e in driver.get_log("browser") if e["level"] == "SEVERE"]


# The WCAG 2 contrast of each visible text against its background.
_MEASURE = """
const smallest = arguments[0];
const seen = [...document.querySelectorAll("body *")].filter(e => e.checkVisibility());
const channel = c => (c /= 255) <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4;
const rgb = text => text.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) =>
  .2126 * channel(r) + .7152 * channel(g) + .0722 * channel(b);
const ground = e => {
  for (; e; e = e.parentElement) {
    const color = rgb(getComputedStyle(e).backgroundColor);
    if (color[3] !== 0) return color;
  }
  return [255, 255, 255];
};
const texts = seen.filter(e => [...e.childNodes].some(
  n => n.nodeType === 3 && n.data.trim()));
return {
  wide: document.documentElement.scrollWidth,
  unnamed: seen.filter(e => e.matches("input, select, textarea") && !e.labels.length)
    .map(e => e.id),
  small: seen.filter(e => e.matches("input, select, textarea, button")
    && !e.matches("[type=checkbox]") && e.offsetHeight < smallest)
    .map(e => e.textContent || e.id),
  contrasts: texts.map(e => {
    const [a, b] = [light(rgb(getComputedStyle(e).color)), light(ground(e))];
    return (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  }),
};
"""
