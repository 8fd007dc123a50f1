"""The shared part of the web integrations: the tokens of a visitor in a session."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, MutableMapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from uid2_async._traceback import strip_tracebacks
from uid2_async.blocking import BlockingClient, BlockingKeyStore, BlockingTokenRefresher
from uid2_async.client import UID2Client
from uid2_async.errors import ConfigError, InputError, UID2Error
from uid2_async.identity_tokens import IdentityTokens, TokenState
from uid2_async.keystore import FileKeyStore, KeyStore
from uid2_async.models import Identity, IdentityScope, OptedOut
from uid2_async.publisher import (
    Freshness,
    GenerateResult,
    TokenRefresher,
    from_session,
    to_session,
    try_generate,
)
from uid2_async.publisher.generate import WEB_TIMEOUT
from uid2_async.publisher.sealed_cookie import SealedCookie, SetsCookies

SESSION_KEY: Final = "uid2"
"""The default key of a session for the tokens."""


def make_client() -> UID2Client:
    """Create a client from the environment, with the timeout of a page."""
    return UID2Client.from_env(timeout=WEB_TIMEOUT)


def make_refresher(client: UID2Client) -> TokenRefresher:
    """Create a refresher, with the timeout of a page."""
    return TokenRefresher(client, timeout=WEB_TIMEOUT)


# --- the objects of an application ----------------------------------------------------

KeySource: TypeAlias = Literal["bidstream", "sharing"] | os.PathLike[str]
"""Keys that the client fetches, or a file to which another process saves keys."""

_FETCHES: Final = {
    "bidstream": UID2Client.fetch_bidstream_keys,
    "sharing": UID2Client.fetch_sharing_keys,
}


def check_key_source(source: KeySource | None) -> None:
    """Raise a ConfigError unless *source* is a KeySource or None."""
    if not (source is None or isinstance(source, os.PathLike) or source in _FETCHES):
        raise ConfigError(
            "The source of keys is not valid.",
            hint='Use "bidstream", "sharing" or the pathlib.Path of a file to which '
            "another process saves keys.",
        )


class AsyncServices(NamedTuple):
    """The objects of an application with one event loop."""

    client: UID2Client
    refresher: TokenRefresher
    keys: KeyStore | None


@asynccontextmanager
async def open_services(
    make_client: Callable[[], UID2Client],
    make_refresher: Callable[[UID2Client], TokenRefresher],
    keys: KeySource | None,
) -> AsyncIterator[AsyncServices]:
    """Open the client, refresher and keys of an application until it ends.

    If there are no usable keys, the application starts anyway with a store that is not
    ready.
    """
    check_key_source(keys)
    async with (
        make_client() as client,
        make_refresher(client) as refresher,
        AsyncExitStack() as stack,
    ):
        store: KeyStore | None = None
        if isinstance(keys, os.PathLike):
            store = KeyStore.from_file(keys)
        elif keys is not None:
            fetch = _FETCHES[keys]
            store = KeyStore(lambda: fetch(client), required=False)
            await stack.enter_async_context(store)
        yield AsyncServices(client, refresher, store)


# --- in a session ---------------------------------------------------------------------


def find_tokens(
    session: MutableMapping[str, Any], key: str = SESSION_KEY
) -> IdentityTokens | Freshness | None:
    """Return the tokens of a session, or the result if there is nothing to refresh.

    Damaged tokens are deleted.
    """
    try:
        stored = from_session(session.get(key))
    except InputError as error:
        del session[key]
        return Freshness(tokens=None, state=TokenState.DEAD, changed=True, error=error)
    if isinstance(stored, OptedOut):
        return Freshness(tokens=None, state=TokenState.OPTED_OUT, changed=False)
    return stored


def store_freshness(
    session: MutableMapping[str, Any], freshness: Freshness, key: str = SESSION_KEY
) -> None:
    """Store the result of a refresh in *session*."""
    if freshness.state is TokenState.OPTED_OUT:
        session[key] = to_session(OptedOut())
    elif freshness.tokens is None:
        session.pop(key, None)
    else:
        session[key] = to_session(freshness.tokens)


def store_reply(
    session: MutableMapping[str, Any], reply: GenerateResult, key: str = SESSION_KEY
) -> None:
    """Store tokens or an opt-out in *session*, and delete previous ones."""
    if isinstance(reply, IdentityTokens | OptedOut):
        session[key] = to_session(reply)
    else:
        # The previous tokens may belong to another user, or to an attacker.
        session.pop(key, None)


# --- for frameworks whose views run in threads ----------------------------------------


class BlockingServices:
    """The client of an application for all of its threads and event loops."""

    def __init__(self, settings: Mapping[str, Any], keys: Iterable[str]) -> None:
        """Validate the settings. Nothing is opened before the first call.

        Args:
            settings: ``SCOPE``, ``TIMEOUT``, ``COOKIE`` (options of SealedCookie),
                ``KEYS`` (a KeySource), and any variable of ``UID2Client.from_env``
                without its prefix, such as ``API_KEY``. Missing variables are read from
                the environment.
            keys: The secrets of the application, newest first.

        Raises:
            ConfigError: If a setting is missing or not valid.
        """
        timeout = float(settings.get("TIMEOUT", WEB_TIMEOUT))
        options = dict(settings.get("COOKIE", {}))
        self.cookie: SealedCookie = SealedCookie(
            options.pop("keys", list(keys)), **options
        )
        scope, environ = environment_of(settings)
        self.client: BlockingClient = BlockingClient.from_env(
            scope, environ=environ, timeout=timeout
        )
        self.refresher: BlockingTokenRefresher = self.client.token_refresher(
            timeout=timeout
        )
        self.timeout: float = timeout
        self._keys = _blocking_keys(self.client, settings.get("KEYS"))

    @property
    def keys(self) -> BlockingKeyStore | FileKeyStore:
        """The keys of the setting ``KEYS``. The first use in a process fetches them.

        Raises:
            ConfigError: If the setting is missing.
        """
        if self._keys is None:
            raise ConfigError(
                "The setting KEYS is missing.", hint='Add "KEYS": "bidstream" to UID2.'
            )
        return self._keys

    async def open_keys(self) -> BlockingKeyStore | FileKeyStore:
        """Return :attr:`keys` after fetching them. Works in any event loop.

        Raises:
            ConfigError: If the setting is missing.
        """
        keys = self.keys
        if isinstance(keys, BlockingKeyStore):
            with suppress(UID2Error):  # The store raises it when it is used.
                await asyncio.wrap_future(keys.submit(KeyStore.ensure_fresh, math.inf))
        return keys


def _blocking_keys(
    client: BlockingClient, source: KeySource | None
) -> BlockingKeyStore | FileKeyStore | None:
    """Create the store of a source. Nothing is fetched yet."""
    check_key_source(source)
    if isinstance(source, os.PathLike):
        return KeyStore.from_file(source)
    if source is None:
        return None
    make = client.bidstream_keys if source == "bidstream" else client.sharing_keys
    return make(required=False)


def environment_of(settings: Mapping[str, Any]) -> tuple[IdentityScope, dict[str, str]]:
    """Return the scope, and the environment overridden by *settings*."""
    scope = IdentityScope(settings.get("SCOPE", IdentityScope.UID2))
    given = {
        f"{scope}_{name}": str(int(value) if isinstance(value, bool) else value)
        for name, value in settings.items()
        if name not in {"SCOPE", "TIMEOUT", "COOKIE", "KEYS"}
    }
    return scope, {**os.environ, **given}


class Visitor:
    """The tokens of the visitor who sends a request, stored in an encrypted cookie.

    Each method has an async form with the prefix ``a``, which works in any event loop.
    A failure of the operator does not raise.
    """

    def __init__(self, services: BlockingServices, cookies: Mapping[str, str]) -> None:
        """Store the cookies of a request. They are decrypted on first use."""
        self._services = services
        self._cookies = cookies
        self._session: dict[str, Any] | None = None
        self._before: dict[str, Any] = {}

    @property
    def _content(self) -> dict[str, Any]:
        """The current content of the cookie."""
        if self._session is None:
            cookie = self._services.cookie
            self._session = cookie.open(self._cookies.get(cookie.name))
            self._before = dict(self._session)
        return self._session

    @property
    def identity(self) -> IdentityTokens | OptedOut | None:
        """The tokens in the cookie, for pages whose scripts refresh them.

        Pass them to :func:`~uid2_async.publisher.to_js_sdk` or ``to_prebid_params``.
        """
        found = find_tokens(self._content)
        if isinstance(found, Freshness):
            return OptedOut() if found.state is TokenState.OPTED_OUT else None
        return found

    def generate(
        self, identity: Identity | str, *, tcf_consent_string: str | None = None
    ) -> GenerateResult:
        """Generate tokens at login, and store them.

        See :func:`~uid2_async.try_generate`.
        """
        reply = self._services.client.try_generate(
            identity,
            tcf_consent_string=tcf_consent_string,
            timeout=self._services.timeout,
        )
        store_reply(self._content, reply)
        return reply

    async def agenerate(
        self, identity: Identity | str, *, tcf_consent_string: str | None = None
    ) -> GenerateResult:
        """Async form of :meth:`generate`."""
        future = self._services.client.submit(
            try_generate,
            identity,
            tcf_consent_string=tcf_consent_string,
            timeout=self._services.timeout,
        )
        reply = await asyncio.wrap_future(future)
        store_reply(self._content, reply)
        return reply

    def freshness(self) -> Freshness | None:
        """Return the tokens, refreshed if they are due, or None if there are none.

        The operator is called only if a refresh is due. Do not use this for pages on
        which Prebid.js or the web SDK refreshes the tokens.
        """
        found = find_tokens(self._content)
        if isinstance(found, IdentityTokens):
            found = self._services.refresher.ensure_fresh(found)
            self._keep(found)
        return found

    async def afreshness(self) -> Freshness | None:
        """Async form of :meth:`freshness`."""
        found = find_tokens(self._content)
        if isinstance(found, IdentityTokens):
            future = self._services.refresher.submit(TokenRefresher.ensure_fresh, found)
            found = await asyncio.wrap_future(future)
            self._keep(found)
        return found

    def _keep(self, freshness: Freshness) -> None:
        if freshness.changed:
            store_freshness(self._content, freshness)

    def log_out(self) -> None:
        """Delete the tokens from the cookie, without calling the operator."""
        self._content.clear()

    @property
    def accessed(self) -> bool:
        """Whether the response depends on the cookie."""
        return self._session is not None

    def save(self, response: SetsCookies) -> None:
        """Set the cookie of the response if its content has changed."""
        if self._session is not None and self._session != self._before:
            self._services.cookie.save(response, self._session)


strip_tracebacks(globals())
