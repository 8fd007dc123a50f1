"""Indexes of the operator's data: API keys, service links, keysets, sites, opt-outs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha512
from typing import Any, Final

import attrs
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_der_private_key

from uid2_async.errors import ConfigError, InputError
from uid2_async.models import Identity, IdentityScope, IdentityType
from uid2_async.operator.data import (
    MASTER_KEYSET,
    REFRESH_KEYSET,
    Client,
    ClientSideKeypair,
    Keyset,
    OperatorData,
    OperatorSettings,
    OptOutRecord,
    RuntimeConfig,
    Site,
)
from uid2_async.operator.http_messages import RefusedError, unknown_error
from uid2_async.operator.java import trim
from uid2_async.operator.salts import SaltBuckets
from uid2_async.protocol import base64
from uid2_async.protocol.client_side import PREFIX_CHARS
from uid2_async.protocol.keyring import Key, KeyRing
from uid2_async.protocol.normalize import identity_bytes

_SCHEME = "bearer "


class ApiKeys:
    """The API keys of an operator. Only their salted hashes are stored."""

    def __init__(self, clients: Iterable[Client]) -> None:
        """Index *clients*."""
        self._clients = tuple(clients)
        self._known: dict[str, Client] = {}

    def find(self, authorization: str | None) -> Client | None:
        """Find the client of an ``Authorization`` header, disabled or not.

        The scheme is case-insensitive, and exactly one space must follow it.
        """
        header = trim(authorization or "")
        if header[: len(_SCHEME)].lower() != _SCHEME:
            return None
        key = header[len(_SCHEME) :]
        if key not in self._known:  # so that each is hashed once
            data = key.encode()
            for client in self._clients:
                if sha512(client.key_salt + data).digest() == client.key_hash:
                    self._known[key] = client
                    break
        return self._known.get(key)

    def authorize(
        self, authorization: str | None, roles: frozenset[str]
    ) -> Client | None:
        """Find the client of the header if it is enabled and has one of *roles*."""
        client = self.find(authorization)
        if client is None or client.disabled or not client.roles & roles:
            return None
        return client


def check_service_link(
    data: OperatorData, client: Client, link_id: str | None = None
) -> None:
    """Raise if *client* belongs to a service and does not use a valid link.

    Without a link, as in v3, *link_id* is None. A JSON null is the text ``null``,
    because Java looks up the service and the link as one string (docs/protocol.md 2.5).
    """
    is_validated = data.settings.validate_service_links
    if client.service_id == 0 or (is_validated and link_id is None):
        return
    key = (client.service_id, link_id)
    links = [
        one
        for one in data.service_links
        if (one.service_id, one.link_id) == key
        and "MAPPER" in one.roles
        and not one.disabled
    ]
    if not is_validated or not links:
        raise RefusedError(401, "unauthorized", "Invalid link_id")
    is_listed = data.services is None or client.service_id in data.services
    if not is_listed and links[-1].name.strip():
        # The operator needs the service's name for its metrics.
        raise unknown_error("Unknown error while mapping identity v2")


_FALLBACK_SITE = 2


class Keysets:
    """The keysets of an operator, with their keys.

    Attributes:
        defaults: The keyset that each site encrypts with.
    """

    def __init__(self, data: OperatorData) -> None:
        """Index the keys. Of those that activate together, the last one encrypts."""
        self._keysets = {one.keyset_id: one for one in data.keysets}
        self._keys = {key.id: key for key in sorted(data.keys, key=lambda one: one.id)}
        self._ring = KeyRing(keys={key.id: key for key in data.keys})
        self.defaults: dict[int, Keyset] = {
            one.site_id: one for one in data.keysets if one.default and one.enabled
        }

    def key(self, key_id: int) -> Key | None:
        """Find a key by its ID, whatever its keyset, even if it has expired."""
        return self._keys.get(key_id)

    def site_of(self, key: Key) -> int | None:
        """Return the site of the keyset of *key*, or None if it is unknown."""
        keyset = self._keysets.get(key.keyset_id or 0)
        return None if keyset is None else keyset.site_id

    def keyset_of(self, key: Key) -> Keyset:
        """Return the keyset of a key that a client may have. It always exists."""
        return self._keysets[key.keyset_id or 0]

    def master_key(self, now_ms: int) -> Key | None:
        """Return the key for the outer layer of tokens."""
        return self._ring.active_key(MASTER_KEYSET, now_ms)

    def refresh_key(self, now_ms: int) -> Key | None:
        """Return the key for refresh tokens."""
        return self._ring.active_key(REFRESH_KEYSET, now_ms)

    def site_key(self, site_id: int, now_ms: int) -> Key | None:
        """Return the key for the inner layer of tokens: the site's, or the fallback."""
        for owner in (site_id, _FALLBACK_SITE):
            keyset = self.defaults.get(owner)
            keyset_id = None if keyset is None else keyset.keyset_id
            key = self._ring.active_key(keyset_id, now_ms)
            if key is not None:
                return key
        return None

    def visible_to(self, client: Client) -> Sequence[Key]:
        """List all keys that *client* may have, even expired ones, by ascending ID."""
        readable = {
            one.keyset_id for one in self._keysets.values() if _is_readable(one, client)
        }
        return [key for key in self._keys.values() if key.keyset_id in readable]

    def owners(self, keys: Sequence[Key]) -> list[int]:
        """List the IDs of the sites that own *keys*, once each and ascending."""
        return sorted({self.keyset_of(key).site_id for key in keys})


