"""All that answers are made from, indexed; the endpoints are functions of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import attrs
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from uid2_async.errors import InputError
from uid2_async.models import Identity, IdentityScope
from uid2_async.operator.api_keys import ApiKeys, ServiceLinks
from uid2_async.operator.buckets import Buckets
from uid2_async.operator.data import Client, ClientSideKeypair, OperatorData, Site
from uid2_async.operator.keysets import Keysets
from uid2_async.operator.optouts import OptOuts
from uid2_async.operator.settings import RuntimeConfig, Settings
from uid2_async.protocol.client_side import load_server_private_key
from uid2_async.protocol.normalize import identity_bytes

__all__ = ["Question", "World"]


@attrs.frozen(kw_only=True)
class Question:
    """A request whose envelope has been opened.

    Attributes:
        client: Who asks.
        payload: The JSON object, or None where it was empty.
        now_ms: The operator's clock.
    """

    client: Client
    payload: dict[str, Any] | None = attrs.field(repr=False)
    now_ms: int


class World:
    """An operator's data, indexed, with its opt-out store.

    Attributes:
        scope: UID2 or EUID.
        settings: The operator's settings.
        runtime: Lifetimes.
        clients: The API keys as they are kept.
        api_keys: Who may call.
        service_links: For whom services may map.
        keysets: The keys of tokens.
        buckets: The salts of raw UIDs.
        opt_outs: Who has opted out; the only part that changes.
        random: Makes so many random bytes.
    """

    def __init__(
        self, data: OperatorData, *, random: Callable[[int], bytes] = os.urandom
    ) -> None:
        """Index *data*.

        Raises:
            ConfigError: If a private key or an opt-out record is malformed.
        """
        self.scope: IdentityScope = data.scope
        self.settings: Settings = data.settings
        self.runtime: RuntimeConfig = data.runtime
        self.clients: tuple[Client, ...] = data.clients
        self.api_keys: ApiKeys = ApiKeys(data.clients)
        self.service_links: ServiceLinks = ServiceLinks(data)
        self.keysets: Keysets = Keysets(data)
        self.buckets: Buckets = Buckets(data)
        self.opt_outs: OptOuts = OptOuts(data.opt_outs, self.buckets)
        self.random: Callable[[int], bytes] = random
        self._sites = {site.id: site for site in data.sites}
        self._keypairs = {
            pair.subscription_id: (pair, load_server_private_key(pair.private_key))
            for pair in data.keypairs
        }

    def site(self, site_id: int) -> Site:
        """Find a site; one that is not listed has no names."""
        return self._sites.get(site_id) or Site(id=site_id)

    def first_level_hash(self, identity: Identity) -> bytes:
        """Hash an identity as the operator does.

        Raises:
            InputError: If *identity* is not valid.
        """
        data = identity_bytes(identity.kind, identity.value)
        if data is None:
            raise InputError(f"The {identity.kind} is not valid.")
        return self.buckets.first_level_hash(data)

    def opt_out(self, identity: Identity, now_ms: int) -> None:
        """Opt *identity* out, as of *now_ms*; test identities are not impressed.

        Raises:
            InputError: If *identity* is not valid.
        """
        flh = self.first_level_hash(identity)
        raw_uid = self.buckets.raw_uid(flh, identity.identity_type, now_ms)
        self.opt_outs.add(flh, raw_uid, now_ms // 1000)

    def keypair(
        self, subscription_id: str | None
    ) -> tuple[ClientSideKeypair, EllipticCurvePrivateKey] | None:
        """Find a subscription of client-side generation and its private key."""
        return self._keypairs.get(subscription_id or "")
