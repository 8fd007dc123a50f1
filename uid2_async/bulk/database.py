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
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
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
_TYPE: Final = b"POSTGRESQL:type"
# The types whose values the driver reads exactly. Others are read as text, such as
# money, of which it would return cents.
_EXACT: Final = (
    *("bool", "int2", "int4", "int8", "float4", "float8", "numeric", "uuid", "bytea"),
    *("text", "varchar", "bpchar", "name", "char", "json", "jsonb"),
    *("date", "time", "timestamp", "timestamptz", "interval"),
)
# The driver stores the Arrow types of these as text, or json.
_CASTS: Final = {
    "bpchar": "string",
    "jsonb": "arrow.json",
    "numeric": "numeric",
    "varchar": "string",
}
# The driver changes infinite times, and Arrow cannot print times outside this range.
_TIMES: Final = ("4713-01-01 BC", "32000-01-01")
_NAME_BYTES: Final = 63
_SYSTEM_COLUMNS: Final = ("tableoid", "xmin", "cmin", "xmax", "cmax", "ctid")
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
        """Run the query, and copy its rows into an Arrow file. Blocks.

        Raises:
            InputError: If the driver would change values of a column.
        """
        # A trailing comment must not swallow the parenthesis after it.
        query = self.sql.strip().rstrip(";") + "\n"
        with _connected(self) as connection, connection.cursor() as cursor:
            fields = list(enumerate(cursor.adbc_execute_schema(query)))
            columns = [
                f"c{n}" + ("" if _is_exact(one) else "::text") for n, one in fields
            ]
            tests = {at: _lost_values(at, one) for at, one in fields if _is_exact(one)}
            tests = {at: test for at, test in tests.items() if test}
            names = ", ".join(f"c{n}" for n, _ in fields)
            cursor.execute(
                f"SELECT {', '.join([*columns, *tests.values()])} "  # noqa: S608 - the user's own
                f"FROM ({query}) AS uid2_async_rows ({names})"
            )
            reader = cursor.fetch_record_batch()
            tested = [fields[at][1].name for at in tests]
            rows = self._checked(reader, [one.name for _, one in fields], tested)
            write_batches(rows, copy, disk=disk)

    def _checked(self, reader: Any, names: list[str], tested: list[str]) -> Any:
        """Return a reader of named columns; the tests behind them must not be true."""
        arrow = importlib.import_module("pyarrow")
        fields = [
            reader.schema.field(at).with_name(name) for at, name in enumerate(names)
        ]
        schema = arrow.schema(fields)

        def batches() -> Iterator[Any]:
            for batch in reader:
                for name, test in zip(tested, batch.columns[len(names) :], strict=True):
                    if test.true_count:
                        raise InputError(
                            f"{self.name}: column '{printable(name)}' has arrays of "
                            "several dimensions, infinite times or others that cannot "
                            "be read.",
                            hint="Cast it in the query, such as `column::text`.",
                        )
                columns = batch.columns[: len(names)]
                yield arrow.RecordBatch.from_arrays(columns, schema=schema)

        return arrow.RecordBatchReader.from_batches(schema, batches())


