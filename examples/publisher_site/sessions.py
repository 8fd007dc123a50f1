"""Sessions in memory: the browser stores only a random session ID."""

from __future__ import annotations

import secrets
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "site_session"


class Session(dict[str, Any]):
    """The data of a visitor.

    Attributes:
        successor: The session that replaces it in the browser, if a login started one.
    """

    successor: Session | None = None


def start_session(request: Request, **values: object) -> None:
    """Start a session with *values* under a new ID, and delete the old one.

    Call this at each login. If the ID stayed the same, an attacker who had planted it
    in the browser (session fixation) would be logged in as well.
    """
    session: Session = request.scope["session"]
    session.clear()
    session.successor = Session(values)


class SessionsInMemory:
    """Gives each request its visitor's session, and deletes empty sessions.

    A site with several processes keeps them in Redis or a database instead.
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
        """Store a session that has started, or delete one that has ended."""
        attributes = "Path=/; HttpOnly; SameSite=Lax"
        self._sessions.pop(name, None)
        if not session:
            return f"{COOKIE}=; Max-Age=0; {attributes}"
        # A session ID from the browser is never adopted.
        name = secrets.token_urlsafe(32)
        self._sessions[name] = session
        return f"{COOKIE}={name}; {attributes}"
