"""For publishers: refresh identity tokens, and pass them to pages and exchanges.

:class:`~uid2_async.TokenRefresher` and :func:`~uid2_async.try_generate` call the
operator. All other functions convert tokens for browsers, sessions and bid requests,
without I/O.
"""

from __future__ import annotations

from uid2_async.openrtb import add_openrtb_eid, to_openrtb_eid
from uid2_async.publisher.generate import (
    GenerateResult,
    InvalidIdentity,
    Unavailable,
    try_generate,
)
from uid2_async.publisher.refresher import Freshness, TokenRefresher
from uid2_async.publisher.sealed_cookie import SealedCookie
from uid2_async.publisher.session import (
    cookie_name,
    from_cookie,
    from_session,
    to_cookie,
    to_js_sdk,
    to_prebid_params,
    to_session,
)

__all__ = [
    "Freshness",
    "GenerateResult",
    "InvalidIdentity",
    "SealedCookie",
    "TokenRefresher",
    "Unavailable",
    "add_openrtb_eid",
    "cookie_name",
    "from_cookie",
    "from_session",
    "to_cookie",
    "to_js_sdk",
    "to_openrtb_eid",
    "to_prebid_params",
    "to_session",
    "try_generate",
]
