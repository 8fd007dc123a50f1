"""``uid2 doctor``: why it does not work."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from uid2_async.cli.exit_codes import ExitCode
from uid2_async.cli.failure import print_error
from uid2_async.cli.options import SandboxOption, ScopeOption
from uid2_async.cli.printing import dump_json, print_lines
from uid2_async.cli.run_async import run_async
from uid2_async.models import IdentityScope

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from uid2_async.doctor import Finding

__all__ = ["explain"]

_OUTCOME_WIDTH: Final = 9
_CHECK_WIDTH: Final = 20


class NeededRole(StrEnum):
    """A role that an API key must have."""

    GENERATOR = "generator"
    MAPPER = "mapper"
    SHARER = "sharer"
    ID_READER = "id_reader"
    OPTOUT = "optout"


def explain(
    *,
    need: Annotated[
        list[NeededRole] | None,
        typer.Option(
            "--need", help="A role that the API key must have; may be repeated."
        ),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option("--timeout", min=0.1, help="Seconds to wait in each step."),
    ] = 10.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object.")
    ] = False,
    sandbox: SandboxOption = False,
    scope: ScopeOption = IdentityScope.UID2,
) -> None:
    """Find out why requests fail: settings, network, key, clock.

    Checks one thing after the other, and says how to fix each that fails. All calls
    are harmless, and no key or secret is printed. Exits with 0 if nothing has
    failed, 4 if key or secret are not accepted, and 1 for all other failures.
    """
    findings = run_async(
        _examine(scope, need or (), timeout, sandbox=sandbox, show=not as_json)
    )
    if as_json:
        sys.stdout.write(dump_json(_report(scope, findings), indent=2))
    faults = [one for one in findings if one.outcome == "failed"]
    if faults:
        print_error(f"Failed: {', '.join(one.check for one in faults)}.")
        unauthorized = any(one.unauthorized for one in faults)
        raise typer.Exit(ExitCode.AUTH if unauthorized else ExitCode.FAILURE)


async def _examine(
    scope: IdentityScope,
    need: Sequence[NeededRole],
    timeout: float,
    *,
    sandbox: bool,
    show: bool,
) -> list[Finding]:
    """Make all checks; with *show*, print each result as soon as it is there."""
    from uid2_async.doctor import Role, examine  # noqa: PLC0415 - imports aiohttp

    findings = []
    needed = [Role[one.name] for one in need]
    async with (
        _environ(scope, sandbox=sandbox) as environ,
        aclosing(examine(scope, environ, needed=needed, timeout=timeout)) as results,
    ):
        async for finding in results:
            findings.append(finding)
            if show:
                print_lines(_lines(finding))
    return findings


@asynccontextmanager
async def _environ(
    scope: IdentityScope, *, sandbox: bool
) -> AsyncIterator[Mapping[str, str]]:
    """Give the variables that name the operator: the process's, or of a sandbox."""
    if not sandbox:
        yield os.environ
        return
    from uid2_async.operator import LocalOperator, OperatorData  # noqa: PLC0415 - for the sandbox alone

    async with LocalOperator(OperatorData.sample(scope=scope)) as operator:
        yield {
            f"{scope}_BASE_URL": operator.url,
            f"{scope}_API_KEY": operator.api_key,
            f"{scope}_SECRET_KEY": operator.client_secret,
        }


def _lines(finding: Finding) -> Iterator[str]:
    """Write a finding in columns; what to do stands below what was found."""
    outcome = finding.outcome.ljust(_OUTCOME_WIDTH)
    yield f"{outcome}{finding.check.ljust(_CHECK_WIDTH)}{finding.message}"
    if finding.hint:
        yield f"{' ' * (_OUTCOME_WIDTH + _CHECK_WIDTH)}-> {finding.hint}"


def _report(scope: IdentityScope, findings: Sequence[Finding]) -> dict[str, Any]:
    """Turn findings into fields that JSON has."""
    outcomes = {one.outcome for one in findings}
    worst = next(one for one in ("failed", "warning", "ok") if one in outcomes)
    return {
        "scope": scope.value,
        "outcome": worst,
        "checks": [
            {
                "check": one.check.name.lower(),
                "outcome": one.outcome.value,
                "message": one.message,
                "hint": one.hint or None,
            }
            for one in findings
        ],
    }
