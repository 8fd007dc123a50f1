"""A publisher's site on aiohttp.web: log in, tokens that stay fresh, log out.

    python examples/aiohttp_site.py      # then visit http://127.0.0.1:8080/

The operator is the one that the environment names (UID2_BASE_URL, UID2_API_KEY,
UID2_SECRET_KEY); if it names none, an embedded one. The tokens live in a cookie that
scripts cannot read: this server refreshes them, and puts them into bid requests.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from aiohttp import web

from uid2_async import Email, IdentityTokens, OptedOut, TokenState, UID2Client, errors
from uid2_async.integrations.aiohttp import CLIENT, REFRESHER, uid2_context
from uid2_async.operator import LocalOperator
from uid2_async.publisher import cookie_name, from_cookie, to_cookie

FORM = """<!doctype html><title>Log in</title>
<form method="post" action="/login">
  <label>E-mail <input name="email" type="email" required></label>
  <button>Log in</button>
</form>"""
ARTICLE = """<!doctype html><title>Article</title>
<p>The advertising token is {state}.</p>
<form method="post" action="/logout"><button>Log out</button></form>"""


def keep(response: web.StreamResponse, held: IdentityTokens | OptedOut | None) -> None:
    """Put into the cookie what is to be held; None deletes it."""
    # Browsers take a secure cookie from localhost, too.
    cookie = to_cookie(held, http_only=True)
    response.headers.add("Set-Cookie", cookie)


async def log_in(request: web.Request) -> web.Response:
    """Generate tokens once, when a person says who they are."""
    email = str((await request.post()).get("email", ""))
    try:
        answer = await request.app[CLIENT].generate_token(Email(email))
    except errors.InputError:
        raise web.HTTPBadRequest(text="This is no e-mail address.") from None
    except errors.UID2Error:
        # An operator that is down keeps nobody from logging in.
        answer = None
    response = web.Response(status=303, headers={"Location": "/"})
    keep(response, answer if isinstance(answer, IdentityTokens | OptedOut) else None)
    return response


async def show(request: web.Request) -> web.Response:
    """Show a page; tokens are refreshed when that is due, once for all who ask."""
    try:
        held = from_cookie(request.cookies.get(cookie_name()))
    except errors.InputError:
        # Anybody can send any cookie.
        held = None
    if isinstance(held, OptedOut):
        return page(ARTICLE.format(state="not there: this person has opted out"))
    if held is None:
        return page(FORM)
    found = await request.app[REFRESHER].ensure_fresh(held)
    if found.state is TokenState.DEAD:
        response = page(FORM)
        keep(response, None)
        return response
    # Into the bid request with found.tokens, here, while found.state.usable.
    response = page(ARTICLE.format(state=found.state.name.lower()))
    if found.changed:
        opted_out = found.state is TokenState.OPTED_OUT
        keep(response, OptedOut() if opted_out else found.tokens)
    return response


async def log_out(_: web.Request) -> web.Response:
    """Forget the tokens: this is no opt-out, and the operator need not know."""
    response = web.Response(status=303, headers={"Location": "/"})
    keep(response, None)
    return response


def page(text: str) -> web.Response:
    """Make a page that no cache keeps."""
    return web.Response(
        text=text, content_type="text/html", headers={"Cache-Control": "no-store"}
    )


def make_app(
    make_client: Callable[[], UID2Client] = UID2Client.from_env,
) -> web.Application:
    """Make the site."""
    app = web.Application()
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
