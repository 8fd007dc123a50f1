"""T1 to T13: what a TLS handshake can meet."""

from __future__ import annotations

import asyncio
import datetime as dt
import ssl
import tempfile
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import aiohttp
import trustme

from canaries import API_KEY
from certificates import Faults, contexts
from connections import Connections
from fault_bench import Bench, Rows
from fault_server import (
    Exchange,
    hang_up,
    ok,
    reply_bytes,
    rst,
    silence,
    then_close,
)
from uid2_async import SessionPool, errors

rows = Rows()
DAY = dt.timedelta(days=1)


@cache
def authority() -> trustme.CA:
    """Make the one authority that the clients trust."""
    return trustme.CA()


def server_side(host: str = "127.0.0.1", **options: Any) -> ssl.SSLContext:
    """Make a server's context with a certificate of the authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert(host, **options).configure_cert(context)
    return context


def trusting() -> ssl.SSLContext:
    """Make a client's context that trusts the authority."""
    context = ssl.create_default_context()
    authority().configure_trust(context)
    return context


async def is_refused(
    bench: Bench, context: ssl.SSLContext, trust: ssl.SSLContext
) -> errors.CertificateError:
    """The certificate is refused: one connection, and nothing is sent over it."""
    async with bench.server(ok, tls=context) as server:
        client = bench.client(server, pool={"ssl": trust})
        error = await bench.fails(errors.CertificateError, bench.generate(client))
        assert server.received == b""
    assert error.attempts == 1
    assert not error.retryable
    assert bench.spent(client) == 0
    return error


@rows.add("T1", requests=0)
async def unknown_authority(bench: Bench) -> None:
    """Nobody vouches for the server."""
    await is_refused(bench, server_side(), ssl.create_default_context())


@rows.add("T2", requests=0)
async def wrong_host(bench: Bench) -> None:
    """The certificate belongs to another host."""
    await is_refused(bench, server_side("other.example"), trusting())


@rows.add("T3", requests=0)
async def expired(bench: Bench) -> None:
    """The certificate has expired, or this machine's clock says so."""
    now = dt.datetime.now(dt.UTC)
    context = server_side(not_before=now - 2 * DAY, not_after=now - DAY)
    assert "clock" in (await is_refused(bench, context, trusting())).hint


@rows.add("T4", requests=0)
async def not_yet_valid(bench: Bench) -> None:
    """The certificate is not valid yet, or this machine's clock says so."""
    now = dt.datetime.now(dt.UTC)
    context = server_side(not_before=now + DAY, not_after=now + 2 * DAY)
    assert "clock" in (await is_refused(bench, context, trusting())).hint


@rows.add("T5", requests=0)
async def old_versions_only(bench: Bench) -> None:
    """A server of TLS 1.1 is never spoken to."""
    context = server_side()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    async with bench.server(ok, tls=context) as server:
        client = bench.client(server, pool={"ssl": trusting()})
        error = await bench.fails(errors.ConnectError, bench.generate(client))
        assert server.received == b""
    assert error.attempts == 4


