"""Databases as inputs and outputs, through ADBC: Arrow in, Arrow out.

The rows of a query are copied into the job's folder once, and the job maps that copy,
even after an interruption. The output is written to a file in the job's folder, and
from there to the table in one transaction, which also records the job. A recorded job
is done, so no row is inserted twice.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

import attrs

from uid2_async._private import printable
from uid2_async._traceback import check_types, strip_tracebacks
from uid2_async.bulk.paths import InputIdentity, Remote, load_extra
from uid2_async.bulk.private_files import DISK, Disk, attempt, open_private, replace
from uid2_async.errors import ConfigError, InputError, JobError, UID2Error

_SCHEMES: Final = ("postgresql", "postgres")
_JOBS: Final = "uid2_async_jobs"
_STAGING: Final = "uid2_async_rows"
_TYPE: Final = b"POSTGRESQL:type"
_TYPMOD: Final = b"POSTGRESQL:typmod"
# The columns that a job adds need no cast.
_TYPE_NAME: Final = re.compile(r"_?[a-z][a-z0-9_]{0,62}")
_RESUME: Final = "Then run the same command again: the job resumes where it stopped."


class IfExists(StrEnum):
    """What happens to an existing table."""

    FAIL = "fail"
    REPLACE = "replace"
    APPEND = "append"


def _display_uri(uri: str) -> str:
    """Return the host, port and database of a URI, without the password."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(uri)
        if parts.scheme.lower() in _SCHEMES:
            port = f":{parts.port}" if parts.port else ""
            host = parts.hostname or ""
            rest = f"{parts.path}?{parts.query}"
            # A / or ? in a password would end the host, and the rest be shown.
            if "@" in rest or parts.fragment:
                raise ValueError
            return printable(f"postgresql://{host}{port}{parts.path}")
    raise ConfigError(
        "The URI of a database must begin with postgresql://, and be valid.",
        hint="Example: postgresql://user@host:5432/database. Write the characters "
        "@ / ? # in a password as %40 %2F %3F %23.",
    )


def _check_uri(_: object, __: object, uri: str) -> None:
    _display_uri(uri)


@attrs.frozen(field_transformer=check_types)
class Query(Remote):
    """The rows of a query, as the input of a job.

    The query runs only once. A resumed job maps the rows from that run.

    Args:
        uri: The database, such as ``postgresql://user@host/database``. Without a
            password, libpq uses PGPASSWORD or ``~/.pgpass``.
        sql: The query.
    """

    is_pinned = True

    uri: str = attrs.field(repr=False, validator=_check_uri)
    sql: str = attrs.field(repr=False)

    def __attrs_post_init__(self) -> None:
        """Reject an empty query."""
        if not self.sql.strip():
            raise ConfigError("The query is empty.", hint="Name one with `sql=QUERY`.")

    @property
    def name(self) -> str:
        """See :class:`~uid2_async.bulk.paths.Remote`."""
        digest = sha256(self.sql.encode()).hexdigest()[:8]
        return f"{_display_uri(self.uri)} (query {digest})"

    def identify(self) -> InputIdentity:
        """Return only a name, because the job maps its copy."""
        digest = sha256(self.sql.encode()).hexdigest()
        return InputIdentity(name=self.name, size=0, mtime_ns=0, digest=digest)

    def fetch(self, copy: Path, *, disk: Disk = DISK) -> None:
        """Run the query, and copy its rows into an Arrow file. Blocks."""
        with _connected(self) as connection, connection.cursor() as cursor:
            # The driver wraps it in parentheses, which a trailing comment must not
            # swallow.
            cursor.execute(self.sql.strip().rstrip(";") + "\n")
            write_batches(cursor.fetch_record_batch(), copy, disk=disk)


