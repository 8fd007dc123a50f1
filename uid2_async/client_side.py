"""ClientSideClient: generates tokens like a browser or an app, without an API key.

Meant for apps, and for tests of client-side setups (docs/protocol.md 2.10).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from uid2_async._call import OperatorClient
from uid2_async._traceback import strip_tracebacks
from uid2_async.clock import Clock
from uid2_async.errors import ConfigError
from uid2_async.hooks import Hook
from uid2_async.identity_tokens import IdentityTokens
from uid2_async.models import Identity, OptedOut, as_identity
from uid2_async.protocol import client_side, tokens
from uid2_async.protocol.envelope import IV_BYTES
from uid2_async.protocol.normalize import write_identity_input
from uid2_async.protocol.wire import Call
from uid2_async.retry import RetryPolicy
from uid2_async.transport import Transport

if TYPE_CHECKING:
    import aiohttp


class ClientSideClient(OperatorClient):
    """Generates and refreshes tokens with the key pair of a subscription.

    Instead of an API key, the operator checks the source of a request: the origin of a
    page, or the name of an app.

    Example:
        >>> async with ClientSideClient(
        ...     "https://operator-integ.uidapi.com",
        ...     subscription_id="...",
        ...     server_public_key="UID2-X-I-...",
        ...     origin="https://example.com",
        ... ) as client:
        ...     tokens = await client.generate_token("user@example.com")
    """

    def __init__(  # noqa: PLR0913 - keyword options, each of its own meaning
        self,
        base_url: str | Sequence[str],
        *,
        subscription_id: str,
        server_public_key: str,
        origin: str | None = None,
        app_name: str | None = None,
        session: aiohttp.ClientSession | None = None,
        transport: Transport | None = None,
        proxy: str | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        retry: RetryPolicy | None = None,
        max_retries: int | None = None,
        hooks: Iterable[Hook] = (),
        timeout: float = 30.0,
        allow_http: bool = False,
        clock: Clock | None = None,
    ) -> None:
        """Validate the settings. Nothing is opened or sent yet.

        Args:
            base_url: The operator's URL, or several regional ones in order of
                preference.
            subscription_id: Identifies the key pair and thereby the site.
            server_public_key: The public key of the subscription (``UID2-X-...`` or
                ``EUID-X-...``).
            origin: The origin of the page, such as ``https://www.example.com``.
            app_name: The name of the app, instead of *origin*.
            session: An aiohttp session to use as is. It is not closed.
            transport: The transport to use instead of a SessionPool.
            proxy: The URL of an HTTP proxy, with credentials if it requires them.
            ca_file: A PEM file with the CAs to trust instead of the system's.
            retry: The retry policy.
            max_retries: The number of retries of a failed call, instead of *retry*.
            hooks: Hooks to call with each event.
            timeout: Seconds for a whole call, including all attempts and the pauses
                between them.
            allow_http: Allow plain http for hosts other than loopback.
            clock: Returns the current time as an aware datetime. Defaults to the system
                clock.

        Raises:
            ConfigError: If a setting is not valid.
            TypeError: If not exactly one of *origin* and *app_name* is passed, or both
                *session* and *transport*.
        """
        if (origin is None) == (app_name is None):
            raise TypeError("Pass either origin or app_name.")
        self._connect(
            base_url,
            session=session,
            transport=transport,
            proxy=proxy,
            ca_file=ca_file,
            allow_http=allow_http,
            clock=clock,
            headers=_origin_header(origin),
        )
        self._subscription_id = subscription_id
        self._server_key = client_side.load_server_public_key(server_public_key)
        self._app_name = app_name
        self._set_call_options(
            {
                "retry": retry,
                "max_retries": max_retries,
                "hooks": hooks,
                "timeout": timeout,
            }
        )

    def __repr__(self) -> str:
        """Return the base URLs."""
        return f"<ClientSideClient {', '.join(self.base_urls)}>"

    async def generate_token(
        self, identity: Identity | str, *, timeout: float | None = None
    ) -> IdentityTokens | OptedOut:
        """Generate identity tokens for one person (docs/protocol.md 2.10).

        DII is sent as its hash, encrypted with an ephemeral key pair for each attempt.

        Args:
            identity: An email address, a phone number or a hash of one.
            timeout: Seconds for the call. Defaults to the client's timeout.

        Returns:
            The tokens, or OptedOut. After OptedOut, do not ask again for this person.

        Raises:
            InputError: If *identity* is invalid. Nothing is sent.
            AuthError: If the origin or app does not belong to the subscription.
        """
        one = as_identity(identity)
        # Raises for an invalid identity before anything is opened.
        write_identity_input(one, send_raw=False)
        call = Call(
            path=client_side.CLIENT_GENERATE_PATH,
            parse=tokens.parse_refresh_reply,
            own_crypto=lambda now_ms, random_bytes: self._encrypt(
                one, now_ms, random_bytes(IV_BYTES)
            ),
        )
        return await self._counted(self._run(call, timeout), call.path, [one.kind])

    def _encrypt(
        self, identity: Identity, now_ms: int, iv: bytes
    ) -> tuple[bytes, Callable[[bytes], bytes]]:
        """Encrypt one attempt. Return it with the function that decrypts the reply."""
        client_key = generate_private_key(SECP256R1())
        cipher = client_side.shared_cipher(client_key, self._server_key)
        body = client_side.build_client_generate_request(
            identity,
            subscription_id=self._subscription_id,
            client_key=client_key,
            cipher=cipher,
            now_ms=now_ms,
            iv=iv,
            app_name=self._app_name,
        )
        return body, lambda reply: client_side.open_client_generate_reply(reply, cipher)


def _origin_header(origin: str | None) -> dict[str, str]:
    if origin is None:
        return {}
    if not (origin.isascii() and origin.isprintable() and origin.strip()):
        raise ConfigError("The origin is empty or not printable ASCII.")
    return {"Origin": origin}


strip_tracebacks(globals())
