"""Proxies, private CAs, and options against the environment."""

from __future__ import annotations

import ssl
import traceback
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from certificates import Faults, contexts, write_ca
from connect_proxy import ConnectProxy, TlsFront
from uid2_async import (
    ClientSideClient,
    ConfigError,
    ConnectError,
    IdentityScope,
    IdentityTokens,
    RetryPolicy,
    ServerError,
    SessionPool,
    UID2Client,
)
from uid2_async.doctor import examine
from uid2_async.doctor.findings import CheckId, Outcome
from uid2_async.errors import CertificateError
from uid2_async.operator import Fault, LocalOperator, OperatorData

LOGIN = "canary-user:p@ss/canary-word"
QUOTED = "canary-user:p%40ss%2Fcanary-word"
SECRET = "Y2FuYXJ5LWNhbmFyeS1jYW5hcnktY2FuYXJ5LWNhbi4="


@pytest.fixture
async def operator() -> AsyncIterator[LocalOperator]:
    """Start an operator without TLS."""
    async with LocalOperator() as operator:
        yield operator


@pytest.fixture
async def environ(
    operator: LocalOperator, tmp_path: Path
) -> AsyncIterator[dict[str, str]]:
    """Put TLS with a private CA before the operator, and name both by variables."""
    server, _ = contexts(Faults(), tmp_path)
    port = int(operator.url.rpartition(":")[2])
    async with TlsFront(port, server) as front:
        yield {
            "UID2_BASE_URL": f"https://127.0.0.1:{front.port}",
            "UID2_API_KEY": operator.api_key,
            "UID2_SECRET_KEY": operator.client_secret,
            "UID2_CA_FILE": str(write_ca(tmp_path)),
            # Nobody listens there: it must stay unread.
            "HTTPS_PROXY": "http://127.0.0.1:1",
        }


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_calls_go_through_a_proxy_to_a_private_ca(
    environ: dict[str, str], tmp_path: Path, scheme: str
) -> None:
    """UID2_PROXY, with credentials, and UID2_CA_FILE are all that is needed."""
    context = contexts(Faults(), tmp_path)[0] if scheme == "https" else None
    async with ConnectProxy(login=LOGIN, context=context) as proxy:
        environ["UID2_PROXY"] = f"{scheme}://{QUOTED}@127.0.0.1:{proxy.port}"
        async with UID2Client.from_env(environ=environ) as client:
            tokens = await client.generate_token("user@example.com")

            assert isinstance(tokens, IdentityTokens)
            assert proxy.tunnels == [environ["UID2_BASE_URL"].removeprefix("https://")]
            shown = repr(client) + repr(vars(client)) + repr(vars(client._transport))
            assert "canary" not in shown


async def test_a_given_session_uses_proxy_and_ca_file_too(
    environ: dict[str, str],
) -> None:
    """None of the options is silently ignored."""
    async with ConnectProxy() as proxy, aiohttp.ClientSession() as session:
        client = UID2Client.from_env(
            environ=environ, session=session, proxy=f"127.0.0.1:{proxy.port}"
        )
        assert await client.generate_token("user@example.com")
        assert len(proxy.tunnels) == 1


async def test_a_proxy_that_refuses_is_named_without_its_password(
    environ: dict[str, str],
) -> None:
    """The hint says what is missing; neither text nor traceback shows credentials."""
    async with ConnectProxy(login=LOGIN) as proxy:
        url = f"http://canary-user:canary-wrong@127.0.0.1:{proxy.port}"
        async with UID2Client.from_env(
            environ=environ, proxy=url, max_retries=0
        ) as client:
            with pytest.raises(ConnectError, match="HTTP 407") as caught:
                await client.generate_token("user@example.com")

    assert "user name and password" in caught.value.hint
    assert "canary" not in "".join(traceback.format_exception(caught.value))
    assert proxy.refused == caught.value.attempts == 1


