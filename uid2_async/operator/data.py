"""The data of an operator: API keys, sites, keysets, salts, opt-outs and settings.

The classes mirror the files that an operator reads. :class:`OperatorData` contains all
of them. It does not change while an operator runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Sized
from datetime import datetime
from pathlib import Path

import attrs

from uid2_async._private import Unpicklable
from uid2_async._traceback import strip_tracebacks
from uid2_async.errors import ConfigError
from uid2_async.models import IdentityScope
from uid2_async.protocol.keyring import Key
from uid2_async.protocol.raw_uid import Environment

EMBEDDED_OPT_OUT = "embedded:"
"""Selects the built-in opt-out service, with which a logout takes effect at once."""


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
        """The environment as encoded in v4 raw UIDs."""
        return Environment[self.identity_environment.upper()]


def check_runtime(runtime: RuntimeConfig) -> None:
    """Raise if an operator would not start with these lifetimes (docs/protocol.md 2.1).

    Raises:
        ConfigError: If the lifetimes contradict each other, or the environment is
            unknown.
    """
    refresh_after = runtime.refresh_identity_token_after_seconds
    identity = runtime.identity_token_expires_after_seconds
    refresh = runtime.refresh_token_expires_after_seconds
    if not 0 < refresh_after <= identity <= refresh:
        raise ConfigError(
            "Lifetimes must be positive and must not decrease in this order: "
            "refresh_identity_token_after_seconds, "
            "identity_token_expires_after_seconds, refresh_token_expires_after_seconds."
        )
    if runtime.identity_environment.upper() not in Environment.__members__:
        raise ConfigError("identity_environment must be test, integ or prod.")


@attrs.frozen(kw_only=True)
class OperatorSettings:
    """The operator's own settings, named as in its configuration."""

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


def _count(values: Sized) -> str:
    """Return the number of values, for a repr."""
    return str(len(values))


def _names(values: Mapping[str, object]) -> str:
    """Return only the names, for a repr."""
    return ", ".join(values)


MASTER_KEYSET = -1
REFRESH_KEYSET = -2


@attrs.frozen(kw_only=True)
class Client(Unpicklable):
    """An API key as the operator stores it (docs/protocol.md 1.2 and 1.8).

    Attributes:
        name: The name of the client.
        key_hash: SHA-512 of the salt and the API key.
        key_salt: The salt of the hash.
        secret: The client secret, 32 bytes.
        roles: The roles of the key. Unknown roles are ignored.
        site_id: The site that owns the key.
        service_id: The service that the key belongs to, or 0 if none.
        disabled: Whether the key is disabled.
    """

    name: str
    key_hash: bytes = attrs.field(repr=False)
    key_salt: bytes = attrs.field(repr=False)
    secret: bytes = attrs.field(repr=False)
    roles: frozenset[str]
    site_id: int
    service_id: int = 0
    disabled: bool = False


@attrs.frozen(kw_only=True)
class Site:
    """A participant, with the domains of its web pages and the names of its apps."""

    id: int
    domain_names: tuple[str, ...] = ()
    app_names: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class Keyset:
    """A set of keys, and who may decrypt with them (docs/protocol.md 6.3).

    Attributes:
        keyset_id: The ID. -1 is the master keyset, and -2 the one of refresh tokens.
        site_id: The site that owns the keyset.
        allowed_sites: The sites that may read the keys. None allows every bidder.
        default: Whether its site encrypts with this keyset.
        enabled: Whether the keyset is in use.
    """

    keyset_id: int
    site_id: int
    allowed_sites: frozenset[int] | None = None
    default: bool = False
    enabled: bool = True


@attrs.frozen(kw_only=True)
class ClientSideKeypair(Unpicklable):
    """A subscription for generation in browsers and apps (docs/protocol.md 2.10).

    Attributes:
        subscription_id: The subscription ID.
        public_key: The public key that the publisher is given (``UID2-X-...``).
        private_key: The operator's private key.
        site_id: The site that owns the subscription.
        disabled: Whether the subscription is disabled.
    """

    subscription_id: str
    public_key: str
    private_key: str = attrs.field(repr=False)
    site_id: int
    disabled: bool = False


@attrs.frozen(kw_only=True)
class ServiceLink:
    """Allows a service to map identities for a participant (docs/protocol.md 2.5).

    Attributes:
        link_id: The ID that requests send.
        service_id: The service that may use it.
        name: The name. If it is not empty, the service must be listed.
        roles: The roles for which the link is valid.
        disabled: Whether the link is disabled.
    """

    link_id: str
    service_id: int
    name: str = ""
    roles: frozenset[str] = frozenset()
    disabled: bool = False


@attrs.frozen(kw_only=True)
class OptOutRecord:
    """Someone who opted out before the operator started.

    Attributes:
        email: The email address, or None.
        phone: The phone number, or None.
        opted_out_since: The time of the opt-out, in seconds since the Unix epoch.
        advertising_id: The raw UID at that time.
    """

    email: str | None = attrs.field(default=None, repr=False)
    phone: str | None = attrs.field(default=None, repr=False)
    opted_out_since: int
    advertising_id: str = attrs.field(repr=False)


