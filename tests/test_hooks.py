"""Events: what may be in one is on a list."""

from __future__ import annotations

from typing import get_args

import msgspec
import pytest

from uid2_async import hooks

ALLOWED = {
    "attempt",
    "attempts",
    "count",
    "delay",
    "elapsed",
    "endpoint",
    "error_type",
    "kind",
    "limit",
    "region",
    "result",
    "skew",
    "status",
    "trace_id",
}


@pytest.mark.parametrize("event", get_args(hooks.Event), ids=lambda one: one.__name__)
def test_an_event_holds_what_is_allowed_and_no_more(event: type) -> None:
    """A new attribute is a decision; none can hold an object with more inside."""
    fields = msgspec.inspect.type_info(event).fields
    names = {field.name for field in fields}

    assert names <= ALLOWED
    for field in fields:
        parts = getattr(field.type, "types", (field.type,))
        kinds = {type(part).__name__ for part in parts}
        assert kinds <= {"StrType", "IntType", "FloatType", "NoneType"}, field.name
