"""The fixtures in a foreign project, in every way of running tests.

The tests that README and documentation show run along in each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import pytest

import pages

pytest_plugins = ["pytester"]

Count: TypeAlias = Callable[..., tuple[dict[str, Any], pytest.RunResult]]

SYNCHRONOUS = """
import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from uid2_async import BlockingClient, IdentityTokens, OptedOut, errors


@pytest.mark.parametrize("again", range(3))
def test_each_call_in_a_loop_of_its_own(uid2_client, uid2_operator, again):
    for _ in range(3):
        tokens = asyncio.run(uid2_client.generate_token("user@example.com"))
        assert isinstance(tokens, IdentityTokens)
    assert len(uid2_operator.calls) == 3


def test_several_loops_at_once(uid2_client):
    async def first():
        await uid2_client.generate_token("user@example.com")
        with ThreadPoolExecutor(1) as pool:
            pool.submit(asyncio.run, second()).result()

    async def second():
        with pytest.raises(errors.ClientLoopError):
            await uid2_client.generate_token("user@example.com")

    asyncio.run(first())


def test_threads_with_a_blocking_client(uid2_env):
    with BlockingClient.from_env() as uid2, ThreadPoolExecutor(4) as pool:
        found = list(pool.map(uid2.generate_token, ["user@example.com"] * 8))
    assert all(isinstance(one, IdentityTokens) for one in found)


@pytest.mark.uid2(opted_out=["gone@example.com"])
def test_a_view_that_runs_a_loop(uid2_env):
    from uid2_async import UID2Client

    async def view():
        async with UID2Client.from_env() as client:
            return await client.generate_token("gone@example.com")

    assert asyncio.run(view()) == OptedOut()
"""

PYTEST_ASYNCIO = """
import asyncio

import pytest

from uid2_async import IdentityTokens, OptedOut

marked = pytest.mark.asyncio(loop_scope={scope!r})


@marked
@pytest.mark.parametrize("again", range(3))
async def test_tokens(uid2_client, uid2_operator, again):
    assert isinstance(
        await uid2_client.generate_token("user@example.com"), IdentityTokens
    )
    uid2_operator.opt_out("user@example.com")
    assert await uid2_client.generate_token("user@example.com") == OptedOut()
    assert [call.status for call in uid2_operator.calls] == [200, 200]


@marked
async def test_many_at_once(uid2_client, uid2_operator):
    await asyncio.gather(
        *(uid2_client.map_identities([f"u{{n}}@example.com"]) for n in range(50))
    )
    assert len(uid2_operator.calls) == 50


@marked
async def test_a_cancelled_call(uid2_client, uid2_operator):
    from uid2_async.operator import Fault

    uid2_operator.fail_next(Fault(delay=60))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await uid2_client.generate_token("user@example.com")


@marked
async def test_a_context_manager_and_options(uid2_client):
    async with uid2_client as client:
        await client.with_options(timeout=5).generate_token("user@example.com")


def test_a_synchronous_one_among_them(uid2_client):
    asyncio.run(uid2_client.generate_token("user@example.com"))
"""

ANYIO_GROUP = """
import anyio
import pytest

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio"


async def test_tokens(uid2_client, uid2_operator):
    async with anyio.create_task_group() as tasks:
        for n in range(5):
            tasks.start_soon(uid2_client.generate_token, f"user{n}@example.com")
    assert len(uid2_operator.calls) == 5
"""

WEB = """
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from uid2_async.integrations.fastapi import ClientDep, uid2_lifespan


def make_app(**options):
    app = FastAPI(lifespan=uid2_lifespan(**options))

    @app.get("/{email}")
    async def token(email: str, client: ClientDep) -> str:
        return type(await client.generate_token(email)).__name__

    return app


@pytest.mark.uid2(opted_out=["gone@example.com"], faults=[503])
def test_by_environment(uid2_env):
    with TestClient(make_app()) as browser:
        assert browser.get("/user@example.com").json() == "IdentityTokens"
        assert browser.get("/gone@example.com").json() == "OptedOut"
    assert [call.status for call in uid2_env.calls] == [503, 200, 200]


