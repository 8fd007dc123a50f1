"""A publisher's site: login, fresh tokens, logout, opt-out.

``python -m nox -s site`` runs it. The server keeps the tokens in the session and
refreshes them when they are due. The page asks the server every two seconds.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Form, HTTPException, Request
from fastapi.responses import RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from uid2_async import (
    Email,
    Freshness,
    IdentityTokens,
    InsufficientConsent,
    OptedOut,
    TokenRefresher,
    TokenState,
    UID2Client,
)
from uid2_async.errors import InputError, UID2Error
from uid2_async.integrations.fastapi import ClientDep, FreshnessDep, uid2_lifespan
from uid2_async.operator import LocalOperator
from uid2_async.publisher import from_session, to_openrtb_eid, to_session

from .sessions import SessionsInMemory, start_session

HERE = Path(__file__).parent
MEANINGS = {
    TokenState.FRESH: "The advertising token goes into bid requests.",
    TokenState.DUE: "The advertising token is still good, and soon refreshed.",
    TokenState.EXPIRED_REFRESHABLE: "The advertising token has expired.",
    TokenState.DEAD: "There is no token.",
    TokenState.OPTED_OUT: "This person has opted out: there is no token.",
}
# The page needs only its own files, and no script in what it shows can run.
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; connect-src 'self'; img-src data:; script-src 'self'; "
        "style-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
templates = Jinja2Templates(HERE / "templates")
router = APIRouter()


class SafeHeaders:
    """Adds headers that restrict the browser to what the page needs."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap *app*."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self._app(scope, receive, send_with_headers)


def make_app(operator: LocalOperator) -> FastAPI:
    """Create the site. Its clock is the operator's, which a button sets forward."""

    def now() -> datetime:
        return operator.now

    app = FastAPI(
        openapi_url=None,
        lifespan=uid2_lifespan(
            lambda: UID2Client(
                operator.url,
                api_key=operator.api_key,
                client_secret=operator.client_secret,
                timeout=3.0,
                clock=now,
            ),
            make_refresher=lambda client: TokenRefresher(client, clock=now),
        ),
    )
    app.add_middleware(SessionsInMemory)
    app.add_middleware(SafeHeaders)
    app.mount("/static", StaticFiles(directory=HERE / "static"))
    app.include_router(router)
    app.state.operator = operator
    return app


@router.get("/")
async def show_page(
    request: Request, client: ClientDep, freshness: FreshnessDep
) -> Response:
    """Show the login form, or the identity of the visitor who is logged in."""
    view = None
    if "email" in request.session:
        view = await _view(request, client, freshness)
    return templates.TemplateResponse(request, "page.html", {"view": view})


@router.get("/identity")
async def tell_identity(
    request: Request, client: ClientDep, freshness: FreshnessDep
) -> dict[str, Any]:
    """Return what the page's script should show now."""
    if "email" not in request.session:
        raise HTTPException(401)
    return await _view(request, client, freshness)


@router.post("/login")
async def log_in(
    request: Request, client: ClientDep, email: Annotated[str, Form()] = ""
) -> Response:
    """Generate tokens for an email address, and start a session with them."""
    try:
        identity = await _generate(client, email)
    except InputError:
        problem, status = "Please enter an email address, such as me@example.com.", 422
    except UID2Error as error:
        problem, status = f"No tokens could be had: {error} {error.hint}", 503
    else:
        start_session(request, email=email, uid2=identity, refreshes=0)
        return _back()
    context = {"entered": email, "problem": problem}
    return templates.TemplateResponse(request, "page.html", context, status_code=status)


@router.post("/logout")
async def log_out(request: Request) -> Response:
    """End the session and delete its tokens. This is not an opt-out."""
    request.session.clear()
    return _back()


@router.post("/opt-out")
async def opt_out(request: Request, client: ClientDep) -> Response:
    """Opt the visitor out of UID2 permanently, and delete the tokens."""
    if "email" in request.session:
        try:
            await client.opt_out(Email(request.session["email"]))
        except UID2Error as error:
            raise HTTPException(
                503, f"The opt-out did not go through: {error} {error.hint}"
            ) from None
        request.session["uid2"] = to_session(OptedOut())
    return _back()


@router.post("/advance")
async def advance(
    request: Request, hours: Annotated[int, Form(ge=1, le=1_000)]
) -> Response:
    """Set the operator's clock forward."""
    operator: LocalOperator = request.app.state.operator
    operator.advance(hours * 3_600)
    return _back()


def _back() -> Response:
    """Redirect the browser to the page with a GET."""
    return RedirectResponse("/", status_code=303)


async def _generate(client: UID2Client, email: str) -> dict[str, Any]:
    """Generate tokens, in the form that the session stores."""
    reply = await client.generate_token(Email(email))
    # Only EUID requires consent. Without it, there is no token either.
    return to_session(OptedOut() if isinstance(reply, InsufficientConsent) else reply)


async def _view(
    request: Request, client: UID2Client, freshness: Freshness | None
) -> dict[str, Any]:
    """Return what the page shows. Dead or missing tokens are generated again."""
    session = request.session
    error = freshness.error if freshness else None
    if freshness and freshness.tokens and freshness.changed:
        session["refreshes"] += 1
    if "uid2" not in session:
        try:
            session["uid2"] = await _generate(client, session["email"])
        except UID2Error as failure:
            error = failure
    now = request.app.state.operator.now
    held = from_session(session.get("uid2"))
    return {
        "email": session["email"],
        "refreshes": session["refreshes"],
        "error": f"{error} {error.hint}" if error else "",
        "now": now.isoformat(timespec="seconds"),
        **_describe(held, now),
    }


def _describe(held: IdentityTokens | OptedOut | None, now: datetime) -> dict[str, Any]:
    """Describe the tokens for the page. A token is shown while it is usable."""
    state = TokenState.DEAD
    if isinstance(held, OptedOut):
        state = TokenState.OPTED_OUT
    elif held is not None:
        state = held.state(now)
    view = {
        "state": state.name.lower(),
        "title": state.value.capitalize(),
        "meaning": MEANINGS[state],
    }
    if isinstance(held, IdentityTokens) and state.usable:
        view |= {
            "advertising_token": held.advertising_token,
            "refresh_from": held.refresh_from.isoformat(timespec="seconds"),
            "identity_expires": held.identity_expires.isoformat(timespec="seconds"),
            "eid": json.dumps(to_openrtb_eid(held), indent=2),
        }
    return view
