"""Parquet and Arrow files. Other columns pass through with their types."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from inspect import signature
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar

import attrs
import msgspec

from uid2_async._private import printable
from uid2_async.bulk.columns import find_wanted, refuse_repeated
from uid2_async.bulk.paths import (
    Content,
    FileFormatOptions,
    Format,
    is_moved,
    load_extra,
    move_file,
    write_atomically,
)
from uid2_async.bulk.private_files import DISK, Disk, attempt, reopen_private, sync_file
from uid2_async.errors import InputError

T = TypeVar("T")

_BATCH_ROWS: Final = 10_000
# Small batches, so that no row group has to fit into memory.
_BUFFER_BYTES: Final = 1024 * 1024


def load_arrow(module: str = "pyarrow") -> Any:
    """Import a module of pyarrow."""
    what = "Parquet and Arrow files need pyarrow"
    return load_extra("arrow", what, module)[0]


def require_text(field: Any, *, name: str = "") -> None:
    """Reject a column of numbers or bytes; a phone would have lost its plus."""
    types = load_arrow().types
    kind = field.type.value_type if types.is_dictionary(field.type) else field.type
    if _is_string(kind) or types.is_null(kind):
        return
    hint = "Export it as a string: numbers lose a + and leading zeros."
    if "binary" in str(kind):
        hint = "Cast it to a string. Encode the bytes of a hash in base64 or hex."
    prefix = f"{name}: the" if name else "The"
    raise InputError(
        f"{prefix} column '{printable(field.name)}' is not text, but {kind}.",
        hint=hint,
    )


def _is_string(kind: Any) -> bool:
    types = load_arrow().types
    return bool(
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_string_view(kind)
    )


def writing(call: Callable[[], T], column: str | None = None) -> T:
    """Wrap a call that writes, since Arrow's error texts might show data."""
    # The others come from values that Python types cannot represent.
    failures = (load_arrow().ArrowException, ValueError, TypeError, OverflowError)
    try:
        return attempt("The output cannot be written", call)
    except failures:
        pass
    what = "rows" if column is None else f"column '{printable(column)}'"
    raise InputError(
        f"The {what} cannot be written: the file format does not support "
        f"{'their types' if column is None else 'its type'}.",
        hint="Drop or cast the columns that are neither text nor numbers.",
    )


# --- Reading --------------------------------------------------------------------------


@attrs.frozen(repr=False, eq=False)
class ArrowRows:
    """Some rows of a record batch, and the indexes of the columns to read."""

    batch: Any
    _wanted: Mapping[int | str, int]
    _null: str | None

    @property
    def count(self) -> int:
        """The number of rows."""
        return int(self.batch.num_rows)

    def values(self, column: int | str) -> list[str]:
        """List the values of an identifier column; see TextRows."""
        missing = (None, self._null)
        return ["" if one in missing else one for one in self.key_texts(column)]

    def key_texts(self, key: int | str) -> list[str | None]:
        """List the values of a key; see :meth:`texts`."""
        index = self._wanted[key]
        name = self.batch.schema.names[index]
        return writing(partial(_texts, self.batch.column(index)), name)

    def texts(self) -> list[list[str | None]]:
        """List the values of all columns as text, for CSV.

        Numbers and times are cast to strings by Arrow; bytes are base64; lists, structs
        and maps are JSON.
        """
        return self._each(_texts)

    def json_cells(self) -> list[list[str]]:
        """List the values of all columns as JSON; numbers stay numbers."""
        return self._each(_json_cells)

    def _each(self, cells: Callable[[Any], list[T]]) -> list[list[T]]:
        columns = zip(self.batch.schema.names, self.batch.columns, strict=True)
        return [writing(partial(cells, one), name) for name, one in columns]


def take_rows(column: Any, rows: Any) -> Any:
    """Return some rows of a column; Arrow itself can take neither views nor runs."""
    arrow, compute, kind = load_arrow(), load_arrow("pyarrow.compute"), column.type
    if arrow.types.is_run_end_encoded(kind):
        taken = take_rows(compute.run_end_decode(column), rows)
        return compute.run_end_encode(taken, kind.run_end_type)
    if arrow.types.is_string_view(kind):
        return take_rows(column.cast(arrow.large_string()), rows).cast(kind)
    if arrow.types.is_binary_view(kind):
        return take_rows(column.cast(arrow.large_binary()), rows).cast(kind)
    return column.take(rows)


