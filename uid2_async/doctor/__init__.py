"""Diagnostics that check everything between a program and an operator.

They are available as ``uid2 doctor``. A service can call :func:`examine` itself.
"""

from __future__ import annotations

from uid2_async.doctor.checks import examine
from uid2_async.doctor.findings import CheckId, Finding, Outcome
from uid2_async.doctor.operator import Role

__all__ = ["CheckId", "Finding", "Outcome", "Role", "examine"]
