"""What the fixtures and the marker promise, in a foreign project."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

pytest_plugins = ["pytester"]

Run: TypeAlias = Callable[..., pytest.RunResult]
Count: TypeAlias = Callable[..., tuple[dict[str, Any], pytest.RunResult]]
ROOT = Path(__file__).parents[2]

MARKER = """
import asyncio

import pytest

from uid2_async import IdentityScope, OptedOut, Phone, errors
from uid2_async.operator import Fault

pytestmark = pytest.mark.uid2(opted_out=["gone@example.com"], role="publisher")


def ask(client, email):
    return asyncio.run(client.generate_token(email))


def statuses(operator):
    return [call.status for call in operator.calls]


def test_a_module_s_marker_counts(uid2_client, uid2_operator):
    assert ask(uid2_client, "gone@example.com") == OptedOut()
    assert uid2_operator.calls[0].client == "publisher"


@pytest.mark.uid2(opted_out=[])
def test_the_nearest_counts_keyword_by_keyword(uid2_client, uid2_operator):
    assert ask(uid2_client, "gone@example.com") != OptedOut()
    assert uid2_operator.calls[0].client == "publisher"


@pytest.mark.uid2(opted_out="one@example.com", faults=503)
def test_a_single_person_and_a_single_fault(uid2_client, uid2_operator):
    assert ask(uid2_client, "one@example.com") == OptedOut()
    assert statuses(uid2_operator) == [503, 200]


@pytest.mark.uid2(opted_out=Phone("+12345678909"))
def test_a_single_identity(uid2_client):
    assert ask(uid2_client, Phone("+12345678909")) == OptedOut()


@pytest.mark.uid2(faults=[503, Fault(drop=True), Fault(status=429, retry_after=9)])
def test_faults_come_in_order_and_retries_wait_for_nothing(uid2_client, uid2_operator):
    ask(uid2_client, "user@example.com")
    assert statuses(uid2_operator) == [503, 0, 429, 200]


@pytest.mark.uid2(role="everything", faults={"/v3/identity/map": [401, 401]})
def test_faults_of_one_path(uid2_client):
    ask(uid2_client, "user@example.com")
    with pytest.raises(errors.AuthError):
        asyncio.run(uid2_client.map_identities(["user@example.com"]))


@pytest.mark.uid2(role="advertiser")
def test_the_role_of_the_environment(uid2_env):
    from uid2_async import UID2Client

    async def main():
        async with UID2Client.from_env() as client:
            await client.map_identities(["user@example.com"])

    asyncio.run(main())
    assert uid2_env.calls[0].client == "advertiser"


@pytest.mark.uid2(scope="EUID", role="advertiser")
def test_euid(uid2_client, uid2_operator, uid2_env):
    from uid2_async import UID2Client

    assert uid2_client.scope is IdentityScope.EUID
    assert UID2Client.from_env(IdentityScope.EUID).base_urls == (uid2_operator.url,)
    asyncio.run(uid2_client.map_identities(["user@example.com"]))


@pytest.mark.uid2(scope=IdentityScope.EUID)
class TestAnotherScope:
    def test_the_client_s(self, uid2_client):
        assert uid2_client.scope is IdentityScope.EUID
"""

RESET = """
import asyncio

import pytest

from uid2_async import OptedOut
from uid2_async.operator import Fault


@pytest.mark.parametrize("again", range(2))
def test_nothing_is_left_of_the_test_before(uid2_client, uid2_operator, again):
    assert uid2_operator.calls == []
    tokens = asyncio.run(uid2_client.generate_token("user@example.com"))
    assert tokens != OptedOut()
    assert [call.status for call in uid2_operator.calls] == [200]
    uid2_operator.opt_out("user@example.com")
    uid2_operator.fail_next(Fault(status=503), times=9)
    uid2_operator.advance(86_400)
"""

CLOCK = """
import asyncio
from datetime import UTC, datetime, timedelta

