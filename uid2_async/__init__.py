"""Async Python library for UID2 and EUID.

The public names are loaded on first use (PEP 562), so that ``uid2_async.protocol`` and
the command line do not pay for aiohttp.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from uid2_async._version import __version__ as __version__

if TYPE_CHECKING:
    from uid2_async import errors as errors
    from uid2_async.bidstream import BidstreamClient as BidstreamClient
    from uid2_async.bulk.jobs import (
        map_file as map_file,
        refresh_state as refresh_state,
    )
    from uid2_async.bulk.mapper import BulkMapper as BulkMapper
    from uid2_async.bulk.options import (
        JobSummary as JobSummary,
        MapOptions as MapOptions,
    )
    from uid2_async.bulk.outcomes import (
        MapFailure as MapFailure,
        MapRecord as MapRecord,
        Progress as Progress,
    )
    from uid2_async.bulk.state import MappingState as MappingState
    from uid2_async.client import UID2Client as UID2Client
    from uid2_async.client_side import ClientSideClient as ClientSideClient
    from uid2_async.errors import TokenFailure as TokenFailure, UID2Error as UID2Error
    from uid2_async.hooks import Hook as Hook
    from uid2_async.identity_tokens import (
        IdentityTokens as IdentityTokens,
        TokenState as TokenState,
    )
    from uid2_async.keystore import KeyStore as KeyStore
    from uid2_async.models import (
        Bucket as Bucket,
        Email as Email,
        EmailHash as EmailHash,
        Identity as Identity,
        IdentityMap as IdentityMap,
        IdentityScope as IdentityScope,
        InsufficientConsent as InsufficientConsent,
        MappedUID as MappedUID,
        OptedOut as OptedOut,
        OptOutStatus as OptOutStatus,
        Phone as Phone,
        PhoneHash as PhoneHash,
        Unmapped as Unmapped,
        UnmappedReason as UnmappedReason,
    )
    from uid2_async.protocol.envelope import (
        AesGcmEnvelope as AesGcmEnvelope,
        Envelope as Envelope,
    )
    from uid2_async.protocol.keyring import KeyRing as KeyRing
    from uid2_async.protocol.token_rules import DecryptedToken as DecryptedToken
    from uid2_async.publisher.freshness import Freshness as Freshness
    from uid2_async.publisher.refresher import TokenRefresher as TokenRefresher
    from uid2_async.retry import RetryBudget as RetryBudget, RetryPolicy as RetryPolicy
    from uid2_async.sharing import SharingClient as SharingClient
    from uid2_async.transport import SessionPool as SessionPool, Transport as Transport

_HOMES = {
    "AesGcmEnvelope": "protocol.envelope",
    "BidstreamClient": "bidstream",
    "Bucket": "models",
    "BulkMapper": "bulk.mapper",
    "ClientSideClient": "client_side",
    "DecryptedToken": "protocol.token_rules",
    "Email": "models",
    "EmailHash": "models",
    "Envelope": "protocol.envelope",
    "Freshness": "publisher.freshness",
    "Hook": "hooks",
    "Identity": "models",
    "IdentityMap": "models",
    "IdentityScope": "models",
    "IdentityTokens": "identity_tokens",
    "InsufficientConsent": "models",
    "JobSummary": "bulk.options",
    "KeyRing": "protocol.keyring",
    "KeyStore": "keystore",
    "MapFailure": "bulk.outcomes",
    "MapOptions": "bulk.options",
    "MapRecord": "bulk.outcomes",
    "MappedUID": "models",
    "MappingState": "bulk.state",
    "OptOutStatus": "models",
    "OptedOut": "models",
    "Phone": "models",
    "PhoneHash": "models",
    "Progress": "bulk.outcomes",
    "RetryBudget": "retry",
    "RetryPolicy": "retry",
    "SessionPool": "transport",
    "SharingClient": "sharing",
    "TokenFailure": "errors",
    "TokenRefresher": "publisher.refresher",
    "TokenState": "identity_tokens",
    "Transport": "transport",
    "UID2Client": "client",
    "UID2Error": "errors",
    "Unmapped": "models",
    "UnmappedReason": "models",
    "errors": "errors",
    "map_file": "bulk.jobs",
    "refresh_state": "bulk.jobs",
}

__all__ = [
    "AesGcmEnvelope",
    "BidstreamClient",
    "Bucket",
    "BulkMapper",
    "ClientSideClient",
    "DecryptedToken",
    "Email",
    "EmailHash",
    "Envelope",
    "Freshness",
    "Hook",
    "Identity",
    "IdentityMap",
    "IdentityScope",
    "IdentityTokens",
    "InsufficientConsent",
    "JobSummary",
    "KeyRing",
    "KeyStore",
    "MapFailure",
    "MapOptions",
    "MapRecord",
    "MappedUID",
    "MappingState",
    "OptOutStatus",
    "OptedOut",
    "Phone",
    "PhoneHash",
    "Progress",
    "RetryBudget",
    "RetryPolicy",
    "SessionPool",
    "SharingClient",
    "TokenFailure",
    "TokenRefresher",
    "TokenState",
    "Transport",
    "UID2Client",
    "UID2Error",
    "Unmapped",
    "UnmappedReason",
    "errors",
    "map_file",
    "refresh_state",
]


def __getattr__(name: str) -> Any:
    """Load the public *name* from its module and keep it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = importlib.import_module(f"{__name__}.{_HOMES[name]}")
    value = home if name == "errors" else getattr(home, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return [*__all__, "__version__"]