def _decoded(array: Any) -> Any:
    """Return an array without dictionaries, runs or extension types."""
    arrow = load_arrow()
    types, extension = arrow.types, getattr(array.type, "extension_name", "")
    if types.is_dictionary(array.type):
        return _decoded(array.dictionary_decode())
    if types.is_run_end_encoded(array.type):
        return _decoded(load_arrow("pyarrow.compute").run_end_decode(array))
    if types.is_float16(array.type):
        return array.cast(arrow.float64())
    if extension == "arrow.uuid":
        texts = [None if one is None else str(one) for one in array.to_pylist()]
        return arrow.array(texts, arrow.string())
    if extension == "arrow.bool8":
        return array.storage.cast(arrow.bool_())
    return _decoded(array.storage) if hasattr(array, "storage") else array


def _values(array: Any) -> list[Any]:
    """Return the values of a column as Python's, but times as text at any depth.

    Python's times have no nanoseconds, and no years after 9999.
    """
    array = _decoded(array)
    arrow, kind = load_arrow(), array.type
    if _is_time(kind):
        return _cast_to_text(array)
    if arrow.types.is_map(kind):
        entry = arrow.struct([kind.key_field, kind.item_field])
        maps = _values(array.cast(arrow.list_(entry)))
        return [one and [list(pair.values()) for pair in one] for one in maps]
    if hasattr(array, "value_lengths"):  # lists of any kind, and views of lists
        items, lengths = iter(_values(array.flatten())), array.value_lengths()
        return [
            None if length is None else list(islice(items, length))
            for length in lengths.to_pylist()
        ]
    if arrow.types.is_struct(kind):
        return _structs(array)
    return list(array.to_pylist())


def _structs(array: Any) -> list[dict[str, Any] | None]:
    names = [field.name for field in array.type]
    if len(set(names)) < len(names):
        raise ValueError  # a dictionary would lose a value
    columns = map(_values, array.flatten())
    rows: list[dict[str, Any] | None] = [
        {} if valid else None for valid in array.is_valid().to_pylist()
    ]
    for name, values in zip(names, columns, strict=True):
        for row, value in zip(rows, values, strict=True):
            if row is not None:
                row[name] = value
    return rows


def _is_time(kind: Any) -> bool:
    types = load_arrow().types
    return bool(types.is_temporal(kind) and not types.is_interval(kind))


def _has_text(kind: Any) -> bool:
    """Return whether Arrow casts a type to strings."""
    types = load_arrow().types
    return _is_string(kind) or types.is_null(kind) or _is_number(kind) or _is_time(kind)


def _is_number(kind: Any) -> bool:
    """Return whether values of a type are numbers in JSON."""
    types = load_arrow().types
    return bool(
        types.is_integer(kind)
        or types.is_boolean(kind)
        or types.is_decimal(kind)
        or types.is_floating(kind)
    )


def _cast_to_text(array: Any) -> list[Any]:
    texts = array.cast(load_arrow().string())
    if _is_time(array.type):
        compute = load_arrow("pyarrow.compute")
        if compute.any(compute.starts_with(texts, "<value out of range")).as_py():
            raise ValueError  # a year after 32767 is not an error for Arrow
    return list(texts.to_pylist())


def _texts(array: Any) -> list[str | None]:
    """Return the values of a column as text."""
    array = _decoded(array)
    if _has_text(array.type):
        return _cast_to_text(array)
    return [
        one if one is None or one[0] != '"' else msgspec.json.decode(one)
        for one in (
            None if one is None else msgspec.json.encode(one).decode()
            for one in _values(array)
        )
    ]


def _json_cells(array: Any) -> list[str]:
    """Return the values of a column as JSON."""
    array = _decoded(array)
    values = _texts(array) if _has_text(array.type) else _values(array)
    if _is_number(array.type):
        # JSON has no NaN or infinity.
        odd = {None, "nan", "-nan", "inf", "-inf"}
        return ["null" if one in odd else str(one) for one in values]
    return [msgspec.json.encode(one).decode() for one in values]


def _int96_unit(open_as: Callable[..., Any], paths: list[str]) -> str | None:
    """Return the unit that represents all INT96 timestamps, if there is one.

    Arrow wraps timestamps that do not fit into 64 bits, and cuts fractions off.
    """
    files = [open_as(coerce_int96_timestamp_unit=unit) for unit in ("s", "us", "ns")]
    batches = [file.iter_batches(_BATCH_ROWS, columns=paths) for file in files]
    is_exact = {"us": True, "ns": True}
    for seconds, micros, nanos in zip(*batches, strict=True):
        if not _fits(seconds, micros.schema):
            return None
        if micros.cast(nanos.schema, safe=False) != nanos:
            is_exact["us"] = False
        if not _fits(micros, nanos.schema):
            is_exact["ns"] = False
    return next((unit for unit, exact in is_exact.items() if exact), None)


