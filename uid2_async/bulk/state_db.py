"""The SQLite file of a state: its location, schema, transactions and scratch data.

All of it runs in one thread. Python's sqlite3 releases the interpreter lock for each
step of a statement and reacquires it afterwards, which can take 5 ms with a busy event
loop. So each statement handles thousands of identities and returns one value: their
keys go in as one blob that SQL splits, and results come out as one blob or JSON array.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import Any, Final

from uid2_async.bulk.private_files import (
    FileLock,
    attempt,
    check_folder,
    open_private,
    sync_folder,
)
from uid2_async.errors import JobError, UID2Error

APPLICATION_ID: Final = 0x55494432
"""``UID2``, in the header of the SQLite file."""

SCHEMA_VERSION: Final = 4

REWRITE: Final = "rewrite"
"""The metadata that is 1 from a transaction that purges until the file is rewritten."""

CHECKSUM_CHARS: Final = 8
"""Each stored UID ends with a CRC-32 of identity and UID in hexadecimal digits."""

# --- what the delta says --------------------------------------------------------------

REPLACED: Final = """(SELECT h.replaced FROM history_row AS h
    WHERE h.identity = m.identity AND h.kind = m.kind AND h.epoch = m.changed)"""
"""What deltas said before the latest change of a row: a UID, or '' for none.

It is written once, when the row changes, and is also the row's previous UID.
"""

EXPORTED_UID: Final = f"""CASE WHEN exported < :epoch THEN CASE changed WHEN :epoch
    THEN {REPLACED} ELSE coalesce(uid, '') END END"""
"""What the last delta said about a row: a UID, '' for opted out, NULL for nothing.

``exported`` is the number of the delta that says ADDED. So a first load needs no second
pass: with the next delta's number, ``:epoch``, all of them count as exported.
``changed`` is the number of the delta that says what has changed.
"""

WITHHELD: Final = 1 << 62
"""``exported`` of a row that is not ADDED until a row of an input allows it."""

PREVIOUS: Final = f"""CASE m.previous_uid WHEN ''
    THEN {REPLACED} ELSE m.previous_uid END"""
"""The previous UID of a row; stored as '' if the history has it."""

CHANGE: Final = """CASE
    WHEN uid IS NOT NULL THEN CASE
        WHEN {said} IS NULL THEN 'ADDED'
        WHEN {said} = '' THEN 'RETURNED'
        WHEN {said} <> uid THEN 'ROTATED' END
    WHEN {said} <> '' THEN CASE reason
        WHEN 'optout' THEN 'OPTED_OUT' ELSE 'REMOVED' END
    END"""
"""The change from what a delta ``{said}`` to what the row says now; NULL for none."""


def plain_uid(column: str) -> str:
    """Return the SQL that reads a UID without its checksum."""
    return f"substr({column}, 1, length({column}) - {CHECKSUM_CHARS})"


_KIND: Final = "CASE kind WHEN 0 THEN 'email' ELSE 'phone' END AS kind"
_EPOCH: Final = "(SELECT value FROM meta WHERE name = 'epoch')"
_SAID_NOW: Final = EXPORTED_UID.replace(":epoch", _EPOCH)
# What deltas have said since a row of the history: what was said before the next one,
# or what was said last. Nothing, if the identity was removed in between. That an
# identity is opted out was said before it was forgotten without a delta.
_SAID_NEXT: Final = f"""coalesce((SELECT CASE WHEN added <= h.epoch THEN said END FROM (
    SELECT epoch, added, replaced AS said FROM history_row AS n
    WHERE n.identity = h.identity AND n.kind = h.kind AND n.epoch > h.epoch
    UNION ALL SELECT {_EPOCH}, exported, ({_SAID_NOW}) FROM mapping_row AS m
    WHERE m.identity = h.identity AND m.kind = h.kind) ORDER BY epoch LIMIT 1),
    forgotten)"""

_SCHEMA: Final = f"""
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE run (
    number INTEGER PRIMARY KEY, job TEXT, segment TEXT, started INTEGER NOT NULL,
    epoch INTEGER NOT NULL, removed INTEGER NOT NULL DEFAULT 0,
    exported INTEGER, ended INTEGER NOT NULL DEFAULT 0, summary TEXT
);
CREATE TABLE file_done (
    run INTEGER NOT NULL, name TEXT NOT NULL, detail TEXT NOT NULL,
    PRIMARY KEY (run, name)
) WITHOUT ROWID;
CREATE TABLE mapping_row (
    identity BLOB NOT NULL, kind INTEGER NOT NULL, uid TEXT,
    previous_uid TEXT, previous_since INTEGER, refresh_from INTEGER,
    reason TEXT, bucket TEXT, checked INTEGER NOT NULL, removed INTEGER,
    exported INTEGER, changed INTEGER, PRIMARY KEY (identity, kind)
) WITHOUT ROWID;
CREATE TABLE history_row (
    identity BLOB NOT NULL, kind INTEGER NOT NULL, epoch INTEGER NOT NULL,
    replaced TEXT NOT NULL, added INTEGER NOT NULL, forgotten TEXT,
    PRIMARY KEY (identity, kind, epoch)
) WITHOUT ROWID;
CREATE TRIGGER keep_exported BEFORE UPDATE OF changed ON mapping_row
    WHEN new.changed IS NOT old.changed BEGIN
    INSERT INTO history_row VALUES (
        old.identity, old.kind, new.changed, coalesce(old.uid, ''), old.exported, NULL);
