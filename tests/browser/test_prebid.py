"""Prebid.js, from npm, takes what we make for it, refreshes, and yields our eid."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import attrs
import pytest

from uid2_async import IdentityScope, IdentityTokens, TokenRefresher, UID2Client
from uid2_async.operator import LocalOperator, OperatorData
from uid2_async.operator.tcf import read_consent
from uid2_async.publisher import (
    cookie_name,
    from_session,
    to_cookie,
    to_openrtb_eid,
    to_prebid_params,
    to_session,
)

pytest.importorskip("selenium")
pytest.importorskip("starlette")

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from uid2_async.integrations.starlette import (
    keep_fresh,
    uid2_lifespan,
)

pytestmark = pytest.mark.browser

UID2, EUID = IdentityScope
HOUR = 3_600
DAY = 24 * HOUR
# The operator takes the first for consent and the second for none.
CONSENT = "CPehNtWPehNtWABAMBFRACBoALAAAEJAAIYgAKwAQAKgArABAAqAAA"
NO_CONSENT = "CPehXK9PehXK9ABAMBFRACBoADAAAEJAAIYgAKwAQAKgArABAAqAAA"

PAGE = """<!doctype html><html lang="en"><title>Prebid</title>
<script>var pbjs = {que: []};</script><script src="/prebid.js"></script>"""

# An auction with a bidder that tells what it was asked with.
AUCTION = """
const [entry, gdpr, done] = arguments;
pbjs.registerBidAdapter(null, "ours", {
  code: "ours",
  gvlid: 21,  // without consent for its vendor no bidder is asked where GDPR applies
  isBidRequestValid: () => true,
  buildRequests: (bids, request) => {
    window.offered = request.ortb2.user?.ext?.eids ?? [];
    return [];
  },
  interpretResponse: () => [],
});
pbjs.setConfig({
  userSync: {auctionDelay: 5000, userIds: [entry]},
  ...(gdpr && {consentManagement: {gdpr: {cmpApi: "iab", timeout: 5000}}}),
});
pbjs.getUserIdsAsync().then(() => pbjs.requestBids({
  adUnits: [{
    code: "ad", mediaTypes: {banner: {sizes: [[300, 250]]}},
    bids: [{bidder: "ours", params: {}}],
  }],
  bidsBackHandler: () => done({
    eids: pbjs.getUserIdsAsEids(),
    offered: window.offered,
    stored: localStorage.getItem(entry.name === "uid2"
      ? "__uid2_advertising_token" : "__euid_advertising_token"),
  }),
}));
"""


@attrs.frozen(kw_only=True)
class Outcome:
    """What Prebid.js made of an entry of userIds.

    Attributes:
        entry: The entry, as the page got it.
        eids: What it yields.
        stored: What it keeps for the next page.
    """

    entry: dict[str, Any]
    eids: list[dict[str, Any]]
    stored: Any


class Publisher:
    """A publisher with one visitor, whose pages run Prebid.js."""

    def __init__(self, operator: LocalOperator, scope: IdentityScope) -> None:
        """Take the operator's clock."""
        self.operator = operator
        self.scope = scope
        self.session: dict[str, Any] = {}

    def client(self) -> UID2Client:
        """Make a client."""
        return UID2Client(
            self.operator.url,
            api_key=self.operator.api_key,
            client_secret=self.operator.client_secret,
            scope=self.scope,
            clock=lambda: self.operator.now,
        )

    def log_in(self, *, ago: float = 0) -> IdentityTokens:
        """Generate tokens *ago* seconds ago: the browser's clock cannot be set."""
        consent = CONSENT if self.scope is EUID else None
        self.operator.advance(-ago)
        tokens = asyncio.run(self._generate(consent))
        self.operator.advance(ago)
        self.session["uid2"] = to_session(tokens)
        return tokens

    async def _generate(self, consent: str | None) -> IdentityTokens:
        async with self.client() as client:
            reply = await client.generate_token(
                "reader@example.com", tcf_consent_string=consent
            )
        assert isinstance(reply, IdentityTokens)
        return reply

    async def refresh(self, tokens: IdentityTokens) -> object:
        """Refresh *tokens* as the server would."""
        async with self.client() as client:
            return await client.refresh_token(tokens)

    def refreshes(self) -> list[str]:
        """List who asked for the refreshes so far."""
        return [
            "page" if "origin" in call.headers else "server"
            for call in self.operator.calls
            if (call.method, call.path) == ("POST", "/v2/token/refresh")
        ]

    def eid(self, tokens: IdentityTokens) -> dict[str, Any]:
        """Make our eid, as far as Prebid.js makes it too."""
        eid = to_openrtb_eid(tokens, scope=self.scope)["user"]["eids"][0]
        (uid,) = eid["uids"]
        return {**eid, "uids": [{"id": uid["id"], "atype": uid["atype"]}]}

    def app(self, prebid: str) -> ASGIApp:
        """Make the site: who wants fresh tokens asks for them, and nobody else."""

        def page(entry: object, *, cookie: str | None = None) -> Response:
            data = json.dumps(entry).replace("<", "\\u003c")
            script = f'<script type="application/json" id="entry">{data}</script>'
            response = HTMLResponse(PAGE + script)
            if cookie is not None:
                response.headers.append("Set-Cookie", cookie)
            return response

        def held() -> IdentityTokens:
            tokens = from_session(self.session["uid2"])
            assert isinstance(tokens, IdentityTokens)
            return tokens

        async def client_refresh(_: Request) -> Response:
            params = to_prebid_params(
                held(), scope=self.scope, api_base=self.operator.url
            )
            return page(params)

        async def client_refresh_cookie(_: Request) -> Response:
            name = cookie_name(self.scope)
            params = to_prebid_params(
                held(), scope=self.scope, cookie=name, api_base=self.operator.url
            )
            cookie = to_cookie(held(), scope=self.scope)
            return page(params, cookie=cookie)

        async def server_only(request: Request) -> Response:
            freshness = await keep_fresh(request)
            assert freshness is not None
            assert freshness.tokens is not None
            params = to_prebid_params(
                freshness.tokens, mode="server_only", scope=self.scope
            )
            return page(params)

        async def server_only_cookie(request: Request) -> Response:
            freshness = await keep_fresh(request)
            assert freshness is not None
            assert freshness.tokens is not None
            params = to_prebid_params(
                freshness.tokens,
                mode="server_only",
                scope=self.scope,
                cookie=cookie_name(self.scope, "advertising_token"),
            )
            cookie = to_cookie(
                freshness.tokens, scope=self.scope, content="advertising_token"
            )
            return page(params, cookie=cookie)

        async def script(_: Request) -> Response:
            return Response(prebid, media_type="text/javascript")

        pages = (client_refresh, client_refresh_cookie, server_only, server_only_cookie)
        app = Starlette(
            routes=[
                Route("/prebid.js", script),
                *(Route(f"/{one.__name__}", one) for one in pages),
            ],
            lifespan=uid2_lifespan(
                self.client,
                make_refresher=lambda client: TokenRefresher(
                    client, clock=lambda: self.operator.now
                ),
            ),
        )

        async def with_session(scope: Scope, receive: Receive, send: Send) -> None:
            scope["session"] = self.session
            await app(scope, receive, send)

        return with_session


