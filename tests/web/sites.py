"""One small application for each web framework, as the documentation writes them.

Each has ``/login`` and ``/page`` by synchronous views, ``/alogin`` and ``/apage`` by
coroutines, where the framework has both. They answer with a JSON bool: a token? Pages
open theirs with the keys of the process.
"""

from __future__ import annotations

import os
import sys
from typing import Any

SECRET = "a secret of the application, 40 chars long"


def opens(freshness: Any, keys: Any) -> bool:
    """Open the token of a visitor, if there is one."""
    from uid2_async import BidstreamClient

    token = freshness and freshness.advertising_token
    return bool(token and BidstreamClient(keys).decrypt(token).raw_uid)


def make_flask() -> Any:
    """Make a Flask application."""
    from flask import Flask, jsonify, request

    from uid2_async.integrations.flask import UID2

    app = Flask(__name__)
    app.secret_key = SECRET
    app.config["UID2"] = {"KEYS": "bidstream"}
    uid2 = UID2(app)

    @app.post("/login")
    def log_in() -> Any:
        uid2.visitor.generate(request.form["email"])
        return jsonify(uid2.visitor.identity is not None)

    @app.post("/alogin")
    async def log_in_async() -> Any:
        await uid2.visitor.agenerate(request.form["email"])
        return jsonify(uid2.visitor.identity is not None)

    @app.get("/page")
    def page() -> Any:
        return jsonify(opens(uid2.visitor.freshness(), uid2.keys))

    @app.get("/apage")
    async def page_async() -> Any:
        freshness = await uid2.visitor.afreshness()
        found = freshness and opens(freshness, await uid2.akeys())
        return jsonify(bool(found))

    return app


def _set_up_django() -> None:
    import django
    from django.conf import settings

    settings.configure(
        SECRET_KEY=SECRET,
        UID2={"KEYS": "bidstream"},
        ROOT_URLCONF="sites",
        ALLOWED_HOSTS=["*"],
        INSTALLED_APPS=["uid2_async.integrations.django.UID2Config"],
        MIDDLEWARE=["uid2_async.integrations.django.UID2Middleware"],
    )
    django.setup()
    sys.modules[__name__].urlpatterns = _django_urls()  # type: ignore[attr-defined] # what Django looks for


def _django_urls() -> list[Any]:
    from django.http import JsonResponse
    from django.urls import path

    from uid2_async.integrations.django import aget_keys, get_keys

    def answer(value: object) -> JsonResponse:
        return JsonResponse(bool(value), safe=False)

    def log_in(request: Any) -> JsonResponse:
        request.uid2.generate(request.POST["email"])
        return answer(request.uid2.identity)

    async def log_in_async(request: Any) -> JsonResponse:
        await request.uid2.agenerate(request.POST["email"])
        return answer(request.uid2.identity)

    def page(request: Any) -> JsonResponse:
        return answer(opens(request.uid2.freshness(), get_keys()))

    async def page_async(request: Any) -> JsonResponse:
        freshness = await request.uid2.afreshness()
        return answer(freshness and opens(freshness, await aget_keys()))

    return [
        path("login", log_in),
        path("alogin", log_in_async),
        path("page", page),
        path("apage", page_async),
    ]


def make_django() -> Any:
    """Make a Django application for WSGI."""
    from django.core.wsgi import get_wsgi_application

    _set_up_django()
    return get_wsgi_application()


def make_django_asgi() -> Any:
    """Make a Django application for ASGI."""
    from django.core.asgi import get_asgi_application

    _set_up_django()
    return get_asgi_application()


def make_starlette() -> Any:
    """Make a Starlette application."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    from uid2_async.integrations.starlette import (
        SealedSessionMiddleware,
        generate_tokens,
        keep_fresh,
        uid2_lifespan,
    )
    from uid2_async.publisher import SealedCookie

    async def log_in(request: Request) -> JSONResponse:
        await generate_tokens(request, str((await request.form())["email"]))
        return JSONResponse("uid2" in request.session)

    async def page(request: Request) -> JSONResponse:
        freshness = await keep_fresh(request)
        return JSONResponse(opens(freshness, request.state.uid2_keys))

    return Starlette(
        routes=[Route("/alogin", log_in, methods=["POST"]), Route("/apage", page)],
        middleware=[Middleware(SealedSessionMiddleware, cookie=SealedCookie(SECRET))],
        lifespan=uid2_lifespan(keys="bidstream"),
    )


def make_fastapi() -> Any:
    """Make a FastAPI application."""
    from fastapi import FastAPI, Form, Request

    from uid2_async.integrations.fastapi import (
        FreshnessDep,
        KeysDep,
        SealedSessionMiddleware,
        generate_tokens,
        uid2_lifespan,
    )
    from uid2_async.publisher import SealedCookie

    app = FastAPI(lifespan=uid2_lifespan(keys="bidstream"))
    app.add_middleware(SealedSessionMiddleware, cookie=SealedCookie(SECRET))

    async def log_in(request: Request, email: str = Form()) -> bool:
        await generate_tokens(request, email)
        return "uid2" in request.session

    async def page(freshness: FreshnessDep, keys: KeysDep) -> bool:
        return opens(freshness, keys)

    # Not by decorators: they resolve annotations where the module is.
    log_in.__annotations__ = {"request": Request, "email": str, "return": bool}
    page.__annotations__ = {"freshness": FreshnessDep, "keys": KeysDep, "return": bool}
    app.post("/alogin")(log_in)
    app.get("/apage")(page)
    return app


def make_aiohttp() -> Any:
    """Make an application of aiohttp.web."""
    from aiohttp import web

    from uid2_async import IdentityTokens, OptedOut, try_generate
    from uid2_async.integrations.aiohttp import CLIENT, KEYS, REFRESHER, uid2_context
    from uid2_async.publisher import SealedCookie, from_session, to_session

    cookie = SealedCookie(SECRET)

    async def log_in(request: web.Request) -> web.Response:
        form = await request.post()
        reply = await try_generate(request.app[CLIENT], str(form["email"]))
        found = isinstance(reply, IdentityTokens | OptedOut)
        response = web.json_response(found)
        cookie.save(response, {"uid2": to_session(reply)} if found else {})
        return response

    async def page(request: web.Request) -> web.Response:
        session = cookie.open(request.cookies.get(cookie.name))
        held = from_session(session.get("uid2"))
        if not isinstance(held, IdentityTokens):
            return web.json_response(False)
        freshness = await request.app[REFRESHER].ensure_fresh(held)
        return web.json_response(opens(freshness, request.app[KEYS]))

    app = web.Application()
    app.cleanup_ctx.append(uid2_context(keys="bidstream"))
    app.add_routes([web.post("/alogin", log_in), web.get("/apage", page)])
    return app


if __name__ == "__main__":
    from aiohttp import web

    web.run_app(make_aiohttp(), host="127.0.0.1", port=int(os.environ["PORT"]))