def _is_readable(keyset: Keyset, client: Client) -> bool:
    """Return whether *client* may have the keys of *keyset*."""
    if keyset.keyset_id == MASTER_KEYSET:
        return True
    if keyset.keyset_id == REFRESH_KEYSET or not keyset.enabled:
        return False
    if keyset.site_id == client.site_id:
        return True
    if keyset.allowed_sites is None:
        return "ID_READER" in client.roles
    return client.site_id in keyset.allowed_sites


OPTED_OUT: Final = {
    IdentityType.EMAIL: "optout@example.com",
    IdentityType.PHONE: "+00000000000",
}
"""The test identities that are always opted out."""

OPTED_OUT_ON_REFRESH: Final = {
    IdentityType.EMAIL: "refresh-optout@example.com",
    IdentityType.PHONE: "+00000000002",
}
"""The test identities that are opted out only on refresh."""

NEVER_OPTED_OUT: Final = {
    IdentityType.EMAIL: "validate@example.com",
    IdentityType.PHONE: "+12345678901",
}
"""The test identities that are never opted out."""

_RAW_UID_BYTES = 33
_KEPT_BITS = 0x3F


class OptOuts:
    """The opt-out store of an operator, indexed by first-level hash and by raw UID."""

    def __init__(self, records: Iterable[OptOutRecord], buckets: SaltBuckets) -> None:
        """Start with the people in *records*, each of which has a valid identity."""
        self._buckets = buckets
        self._tests = {
            kind: (self._hash(kind, OPTED_OUT_ON_REFRESH[kind]), self._hash(kind, name))
            for kind, name in NEVER_OPTED_OUT.items()
        }
        self._always = {
            kind: self._hash(kind, name) for kind, name in OPTED_OUT.items()
        }
        self._initial: list[tuple[bytes, str, int]] = []
        for at, one in enumerate(records):
            is_email = one.email is not None
            kind = IdentityType.EMAIL if is_email else IdentityType.PHONE
            flh = self._hash(kind, (one.email if is_email else one.phone) or "")
            if flh is None:
                raise ConfigError(
                    f"Opt-out record {at} has no valid email address or phone number."
                )
            self._initial.append((flh, one.advertising_id, one.opted_out_since))
        self._raw_uids: dict[bytes, str] = {}
        self._since: dict[str, int] = {}
        self.reset()

    def reset(self) -> None:
        """Restore the opt-outs of the start."""
        self._raw_uids.clear()
        self._since.clear()
        for flh, raw_uid, since in self._initial:
            self.add(flh, raw_uid, since)

    def _hash(self, kind: str, value: str) -> bytes | None:
        """Return the first-level hash of an identity, or None if it is invalid."""
        data = identity_bytes(kind, value)
        return None if data is None else self._buckets.first_level_hash(data)

    def add(self, flh: bytes, raw_uid: str, since: int) -> None:
        """Record that someone opted out at *since*, in seconds since the Unix epoch."""
        self.remove(flh)
        recorded = _as_recorded(raw_uid)
        self._raw_uids[flh] = recorded
        self._since[recorded] = since

    def remove(self, flh: bytes) -> bool:
        """Remove an opt-out, and return whether there was one."""
        recorded = self._raw_uids.pop(flh, None)
        if recorded is not None:
            self._since.pop(recorded, None)
        return recorded is not None

    def is_out(self, flh: bytes, identity_type: IdentityType) -> bool:
        """Return whether a person gets no raw UID and no token (docs/protocol.md 7)."""
        if flh in self._raw_uids:
            return flh not in self._tests[identity_type]
        return flh == self._always[identity_type]

    def is_out_on_refresh(self, flh: bytes, identity_type: IdentityType) -> bool:
        """Return whether a person's token is not refreshed (docs/protocol.md 7)."""
        refresh_out, _ = self._tests[identity_type]
        return flh == refresh_out or self.is_out(flh, identity_type)

    @property
    def listed(self) -> list[tuple[bytes, int]]:
        """The opt-outs, latest first: first-level hash, and time in seconds."""
        found = [
            (flh, self._since.get(uid, 0)) for flh, uid in list(self._raw_uids.items())
        ]
        return sorted(found, key=lambda one: one[1], reverse=True)

    def since_ms(self, raw_uid: str) -> int | None:
        """Return when a raw UID's owner opted out, in ms, or None if they did not."""
        since = self._since.get(raw_uid)
        return None if since is None else since * 1000