def _fits(batch: Any, schema: Any) -> bool:
    try:
        batch.cast(schema)
    except load_arrow().ArrowInvalid:
        return False
    return True


def _count_rows(file: Any) -> int:
    if hasattr(file, "count_rows"):
        return int(file.count_rows())
    # Before pyarrow 25, only by reading them.
    batches = map(file.get_batch, range(file.num_record_batches))
    return sum(batch.num_rows for batch in batches)


def _has_nested_dictionary(field: Any) -> bool:
    kind = field.type
    return bool(load_arrow().types.is_nested(kind) and "dictionary<" in str(kind))


class ArrowReader:
    """Reads a Parquet or Arrow file in record batches."""

    def __init__(
        self, stream: BinaryIO, *, name: str, options: FileFormatOptions
    ) -> None:
        """Read the schema."""
        load_arrow()
        self.name: str = name
        self.options: FileFormatOptions = options
        self._stream = stream
        file, schema, names, self._total = self._read(self._open)
        self.file: Any = file
        self.schema: Any = schema
        self.header: Sequence[str] = names
        self._size = stream.seek(0, 2)
        self._batches: Iterator[Any] = self._all_batches(0)
        self._loaded: Any = None
        self._at = 0
        self._rows = 0
        self._wanted: dict[int | str, int] = {}

    def _open(self) -> tuple[Any, Any, list[str], int]:
        """Open the file; read its schema, its columns and the number of rows."""
        if self.options.format is Format.PARQUET:
            parquet = self._open_parquet()
            schema, rows = parquet.schema_arrow, parquet.metadata.num_rows
            return parquet, schema, list(schema.names), int(rows)
        file = load_arrow("pyarrow.ipc").open_file(self._stream)
        return file, file.schema, list(file.schema.names), _count_rows(file)

    def _open_parquet(self) -> Any:
        """Open a Parquet file in the unit of its INT96 timestamps."""
        open_as = partial(
            load_arrow("pyarrow.parquet").ParquetFile,
            self._stream,
            buffer_size=_BUFFER_BYTES,
            pre_buffer=False,
        )
        file = open_as()
        paths = [one.path for one in _leaves(file) if one.physical_type == "INT96"]
        if not paths:
            return file
        unit = _int96_unit(open_as, paths)
        if unit is not None:
            return open_as(coerce_int96_timestamp_unit=unit)
        columns = ", ".join(f"'{printable(path)}'" for path in paths)
        raise InputError(
            f"{self.name} has INT96 timestamps that cannot be read exactly: {columns}.",
            hint="Write them as INT64 timestamps in microseconds.",
        )

    @property
    def bytes_read(self) -> int:
        """The approximate number of bytes read from the file."""
        return self._size * self._rows // self._total if self._total else 0

    def select(
        self,
        columns: Sequence[int],
        keys: Sequence[str] = (),
        added: Collection[str] = (),
    ) -> None:
        """Set the columns to read, before any rows are taken."""
        self._wanted = find_wanted(self.header, columns, keys, added, name=self.name)
        for index in columns:
            require_text(self.schema.field(index), name=self.name)

    def skip(self, rows: int) -> None:
        """Skip the rows that an earlier run has written."""
        self._batches = self._all_batches(rows)
        self._rows = rows
        self._loaded = None

    def _all_batches(self, skip: int) -> Iterator[Any]:
        """Yield the record batches after the first *skip* rows.

        They are validated, since damaged offsets or text could crash the process.
        """
        for batch in self._from_row(skip):
            if batch.num_rows:
                batch.validate(full=True)
                yield batch

    def _from_row(self, skip: int) -> Iterator[Any]:
        """Yield record batches; row groups entirely before *skip* are not read."""
        if self.options.format is Format.PARQUET:
            metadata = self.file.metadata
            group = 0
            while group < metadata.num_row_groups:
                rows = metadata.row_group(group).num_rows
                if rows > skip:
                    break
                skip -= rows
                group += 1
            batches = self._from_groups(range(group, metadata.num_row_groups))
        else:
            count = self.file.num_record_batches
            batches = (self.file.get_batch(at) for at in range(count))
        for batch in batches:
            yield batch.slice(skip)  # which is empty if all of it is before
            skip = max(0, skip - batch.num_rows)

    def _from_groups(self, groups: Sequence[int]) -> Iterator[Any]:
        """Yield the record batches of row groups."""
        runs = [groups]
        if any(map(_has_nested_dictionary, self.schema)):
            # Arrow cannot join the nested dictionaries of several row groups.
            runs = [[group] for group in groups]
        for run in runs:
            yield from self.file.iter_batches(_BATCH_ROWS, row_groups=run)

    def load(self) -> bool:
        """Read more into memory; return False at the end of the file. Blocks."""
        if self._loaded is None:
            self._loaded = self._read(lambda: next(self._batches, None))
            self._at = 0
        return self._loaded is not None

    def take(self, rows: int) -> ArrowRows | None:
        """Return at most *rows* loaded rows; None if there are none left."""
        batch = self._loaded
        if batch is None:
            return None
        part = batch.slice(self._at, rows)
        self._at += part.num_rows
        self._rows += part.num_rows
        if self._at >= batch.num_rows:
            self._loaded = None
        return ArrowRows(part, self._wanted, self.options.null)

    def no_rows(self) -> ArrowRows | None:
        """Return zero rows, which show whether the types can be converted.

        None if Arrow cannot make them: it has no empty arrays of unions.
        """
        try:
            columns = self.schema.empty_table().combine_chunks().columns
        except load_arrow().ArrowNotImplementedError:
            return None
        arrays = [column.chunk(0) for column in columns]
        batch = load_arrow().RecordBatch.from_arrays(arrays, schema=self.schema)
        return ArrowRows(batch, self._wanted, self.options.null)

    def _read(self, call: Callable[[], T]) -> T:
        """Wrap a call that reads, since Arrow's error texts might show data."""
        try:
            return call()
        except InputError:
            raise
        except Exception:  # noqa: BLE001, S110 - a damaged file raises anything
            pass
        what = str(self.options.format).capitalize()
        raise InputError(
            f"{self.name} cannot be read as {what}.",
            hint=f"Check that it is complete {what}, and that pyarrow supports it.",
        )

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


