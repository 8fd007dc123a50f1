"""Sessions in memory: the browser holds a random name and nothing else."""

from __future__ import annotations

import secrets
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "site_session"


class Session(dict[str, Any]):
    """What is known of a visitor.

    Attributes:
        successor: The one that takes its place in the browser, if a login began one.
    """

    successor: Session | None = None


def start_session(request: Request, **values: object) -> None:
    """Begin a session with *values*, under a new name; the old one is forgotten.

    Call it at each login. If the name stayed, whoever had put it into the browser
    before (session fixation) would be logged in as well.
    """
    session: Session = request.scope["session"]
    session.clear()
    session.successor = Session(values)


class SessionsInMemory:
    """Gives each request its visitor's session, and forgets sessions left empty.

    A site of several processes keeps them in Redis or a database instead.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Wrap *app*."""
        self._app = app
        self._sessions: dict[str, Session] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        name = HTTPConnection(scope).cookies.get(COOKIE, "")
        session = scope["session"] = self._sessions.get(name, Session())
        known = bool(session)

        async def send_with_cookie(message: Message) -> None:
            current = session.successor or session
            changed = current is not session or bool(session) != known
            if message["type"] == "http.response.start" and changed:
                headers = MutableHeaders(scope=message)
                headers.append("Set-Cookie", self._start_or_end(name, current))
            await send(message)

        await self._app(scope, receive, send_with_cookie)

    def _start_or_end(self, name: str, session: Session) -> str:
        """Keep a session that has begun or forget one that has ended."""
        attributes = "Path=/; HttpOnly; SameSite=Lax"
        self._sessions.pop(name, None)
        if not session:
            return f"{COOKIE}=; Max-Age=0; {attributes}"
        # A name that the browser brought along is never taken over.
        name = secrets.token_urlsafe(32)
        self._sessions[name] = session
        return f"{COOKIE}={name}; {attributes}"