def test_by_client(uid2_client, uid2_operator):
    with TestClient(make_app(make_client=lambda: uid2_client)) as browser:
        assert browser.get("/user@example.com").json() == "IdentityTokens"
    assert len(uid2_operator.calls) == 1


def test_that_uses_no_fixture_of_ours():
    assert make_app()


@pytest.mark.parametrize("hours", [0, 2])
def test_time(uid2_env, uid2_clock, hours):
    from uid2_async.integrations.flask import UID2
    from flask import Flask

    app = Flask("site")
    app.secret_key = "a secret for tests, of 32 characters at least"
    uid2 = UID2(app)
    log_in = lambda: str(uid2.visitor.generate("user@example.com"))[:0]
    is_changed = lambda: str(uid2.visitor.freshness().changed)
    app.add_url_rule("/", "log_in", log_in, methods=["POST"])
    app.add_url_rule("/", "is_changed", is_changed)
    browser = app.test_client()
    browser.post("/")
    uid2_clock.advance(hours * 3_600)
    assert browser.get("/").text == str(hours > 0)
    with app.app_context():
        uid2.client.close()


@pytest.mark.parametrize("fault", [401, None])
def test_no_outage_of_another_test_counts(uid2_env, fault):
    from uid2_async.integrations.django import get_client
    from uid2_async.publisher import Unavailable
    from uid2_async.operator import Fault
    from django.conf import settings

    if not settings.configured:
        settings.configure(SECRET_KEY="a secret for tests, of 32 characters at least")
    if fault:
        uid2_env.fail_next(Fault(status=fault))
    reply = get_client().try_generate("user@example.com")
    assert isinstance(reply, Unavailable) == bool(fault)
"""

FROZEN = """
import asyncio
from datetime import UTC, datetime, timedelta

import freezegun
import pytest

from uid2_async import (
    BidstreamClient, BlockingClient, IdentityTokens, UID2Client, errors
)
from uid2_async.operator import Fault

try:
    import time_machine
except ImportError:
    time_machine = None

DATES = [
    datetime(1998, 5, 8, tzinfo=UTC),
    datetime.now(UTC),
    datetime.now(UTC) + timedelta(days=9_000),
]


def freeze(kind, when, **options):
    if kind == "freezegun":
        return freezegun.freeze_time(when.replace(tzinfo=None), **options)
    if time_machine is None:
        pytest.skip("time-machine is missing")
    return time_machine.travel(when, tick=False)


@pytest.mark.parametrize("when", DATES)
@pytest.mark.parametrize("kind", ["freezegun", "time-machine"])
def test_frozen(uid2_env, kind, when):
    uid2_env.fail_next(Fault(status=503), times=2)
    with (
        freeze(kind, when),
        BlockingClient.from_env() as uid2,
        uid2.token_refresher() as refresher,
        uid2.bidstream_keys() as keys,
    ):
        tokens = uid2.generate_token("user@example.com")
        assert tokens.identity_expires == when.replace(
            microsecond=when.microsecond // 1000 * 1000
        ) + timedelta(days=3)
        assert not refresher.ensure_fresh(tokens).changed
        assert BidstreamClient(keys).decrypt(tokens.advertising_token)
        with freeze(kind, when + timedelta(hours=2)):
            assert refresher.ensure_fresh(tokens).changed
        uid2_env.fail_next(Fault(delay=60.0))
        with pytest.raises(errors.CallTimeoutError):
            uid2.generate_token("user@example.com", timeout=0.2)


@pytest.mark.parametrize("kind", ["freezegun", "time-machine"])
def test_in_a_loop_of_the_test(uid2_env, kind):
    async def view():
        async with UID2Client.from_env() as client:
            return await client.generate_token("user@example.com")

    uid2_env.fail_next(Fault(status=503))
    with freeze(kind, DATES[0], real_asyncio=True):
        assert isinstance(asyncio.run(view()), IdentityTokens)
