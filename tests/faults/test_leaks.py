"""L1 to L8: what leaves by plain functions, texts from outside, streams and logs."""

from __future__ import annotations

import io
import logging
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest
from rich.console import Console
from tenacity import RetryCallState

from canaries import ADVERTISING_TOKEN, API_KEY, EMAIL, UID, find_frames, find_leaks
from canary_arguments import SURROGATE, make_ring, make_tokens
from fault_bench import Bench, Rows
from fault_server import refuse, rst
from uid2_async import (
    BidstreamClient,
    Email,
    IdentityTokens,
    KeyRing,
    Phone,
    SessionPool,
    SharingClient,
    UID2Client,
    errors,
)
from uid2_async._private import logger
from uid2_async.bulk.paths import FileFormatOptions
from uid2_async.cli.job_report import print_first_rows
from uid2_async.models import as_identity
from uid2_async.protocol.normalize import identity_bytes
from uid2_async.publisher import from_cookie, from_session, to_cookie

rows = Rows()


def fails(call: Callable[[], object], kind: type[BaseException]) -> BaseException:
    """The call fails, and neither the error nor a frame of ours shows anything."""
    with pytest.raises(kind) as caught:
        call()
    assert [*find_leaks(caught.value), *find_frames(caught.value)] == []
    return caught.value


FORGED = make_tokens().to_dict() | {"extra": SURROGATE}
PLAIN: tuple[Callable[[], object], ...] = (
    lambda: from_cookie(EMAIL),
    lambda: from_session({"advertising_token": EMAIL}),
    lambda: from_session(f'{{"advertising_token": "{EMAIL}"'),
    lambda: IdentityTokens.from_json(f'["{EMAIL}"]'),
    lambda: IdentityTokens.from_dict({"advertising_token": [EMAIL]}),
    lambda: to_cookie(make_tokens(), name=f"{EMAIL};"),
    lambda: to_cookie(IdentityTokens.from_dict(FORGED)),
    lambda: KeyRing.from_json(f'{{"body": "{EMAIL}"}}'),
    lambda: Phone.parse(EMAIL, country="DE"),
    lambda: Email(EMAIL.encode()),  # type: ignore[arg-type] # on purpose
    lambda: as_identity([EMAIL]),  # type: ignore[arg-type] # on purpose
    lambda: SessionPool("no url", proxy=f"http://me:{API_KEY}@proxy.example.com"),
    lambda: UID2Client("https://x.example.com", api_key=[API_KEY], client_secret=""),  # type: ignore[arg-type] # on purpose
    lambda: SharingClient(make_ring()).encrypt(EMAIL),
)


@rows.add("L1")
async def plain_functions(bench: Bench) -> None:
    """Constructors, class methods and functions end their tracebacks themselves."""
    assert bench.id == "L1"
    for call in PLAIN:
        fails(call, errors.UID2Error)
    ring = make_ring()
    for decrypt in (SharingClient(ring).decrypt, BidstreamClient(ring).decrypt):
        fails(lambda decrypt=decrypt: decrypt(ADVERTISING_TOKEN), errors.TokenError)  # type: ignore[misc] # bound now


@rows.add("L2")
async def foreign_texts(bench: Bench) -> None:
    """An error of Python keeps its class, and says where it arose but not from what."""
    assert bench.id == "L2"
    error = fails(lambda: identity_bytes(EMAIL, UID), KeyError)
    assert "uid2_async.protocol.normalize" in error.__notes__[0]


@rows.add("L3")
async def wrong_types(bench: Bench) -> None:
    """A wrong type is an InputError that names the argument."""
    assert bench.id == "L3"
    error = fails(lambda: from_session(5), errors.InputError)  # type: ignore[arg-type] # on purpose
    assert "stored must be" in str(error)
    fails(lambda: from_cookie(EMAIL.encode()), errors.InputError)  # type: ignore[arg-type] # on purpose
    fails(lambda: IdentityTokens.from_json(timedelta(1)), errors.InputError)  # type: ignore[arg-type] # on purpose


@rows.add("L4", requests=1)
async def steering_texts(bench: Bench) -> None:
    """Neither an operator nor a file name controls a terminal through an error."""
    body = b'{"status": "client_error", "message": "a\\u001b[2J\\nb\\u202e"}'
    async with bench.server(refuse("400 Bad Request", body=body)) as server:
        call = bench.generate(bench.client(server))
        error = await bench.fails(errors.BadRequestError, call)
    assert r"a\x1b[2J\nb\u202e" in error.message
    assert str(error).isprintable()
    named = errors.JobError("a\x1b[2J\nb cannot be read.")
    assert named.args == (named.message,) == (r"a\x1b[2J\nb cannot be read.",)


@rows.add("L5")
async def first_rows(bench: Bench) -> None:
    """People are shown on a terminal, never in the file that stderr goes to."""
    assert bench.id == "L5"
    with tempfile.NamedTemporaryFile("w", suffix=".csv", encoding="utf-8") as output:
        output.write(f"mail,UID\n{EMAIL},{UID}\n")
        output.flush()
        for terminal in (False, True):
            file = io.StringIO()
            file.isatty = lambda terminal=terminal: terminal  # type: ignore[method-assign,misc] # as a terminal says
            console = Console(file=file, force_terminal=True)
            print_first_rows(console, Path(output.name), "mail", FileFormatOptions())
            assert (EMAIL in file.getvalue()) is terminal


@rows.add("L6")
async def forged_lines(bench: Bench) -> None:
    """A line feed does not begin a line of the log."""
    assert bench.id == "L6"
    seen: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: seen.append(record.getMessage())  # type: ignore[method-assign] # to look
    logger.addHandler(handler)
    try:
        logger.warning("failed on %s", "/a\nuid2_async ERROR forged")
    finally:
        logger.removeHandler(handler)
    assert seen == [r"failed on /a\nuid2_async ERROR forged"]


@rows.add("L7", requests=3)
async def seen_between_attempts(bench: Bench) -> None:
    """What a policy of the caller's is shown of an attempt shows nothing either."""
    seen: list[BaseException | None] = []

    def wait(state: RetryCallState) -> float:
        assert state.outcome is not None
        seen.append(state.outcome.exception())
        return 0.0

    async with bench.server(rst) as server:
        client = bench.client(server, retry={"attempts": 3, "wait": wait})
        await bench.fails(errors.ConnectError, bench.generate(client))
    assert len(seen) == 2
    for error in seen:
        assert error is not None
        assert error.__cause__ is error.__context__ is None
        assert [*find_leaks(error), *find_frames(error)] == []


@rows.add("L8", requests=0)
async def callers_session(bench: Bench) -> None:
    """What a given session's own code raises is not carried along, whatever it says."""

    async def refuse_start(*_: object) -> None:
        raise OSError(f"not with {API_KEY}")

    watch = aiohttp.TraceConfig()
    watch.on_request_start.append(refuse_start)
    async with aiohttp.ClientSession(trace_configs=[watch]) as session:
        pool = SessionPool("http://localhost:1", session=session)
        client = bench.client(pool)
        error = await bench.fails(errors.ConnectError, bench.generate(client))
    assert error.__cause__ is error.__context__ is None


test_fault = rows.test()