END;
CREATE TRIGGER keep_opted_out BEFORE DELETE ON mapping_row
    WHEN old.removed IS NULL AND old.exported < {_EPOCH} BEGIN
    UPDATE history_row SET forgotten = '' WHERE identity = old.identity
        AND kind = old.kind AND epoch = (SELECT max(epoch) FROM history_row
            WHERE identity = old.identity AND kind = old.kind AND epoch < {_EPOCH});
END;
CREATE TABLE segment (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE member (
    segment INTEGER NOT NULL, identity BLOB NOT NULL, kind INTEGER NOT NULL,
    PRIMARY KEY (segment, identity, kind)
) WITHOUT ROWID;
CREATE TABLE suppressed (digest BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE VIEW mapping AS SELECT identity, {_KIND}, {plain_uid("uid")} AS uid,
    CASE WHEN uid IS NOT NULL THEN {plain_uid(f"({PREVIOUS})")} END AS previous_uid,
    CASE WHEN uid IS NOT NULL THEN previous_since END AS previous_since,
    refresh_from, reason, bucket, checked FROM mapping_row AS m WHERE removed IS NULL;
CREATE VIEW change AS SELECT identity, {_KIND}, change, {plain_uid("uid")} AS uid,
    nullif({plain_uid("said")}, '') AS old_uid FROM (
    SELECT *, {CHANGE.format(said="said")} AS change FROM (
    SELECT *, {_SAID_NOW} AS said FROM mapping_row AS m
    WHERE changed = {_EPOCH} OR exported = {_EPOCH})) WHERE change IS NOT NULL;
CREATE VIEW history AS SELECT identity, {_KIND}, CASE
    WHEN next IS NULL THEN 'REMOVED' WHEN next = '' THEN 'OPTED_OUT'
    WHEN old = '' THEN 'RETURNED' ELSE 'ROTATED' END AS change,
    nullif({plain_uid("old")}, '') AS old_uid, run.number AS run FROM (
    SELECT identity, kind, epoch AS delta, replaced AS old, {_SAID_NEXT} AS next
    FROM history_row AS h WHERE epoch < {_EPOCH})
    LEFT JOIN run ON run.exported = delta
    WHERE next IS NOT old AND (old <> '' OR next IS NOT NULL);
INSERT INTO meta VALUES ('salt', randomblob(32)), ('epoch', 1);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""

# synchronous=FULL: a commit survives a power failure. A job relies only on commits:
# what is not committed is asked again.
_SETTINGS: Final = """
PRAGMA secure_delete = ON;
PRAGMA cell_size_check = ON;
PRAGMA trusted_schema = OFF;
PRAGMA synchronous = FULL;
PRAGMA temp_store = MEMORY;
PRAGMA cache_size = -8000;
PRAGMA wal_autocheckpoint = 4000;
"""
STATEMENT_ROWS: Final = 5_000
"""This many rows decode in 2 ms, which limits the wait of the event loop."""

# Reading numbers takes a quarter of the time of a recursive query. They are not in the
# temporary database, which is emptied when ``temp_store`` changes.
_NUMBERS: Final = f"""
ATTACH ':memory:' AS memory;
CREATE TABLE memory.number (i INTEGER PRIMARY KEY);
INSERT INTO memory.number WITH RECURSIVE counted(i) AS (
    SELECT 0 UNION ALL SELECT i + 1 FROM counted WHERE i + 1 < {STATEMENT_ROWS})
    SELECT i FROM counted;
"""
_SCRATCH_SETTINGS: Final = """
PRAGMA scratch.page_size = 4096;
PRAGMA scratch.journal_mode = OFF;
PRAGMA scratch.synchronous = OFF;
PRAGMA scratch.cache_size = -8000;
CREATE TABLE scratch.failure (
    identity BLOB, kind INTEGER, error TEXT, status INTEGER,
    PRIMARY KEY (identity, kind)) WITHOUT ROWID;
CREATE TABLE scratch.rotated (name TEXT PRIMARY KEY, at INTEGER) WITHOUT ROWID;
"""
_COMPANIONS: Final = ("", "-wal", "-shm", "-journal", "-staging")

# --- locations ------------------------------------------------------------------------

_MOUNTS: Final = Path("/proc/self/mountinfo")
# Locks or shared memory are unreliable there: https://sqlite.org/wal.html. WSL mounts
# Windows disks as 9p, and some sandboxes mount those of their host that way.
# fmt: off
_REMOTE: Final = frozenset({
    "9p", "afs", "beegfs", "blobfuse", "blobfuse2", "ceph", "cifs", "coda",
    "curlftpfs", "davfs", "davfs2", "gcsfuse", "gfs", "gfs2", "glusterfs", "goofys",
    "gpfs", "juicefs", "lustre", "mount-s3", "mountpoint-s3", "ncpfs", "nfs", "nfs4",
    "ocfs2", "prl_fs", "rclone", "s3fs", "seaweedfs", "smb3", "smbfs", "smbnetfs",
    "sshfs", "vboxsf", "vmhgfs", "vmhgfs-fuse",
})
# fmt: on


def read_mounts() -> list[tuple[str, str]]:
    """List mount points and their file systems; empty except on Linux."""
    with suppress(OSError):
        return list(_parse_mounts(_MOUNTS.read_text().splitlines()))
    return []


def _parse_mounts(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Parse lines of mountinfo (proc(5)): the point, ``-``, then the file system."""
    for line in lines:
        left, _, right = line.partition(" - ")
        point = left.split(" ")[4].encode().decode("unicode_escape")
        yield point, right.split(" ")[0]


def check_location(
    path: Path, mounts: Iterable[tuple[str, str]], *, allow_shared: bool = False
) -> None:
    """Reject a location where a state is not safe."""
    companions = (*_COMPANIONS[1:], ".lock")
    if path.name.endswith(companions):
        raise JobError(
            f"{path} has the name of a file that belongs to another state.",
            hint=f"Use a name that does not end in {', '.join(companions)}.",
        )
    folder = path.parent.resolve()
    check_folder(folder, allow_shared)
    points = dict(mounts)
    parents = (str(parent) for parent in (folder, *folder.parents))
    kind = next((points[parent] for parent in parents if parent in points), "")
    if kind.removeprefix("fuse.") in _REMOTE:
        raise JobError(
            f"The state {path} is on a network file system ({kind}), where SQLite "
            "cannot lock it.",
            hint="Put it on a local disk, and copy it while no job runs.",
        )
    for suffix in _COMPANIONS:
        _check_file(path.with_name(path.name + suffix))
    _check_header(path)


def _check_file(path: Path) -> None:
    """Reject a file that SQLite would open instead of ours."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISREG(status.st_mode):
        raise JobError(
            f"{path} is a link or not a file.", hint="Give the path of the file itself."
        )
    if os.geteuid() not in (0, status.st_uid):
        raise JobError(f"{path} belongs to another user.", hint="Use your own state.")


# --- identities -----------------------------------------------------------------------


def by_size(identities: Sequence[bytes]) -> dict[int, Sequence[bytes]]:
    """Group *identities* by size, keeping their order.

    Nearly all have 32 bytes, but 31 and 33 exist (docs/protocol.md 3.3).
    """
    sizes = set(map(len, identities))
    if len(sizes) == 1:
        return {sizes.pop(): identities}
    return {size: [one for one in identities if len(one) == size] for size in sizes}


def split(keys: bytes, size: int) -> list[bytes]:
    """Split joined identities."""
    return [keys[start : start + size] for start in range(0, len(keys), size)]


def sort_distinct(identities: Iterable[bytes], *, byte: int = 0) -> list[bytes]:
    """Sort *identities* and drop duplicates, in short steps.

    Sorting 50,000 at once would hold the interpreter lock for 20 ms. Identities are
    hashes, so one *byte* of them makes even groups. The bytes before it must be equal.
    """
    groups: list[list[bytes]] = [[] for _ in range(256)]
    for identity in identities:
        groups[identity[byte]].append(identity)
    return [identity for group in groups for identity in sorted(set(group))]


class KeySpill:
    """Any number of identities, in memory if they are few, or in a scratch table.

    There they are in parts, by their first ten bits. One row contains all identities of
    a part from one flush as one blob. One row per identity would take ten times as
    long.
    """

    def __init__(self, connection: sqlite3.Connection, table: str) -> None:
        """Write to the new scratch table *table*."""
        self._connection = connection
        self._table = table
        connection.execute(
            f"CREATE TABLE scratch.{table} ("
            "id INTEGER PRIMARY KEY, kind INTEGER, size INTEGER, keys BLOB)"
        )
        self._buffers: dict[tuple[int, int], list[bytes]] = {}
        self._buffered = 0
        self._flushes = 0
        self._last: tuple[int, int, set[tuple[int, bytes]]] = (0, -1, set())
        self.count: int = 0

    def add(self, kind: int, identities: Sequence[bytes]) -> None:
        """Add identities of one type."""
        for size, keys in by_size(identities).items():
            self._buffers.setdefault((kind, size), []).extend(keys)
        self.count += len(identities)
        self._buffered += len(identities)
        if self._buffered >= _FLUSH_AT:
            self._flush()

    def _flush(self) -> None:
        """Write buffered identities in a few statements."""
        rows: list[tuple[int, int, int, bytes]] = []
        for (kind, size), buffered in self._buffers.items():
            parts: list[list[bytes]] = [[] for _ in range(_PARTS)]
            for identity in buffered:
                parts[identity[0] << 2 | identity[1] >> 6].append(identity)
            rows += [
                ((part << 40) | self._flushes, kind, size, b"".join(keys))
                for part, keys in enumerate(parts)
                if keys
            ]
            self._flushes += 1
        for start in range(0, len(rows), _ROWS_PER_INSERT):
            some = rows[start : start + _ROWS_PER_INSERT]
            values = ", ".join(["(?, ?, ?, ?)"] * len(some))
            self._connection.execute(
                f"INSERT INTO scratch.{self._table} VALUES {values}",
                list(chain.from_iterable(some)),
            )
        self._buffers.clear()
        self._buffered = 0

    @property
    def parts(self) -> int:
        """The number of parts to read: one if all identities are in memory."""
        return _PARTS if self._flushes else min(1, self._buffered)

    def read(self, part: int) -> Iterator[tuple[int, list[bytes]]]:
        """Read a part: each kind, and its identities of one size, sorted, distinct."""
        if not self._flushes:
            for (kind, _), keys in sorted(self._buffers.items()):
                yield kind, sort_distinct(keys)
            return
        if self._buffered:
            self._flush()
        groups = self._connection.execute(
            "SELECT kind, size, CAST(group_concat(keys, '') AS BLOB)"
            f" FROM scratch.{self._table} WHERE id BETWEEN ? AND ? GROUP BY kind, size",
            (part << 40, (part << 40) | (1 << 40) - 1),
        ).fetchall()
        for kind, size, blob in groups:
            yield kind, sort_distinct(split(blob, size), byte=1)

    def contains(self, kind: int, identity: bytes) -> bool:
        """Return whether an identity was added; fast for sorted ones."""
        part = identity[0] << 2 | identity[1] >> 6 if self._flushes else 0
        if self._last[:2] != (self.count, part):
            keys = {(one, key) for one, keys in self.read(part) for key in keys}
            self._last = (self.count, part, keys)
        return (kind, identity) in self._last[2]


_PARTS: Final = 1_024
_FLUSH_AT: Final = 100_000
_ROWS_PER_INSERT: Final = 128
_SORTED_PAGES: Final = 1_024

# --- the file -------------------------------------------------------------------------


class StateDatabase:
    """An open state, used by one thread."""

    def __init__(
        self,
        path: Path,
        *,
        now: datetime,
        allow_shared: bool = False,
        factory: type[sqlite3.Connection] = sqlite3.Connection,
    ) -> None:
        """Open the state at *path*, or create it."""
        self._scratch_path = path.with_name(path.name + "-staging")
        check_location(path, read_mounts(), allow_shared=allow_shared)
        self._spills: dict[str, KeySpill] | None = None
        self.failures: int = 0
        with ExitStack() as resources:
            self._lock = FileLock(path.with_name(path.name + ".lock"), now=now)
            resources.callback(self._lock.release)
            self._drop_scratch_file()
            os.close(open_private(path, exclusive=False))
            sync_folder(path.parent)
            self.connection: sqlite3.Connection = sqlite3.connect(
                path,
                isolation_level=None,
                timeout=5,
                cached_statements=64,
                factory=factory,
            )
            resources.callback(self.connection.close)
            _prepare(self.connection)
            self._load()
            # A killed or failed run may have left that.
            if self.meta(REWRITE):
                with suppress(sqlite3.Error, JobError):
                    self.rewrite()
            resources.pop_all()

    def _load(self) -> None:
        self.epoch: int = self.meta("epoch")
        self._salt: bytes = self.meta("salt")
        digests = self.connection.execute("SELECT digest FROM suppressed").fetchall()
        self.suppressed: set[bytes] = {digest for (digest,) in digests}
        if not isinstance(self.epoch, int) or not isinstance(self._salt, bytes):
            raise damaged()

    def close(self) -> None:
        """Write everything into the one file and release it."""
        try:
            with suppress(sqlite3.Error):
                self.drop_scratch()
            # What was committed is safe in the log, too.
            with suppress(sqlite3.Error):
                self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            self.connection.close()
            with suppress(OSError):
                self._drop_scratch_file()
            self._lock.release()

    def key_ranges(self) -> list[dict[str, bytes]]:
        """Return ranges of identities, so that each has few enough rows to sort."""
        (pages,) = self.connection.execute("PRAGMA page_count").fetchone()
        bounds = [b""]
        if pages > _SORTED_PAGES:
            bounds += [bytes([byte]) for byte in range(1, 256)]
        ends = [*bounds[1:], b"\xff" * 64]
        return [
            {"low": low, "high": high} for low, high in zip(bounds, ends, strict=True)
        ]

    def meta(self, name: str) -> Any:
        """Read a metadata value of the state, or None."""
        row = self.connection.execute(
            "SELECT value FROM meta WHERE name = ?", (name,)
        ).fetchone()
        return None if row is None else row[0]

    def set_meta(self, name: str, value: Any) -> None:
        """Set a metadata value."""
        self.connection.execute(
            "INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value)
        )

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit the changes of the block, or none of them."""
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.connection.execute("COMMIT")
        except BaseException:
            # After some errors, such as a full disk, SQLite has already rolled back.
            with suppress(sqlite3.Error):
                self.connection.execute("ROLLBACK")
            raise

    def rewrite(self) -> None:
        """Rewrite the file without unused space and traces of deleted rows.

        ``secure_delete`` erases deleted rows, but not the copies that remain in unused
        space when SQLite moves rows to other pages. SQLite writes its copy to a
        temporary file. Deleted data is removed from the write-ahead log as well.
        """
        self.drop_scratch()
        self.connection.execute("PRAGMA temp_store = FILE")
        try:
            self.connection.execute("VACUUM")
        finally:
            self.connection.execute("PRAGMA temp_store = MEMORY")
        row = self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if row[0]:
            raise JobError(
                "Another program reads the state, so deleted data is still in its "
                "write-ahead log.",
                hint="Close that program and run the same command again.",
            )
        self.set_meta(REWRITE, 0)

    def tidy(self) -> None:
        """Remove what the last transactions have deleted from the disk."""
        self.drop_scratch()
        if self.meta(REWRITE):
            self.rewrite()
        else:
            # A long log is also slow to read.
            self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def digest(self, kind: int, identity: bytes) -> bytes:
        """Return the digest kept for a suppressed person."""
        key = bytes([kind]) + identity
        return blake2b(key, key=self._salt, digest_size=32).digest()

    def is_suppressed(self, kind: int, identity: bytes) -> bool:
        """Return whether a person is suppressed."""
        return self.digest(kind, identity) in self.suppressed

    def without_suppressed(self, kind: int, identities: list[bytes]) -> list[bytes]:
        """Leave out suppressed people: only their digests may be stored."""
        if not self.suppressed:
            return identities
        return [one for one in identities if not self.is_suppressed(kind, one)]

    # --- scratch ----------------------------------------------------------------------

    def spill(self, table: str) -> KeySpill:
        """Return a spill of the scratch database, created on first use."""
        if self._spills is None:
            path = self._scratch_path
            os.close(open_private(path))
            self.connection.execute("ATTACH ? AS scratch", (str(path),))
            self._spills = {}
            self.connection.executescript(_SCRATCH_SETTINGS)
            for name in ("staged", "written", "withheld"):
                self._spills[name] = KeySpill(self.connection, name)
        return self._spills[table]

    @property
    def has_scratch(self) -> bool:
        """Whether a job has staged anything."""
        return self._spills is not None

    def drop_scratch(self) -> None:
        """Delete the scratch database."""
        if self._spills is not None:
            self._spills = None
            self.failures = 0
            self.connection.execute("DETACH scratch")
            self._drop_scratch_file()

    def _drop_scratch_file(self) -> None:
        self._scratch_path.unlink(missing_ok=True)


def _prepare(connection: sqlite3.Connection) -> None:
    """Check the kind of file; an empty one becomes a state."""
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    _check_kind(application, version, tables)
    # Large pages make sorted writes cheaper. The size can be set only for an empty
    # file.
    connection.execute("PRAGMA page_size = 16384")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.executescript(_SETTINGS + _NUMBERS)
    if not tables:
        connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")


_MAGIC: Final = b"SQLite format 3\0"
_HEADER_BYTES: Final = 100


def _check_header(path: Path) -> None:
    """Reject another file before anything of it is changed, even its mode."""
    if not path.exists():
        return
    with attempt(f"{path} cannot be opened", path.open, "rb") as file:
        header = file.read(_HEADER_BYTES)
    if header:
        if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC):
            raise damaged()
        # https://sqlite.org/fileformat2.html#the_database_header: the schema cookie,
        # which is zero until there are tables, user_version and application_id.
        (tables,), (version,), (application,) = (
            struct.unpack_from(">I", header, offset) for offset in (40, 60, 68)
        )
        _check_kind(application, version, tables)


def _check_kind(application: int, version: int, tables: int) -> None:
    """Reject another database, and a state with another schema."""
    if application != APPLICATION_ID and (tables or application or version):
        raise JobError(
            "The file is an SQLite database, but not a state of bulk mapping.",
            hint="Give the path of a state, or of a file that does not exist yet.",
        )
    if tables and version != SCHEMA_VERSION:
        age = "a newer" if version > SCHEMA_VERSION else "an older"
        raise JobError(
            f"The state was written by {age} version of uid2_async (schema {version}; "
            f"this version uses {SCHEMA_VERSION}).",
            hint="Update uid2_async."
            if version > SCHEMA_VERSION
            else "Map everything into a new state.",
        )


# --- errors ---------------------------------------------------------------------------


def damaged() -> JobError:
    """Return the error for a file with invalid content."""
    return JobError(
        "The state is damaged, or it is not a state.",
        hint="Restore it from a backup, or map everything into a new one.",
    )


def explain(error: Exception) -> Exception:
    """Convert any error of the state's thread to ours, without values."""
    if isinstance(error, UID2Error):
        return error
    if isinstance(error, MemoryError):
        return JobError("There is not enough memory.", hint="Free some memory.")
    if isinstance(error, AttributeError | NameError | AssertionError):
        # File content never causes these: they are programming errors.
        return error
    code = getattr(error, "sqlite_errorcode", None)
    is_value = type(error) is sqlite3.OperationalError and code is None
    if is_value or not isinstance(error, sqlite3.Error | OSError):
        # A value in the file has an impossible type or form. If it is not UTF-8, the
        # error comes from sqlite3, not from SQLite.
        return damaged()
    known = _MESSAGES.get(-1 if code is None else code & 0xFF)
    if known is not None:
        return JobError(known[0], hint=known[1])
    name = getattr(error, "sqlite_errorname", None) or getattr(error, "strerror", None)
    return JobError(
        f"The state could not be used ({name or type(error).__name__}).",
        hint="Check the path, its permissions and the disk.",
    )


_DAMAGED: Final = (
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    # The statements are constants, so only a damaged schema makes them invalid.
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_TOOBIG,
)
_LOCKED: Final = (
    "Another program holds a lock on the state.",
    "Close the other program that has it open.",
)
_MESSAGES: Final = {
    **dict.fromkeys(_DAMAGED, (damaged().message, damaged().hint)),
    sqlite3.SQLITE_FULL: (
        "There is no disk space left for the state.",
        "Free disk space and run the same command again. What was recorded is kept.",
    ),
    sqlite3.SQLITE_BUSY: _LOCKED,
    sqlite3.SQLITE_LOCKED: _LOCKED,
    sqlite3.SQLITE_IOERR: (
        "The disk failed while the state was read or written.",
        "Check the disk, then run the same command again.",
    ),
    sqlite3.SQLITE_READONLY: (
        "The state cannot be written to.",
        "Check its permissions and those of its folder.",
    ),
}
