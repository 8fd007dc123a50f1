"""Django: ``request.uid2`` in synchronous and asynchronous views, under WSGI and ASGI.

Example:
    >>> INSTALLED_APPS = [..., "uid2_async.integrations.django.UID2Config"]
    >>> MIDDLEWARE = [..., "uid2_async.integrations.django.UID2Middleware"]
    >>>
    >>> def log_in(request):
    ...     request.uid2.generate(request.POST["email"])

The settings come from the environment, or from the setting ``UID2``: a dict with the
same variables without their prefix (``BASE_URL``, ``API_KEY``, ``SECRET_KEY``),
``SCOPE``, ``TIMEOUT`` in seconds (default 3), ``COOKIE`` (options of
:class:`~uid2_async.publisher.SealedCookie`), and ``KEYS``: ``"bidstream"``,
``"sharing"``, or the path of a file to which another process saves keys. The cookie is
encrypted with Django's ``SECRET_KEY``. ``SECRET_KEY_FALLBACKS`` decrypt older ones.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from threading import Lock
from typing import Any, Final

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.apps import AppConfig
from django.conf import settings
from django.core import checks
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.cache import patch_vary_headers

from uid2_async._traceback import strip_tracebacks
from uid2_async.blocking import BlockingClient, BlockingKeyStore
from uid2_async.clock import clock_in_use
from uid2_async.config import read_settings
from uid2_async.doctor.checks import (
    check_api_key_form,
    check_base_url,
    check_client_secret_form,
    check_settings,
)
from uid2_async.doctor.findings import CheckId, Outcome, Verdict
from uid2_async.errors import ConfigError
from uid2_async.integrations._visitor import (
    BlockingServices,
    Visitor,
    check_key_source,
    environment_of,
)
from uid2_async.keystore import FileKeyStore
from uid2_async.publisher.sealed_cookie import SealedCookie

__all__ = [
    "UID2Config",
    "UID2Middleware",
    "Visitor",
    "aget_keys",
    "check",
    "get_client",
    "get_keys",
]

_LEVELS: Final = {Outcome.FAILED: checks.Error, Outcome.WARNING: checks.Warning}


class UID2Config(AppConfig):
    """Registers the system check."""

    name = "uid2_async.integrations.django"
    label = "uid2"

    def ready(self) -> None:
        """Register the check of the settings for ``manage.py check``."""
        checks.register(check, "uid2")


class UID2Middleware:
    """Sets ``request.uid2`` to a Visitor, and the cookie of the response."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        """Wrap *get_response*, and validate the settings.

        Raises:
            ConfigError: If a setting is missing or not valid.
        """
        self._get_response = get_response
        self._services = _process.services()
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(
        self, request: HttpRequest
    ) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        """Answer a request."""
        visitor = Visitor(self._services, request.COOKIES)
        request.uid2 = visitor  # type: ignore[attr-defined] # as Django's own do
        if self._is_async:
            return self._answer(request, visitor)
        return _finish(visitor, self._get_response(request))

    async def _answer(self, request: HttpRequest, visitor: Visitor) -> HttpResponseBase:
        return _finish(visitor, await self._get_response(request))


def _finish(visitor: Visitor, response: HttpResponseBase) -> HttpResponseBase:
    """Set the cookie and, because the page depends on it, the Vary header."""
    if visitor.accessed:
        patch_vary_headers(response, ["Cookie"])
    visitor.save(response)
    return response


# --- the process ----------------------------------------------------------------------


class _Process:
    """The objects of a process, created from the current settings."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._key: object = None
        self._services: BlockingServices | None = None

    def services(self) -> BlockingServices:
        """Return the services. Changed settings, as in tests, replace them."""
        given, keys = _settings()
        described = sorted(map(repr, given.items()))
        key = (described, keys, environment_of(given), clock_in_use())
        with self._lock:
            if self._services is None or self._key != key:
                if self._services is not None:
                    self._services.client.close()
                self._services, self._key = BlockingServices(given, keys), key
            return self._services


_process: Final = _Process()


def get_client() -> BlockingClient:
    """Return the client of this process, for commands, tasks and signals.

    Raises:
        ConfigError: If a setting is missing or not valid.
    """
    return _process.services().client


def get_keys() -> BlockingKeyStore | FileKeyStore:
    """Return the keys of the setting ``KEYS``. The first use in a process fetches them.

    Raises:
        ConfigError: If a setting is missing or not valid.
    """
    return _process.services().keys


async def aget_keys() -> BlockingKeyStore | FileKeyStore:
    """Async form of :func:`get_keys`."""
    return await _process.services().open_keys()


def _settings() -> tuple[Mapping[str, Any], list[str]]:
    """Return the setting UID2, and the secrets of the application."""
    given: Mapping[str, Any] = getattr(settings, "UID2", {})
    return given, [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]


# --- the system check -----------------------------------------------------------------


def check(*_: object, **__: object) -> list[checks.CheckMessage]:
    """Check the settings like ``uid2 doctor``, without sending anything."""
    given, keys = _settings()
    try:
        verdicts = _examine(given)
        options = dict(given.get("COOKIE", {}))
        SealedCookie(options.pop("keys", keys), **options)
        check_key_source(given.get("KEYS"))
    except (ConfigError, TypeError, ValueError) as error:
        message = getattr(error, "message", "The setting UID2 is invalid.")
        return [
            checks.Error(message, hint=getattr(error, "hint", None), id="uid2.E001")
        ]
    return [
        _LEVELS[one.outcome](
            f"{name}: {one.message}",
            hint=one.hint,
            id=f"uid2.{one.outcome[0].upper()}{number:03}",
        )
        for number, (name, one) in enumerate(verdicts.items(), 10)
        if one.outcome in _LEVELS
    ]


def _examine(given: Mapping[str, Any]) -> dict[CheckId, Verdict]:
    """Return what the doctor says about the settings."""
    scope, environ = environment_of(given)
    found = {CheckId.SETTINGS: check_settings(scope, environ)}
    if found[CheckId.SETTINGS].outcome is Outcome.FAILED:
        return found
    read = read_settings(scope, environ)
    url, key = read.base_url, read.api_key
    return {
        **found,
        CheckId.BASE_URL: check_base_url(scope, url, allow_http=read.allow_http),
        CheckId.API_KEY_FORM: check_api_key_form(scope, key, [url]),
        CheckId.CLIENT_SECRET_FORM: check_client_secret_form(read.client_secret),
    }


strip_tracebacks(globals())