@attrs.frozen(field_transformer=check_types)
class Table(Remote):
    """A table of a database, as the output of a job.

    It is written in one transaction when the job is done. The same transaction records
    the job in the table ``uid2_async_jobs`` of the same schema, so that resuming a job
    inserts nothing twice. A job that is complete is not resumed: running it again
    appends its rows again.

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
        """Reject a name that is empty or too long, or has too many parts."""
        parts = self.table.split(".")
        is_named = all(map(_is_name, parts)) and len(parts) <= 2  # noqa: PLR2004 - schema and table
        if not is_named or parts[-1] == _JOBS or parts[0] == "pg_temp":
            raise ConfigError(
                "The name of a table must be TABLE or SCHEMA.TABLE.",
                hint="Example: `table=audience.mapped`. Each part has 1 to 63 bytes. "
                f"The table {_JOBS} is for the jobs.",
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

    def rehearse(self, schema: Any, *, job: str = "") -> None:
        """Deliver no rows of *schema*, and roll that back. Blocks.

        So that what the server rejects is known before anything is sent.
        """
        with _connected(self) as connection, connection.cursor() as cursor:
            self._write(cursor, schema, (), job)

    def deliver(self, whole: Path, *, job: str = "") -> None:
        """Write the table in one transaction, unless this job already has. Blocks."""
        ipc = importlib.import_module("pyarrow.ipc")
        with (
            _connected(self) as connection,
            whole.open("rb") as file,
            ipc.open_file(file) as opened,
        ):
            batches = map(opened.get_batch, range(opened.num_record_batches))
            with connection.cursor() as cursor:
                self._write(cursor, opened.schema, batches, job)
            connection.commit()

    def _is_recorded(self, cursor: Any, job: str) -> bool:
        """Record a job in the transaction; return whether it was already recorded."""
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

    def _write(
        self, cursor: Any, schema: Any, batches: Iterable[Any], job: str
    ) -> None:
        """Fill a temporary table, and from it the table with the original types."""
        stored = self._stored_schema(schema)
        arrow = importlib.import_module("pyarrow")
        reader = arrow.RecordBatchReader.from_batches(
            stored, (batch.cast(stored) for batch in batches)
        )
        staging = f"uid2_async_{token_hex(8)}"
        cursor.adbc_ingest(staging, reader, mode="create", temporary=True)
        # Two transactions cannot create the same table, or replace it.
        cursor.execute(f"SELECT pg_advisory_xact_lock(hashtext('{_JOBS}'))")
        if job and self._is_recorded(cursor, job):
            return
        exists = self._check(cursor, may_exist=False)
        columns = ", ".join(_quoted(one.name) for one in stored)
        cast = ", ".join(map(_cast, stored))
        rows = f"SELECT {cast} FROM pg_temp.{staging}"  # noqa: S608 - names are quoted
        if exists and self.if_exists is IfExists.APPEND:
            cursor.execute(f"INSERT INTO {self._full_name} ({columns}) {rows}")
            return
        if exists:
            cursor.execute(f"DROP TABLE {self._full_name}")
        cursor.execute(f"CREATE TABLE {self._full_name} AS {rows}")

    def _stored_schema(self, schema: Any) -> Any:
        """Return a schema that the driver stores with the same values.

        Raises:
            InputError: If there is none, since it lacks a type, or PostgreSQL does not
                take a name.
        """
        names = Counter(schema.names)
        refused = [
            f"'{printable(name)}'"
            for name, count in names.items()
            if count > 1 or not _is_name(name) or name in _SYSTEM_COLUMNS
        ]
        if refused:
            raise InputError(
                f"{self.name} cannot have the columns {', '.join(refused)}.",
                hint="Rename them. The name of a column has 1 to 63 bytes, is not used "
                "twice, and is not one that PostgreSQL reserves, such as ctid.",
            )
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


def _is_name(name: str) -> bool:
    """Return whether PostgreSQL takes a name as it is; it would cut a longer one."""
    size = len(name.encode(errors="surrogatepass"))
    return 0 < size <= _NAME_BYTES and "\0" not in name


def _type_name(field: Any) -> tuple[str, bool]:
    """Return the type of a column in the source database, and whether it is a list."""
    name = (field.metadata or {}).get(_TYPE, b"").decode("ascii", "replace")
    is_list = importlib.import_module("pyarrow").types.is_list(field.type)
    return (name.removeprefix("_") if is_list else name), is_list


def _is_exact(field: Any) -> bool:
    """Return whether the driver reads the values of a column exactly."""
    return _type_name(field)[0] in _EXACT


def _lost_values(at: int, field: Any) -> str:
    """Return an expression that is true for values that the driver would change.

    It flattens arrays.
    """
    name, is_list = _type_name(field)
    array, tests = f"c{at}", []
    if is_list:
        tests += [f"array_ndims({array}) > 1", f"array_lower({array}, 1) <> 1"]
    else:
        array = f"ARRAY[{array}]"
    if name in ("date", "timestamp", "timestamptz"):
        first, last = _TIMES
        tests += [f"'{first}' > ANY({array})", f"'{last}' < ANY({array})"]
    return f"({' OR '.join(tests)}) IS TRUE" if tests else ""


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
    """Return a column cast to its type in the source database.

    The name of that type stays in a file in which values were changed. Thus, no cast
    rejects a value.
    """
    column = _quoted(field.name)
    name, is_list = _type_name(field)
    kind = field.type.value_type if is_list else field.type
    stored = getattr(kind, "type_name", getattr(kind, "extension_name", str(kind)))
    if name not in _CASTS or stored != _CASTS[name]:
        return column
    return f"{column}::{name}{'[]' if is_list else ''} AS {column}"


# --- connections and failures ---------------------------------------------------------


@contextmanager
def _connected(remote: Query | Table) -> Iterator[Any]:
    """Open a connection, and roll back its transaction unless it is committed.

    Failures are explained, since driver texts contain the query or row values.
    """
    what, driver = "Databases need the extra 'sql'", "adbc_driver_postgresql.dbapi"
    adbc, _ = load_extra("sql", what, driver, "pyarrow")
    connection = None
    try:
        connection = adbc.connect(_with_timeout(remote.uri))
        yield connection
    except UID2Error:
        raise
    except Exception as error:  # noqa: BLE001 - the driver is not there to name its own
        failure = _explain(error, remote.name, is_lost=not _is_alive(connection))
    else:
        return
    finally:
        # After a failure it is broken, and the first failure is the one to report.
        with contextlib.suppress(Exception):
            if connection is not None:
                connection.close()
    raise failure


def _is_alive(connection: Any) -> bool:
    """Return whether the server still answers."""
    with contextlib.suppress(Exception):
        connection.rollback()
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            return True
    return False


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
    "42804": (
        InputError,
        "has a column of another type than the rows",
        "Change its type, such as to text, or name a new table.",
    ),
    "42": (
        InputError,
        "rejects the statement",
        "Try the query with psql. The target must be a table, not a view.",
    ),
    "0A": (InputError, "rejects the statement", "It must be one SELECT."),
    "2B": (InputError, "cannot replace the table", "Drop what depends on it."),
    "22021": (
        InputError,
        "cannot store the character NUL, which a text of the input contains",
        "Remove it from the input, and start over (`restart=True`).",
    ),
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


def _explain(error: Exception, name: str, *, is_lost: bool) -> UID2Error:
    """Choose the error by SQLSTATE, which the driver does not always report."""
    state = getattr(error, "sqlstate", None) or ""
    if not state:
        state = _state_of_connecting(str(error))
    for length in (5, 2):
        if state[:length] in _CAUSES:
            kind, what, hint = _CAUSES[state[:length]]
            shown = f"SQLSTATE {state}{_place(str(error))}"
            shown = f" ({shown})" if len(state) == 5 else ""  # noqa: PLR2004 - its length
            return kind(f"{name} {what}{shown}.", hint=hint)
    if isinstance(error, OSError) and error.errno:
        cause = os.strerror(error.errno)
        return JobError(f"The rows of {name} cannot be copied: {cause}.", hint=_RESUME)
    kind_name = type(error).__name__
    if is_lost:
        return JobError(
            f"{name} cannot be reached, or the connection was lost ({kind_name}).",
            hint=f"Check the host, port and network. {_RESUME}",
        )
    return InputError(
        f"{name} or its driver rejects the query, a column or a value ({kind_name}).",
        hint="Try the query with psql. Cast unusual values to text, such as "
        "`column::text`. The user must be allowed to create temporary tables.",
    )


def _place(text: str) -> str:
    """Return the row and column in an error of COPY; the value follows a colon."""
    found = re.search(r"COPY uid2_async_\w+, line (\d+)(?:, column ([^:\n]+))?", text)
    if found is None:
        return ""
    column = f", column '{printable(found[2])}'" if found[2] else ""
    return f", row {found[1]}{column}"


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