@rows.add("T6", requests=1)
async def broken_handshake(bench: Bench) -> None:
    """RST, then FIN, in the handshake; the third connection is good."""
    relays = [rst, hang_up]
    async with bench.server(ok, tls=server_side()) as server:

        async def pass_on(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            if relays:
                step = relays.pop(0)
                await step(Exchange(server, reader, writer, None))
                return
            there = await asyncio.open_connection("127.0.0.1", server.port)
            try:
                await asyncio.gather(pump(reader, there[1]), pump(there[0], writer))
            finally:
                there[1].close()

        front = Connections(pass_on)
        await front.listen("127.0.0.1", 0)
        url = f"https://127.0.0.1:{front.port}"
        client = bench.client(url, pool={"ssl": trusting()})
        await bench.generate(client)
        await client._transport.aclose()
        await front.aclose()
    assert len(bench.delays) == 2


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carry bytes one way, until the end."""
    try:
        while data := await reader.read(65536):
            writer.write(data)
    except OSError:
        pass
    writer.close()


@rows.add("T7", requests=0, within=3.0)
async def hanging_handshake(bench: Bench) -> None:
    """The handshake is bounded with the connection, 5 s by default."""
    async with bench.server(accept=[silence] * 9) as server:
        url = f"https://127.0.0.1:{server.port}"
        client = bench.client(url, pool={"connect_timeout": 0.2, "ssl": trusting()})
        error = await bench.fails(errors.ConnectError, bench.generate(client))
    assert error.attempts == 4
    assert SessionPool("https://x")._connect_timeout == 5.0


@rows.add("T8", requests=0)
async def plain_http(bench: Bench) -> None:
    """No TLS on the TLS port: nothing of the request is sent in clear."""
    got = bytearray()

    async def answer(exchange: Exchange) -> None:
        got.extend(await exchange.reader.read(65536))
        await exchange.write(reply_bytes(b"what?", "400 Bad Request"))
        exchange.writer.close()

    async with bench.server(accept=[answer] * 9) as server:
        url = f"https://127.0.0.1:{server.port}"
        client = bench.client(url, pool={"ssl": trusting()})
        error = await bench.fails(errors.ConnectError, bench.generate(client))
    assert error.attempts <= 4
    assert got
    assert API_KEY.encode() not in got


@rows.add("T9", requests=2)
async def cut_without_notice(bench: Bench) -> None:
    """A body that ends with the connection is never taken for a part of a reply."""

    async def cut(exchange: Exchange) -> None:
        body = exchange.sealed()
        await exchange.write(b"HTTP/1.1 200 OK\r\n\r\n" + body[: len(body) // 2 + 1])
        await asyncio.sleep(0.05)
        # FIN below TLS: no close_notify is sent.
        exchange.writer.transport._ssl_protocol._transport.close()

    async with bench.server(cut, tls=server_side()) as server:
        client = bench.client(server, pool={"ssl": trusting()})
        error = await bench.fails(errors.EnvelopeError, bench.generate(client))
        assert error.attempts == server.connections == 2


@rows.add("T10", requests=3)
async def rotated(bench: Bench) -> None:
    """Old connections go on, and new ones verify the new certificate."""
    context = server_side()
    async with bench.server(ok, then_close(ok), ok, tls=context) as server:
        client = bench.client(server, pool={"ssl": trusting()})
        await bench.generate(client)
        authority().issue_cert("127.0.0.1").configure_cert(context)
        await bench.generate(client)
        assert server.connections == 1
        await bench.generate(client)
        assert server.connections == 2


@rows.add("T11")
async def no_verification(bench: Bench) -> None:
    """A context that verifies nothing, or not the host, is no context."""
    blind = ssl.create_default_context()
    blind.check_hostname = False
    nameless = ssl.create_default_context()
    nameless.check_hostname = False
    blind.verify_mode = ssl.CERT_NONE
    old = ssl.create_default_context()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old.minimum_version = ssl.TLSVersion.TLSv1
    for context in (blind, nameless, old):
        try:
            SessionPool("https://127.0.0.1", ssl=context)
        except errors.ConfigError as error:
            bench.errors.append(error)
    assert len(bench.errors) == 3


@rows.add("T12")
async def session_without_verification(bench: Bench) -> None:
    """A given session must verify certificates, or is rejected."""
    nameless = ssl.create_default_context()
    nameless.check_hostname = False
    for verifies in (False, nameless):
        connector = aiohttp.TCPConnector(ssl=verifies)
        async with aiohttp.ClientSession(connector=connector) as session:
            try:
                SessionPool("https://127.0.0.1", session=session)
            except errors.ConfigError as error:
                bench.errors.append(error)
    assert len(bench.errors) == 2


@rows.add("T13", requests=0)
async def nonconforming(bench: Bench) -> None:
    """What Python 3.13 refuses is named for what it is, and not for an old TLS."""
    with tempfile.TemporaryDirectory() as folder:
        context, trust = contexts(Faults(ca_critical=False), Path(folder))
        error = await is_refused(bench, context, trust)
    assert "Basic Constraints" in error.message
    assert "RFC 5280" in error.hint


test_fault = rows.test()
