"""The tables of a state, and how its file is opened."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from uid2_async.bulk.state.stored import COLUMNS
from uid2_async.errors import JobError

__all__ = [
    "DUE_INDEX",
    "ROW",
    "SCHEMA_VERSION",
    "connect",
    "make_rows_table",
    "transaction",
]

APPLICATION_ID: Final = 0x55494432
"""``UID2``: what a file of this library calls itself in SQLite's header."""

SCHEMA_VERSION: Final = 1

ROW: Final = ", ".join(("identity", "kind", *COLUMNS))
"""The columns of all tables that hold rows, in order."""

_DEFINITIONS: Final = """
    identity BLOB NOT NULL,
    kind INTEGER NOT NULL,
    uid TEXT,
    prev TEXT,
    since INTEGER,
    refresh_from INTEGER,
    status TEXT,
    bucket TEXT,
    checked INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    change TEXT,
    told INTEGER NOT NULL,
    told_uid TEXT
"""

DUE_INDEX: Final = """CREATE INDEX IF NOT EXISTS mapping_due
    ON mapping (refresh_from / 86400) WHERE refresh_from IS NOT NULL"""
"""Finds what is due for a refresh. The first refresh makes it: to map needs none, and a
first load would take a sixth longer with it."""

# Where an index is on a day, what is inserted in the order of the keys goes to the few
# hundred places where the days end, and not all over the index.
_TABLES: Final = f"""
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE run (
    number INTEGER PRIMARY KEY, job TEXT, started INTEGER NOT NULL,
    after INTEGER NOT NULL, ended INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE mapping ({_DEFINITIONS}, PRIMARY KEY (identity, kind)) WITHOUT ROWID;
CREATE INDEX mapping_unmapped ON mapping (checked / 86400) WHERE status IS NOT NULL;
CREATE INDEX mapping_kept ON mapping (since) WHERE since IS NOT NULL;
CREATE TABLE journal (
    number INTEGER PRIMARY KEY, run INTEGER NOT NULL, checked INTEGER NOT NULL,
    kind INTEGER NOT NULL, size INTEGER NOT NULL, count INTEGER NOT NULL,
    identities BLOB NOT NULL, rows BLOB, uids BLOB, dues BLOB, seqs BLOB,
    replaced BLOB NOT NULL
);
CREATE TABLE change (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, run INTEGER NOT NULL,
    identity BLOB NOT NULL, kind INTEGER NOT NULL, change TEXT NOT NULL,
    uid TEXT, old_uid TEXT, purged INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE member (
    segment TEXT NOT NULL, identity BLOB NOT NULL, kind INTEGER NOT NULL,
    PRIMARY KEY (segment, identity, kind)
) WITHOUT ROWID;
CREATE TABLE present (
    run INTEGER NOT NULL, segment TEXT NOT NULL, first BLOB NOT NULL,
    call INTEGER NOT NULL, identity BLOB NOT NULL, kind INTEGER NOT NULL,
    PRIMARY KEY (run, segment, first, call, identity, kind)
) WITHOUT ROWID;
CREATE TABLE forgotten (digest BLOB PRIMARY KEY) WITHOUT ROWID;
INSERT INTO meta VALUES ('salt', randomblob(32)), ('told_seq', 0);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""

_TEMPORARY: Final = """
CREATE TABLE temp.rotated (name TEXT PRIMARY KEY, at INTEGER NOT NULL) WITHOUT ROWID;
"""

# synchronous=NORMAL: what is committed survives the death of the process. A power loss
# may take the last commits with it, which only means that the operator is asked again:
# a job notes a batch as done after the state has recorded it.
# The WAL is checkpointed every 100 MB, since pages are rewritten often before that.
_SETTINGS: Final = """
PRAGMA secure_delete = ON;
PRAGMA synchronous = NORMAL;
PRAGMA cache_size = -24000;
PRAGMA wal_autocheckpoint = 6250;
"""


# A statement that is kept for the next time keeps what was bound to it, too, and each
# layer is written by one of its own, with megabytes.
_CACHED_STATEMENTS: Final = 8


def connect(path: Path) -> sqlite3.Connection:
    """Open the state at *path*; an empty file becomes a new one.

    Raises:
        JobError: If it is no state, or one of a newer version.
        sqlite3.Error: If it is damaged.
    """
    connection = sqlite3.connect(
        path, isolation_level=None, timeout=5, cached_statements=_CACHED_STATEMENTS
    )
    try:
        _prepare(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection) -> None:
    """Check whose file it is, and make the tables of a new one."""
    application = _pragma(connection, "application_id")
    version = _pragma(connection, "user_version")
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if application != APPLICATION_ID and (tables or application or version):
        raise JobError(
            "The file is an SQLite database, but no state of bulk mapping.",
            hint="Give the path of a state, or of a file that does not exist yet.",
        )
    if version > SCHEMA_VERSION:
        raise JobError(
            f"The state was written by a newer version of uid2_async (its schema is "
            f"{version}, this one knows {SCHEMA_VERSION}).",
            hint="Update uid2_async.",
        )
    # Large pages make sorted rows cheaper to write; only an empty file takes the size.
    connection.execute("PRAGMA page_size = 16384")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.executescript(_SETTINGS)
    if not tables:
        connection.executescript(f"BEGIN IMMEDIATE; {_TABLES} COMMIT;")
    connection.executescript(_TEMPORARY)


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    """Read a number of the file's header."""
    value: int = connection.execute(f"PRAGMA {name}").fetchone()[0]
    return value


def make_rows_table(connection: sqlite3.Connection, name: str) -> None:
    """Make a table of rows in key order, in the place of what was left half-way."""
    connection.execute(f"DROP TABLE IF EXISTS {name}")
    connection.execute(
        f"CREATE TABLE {name} ({_DEFINITIONS}, PRIMARY KEY (identity, kind))"
        " WITHOUT ROWID"
    )


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit what happens inside, or nothing of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # SQLite itself has rolled back after some errors, such as a full disk.
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise
