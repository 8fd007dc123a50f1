"""CSV: rows read with their text unchanged, and written so that none is split.

Python before 3.13 does not quote a lone CR, and reads it as the end of a row.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Sequence
from io import BufferedIOBase
from itertools import repeat
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

import attrs

from uid2_async.bulk.paths import Content, FileFormatOptions
from uid2_async.bulk.text import (
    DAMAGE,
    MAX_FIELD_CHARS,
    MAX_LINE_CHARS,
    MAX_ROW_LINES,
    TextOutput,
    TextReader,
    TextRows,
    iso_texts,
    split_line_end,
)
from uid2_async.errors import InputError

if TYPE_CHECKING:
    from uid2_async.bulk.files import Reader, Rows

_UNFINISHED: Final = "unexpected end of data"
_TOO_LONG: Final = "the row is too long"
_QUOTE_HINT: Final = (
    'Quote a field that has a delimiter, a quote or a line end: "a, ""b"" c".'
)
_ESCAPE_HINT: Final = (
    'If a backslash escapes quotes, as Spark writes them, use `escape="\\\\"`.'
)
# Characters after a ' that spreadsheet_safe has added (from OWASP's list).
_FORMULAS: Final = ("=", "+", "-", "@", "\t", "\r")
_DEFUSED: Final = tuple(f"'{mark}" for mark in _FORMULAS)
# The number of steps parsed row by row after one that needed it.
_CAREFUL_STEPS: Final = 16
# The error texts of the csv module, and ours.
_CSV_ERRORS: Final = {
    _UNFINISHED: "a quote is opened here and never closed",
    "expected after": "text follows a closing quote",
    "new-line character": "there is a CR that does not end the line",
    _TOO_LONG: _TOO_LONG,
    "field larger": f"a field is longer than {MAX_FIELD_CHARS} characters",
}


def parse_csv(records: Iterable[str], options: FileFormatOptions) -> Any:
    """Return a csv reader of lines, or of rows that span several lines."""
    if options.escape is not None:
        translate = _translator(options.escape)
        records = map(translate, records)
    return csv.reader(
        records,
        delimiter=options.delimiter or ",",
        strict=True,
        skipinitialspace=options.skip_initial_space,
    )


def _translator(escape: str) -> Callable[[str], str]:
    """Make a function that turns escaped quotes into doubled quotes.

    Before a quote, two escapes mean one, as in Spark; elsewhere they are text. (With
    ``escapechar``, the csv module would drop them everywhere, and join lines.)
    """
    marks = re.compile(f'({re.escape(escape)}+)"')

    def double(found: re.Match[str]) -> str:
        half, odd = divmod(len(found[1]), 2)
        return escape * half + ('""' if odd else '"')

    return lambda line: marks.sub(double, line)


class CsvReader(TextReader):
    """Reads CSV with a header; skips blank lines and comments.

    Attributes:
        first: The header as it is in the file.
    """

    def __init__(
        self, stream: BufferedIOBase, options: FileFormatOptions, **more: Any
    ) -> None:
        """Read the header."""
        super().__init__(stream, options, **more)
        csv.field_size_limit(max(csv.field_size_limit(), MAX_FIELD_CHARS))
        # The number of loaded lines of a row whose end is not loaded.
        self._unfinished = 0
        # Up to which line an open quote leads to a fault, and its cause and hint.
        self._doomed_until = 0
        self._fault = ("", "")
        self._careful = 0
        if options.sep_line:
            self._read_sep_line()
        self._read_header()

    def _read_sep_line(self) -> None:
        while not self._lines and self.load():
            pass
        line = "".join(self._lines[:1])
        if len(line.rstrip("\r\n")) != len("sep=;") or not line.startswith("sep="):
            raise InputError(
                f"{self.name}: the first line is not sep= and a delimiter.",
                hint="Leave out `sep_line`.",
            )
        self._drop(1)
        delimiter = line[len("sep=")]
        self.options: FileFormatOptions = attrs.evolve(
            self.options, delimiter=delimiter
        )
        self.prefix: str = self.prefix + line

    def _read_header(self) -> None:
        """Read the first row that is not blank."""

        def is_blank(line: str) -> bool:
            return line in ("\n", "\r\n") or line.startswith(comment)

        comment = self.options.comment or "\n"
        self._on_bad_row, on_bad_row = None, self._on_bad_row
        while (rows := self.take(1)) is None or not rows.count:
            if rows is None and not self.load():
                raise InputError(
                    f"{self.name} is empty.", hint="It needs a row of column names."
                )
            self._skip_while(is_blank)
        self._on_bad_row = on_bad_row
        (first,) = rows.records
        self.first: str = first
        names = next(parse_csv([first], self.options))
        if self.options.strip_header:
            names = [name.strip() for name in names]
        self.header: Sequence[str] = names

    def take(self, rows: int) -> TextRows | None:
        """See :meth:`TextReader.take`."""
        before = self._line
        some = self._lines[:rows]
        if self.options.comment is not None:
            some = self._skip_comments(some, self.options.comment)
        if not some:
            return self._rows([], []) if self._line > before else None
        damaged = self._line < self._damaged_until
        if self._careful or damaged or not self.header:
            self._careful = max(0, self._careful - 1)
        elif (found := self._parse_lines(some)) is not None:
            self._drop(len(some))
            return self._rows(some, found)
        else:
            self._careful = _CAREFUL_STEPS
        return self._take_each(len(some))

    def _skip_comments(self, some: list[str], comment: str) -> list[str]:
        """Drop comments at the start of lines, and return those up to the next one."""
        marked = [at for at, one in enumerate(some) if one.startswith(comment)]
        skipped = 0
        while marked and marked[0] == skipped:
            skipped += 1
            del marked[0]
        self._drop(skipped)
        return some[skipped : marked[0]] if marked else some[skipped:]

    def _parse_lines(self, some: list[str]) -> list[list[str]] | None:
        """Parse lines that are one row each; return None if one is not.

        Lines without quotes are split in half the time of csv, and only as far as the
        wanted columns.
        """
        text, width = "".join(some), len(self.header)
        # A blank line is not a row, but has as many fields as a row of one column.
        is_plain = not ('"' in text or "\r" in text or len(text) > MAX_FIELD_CHARS)
        if not is_plain or width == 1 or self.options.skip_initial_space:
            try:
                found = list(parse_csv(some, self.options))
            except csv.Error:
                return None
        else:
            delimiter = self.options.delimiter or ","
            last = 1 + max(self._wanted.values(), default=-1)
            if last < width // 2:  # most fields are not needed
                counts = set(map(str.count, some, repeat(delimiter)))
                if counts != {width - 1}:
                    return None
                return [one.split(delimiter, last) if last else [] for one in some]
            lines = text.removesuffix("\n").split("\n")
            found = [one.split(delimiter) for one in lines]
        # As many rows as lines, so no line is blank and no row spans several lines.
        if len(found) != len(some) or {width} != set(map(len, found)):
            return None
        return found

    def _rows(
        self,
        records: list[str],
        found: list[list[str]],
    ) -> TextRows:
        """Make rows with the wanted values."""
        text = "".join(records)
        plain = "\r" not in text and text[-1:] == "\n"
        columns: dict[int | str, list[str]] = {}
        for column, at in self._wanted.items():
            values = self._without_null(list(map(itemgetter(at), found)))
            if isinstance(column, int) and "'" in text:  # identifiers
                values = [
                    one[1:] if one.startswith(_DEFUSED) else one for one in values
                ]
            columns[column] = values
        return TextRows(records, columns, self, ends_plainly=plain)

    def _take_each(self, lines: int) -> TextRows | None:
        """Parse the rows that begin in the next *lines*, one by one.

        A row whose end is not loaded is parsed again from its start, once twice as much
        is loaded.
        """
        if len(self._lines) < 2 * self._unfinished and not self._at_end:
            return None
        records: list[str] = []
        found: list[list[str]] = []
        used = 0
        while used < lines:
            used, after, error = self._parse_from(used, lines, records, found)
            if error:
                if not self._reject_line(error, used, after):
                    break
                used += 1
        self._drop(used)
        self._unfinished = 0 if used else len(self._lines)
        return self._rows(records, found) if used else None

    def _parse_from(
        self, used: int, lines: int, records: list[str], found: list[list[str]]
    ) -> tuple[int, int, str]:
        """Add rows from the line *used* on, until one is not CSV.

        Returns:
            The number of lines in rows, the number of lines read, and the error.
        """
        start = used
        end = used + 1 if self._is_doomed(used) else len(self._lines)
        # Slices would copy the rest of the lines after each bad one.
        some = map(self._lines.__getitem__, range(start, end))
        reader = parse_csv(some, self.options)
        try:
            for row in reader:
                after = start + reader.line_num
                if after - used > 1 and self._limit(used, after):
                    return used, after, _TOO_LONG
                record = "".join(self._lines[used:after])
                fault = self._find_fault(row, record, used, after)
                if fault is not None:
                    self._reject(*fault, record, used)
                elif row:
                    records.append(record)
                    found.append(row)
                used = after
                if used >= lines:
                    break
        except csv.Error as error:
            return used, start + reader.line_num, str(error)
        return used, used, ""

    def _is_doomed(self, index: int) -> bool:
        """Return whether a quote left open by this line is known to lead to a fault."""
        return self._line + index < self._doomed_until

    def _limit(self, used: int, after: int) -> int:
        """Return the end of the line with which a row gets too long, or 0.

        This, and not what happens to be loaded, ends a quote that is never closed.
        """
        chars = 0
        for at in range(used, after):
            chars += len(self._lines[at])
            if at > used and (chars > MAX_LINE_CHARS or at - used >= MAX_ROW_LINES):
                return at + 1
        return 0

    def _reject_line(self, error: str, used: int, after: int) -> bool:
        """Report the first line of a row that is not CSV; False if its end is missing.

        Its other lines are read as rows next. Each of them was within quotes, so a
        quote that one leaves open leads to the same fault, and its row is not parsed up
        to there again. That would take quadratic time.
        """
        is_doomed, is_open = self._is_doomed(used), _UNFINISHED in error
        limit = self._limit(used, after)
        if is_open and not (is_doomed or limit or self._at_end):
            return False
        if limit:
            error, after = _TOO_LONG, limit
        fault = self._fault
        if not (is_doomed and is_open):
            fault = self._explain(error, used, after)
        if not is_doomed:
            self._fault, self._doomed_until = fault, self._line + after - 1
        self._reject(*fault, self._lines[used], used)
        return True

    def _explain(self, error: str, used: int, after: int) -> tuple[str, str]:
        """Return the cause and hint for a row that the csv module cannot read."""
        ours = (ours for words, ours in _CSV_ERRORS.items() if words in error)
        cause = next(ours, "this is not CSV")
        if after - used > 1 and _UNFINISHED not in error and error != _TOO_LONG:
            cause += f" in line {self._line + after}"
        text = self._lines[used] + self._lines[after - 1]
        if '\\"' in text and self.options.escape is None:
            return cause, _ESCAPE_HINT
        if f'{self.options.delimiter} "' in text:
            hint = "If spaces follow the delimiters, use `skip_initial_space=True`."
            return cause, hint
        return cause, _QUOTE_HINT

    def _find_fault(
        self, row: list[str], record: str, used: int, after: int
    ) -> tuple[str, str] | None:
        """Return the cause and hint if a row has bad bytes or another width."""
        if self._line < self._damaged_until and DAMAGE.search(record):
            return self._encoding_fault
        width = len(self.header)
        if not row or len(row) == (width or len(row)):
            return None
        if len(row) == 1 and row[0].isspace():
            return "the line has only white space", "Remove the line."
        where = ""
        if after - used > 1:
            where = f" in lines {self._line + used + 1} to {self._line + after}"
        cause = f"{len(row)} fields{where}, but the header has {width}"
        return cause, _QUOTE_HINT

    def parse(self, records: list[str]) -> list[list[str]]:
        """List the values of all columns; see :meth:`TextRows.fields`."""
        columns = zip(*parse_csv(records, self.options), strict=True)
        return list(map(list, columns)) or [[] for _ in self.header]


# --- Writing --------------------------------------------------------------------------


class CsvOutput(TextOutput):
    """Writes CSV: rows and their appended columns.

    This runs for every row of a file, so it works by column, and searches a whole
    column for quotes at once.
    """

    def _set_format(self, reader: Reader | None, options: FileFormatOptions) -> bool:
        self._is_safe = options.spreadsheet_safe
        self._options = options
        self._delimiter = options.delimiter or ","
        keeps_text, first = False, ""
        if isinstance(reader, CsvReader):
            self._options = reader.options
            own = reader.options.delimiter or ","
            self._delimiter = options.delimiter or own
            keeps_text, first = self._delimiter == own, reader.first
        # A last row without a line end gets that of the header.
        self._end = "\r\n" if first.endswith("\r\n") else "\n"
        marks = (self._delimiter, '"', "\n", "\r", self._options.comment)
        self._marks = tuple(filter(None, marks))
        if self._options.skip_initial_space:
            self._marks += (" ",)
        return keeps_text

    def header(self, reader: Reader | None) -> str:
        """See :meth:`TextOutput.header`."""
        names = [self.cells([name]) for name in self.added]
        if self.keeps_text and isinstance(reader, CsvReader):
            return self.join([reader.first], names, plain=False)
        header = [] if reader is None else reader.header
        return self.lines([*(self.cells([name]) for name in header), *names])

    def input_cells(self, rows: Rows) -> list[list[str]]:
        """Format the fields of the input; the text of a missing value stays."""
        columns = rows.fields() if isinstance(rows, TextRows) else rows.texts()
        return list(map(self.cells, columns))

    def lines(self, cells: list[list[str]]) -> str:
        """Format rows of our own, given by column."""
        if len(cells) == 1:  # an empty row would be a blank line
            cells = [[cell or '""' for cell in column] for column in cells]
        rows = map(self._delimiter.join, zip(*cells, strict=True))
        return "".join([f"{row}\n" for row in rows])

    def _defuse(self, records: list[str]) -> list[str]:
        """Defuse formulas in the fields of rows; leave others unchanged."""
        found = parse_csv(
            [split_line_end(one, "")[0] for one in records], self._options
        )
        return [
            record
            if not any(map(str.startswith, fields, [_FORMULAS] * len(fields)))
            else self._delimiter.join(self.cells(fields))
            + split_line_end(record, self._end)[1]
            for record, fields in zip(records, found, strict=True)
        ]

    def cells(
        self, column: Sequence[Any], content: Content = Content.TEXT
    ) -> list[str]:
        """Format the fields of a column."""
        if content is Content.INSTANT and self._iso:
            column = iso_texts(column)
        elif content is not Content.TEXT:
            return ["" if one is None else str(one) for one in column]
        if not any(column):  # the usual case of PREV_UID, UNMAPPED and ERROR
            return [""] * len(column)
        cells = [one or "" for one in column]
        if self._is_safe:
            cells = [f"'{one}" if one.startswith(_FORMULAS) else one for one in cells]
        if self._needs_quotes("".join(cells)):
            return [
                self._quote(cell) if self._needs_quotes(cell) else cell
                for cell in cells
            ]
        return cells

    def _needs_quotes(self, text: str) -> bool:
        """Return whether a field with this text would be misread without quotes."""
        return any(mark in text for mark in self._marks)

    def _quote(self, cell: str) -> str:
        escape = self._options.escape
        if escape is None:
            return '"{}"'.format(cell.replace('"', '""'))
        marks = f'({re.escape(escape)}*)("|\\Z)'

        def write(found: re.Match[str]) -> str:
            return found[1] * 2 + (f'{escape}"' if found[2] else "")

        return f'"{re.sub(marks, write, cell)}"'

    def join(self, records: list[str], cells: list[list[str]], *, plain: bool) -> str:
        """Append fields to rows; *plain* rows are known to end only in LF."""
        if self._is_safe:
            records = self._defuse(records)
        if plain:
            bodies = [record[:-1] for record in records]
            rows = map(self._delimiter.join, zip(bodies, *cells, strict=True))
            return "\n".join([*rows, ""])
        split = [split_line_end(record, self._end) for record in records]
        bodies = [body for body, _ in split]
        rows = map(self._delimiter.join, zip(bodies, *cells, strict=True))
        return "".join([row + end for row, (_, end) in zip(rows, split, strict=True)])
