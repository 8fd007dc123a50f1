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

_MODULES = {
    "BulkMapper": "mapper",
    "FileFormatOptions": "paths",
    "FileJobOptions": "options",
    "FileProgress": "options",
    "Format": "paths",
    "IfExists": "database",
    "JobOptions": "options",
    "JobSummary": "options",
    "MapFailure": "outcomes",
    "MapOptions": "options",
    "MapRecord": "outcomes",
    "MappingState": "state",
    "Progress": "outcomes",
    "Query": "database",
    "RefreshOptions": "options",
    "StateRow": "state_values",
    "StatusOptions": "options",
    "Table": "database",
    "check_file": "jobs",
    "map_file": "jobs",
    "refresh_state": "state_jobs",
    "sweep_by_status": "state_jobs",
}

__all__ = [
    "BulkMapper",
    "FileFormatOptions",
    "FileJobOptions",
    "FileProgress",
    "Format",
    "IfExists",
    "JobOptions",
    "JobSummary",
    "MapFailure",
    "MapOptions",
    "MapRecord",
    "MappingState",
    "Progress",
    "Query",
    "RefreshOptions",
    "StateRow",
    "StatusOptions",
    "Table",
    "check_file",
    "map_file",
    "refresh_state",
    "sweep_by_status",
]


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