"""


BLOCKS = [
    block
    for page in (pages.README, *pages.SITE)
    for block in pages.blocks(page, "python")
    if pages.has_tests(block)
]
# What is said beside a coroutine, by the projects in which it runs.
ALONE, STRICT, AUTO, ANYIO = "alone", "strict", "auto", "anyio"
PROJECTS = {
    ALONE: ("-p", "no:asyncio", "-p", "no:anyio"),
    STRICT: ("-p", "no:anyio", "--asyncio-mode=strict"),
    AUTO: ("-p", "no:anyio", "--asyncio-mode=auto"),
    ANYIO: ("-p", "no:asyncio"),
}


def projects_of(block: pages.Block) -> set[str]:
    """Return where a block runs: everywhere, unless it shows what it needs."""
    if "@pytest.mark.asyncio" in block.code:
        return {STRICT, AUTO}
    if "@pytest.mark.anyio" in block.code:
        return {ANYIO}
    if "\nasync def test_" in block.code:
        return {AUTO}
    return set(PROJECTS)


UNMARKED = PYTEST_ASYNCIO.format(scope="function").replace("@marked\n", "")
# What else runs there, and how many tests of it pass.
MODULES: dict[str, dict[str, tuple[str, int]]] = {
    ALONE: {"synchronous": (SYNCHRONOUS, 6)},
    STRICT: {
        "synchronous": (SYNCHRONOUS, 6),
        # Whether the loop ends before the fixtures or after them.
        "function": (PYTEST_ASYNCIO.format(scope="function"), 7),
        "session": (PYTEST_ASYNCIO.format(scope="session"), 7),
        # A test client with a loop of its own, by environment or with our client.
        "web": (WEB, 7),
        # Operator and client follow the clock; pauses and timeouts end all the same.
        "frozen": (FROZEN, 8),
    },
    AUTO: {
        "unmarked": (
            PYTEST_ASYNCIO.format(scope="function").replace("@marked\n", ""),
            7,
        )
    },
    ANYIO: {"anyio": (ANYIO_GROUP, 1)},
}


# The modes are those of pytest's plugins, whose versions are the same everywhere.
@pytest.mark.once
@pytest.mark.parametrize("project", PROJECTS)
def test_every_test_passes(
    count_outcomes: Count, pytester: pytest.Pytester, project: str
) -> None:
    """With pytest alone, and with each plugin that runs coroutines."""
    for needed in ("anyio", "django", "flask", "freezegun"):
        pytest.importorskip(needed)
    pytest.importorskip("fastapi.testclient", exc_type=ImportError)
    modules = {name: text for name, (text, _) in MODULES[project].items()}
    expected = {name: count for name, (_, count) in MODULES[project].items()}
    for number, block in enumerate(BLOCKS):
        if project in projects_of(block):
            modules[f"block_{number}"] = block.code
            for name, code in pages.saved_files(block).items():
                (pytester.path / name).write_text(code, encoding="utf-8")
            expected[f"block_{number}"] = len(pages.IS_TEST.findall(block.code))

    found, run = count_outcomes(modules, *PROJECTS[project], "--timeout=60")

    # time-machine is not there for each Python.
    if "frozen" in found:
        found["frozen"]["passed"] += found["frozen"].pop("skipped", 0)
    assert found == {name: {"passed": n} for name, n in expected.items()}, run.outlines


@pytest.mark.once
def test_several_processes(count_outcomes: Count) -> None:
    """Each worker of xdist has an operator of its own."""
    pytest.importorskip("xdist")

    found, _ = count_outcomes({"synchronous": SYNCHRONOUS}, "-n", "2")

    assert found == {"synchronous": {"passed": 6}}


def test_only_the_section_on_async_tests_needs_a_plugin() -> None:
    """Three blocks, one for each plugin and mode; all others need pytest alone."""
    needing = [block for block in BLOCKS if projects_of(block) != set(PROJECTS)]

    assert [sorted(projects_of(block)) for block in needing] == [
        [AUTO, STRICT],
        [AUTO],
        [ANYIO],
    ]
    assert len(BLOCKS) - len(needing) == 9


def test_the_page_names_every_fixture() -> None:
    """And says of each what it is."""
    page = (pages.ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
    for name in ("uid2_operator", "uid2_client", "uid2_clock", "uid2_env"):
        assert f"| `{name}` |" in page
