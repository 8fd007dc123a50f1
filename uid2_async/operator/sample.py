"""Generates the built-in sample data of the embedded operator from a seed.

The data depends only on the scope, the seed and the first day. Two processes therefore
have the same keys and return the same raw UIDs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256, sha512
from typing import TypeAlias

import attrs
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, derive_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from uid2_async.models import IdentityScope, ms_from_datetime
from uid2_async.operator.data import (
    EMBEDDED_OPT_OUT,
    MASTER_KEYSET,
    REFRESH_KEYSET,
    Client,
    ClientSideKeypair,
    Credentials,
    Keyset,
    OperatorData,
    RuntimeConfig,
    SaltKey,
    SaltRow,
    Salts,
    SaltSnapshot,
    Settings,
    Site,
)
from uid2_async.protocol import base64
from uid2_async.protocol.keyring import Key

_DAY_SECONDS = 86_400
_DAY_MS = _DAY_SECONDS * 1000
_NEVER = 2**62
_BUCKETS = 1_024
_ROTATION_DAYS = 365

# Every fourth bucket has v4 raw UIDs, because production has both kinds too.
_V4_EVERY = 4
_FIRST_BUCKET = 1_000_000
_FALLBACK = 2
_PUBLISHER, _ADVERTISER, _BIDDER, _SHARER, _EVERYTHING = range(101, 106)

_CLIENTS = {
    "publisher": (_PUBLISHER, ("GENERATOR",)),
    "advertiser": (_ADVERTISER, ("MAPPER",)),
    "bidder": (_BIDDER, ("ID_READER",)),
    "sharer": (_SHARER, ("SHARER",)),
    "everything": (
        _EVERYTHING,
        ("GENERATOR", "ID_READER", "MAPPER", "OPTOUT", "SHARER"),
    ),
}

_KEYSETS = (
    (MASTER_KEYSET, -1, None),
    (REFRESH_KEYSET, -2, frozenset({-1, -2, _FALLBACK})),
    (2, _FALLBACK, None),
    (11, _PUBLISHER, frozenset({_BIDDER, _SHARER, _EVERYTHING})),
    (14, _SHARER, frozenset({_BIDDER, _EVERYTHING})),
    (15, _EVERYTHING, frozenset({_BIDDER, _SHARER})),
)

# When the later key of a keyset takes over, and when both end, in days from the first
# day of the data. The first key is as old as the Unix epoch: a test may freeze its
# clock at any date.
_NEXT_KEY_DAYS = 60
_KEY_LIFE_DAYS = 10_950
_Seeded: TypeAlias = Callable[[str], bytes]


def sample(
    scope: IdentityScope, seed: int, base: datetime | None = None
) -> OperatorData:
    """Generate the data of :meth:`OperatorData.sample`.

    Raises:
        InputError: If *base* has no time zone.
    """
    base_ms = ms_from_datetime(datetime.now(UTC) if base is None else base)
    return _sample(scope, seed, base_ms // _DAY_MS)


@lru_cache(maxsize=8)
def _sample(scope: IdentityScope, seed: int, day: int) -> OperatorData:
    """Generate the data whose first day is *day*, in days since the Unix epoch."""

    def seeded(label: str) -> bytes:
        return sha256(f"{scope}/{seed}/{label}".encode()).digest()

    credentials = {name: _credentials(scope, name, seeded) for name in _CLIENTS}
    return OperatorData(
        scope=scope,
        settings=Settings(
            key_sharing_endpoint_provide_app_names=True,
            optout_api_uri=EMBEDDED_OPT_OUT,
        ),
        # The configuration of the production operators of both systems.
        runtime=RuntimeConfig(
            identity_token_expires_after_seconds=259_200,
            refresh_token_expires_after_seconds=2_592_000,
            refresh_identity_token_after_seconds=3_600,
        ),
        clients=tuple(_client(name, one, seeded) for name, one in credentials.items()),
        sites=_sites(),
        keysets=tuple(
            Keyset(keyset_id=keyset, site_id=site, allowed_sites=allowed, default=True)
            for keyset, site, allowed in _KEYSETS
        ),
        keys=_keys(day, seeded),
        keypairs=(_keypair(scope, seeded),),
        salts=_salts(day, seeded),
        credentials=credentials,
    )


def _credentials(scope: IdentityScope, name: str, seeded: _Seeded) -> Credentials:
    """Generate an API key in the documented format (docs/protocol.md 1.2)."""
    site_id, roles = _CLIENTS[name]
    text = sha512(seeded(f"key {name}")).hexdigest()
    return Credentials(
        api_key=f"{scope}-C-L-{site_id}-{text[:6]}.{text[6:44]}",
        client_secret=base64.encode_text(seeded(f"secret {name}")),
        site_id=site_id,
        roles=roles,
    )


def _client(name: str, credentials: Credentials, seeded: _Seeded) -> Client:
    """Return what the operator stores of an API key."""
    salt = seeded(f"key salt {name}")
    return Client(
        name=name,
        key_hash=sha512(salt + credentials.api_key.encode()).digest(),
        key_salt=salt,
        secret=base64.decode(credentials.client_secret) or b"",
        roles=frozenset(credentials.roles),
        site_id=credentials.site_id,
    )


def _sites() -> tuple[Site, ...]:
    """Generate the sites. Only those that generate tokens have names."""
    names = {
        _PUBLISHER: ("example.com", "localhost"),
        _EVERYTHING: ("example.org", "localhost"),
    }
    apps = {_PUBLISHER: ("com.example.app",)}
    ids = (_FALLBACK, *(site_id for site_id, _ in _CLIENTS.values()))
    return tuple(
        Site(id=one, domain_names=names.get(one, ()), app_names=apps.get(one, ()))
        for one in ids
    )


def _keys(day: int, seeded: _Seeded) -> tuple[Key, ...]:
    """Generate the keys of all keysets: an active one, and its later replacement."""
    keys: list[Key] = []
    for activates in (0, (day + _NEXT_KEY_DAYS) * _DAY_SECONDS):
        for keyset_id, _, _ in _KEYSETS:
            key_id = 1_001 + len(keys)
            key = Key(
                id=key_id,
                secret=seeded(f"key {key_id}"),
                created=max(0, activates - _DAY_SECONDS),
                activates=activates,
                expires=(day + _KEY_LIFE_DAYS) * _DAY_SECONDS,
                keyset_id=keyset_id,
            )
            keys.append(key)
    return tuple(keys)


def _keypair(scope: IdentityScope, seeded: _Seeded) -> ClientSideKeypair:
    """Generate the publisher's subscription for client-side generation."""
    # 31 bytes are always less than the order of the curve.
    number = int.from_bytes(seeded("keypair")[1:], "big") + 1
    private = derive_private_key(number, SECP256R1())
    public_der = private.public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )
    private_der = private.private_bytes(
        Encoding.DER, PrivateFormat.PKCS8, NoEncryption()
    )
    return ClientSideKeypair(
        subscription_id="sandbox-subscription",
        public_key=f"{scope}-X-L-{base64.encode_text(public_der)}",
        private_key=f"{scope}-Y-L-{base64.encode_text(private_der)}",
        site_id=_PUBLISHER,
    )


