"""Why it does not work: checks of everything between a program and an operator.

``uid2 doctor`` is its command; a service may call :func:`examine` itself.
"""

from __future__ import annotations

from uid2_async.doctor.examination import examine
from uid2_async.doctor.findings import Check, Finding, Outcome
from uid2_async.doctor.operator_checks import Role

__all__ = ["Check", "Finding", "Outcome", "Role", "examine"]
