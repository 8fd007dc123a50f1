"""Reads the files of an operator's data (docs/protocol.md 4.3).

The folder contains ``world.json`` (scope and settings), ``runtime_config.json``,
``clients.json``, ``sites.json``, ``keysets.json``, ``keyset_keys.json``,
``client_side_keypairs.json``, ``service_links.json``, ``salts_metadata.json`` and the
salt files that it names, ``optouts.json`` and ``credentials.json``. ``services.json``
is optional. Without it, every service counts as listed.
"""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import TypeVar

import attrs

from uid2_async.errors import ConfigError, ProtocolError
from uid2_async.models import IdentityScope
from uid2_async.operator.data import (
    Client,
    ClientSideKeypair,
    Credentials,
    Keyset,
    OperatorData,
    OptOutRecord,
    RuntimeConfig,
    SaltKey,
    SaltRow,
    Salts,
    SaltSnapshot,
    ServiceLink,
    Settings,
    Site,
)
from uid2_async.protocol import wire
from uid2_async.protocol.envelope import KEY_BYTES
from uid2_async.protocol.keyring import Key

T = TypeVar("T")
_SALT_FIELDS = 11
_NEVER = 2**62


@attrs.frozen(kw_only=True)
class _World:
    """The content of world.json."""

    scope: str
    operator_settings: Settings


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
    """Read all files in *folder*.

    Raises:
        ConfigError: If a file is missing or malformed. The message names the file and
            the position in it, but never quotes its content.
    """
    settings = _read_json(folder / "world.json", _World)
    return OperatorData(
        scope=_read_scope(settings.scope),
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
        services=_read_services(folder / "services.json"),
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
        place = error.path
    raise _malformed(path, f"at {place}" if place else "it is not the expected JSON")


def _malformed(path: PurePath, reason: str) -> ConfigError:
    """Return an error that names the file and the position in it."""
    return ConfigError(
        f"The operator's data file {path.name} is malformed: {reason}.",
        hint="Compare the file with the format in docs/protocol.md 4.3 and 6.3.",
    )


def _read_scope(text: str) -> IdentityScope:
    """Parse the scope, ignoring case."""
    found = IdentityScope.__members__.get(text.upper())
    if found is None:
        raise _malformed(PurePath("world.json"), "scope is neither uid2 nor euid")
    return found


def _read_clients(path: Path) -> tuple[Client, ...]:
    """Read the API keys."""
    clients = _read_json(path, tuple[Client, ...])
    for at, client in enumerate(clients):
        if len(client.secret) != KEY_BYTES:
            raise _malformed(path, f"at [{at}].secret")
    return clients


def _read_services(path: Path) -> frozenset[int] | None:
    """Read the IDs of the listed services, or return None if the file is missing."""
    if not path.exists():
        return None
    return frozenset(one.service_id for one in _read_json(path, tuple[_Service, ...]))


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
    """Parse a bucket's key, or return None if its ID or key is blank.

    Raises:
        ValueError: If the key is not 32 ASCII characters.
    """
    if not key_id.strip() or not key.strip():
        return None
    if len(key.encode("ascii")) != KEY_BYTES:
        raise ValueError
    return SaltKey(int(key_id), key, salt)
