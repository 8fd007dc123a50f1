"""``uid2 doctor``: find out why requests fail."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from uid2_async import operator
from uid2_async.cli.connection import Connection, run_async
from uid2_async.cli.exit_codes import ExitCode
from uid2_async.cli.options import JsonOption, with_shared_options
from uid2_async.cli.output import dump_json, print_error, print_lines
from uid2_async.models import IdentityScope

if TYPE_CHECKING:
    from uid2_async.doctor import Finding

_OUTCOME_WIDTH: Final = 9
_CHECK_WIDTH: Final = 20


class NeededRole(StrEnum):
    """A role that an API key must have."""

    GENERATOR = "generator"
    MAPPER = "mapper"
    SHARER = "sharer"
    ID_READER = "id_reader"
    OPTOUT = "optout"


@with_shared_options()
def explain(
    *,
    need: Annotated[
        list[NeededRole] | None,
        typer.Option(
            "--need", help="A role that the API key must have. Can be repeated."
        ),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option("--timeout", min=0.1, help="Timeout of each check in seconds."),
    ] = 10.0,
    as_json: JsonOption = False,
    connection: Connection,
) -> None:
    """Find out why requests fail: settings, network, key, clock.

    Runs the checks in order, and says how to fix each one that fails. All calls are
    harmless, and no key or secret is printed. Exits with 0 if nothing failed, 4 if the
    API key or secret is rejected, and 1 for any other failure.
    """
    findings = run_async(_examine(connection, need or (), timeout, show=not as_json))
    if as_json:
        sys.stdout.write(dump_json(_report(connection.scope, findings), indent=2))
    faults = [one for one in findings if one.outcome == "failed"]
    if faults:
        print_error(f"Failed: {', '.join(one.check for one in faults)}.")
        unauthorized = any(one.unauthorized for one in faults)
        raise typer.Exit(ExitCode.AUTH if unauthorized else ExitCode.FAILURE)


async def _examine(
    connection: Connection, need: Sequence[NeededRole], timeout: float, *, show: bool
) -> list[Finding]:
    """Run all checks; with *show*, print each result as soon as it is known."""
    from uid2_async.doctor import Role, examine  # noqa: PLC0415 - imports aiohttp

    findings = []
    scope, needed = connection.scope, [Role[one.name] for one in need]
    async with (
        _environ(connection) as environ,
        aclosing(examine(scope, environ, needed=needed, timeout=timeout)) as results,
    ):
        async for finding in results:
            findings.append(finding)
            if show:
                print_lines(_lines(finding))
    return findings


@asynccontextmanager
async def _environ(connection: Connection) -> AsyncIterator[Mapping[str, str]]:
    """Yield the environment variables of the operator, or those of a sandbox."""
    if not connection.sandbox:
        yield os.environ
        return
    scope = connection.scope
    data = operator.OperatorData.sample(scope=scope)
    async with operator.LocalOperator(data) as local:
        yield {
            f"{scope}_BASE_URL": local.url,
            f"{scope}_API_KEY": local.api_key,
            f"{scope}_SECRET_KEY": local.client_secret,
        }


def _lines(finding: Finding) -> Iterator[str]:
    """Format a finding in columns, with its hint on a line below."""
    outcome = finding.outcome.ljust(_OUTCOME_WIDTH)
    yield f"{outcome}{finding.check.ljust(_CHECK_WIDTH)}{finding.message}"
    if finding.hint:
        yield f"{' ' * (_OUTCOME_WIDTH + _CHECK_WIDTH)}-> {finding.hint}"


def _report(scope: IdentityScope, findings: Sequence[Finding]) -> dict[str, Any]:
    """Return findings as the fields of ``--json``."""
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
