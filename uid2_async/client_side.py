"""ClientSideClient: tokens as a browser or an app generates them, without an API key.

For apps, and for tests of such set-ups (docs/protocol.md 2.10).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from uid2_async._call import Call
from uid2_async._client import OperatorClient, refresh_call
from uid2_async._traceback import strip_tracebacks
from uid2_async.clock import Clock
from uid2_async.errors import ConfigError
from uid2_async.hooks import Hook
from uid2_async.identity_tokens import IdentityTokens
from uid2_async.models import Identity, OptedOut, as_identity
from uid2_async.protocol import client_side, tokens
from uid2_async.protocol.envelope import IV_BYTES, AesGcmEnvelope
from uid2_async.protocol.normalize import write_identity_input
from uid2_async.retry import RetryPolicy
from uid2_async.transport import Transport

if TYPE_CHECKING:
    import aiohttp

__all__ = ["ClientSideClient"]


class ClientSideClient(OperatorClient):
    """Generates and refreshes tokens with the key pair of a subscription.

    What the operator checks in place of an API key is where the request comes from: the
    origin of a page, or the name of an app.

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
        """Check the settings; nothing is opened or sent yet.

        Args:
            base_url: The operator's URL, or several regional ones in order of
                preference.
            subscription_id: Names the key pair and thereby the site.
            server_public_key: What belongs to it, ``UID2-X-`` or ``EUID-X-`` and so on.
            origin: The origin of the page, such as ``https://www.example.com``.
            app_name: The name of the app, instead of *origin*.
            session: An aiohttp session to use as it is and to leave open.
            transport: What carries the requests instead of a SessionPool.
            proxy: The URL of an HTTP proxy, with credentials if it needs some.
            ca_file: A PEM file with the CAs to trust instead of the system's.
            retry: What is retried and how often.
            max_retries: How often a failed call is repeated, instead of *retry*.
            hooks: Called with each event of each call.
            timeout: Seconds that a call may take in total: all attempts and the pauses
                between them.
            allow_http: Whether plain http is allowed beyond loopback hosts.
            clock: Gives the time as an aware datetime; the system's by default.

        Raises:
            ConfigError: If a setting is wrong.
            TypeError: If not exactly one of *origin* and *app_name* is given, or both
                *session* and *transport*.
        """
        if (origin is None) == (app_name is None):
            raise TypeError("Give origin or app_name, and not both.")
        self._connect(
            base_url,
            session=session,
            transport=transport,
            proxy=proxy,
            ca_file=ca_file,
            allow_http=allow_http,
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
        self._make_pipeline(
            AesGcmEnvelope(),
            credentials=None,
            clock=clock,
            headers=_origin_header(origin),
        )

    def __repr__(self) -> str:
        """Show the base URLs."""
        return f"<ClientSideClient {', '.join(self.base_urls)}>"

    async def generate_token(
        self, identity: Identity | str, *, timeout: float | None = None
    ) -> IdentityTokens | OptedOut:
        """Generate identity tokens for one person (docs/protocol.md 2.10).

        DII is sent as its hash, sealed under a key pair that is made for each attempt.

        Args:
            identity: An e-mail, a phone or a hash of one.
            timeout: Instead of the client's, in seconds.

        Returns:
            The tokens, or OptedOut, and then do not ask again for this person.

        Raises:
            InputError: If *identity* is invalid; nothing is sent.
            AuthError: If the origin or app is not one of the subscription's.
        """
        one = as_identity(identity)
        # An invalid identity is refused before anything is opened.
        write_identity_input(one, send_raw=False)
        call = Call(
            path=client_side.CLIENT_GENERATE_PATH,
            parse=tokens.parse_refresh_reply,
            own_crypto=lambda now_ms, random_bytes: self._seal(
                one, now_ms, random_bytes(IV_BYTES)
            ),
        )
        return await self._run(call, timeout)

    def _seal(
        self, identity: Identity, now_ms: int, iv: bytes
    ) -> tuple[bytes, Callable[[bytes], bytes]]:
        """Seal one attempt; what opens the reply comes with it."""
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

    async def refresh_token(
        self, identity_tokens: IdentityTokens, *, timeout: float | None = None
    ) -> IdentityTokens | OptedOut:
        """Refresh identity tokens (docs/protocol.md 2.2), as UID2Client does.

        Args:
            identity_tokens: What generate or the last refresh returned.
            timeout: Instead of the client's, in seconds.

        Returns:
            New tokens with a new refresh_response_key; or OptedOut.

        Raises:
            InputError: If the reply could not be opened with what the tokens hold.
            InvalidTokenError: If the operator does not know the refresh token, or it is
                too old. Generate new tokens.
        """
        return await self._run(
            refresh_call(identity_tokens, self._pipeline.now_ms), timeout
        )


def _origin_header(origin: str | None) -> dict[str, str]:
    """Make the header that says where a page comes from."""
    if origin is None:
        return {}
    if not (origin.isascii() and origin.isprintable() and origin.strip()):
        raise ConfigError("The origin is empty or not printable ASCII.")
    return {"Origin": origin}


strip_tracebacks(globals())
