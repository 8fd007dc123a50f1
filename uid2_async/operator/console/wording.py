"""Faults and spans of time in words."""

from __future__ import annotations

from uid2_async.operator.state import Fault

__all__ = ["fault_words", "span"]

_UNITS = (("day", 86_400), ("hour", 3_600), ("minute", 60))


def span(seconds: float) -> str:
    """Write a length of time in its largest unit, such as ``1.5 hours``."""
    for name, size in _UNITS:
        if seconds >= size:
            return _count(seconds / size, name)
    return _count(seconds, "second")


def _count(number: float, name: str) -> str:
    """Write a number with at most one decimal, and its unit."""
    text = f"{number:,.1f}".removesuffix(".0")
    return f"{text} {name}{'' if text == '1' else 's'}"


def fault_words(fault: Fault) -> str:
    """Say what a fault does."""
    words = [text for text in _parts(fault) if text]
    return ", ".join(words) or "nothing"


def _parts(fault: Fault) -> tuple[str, ...]:
    """Say what each thing that can go wrong does, empty where it does not."""
    clock = fault.clock_offset
    where = "ahead" if clock > 0 else "behind"
    return (
        "" if fault.status is None else f"HTTP {fault.status}",
        "" if fault.retry_after is None else f"Retry-After {fault.retry_after}",
        "no answer" if fault.drop else "",
        f"a delay of {span(fault.delay)}" if fault.delay else "",
        ""
        if fault.cut_after is None
        else f"the answer cut after {fault.cut_after} bytes",
        f"the operator's clock {span(abs(clock))} {where}" if clock else "",
        "another payload" if fault.payload is not None else "",
        "another nonce" if fault.wrong_nonce else "",
        "another key" if fault.wrong_key else "",
    )
