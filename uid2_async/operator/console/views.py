"""What the page is told: calls in short and opened, people, faults, time, keys."""

from __future__ import annotations

from typing import Any, Final

from uid2_async.models import IdentityType
from uid2_async.operator.console.exchanges import CALLS_KEPT, Exchange
from uid2_async.operator.console.reading import CHARS_SHOWN, Part, read
from uid2_async.operator.console.reasons import explain
from uid2_async.operator.console.snippets import snippets
from uid2_async.operator.console.wording import fault_words
from uid2_async.operator.data import OperatorData
from uid2_async.operator.dispatch import PATHS
from uid2_async.operator.indexes import (
    NEVER_OPTED_OUT,
    OPTED_OUT,
    OPTED_OUT_ON_REFRESH,
    DataIndex,
)
from uid2_async.operator.state import Armed

__all__ = ["armed_view", "call_view", "summary", "world_view"]

_HEADERS_KEPT_BACK: Final = frozenset({"cookie"})


def summary(exchange: Exchange) -> dict[str, Any]:
    """Tell in a line what a call was."""
    call = exchange.call
    known = exchange.caller.client
    return {
        "number": exchange.number,
        "at_ms": exchange.at_ms,
        "took_ms": round(exchange.took_ms, 1),
        "method": call.method,
        "path": call.path,
        "status": call.status,
        "client": call.client if known is None else known.name,
        "items": call.items,
        "fault": None if call.fault is None else fault_words(call.fault),
    }


def call_view(exchange: Exchange, index: DataIndex) -> dict[str, Any]:
    """Open a call, and say why it failed."""
    reading = read(exchange, index)
    reason = explain(exchange, reading, index.settings)
    call = exchange.call
    reply = exchange.reply
    answered = dict(reply.headers)
    if reply.content_type is not None:
        answered["Content-Type"] = reply.content_type
    return {
        **summary(exchange),
        "client_version": call.client_version,
        "trace_id": call.trace_id,
        "key": exchange.caller.check.value,
        "sent_ms": reading.sent_ms,
        "reason": None
        if reason is None
        else {"said": reason.said, "text": reason.text, "failed": reason.failed},
        "request": _part_view(reading.request, len(exchange.body)),
        "reply": _part_view(reading.reply, len(reply.body)),
        "request_headers": [
            [name, value]
            for name, value in sorted(call.headers.items())
            if name not in _HEADERS_KEPT_BACK
        ],
        "reply_headers": sorted([name.lower(), one] for name, one in answered.items()),
    }


def _part_view(part: Part, size: int) -> dict[str, Any]:
    """Show a request or a reply, cut where it is very long."""
    return {
        "how": part.how,
        "text": part.text[:CHARS_SHOWN],
        "cut": len(part.text) > CHARS_SHOWN,
        "json": part.data is not None,
        "bytes": size,
    }


def armed_view(armed: Armed) -> dict[str, Any]:
    """Show an armed fault."""
    return {
        "number": armed.number,
        "what": fault_words(armed.fault),
        "times": armed.times,
        "path": armed.path,
    }


def world_view(data: OperatorData, url: str) -> dict[str, Any]:
    """Show what does not change while the operator runs."""
    built_in = OperatorData.sample(scope=data.scope)
    same = data.credentials == built_in.credentials
    return {
        "scope": data.scope.value,
        "calls_kept": CALLS_KEPT,
        "lifetimes": {
            "refresh_after": data.runtime.refresh_identity_token_after_seconds,
            "identity_expires_after": data.runtime.identity_token_expires_after_seconds,
            "refresh_expires_after": data.runtime.refresh_token_expires_after_seconds,
        },
        "roles": [
            {
                "name": name,
                "roles": list(one.roles),
                "site_id": one.site_id,
                "api_key": one.api_key,
                "client_secret": one.client_secret,
                "snippets": snippets(data.scope, url, one, built_in=same),
            }
            for name, one in data.credentials.items()
        ],
        "subscriptions": _subscriptions(data),
        "test_identities": [
            [_both(OPTED_OUT), "always opted out"],
            [_both(OPTED_OUT_ON_REFRESH), "opted out on refresh, only there"],
            [_both(NEVER_OPTED_OUT), "never opted out"],
        ],
        "paths": list(PATHS),
    }


def _subscriptions(data: OperatorData) -> list[dict[str, Any]]:
    """Show the subscriptions of client-side generation."""
    sites = {site.id: site for site in data.sites}
    return [
        {
            "subscription_id": pair.subscription_id,
            "public_key": pair.public_key,
            "domains": list(sites[pair.site_id].domain_names)
            if pair.site_id in sites
            else [],
        }
        for pair in data.keypairs
        if not pair.disabled
    ]


def _both(identities: dict[IdentityType, str]) -> list[str]:
    """List the e-mail and the phone of a test identity."""
    return [identities[kind] for kind in IdentityType]
