"""A publisher's site with Django, in one file: login, fresh tokens, logout.

    python examples/django_site.py       # then visit http://127.0.0.1:8080/

It uses the operator that the environment names (UID2_BASE_URL, UID2_API_KEY,
UID2_SECRET_KEY), or else an embedded one. In production, run it with threads and your
own secret: SITE_SECRET=... gunicorn --threads 8 'django_site:make_wsgi()'
"""

from __future__ import annotations

import os
import secrets
from typing import Any

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.management import execute_from_command_line
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.middleware.csrf import get_token
from django.urls import path
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST

from uid2_async import OptedOut
from uid2_async.integrations.django import Visitor
from uid2_async.operator import LocalOperator
from uid2_async.publisher import InvalidIdentity

CSRF = '<input type="hidden" name="csrfmiddlewaretoken" value="{csrf}">'
HEAD = """<!doctype html><html lang="en">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">"""
FORM = f"""{HEAD}<title>Log in</title>
<form method="post" action="/login">{CSRF}
  <label>Email <input name="email" type="email" required></label>
  <button>Log in</button>
</form>"""
ARTICLE = f"""{HEAD}<title>Article</title>
<p>The advertising token is {{state}}.</p>
<form method="post" action="/logout">{CSRF}<button>Log out</button></form>"""


class Request(HttpRequest):
    """A request after the middleware has processed it."""

    uid2: Visitor


@require_POST
def log_in(request: Request) -> HttpResponse:
    """Generate tokens. The login works even if the operator is down."""
    reply = request.uid2.generate(request.POST.get("email", ""))
    if isinstance(reply, InvalidIdentity):
        return HttpResponse("This is not an email address.", status=400)
    return HttpResponseRedirect("/")


@never_cache
async def show(request: Request) -> HttpResponse:
    """Show a page. Tokens are refreshed if due, once for all concurrent requests."""
    csrf = get_token(request)
    if isinstance(request.uid2.identity, OptedOut):
        state = "not there: this person has opted out"
        return HttpResponse(ARTICLE.format(state=state, csrf=csrf))
    freshness = await request.uid2.afreshness()
    if freshness is None or freshness.tokens is None:
        return HttpResponse(FORM.format(csrf=csrf))
    # Put freshness.advertising_token into the bid request here, if it is not None.
    state = freshness.state.name.lower()
    return HttpResponse(ARTICLE.format(state=state, csrf=csrf))


@require_POST
def log_out(request: Request) -> HttpResponse:
    """Delete the tokens. This is not an opt-out, so the operator is not called."""
    request.uid2.log_out()
    return HttpResponseRedirect("/")


urlpatterns = [
    path("", show),
    path("login", log_in),
    path("logout", log_out),
]


def make_settings() -> dict[str, Any]:
    """Return what a settings module contains."""
    return {
        "SECRET_KEY": os.environ["SITE_SECRET"],  # all processes have the same one
        "ROOT_URLCONF": __name__,
        "ALLOWED_HOSTS": ["127.0.0.1", "localhost", "testserver"],
        "INSTALLED_APPS": ["uid2_async.integrations.django.UID2Config"],
        "MIDDLEWARE": [
            "django.middleware.security.SecurityMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
            "uid2_async.integrations.django.UID2Middleware",
        ],
    }


def set_up() -> None:
    """Start Django with the settings."""
    settings.configure(**make_settings())
    django.setup()


def make_wsgi() -> Any:
    """Create the site for a WSGI server."""
    set_up()
    return get_wsgi_application()


def make_asgi() -> Any:
    """Create the site for an ASGI server."""
    set_up()
    return get_asgi_application()


def serve() -> None:
    """Serve until Ctrl-C."""
    set_up()
    execute_from_command_line(["django", "runserver", "8080", "--noreload"])


def main() -> None:
    """Serve, with an embedded operator if the environment names none."""
    os.environ.setdefault("SITE_SECRET", secrets.token_urlsafe(32))
    if {"UID2_BASE_URL", "UID2_ENV"} & os.environ.keys():
        serve()
        return
    with LocalOperator.in_thread() as operator:
        os.environ["UID2_BASE_URL"] = operator.url
        os.environ["UID2_API_KEY"] = operator.api_key
        os.environ["UID2_SECRET_KEY"] = operator.client_secret
        serve()


if __name__ == "__main__":
    main()
