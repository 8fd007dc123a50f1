"""Bulk identity mapping: streams of any size in, records out, in order.

The names are loaded on first use, so that one of them does not pay for all.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uid2_async.bulk.mapper import BulkMapper as BulkMapper
    from uid2_async.bulk.records import (
        MapFailure as MapFailure,
        MapRecord as MapRecord,
        Progress as Progress,
    )

_HOMES = {
    "BulkMapper": "mapper",
    "MapFailure": "records",
    "MapRecord": "records",
    "Progress": "records",
}

__all__ = ["BulkMapper", "MapFailure", "MapRecord", "Progress"]


def __getattr__(name: str) -> Any:
    """Load a public name on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_HOMES[name]}")
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return __all__
