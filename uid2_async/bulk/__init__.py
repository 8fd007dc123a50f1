"""Bulk identity mapping of streams and files of any size, with a state between jobs.

Names are loaded on first use, so that using one does not import everything.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uid2_async.bulk.database import (
        IfExists as IfExists,
        Query as Query,
        Table as Table,
    )
    from uid2_async.bulk.jobs import check_file as check_file, map_file as map_file
    from uid2_async.bulk.mapper import BulkMapper as BulkMapper
    from uid2_async.bulk.options import (
        FileJobOptions as FileJobOptions,
        FileProgress as FileProgress,
        JobOptions as JobOptions,
        JobSummary as JobSummary,
        MapOptions as MapOptions,
        RefreshOptions as RefreshOptions,
        StatusOptions as StatusOptions,
    )
    from uid2_async.bulk.outcomes import (
        MapFailure as MapFailure,
        MapRecord as MapRecord,
        Progress as Progress,
    )
    from uid2_async.bulk.paths import (
        FileFormatOptions as FileFormatOptions,
        Format as Format,
    )
    from uid2_async.bulk.state import MappingState as MappingState
    from uid2_async.bulk.state_jobs import (
        refresh_state as refresh_state,
        sweep_by_status as sweep_by_status,
    )
    from uid2_async.bulk.state_values import StateRow as StateRow

_NAMES = {
    "database": "IfExists Query Table",
    "jobs": "check_file map_file",
    "mapper": "BulkMapper",
    "options": (
        "FileJobOptions FileProgress JobOptions JobSummary MapOptions RefreshOptions "
        "StatusOptions"
    ),
    "outcomes": "MapFailure MapRecord Progress",
    "paths": "FileFormatOptions Format",
    "state": "MappingState",
    "state_jobs": "refresh_state sweep_by_status",
    "state_values": "StateRow",
}
"""The public names of each module."""

_MODULES = {name: module for module, names in _NAMES.items() for name in names.split()}

# Type checkers read the imports above.
__all__ = list(_MODULES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Load a public name on first use (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return __all__