@attrs.frozen(field_transformer=check_types)
class Table(Remote):
    """A table of a database, as the output of a job.

    It is written in one transaction when the job is done. The same transaction records
    the job in the table ``uid2_async_jobs`` of the same schema, so that running a job
    again inserts nothing twice.

    Args:
        uri: The database; see :class:`Query`.
        table: The name of the table, with its schema if it needs one:
            ``mapped`` or ``audience.mapped``.
        if_exists: What happens to an existing table.
    """

    uri: str = attrs.field(repr=False, validator=_check_uri)
    table: str
    if_exists: IfExists = attrs.field(default=IfExists.FAIL, converter=IfExists)

    def __attrs_post_init__(self) -> None:
        """Reject a name that is empty, or has too many parts."""
        parts = self.table.split(".")
        if not all(parts) or len(parts) > 2 or "\0" in self.table:  # noqa: PLR2004 - schema and table
            raise ConfigError(
                "The name of a table must be TABLE or SCHEMA.TABLE.",
                hint="Example: `table=audience.mapped`.",
            )

    @property
    def name(self) -> str:
        """See :class:`~uid2_async.bulk.paths.Remote`."""
        return f"{_display_uri(self.uri)}#{printable(self.table)}"

    @property
    def _full_name(self) -> str:
        return ".".join(map(_quoted, self.table.split(".")))

    def check_target(self, *, may_exist: bool) -> None:
        """Raise if the table must not be written. Blocks."""
        with _connected(self) as connection, connection.cursor() as cursor:
            self._check(cursor, may_exist=may_exist)

    def _check(self, cursor: Any, *, may_exist: bool) -> bool:
        """Return whether the table exists; raise if it must not."""
        literal = self._full_name.replace("'", "''")
        cursor.execute(f"SELECT to_regclass('{literal}') IS NOT NULL")
        exists = bool(cursor.fetchone()[0])
        if exists and self.if_exists is IfExists.FAIL and not may_exist:
            raise InputError(
                f"The table {self.name} already exists.",
                hint='Pass `if_exists="replace"` or `if_exists="append"`.',
            )
        return exists

    def stored_schema(self, schema: Any) -> Any:
        """Return a schema that the driver stores with the same values.

        Raises:
            InputError: If there is none, since a column has a type that it lacks.
        """
        kinds = [_stored_type(field.type) for field in schema]
        fields = list(zip(schema, kinds, strict=True))
        lost = [
            f"'{printable(field.name)}' ({field.type})"
            for field, kind in fields
            if kind is None
        ]
        if lost:
            raise InputError(
                f"{self.name} cannot store the types of columns: {', '.join(lost)}.",
                hint="Cast them, such as structs to JSON text, or drop them.",
            )
        arrow = importlib.import_module("pyarrow")
        return arrow.schema([one.with_type(kind) for one, kind in fields])

    def deliver(self, whole: Path, *, job: str = "") -> None:
        """Write the table in one transaction, unless this job already has. Blocks."""
        with _connected(self) as connection:
            with connection.cursor() as cursor:
                if job and self._is_recorded(cursor, job):
                    return
                self._write(cursor, whole)
            connection.commit()

    def _is_recorded(self, cursor: Any, job: str) -> bool:
        """Record a job in the transaction; return whether it was already recorded.

        A second process that runs the same job waits here for the first.
        """
        jobs = ".".join(map(_quoted, [*self.table.split(".")[:-1], _JOBS]))
        cursor.execute(
            f"CREATE TABLE IF NOT EXISTS {jobs} "
            "(job text PRIMARY KEY, finished timestamptz NOT NULL DEFAULT now())"
        )
        cursor.execute(
            f"INSERT INTO {jobs} (job) VALUES ('{job}') "  # noqa: S608 - hexadecimal digits
            "ON CONFLICT DO NOTHING RETURNING job"
        )
        return cursor.fetchone() is None

    def _write(self, cursor: Any, whole: Path) -> None:
        """Fill a temporary table, and from it the table with the original types."""
        exists = self._check(cursor, may_exist=False)
        ipc = importlib.import_module("pyarrow.ipc")
        with whole.open("rb") as file, ipc.open_file(file) as opened:
            schema = self.stored_schema(opened.schema)
            batches = (
                opened.get_batch(number).cast(schema)
                for number in range(opened.num_record_batches)
            )
            arrow = importlib.import_module("pyarrow")
            reader = arrow.RecordBatchReader.from_batches(schema, batches)
            cursor.adbc_ingest(_STAGING, reader, mode="create", temporary=True)
        columns = ", ".join(_quoted(one.name) for one in schema)
        cast = ", ".join(map(_cast, schema))
        rows = f"SELECT {cast} FROM pg_temp.{_STAGING}"  # noqa: S608 - names are quoted
        if exists and self.if_exists is IfExists.APPEND:
            cursor.execute(f"INSERT INTO {self._full_name} ({columns}) {rows}")
            return
        if exists:
            cursor.execute(f"DROP TABLE {self._full_name}")
        cursor.execute(f"CREATE TABLE {self._full_name} AS {rows}")