async def test_only_the_cas_of_the_file_are_trusted(environ: dict[str, str]) -> None:
    """Without the file, the hint names the variable and the option."""
    del environ["UID2_CA_FILE"]
    async with UID2Client.from_env(environ=environ) as client:
        with pytest.raises(CertificateError) as caught:
            await client.generate_token("user@example.com")

    assert "UID2_CA_FILE" in caught.value.hint
    assert "ca_file=" in caught.value.hint


def _make(**options: Any) -> UID2Client:
    return UID2Client("https://x.example", api_key="k", client_secret=SECRET, **options)


def _make_page_client(**options: Any) -> ClientSideClient:
    pair = OperatorData.sample().keypairs[0]
    return ClientSideClient(
        "https://x.example",
        subscription_id=pair.subscription_id,
        server_public_key=pair.public_key,
        origin="https://www.example.com",
        **options,
    )


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: None, "cannot be read: No such file"),
        (lambda path: path.mkdir(), "cannot be read: Is a directory"),
        (lambda path: path.write_bytes(b""), "is not a PEM file"),
        (lambda path: path.write_bytes(_der(path)), "is not a PEM file"),
        (lambda path: path.write_bytes(_key(path)), "is not a PEM file"),
    ],
    ids=["missing", "folder", "empty", "der", "key"],
)
def test_an_unusable_ca_file_is_refused_at_once(
    tmp_path: Path, write: Callable[[Path], object], words: str
) -> None:
    """The error names the file, and the variable if there is one, before any call."""
    path = tmp_path / "private.pem"
    write(path)
    environ = {"UID2_ENV": "prod", "UID2_API_KEY": "k", "UID2_SECRET_KEY": SECRET}

    with pytest.raises(ConfigError, match=words) as caught:
        _make(ca_file=path)
    assert str(path) in str(caught.value)
    assert "BEGIN CERTIFICATE" in caught.value.hint
    with pytest.raises(ConfigError, match=f"UID2_CA_FILE: .*{words}"):
        UID2Client.from_env(environ=environ | {"UID2_CA_FILE": str(path)})


def _der(path: Path) -> bytes:
    """Return a certificate that is not PEM."""
    found = x509.load_pem_x509_certificate(write_ca(path.parent).read_bytes())
    return found.public_bytes(serialization.Encoding.DER)


def _key(path: Path) -> bytes:
    """Return a PEM file that has a private key only."""
    contexts(Faults(), path.parent)
    text = (path.parent / "server.pem").read_bytes()
    return text.partition(b"-----BEGIN CERTIFICATE")[0]


@pytest.mark.parametrize(
    "proxy",
    [
        "",
        "http://",
        "socks5://canary:canary@host:1080",
        "http://canary:can#ary@host:3128",
        "http://canary:ca/nary@host:3128",
        "http://canary@host:port",
        "http://host:3128/canary",
        "http://host:3128?canary",
        "http://cana%3Ary:x@host:3128",
        "http://canary host:3128",
    ],
)
def test_what_is_not_a_proxy_is_refused_and_not_shown(proxy: str) -> None:
    """The error says what a proxy looks like; it may hold a password."""
    environ = {"UID2_ENV": "prod", "UID2_API_KEY": "k", "UID2_SECRET_KEY": SECRET}

    with pytest.raises(ConfigError, match="proxy") as caught:
        _make(proxy=proxy)
    assert "canary" not in "".join(traceback.format_exception(caught.value))
    if proxy:
        with pytest.raises(ConfigError, match="UID2_PROXY: ") as caught:
            UID2Client.from_env(environ=environ | {"UID2_PROXY": proxy})
        assert "canary" not in "".join(traceback.format_exception(caught.value))


def test_plain_http_does_not_leave_the_machine_by_a_proxy() -> None:
    """A loopback operator is exempt from https because its traffic stays here."""
    options: dict[str, Any] = {"proxy": "http://proxy.example.com:3128"}
    with pytest.raises(ConfigError, match="unencrypted"):
        SessionPool("http://localhost:8080", **options)
    with pytest.warns(UserWarning, match="unencrypted"):
        SessionPool("http://localhost:8080", allow_http=True, **options)
    SessionPool("http://localhost:8080", proxy="http://localhost:3128")


