"""Jobs on values or on the rows of a file: what `uid2 decrypt` and `encrypt` share."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import attrs
import msgspec
import typer

from uid2_async.bulk.paths import STDIO, FileFormatOptions
from uid2_async.cli.exit_codes import ExitCode
from uid2_async.cli.failure import print_error
from uid2_async.cli.row_files import Cells, RowFile, Shape, Work
from uid2_async.cli.values import read_lines
from uid2_async.errors import InputError

__all__ = [
    "ForceOption",
    "RowJob",
    "RowsArgument",
    "RowsOutArgument",
]

RowsArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="IN",
        help="A file with a header: .csv, .jsonl, .parquet or .arrow; - is stdin.",
    ),
]
RowsOutArgument = Annotated[
    str | None,
    typer.Argument(metavar="OUT", help="The file to write; stdout if left out or -."),
]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Replace the output file if it exists.")
]


@attrs.frozen(kw_only=True)
class RowJob:
    """What the user wants to be done.

    Attributes:
        option: The option that names values.
        values: Its values, or ``-`` for the lines of stdin.
        source: The input's path, or ``-``; None where *values* are meant.
        target: The output's path, or ``-``.
        options: How the files are written.
        force: Whether the output may be replaced.
        columns: The options that name columns, None where they are left out.
        shape: The columns.
        result: What a row becomes if it does not fail.
    """

    option: str
    values: Sequence[str] = attrs.field(repr=False)
    source: str | None
    target: str | None
    options: FileFormatOptions
    force: bool
    columns: Sequence[str | None]
    shape: Shape
    result: str

    def run(self, prepare: Callable[[], Work]) -> None:
        """Do it.

        Args:
            prepare: Gets the keys and gives what is to be done; called once all else is
                found to be in order. The last of the cells says why a row failed.

        Raises:
            InputError: If the arguments contradict each other, or the input is wrong.
            Exit: With 3, if rows failed.
        """
        outcomes: Counter[str] = Counter()

        def count(work: Work) -> Work:
            return lambda values: _counted(work(values), outcomes)

        if self.source is None:
            self._print_values(lambda: count(prepare()))
        else:
            self._rewrite(self.source, lambda: count(prepare()))
        if outcomes:
            told = ", ".join(f"{why} {n:,}" for why, n in sorted(outcomes.items()))
            print_error(f"Rows without {self.result}: {outcomes.total():,} ({told}).")
            raise typer.Exit(ExitCode.INCOMPLETE)

    def _print_values(self, prepare: Callable[[], Work]) -> None:
        """Print a JSON object for each value."""
        is_plain = self.options == FileFormatOptions()
        if not self.values:
            raise InputError(
                f"There is nothing to read: name a file, or values with {self.option}.",
                hint="IN and OUT are files, and - is a pipe.",
            )
        if any((not is_plain, self.force, *self.columns)):
            raise InputError(
                "--force and the options for columns and formats apply to files.",
                hint=f"Name IN instead of {self.option}, or leave them out.",
            )
        names = list(self.shape.added)
        encode = msgspec.json.Encoder().encode
        work: Work | None = None
        for value in read_lines(self.values, None):
            work = work or prepare()
            for cells in work([[value]]):
                row = dict(zip(names, cells, strict=True))
                sys.stdout.write(f"{encode(row).decode()}\n")

    def _rewrite(self, source: str, prepare: Callable[[], Work]) -> None:
        """Append columns to a file."""
        if self.values:
            raise InputError(f"Give either IN or {self.option}.")
        if source != STDIO and not Path(source).exists():
            # Not repeated: it may be a value, which is DII or a secret.
            raise InputError(
                "The file IN does not exist.",
                hint=f"Check the path. A single value is given with {self.option}.",
            )
        file = RowFile(
            source=source,
            target=self.target or STDIO,
            options=self.options,
            force=self.force,
            shape=self.shape,
        )
        file.rewrite(prepare)


def _counted(rows: Iterable[Cells], outcomes: Counter[str]) -> Iterator[Cells]:
    """Count the rows that failed, by why."""
    for cells in rows:
        if cells[-1] is not None:
            outcomes[str(cells[-1])] += 1
        yield cells
