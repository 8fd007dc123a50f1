"""The embedded operator, which answers like a real one (docs/protocol.md 1, 2 and 7).

Public names are loaded on first use, so that code that only reads an operator's data
does not import aiohttp.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uid2_async.operator.data import (
        Credentials as Credentials,
        OperatorData as OperatorData,
    )
    from uid2_async.operator.server import LocalOperator as LocalOperator
    from uid2_async.operator.state import Fault as Fault, RecordedCall as RecordedCall

_MODULES = {
    "RecordedCall": "state",
    "Credentials": "data",
    "Fault": "state",
    "LocalOperator": "server",
    "OperatorData": "data",
}

__all__ = ["Credentials", "Fault", "LocalOperator", "OperatorData", "RecordedCall"]


def __getattr__(name: str) -> Any:
    """Load a public name on first use (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    """List the module's names, including the public ones that are not loaded yet."""
    return sorted({*globals(), *__all__})