@pytest.fixture
def operator(scope: IdentityScope) -> Iterator[LocalOperator]:
    """Run an operator of the scope."""
    with LocalOperator.in_thread(OperatorData.sample(scope=scope)) as running:
        yield running


@pytest.fixture
def scope() -> IdentityScope:
    """Give the scope, UID2 where a test does not say another one."""
    return UID2


@pytest.fixture
def publisher(operator: LocalOperator, scope: IdentityScope) -> Publisher:
    """Give the publisher."""
    return Publisher(operator, scope)


@pytest.fixture
def visit(
    driver: Any,
    publisher: Publisher,
    prebid: str,
    serve: Callable[[Any], AbstractContextManager[str]],
) -> Iterator[Callable[..., Outcome]]:
    """Open a page and run an auction on it."""
    with serve(publisher.app(prebid)) as url:

        def visit(path: str, consent: str | None = None) -> Outcome:
            if consent:
                driver.execute_cdp_cmd(
                    "Page.addScriptToEvaluateOnNewDocument",
                    {"source": cmp_script(consent)},
                )
            driver.get(f"{url}/{path}")
            entry = json.loads(
                driver.execute_script(
                    "return document.getElementById('entry').textContent"
                )
            )
            told = driver.execute_async_script(AUCTION, entry, consent is not None)
            assert (told["offered"] or []) == told["eids"]
            stored = told["stored"] and json.loads(told["stored"])
            return Outcome(entry=entry, eids=told["eids"], stored=stored)

        yield visit


