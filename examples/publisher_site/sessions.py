"""Sessions in memory: the browser holds a random name and nothing else."""

from __future__ import annotations

import secrets
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "site_session"


class SessionsInMemory:
    """Gives each request its visitor's session, and forgets sessions left empty.

    A site of several processes keeps them in Redis or a database instead.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Wrap *app*."""
        self._app = app
        self._sessions: dict[str, dict[str, Any]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        name = HTTPConnection(scope).cookies.get(COOKIE, "")
        session = scope["session"] = self._sessions.get(name, {})
        known = bool(session)

        async def send_with_cookie(message: Message) -> None:
            if message["type"] == "http.response.start" and bool(session) != known:
                headers = MutableHeaders(scope=message)
                headers.append("Set-Cookie", self._start_or_end(name, session))
            await send(message)

        await self._app(scope, receive, send_with_cookie)

    def _start_or_end(self, name: str, session: dict[str, Any]) -> str:
        """Keep a session that has begun or forget one that has ended."""
        attributes = "Path=/; HttpOnly; SameSite=Lax"
        if not session:
            self._sessions.pop(name, None)
            return f"{COOKIE}=; Max-Age=0; {attributes}"
        # A name that the browser brought along is never taken over.
        name = secrets.token_urlsafe(32)
        self._sessions[name] = session
        return f"{COOKIE}={name}; {attributes}"