def _stored_type(kind: Any) -> Any:
    """Return the type as which the driver stores *kind* unchanged; None if it cannot.

    It would store large values of uint64 as negative numbers.
    """
    arrow = importlib.import_module("pyarrow")
    types = arrow.types
    if types.is_uint64(kind):
        return arrow.decimal128(20)
    if types.is_date64(kind):
        return arrow.date32()
    if types.is_decimal(kind) and kind.bit_width < 128:  # noqa: PLR2004 - bits
        return arrow.decimal128(kind.precision, kind.scale)
    if types.is_dictionary(kind):
        return _stored_type(kind.value_type)
    if types.is_list(kind) or types.is_large_list(kind):
        item = kind.value_type
        stored = None if types.is_nested(item) else _stored_type(item)
        return kind if stored == item else stored and arrow.list_(stored)
    is_flat = not types.is_nested(kind) or types.is_fixed_size_list(kind)
    return kind if is_flat and not types.is_run_end_encoded(kind) else None


def _quoted(name: str) -> str:
    return '"{}"'.format(name.replace('"', '""'))


def _cast(field: Any) -> str:
    """Return a column cast to its type in the source database."""
    column = _quoted(field.name)
    kind = (field.metadata or {}).get(_TYPE, b"").decode("ascii", "replace")
    if not _TYPE_NAME.fullmatch(kind):
        return column
    kind = f"{kind[1:]}[]" if kind.startswith("_") else kind
    known = f"{column}::{kind}"
    typmod = (field.metadata or {}).get(_TYPMOD, b"").decode("ascii", "replace")
    if kind == "numeric" and typmod.isdigit():
        packed = int(typmod) - 4
        known += f"({packed >> 16}, {packed & 0x7FF})"
    return f"{known} AS {column}"


# --- connections and failures ---------------------------------------------------------


@contextmanager
def _connected(remote: Query | Table) -> Iterator[Any]:
    """Open a connection, and roll back its transaction unless it is committed.

    Failures are explained, since driver texts contain the query or row values.
    """
    what, driver = "Databases need the extra 'sql'", "adbc_driver_postgresql.dbapi"
    adbc, _ = load_extra("sql", what, driver, "pyarrow")
    try:
        connection = adbc.connect(_with_timeout(remote.uri))
        try:
            yield connection
        finally:
            # After a failure it is broken, and the first failure is the one to report.
            with contextlib.suppress(Exception):
                connection.close()
    except UID2Error:
        raise
    except Exception as error:  # noqa: BLE001 - the driver is not there to name its own
        failure = _explain(error, remote.name)
    else:
        return
    raise failure


def _with_timeout(uri: str) -> str:
    """Return a URI with timeouts for connecting and for a dead peer."""
    defaults = {"connect_timeout": "30", "keepalives_idle": "30"}
    defaults |= {"application_name": "uid2_async"}
    query = urlsplit(uri).query
    missing = [f"{n}={quote(v)}" for n, v in defaults.items() if f"{n}=" not in query]
    return uri + ("&" if query else "?") + "&".join(missing)


# Prefixes of SQLSTATE, as listed in appendix A of the PostgreSQL manual.
_CAUSES: Final[dict[str, tuple[Callable[..., UID2Error], str, str]]] = {
    "28": (InputError, "denies access", "Check the user name and password."),
    "3D": (InputError, "does not exist", "Check the name of the database."),
    "3F": (InputError, "does not have the schema", "Create it, or name another."),
    "42501": (
        InputError,
        "denies permission",
        "Grant the user the rights that the job needs.",
    ),
    "42P01": (
        InputError,
        "does not have a table of the query",
        "Check the names in it.",
    ),
    "42P07": (InputError, "has the table already", 'Pass `if_exists="replace"`.'),
    "42703": (InputError, "does not have a column", "Check the names of the columns."),
    "42": (InputError, "rejects the statement", "Try the query with psql."),
    "0A": (InputError, "rejects the statement", "It must be one SELECT."),
    "2B": (InputError, "cannot replace the table", "Drop what depends on it."),
    "22": (InputError, "rejects a value", "Check the types of the table's columns."),
    "23": (InputError, "rejects a row", "Check the constraints of the table."),
    "53": (
        JobError,
        "is full, or has no connections left",
        f"Free disk space or connections. {_RESUME}",
    ),
    "57": (JobError, "was stopped", f"Wait until it runs. {_RESUME}"),
    "40": (JobError, "rolled the transaction back", _RESUME),
}


