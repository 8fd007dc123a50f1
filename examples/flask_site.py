"""A publisher's site with Flask: login, fresh tokens, logout.

    python examples/flask_site.py        # then visit http://127.0.0.1:8080/

It uses the operator that the environment names (UID2_BASE_URL, UID2_API_KEY,
UID2_SECRET_KEY), or else an embedded one. In production, run it with threads and your
own secret: SITE_SECRET=... gunicorn --threads 8 'flask_site:make_app()'
"""

from __future__ import annotations

import os
import secrets

from flask import Blueprint, Flask, make_response, redirect, request
from flask.typing import ResponseReturnValue

from uid2_async import OptedOut
from uid2_async.integrations.flask import UID2
from uid2_async.operator import LocalOperator
from uid2_async.publisher import InvalidIdentity

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

uid2 = UID2()
pages = Blueprint("pages", __name__)


@pages.post("/login")
def log_in() -> ResponseReturnValue:
    """Generate tokens. The login works even if the operator is down."""
    reply = uid2.visitor.generate(request.form.get("email", ""))
    if isinstance(reply, InvalidIdentity):
        return "This is not an email address.", 400
    return redirect("/", code=303)


@pages.get("/")
def show() -> ResponseReturnValue:
    """Show a page. Tokens are refreshed if due, once for all concurrent requests."""
    if isinstance(uid2.visitor.identity, OptedOut):
        return page(ARTICLE.format(state="not there: this person has opted out"))
    freshness = uid2.visitor.freshness()
    if freshness is None or freshness.tokens is None:
        return page(FORM)
    # Put freshness.advertising_token into the bid request here, if it is not None.
    return page(ARTICLE.format(state=freshness.state.name.lower()))


@pages.post("/logout")
def log_out() -> ResponseReturnValue:
    """Delete the tokens. This is not an opt-out, so the operator is not called."""
    uid2.visitor.log_out()
    return redirect("/", code=303)


def page(text: str) -> ResponseReturnValue:
    """Return a page that is never cached."""
    response = make_response(text)
    response.headers["Cache-Control"] = "no-store"
    return response


def make_app() -> Flask:
    """Create the site."""
    app = Flask(__name__)
    app.secret_key = os.environ["SITE_SECRET"]  # all processes have the same one
    uid2.init_app(app)
    app.register_blueprint(pages)
    return app


def main() -> None:
    """Serve until Ctrl-C."""
    os.environ.setdefault("SITE_SECRET", secrets.token_urlsafe(32))
    if {"UID2_BASE_URL", "UID2_ENV"} & os.environ.keys():
        make_app().run(port=8080)
        return
    with LocalOperator.in_thread() as operator:
        os.environ["UID2_BASE_URL"] = operator.url
        os.environ["UID2_API_KEY"] = operator.api_key
        os.environ["UID2_SECRET_KEY"] = operator.client_secret
        make_app().run(port=8080)


if __name__ == "__main__":
    main()