def _salts(day: int, seeded: _Seeded) -> Salts:
    """Generate the salts of a year, with a snapshot for each day with rotations."""
    rows = [_row(at, day, seeded) for at in range(_BUCKETS)]
    due = defaultdict(list)
    for at, row in enumerate(rows):
        due[row.refresh_from].append(at)
    snapshots = [SaltSnapshot(effective=0, expires=_NEVER, rows=rows)]
    for instant in sorted(due):
        rows = rows.copy()
        for at in due[instant]:
            rows[at] = _rotate(at, rows[at], seeded)
        snapshots.append(SaltSnapshot(effective=instant, expires=_NEVER, rows=rows))
    return Salts(
        first_level=base64.encode_text(seeded("first level")),
        id_prefix="s",
        id_secret=base64.encode_text(seeded("bucket ids")),
        snapshots=snapshots,
    )


def _row(at: int, day: int, seeded: _Seeded) -> SaltRow:
    """Generate a bucket that rotated on one of the last 365 days."""
    age = int.from_bytes(seeded(f"age {at}")[:4], "big") % _ROTATION_DAYS
    last_updated = (day - age) * _DAY_MS
    row = SaltRow(
        id=_FIRST_BUCKET + at * 37,
        last_updated=last_updated - _ROTATION_DAYS * _DAY_MS,
        refresh_from=last_updated,
        salt=base64.encode_text(seeded(f"first salt {at}")),
    )
    return _rotate(at, row, seeded)


def _rotate(at: int, row: SaltRow, seeded: _Seeded) -> SaltRow:
    """Return a bucket after its next rotation."""
    salt = key = None
    label = f"salt {at} {row.refresh_from}"
    if at % _V4_EVERY == 0:
        number = row.id + (0 if row.key is None else row.key.id - row.id + 1)
        key = SaltKey(
            number,
            seeded(f"{label} key").hex()[:32],
            seeded(f"{label} salt").hex()[:32],
        )
    else:
        salt = base64.encode_text(seeded(label))
    return attrs.evolve(
        row,
        last_updated=row.refresh_from,
        refresh_from=row.refresh_from + _ROTATION_DAYS * _DAY_MS,
        salt=salt,
        key=key,
        previous_salt=row.salt,
        previous_key=row.key,
    )
