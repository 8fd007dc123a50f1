"""Applications under real servers: many logins at once, outages, and the end.

What the applications do is what the documentation shows: tests/web/sites.py.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from uid2_async.operator import Fault, LocalOperator

for needed in ("django", "flask", "gunicorn", "uvicorn"):
    pytest.importorskip(needed, reason="`nox -s web` installs it")
pytestmark = pytest.mark.web

OK = 200
VISITORS = 40
# All of them have a page within so many seconds if the operator answers or refuses.
SOON = 4.0
HERE = Path(__file__).parent
GUNICORN = ("gunicorn", "--bind", "127.0.0.1:{port}", "--graceful-timeout", "10")
THREADS = (*GUNICORN, "--threads", "4")
# Three processes that are forked from one that has imported the application.
PRELOAD = (*GUNICORN, "--workers", "3", "--threads", "2", "--preload")
UVICORN = ("uvicorn", "--factory", "--port", "{port}", "--log-level", "warning")
SITES = {
    "flask-threads": (*THREADS, "sites:make_flask()"),
    "flask-preload": (*PRELOAD, "sites:make_flask()"),
    "django-threads": (*THREADS, "sites:make_django()"),
    "django-preload": (*PRELOAD, "sites:make_django()"),
    "django-uvicorn": (*UVICORN, "sites:make_django_asgi"),
    "starlette": (*UVICORN, "sites:make_starlette"),
    "fastapi": (*UVICORN, "sites:make_fastapi"),
    "aiohttp": ("sites",),
}
# The prefixes of views: synchronous ones, and coroutines.
KINDS = {name: ("", "a") if name[:2] in {"fl", "dj"} else ("a",) for name in SITES}


class Site:
    """An application that runs in a server."""

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        """Visit it by its *url*."""
        self.url = url
        self._process = process
        self._stopped = False

    def stop(self) -> None:
        """Send SIGTERM, once: another one interrupts the end of some servers."""
        if not self._stopped and self._process.returncode is None:
            self._process.terminate()
        self._stopped = True

    def _browser(self) -> aiohttp.ClientSession:
        """Start a browser, which takes this machine for secure."""
        jar = aiohttp.CookieJar(unsafe=True, treat_as_secure_origin=self.url)
        return aiohttp.ClientSession(self.url, cookie_jar=jar)

    async def log_in(self, number: int, kind: str) -> bool:
        """Log one visitor in; return whether there are tokens."""
        async with self._browser() as browser:
            return await _log_in(browser, number, kind)

    async def _visit(self, number: int, kind: str) -> tuple[int, bool, bool]:
        """Log one visitor in, and read a page: its status, and whether of tokens."""
        async with self._browser() as browser:
            logged_in = await _log_in(browser, number, kind)
            async with browser.get(f"/{kind}page") as reply:
                page = reply.status == OK and await reply.json()
                return reply.status, logged_in, page

    async def visit(self, kinds: Sequence[str]) -> list[tuple[int, bool, bool]]:
        """Log many visitors in at once."""
        visits = [
            self._visit(number, kinds[number % len(kinds)])
            for number in range(VISITORS)
        ]
        return await asyncio.gather(*visits)


async def _log_in(browser: aiohttp.ClientSession, number: int, kind: str) -> bool:
    form = {"email": f"{number}@example.com"}
    async with browser.post(f"/{kind}login", data=form) as reply:
        return reply.status == OK and bool(await reply.json())


def free_port() -> int:
    """Find a port for a server."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@asynccontextmanager
async def serve(name: str, operator: LocalOperator) -> AsyncIterator[Site]:
    """Run a site, and see that it ends by itself on SIGTERM."""
    port = free_port()
    command = [one.format(port=port) for one in SITES[name]]
    env = {
        **os.environ,
        "PORT": str(port),
        "UID2_BASE_URL": operator.url,
        "UID2_API_KEY": operator.api_key,
        "UID2_SECRET_KEY": operator.client_secret,
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[1])]),
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *command),
        cwd=HERE,
        env=env,
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        await _wait_until_up(port, process)
        site = Site(process, f"http://127.0.0.1:{port}")
        yield site
        site.stop()
        _, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert process.returncode in {0, -signal.SIGTERM}
    for word in (b"Traceback", b"@example.com", b"Warning", b"never awaited"):
        assert word not in errors, errors.decode()


async def _wait_until_up(port: int, process: asyncio.subprocess.Process) -> None:
    """Wait until the port is open."""
    while process.returncode is None:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            await writer.wait_closed()
            return
    assert process.stderr is not None
    raise AssertionError((await process.stderr.read()).decode())


@pytest.mark.parametrize("outage", ["hanging", "401", "stopped"])
@pytest.mark.parametrize("name", SITES)
async def test_logins_at_once_and_an_outage(name: str, outage: str) -> None:
    """Each of 40 visitors has a token that opens; in an outage each has a page, soon.

    If the operator hangs and each visitor asked it in turn, the last would wait 30 s.
    """
    async with LocalOperator() as operator, serve(name, operator) as site:
        healthy = await _time(site, name, tokens=True)
        if outage == "stopped":
            await operator.__aexit__()
        fault = Fault(delay=60.0) if outage == "hanging" else Fault(status=401)
        operator.fail_next(fault, times=1_000)
        took = await _time(site, name, tokens=False)
        print(f"{name}: {took:.1f} s, else {healthy:.1f} s")  # noqa: T201 - with -s
        # A call to an operator that hangs takes 3 s by itself. What the machine is busy
        # with comes on top, and slows healthy visits down as well.
        limit = SOON + (2 * healthy if outage == "hanging" else 0)
        assert took < limit


async def _time(site: Site, name: str, *, tokens: bool) -> float:
    """Let everybody visit; return the seconds that it took."""
    began = time.monotonic()
    assert await site.visit(KINDS[name]) == [(200, tokens, tokens)] * VISITORS
    return time.monotonic() - began


@pytest.mark.parametrize("name", SITES)
async def test_the_end_while_requests_are_under_way(name: str) -> None:
    """Requests that are served when SIGTERM arrives still get tokens."""
    async with LocalOperator() as operator, serve(name, operator) as site:
        operator.fail_next(Fault(delay=1.0), times=1_000)
        kinds = KINDS[name]
        logins = [
            asyncio.ensure_future(site.log_in(number, kinds[number % len(kinds)]))
            for number in range(2)  # even if one worker gets both, it has two threads
        ]
        while operator.most_in_flight < len(logins):  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.02)
        site.stop()
        assert await asyncio.gather(*logins) == [True] * len(logins)