# --- Writing --------------------------------------------------------------------------


class ArrowOutput:
    """Writes a Parquet or Arrow file, which is complete only when it is closed.

    For resuming, it grows in parts, each a separate Arrow stream. They are not
    compressed, which would take twice as much CPU as writing them.
    """

    save_rows: int = 65_536

    def __init__(
        self,
        reader: Any,
        options: FileFormatOptions,
        part: Path,
        *,
        added: Mapping[str, Content],
        saved: Any = None,
        resumable: bool = True,
        disk: Disk = DISK,
    ) -> None:
        """Append after the *saved* parts."""
        self._arrow = load_arrow()
        self._format = options.format
        self._part = part
        self._parts = int(saved or 0)
        self._resumed = saved is not None
        self._resumable = resumable
        self._disk = disk
        self._batches: list[Any] = []
        self._file: Any = None
        self._writer: Any = None
        schema = self._input_schema(reader)
        self._width = len(schema)
        types = {
            Content.TEXT: self._arrow.string(),
            Content.INTEGER: self._arrow.int32(),
            Content.INSTANT: self._arrow.int64()
            if options.iso is False
            else self._arrow.timestamp("us", "UTC"),
        }
        for name, content in added.items():
            schema = schema.append(self._arrow.field(name, types[content]))
        self._schema = schema
        self._parquet: dict[str, Any] = {}
        if self._format is Format.PARQUET:
            self._parquet = _parquet_options(reader, schema, added)
        # The first array imports pandas, if installed. Here, in a thread, that does not
        # block the event loop.
        self._array([], self._arrow.string())

    def _input_schema(self, reader: Any) -> Any:
        """Return the input's columns; text columns are strings."""
        arrow = self._arrow
        if isinstance(reader, ArrowReader):
            if reader.options.format is self._format:
                return reader.schema
            fields = [
                one.with_type(one.type.value_type) if self._decodes(one.type) else one
                for one in reader.schema
            ]
            if self._format is Format.ARROW:
                nested = filter(_has_nested_dictionary, fields)
                _refuse_types(reader, {one.name: one.type for one in nested})
            return arrow.schema(fields, reader.schema.metadata)
        header = [] if reader is None else reader.header
        if reader is not None:
            refuse_repeated(header, name=reader.name)
            reader.convert_to("utf-8")
        return arrow.schema([arrow.field(one, arrow.string()) for one in header])

    @property
    def schema(self) -> Any:
        """The columns of the output."""
        return self._schema

    def _decodes(self, kind: Any) -> bool:
        """Return whether a column of dictionaries is written as plain values.

        Those of Parquet differ between row groups, which Arrow files do not support.
        Parquet has no dictionaries of nested values.
        """
        types = self._arrow.types
        return bool(
            types.is_dictionary(kind)
            and (self._format is Format.ARROW or types.is_nested(kind.value_type))
        )

    def format(
        self,
        rows: Any,
        columns: Mapping[str, Sequence[Any]],
        repeat: Sequence[int] | None = None,
    ) -> Any:
        """Make a record batch of rows and the appended columns."""
        fields = list(self._schema)
        arrays = [] if rows is None else self._input_arrays(rows, fields)
        if repeat is not None:
            indexes = self._arrow.array(repeat, self._arrow.int64())
            arrays = [writing(partial(take_rows, one, indexes)) for one in arrays]
        arrays += [
            self._array(columns[field.name], field.type)
            for field in fields[self._width :]
        ]
        return self._arrow.RecordBatch.from_arrays(arrays, schema=self._schema)

    def _input_arrays(self, rows: Any, fields: list[Any]) -> list[Any]:
        if isinstance(rows, ArrowRows):
            return [
                one if one.type == field.type else one.dictionary_decode()
                for one, field in zip(rows.batch.columns, fields, strict=False)
            ]
        string = self._arrow.string()
        return [
            writing(partial(self._arrow.array, texts, string)) for texts in rows.texts()
        ]

    def _array(self, cells: Sequence[Any], kind: Any) -> Any:
        """Make the array of an appended column."""
        if self._arrow.types.is_timestamp(kind):
            return self._arrow.array(cells, self._arrow.timestamp("s", "UTC")).cast(
                kind
            )
        return self._arrow.array(cells, kind)

    def write(self, *formatted: Any) -> None:
        """Write results of :meth:`format`. Blocks."""
        self._batches += formatted
        rows = sum(batch.num_rows for batch in self._batches)
        if not self._resumable and rows >= self.save_rows:
            self._flush()

    def _flush(self) -> None:
        """Write the collected rows as one row group."""
        if self._writer is None:
            self._file = writing(partial(_create, self._part))
            self._writer = writing(partial(self._open_writer, self._file))
        table = self._arrow.Table.from_batches(self._batches, self._schema)
        if table.num_rows:
            writing(partial(self._writer.write_table, table))
        self._batches.clear()

    def sync(self) -> int:
        """Sync everything; return the number of parts, to resume from. Blocks."""
        if self._resumable and self._batches:
            path = self._name(self._parts)
            writing(partial(self._write_part, path))
            self._batches.clear()
            self._parts += 1
        return self._parts

    def _name(self, number: int) -> Path:
        return self._part.with_name(f"{self._part.name}.{number:05}")

    def _write_part(self, path: Path) -> None:
        ipc = load_arrow("pyarrow.ipc")
        table = self._arrow.Table.from_batches(self._batches, self._schema)
        with _create(path) as file, ipc.new_stream(file, self._schema) as writer:
            writer.write_table(table)
        with path.open("rb") as written:
            sync_file(written.fileno(), "The output", disk=self._disk)

    def finish(self, target: Path | None) -> None:
        """Rename the complete output to its final name. Blocks."""
        assert target is not None  # noqa: S101 - such files are not streamed
        if self._resumable:
            self.sync()
            parts = list(map(self._name, range(self._parts)))
            if not (self._resumed and is_moved(parts, target)):
                part, disk = self._part, self._disk
                merge = partial(write_atomically, part=part, disk=disk)
                writing(partial(merge, target, self._merge))
            for part in parts:
                part.unlink(missing_ok=True)
            return
        self._flush()
        writing(self._writer.close)
        self.close()
        move_file(self._part, target, disk=self._disk)

    def _merge(self, path: Path) -> None:
        """Merge the parts into a private file, each as one row group."""
        ipc = load_arrow("pyarrow.ipc")
        with _create(path) as file, self._open_writer(file) as writer:
            for number in range(self._parts):
                with self._name(number).open("rb") as part:
                    writer.write_table(ipc.open_stream(part).read_all())

    def _open_writer(self, file: Any) -> Any:
        if self._format is Format.PARQUET:
            writer = load_arrow("pyarrow.parquet").ParquetWriter
            return writer(file, self._schema, **self._parquet)
        ipc = load_arrow("pyarrow.ipc")
        # An input file may extend its dictionaries between batches; then ours does too.
        options = ipc.IpcWriteOptions(emit_dictionary_deltas=True)
        return ipc.new_file(file, self._schema, options=options)

    def close(self) -> None:
        """Close open files; unsaved rows are dropped."""
        self._batches.clear()
        file, self._file, self._writer = self._file, None, None
        if file is not None:
            file.close()


