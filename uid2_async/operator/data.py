"""What an operator is loaded with: API keys, sites, keysets, salts, opt-outs, settings.

The values are those of the files that an operator reads. :class:`OperatorData` contains
them all, and does not change while an operator runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Sized
from datetime import datetime
from pathlib import Path

import attrs

from uid2_async._traceback import strip_tracebacks
from uid2_async.errors import ConfigError
from uid2_async.models import IdentityScope
from uid2_async.protocol.keyring import Key
from uid2_async.protocol.raw_uid import Environment
from uid2_async.secret import Unpicklable

EMBEDDED_OPT_OUT = "embedded:"
"""Stands for an opt-out service in the operator itself; logout works at once."""


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


def _count(values: Sized) -> str:
    """Show how many there are, for a repr."""
    return str(len(values))


def _names(values: Mapping[str, object]) -> str:
    """Show only the names, for a repr."""
    return ", ".join(values)


MASTER_KEYSET = -1
REFRESH_KEYSET = -2


@attrs.frozen(kw_only=True)
class Client(Unpicklable):
    """An API key as the operator keeps it (docs/protocol.md 1.2 and 1.8).

    Attributes:
        name: What it is called.
        key_hash: SHA-512 of the salt and the key.
        key_salt: The salt of the hash.
        secret: The client secret, 32 bytes.
        roles: What it may do; unknown words are harmless.
        site_id: Whose it is.
        service_id: The service it belongs to, 0 for none.
        disabled: Whether it is switched off.
    """

    name: str
    key_hash: bytes = attrs.field(repr=False)
    key_salt: bytes = attrs.field(repr=False)
    secret: bytes = attrs.field(repr=False)
    roles: frozenset[str]
    site_id: int
    service_id: int = 0
    disabled: bool = False

    @property
    def reads_ids(self) -> bool:
        """Whether it is a bidder, to whom keysets without a list are open."""
        return "ID_READER" in self.roles


@attrs.frozen(kw_only=True)
class Site:
    """A participant.

    Attributes:
        id: Its number.
        domain_names: The domains of its web pages.
        app_names: The names of its apps.
    """

    id: int
    domain_names: tuple[str, ...] = ()
    app_names: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class Keyset:
    """A set of keys, and who may read with them (docs/protocol.md 6.3).

    Attributes:
        keyset_id: Its number; -1 is the master keyset, -2 that of refresh tokens.
        site_id: Whose it is.
        allowed_sites: Who may read; None for every bidder.
        default: Whether its site seals with it.
        enabled: Whether it counts.
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
        subscription_id: Its name.
        public_key: What the publisher is given, ``UID2-X-`` and so on.
        private_key: The operator's half.
        site_id: Whose it is.
        disabled: Whether it is switched off.
    """

    subscription_id: str
    public_key: str
    private_key: str = attrs.field(repr=False)
    site_id: int
    disabled: bool = False


@attrs.frozen(kw_only=True)
class ServiceLink:
    """For whom a service may map (docs/protocol.md 2.5).

    Attributes:
        link_id: What a request names it by.
        service_id: The service that may use it.
        name: What it is called; with a name, its service must be listed.
        roles: What it may be used for.
        disabled: Whether it is switched off.
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
        email: The e-mail address, or None.
        phone: The phone number, or None.
        opted_out_since: When, in seconds since the Unix epoch.
        advertising_id: The raw UID at that time.
    """

    email: str | None = attrs.field(default=None, repr=False)
    phone: str | None = attrs.field(default=None, repr=False)
    opted_out_since: int
    advertising_id: str = attrs.field(repr=False)


@attrs.frozen
class SaltKey(Unpicklable):
    """The key of a bucket whose raw UIDs are v4 (docs/protocol.md 4.3)."""

    id: int
    key: str = attrs.field(repr=False)
    salt: str = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class SaltRow:
    """One bucket, a line of the salt file (docs/protocol.md 4.3); times in ms.

    Attributes:
        id: Its number, from which its name is made.
        last_updated: When it last rotated.
        refresh_from: Until when it does not rotate.
        salt: The salt of v2 and v3 raw UIDs; None if *key* makes v4.
        previous_salt: The salt before the last rotation.
        key: The key of v4 raw UIDs.
        previous_key: The key before the last rotation.
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
    """All buckets as of one day; times in ms."""

    effective: int
    expires: int
    rows: Sequence[SaltRow] = attrs.field(repr=_count)


@attrs.frozen(kw_only=True)
class Salts(Unpicklable):
    """The salts of all buckets over time.

    Attributes:
        first_level: The salt of every first-level hash; text, never decoded.
        id_prefix: What the name of a bucket begins with.
        id_secret: What the rest of it is made with.
        snapshots: By ascending *effective*; never empty.
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
        client_secret: Its secret, base64 of 32 bytes.
        site_id: Whose it is.
        roles: What it may do.
    """

    api_key: str = attrs.field(repr=False)
    client_secret: str = attrs.field(repr=False)
    site_id: int
    roles: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class OperatorData(Unpicklable):
    """Everything that an embedded operator is loaded with.

    Attributes:
        scope: UID2 or EUID.
        settings: The operator's settings.
        runtime: Lifetimes and environment.
        clients: The API keys.
        sites: The participants.
        keysets: Who seals with what, and who may read it.
        keys: The keys of all keysets.
        keypairs: The subscriptions of client-side generation.
        service_links: For whom services may map.
        services: The numbers of the services; None if all that are named exist.
        salts: The salts of all buckets.
        opt_outs: Who has opted out already.
        credentials: API keys in plain, by role or name.
    """

    scope: IdentityScope
    settings: Settings
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
        """Reject data that an operator could not run with.

        Raises:
            ConfigError: If lifetimes contradict each other, a site has two default
                keysets, or there are no credentials or no salts.
        """
        check_runtime(self.runtime)
        defaults = (one.site_id for one in self.keysets if one.default and one.enabled)
        if any(count > 1 for count in Counter(defaults).values()):
            raise ConfigError("A site has more than one enabled default keyset.")
        if not self.credentials:
            raise ConfigError("The operator's data name no credentials.")
        snapshots = self.salts.snapshots
        if not snapshots or not all(one.rows for one in snapshots):
            raise ConfigError("The operator's data have no salts.")

    @staticmethod
    def load(folder: str | Path) -> OperatorData:
        """Read the files of *folder*, in the formats in which an operator reads them.

        Raises:
            ConfigError: If a file is missing or malformed; the message names the file
                and the place in it, never its content.
        """
        from uid2_async.operator.data_files import load  # noqa: PLC0415 - imports this

        return load(Path(folder))

    @staticmethod
    def sample(
        *,
        scope: IdentityScope = IdentityScope.UID2,
        seed: int = 0,
        base: datetime | None = None,
    ) -> OperatorData:
        """Make the built-in sample data: the same for the same arguments.

        There are credentials for ``publisher``, ``advertiser``, ``bidder``, ``sharer``
        and ``everything``, 1,024 salt buckets that rotate once a year, and one
        subscription for client-side generation on ``localhost`` and ``example.com``.

        Args:
            scope: UID2 or EUID.
            seed: Another seed makes other keys, secrets and salts.
            base: The day on which the index begins; today, UTC, if None.

        Raises:
            InputError: If *base* has no time zone.
        """
        from uid2_async.operator.sample import sample  # noqa: PLC0415 - imports this

        return sample(scope, seed, base)


strip_tracebacks(globals())
