"""A publisher's site with aiohttp.web: login, fresh tokens, logout.

    python examples/aiohttp_site.py      # then visit http://127.0.0.1:8080/

It uses the operator that the environment names (UID2_BASE_URL, UID2_API_KEY,
UID2_SECRET_KEY), or else an embedded one. The tokens are kept in an encrypted cookie.
The server refreshes them and puts them into bid requests.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from functools import partial

from aiohttp import web

from uid2_async import (
    IdentityTokens,
    OptedOut,
    TokenState,
    UID2Client,
    try_generate,
)
from uid2_async.integrations.aiohttp import CLIENT, REFRESHER, uid2_context
from uid2_async.operator import LocalOperator
from uid2_async.publisher import (
    InvalidIdentity,
    SealedCookie,
    from_session,
    to_session,
)

HEAD = """<!doctype html><html lang="en">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">"""
FORM = f"""{HEAD}<title>Log in</title>
<form method="post" action="/login">
  <label>Email <input name="email" type="email" required></label>
  <button>Log in</button>
</form>"""
ARTICLE = f"""{HEAD}<title>Article</title>
<p>The advertising token is {{state}}.</p>
<form method="post" action="/logout"><button>Log out</button></form>"""


COOKIE = web.AppKey("cookie", SealedCookie)


def keep(
    request: web.Request,
    response: web.StreamResponse,
    held: IdentityTokens | OptedOut | None,
) -> None:
    """Store a value in the cookie, or delete the cookie if it is None."""
    content = {} if held is None else {"uid2": to_session(held)}
    request.app[COOKIE].save(response, content)


async def log_in(request: web.Request) -> web.Response:
    """Generate tokens once, when a person says who they are."""
    email = str((await request.post()).get("email", ""))
    # The login works even if the operator is down.
    answer = await try_generate(request.app[CLIENT], email)
    if isinstance(answer, InvalidIdentity):
        raise web.HTTPBadRequest(text="This is not an email address.")
    response = web.Response(status=303, headers={"Location": "/"})
    tokens = isinstance(answer, IdentityTokens | OptedOut)
    keep(request, response, answer if tokens else None)
    return response


async def show(request: web.Request) -> web.Response:
    """Show a page. Tokens are refreshed if due, once for all concurrent requests."""
    cookie = request.app[COOKIE]
    held = from_session(cookie.open(request.cookies.get(cookie.name)).get("uid2"))
    if isinstance(held, OptedOut):
        return page(ARTICLE.format(state="not there: this person has opted out"))
    if held is None:
        return page(FORM)
    found = await request.app[REFRESHER].ensure_fresh(held)
    if found.state is TokenState.DEAD:
        response = page(FORM)
        keep(request, response, None)
        return response
    # If found.state.usable, put found.tokens into the bid request here.
    response = page(ARTICLE.format(state=found.state.name.lower()))
    if found.changed:
        opted_out = found.state is TokenState.OPTED_OUT
        keep(request, response, OptedOut() if opted_out else found.tokens)
    return response


async def log_out(request: web.Request) -> web.Response:
    """Delete the tokens. This is not an opt-out, so the operator is not called."""
    response = web.Response(status=303, headers={"Location": "/"})
    keep(request, response, None)
    return response


def page(text: str) -> web.Response:
    """Return a page that is never cached."""
    return web.Response(
        text=text, content_type="text/html", headers={"Cache-Control": "no-store"}
    )


def from_environment() -> UID2Client:
    """Create a client with a timeout of 3 seconds."""
    return UID2Client.from_env(timeout=3.0)


def make_app(
    make_client: Callable[[], UID2Client] = from_environment,
) -> web.Application:
    """Create the site."""
    app = web.Application()
    # All processes of a site need the same secret.
    app[COOKIE] = SealedCookie(
        os.environ.get("SITE_SECRET") or secrets.token_urlsafe(32)
    )
    app.cleanup_ctx.append(uid2_context(make_client))
    app.add_routes(
        [
            web.get("/", show),
            web.post("/login", log_in),
            web.post("/logout", log_out),
        ]
    )
    return app


def main() -> None:
    """Serve until Ctrl-C."""
    if {"UID2_BASE_URL", "UID2_ENV"} & os.environ.keys():
        web.run_app(make_app(), host="127.0.0.1", port=8080)
        return
    with LocalOperator.in_thread() as operator:
        make_client = partial(
            UID2Client,
            operator.url,
            api_key=operator.api_key,
            client_secret=operator.client_secret,
        )
        web.run_app(make_app(make_client), host="127.0.0.1", port=8080)


if __name__ == "__main__":
    main()
