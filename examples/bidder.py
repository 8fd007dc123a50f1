"""A bidder: decrypt tokens, respect opt-outs, and keep the keys fresh.

    python examples/bidder.py

If the environment names an operator (UID2_BASE_URL, UID2_API_KEY, UID2_SECRET_KEY),
this serves POST /bid, GET /optout and GET /health at port 8080. Otherwise, it
demonstrates some bid requests, an outage and an opt-out with an embedded operator, and
prints the results.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlencode

import msgspec
from aiohttp import web

from uid2_async import (
    BidstreamClient,
    IdentityTokens,
    KeyStore,
    RetryPolicy,
    TokenFailure,
    UID2Client,
    errors,
)
from uid2_async.bidstream import domain_or_app_in, parse_optout_webhook, tokens_in
from uid2_async.operator import Fault, LocalOperator
from uid2_async.publisher import to_openrtb_eid

# In each of these cases, bid as for an unknown person. Count the failures by seller.
# These are the texts of the alerts.
ADVICE: dict[str | TokenFailure, str] = {
    TokenFailure.INVALID_PAYLOAD: "Not a token, or a damaged one: notify the seller.",
    TokenFailure.VERSION_NOT_SUPPORTED: "Newer than this library: update it.",
    TokenFailure.INVALID_IDENTITY_SCOPE: "An EUID token in a UID2 eid, or the reverse.",
    TokenFailure.NOT_AUTHORIZED_FOR_MASTER_KEY: "Our keys are old: look at /health.",
    TokenFailure.NOT_AUTHORIZED_FOR_KEY: "The publisher does not share with us.",
    TokenFailure.EXPIRED_TOKEN: "The page did not refresh it: notify the seller.",
    TokenFailure.DOMAIN_OR_APP_NAME_CHECK_FAILED: "Another site's: do not trust.",
    TokenFailure.INVALID_TOKEN_LIFETIME: "Whose clock is wrong: theirs or ours?",
}


class Bidder:
    """Decides on which bid requests to bid, with keys that are kept in memory.

    Attributes:
        opted_out: The raw UIDs not to bid on. Store them in the database of the
            profiles: delete the profile, and keep the opt-out.
        outcomes: The number of bid requests by outcome.
    """

    def __init__(self, keys: KeyStore) -> None:
        """Decrypt tokens with *keys*."""
        self._bidstream = BidstreamClient(keys)
        self.opted_out: set[str] = set()
        self.outcomes: Counter[str | TokenFailure] = Counter()

    def identify(self, bid_request: dict[str, Any]) -> str | None:
        """Return the raw UID of a bid request, or None if there is none to bid on.

        This takes a few microseconds and sends nothing, so call it for each bid
        request.
        """
        raw_uid: str | None = None
        outcome: str | TokenFailure = "no token"
        for token in tokens_in(bid_request):
            raw_uid, outcome = self._open(token, domain_or_app_in(bid_request))
            # An opt-out of the email address counts, even if a second token is from
            # the phone number.
            if outcome in {"known", "opted out"}:
                break
        self.outcomes[outcome] += 1
        return raw_uid

    def report(self) -> list[str]:
        """Describe the outcomes of the bid requests, and what to do about them."""
        return [
            f"{count} {outcome}. {ADVICE.get(outcome, '')}".rstrip()
            for outcome, count in self.outcomes.most_common()
        ]

    def _open(
        self, token: str, domain_or_app: str | None
    ) -> tuple[str | None, str | TokenFailure]:
        """Decrypt a token, and count the outcome."""
        try:
            found = self._bidstream.decrypt(token, domain_or_app)
        except errors.TokenError as error:
            return None, error.reason
        except errors.KeysUnavailableError:
            # An outage that lasted longer than all keys, which takes days.
            return None, "no keys"
        if found.raw_uid in self.opted_out:
            return None, "opted out"
        return found.raw_uid, "known"


# --- as a service ---------------------------------------------------------------------

BIDDER = web.AppKey("bidder", Bidder)
KEYS = web.AppKey("keys", KeyStore)


async def bid(request: web.Request) -> web.Response:
    """Bid. Here, only report whether the person is known."""
    raw_uid = request.app[BIDDER].identify(await request.json())
    return web.json_response({"known": raw_uid is not None})


async def opt_out(request: web.Request) -> web.Response:
    """Store an opt-out notice and answer 200. Otherwise, it is sent again."""
    try:
        notice = parse_optout_webhook(request.query_string)
    except errors.InputError:
        return web.Response(status=400)
    request.app[BIDDER].opted_out.add(notice.raw_uid)
    return web.Response()


async def health(request: web.Request) -> web.Response:
    """Report whether there are keys, their age, and the last error."""
    keys = request.app[KEYS]
    report = {
        "ready": keys.ready,
        "age": round(keys.age) if keys.ready else None,
        "last_error": keys.last_error and type(keys.last_error).__name__,
        "bid_requests": request.app[BIDDER].report(),
    }
    return web.json_response(report, status=200 if keys.ready else 503)


def make_app(
    make_client: Callable[[], UID2Client] = UID2Client.from_env,
) -> web.Application:
    """Create the service."""

    async def keys(app: web.Application) -> AsyncIterator[None]:
        # Not required: without keys, a bidder starts but does not bid.
        async with (
            make_client() as client,
            KeyStore(client.fetch_bidstream_keys, required=False) as store,
        ):
            app[KEYS], app[BIDDER] = store, Bidder(store)
            yield

    app = web.Application()
    app.cleanup_ctx.append(keys)
    app.add_routes(
        [web.post("/bid", bid), web.get("/optout", opt_out), web.get("/health", health)]
    )
    return app


# --- the demonstration ----------------------------------------------------------------


async def demo() -> None:
    """Show a known person, rejected tokens, an outage and an opt-out."""
    async with (
        LocalOperator() as operator,
        UID2Client(
            operator.url,
            api_key=operator.api_key,
            client_secret=operator.client_secret,
            retry=RetryPolicy.never(),
        ) as client,
        KeyStore(client.fetch_bidstream_keys) as keys,
    ):
        bidder = Bidder(keys)
        tokens = await client.generate_token("user@example.com")
        assert isinstance(tokens, IdentityTokens)
        known = to_openrtb_eid(tokens)
        raw_uid = bidder.identify(known)
        assert raw_uid is not None
        shorter = tokens.advertising_token[:-9]
        cut = msgspec.structs.replace(tokens, advertising_token=shorter)
        for bid_request in ({}, to_openrtb_eid(cut)):
            assert bidder.identify(bid_request) is None

        operator.fail_next(Fault(status=503), times=9)
        await keys.ensure_fresh(0)
        print(f"An outage: {type(keys.last_error).__name__}.")
        print("The keys still decrypt tokens:", bidder.identify(known) == raw_uid)

        query = urlencode({"identity": raw_uid, "timestamp": 1_700_000_000})
        bidder.opted_out.add(parse_optout_webhook(query).raw_uid)
        print("Bids on a person who opted out:", bidder.identify(known) is not None)
        print(*bidder.report(), sep="\n")


if __name__ == "__main__":
    if {"UID2_BASE_URL", "UID2_ENV"} & os.environ.keys():
        # No access log, because it would contain the raw UIDs of opt-out notices.
        web.run_app(make_app(), port=8080, access_log=None)
    else:
        asyncio.run(demo())
