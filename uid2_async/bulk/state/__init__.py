"""The state of bulk mapping: what is known of each identity, in one SQLite file.

::

    mapping     one row an identity and type: its UID, the one before, when to ask
                again, when it was asked about, and its last change
    journal, recent, layer_N
                what was recorded since mapping was merged last (pending.py)
    change      numbered changes, for deltas: written with the rows that they come from,
                kept until a delta has told them and 90 days more
    run         the jobs so far
    member      who is in which segment, and ``present``: who was seen by a run (--full)
    forgotten   salted digests of who was purged for good
    meta        scope, operator, and the number of the last change that was told

The names are loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uid2_async.bulk.state.figures import StateFigures as StateFigures
    from uid2_async.bulk.state.mapping_state import MappingState as MappingState
    from uid2_async.bulk.state.values import (
        Change as Change,
        ChangeKind as ChangeKind,
        IdentityKey as IdentityKey,
        Run as Run,
        Selection as Selection,
        StateCounts as StateCounts,
        StateRow as StateRow,
    )

_HOMES = {
    "Change": "values",
    "ChangeKind": "values",
    "IdentityKey": "values",
    "MappingState": "mapping_state",
    "Run": "values",
    "Selection": "values",
    "StateCounts": "values",
    "StateFigures": "figures",
    "StateRow": "values",
}

__all__ = [
    "Change",
    "ChangeKind",
    "IdentityKey",
    "MappingState",
    "Run",
    "Selection",
    "StateCounts",
    "StateFigures",
    "StateRow",
]


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