@pytest.mark.parametrize("make", [_make, _make_page_client])
def test_options_that_contradict_each_other_are_refused(
    make: Callable[..., Any], tmp_path: Path
) -> None:
    """Nothing is ignored without a word."""
    pool = SessionPool("https://x.example")
    for options in (
        {"retry": RetryPolicy(), "max_retries": 1},
        {"max_retries": -1},
        {"transport": pool, "proxy": "http://localhost:1"},
        {"transport": pool, "ca_file": "x"},
    ):
        with pytest.raises(ConfigError):
            make(**options)
    with pytest.raises(ConfigError, match="ssl and ca_file"):
        SessionPool(
            "https://x.example", ssl=ssl.create_default_context(), ca_file=tmp_path
        )


async def test_max_retries_is_how_often_a_call_is_repeated(
    operator: LocalOperator,
) -> None:
    """0 sends once, N at most N + 1 times; with_options knows it too."""
    operator.fail_next(Fault(status=503), times=3)
    async with UID2Client(
        operator.url,
        api_key=operator.api_key,
        client_secret=operator.client_secret,
        max_retries=0,
    ) as client:
        for retries in (0, 1):
            with pytest.raises(ServerError) as caught:
                await client.with_options(max_retries=retries).generate_token(
                    "user@example.com"
                )
            assert caught.value.attempts == retries + 1


async def test_explicit_options_win_over_the_environment(
    operator: LocalOperator,
) -> None:
    """Variables of options that are given are not even read."""
    environ = {
        "UID2_BASE_URL": "no url",
        "UID2_SECRET_KEY_FILE": "/nonexistent",
        "UID2_PROXY": "socks5://x",
        "UID2_CA_FILE": "/nonexistent",
        "UID2_TIMEOUT": "soon",
        "UID2_API_KEY": operator.api_key,
        "UID2_ALLOW_HTTP": "maybe",
    }
    options: dict[str, Any] = {
        "base_url": operator.url,
        "client_secret": operator.client_secret,
        "timeout": 5,
        "allow_http": False,
    }
    async with UID2Client.from_env(
        environ=environ, proxy=None, ca_file=None, **options
    ) as client:
        assert await client.generate_token("user@example.com")
    async with SessionPool(operator.url) as pool:
        client = UID2Client.from_env(environ=environ, transport=pool, **options)
        assert await client.generate_token("user@example.com")


@pytest.mark.parametrize("value", ["0", "-1", "soon", "nan", "inf"])
def test_a_timeout_is_a_number_of_seconds(value: str) -> None:
    """UID2_TIMEOUT is checked where it is read, and named."""
    environ = {"UID2_ENV": "prod", "UID2_API_KEY": "k", "UID2_SECRET_KEY": SECRET}
    with pytest.raises(ConfigError, match="UID2_TIMEOUT must be a number of seconds"):
        UID2Client.from_env(environ=environ | {"UID2_TIMEOUT": value})
    client = UID2Client.from_env(environ=environ | {"UID2_TIMEOUT": "2.5"})
    assert client._timeout == 2.5


@pytest.mark.parametrize("login", [LOGIN, "canary:other"], ids=["let in", "refused"])
async def test_the_doctor_takes_the_same_way(
    environ: dict[str, str], login: str
) -> None:
    """It checks the proxy in place of the operator's host, and then the operator."""
    async with ConnectProxy(login=login) as proxy:
        environ["UID2_PROXY"] = f"http://{QUOTED}@127.0.0.1:{proxy.port}"
        findings = [one async for one in examine(IdentityScope.UID2, environ)]

    assert "canary" not in repr(findings)
    failed = [one for one in findings if one.outcome is Outcome.FAILED]
    if login == LOGIN:
        assert not failed
        assert any("proxy" in one.message for one in findings)
    else:
        assert [one.check for one in failed] == [CheckId.TLS]
        assert "HTTP 407" in failed[0].message
