"""Bulk identity mapping: streams and files of any size, and a state between jobs.

The names are loaded on first use, so that one of them does not pay for all.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uid2_async.bulk.job_summary import (
        FileProgress as FileProgress,
        JobSummary as JobSummary,
    )
    from uid2_async.bulk.map_job import map_file as map_file
    from uid2_async.bulk.map_options import MapOptions as MapOptions
    from uid2_async.bulk.mapper import BulkMapper as BulkMapper
    from uid2_async.bulk.optout_sweep import sweep_by_status as sweep_by_status
    from uid2_async.bulk.records import (
        MapFailure as MapFailure,
        MapRecord as MapRecord,
        Progress as Progress,
    )
    from uid2_async.bulk.refresh import refresh_state as refresh_state
    from uid2_async.bulk.run_options import RunOptions as RunOptions
    from uid2_async.bulk.state import Selection as Selection
    from uid2_async.bulk.status_file import (
        StatusOptions as StatusOptions,
        check_file as check_file,
    )

_HOMES = {
    "BulkMapper": "mapper",
    "FileProgress": "job_summary",
    "JobSummary": "job_summary",
    "MapFailure": "records",
    "MapOptions": "map_options",
    "MapRecord": "records",
    "Progress": "records",
    "RunOptions": "run_options",
    "Selection": "state",
    "StatusOptions": "status_file",
    "check_file": "status_file",
    "map_file": "map_job",
    "refresh_state": "refresh",
    "sweep_by_status": "optout_sweep",
}

__all__ = [
    "BulkMapper",
    "FileProgress",
    "JobSummary",
    "MapFailure",
    "MapOptions",
    "MapRecord",
    "Progress",
    "RunOptions",
    "Selection",
    "StatusOptions",
    "check_file",
    "map_file",
    "refresh_state",
    "sweep_by_status",
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
