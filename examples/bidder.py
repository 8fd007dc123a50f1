"""A bidder: whose bid request is it, who has opted out, and do we still have keys?

    python examples/bidder.py

Where the environment names an operator (UID2_BASE_URL, UID2_API_KEY, UID2_SECRET_KEY)
it serves POST /bid, GET /optout and GET /health at port 8080. If not, it plays some bid
requests, an outage and an opt-out against an embedded operator, and tells what it did.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlencode

import attrs
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

# The bid goes on in each of these cases, as for somebody who is not known: a token that
# is refused is nobody's. Count them by seller; these are the words for the alert.
ADVICE: dict[str | TokenFailure, str] = {
    TokenFailure.INVALID_PAYLOAD: "No token, or a damaged one: tell the seller.",
    TokenFailure.VERSION_NOT_SUPPORTED: "Newer than this library: update it.",
    TokenFailure.INVALID_IDENTITY_SCOPE: "An EUID token in a UID2 eid, or the reverse.",
    TokenFailure.NOT_AUTHORIZED_FOR_MASTER_KEY: "Our keys are old: look at /health.",
    TokenFailure.NOT_AUTHORIZED_FOR_KEY: "The publisher does not share with us.",
    TokenFailure.EXPIRED_TOKEN: "The page did not refresh it: tell the seller.",
    TokenFailure.DOMAIN_OR_APP_NAME_CHECK_FAILED: "Another site's: do not trust.",
    TokenFailure.INVALID_TOKEN_LIFETIME: "Whose clock is wrong: theirs or ours?",
}


class Bidder:
    """Knows whose bid requests may be bid on, by keys that it keeps at hand.

    Attributes:
        opted_out: The raw UIDs that are not to be bid on. Keep them in the database
            that holds the profiles: delete the profile, remember the opt-out.
        outcomes: What became of the bid requests.
    """

    def __init__(self, keys: KeyStore) -> None:
        """Open tokens with *keys*."""
        self._bidstream = BidstreamClient(keys)
        self.opted_out: set[str] = set()
        self.outcomes: Counter[str | TokenFailure] = Counter()

    def identify(self, bid_request: dict[str, Any]) -> str | None:
        """Give the raw UID that the bid is for; None: it is for nobody in particular.

        It takes some microseconds and asks nobody: call it for each bid request.
        """
        raw_uid: str | None = None
        outcome: str | TokenFailure = "no token"
        for token in tokens_in(bid_request):
            raw_uid, outcome = self._open(token, domain_or_app_in(bid_request))
            # An opt-out by email counts although a second token is of the phone.
            if outcome in {"known", "opted out"}:
                break
        self.outcomes[outcome] += 1
        return raw_uid

    def report(self) -> list[str]:
        """Say what became of the bid requests, and what to do about it."""
        return [
            f"{count} {outcome}. {ADVICE.get(outcome, '')}".rstrip()
            for outcome, count in self.outcomes.most_common()
        ]

    def _open(
        self, token: str, domain_or_app: str | None
    ) -> tuple[str | None, str | TokenFailure]:
        """Open a token, and say what became of it."""
        try:
            found = self._bidstream.decrypt(token, domain_or_app)
        except errors.TokenError as error:
            return None, error.reason
        except errors.KeysUnavailableError:
            # An outage that outlived all keys, which takes days.
            return None, "no keys"
        if found.raw_uid in self.opted_out:
            return None, "opted out"
        return found.raw_uid, "known"


# --- as a service ---------------------------------------------------------------------

BIDDER = web.AppKey("bidder", Bidder)
KEYS = web.AppKey("keys", KeyStore)


async def bid(request: web.Request) -> web.Response:
    """Bid; here, say whether the person is known."""
    raw_uid = request.app[BIDDER].identify(await request.json())
    return web.json_response({"known": raw_uid is not None})


async def opt_out(request: web.Request) -> web.Response:
    """Take a notice of the opt-out service, and answer 200: else it comes again."""
    try:
        notice = parse_optout_webhook(request.query_string)
    except errors.InputError:
        return web.Response(status=400)
    request.app[BIDDER].opted_out.add(notice.raw_uid)
    return web.Response()


async def health(request: web.Request) -> web.Response:
    """Say whether there are keys, how old they are, and why they are not newer."""
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
    """Make the service."""

    async def keys(app: web.Application) -> AsyncIterator[None]:
        # Not required: without keys a bidder comes up, and bids for nobody.
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


# --- as a play ------------------------------------------------------------------------


async def play() -> None:
    """Show a known person, refused tokens, an outage and an opt-out."""
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
        cut = attrs.evolve(tokens, advertising_token=tokens.advertising_token[:-9])
        for bid_request in ({}, to_openrtb_eid(cut)):
            assert bidder.identify(bid_request) is None

        operator.fail_next(Fault(status=503), times=9)
        await keys.ensure_fresh(0)
        print(f"An outage: {type(keys.last_error).__name__}.")
        print("Its keys still open tokens:", bidder.identify(known) == raw_uid)

        query = urlencode({"identity": raw_uid, "timestamp": 1_700_000_000})
        bidder.opted_out.add(parse_optout_webhook(query).raw_uid)
        print("Bids on a person who opted out:", bidder.identify(known) is not None)
        print(*bidder.report(), sep="\n")


if __name__ == "__main__":
    if {"UID2_BASE_URL", "UID2_ENV"} & os.environ.keys():
        # No access log: its lines would hold the raw UIDs of opt-out notices.
        web.run_app(make_app(), port=8080, access_log=None)
    else:
        asyncio.run(play())
