"""The keys of an application: each framework opens them by the same words."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from aiohttp import web

from consent import FULL_CONSENT
from uid2_async import (
    BidstreamClient,
    IdentityScope,
    IdentityTokens,
    KeyStore,
    UID2Client,
    errors,
)
from uid2_async.integrations import aiohttp as aiohttp_integration
from uid2_async.operator import Fault, LocalOperator

GetKeys: TypeAlias = Callable[[], Any]
Application: TypeAlias = Callable[[Any], AbstractAsyncContextManager[GetKeys]]


@asynccontextmanager
async def _aiohttp(source: Any) -> AsyncIterator[GetKeys]:
    app = web.Application()
    app.cleanup_ctx.append(aiohttp_integration.uid2_context(keys=source))
    runner = web.AppRunner(app)
    await runner.setup()
    yield lambda: app[aiohttp_integration.KEYS]
    await runner.cleanup()


@asynccontextmanager
async def _starlette(source: Any) -> AsyncIterator[GetKeys]:
    pytest.importorskip("starlette")
    from uid2_async.integrations.starlette import uid2_lifespan  # noqa: PLC0415 - extra

    async with uid2_lifespan(keys=source)(None) as state:
        yield lambda: state["uid2_keys"]


@asynccontextmanager
async def _fastapi(source: Any) -> AsyncIterator[GetKeys]:
    pytest.importorskip("fastapi")
    from fastapi.requests import HTTPConnection  # noqa: PLC0415 - extra

    from uid2_async.integrations.fastapi import get_keys, uid2_lifespan  # noqa: PLC0415 - extra

    async with uid2_lifespan(keys=source)(None) as state:
        connection = HTTPConnection({"type": "http", "state": dict(state)})
        yield lambda: get_keys(connection)


@asynccontextmanager
async def _flask(source: Any) -> AsyncIterator[GetKeys]:
    pytest.importorskip("flask")
    from flask import Flask  # noqa: PLC0415 - extra

    from uid2_async.integrations.flask import UID2  # noqa: PLC0415 - extra

    app = Flask(__name__)
    app.secret_key = "a secret of the application, 40 chars long"
    app.config["UID2"] = {"KEYS": source} if source else {}
    uid2 = UID2(app)
    with app.app_context():
        if source:
            await uid2.akeys()  # a synchronous view may also be the first
        yield lambda: uid2.keys
        uid2.client.close()


@asynccontextmanager
async def _django(source: Any) -> AsyncIterator[GetKeys]:
    pytest.importorskip("django")
    from django.conf import settings  # noqa: PLC0415 - extra
    from django.test.utils import override_settings  # noqa: PLC0415 - extra

    from uid2_async.integrations.django import (  # noqa: PLC0415 - extra
        aget_keys,
        get_client,
        get_keys,
    )

    if not settings.configured:
        settings.configure(SECRET_KEY="overridden below")
    uid2 = {"KEYS": source} if source else {}
    secret = "a secret of the application, 40 chars long"
    with override_settings(UID2=uid2, SECRET_KEY=secret):
        if source:
            await aget_keys()
        yield get_keys
        get_client().close()


APPLICATIONS: dict[str, Application] = {
    "aiohttp": _aiohttp,
    "starlette": _starlette,
    "fastapi": _fastapi,
    "flask": _flask,
    "django": _django,
}


@pytest.fixture
def scope() -> IdentityScope:
    """Run in one system."""
    return IdentityScope.UID2


@pytest.fixture(params=APPLICATIONS)
def application(
    request: pytest.FixtureRequest,
    operator: LocalOperator,
    monkeypatch: pytest.MonkeyPatch,
) -> Application:
    """Give what starts an application where the environment names the operator."""
    monkeypatch.setenv("UID2_BASE_URL", operator.url)
    monkeypatch.setenv("UID2_API_KEY", operator.api_key)
    monkeypatch.setenv("UID2_SECRET_KEY", operator.client_secret)
    return APPLICATIONS[request.param]


@pytest.mark.parametrize("source", ["bidstream", "sharing", "file"])
async def test_keys_open_tokens(
    application: Application, tmp_path: Path, source: str
) -> None:
    """Whether the application fetches them or reads what another process saved."""
    async with UID2Client.from_env() as client:
        tokens = await client.generate_token(
            "user@example.com", tcf_consent_string=FULL_CONSENT
        )
        async with KeyStore(client.fetch_bidstream_keys) as saved:
            saved.save(tmp_path / "keys")
    assert isinstance(tokens, IdentityTokens)
    chosen = tmp_path / "keys" if source == "file" else source
    async with application(chosen) as get_keys:
        assert get_keys().ready
        opened = BidstreamClient(get_keys()).decrypt(tokens.advertising_token)

    assert opened.raw_uid


@pytest.mark.parametrize("source", ["bidstream", "file"])
async def test_an_application_starts_without_keys(
    application: Application, operator: LocalOperator, tmp_path: Path, source: str
) -> None:
    """Its store is not ready, and a use says so."""
    operator.fail_next(Fault(status=401), times=9)
    chosen = tmp_path / "nothing" if source == "file" else source
    async with application(chosen) as get_keys:
        assert not get_keys().ready
        with pytest.raises(errors.KeysUnavailableError):
            BidstreamClient(get_keys()).decrypt("a token")


async def test_a_wrong_source_stops_the_start(application: Application) -> None:
    """As every wrong setting does; a str is not taken for a path."""
    with pytest.raises(errors.ConfigError, match="source of keys"):
        async with application("keys.json"):
            pass


@pytest.mark.parametrize("name", ["fastapi", "flask", "django"])
async def test_keys_that_nobody_configured(
    name: str, operator: LocalOperator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says how to."""
    monkeypatch.setenv("UID2_BASE_URL", operator.url)
    monkeypatch.setenv("UID2_API_KEY", operator.api_key)
    monkeypatch.setenv("UID2_SECRET_KEY", operator.client_secret)
    async with APPLICATIONS[name](None) as get_keys:
        with pytest.raises(
            errors.ConfigError, match=r"KEYS is missing|no keys"
        ) as caught:
            get_keys()
    assert "bidstream" in (caught.value.hint or "")
