"""BidstreamClient: the tokens in bid requests, and the opt-outs that bidders are told.

The parameters of the opt-out webhook are those of
https://unifiedid.com/docs/guides/dsp-guide.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from itertools import repeat
from urllib.parse import parse_qs

import attrs

from uid2_async._private import Unpicklable
from uid2_async._traceback import strip_tracebacks, unwrapped
from uid2_async.clock import NS_PER_MS, Clock, ns_clock
from uid2_async.errors import InputError, TokenError, TokenFailure
from uid2_async.keystore import Keys, ring_of
from uid2_async.models import datetime_from_ms
from uid2_async.openrtb import domain_or_app_in, tokens_in
from uid2_async.protocol import base64
from uid2_async.protocol.keyring import KeyRing
from uid2_async.protocol.raw_uid import RAW_UID_SIZES, restore_environment
from uid2_async.protocol.token_rules import ClientType, DecryptedToken, try_decrypt

__all__ = [
    "BidstreamClient",
    "OptOutNotice",
    "domain_or_app_in",
    "parse_optout_webhook",
    "tokens_in",
]

_BIDSTREAM = ClientType.BIDSTREAM
# Called for each token, by methods that are wrapped themselves.
_ring_of = unwrapped(ring_of)
_try_decrypt = unwrapped(try_decrypt)
_MOST_PARAMETERS = 100
_SECONDS_DIGITS = 11  # up to the year 5138


class BidstreamClient(Unpicklable):
    """Opens the tokens of bid requests (docs/protocol.md 6.6).

    It works locally, with the keys of key/bidstream, and may be used by any thread. A
    token that a browser or app generated is taken only where the bid request comes from
    a domain or app of its site, as the keys tell them.

    Example:
        >>> async with KeyStore(client.fetch_bidstream_keys) as keys:
        ...     bidstream = BidstreamClient(keys)
        ...     for token in tokens_in(bid_request):
        ...         found = bidstream.decrypt(token, domain_or_app_in(bid_request))
    """

    def __init__(self, keys: Keys, *, clock: Clock | None = None) -> None:
        """Keep where the keys are.

        Args:
            keys: The keys of key/bidstream, or of key/sharing.
            clock: Gives the time as an aware datetime; the system's by default.
        """
        self._keys = keys
        self._now_ns = ns_clock(clock)

    def decrypt(self, token: str, domain_or_app: str | None = None) -> DecryptedToken:
        """Open the token of a bid request.

        Args:
            token: The token, of version 2, 3 or 4. Version 2 is not authenticated: who
                tampers with such a token can change the site and the times.
            domain_or_app: The domain or app that the request names (``site.domain``,
                ``app.bundle``), in any letter case.

        Raises:
            TokenError: If it is refused; the reason says why.
            KeysUnavailableError: If there are no keys, or all have expired.
        """
        keys = self._keys
        found = _try_decrypt(
            token,
            keys if isinstance(keys, KeyRing) else keys.ring,
            self._now_ns() // NS_PER_MS,
            _BIDSTREAM,
            domain_or_app,
        )
        if isinstance(found, DecryptedToken):
            return found
        raise TokenError(found)

    def decrypt_many(
        self,
        tokens: Iterable[str],
        domains_or_apps: Iterable[str | None] | None = None,
    ) -> list[DecryptedToken | TokenFailure]:
        """Open many tokens, without an exception for a bad one.

        Args:
            tokens: The tokens.
            domains_or_apps: Where each of them comes from, as many as there are tokens;
                None where that is not known, which refuses client-side tokens.

        Returns:
            For each token what it says, or why it is refused.

        Raises:
            InputError: If an argument is a str, or their lengths differ.
            KeysUnavailableError: If there are no keys, or all have expired.
        """
        if isinstance(tokens, str) or isinstance(domains_or_apps, str):
            raise InputError("decrypt_many takes lists, not a str.")
        ring, now_ms = _ring_of(self._keys), self._now_ns() // NS_PER_MS
        rows = _pair(tokens, domains_or_apps)
        return [
            _try_decrypt(token, ring, now_ms, _BIDSTREAM, name) for token, name in rows
        ]

    def __repr__(self) -> str:
        """Show the keys' own repr, which shows no key."""
        return f"<BidstreamClient {self._keys!r}>"


def _pair(
    tokens: Iterable[str], names: Iterable[str | None] | None
) -> Iterable[tuple[str, str | None]]:
    """Put each token beside the name that it came with."""
    if names is None:
        return zip(tokens, repeat(None), strict=False)
    tokens, names = list(tokens), list(names)
    if len(tokens) != len(names):
        raise InputError(f"{len(tokens)} tokens came with {len(names)} names.")
    return zip(tokens, names, strict=True)


@attrs.frozen(kw_only=True)
class OptOutNotice:
    """Somebody has opted out: do not bid on this raw UID any more.

    Attributes:
        raw_uid: The raw UID, as tokens hold it.
        opted_out: When it happened, in whole seconds, for information alone; None where
            the notice does not tell it in a readable way.
    """

    raw_uid: str = attrs.field(repr=False)
    opted_out: datetime | None


def parse_optout_webhook(
    query: str, *, identity: str = "identity", timestamp: str = "timestamp"
) -> OptOutNotice:
    """Read what the opt-out service sends to a bidder's webhook; answer it with 200.

    The service fills a URL that the bidder has registered, such as
    ``https://dsp.example.com/optout?user=%%identity%%&optouttime=%%timestamp%%``; so
    the names of the parameters are the bidder's choice. A ``+`` that was not escaped
    and arrived as a space is put right, and so is the environment of a v4 raw UID,
    which opt-out records drop (docs/protocol.md 2.7). A timestamp that is missing or
    wrong costs no opt-out.

    Args:
        query: The query string, as it came: not unescaped.
        identity: The name of the parameter that holds the raw UID.
        timestamp: The name of the parameter that holds the time, in seconds since the
            Unix epoch.

    Raises:
        InputError: If there is not exactly one raw UID.
    """
    try:
        fields = parse_qs(query.removeprefix("?"), max_num_fields=_MOST_PARAMETERS)
    except ValueError:
        fields = {}
    found = fields.get(identity, [])
    data = base64.decode(found[0].replace(" ", "+")) if len(found) == 1 else None
    if data is None or len(data) not in RAW_UID_SIZES:
        raise InputError(
            "The opt-out notice does not hold exactly one raw UID.",
            hint="Pass the names of the parameters in the URL that was registered.",
        )
    return OptOutNotice(
        raw_uid=base64.encode_text(restore_environment(data)),
        opted_out=_read_seconds(fields.get(timestamp, [""])[0]),
    )


def _read_seconds(text: str) -> datetime | None:
    """Read whole seconds since the Unix epoch, or None."""
    if not (text.isascii() and text.isdigit() and len(text) <= _SECONDS_DIGITS):
        return None
    return datetime_from_ms(int(text) * 1000)


strip_tracebacks(globals())