def _explain(error: Exception, name: str) -> UID2Error:
    """Choose the error by SQLSTATE; without one, the connection was refused or lost."""
    state = getattr(error, "sqlstate", None) or ""
    if not state:
        state = _state_of_connecting(str(error))
    for length in (5, 2):
        if state[:length] in _CAUSES:
            kind, what, hint = _CAUSES[state[:length]]
            shown = f" (SQLSTATE {state})" if len(state) == 5 else ""  # noqa: PLR2004 - its length
            return kind(f"{name} {what}{shown}.", hint=hint)
    if isinstance(error, OSError):
        cause = os.strerror(error.errno or 0)
        return JobError(f"The rows of {name} cannot be copied: {cause}.", hint=_RESUME)
    return JobError(
        f"{name} cannot be reached, or the connection was lost "
        f"({type(error).__name__}).",
        hint=f"Check the host, port and network. {_RESUME}",
    )


def _state_of_connecting(text: str) -> str:
    """Return the SQLSTATE class of a connection error, which libpq does not report."""
    denials = ("authentication failed", "no password supplied", "no pg_hba.conf entry")
    if any(words in text for words in denials):
        return "28"
    if re.search(r'database ".*" does not exist', text):
        return "3D"
    return ""


# --- Delta Lake -----------------------------------------------------------------------


def write_batches(reader: Any, copy: Path, *, disk: Disk = DISK) -> None:
    """Write the record batches of *reader* to an Arrow file, whole or not at all."""
    ipc = importlib.import_module("pyarrow.ipc")
    unfinished = copy.with_name(f"{copy.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    options = ipc.IpcWriteOptions(emit_dictionary_deltas=True)
    with (
        os.fdopen(open_private(unfinished), "wb") as file,
        ipc.new_file(file, reader.schema, options=options) as writer,
    ):
        for batch in reader:
            attempt("The copy of the input cannot be saved", writer.write_batch, batch)
    replace(unfinished, copy, disk=disk)


@attrs.frozen(kw_only=True)
class DeltaTable(Remote):
    """A Delta Lake table, local or in a store.

    A job reads the version that is current when it starts, even after an interruption.
    """

    is_pinned = True

    location: str

    @property
    def name(self) -> str:
        """See :class:`~uid2_async.bulk.paths.Remote`."""
        return printable(self.location)

    def fetch(self, copy: Path, *, disk: Disk = DISK) -> None:
        """Copy the rows of the current version into an Arrow file. Blocks."""
        what = f"The Delta Lake table {self.name} needs the extra 'lake'"
        deltalake, _ = load_extra("lake", what, "deltalake", "pyarrow")
        try:
            write_batches(_open_rows(deltalake, self.location), copy, disk=disk)
        except UID2Error:
            raise
        except Exception as error:  # noqa: BLE001 - a Rust library raises anything
            kind = type(error).__name__
        else:
            return
        # The text of the error might show data or credentials.
        raise InputError(
            f"The Delta Lake table {self.name} cannot be read ({kind}).",
            hint="Check access to it. If it uses a feature that deltalake does not "
            "support, write a snapshot as Parquet with Spark, and map that.",
        )


def _open_rows(deltalake: Any, location: str) -> Any:
    """Return a reader of the rows of the current version.

    Their types are those that other programs know.
    """
    arrow = importlib.import_module("pyarrow")
    table = deltalake.DeltaTable(location)
    rows = deltalake.QueryBuilder().register("source", table)
    # Spark writes INT96 timestamps, which in nanoseconds wrap after the year 2262.
    rows.execute("SET datafusion.execution.parquet.coerce_int96 = 'us'")
    stream = rows.execute("SELECT * FROM source")
    reader = arrow.RecordBatchReader.from_stream(stream)
    fields = [one.with_type(_plain(one.type)) for one in reader.schema]
    schema = arrow.schema(fields, reader.schema.metadata)
    batches = (batch.cast(schema) for batch in reader)
    return arrow.RecordBatchReader.from_batches(schema, batches)


def _plain(kind: Any) -> Any:
    """Return a type without views, which are useful only in memory.

    The query engine reads text into views, at any depth.
    """
    arrow = importlib.import_module("pyarrow")
    types = arrow.types
    if types.is_string_view(kind):
        return arrow.string()
    if types.is_binary_view(kind):
        return arrow.binary()
    if types.is_list(kind):
        return arrow.list_(kind.value_field.with_type(_plain(kind.value_type)))
    if types.is_struct(kind):
        return arrow.struct([one.with_type(_plain(one.type)) for one in kind])
    return kind


strip_tracebacks(globals())