def _create(path: Path) -> Any:
    """Create a private file, or empty that of a killed run; Arrow writes it itself.

    Each of its many small writes to a Python file would wait for the interpreter lock.
    """
    os.close(reopen_private(path, 0))
    return load_arrow().OSFile(os.fsencode(path), "wb")


def _parquet_options(
    reader: Any, schema: Any, added: Mapping[str, Content]
) -> dict[str, Any]:
    """Choose Parquet options like those of the input.

    Raises:
        InputError: If Parquet would lose the type of a column.
    """
    options: dict[str, Any] = {}
    is_arrow = isinstance(reader, ArrowReader)
    is_parquet = is_arrow and reader.options.format is Format.PARQUET
    before = _leaves(reader.file) if is_parquet else []
    option = "write_time_adjusted_to_utc"  # since pyarrow 23
    writer = load_arrow("pyarrow.parquet").ParquetWriter
    if option in signature(writer).parameters and is_parquet:
        zones = [str(leaf.logical_type) for leaf in before]
        options[option] = any("Time(isAdjustedToUTC=true" in one for one in zones)
    after = _written_leaves(reader, schema, options)
    _refuse_types(reader, _lost_types(before, after))
    # Raw UIDs hardly repeat, so a dictionary of them would be discarded.
    distinct = {name for name in added if name.upper() in ("UID", "PREV_UID")}
    options["use_dictionary"] = [
        leaf.path for leaf in after if leaf.path not in distinct
    ]
    if before and reader.file.metadata.num_row_groups:
        group = reader.file.metadata.row_group(0)
        codecs = [group.column(at).compression for at in range(len(before))]
        # The added columns are compressed like the first one.
        codecs += codecs[:1] * (len(after) - len(before))
        options["compression"] = {
            leaf.path: "NONE" if codec == "UNCOMPRESSED" else codec
            for leaf, codec in zip(after, codecs, strict=True)
        }
    return options


