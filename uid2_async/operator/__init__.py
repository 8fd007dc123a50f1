"""The embedded operator: answers like the real one (docs/protocol.md 1, 2 and 7).

The names are loaded on first use, so that reading an operator's data does not pay for
aiohttp.
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
    from uid2_async.operator.state import Call as Call, Fault as Fault

_MODULES = {
    "Call": "state",
    "Credentials": "data",
    "Fault": "state",
    "LocalOperator": "server",
    "OperatorData": "data",
}

__all__ = ["Call", "Credentials", "Fault", "LocalOperator", "OperatorData"]


def __getattr__(name: str) -> Any:
    """Load a public name on first use (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    """List the public names too."""
    return sorted({*globals(), *__all__})
