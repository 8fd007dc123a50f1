"""Flask: an extension whose ``visitor`` generates, stores and refreshes tokens.

Example:
    >>> app = Flask(__name__)
    >>> uid2 = UID2(app)
    >>>
    >>> @app.post("/login")
    ... def log_in():
    ...     uid2.visitor.generate(request.form["email"])
    ...     return redirect("/")

The settings come from the environment, or from ``app.config["UID2"]``: a dict with the
same variables without their prefix (``BASE_URL``, ``API_KEY``, ``SECRET_KEY``),
``SCOPE``, ``TIMEOUT`` in seconds (default 3), ``COOKIE`` (options of
:class:`~uid2_async.publisher.SealedCookie`), and ``KEYS``: ``"bidstream"``,
``"sharing"``, or the path of a file to which another process saves keys. The cookie is
encrypted with the application's ``SECRET_KEY``. ``SECRET_KEY_FALLBACKS`` decrypt older
ones. Do not store tokens in Flask's own session, which is only signed.
"""

from __future__ import annotations

from flask import Flask, Response, current_app, g, request

from uid2_async._traceback import strip_tracebacks
from uid2_async.blocking import BlockingClient, BlockingKeyStore
from uid2_async.errors import ConfigError
from uid2_async.integrations._visitor import BlockingServices, Visitor
from uid2_async.keystore import FileKeyStore

__all__ = ["UID2", "Visitor"]

_EXTENSION = "uid2"


class UID2:
    """The extension, for one application or, with :meth:`init_app`, for several."""

    def __init__(self, app: Flask | None = None) -> None:
        """Set up *app*, if it is passed.

        Raises:
            ConfigError: If a setting is missing or not valid.
        """
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Set up *app*. Nothing is opened before the first call.

        Raises:
            ConfigError: If a setting is missing or not valid.
        """
        if not app.secret_key:
            raise ConfigError(
                "The application has no SECRET_KEY.",
                hint='Make one: python -c "import secrets; print(secrets.token_hex())"',
            )
        keys = [app.secret_key, *(app.config.get("SECRET_KEY_FALLBACKS") or [])]
        texts = [one if isinstance(one, str) else one.hex() for one in keys]
        app.extensions[_EXTENSION] = BlockingServices(app.config.get("UID2", {}), texts)
        app.after_request(_finish)

    @property
    def client(self) -> BlockingClient:
        """The client of the current application."""
        return _services().client

    @property
    def keys(self) -> BlockingKeyStore | FileKeyStore:
        """The keys of the setting ``KEYS``. The first use in a process fetches them.

        Raises:
            ConfigError: If the setting is missing.
        """
        return _services().keys

    async def akeys(self) -> BlockingKeyStore | FileKeyStore:
        """Async form of :attr:`keys`."""
        return await _services().open_keys()

    @property
    def visitor(self) -> Visitor:
        """The tokens of the visitor who sends the current request."""
        if _EXTENSION not in g:
            g.uid2 = Visitor(_services(), request.cookies)
        visitor: Visitor = g.uid2
        return visitor


def _services() -> BlockingServices:
    """Return the services of the current application."""
    services: BlockingServices = current_app.extensions[_EXTENSION]
    return services


def _finish(response: Response) -> Response:
    """Set the cookie and, because the page depends on it, the Vary header."""
    visitor: Visitor | None = g.get(_EXTENSION)
    if visitor is not None and visitor.accessed:
        response.vary.add("Cookie")
        visitor.save(response)
    return response


strip_tracebacks(globals())