from uid2_async import TokenState


def test_time_stands_still_and_moves_on(uid2_clock, uid2_client, uid2_operator):
    start = uid2_clock()
    assert uid2_operator.now == start
    tokens = asyncio.run(uid2_client.generate_token("user@example.com"))
    assert tokens.refresh_from == start + timedelta(hours=1)

    uid2_clock.advance(7200)
    assert uid2_operator.now == uid2_clock() == start + timedelta(hours=2)
    assert tokens.state(uid2_clock()) is TokenState.DUE
    fresh = asyncio.run(uid2_client.refresh_token(tokens))
    assert fresh.refresh_from == start + timedelta(hours=3)


def test_without_it_time_goes_by(uid2_operator):
    now = datetime.now(UTC)
    assert abs(uid2_operator.now - now) < timedelta(seconds=30)
    assert uid2_operator.now >= now - timedelta(milliseconds=1)
"""

WRONG = """
import pytest


@pytest.mark.uid2(fault=[503])
def test_no_such_keyword(uid2_operator): ...


@pytest.mark.uid2("EUID")
def test_no_keyword(uid2_operator): ...


@pytest.mark.uid2(scope="UID3")
def test_no_such_scope(uid2_operator): ...


@pytest.mark.uid2(role="reader")
def test_no_such_role(uid2_operator): ...
"""

NO_AIOHTTP = """
import sys

def test_nothing_was_loaded():
    assert "uid2_async.pytest_plugin" in sys.modules
    assert not {"aiohttp", "cryptography", "msgspec", "uid2_async.client"} & {
        *sys.modules
    }
"""


def test_the_fixtures_keep_their_promises(count_outcomes: Count) -> None:
    """What the marker sets up, what each test begins with, and whose clock it is.

    marker: People, faults, roles and scope, for a module, a class or a test.
    reset: Calls, opt-outs, faults and the clock are those of a new operator.
    clock: Tokens come of age without waiting, and the next test is in the present.
    wrong: The error says what the marker accepts.
    """
    modules = {"marker": MARKER, "reset": RESET, "clock": CLOCK, "wrong": WRONG}
    counts, found = count_outcomes(modules)

    assert counts == {
        "marker": {"passed": 9},
        "reset": {"passed": 2},
        "clock": {"passed": 2},
        "wrong": {"error": 4},
    }
    for told in (
        "keywords scope, role, opted_out, faults.",
        "keywords scope, role, opted_out, faults.",
        "scope='UID2' or 'EUID'.",
        "one of the roles publisher, advertiser,",
    ):
        found.stdout.fnmatch_lines([f"*The marker uid2 takes *{told}*"])


def test_the_plugin_costs_nothing_until_it_is_used(run: Run) -> None:
    """Neither aiohttp nor anything else that we need is loaded with it."""
    run(NO_AIOHTTP, "-p", "no:anyio", "-p", "no:hypothesispytest").assert_outcomes(
        passed=1
    )


def test_loading_it_imports_no_aiohttp() -> None:
    """In a process that has nothing else in it."""
    code = "import sys, uid2_async.pytest_plugin; print('aiohttp' in sys.modules)"
    done = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "False"


def test_it_explains_itself(run: Run) -> None:
    """``--fixtures`` and ``--markers`` say what there is."""
    found = run("", "--fixtures", "--markers")
    found.stdout.fnmatch_lines(["@pytest.mark.uid2(scope='UID2', role='everything'*"])
    found = run("", "--fixtures")
    for name in ("uid2_operator", "uid2_client", "uid2_clock", "uid2_env"):
        found.stdout.fnmatch_lines([f"{name}*"])


def test_pytest_finds_the_installed_plugin() -> None:
    """The entry point names the module."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

    assert project["project"]["entry-points"]["pytest11"] == {
        "uid2": "uid2_async.pytest_plugin"
    }
