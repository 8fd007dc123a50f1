"""The client for synchronous code."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import pages
from uid2_async import (
    BidstreamClient,
    BlockingClient,
    IdentityTokens,
    KeyStore,
    MapOptions,
    OptedOut,
    TokenRefresher,
    UID2Client,
    errors,
    map_file,
)
from uid2_async._traceback import unwrapped
from uid2_async.blocking import BlockingKeyStore, BlockingTokenRefresher
from uid2_async.operator import Fault, LocalOperator
from uid2_async.publisher import InvalidIdentity, Unavailable

PAIRS = [
    (BlockingClient, UID2Client),
    (BlockingTokenRefresher, TokenRefresher),
    (BlockingKeyStore, KeyStore),
]


@pytest.fixture
def operator() -> Iterator[LocalOperator]:
    """Run an operator on a thread."""
    with LocalOperator.in_thread() as running:
        yield running


@pytest.fixture
def environ(operator: LocalOperator) -> dict[str, str]:
    """Name the operator."""
    return {
        "UID2_BASE_URL": operator.url,
        "UID2_API_KEY": operator.api_key,
        "UID2_SECRET_KEY": operator.client_secret,
    }


@pytest.fixture
def uid2(environ: dict[str, str]) -> Iterator[BlockingClient]:
    """Give a client, and see that nothing of it stays."""
    with BlockingClient.from_env(environ=environ) as client:
        yield client
    assert "uid2-blocking" not in {one.name for one in threading.enumerate()}


@pytest.mark.parametrize(("blocking", "original"), PAIRS)
def test_every_coroutine_method_has_a_blocking_form(
    blocking: type, original: type
) -> None:
    """Of the same signature and docstring; aclose is close."""
    names = {
        name
        for name, member in inspect.getmembers(original, inspect.iscoroutinefunction)
        if not name.startswith("_") and name != "aclose"
    }
    for name in names:
        ours, theirs = getattr(blocking, name), getattr(original, name)
        assert inspect.signature(ours) == inspect.signature(theirs)
        assert inspect.getdoc(ours) == inspect.getdoc(theirs)
        assert not inspect.iscoroutinefunction(ours)


def test_what_makes_the_objects_takes_the_same_arguments() -> None:
    """But for the client, which is the object itself."""

    def parameters(function: Any, *without: str) -> list[inspect.Parameter]:
        found = inspect.signature(unwrapped(function)).parameters.values()
        return [one for one in found if one.name not in {"self", "cls", *without}]

    same = [
        (BlockingClient.__init__, UID2Client.__init__, ""),
        (BlockingClient.from_env.__func__, UID2Client.from_env.__func__, ""),
        (BlockingClient.with_options, UID2Client.with_options, ""),
        (BlockingClient.token_refresher, TokenRefresher.__init__, "client"),
        (BlockingClient.bidstream_keys, KeyStore.__init__, "fetch"),
        (BlockingClient.sharing_keys, KeyStore.__init__, "fetch"),
        # An asyncio.Event is of no use to a thread: Ctrl-C ends the job.
        (BlockingClient.map_file, map_file, "client stop _system"),
    ]
    for ours, theirs, without in same:
        assert parameters(ours) == parameters(theirs, *without.split())


def test_the_migration_page_names_what_there_is() -> None:
    """Its table has the methods of both clients side by side."""
    page = pages.ROOT / "docs" / "guides" / "from-official-sdk.md"
    table = page.read_text(encoding="utf-8").split("## Call by call")[1]
    rows = [
        row.split(" | ") for row in table.split("## ")[0].splitlines() if "`" in row
    ]
    both = set()
    for _, blocking, original in rows[1:]:
        here = re.findall(r"`(?:await )?uid2\.(\w+)", blocking)
        there = re.findall(r"`(?:await )?client\.(\w+)", original)
        assert all(hasattr(BlockingClient, name) for name in here)
        assert all(hasattr(UID2Client, name) for name in there)
        both |= set(here) & set(there)
    assert both >= {"generate_token", "refresh_token", "map_identities"}


def test_many_threads_share_one_client(
    uid2: BlockingClient, operator: LocalOperator
) -> None:
    """Every thread gets its own answers."""

    def work(thread: int) -> int:
        emails = [f"{thread}-{number}@example.com" for number in range(5)]
        replies = [uid2.generate_token(email) for email in emails]
        return sum(isinstance(reply, IdentityTokens) for reply in replies)

    with ThreadPoolExecutor(20) as threads:
        assert sum(threads.map(work, range(20))) == 100
    assert len(operator.calls) == 100


def test_a_refresher_and_keys_for_threads(
    uid2: BlockingClient, operator: LocalOperator, tmp_path: Path
) -> None:
    """They live in the loop of the client, and end with it."""
    tokens = uid2.generate_token("user@example.com")
    assert isinstance(tokens, IdentityTokens)
    with uid2.token_refresher(clock=lambda: operator.now) as refresher:
        assert not refresher.ensure_fresh(tokens).changed
        operator.advance(7_200)
        assert refresher.ensure_fresh(tokens).changed
        operator.advance(-7_200)
    with uid2.bidstream_keys() as keys:
        assert keys.ready
        found = BidstreamClient(keys).decrypt(tokens.advertising_token)
        assert found.raw_uid
        keys.save(tmp_path / "keys")
    assert uid2.sharing_keys().ring
    with pytest.raises(errors.ConfigError):
        uid2.token_refresher(timeout=-1)


def test_keys_that_cannot_be_had(uid2: BlockingClient, operator: LocalOperator) -> None:
    """A block needs keys, unless it says otherwise; nobody asks again at once."""
    operator.fail_next(Fault(status=401), times=9)
    with pytest.raises(errors.AuthError), uid2.bidstream_keys():
        pass
    asked = len(operator.calls)
    with uid2.bidstream_keys(required=False) as keys:
        assert not keys.ready
        with pytest.raises(errors.KeysUnavailableError):
            _ = keys.ring
    assert len(operator.calls) == asked + 1


def test_a_file_is_mapped(uid2: BlockingClient, tmp_path: Path) -> None:
    """As by map_file."""
    source = tmp_path / "in.csv"
    source.write_text("email\nuser@example.com\n", encoding="utf-8")
    uid2.map_file(
        source, tmp_path / "out.csv", options=MapOptions(column="email", type="email")
    )
    assert (tmp_path / "out.csv").read_text(encoding="utf-8").count("\n") == 2


async def test_in_a_running_loop(uid2: BlockingClient) -> None:
    """A call would block it: the error says what to use, and submit() works there."""
    with pytest.raises(errors.ClientLoopError, match="would block"):
        uid2.generate_token("user@example.com")
    future = uid2.submit(UID2Client.generate_token, "user@example.com")
    assert isinstance(await asyncio.wrap_future(future), IdentityTokens)


def test_other_options_share_the_connections(
    uid2: BlockingClient, operator: LocalOperator
) -> None:
    """And closing the one leaves the other open."""
    with uid2.with_options(timeout=0.1) as hasty:
        operator.fail_next(Fault(delay=60.0))
        with pytest.raises(errors.CallTimeoutError):
            hasty.generate_token("user@example.com")
    assert uid2.generate_token("user@example.com")
    assert uid2.generate_token("optout@example.com") == OptedOut()
    assert repr(uid2) == f"<BlockingClient UID2 {operator.url}>"
    assert (uid2.base_urls, uid2.clock_skew) == ((operator.url,), 0.0)


def test_closing_while_a_call_is_under_way(
    uid2: BlockingClient, operator: LocalOperator
) -> None:
    """The caller gets an error, and does not wait."""
    operator.fail_next(Fault(delay=60.0))
    with ThreadPoolExecutor(1) as thread:
        call = thread.submit(uid2.generate_token, "user@example.com")
        while not operator.most_in_flight:
            pass
        uid2.close()
        with pytest.raises(errors.ClientClosedError):
            call.result()
    with pytest.raises(errors.ClientClosedError):
        uid2.generate_token("user@example.com")


def test_wrong_settings_are_found_at_once() -> None:
    """Nothing has to be called for it."""
    with pytest.raises(errors.ConfigError, match="UID2_BASE_URL"):
        BlockingClient.from_env(environ={})
    with pytest.raises(errors.ConfigError):
        BlockingClient("http://x.example", api_key="", client_secret="")


FORKING = """
import gc, json, os, sys, warnings
from concurrent.futures import ThreadPoolExecutor
from uid2_async import BlockingClient, IdentityTokens

