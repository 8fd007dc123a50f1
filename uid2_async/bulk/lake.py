"""Delta Lake tables as inputs: the rows of the current version, never its bare files.

The files of a table also hold rows that were deleted or replaced. Its log says which
count, and deltalake reads that.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Any, TypeVar

import attrs

from uid2_async._printable import printable
from uid2_async._traceback import strip_tracebacks
from uid2_async.bulk.paths import InputIdentity, Remote
from uid2_async.bulk.private_files import DISK, Disk, attempt, open_private, replace
from uid2_async.errors import InputError, UID2Error

__all__ = ["DeltaTable", "write_batches"]

_T = TypeVar("_T")


def write_batches(reader: Any, copy: Path, *, disk: Disk = DISK) -> None:
    """Write the record batches of *reader* into an Arrow file, whole or not at all.

    Args:
        reader: Iterable of record batches, with the attribute ``schema``.
        copy: The file.
        disk: The system calls that may fail.

    Raises:
        JobError: If the disk is full or broken.
    """
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
    """A Delta Lake table, on this machine or in a store.

    A job reads the version that is current when it begins, also after it was
    interrupted.

    Attributes:
        location: The folder or the URL of the table.
    """

    is_pinned = True

    location: str

    @property
    def name(self) -> str:
        """See :class:`~uid2_async.bulk.paths.Remote`."""
        return printable(self.location)

    @property
    def path(self) -> PurePath:
        """See :class:`~uid2_async.bulk.paths.Remote`."""
        return PurePath("table.arrow")

    def identify(self) -> InputIdentity:
        """Return a name only: the copy of the job is what is mapped."""
        return InputIdentity(name=self.name, size=0, mtime_ns=0, digest="")

    def fetch(self, copy: Path, *, disk: Disk = DISK) -> None:
        """Copy the rows of the current version into an Arrow file. Blocks.

        Raises:
            InputError: If the extra is not installed, or the table cannot be read.
            JobError: If the disk is full or broken.
        """
        deltalake: Any = None
        arrow: Any = None
        with contextlib.suppress(ImportError):
            arrow = importlib.import_module("pyarrow")
            deltalake = importlib.import_module("deltalake")
        if deltalake is None:
            raise InputError(
                f"{self.name} is a Delta Lake table, and the extra 'lake' is not "
                "installed.",
                hint="pip install 'uid2-async[lake]'",
            )
        rows = self._read(lambda: _open_rows(deltalake, arrow, self.location))
        self._read(lambda: write_batches(rows, copy, disk=disk))

    def _read(self, call: Callable[[], _T]) -> _T:
        """Make one call; the text of a failure might show data or a credential."""
        try:
            return call()
        except UID2Error:
            raise
        except Exception as error:  # noqa: BLE001 - a Rust library raises anything
            kind = type(error).__name__
        raise InputError(
            f"The Delta Lake table {self.name} cannot be read ({kind}).",
            hint="Check access to it. If it uses a feature that deltalake lacks, write "
            "a snapshot as Parquet with Spark, and map that.",
        )


def _open_rows(deltalake: Any, arrow: Any, location: str) -> Any:
    """Return a reader of the rows of the current version."""
    table = deltalake.DeltaTable(location)
    rows = deltalake.QueryBuilder().register("source", table)
    stream = rows.execute("SELECT * FROM source")
    reader = arrow.RecordBatchReader.from_stream(stream)
    schema = _without_views(arrow, reader.schema)
    return arrow.RecordBatchReader.from_batches(
        schema, (batch.cast(schema) for batch in reader)
    )


def _without_views(arrow: Any, schema: Any) -> Any:
    """Return the schema with the types that other programs know.

    The query engine reads text into views, which are of use in memory only.
    """
    plain = {arrow.string_view(): arrow.string(), arrow.binary_view(): arrow.binary()}
    fields = [one.with_type(plain.get(one.type, one.type)) for one in schema]
    return arrow.schema(fields, schema.metadata)


strip_tracebacks(globals())
