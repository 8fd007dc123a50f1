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
    from uid2_async.blocking import BlockingClient as BlockingClient
    from uid2_async.bulk.jobs import map_file as map_file
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
    from uid2_async.bulk.state_jobs import refresh_state as refresh_state
    from uid2_async.client import UID2Client as UID2Client
    from uid2_async.client_side import ClientSideClient as ClientSideClient
    from uid2_async.errors import (
        AuthError as AuthError,
        BadRequestError as BadRequestError,
        CallTimeoutError as CallTimeoutError,
        CertificateError as CertificateError,
        ClientClosedError as ClientClosedError,
        ClientForkError as ClientForkError,
        ClientLoopError as ClientLoopError,
        ClockSkewError as ClockSkewError,
        ConfigError as ConfigError,
        ConnectError as ConnectError,
        EnvelopeError as EnvelopeError,
        ExpiredTokenError as ExpiredTokenError,
        InputError as InputError,
        InvalidTokenError as InvalidTokenError,
        JobError as JobError,
        KeysUnavailableError as KeysUnavailableError,
        OperatorError as OperatorError,
        PayloadTooLargeError as PayloadTooLargeError,
        ProtocolError as ProtocolError,
        RateLimitError as RateLimitError,
        ServerError as ServerError,
        StalledError as StalledError,
        TokenError as TokenError,
        TokenFailure as TokenFailure,
        TransportError as TransportError,
        UID2Error as UID2Error,
        UnexpectedStatusError as UnexpectedStatusError,
    )
    from uid2_async.hooks import Hook as Hook
    from uid2_async.identity_tokens import (
        IdentityTokens as IdentityTokens,
        TokenState as TokenState,
    )
    from uid2_async.integrations.frames import map_frame as map_frame
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
    from uid2_async.publisher.generate import try_generate as try_generate
    from uid2_async.publisher.refresher import (
        Freshness as Freshness,
        TokenRefresher as TokenRefresher,
    )
    from uid2_async.retry import RetryBudget as RetryBudget, RetryPolicy as RetryPolicy
    from uid2_async.sharing import SharingClient as SharingClient
    from uid2_async.transport import SessionPool as SessionPool, Transport as Transport

_NAMES = {
    "bidstream": "BidstreamClient",
    "blocking": "BlockingClient",
    "bulk.jobs": "map_file",
    "bulk.mapper": "BulkMapper",
    "bulk.options": "JobSummary MapOptions",
    "bulk.outcomes": "MapFailure MapRecord Progress",
    "bulk.state": "MappingState",
    "bulk.state_jobs": "refresh_state",
    "client": "UID2Client",
    "client_side": "ClientSideClient",
    "errors": (
        "errors AuthError BadRequestError CallTimeoutError CertificateError "
        "ClientClosedError ClientForkError ClientLoopError ClockSkewError ConfigError "
        "ConnectError EnvelopeError ExpiredTokenError InputError InvalidTokenError "
        "JobError KeysUnavailableError OperatorError PayloadTooLargeError "
        "ProtocolError RateLimitError ServerError StalledError TokenError "
        "TokenFailure TransportError UID2Error UnexpectedStatusError"
    ),
    "hooks": "Hook",
    "identity_tokens": "IdentityTokens TokenState",
    "integrations.frames": "map_frame",
    "keystore": "KeyStore",
    "models": (
        "Bucket Email EmailHash Identity IdentityMap IdentityScope "
        "InsufficientConsent MappedUID OptOutStatus OptedOut Phone PhoneHash Unmapped "
        "UnmappedReason"
    ),
    "protocol.envelope": "AesGcmEnvelope Envelope",
    "protocol.keyring": "KeyRing",
    "protocol.token_rules": "DecryptedToken",
    "publisher.generate": "try_generate",
    "publisher.refresher": "Freshness TokenRefresher",
    "retry": "RetryBudget RetryPolicy",
    "sharing": "SharingClient",
    "transport": "SessionPool Transport",
}
"""The public names of each module."""

_MODULES = {name: module for module, names in _NAMES.items() for name in names.split()}

# Type checkers read the imports above.
__all__ = list(dict.fromkeys(sorted(_MODULES)))  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Load the public *name* from its module and keep it."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
    value = globals()[name] = module if name == "errors" else getattr(module, name)
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return [*__all__, "__version__"]