warnings.simplefilter("error")
warnings.filterwarnings("ignore", "This process .* is multi-threaded")
uid2 = BlockingClient.from_env()

def work(number):
    found = uid2.generate_token(f"{number}@example.com")
    return isinstance(found, IdentityTokens)

def child():
    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(work, range(20)))
    gc.collect()

with ThreadPoolExecutor(8) as threads:
    half = threads.map(work, range(50))
    assert work(-1)
    pid = os.fork()
    if pid == 0:
        try:
            child()
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    good = sum(half)
    _, status = os.waitpid(pid, 0)
    good += sum(threads.map(work, range(50)))
print(json.dumps([good, os.waitstatus_to_exitcode(status)]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_while_threads_call(environ: dict[str, str]) -> None:
    """Parent and child both go on, and the end of the program closes what is open."""
    done = subprocess.run(  # noqa: S603 - the program above
        [sys.executable, "-W", "error", "-c", FORKING],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert (json.loads(done.stdout), done.stderr) == ([100, 0], "")


@pytest.mark.parametrize(
    ("fault", "identity", "kind"),
    [
        (None, "user@example.com", IdentityTokens),
        (None, "optout@example.com", OptedOut),
        (None, "no email", InvalidIdentity),
        (None, 7, InvalidIdentity),
        (Fault(status=401), "user@example.com", Unavailable),
        (Fault(delay=60.0), "user@example.com", Unavailable),
        (Fault(status=400), "user@example.com", Unavailable),
    ],
    ids=["tokens", "opted out", "invalid", "no text", "401", "hanging", "400"],
)
def test_try_generate_always_returns(
    uid2: BlockingClient,
    operator: LocalOperator,
    caplog: pytest.LogCaptureFixture,
    fault: Fault | None,
    identity: str,
    kind: type,
) -> None:
    """One warning if the operator gave no answer; nobody's identity in it."""
    if fault is not None:
        operator.fail_next(fault)
    reply = uid2.try_generate(identity, timeout=0.5 if fault else 10.0)
    assert isinstance(reply, kind)
    logged = [one for one in caplog.records if one.levelname == "WARNING"]
    assert len(logged) == (kind is Unavailable)
    assert str(identity) not in caplog.text


def test_a_failure_spares_the_next_logins(
    uid2: BlockingClient, operator: LocalOperator, caplog: pytest.LogCaptureFixture
) -> None:
    """After a failure nobody waits for the operator, nor logs, for some seconds."""
    operator.fail_next(Fault(status=401), times=9)
    replies = [uid2.try_generate(f"{one}@example.com") for one in range(5)]
    assert [type(reply) for reply in replies] == [Unavailable] * 5
    assert len(operator.calls) == 1
    assert len(caplog.records) == 1
    assert isinstance(uid2.try_generate("no email"), InvalidIdentity)
    # Each client has its own.
    other = uid2.with_options(timeout=9.0)
    assert isinstance(other.try_generate("no email"), InvalidIdentity)
    assert isinstance(other.try_generate("user@example.com"), Unavailable)
    assert len(operator.calls) == 2
