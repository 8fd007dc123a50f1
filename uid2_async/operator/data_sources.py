"""Where an operator's data comes from: files in a folder, or a seed.

The folder contains ``world.json`` (scope and settings), ``runtime_config.json``,
``clients.json``, ``sites.json``, ``keysets.json``, ``keyset_keys.json``,
``client_side_keypairs.json``, ``service_links.json``, ``salts_metadata.json`` and the
salt files that it names, ``optouts.json`` and ``credentials.json``
(docs/protocol.md 4.3). ``services.json`` is optional. Without it, every service counts
as listed.

The built-in sample data depends only on the scope, the seed and the first day. Two
processes therefore have the same keys and return the same raw UIDs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256, sha512
from pathlib import Path, PurePath
from typing import TypeAlias, TypeVar

import attrs
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, derive_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from uid2_async.errors import ConfigError, ProtocolError
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
    OperatorSettings,
    OptOutRecord,
    RuntimeConfig,
    SaltKey,
    SaltRow,
    Salts,
    SaltSnapshot,
    ServiceLink,
    Site,
)
from uid2_async.protocol import base64, wire
from uid2_async.protocol.envelope import KEY_BYTES
from uid2_async.protocol.keyring import Key

T = TypeVar("T")
_NEVER = 2**62

# --- files ----------------------------------------------------------------------------

_SALT_FIELDS = 11


@attrs.frozen(kw_only=True)
class _OperatorFile:
    """The content of world.json."""

    scope: str
    operator_settings: OperatorSettings


@attrs.frozen(kw_only=True)
class _RuntimeFile:
    """The content of runtime_config.json."""

    runtime_config: RuntimeConfig


@attrs.frozen(kw_only=True)
class _Service:
    """A service in services.json."""

    service_id: int


@attrs.frozen(kw_only=True)
class _SaltFile:
    """One snapshot in salts_metadata.json. Times are in ms since the Unix epoch."""

    effective: int
    location: str
    expires: int = _NEVER


@attrs.frozen(kw_only=True)
class _SaltMetadata:
    """The content of salts_metadata.json."""

    first_level: str
    id_prefix: str
    id_secret: str
    salts: list[_SaltFile]


def load(folder: Path) -> OperatorData:
    """Read all files in *folder*. See :meth:`OperatorData.load`."""
    path = folder / "world.json"
    settings = _read_json(path, _OperatorFile)
    scope = IdentityScope.__members__.get(settings.scope.upper())
    if scope is None:
        raise _malformed(path, "scope is neither uid2 nor euid")
    path = folder / "services.json"
    services = _read_json(path, tuple[_Service, ...]) if path.exists() else None
    return OperatorData(
        scope=scope,
        settings=settings.operator_settings,
        runtime=_read_json(folder / "runtime_config.json", _RuntimeFile).runtime_config,
        clients=_read_clients(folder / "clients.json"),
        sites=_read_json(folder / "sites.json", tuple[Site, ...]),
        keysets=_read_json(folder / "keysets.json", tuple[Keyset, ...]),
        keys=_read_keys(folder / "keyset_keys.json"),
        keypairs=_read_json(
            folder / "client_side_keypairs.json", tuple[ClientSideKeypair, ...]
        ),
        service_links=_read_json(
            folder / "service_links.json", tuple[ServiceLink, ...]
        ),
        services=None
        if services is None
        else frozenset(one.service_id for one in services),
        salts=_read_salts(folder),
        opt_outs=_read_json(folder / "optouts.json", tuple[OptOutRecord, ...]),
        credentials=_read_json(folder / "credentials.json", dict[str, Credentials]),
    )


def _read_bytes(path: Path) -> bytes:
    """Read a whole file."""
    try:
        return path.read_bytes()
    except OSError as error:
        reason = error.strerror or type(error).__name__
    raise ConfigError(
        f"The operator's data file {path.name} cannot be read: {reason}.",
        hint="Use a folder that contains all files of an operator's data.",
    )


def _read_json(path: Path, kind: type[T]) -> T:
    """Read a JSON file as an instance of *kind*."""
    data = _read_bytes(path)
    try:
        return wire.decode(data, kind)
    except ProtocolError as error:
        json_path = error.path
    raise _malformed(
        path, f"at {json_path}" if json_path else "it is not the expected JSON"
    )


def _malformed(path: PurePath, reason: str) -> ConfigError:
    """Return an error that names the file and the position in it."""
    return ConfigError(
        f"The operator's data file {path.name} is malformed: {reason}.",
        hint="Compare the file with the format in docs/protocol.md 4.3 and 6.3.",
    )


def _read_clients(path: Path) -> tuple[Client, ...]:
    """Read the API keys."""
    clients = _read_json(path, tuple[Client, ...])
    for at, client in enumerate(clients):
        if len(client.secret) != KEY_BYTES:
            raise _malformed(path, f"at [{at}].secret")
    return clients


def _read_keys(path: Path) -> tuple[Key, ...]:
    """Read the keys of all keysets."""
    keys = _read_json(path, tuple[Key, ...])
    for at, key in enumerate(keys):
        if len(key.secret) != KEY_BYTES or key.keyset_id is None:
            raise _malformed(path, f"at [{at}]")
    return keys


def _read_salts(folder: Path) -> Salts:
    """Read the salt metadata and every salt file that it names."""
    path = folder / "salts_metadata.json"
    metadata = _read_json(path, _SaltMetadata)
    snapshots = [
        SaltSnapshot(
            effective=one.effective,
            expires=one.expires,
            rows=_read_rows(folder / PurePath(one.location).name),
        )
        for one in metadata.salts
    ]
    return Salts(
        first_level=metadata.first_level,
        id_prefix=metadata.id_prefix,
        id_secret=metadata.id_secret,
        snapshots=sorted(snapshots, key=lambda one: one.effective),
    )


def _read_rows(path: Path) -> list[SaltRow]:
    """Read a salt file, which has one bucket per line."""
    rows: list[SaltRow] = []
    for line in _read_bytes(path).splitlines():
        row = _read_row(line)
        if row is None:
            raise _malformed(path, f"line {len(rows) + 1}")
        rows.append(row)
    return rows


def _read_row(line: bytes) -> SaltRow | None:
    """Read one line of a salt file, or return None if it is malformed."""
    try:
        fields = line.decode().split(",")
        if len(fields) != _SALT_FIELDS:
            return None
        row = SaltRow(
            id=int(fields[0]),
            last_updated=int(fields[1]),
            salt=fields[2] or None,
            refresh_from=int(fields[3]),
            previous_salt=fields[4] or None,
            key=_read_salt_key(*fields[5:8]),
            # A previous key counts only if its salt is there too.
            previous_key=_read_salt_key(*fields[8:11]) if fields[10] else None,
        )
    except ValueError:
        return None
    return row if row.salt or row.key else None


def _read_salt_key(key_id: str, key: str, salt: str) -> SaltKey | None:
    """Parse a bucket's key, or return None if its ID or key is blank."""
    if not key_id.strip() or not key.strip():
        return None
    if len(key.encode("ascii")) != KEY_BYTES:
        raise ValueError
    return SaltKey(int(key_id), key, salt)


# --- sample data ----------------------------------------------------------------------

_DAY_SECONDS = 86_400
_DAY_MS = _DAY_SECONDS * 1000
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
    """Generate the data of :meth:`OperatorData.sample`."""
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
        settings=OperatorSettings(
            key_sharing_endpoint_provide_app_names=True, optout_api_uri=EMBEDDED_OPT_OUT
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
