"""UID2Client: every endpoint of the operator as a coroutine."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Final, Self, TypeVar, Unpack

from uid2_async._call import CallOptions, OperatorClient, positive
from uid2_async._private import Secret
from uid2_async._traceback import strip_tracebacks
from uid2_async.clock import Clock
from uid2_async.config import check_api_key
from uid2_async.errors import ConfigError, InputError
from uid2_async.hooks import Hook
from uid2_async.identity_tokens import IdentityTokens
from uid2_async.models import (
    Bucket,
    Identity,
    IdentityMap,
    IdentityScope,
    InsufficientConsent,
    OptedOut,
    OptOutStatus,
    as_identity,
)
from uid2_async.protocol import base64, mapping, tokens, wire
from uid2_async.protocol.envelope import KEY_BYTES, Envelope
from uid2_async.protocol.wire import Call
from uid2_async.retry import RetryPolicy
from uid2_async.transport import Transport

if TYPE_CHECKING:
    import aiohttp

    from uid2_async.protocol.keyring import KeyRing

__all__ = ["UID2Client"]

T = TypeVar("T")

_KEYS_BYTES: Final = 64 * 1024 * 1024


class _Options(CallOptions, total=False):
    """The options that :meth:`UID2Client.with_options` can change."""

    max_batch_size: int
    send_raw: bool


class _AllOptions(_Options, total=False):
    """The options that :meth:`UID2Client.from_env` passes to the constructor."""

    base_url: str | Sequence[str]
    api_key: str
    client_secret: str
    session: aiohttp.ClientSession | None
    transport: Transport | None
    envelope: Envelope | None
    proxy: str | None
    ca_file: str | os.PathLike[str] | None
    allow_http: bool
    clock: Clock | None


class UID2Client(OperatorClient):
    """A client of a UID2 or EUID operator.

    Share one client for all calls of an event loop: it pools connections, and has no
    other state. All calls are safe to repeat, and failed ones are retried according to
    the retry policy. If a call fails, it raises a
    :class:`~uid2_async.errors.UID2Error`. An opt-out is a return value.

    Example:
        >>> async with UID2Client.from_env() as client:
        ...     tokens = await client.generate_token("user@example.com")
    """

    def __init__(  # noqa: PLR0913 - keyword options, each of its own meaning
        self,
        base_url: str | Sequence[str],
        *,
        api_key: str,
        client_secret: str,
        scope: IdentityScope = IdentityScope.UID2,
        session: aiohttp.ClientSession | None = None,
        transport: Transport | None = None,
        envelope: Envelope | None = None,
        proxy: str | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        retry: RetryPolicy | None = None,
        max_retries: int | None = None,
        hooks: Iterable[Hook] = (),
        timeout: float = 30.0,
        max_batch_size: int = 5_000,
        send_raw: bool = False,
        allow_http: bool = False,
        clock: Clock | None = None,
    ) -> None:
        """Validate the settings. Nothing is opened or sent yet.

        Args:
            base_url: The operator's URL, with or without ``https://``, or several
                regional ones in order of preference.
            api_key: The API key.
            client_secret: The secret of the API key, 32 bytes in base64.
            scope: The system that the operator serves.
            session: An aiohttp session to use as is. It is not closed.
            transport: The transport to use instead of a SessionPool. In this case,
                *base_url* is only validated.
            envelope: The encryption of requests and replies.
            proxy: The URL of an HTTP proxy, such as
                ``http://user:password@proxy.example.com:3128``. The variables
                HTTP_PROXY, HTTPS_PROXY and NO_PROXY are never read.
            ca_file: A PEM file with the CAs to trust instead of the system's.
            retry: The retry policy. Clients with the same policy share its budget.
            max_retries: The number of retries of a failed call, instead of *retry*.
                Defaults to 3.
            hooks: Hooks to call with each event.
            timeout: Seconds for a whole call, including all attempts and the pauses
                between them.
            max_batch_size: The maximum number of items in one call.
            send_raw: Whether to send identities raw instead of as hashes.
            allow_http: Allow plain http for hosts other than loopback.
            clock: Returns the current time as an aware datetime. Defaults to the system
                clock.

        Raises:
            ConfigError: If a setting is not valid or contradicts another one.
            TypeError: If both *session* and *transport* are passed.
        """
        self._connect(
            base_url,
            session=session,
            transport=transport,
            envelope=envelope,
            proxy=proxy,
            ca_file=ca_file,
            allow_http=allow_http,
            clock=clock,
        )
        self.scope: IdentityScope = scope
        self._authenticate(api_key, client_secret)
        self._api_key_digest = sha256(api_key.encode()).hexdigest()
        self._consent_missed = False
        self._set_options(
            retry=retry,
            max_retries=max_retries,
            hooks=hooks,
            timeout=timeout,
            max_batch_size=max_batch_size,
            send_raw=send_raw,
        )

    def _authenticate(self, api_key: object, client_secret: object) -> None:
        """Check the API key and the client secret, which errors never contain."""
        if not isinstance(api_key, str) or not isinstance(client_secret, str):
            raise ConfigError(
                "The API key or the client secret is not a str.",
                hint="Pass both exactly as you received them.",
            )
        check_api_key(api_key, self.scope, self.base_urls)
        secret = base64.decode(client_secret)
        if secret is None or len(secret) != KEY_BYTES:
            raise ConfigError(
                "The client secret is not base64 of 32 bytes.",
                hint="Check for missing characters, quotes or a line end.",
            )
        self._api_key, self._secret = Secret(api_key), Secret(secret)
        authorization = {"Authorization": f"Bearer {api_key}"}
        self._headers = Secret(self._headers.reveal() | authorization)

    def _set_options(self, **options: Unpack[_Options]) -> None:
        self._set_call_options(options)
        if "max_batch_size" in options:
            positive(options["max_batch_size"], "max_batch_size")
            self.max_batch_size: int = options["max_batch_size"]
        if "send_raw" in options:
            self.send_raw: bool = options["send_raw"]

    @classmethod
    def from_env(
        cls,
        scope: IdentityScope = IdentityScope.UID2,
        *,
        environ: Mapping[str, str] | None = None,
        **options: Unpack[_AllOptions],
    ) -> Self:
        """Create a client from environment variables (docs/settings.md).

        Example:
            >>> async with UID2Client.from_env(timeout=10) as client:
            ...     tokens = await client.generate_token("user@example.com")

        Args:
            scope: UID2 or EUID. The variables start with ``UID2_`` or ``EUID_``.
            environ: The variables. Defaults to those of the process.
            options: Any options of the constructor. The variable of an option that is
                passed is not read.

        Raises:
            ConfigError: If a variable or an option is missing or invalid. The message
                names it.
        """
        # Imported here, because other clients do not need it.
        from uid2_async.config import read_options  # noqa: PLC0415 - reason above

        given = set(options)
        if options.get("transport") is not None:
            # A transport has its own proxy and certificates.
            given |= {"proxy", "ca_file"}
        found = read_options(
            scope, os.environ if environ is None else environ, given=given
        )
        return cls(scope=scope, **found, **options)

    def with_options(self, **options: Unpack[_Options]) -> UID2Client:
        """Return a client with other options that shares this client's connections.

        Args:
            options: Any of retry, max_retries, hooks, timeout, max_batch_size and
                send_raw.

        Returns:
            A client whose ``aclose`` leaves the connections open.
        """
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._owns_transport = False
        other._set_options(**options)
        return other

    def __repr__(self) -> str:
        """Return the scope and base URLs."""
        return f"<UID2Client {self.scope} {', '.join(self.base_urls)}>"

    def settings_digest(self, salt: str) -> str:
        """Return a digest of scope, operator and API key, which identifies a client.

        It reveals no secret, because an API key contains more than 128 random bits. It
        does not depend on the client secret, which may be renewed, or on the order of
        regions.
        """
        urls = sorted(set(self.base_urls))
        settings = [salt, self.scope, urls, self._api_key_digest]
        return sha256(wire.encode(settings)).hexdigest()

    async def run_call(self, call: Call[T], *, timeout: float | None = None) -> T:
        """Make *call* with this client's options. For classes that build on a client.

        Args:
            call: The request, and how to parse the reply.
            timeout: In seconds, instead of the client's.
        """
        return await self._run(call, timeout)

    async def generate_token(
        self,
        identity: Identity | str,
        *,
        tcf_consent_string: str | None = None,
        timeout: float | None = None,
    ) -> IdentityTokens | OptedOut | InsufficientConsent:
        """Generate identity tokens for one person (docs/protocol.md 2.1).

        Example:
            >>> tokens = await client.generate_token("user@example.com")
            >>> if isinstance(tokens, IdentityTokens):
            ...     session = {"uid2": tokens.to_dict()}

        Args:
            identity: An email address, a phone number or a hash of one.
            tcf_consent_string: The TCF v2 consent string, which EUID operators check.
                Without it they check nothing. In the EUID scope, the first call
                without one therefore emits a UserWarning.
            timeout: In seconds, instead of the client's.

        Returns:
            The tokens; or OptedOut, after which you must not ask for this person again.

        Raises:
            InputError: If *identity* is invalid. Nothing is sent.
        """
        if self.scope is IdentityScope.EUID and tcf_consent_string is None:
            self._warn_of_missing_consent()
        one = as_identity(identity)
        call = tokens.generate_call(
            one, tcf_consent_string=tcf_consent_string, send_raw=self.send_raw
        )
        return await self._counted(self._run(call, timeout), call.path, [one.kind])

    def _warn_of_missing_consent(self) -> None:
        """Warn the caller of generate_token, the first time."""
        if not self._consent_missed:
            self._consent_missed = True
            warnings.warn(
                "generate_token without tcf_consent_string: the EUID operator does not "
                "check consent then.",
                UserWarning,
                stacklevel=4,
            )

    async def validate_token(
        self,
        identity: Identity | str,
        advertising_token: str,
        *,
        timeout: float | None = None,
    ) -> bool:
        """Return whether a token belongs to an identity (docs/protocol.md 2.3).

        Only tokens of the API key's own site can be validated, and only if that site
        has its own keyset.

        Args:
            identity: An email address, a phone number or a hash of one.
            advertising_token: The token, which may have expired.
            timeout: In seconds, instead of the client's.

        Raises:
            BadRequestError: If the token cannot be read or belongs to another site.
        """
        call = tokens.validate_call(
            as_identity(identity), advertising_token, send_raw=self.send_raw
        )
        return await self._run(call, timeout)

    async def map_identities(
        self, identities: Iterable[Identity | str], *, timeout: float | None = None
    ) -> IdentityMap:
        """Map identities to raw UIDs in one request (docs/protocol.md 2.6).

        Invalid identities are not sent. Their result is Unmapped(INVALID_IDENTIFIER),
        and the others are mapped.

        Example:
            >>> result = await client.map_identities(["user@example.com", "nobody"])
            >>> [row.reason for row in result]
            [None, <UnmappedReason.INVALID_IDENTIFIER: 'invalid identifier'>]

        Args:
            identities: At most *max_batch_size*, of any mix of types.
            timeout: In seconds, instead of the client's.

        Returns:
            One result for each identity, in the order of the input.

        Raises:
            InputError: If there are too many, or one is neither an identity nor a str.
        """
        query = mapping.prepare_map(
            self._batch(identities, "identities"), send_raw=self.send_raw
        )
        work = self._map_v3(query, timeout)
        return await self._counted(work, mapping.MAP_V3_PATH, query.kinds())

    async def _map_v3(
        self, query: mapping.MapQuery, timeout: float | None
    ) -> IdentityMap:
        """Map the valid identities in *query*, if there are any."""
        if not query.values:
            return mapping.align_map(query, {})
        rows = await self._run(mapping.map_v3_call(query), timeout)
        return mapping.align_map(query, rows)

    async def map_identities_v2(
        self,
        identities: Iterable[Identity | str],
        *,
        link_id: str | None = None,
        timeout: float | None = None,
    ) -> IdentityMap:
        """Map identities with the v2 endpoint, which returns buckets (protocol.md 2.5).

        The endpoint accepts one kind of identity, so one request is sent for each kind.

        .. deprecated:: 0.1.0
           The public service was announced to end on September 30, 2026. Private
           operators still support it. Use :meth:`map_identities`.

        Args:
            identities: At most *max_batch_size*, of any mix of types.
            link_id: The service link, for API keys of a service.
            timeout: In seconds for each request, instead of the client's.

        Returns:
            One result for each identity, with its bucket_id.

        Raises:
            InputError: If there are too many, or one is neither an identity nor a str.
        """
        _deprecated("map_identities_v2 uses an endpoint past its announced end.")
        query = mapping.prepare_map(
            self._batch(identities, "identities"), send_raw=self.send_raw
        )
        work = self._map_v2(query, link_id, timeout)
        return await self._counted(work, mapping.MAP_V2_PATH, query.kinds())

    async def _map_v2(
        self, query: mapping.MapQuery, link_id: str | None, timeout: float | None
    ) -> IdentityMap:
        """Map the valid identities in *query*, with one call for each kind."""
        rows = {}
        for key, values in query.values.items():
            call = mapping.map_v2_call(key, values, link_id=link_id)
            rows[key] = await self._run(call, timeout)
        return mapping.align_map(query, rows)

    async def identity_buckets(
        self, since: datetime, *, timeout: float | None = None
    ) -> list[Bucket]:
        """List the salt buckets that rotated at *since* or later (protocol.md 2.4).

        .. deprecated:: 0.1.0
           The public service was announced to end on September 30, 2026. Private
           operators still support it. Use refresh_from of :meth:`map_identities`.

        Args:
            since: An aware datetime.
            timeout: In seconds, instead of the client's.

        Returns:
            Up to 1,048,576 buckets.

        Raises:
            InputError: If *since* is naive.
        """
        _deprecated("identity_buckets uses an endpoint past its announced end.")
        return await self._run(mapping.buckets_call(since), timeout)

    async def opt_out_status(
        self, raw_uids: Iterable[str], *, timeout: float | None = None
    ) -> OptOutStatus:
        """Return which raw UIDs have opted out (docs/protocol.md 2.7).

        Raw UIDs of version 4 are never found in the integration and production
        environments. Use :meth:`map_identities` instead, which works for every
        identity.

        Example:
            >>> status = await client.opt_out_status([raw_uid])
            >>> raw_uid in status
            False

        Args:
            raw_uids: At most *max_batch_size*.
            timeout: In seconds, instead of the client's.

        Raises:
            InputError: If there are too many.
        """
        batch = self._batch(raw_uids, "raw_uids")
        if not batch:
            return OptOutStatus({})
        return await self._run(mapping.status_call(batch), timeout)

    async def fetch_sharing_keys(self, *, timeout: float | None = None) -> KeyRing:
        """Fetch the keys for encryption and decryption (docs/protocol.md 6.1)."""
        from uid2_async.protocol.keyring import SHARING_PATH  # noqa: PLC0415 - see below

        return await self._fetch_keys(SHARING_PATH, timeout)

    async def fetch_bidstream_keys(self, *, timeout: float | None = None) -> KeyRing:
        """Fetch the keys that decrypt bidstream tokens (docs/protocol.md 6.2)."""
        from uid2_async.protocol.keyring import BIDSTREAM_PATH  # noqa: PLC0415 - see below

        return await self._fetch_keys(BIDSTREAM_PATH, timeout)

    async def _fetch_keys(self, path: str, timeout: float | None) -> KeyRing:
        # Imported here, because publishers and advertisers do not need keys.
        from uid2_async.protocol.keyring import KeyRing  # noqa: PLC0415 - reason above

        call = Call(
            path=path,
            parse=KeyRing.from_json,
            max_reply_bytes=_KEYS_BYTES,
        )
        return await self._run(call, timeout)

    async def opt_out(
        self, identity: Identity | str, *, timeout: float | None = None
    ) -> None:
        """Opt a person out of the whole system, permanently (docs/protocol.md 2.9).

        Warning:
            This does not log a user out of a site, although the endpoint is called
            token/logout. Afterward, no site can generate a token for this person, and
            no call can undo that. To log a user out, delete the tokens from the session
            or cookie, and make no call.

        The API key needs the role OPTOUT.

        Args:
            identity: An email address, a phone number or a hash of one.
            timeout: In seconds, instead of the client's.

        Raises:
            InputError: If *identity* is invalid. Nothing is sent.
        """
        call = tokens.logout_call(as_identity(identity), send_raw=self.send_raw)
        await self._run(call, timeout)

    def _batch(self, items: Iterable[T], name: str) -> list[T]:
        """Return the items of one call as a list. Raise if there are too many."""
        if isinstance(items, str):
            raise InputError(f"{name} is a str.", hint="Pass a list of str.")
        batch = list(items)
        if len(batch) > self.max_batch_size:
            raise InputError(
                f"{name} has {len(batch)} items, more than {self.max_batch_size}.",
                hint="Split it into several calls.",
            )
        return batch


def _deprecated(message: str) -> None:
    warnings.warn(message, DeprecationWarning, stacklevel=4)


strip_tracebacks(globals())