@attrs.frozen
class SaltKey(Unpicklable):
    """The key of a bucket with v4 raw UIDs (docs/protocol.md 4.3)."""

    id: int
    key: str = attrs.field(repr=False)
    salt: str = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class SaltRow:
    """One bucket: a line of the salt file (docs/protocol.md 4.3). Times are in ms.

    Attributes:
        id: The number from which the bucket ID is derived.
        last_updated: The time of the last rotation.
        refresh_from: The earliest time of the next rotation.
        salt: The salt of v2 and v3 raw UIDs, or None if the bucket has a *key*.
        previous_salt: The salt before the last rotation.
        key: The key of v4 raw UIDs, or None.
        previous_key: The key before the last rotation, or None.
    """

    id: int
    last_updated: int
    refresh_from: int
    salt: str | None = attrs.field(default=None, repr=False)
    previous_salt: str | None = attrs.field(default=None, repr=False)
    key: SaltKey | None = None
    previous_key: SaltKey | None = None


@attrs.frozen(kw_only=True)
class SaltSnapshot:
    """All buckets as of one day. Times are in ms since the Unix epoch."""

    effective: int
    expires: int
    rows: Sequence[SaltRow] = attrs.field(repr=_count)


@attrs.frozen(kw_only=True)
class Salts(Unpicklable):
    """The salts of all buckets over time.

    Attributes:
        first_level: The salt of every first-level hash. It is text and is never
            decoded.
        id_prefix: The prefix of every bucket ID.
        id_secret: The Hashids salt of the bucket IDs.
        snapshots: The snapshots, in ascending order of *effective*. Never empty.
    """

    first_level: str = attrs.field(repr=False)
    id_prefix: str
    id_secret: str = attrs.field(repr=False)
    snapshots: Sequence[SaltSnapshot] = attrs.field(repr=_count)


@attrs.frozen(kw_only=True)
class Credentials(Unpicklable):
    """What a client needs to call the operator.

    Attributes:
        api_key: The API key.
        client_secret: The client secret: 32 bytes in base64.
        site_id: The site that owns the key.
        roles: The roles of the key.
    """

    api_key: str = attrs.field(repr=False)
    client_secret: str = attrs.field(repr=False)
    site_id: int
    roles: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class OperatorData(Unpicklable):
    """All data that an embedded operator is started with.

    Attributes:
        scope: UID2 or EUID.
        settings: The operator's settings.
        runtime: The lifetimes and the environment.
        clients: The API keys.
        sites: The participants.
        keysets: The keysets: which site encrypts with which keys, and who may read
            them.
        keys: The keys of all keysets.
        keypairs: The subscriptions for client-side generation.
        service_links: The links that allow services to map for participants.
        services: The IDs of the listed services. If None, every service counts as
            listed.
        salts: The salts of all buckets.
        opt_outs: The people who have opted out already.
        credentials: The plain-text API keys, by role or name.
    """

    scope: IdentityScope
    settings: OperatorSettings
    runtime: RuntimeConfig
    clients: tuple[Client, ...] = attrs.field(repr=_count)
    sites: tuple[Site, ...] = attrs.field(repr=_count)
    keysets: tuple[Keyset, ...] = attrs.field(repr=_count)
    keys: tuple[Key, ...] = attrs.field(repr=_count)
    keypairs: tuple[ClientSideKeypair, ...] = attrs.field(default=(), repr=_count)
    service_links: tuple[ServiceLink, ...] = attrs.field(default=(), repr=_count)
    services: frozenset[int] | None = attrs.field(default=None, repr=False)
    salts: Salts
    opt_outs: tuple[OptOutRecord, ...] = attrs.field(default=(), repr=_count)
    credentials: Mapping[str, Credentials] = attrs.field(repr=_names)

    def __attrs_post_init__(self) -> None:
        """Reject data that an operator could not start with.

        Raises:
            ConfigError: If the lifetimes contradict each other, a site has two default
                keysets, or there are no credentials or no salts.
        """
        check_runtime(self.runtime)
        defaults = (one.site_id for one in self.keysets if one.default and one.enabled)
        if any(count > 1 for count in Counter(defaults).values()):
            raise ConfigError(
                "A site has more than one keyset that is both default and enabled."
            )
        if not self.credentials:
            raise ConfigError("The operator's data has no credentials.")
        snapshots = self.salts.snapshots
        if not snapshots or not all(one.rows for one in snapshots):
            raise ConfigError("The operator's data has no salts.")

    @staticmethod
    def load(folder: str | Path) -> OperatorData:
        """Read the files in *folder*, in the formats that an operator reads.

        Raises:
            ConfigError: If a file is missing or malformed. The message names the file
                and the position in it, but never quotes its content.
        """
        from uid2_async.operator.data_sources import load  # noqa: PLC0415 - avoids a circular import

        return load(Path(folder))

    @staticmethod
    def sample(
        *,
        scope: IdentityScope = IdentityScope.UID2,
        seed: int = 0,
        base: datetime | None = None,
    ) -> OperatorData:
        """Generate the built-in sample data, which depends only on the arguments.

        The data contains credentials for ``publisher``, ``advertiser``, ``bidder``,
        ``sharer`` and ``everything``, 1,024 salt buckets that rotate once a year, and
        one subscription for client-side generation on ``localhost`` and
        ``example.com``.

        Args:
            scope: UID2 or EUID.
            seed: A different seed generates different keys, secrets and salts.
            base: The first day of the data. Defaults to today in UTC.

        Raises:
            InputError: If *base* has no time zone.
        """
        from uid2_async.operator.data_sources import sample  # noqa: PLC0415 - avoids a circular import

        return sample(scope, seed, base)


strip_tracebacks(globals())