def _leaves(file: Any) -> list[Any]:
    """List the columns of a Parquet file; nested ones have several."""
    return [file.schema.column(at) for at in range(len(file.schema))]


def _written_leaves(reader: Any, schema: Any, options: Mapping[str, Any]) -> list[Any]:
    """Return the columns that would be written; reject those that cannot be."""
    parquet = load_arrow("pyarrow.parquet")

    def write(columns: Any) -> Any:
        sample = io.BytesIO()
        parquet.ParquetWriter(sample, columns, **options).close()
        return parquet.ParquetFile(sample)

    def fails(field: Any) -> bool:
        try:
            write(load_arrow().schema([field]))
        except (load_arrow().ArrowException, OSError):
            return True
        return False

    with suppress(load_arrow().ArrowException, OSError):
        return _leaves(write(schema))
    _refuse_types(reader, {one.name: one.type for one in schema if fails(one)})
    return writing(lambda: _leaves(write(schema)))


def _lost_types(before: list[Any], after: list[Any]) -> dict[str, Any]:
    """Return columns of types that Arrow does not know and would not write."""
    lost: dict[str, Any] = {}
    for leaf, written in zip(before, after, strict=False):
        types = (str(leaf.logical_type), str(written.logical_type))
        if types[0] not in ("None", types[1]) and types not in _EQUIVALENT:
            lost[leaf.path] = types[0]
    return lost


def _refuse_types(reader: Any, types: Mapping[str, Any]) -> None:
    if types:
        columns = [f"'{printable(name)}' ({kind})" for name, kind in types.items()]
        raise InputError(
            f"{reader.name} has columns whose types cannot be written: "
            f"{', '.join(columns)}.",
            hint="Cast or drop them, or write CSV or JSON lines.",
        )


# JSON is text, and is passed on as text.
_EQUIVALENT: Final = frozenset({("JSON", "String"), ("Null", "None")})