def _as_recorded(raw_uid: str) -> str:
    """Reduce a raw UID to what a record stores: of 33 bytes, the first loses two bits.

    Raw UIDs of the integ and prod environments are therefore never found again
    (docs/protocol.md 2.7).
    """
    data = base64.decode(raw_uid)
    if data is None or len(data) != _RAW_UID_BYTES:
        return raw_uid
    return base64.encode_text(bytes((data[0] & _KEPT_BITS,)) + data[1:])


@attrs.frozen(kw_only=True)
class AuthorizedRequest:
    """A decrypted request. *payload* is None if it was empty."""

    client: Client
    payload: dict[str, Any] | None = attrs.field(repr=False)
    now_ms: int


def load_server_private_key(text: str) -> EllipticCurvePrivateKey:
    """Parse the private key of a subscription: base64 with a prefix of 9 characters."""
    der = base64.decode(text[PREFIX_CHARS:]) or b""
    try:
        key = load_der_private_key(der, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, EllipticCurvePrivateKey):
        raise ConfigError("A private key for client-side generation is not valid.")
    return key


class DataIndex:
    """The indexed data of an operator. Only :attr:`opt_outs` changes."""

    def __init__(
        self, data: OperatorData, *, random: Callable[[int], bytes] = os.urandom
    ) -> None:
        """Index *data*. *random* returns a number of random bytes."""
        self.data: OperatorData = data
        self.scope: IdentityScope = data.scope
        self.settings: OperatorSettings = data.settings
        self.runtime: RuntimeConfig = data.runtime
        self.api_keys: ApiKeys = ApiKeys(data.clients)
        self.keysets: Keysets = Keysets(data)
        self.buckets: SaltBuckets = SaltBuckets(data)
        self.opt_outs: OptOuts = OptOuts(data.opt_outs, self.buckets)
        self.random: Callable[[int], bytes] = random
        self._sites = {site.id: site for site in data.sites}
        self._keypairs = {
            pair.subscription_id: (pair, load_server_private_key(pair.private_key))
            for pair in data.keypairs
        }

    def site(self, site_id: int) -> Site:
        """Find a site. A site that is not listed has no names."""
        return self._sites.get(site_id) or Site(id=site_id)

    def first_level_hash(self, identity: Identity) -> bytes:
        """Return the first-level hash of an identity, which must be valid."""
        data = identity_bytes(identity.kind, identity.value)
        if data is None:
            raise InputError(f"The {identity.kind} is not valid.")
        return self.buckets.first_level_hash(data)

    def opt_out(self, identity: Identity, now_ms: int) -> None:
        """Opt *identity* out as of *now_ms*. Test identities are not affected."""
        flh = self.first_level_hash(identity)
        raw_uid = self.buckets.raw_uid(flh, identity.identity_type, now_ms)
        self.opt_outs.add(flh, raw_uid, now_ms // 1000)

    def keypair(
        self, subscription_id: str | None
    ) -> tuple[ClientSideKeypair, EllipticCurvePrivateKey] | None:
        """Find a subscription for client-side generation and its private key."""
        return self._keypairs.get(subscription_id or "")
