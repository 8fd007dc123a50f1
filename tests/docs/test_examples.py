"""The examples in docstrings run, each against the embedded operator."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import doctest
import hashlib
import io
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pandas as pd
import pytest

import uid2_async
from uid2_async import IdentityTokens, UID2Client, bidstream, operator, publisher
from uid2_async.operator import LocalOperator

# Those that people use most; the first example of each is shown in the reference.
NAMES = (
    *("UID2Client", "UID2Client.from_env", "UID2Client.generate_token"),
    *("UID2Client.refresh_token", "UID2Client.map_identities"),
    *("UID2Client.opt_out_status", "BlockingClient", "IdentityTokens", "IdentityMap"),
    *("Email", "Phone", "EmailHash", "TokenRefresher", "try_generate", "map_frame"),
    *("BulkMapper", "MappingState", "KeyStore", "BidstreamClient", "SharingClient"),
    *("RetryPolicy", "UID2Error", "LocalOperator", "SealedCookie"),
    *("map_file", "MapOptions", "refresh_state"),
)
# They start a loop of their own.
BLOCKING = {"BlockingClient"}


def find(name: str) -> Any:
    """Find a public name."""
    for home in (uid2_async, publisher, operator):
        found: Any = home
        for part in name.split("."):
            found = getattr(found, part, None)
        if found is not None:
            return found
    raise LookupError(name)


def examples(name: str) -> tuple[CodeType, str]:
    """Return the code of the examples of a name, and what it prints."""
    found = doctest.DocTestParser().get_examples(find(name).__doc__ or "")
    module = ast.parse("")
    for example in found:
        tree = ast.parse(example.source)
        if example.want and isinstance(tree.body[-1], ast.Expr):
            # As at the prompt: what an expression results in is shown.
            source = f"print(repr({ast.unparse(tree.body[-1])}))"
            tree.body[-1:] = ast.parse(source).body
        module.body += tree.body
    code = compile(module, name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    return code, "".join(example.want for example in found)


async def names(client: UID2Client, op: LocalOperator) -> dict[str, Any]:
    """Return what the examples take for granted."""
    tokens = await client.generate_token("user@example.com")
    mapped = await client.map_identities(["user@example.com"])
    assert isinstance(tokens, IdentityTokens)
    public = {
        name: getattr(home, name)
        for home in (uid2_async, bidstream, operator, publisher)
        for name in home.__all__
    }
    return {
        **public,
        "UTC": UTC,
        "bid_request": publisher.add_openrtb_eid({}, tokens, "2.6"),
        "client": client,
        "datetime": datetime,
        "df": pd.DataFrame({"mail": ["user@example.com"]}),
        "emails": ["user@example.com"],
        "hashlib": hashlib,
        "key": "0123456789abcdef0123456789abcdef",
        "op": op,
        "raw_uid": mapped[0].raw_uid,
        "request": type("Request", (), {"cookies": {}}),
        "response": type(
            "Response",
            (),
            {"set_cookie": lambda *_, **__: None, "delete_cookie": print},
        )(),
        "tokens": tokens,
    }


@pytest.mark.parametrize("name", NAMES)
def test_the_example_runs(
    name: str,
    tmp_path: Path,
    environment: Mapping[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It needs nothing but the public names, and prints what it says."""
    code, wanted = examples(name)
    assert code.co_code != compile("", "", "exec").co_code
    monkeypatch.chdir(tmp_path)
    customers = "mail\nuser@example.com\noptout@example.com\n"
    (tmp_path / "customers.csv").write_text(customers, encoding="utf-8")
    for variable in ("UID2_BASE_URL", "UID2_API_KEY", "UID2_SECRET_KEY"):
        monkeypatch.setenv(variable, environment[variable])
    printed = io.StringIO()

    async def run() -> dict[str, Any]:
        async with LocalOperator() as op, UID2Client.from_env() as client:
            given = await names(client, op)
            if name not in BLOCKING:
                with contextlib.redirect_stdout(printed):
                    await (FunctionType(code, given)() or asyncio.sleep(0))
            return given

    given = asyncio.run(run())
    if name in BLOCKING:
        exec(code, given)  # noqa: S102 - our own documentation
    assert printed.getvalue().startswith(wanted)
