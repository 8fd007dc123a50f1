"""How an operator is configured: its settings, lifetimes and environment."""

from __future__ import annotations

import attrs

from uid2_async._traceback import strip_tracebacks
from uid2_async.errors import ConfigError
from uid2_async.protocol.raw_uid import Environment

__all__ = ["EMBEDDED_OPT_OUT", "RuntimeConfig", "Settings", "check_runtime"]

EMBEDDED_OPT_OUT = "embedded:"
"""The opt-out service that is this operator itself: logout takes effect at once."""


@attrs.frozen(kw_only=True)
class RuntimeConfig:
    """Lifetimes in seconds (docs/protocol.md 2.1 and 6.1), and the environment."""

    identity_token_expires_after_seconds: int
    refresh_token_expires_after_seconds: int
    refresh_identity_token_after_seconds: int
    sharing_token_expiry_seconds: int = 2_592_000
    max_sharing_lifetime_seconds: int | None = None
    max_bidstream_lifetime_seconds: int | None = None
    identity_environment: str = "test"

    @property
    def environment(self) -> Environment:
        """The environment as it stands in v4 raw UIDs."""
        return Environment[self.identity_environment.upper()]


def check_runtime(runtime: RuntimeConfig) -> None:
    """Refuse lifetimes with which an operator would not start (docs/protocol.md 2.1).

    Raises:
        ConfigError: If they contradict each other, or the environment is none.
    """
    refresh_after = runtime.refresh_identity_token_after_seconds
    identity = runtime.identity_token_expires_after_seconds
    refresh = runtime.refresh_token_expires_after_seconds
    if not 0 < refresh_after <= identity <= refresh:
        raise ConfigError(
            "Lifetimes must grow: refresh_identity_token_after_seconds, "
            "identity_token_expires_after_seconds, refresh_token_expires_after_seconds."
        )
    if runtime.identity_environment.upper() not in Environment.__members__:
        raise ConfigError("identity_environment is none of test, integ and prod.")


@attrs.frozen(kw_only=True)
class Settings:
    """The operator's own settings; the names are those of its configuration."""

    identity_v3: bool = False
    client_side_token_generate: bool = True
    client_side_token_generate_domain_name_check_enabled: bool = True
    key_sharing_endpoint_provide_app_names: bool = False
    optout_status_api_enabled: bool = True
    optout_status_max_request_size: int = 5_000
    enable_phone_support: bool = True
    optout_api_uri: str | None = None
    validate_service_links: bool = False
    tcf_vendor_id: int = 21
    allow_clock_skew_seconds: int = 1_800


strip_tracebacks(globals())