def cmp_script(text: str) -> str:
    """Stand in for a CMP that says what the consent string *text* says."""
    consent = read_consent(text)
    assert consent is not None

    def flags(ids: frozenset[int]) -> dict[str, bool]:
        return {str(one): True for one in ids}

    data = {
        "tcString": text,
        "gdprApplies": True,
        "eventStatus": "tcloaded",
        "cmpStatus": "loaded",
        "listenerId": 1,
        "purpose": {
            "consents": flags(consent.purposes),
            "legitimateInterests": flags(consent.legitimate_purposes),
        },
        "vendor": {
            "consents": flags(consent.vendors),
            "legitimateInterests": flags(consent.legitimate_vendors),
        },
        "publisher": {"restrictions": {}},
    }
    return (
        f"window.__tcfapi = (command, version, done) => done({json.dumps(data)}, true);"
    )


def latest(outcome: Outcome) -> IdentityTokens:
    """Read the tokens that Prebid.js has refreshed."""
    return IdentityTokens.from_dict(outcome.stored["latestToken"])


both = pytest.mark.parametrize(
    ("scope", "consent"), [(UID2, None), (EUID, CONSENT)], ids=["UID2", "EUID"]
)
by_client = pytest.mark.parametrize("path", ["client_refresh", "client_refresh_cookie"])
by_server = pytest.mark.parametrize("path", ["server_only", "server_only_cookie"])


@both
@by_client
def test_the_page_takes_fresh_tokens_as_they_are(
    publisher: Publisher, visit: Callable[..., Outcome], path: str, consent: str | None
) -> None:
    """With client refresh nobody refreshes what is not due, and the eid is ours."""
    tokens = publisher.log_in()

    outcome = visit(path, consent)

    assert outcome.eids == [publisher.eid(tokens)]
    assert publisher.refreshes() == []


@both
@by_client
@pytest.mark.parametrize("ago", [2 * HOUR, 4 * DAY], ids=["due", "expired"])
def test_the_page_refreshes_and_the_server_does_not(
    publisher: Publisher,
    visit: Callable[..., Outcome],
    path: str,
    consent: str | None,
    ago: float,
) -> None:
    """Prebid.js opens the reply, yields its token, and can go on from there."""
    given = publisher.log_in(ago=ago)

    outcome = visit(path, consent)

    new = latest(outcome)
    assert new.advertising_token != given.advertising_token
    assert outcome.eids == [publisher.eid(new)]
    assert publisher.refreshes() == ["page"]
    assert from_session(publisher.session["uid2"]) == given
    assert isinstance(asyncio.run(publisher.refresh(new)), IdentityTokens)


def test_the_next_page_goes_on_with_what_the_page_has_refreshed(
    publisher: Publisher, visit: Callable[..., Outcome]
) -> None:
    """The server hands over the same tokens again, and Prebid.js keeps its newer ones.

    That holds only as long as the server does not refresh.
    """
    publisher.log_in(ago=2 * HOUR)
    first = visit("client_refresh")

    second = visit("client_refresh")

    assert second.eids == first.eids
    assert publisher.refreshes() == ["page"]


def test_an_opt_out_reaches_the_page(
    publisher: Publisher, visit: Callable[..., Outcome]
) -> None:
    """The page's refresh is answered by an opt-out, and there is no eid."""
    publisher.log_in(ago=2 * HOUR)
    publisher.operator.opt_out("reader@example.com")

    outcome = visit("client_refresh")

    assert outcome.eids == []
    assert outcome.stored["latestToken"] == "optout"
    assert publisher.refreshes() == ["page"]


@both
@by_server
def test_the_server_refreshes_and_the_page_does_not(
    publisher: Publisher, visit: Callable[..., Outcome], path: str, consent: str | None
) -> None:
    """In server-only mode the page gets only the advertising token and asks nobody."""
    given = publisher.log_in(ago=2 * HOUR)

    outcome = visit(path, consent)

    held = from_session(publisher.session["uid2"])
    assert isinstance(held, IdentityTokens)
    assert held != given
    assert outcome.eids == [publisher.eid(held)]
    assert publisher.refreshes() == ["server"]
    assert held.refresh_token not in json.dumps(outcome.entry)


@pytest.mark.parametrize("scope", [EUID])
@pytest.mark.parametrize("consent", [None, NO_CONSENT], ids=["no CMP", "refused"])
def test_without_consent_there_is_no_euid(
    publisher: Publisher, visit: Callable[..., Outcome], consent: str | None
) -> None:
    """Prebid.js asks for consent to storage, and for The Trade Desk as a vendor."""
    publisher.log_in(ago=2 * HOUR)

    outcome = visit("client_refresh", consent)

    assert outcome.eids == []
    assert publisher.refreshes() == []


def test_where_gdpr_applies_there_is_no_uid2(
    publisher: Publisher, visit: Callable[..., Outcome]
) -> None:
    """uid2IdSystem does not work there, whatever the consent."""
    publisher.log_in()

    assert visit("client_refresh", CONSENT).eids == []
