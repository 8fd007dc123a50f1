"""The identifier columns of an input, and the columns added for the results.

UID, PREV_UID, REFRESH_FROM and UNMAPPED have the names and values of Snowflake's and
Databricks' functions. ERROR is ours: it marks failed requests, which are neither
opt-outs nor invalid identifiers. It also says why a phone is invalid, if that is known;
such a row has an UNMAPPED, but a failed row does not.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias

import attrs

from uid2_async._private import printable
from uid2_async._traceback import strip_tracebacks
from uid2_async.bulk.batches import STEP_ROWS, IdentityColumn
from uid2_async.bulk.outcomes import (
    ABSENT,
    InvalidPhone,
    MapFailure,
    OptOutRule,
    Outcome,
)
from uid2_async.bulk.paths import Content
from uid2_async.errors import InputError
from uid2_async.models import MapRow, UnmappedReason
from uid2_async.phones import PhoneFault, to_sendable
from uid2_async.protocol import base64

if TYPE_CHECKING:
    from uid2_async.bulk.files import Rows


# --- Finding columns ------------------------------------------------------------------

VALUE_NAME: Final = "INPUT"
KIND_NAME: Final = "INPUT_TYPE"

# An email address, a number of seven digits or more, or a hash, raw UID or token.
_DII: Final = re.compile(r"@|(\d[^\w]{0,2}){7}|[A-Za-z0-9+/_-]{43}")
_NTH: Final = re.compile(r"(?P<name>.+)#(?P<which>[1-9][0-9]{0,3}|\*)", re.DOTALL)


def refuse_taken(
    header: Iterable[str], added: Iterable[str], *, name: str = ""
) -> None:
    """Reject a *header* that has one of the columns to be *added*."""
    names = set(map(str.casefold, added))
    taken = [one for one in header if one.casefold() in names]
    if taken:
        raise InputError(
            f"{name or 'The input'} already has a column {_quoted(taken)}.",
            hint=f"Rename or drop it: {', '.join(added)} are appended.",
        )


def refuse_repeated(header: Sequence[str], *, name: str) -> None:
    """Reject duplicate names, which only CSV can have."""
    repeated = [one for one, count in Counter(header).items() if count > 1]
    if repeated:
        raise InputError(
            f"{name} has several columns {_quoted(repeated[:1])}.",
            hint="Rename them, or write CSV.",
        )


def refuse_unencodable(header: Iterable[str], encoding: str, *, name: str) -> None:
    """Reject names that cannot be written in the *encoding* of the output."""
    lost = [one for one in header if not is_encodable(one, encoding)]
    if lost:
        raise InputError(
            f"{name}: the name of the column {_quoted(lost)} cannot be written in "
            f"{encoding}.",
            hint='Rename it, or use `encoding="utf-8"`.',
        )


def is_encodable(text: str, encoding: str) -> bool:
    """Return whether *text* can be written in *encoding*."""
    try:
        text.encode(encoding)
    except UnicodeError:
        return False
    return True


def find_column(
    header: Sequence[str], column: str, *, name: str = "", hint: str = ""
) -> int:
    """Find a column by its name, ignoring case if there is no exact match.

    ``NAME#n`` means the n-th of several columns with the same name.
    """
    nth = _NTH.fullmatch(column)
    found = _find_all(header, column)
    if nth and nth["which"] != "*" and column not in header:
        number = int(nth["which"])
        found = _find_all(header, nth["name"])[number - 1 : number] or found
    if len(found) == 1:
        return found[0]
    raise _column_error(header, column, found, name=name, hint=hint)


def find_wanted(
    header: Sequence[str],
    columns: Iterable[int],
    keys: Iterable[str],
    added: Iterable[str],
    *,
    name: str,
) -> dict[int | str, int]:
    """Find the *keys*; return these and *columns* with their indexes."""
    refuse_taken(header, added, name=name)
    found: dict[int | str, int] = {index: index for index in columns}
    return found | {key: find_column(header, key, name=name) for key in keys}


def _find_all(header: Sequence[str], name: str) -> list[int]:
    """Find the columns with a name, ignoring case if there is no exact match."""
    exact = [at for at, one in enumerate(header) if one == name]
    folded = name.casefold()
    return exact or [at for at, one in enumerate(header) if one.casefold() == folded]


def _column_error(
    header: Sequence[str], column: str, found: list[int], *, name: str, hint: str
) -> InputError:
    where = f"{name}: " if name else ""
    wanted = _quoted([column])
    if found:
        return InputError(
            f"{where}there are {len(found)} columns {wanted}.",
            hint=f"Choose one: '{printable(column)}#1' is the first. "
            f"'{printable(column)}#*' means all, in order of preference.",
        )
    if any(_DII.search(one) for one in header):
        # Listing the columns would show somebody's identity.
        return InputError(
            f"{where}there is no column {wanted}: the first row looks like data.",
            hint="Add a header row.",
        )
    return InputError(
        f"{where}there is no column {wanted}. The columns are: {_quoted(header)}.",
        hint=_header_hint(header, column) or hint or "Spell its name as in the file.",
    )


def _header_hint(header: Sequence[str], column: str) -> str:
    """Explain a strange header, if possible."""
    first = header[0] if header else ""
    if first.lstrip().startswith(("{", "[{")):
        return 'The file looks like JSON. Use `format="jsonl"`, one object per line.'
    if first.startswith("sep="):
        return (
            "The first line names the delimiter, as Excel writes it. "
            "Use `sep_line=True`."
        )
    if first.startswith("#"):
        return 'If the file begins with comments, use `comment="#"`.'
    if len(header) == 1 and any(mark in first for mark in ",;\t|"):
        return "The fields are separated by something else: use `delimiter`."
    folded = column.strip().casefold()
    if any(one.strip(' \t"').casefold() == folded for one in header):
        return (
            "There is white space around the name: use `strip_header=True`, and "
            "`skip_initial_space=True` if spaces follow the delimiters."
        )
    return ""


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"'{printable(name)}'" for name in names)


# --- Identifiers ----------------------------------------------------------------------

PHONE: Final = "phone"
"""The kind of phone numbers."""

# libphonenumber takes five times as long as everything else.
_PHONE_STEP_ROWS: Final = 50


# The hashes that a data warehouse makes from an empty or missing value.
_OF_NOTHING: Final = frozenset(
    text
    for one in (b"", b"null", b"NULL", b"nan", b"NaN", b"None")
    for digest in [sha256(one).digest()]
    for text in (digest.hex(), digest.hex().upper(), base64.encode_text(digest))
)
_EMAIL_ODDITIES: Final = (
    (re.compile("[\u200b-\u200f\u2060\ufeff\u00a0]"), "an invisible character"),
    (re.compile(r"[\t\r\n]"), "a tab or a line end"),
    (re.compile(r"mailto:|[<>\"()]", re.IGNORECASE), "more than an address"),
    (re.compile(r"\.\s*\Z"), "a dot at the end"),
)
# Each suspicious ASCII email, followed by a zero byte, contains one of these.
_EMAIL_MARKS: Final = ("\t", "\r", "\n", "<", ">", '"', "(", ")", ":", " ", ".\0")
# The number of invalid values per column that are examined for the reason.
_SAMPLES: Final = 1_000


@attrs.frozen
class IdentifierColumns:
    """Extracts the identifiers of some rows. Columns are given by their index.

    Attributes:
        columns: The kind and index of each column, in order of preference.
        kind_column: The column with the kind of each row, which replaces that of
            *columns*.
        country: The country of phone numbers in national format.
        country_column: The column with the country of each row, if it has one.
    """

    columns: Sequence[tuple[str, int]]
    kind_column: int | None = None
    country: str | None = None
    country_column: int | None = None

    @property
    def wanted(self) -> list[int]:
        """The columns to read."""
        others = (self.kind_column, self.country_column)
        indexes = [index for _, index in self.columns]
        return indexes + [one for one in others if one is not None]

    @property
    def is_national(self) -> bool:
        """Whether phone numbers are converted."""
        return self.country is not None or self.country_column is not None

    @property
    def step_rows(self) -> int:
        """The number of rows per step, so that a step takes less than 5 ms."""
        return _PHONE_STEP_ROWS if self.is_national else STEP_ROWS

    def identities(self, rows: Rows) -> list[IdentityColumn]:
        """List the identifiers of some rows, one list per column.

        Empty values and hashes of empty values are not identifiers.
        """
        kinds: list[str] | None = None
        if self.kind_column is not None:
            kinds = [one.strip().lower() for one in rows.values(self.kind_column)]
        found = []
        for kind, index in self.columns:
            values, nothing = rows.values(index), 0
            if not _OF_NOTHING.isdisjoint(values):
                nothing = sum(one in _OF_NOTHING for one in values)
                values = ["" if one in _OF_NOTHING else one for one in values]
            present = [one or None for one in values]
            column = IdentityColumn(kinds or kind, present, hashes_of_nothing=nothing)
            found.append(column)
        if self.is_national:
            return [self._with_phones(rows, column) for column in found]
        return found

    def _with_phones(self, rows: Rows, column: IdentityColumn) -> IdentityColumn:
        """Convert phones to E.164, as :func:`~uid2_async.phones.to_sendable` does."""
        kinds, countries = column.kinds, None
        if isinstance(kinds, str) and kinds != PHONE:
            return column
        if self.country_column is not None:
            countries = rows.values(self.country_column)
        values = list(column.values or ())
        faults: dict[int, PhoneFault] = {}
        for row, value in enumerate(values):
            kind = kinds if isinstance(kinds, str) else kinds[row]
            if value is None or kind != PHONE:
                continue
            country = "" if countries is None else countries[row].strip()
            found = to_sendable(value, country or self.country)
            if isinstance(found, PhoneFault):
                faults[row] = found
            else:
                values[row] = found
        return attrs.evolve(column, values=values, faults=faults)


class InputWarnings:
    """Counts suspicious patterns in the identifiers of an input.

    Only hashes of empty or missing values are left out. Others are sent unchanged.
    """

    def __init__(self, counts: Mapping[str, int] | None = None) -> None:
        """Continue from *counts*."""
        self.counts: Counter[str] = Counter(counts or {})
        self._diagnosed = 0

    def add(
        self,
        columns: Sequence[IdentityColumn],
        outcomes: Sequence[Sequence[Any]],
    ) -> None:
        """Count suspicious emails, and the reasons why hashes are invalid."""
        nothing = sum(column.hashes_of_nothing for column in columns)
        if nothing:
            from uid2_async.protocol.hash_spelling import HashSpelling  # noqa: PLC0415 - imports cryptography

            self.counts[str(HashSpelling.EMPTY_HASHED)] += nothing
        for column, found in zip(columns, outcomes, strict=True):
            values = column.values or ()
            for kind, rows in column.rows_by_kind() if values else ():
                if kind == "email":
                    is_whole = len(rows) == len(values)
                    some = values if is_whole else [values[row] for row in rows]
                    self._add_emails(list(filter(None, some)))
                elif kind.endswith("_hash"):
                    invalid = [
                        values[row]
                        for row in rows
                        if not found[row]
                        or getattr(found[row], "reason", None) == _INVALID
                    ]
                    self._add_hashes(invalid)

    def _add_emails(self, emails: Sequence[str]) -> None:
        """Count suspicious emails; a check of all at once usually finds none."""
        text = "\0".join([*emails, ""])
        if text.isascii() and not any(mark in text for mark in _EMAIL_MARKS):
            return
        for value in emails:
            for pattern, what in _EMAIL_ODDITIES:
                if pattern.search(value):
                    self.counts[f"email with {what}"] += 1

    def _add_hashes(self, values: Sequence[str | None]) -> None:
        """Count why the first invalid hashes of an input are invalid."""
        from uid2_async.protocol.hash_spelling import diagnose_hash  # noqa: PLC0415 - imports cryptography

        for value in values:
            if value and self._diagnosed < _SAMPLES:
                self._diagnosed += 1
                self.counts[str(diagnose_hash(value))] += 1


def find_identifiers(
    header: Sequence[str],
    *,
    column: str | None,
    kind: str | None,
    several: Mapping[str, str],
    kind_column: str | None = None,
    country: str | None = None,
    country_column: str | None = None,
    name: str = "",
) -> IdentifierColumns:
    """Find the identifier columns in *header*.

    If a name is repeated in the header, ``NAME#2`` is the second column, and ``NAME#*``
    means all, in order of preference.
    """
    if not header:  # JSON lines without rows
        return IdentifierColumns([(each, 0) for each in several or [kind or ""]])
    find = partial(find_column, header, name=name)
    countries = None
    if country_column is not None:
        hint = "Name the column with the countries: `country_column=NAME`."
        countries = find(country_column, hint=hint)
    if several or kind is not None:
        columns = []
        for each, given in (several or {kind or "": column or VALUE_NAME}).items():
            option = f'identifiers={{"{each}": COLUMN}}' if several else "column=COLUMN"
            hint = f"Use `{option}` with one of these columns."
            found = _find_every(header, given) or [find(given, hint=hint)]
            columns += [(each, index) for index in found]
        return IdentifierColumns(columns, None, country, countries)
    hint = f"Name the column with the identifiers: `column=NAME`, or {VALUE_NAME}."
    value = find(column or VALUE_NAME, hint=hint)
    hint = f"Pass `type` if all rows have the same type, or add a column {KIND_NAME}."
    kinds = find(kind_column or KIND_NAME, hint=hint)
    return IdentifierColumns([("", value)], kinds, country, countries)


def _find_every(header: Sequence[str], column: str) -> list[int]:
    """Find the columns that ``NAME#*`` stands for; none for other names."""
    nth = _NTH.fullmatch(column)
    if nth is None or nth["which"] != "*" or _find_all(header, column):
        return []
    return _find_all(header, nth["name"])


# --- Outcomes -------------------------------------------------------------------------

_OPTED_OUT: Final = UnmappedReason.OPTED_OUT.value
_INVALID: Final = UnmappedReason.INVALID_IDENTIFIER.value

Columns: TypeAlias = dict[str, list[Any]]


class RowStatus(StrEnum):
    """The status of a row."""

    MAPPED = "mapped"
    OPTED_OUT = "opted_out"
    INVALID = "invalid"
    EMPTY = "empty"
    OTHER = "other"
    FAILED = "failed"


_STATUSES: Final = {
    _OPTED_OUT: RowStatus.OPTED_OUT,
    _INVALID: RowStatus.INVALID,
    "invalid input type": RowStatus.INVALID,
}


def explain(outcome: Outcome) -> tuple[RowStatus, str | None, str | None]:
    """Return the status, UNMAPPED and ERROR of a row with this outcome."""
    if outcome.raw_uid is not None:
        return RowStatus.MAPPED, None, None
    if isinstance(outcome, MapFailure):
        return RowStatus.FAILED, None, outcome.code
    if outcome is ABSENT:
        return RowStatus.EMPTY, _INVALID.upper(), None
    reason = outcome.reason or UnmappedReason.UNKNOWN.value
    status = _STATUSES.get(reason, RowStatus.OTHER)
    return status, reason.upper(), getattr(outcome, "code", None)


def choose(outcomes: Sequence[Outcome], rule: OptOutRule) -> int:
    """Return the index of a row's outcome among those of its identifiers.

    If one failed, the row has failed: the next one cannot replace it, since the failed
    one may be an opt-out.
    """
    ranks = [_rank(one, rule) for one in outcomes]
    return ranks.index(min(ranks))


def _rank(outcome: Outcome, rule: OptOutRule) -> int:
    """Return the rank of an outcome among those of a row; the lowest one wins."""
    is_any = rule is OptOutRule.ANY
    if isinstance(outcome, MapFailure):
        return 1
    if outcome.mapped:
        return 2 if is_any else 1
    if outcome.reason == _OPTED_OUT:
        return 0 if is_any else 2
    if outcome is ABSENT:
        return 5
    return 3 if isinstance(outcome, InvalidPhone) else 4


_BLANK: Final = MapRow()


class OutcomeColumns:
    """Makes the columns appended to some rows."""

    def __init__(
        self,
        *,
        rule: OptOutRule = OptOutRule.ANY,
        explode: bool = False,
        snake_case: bool = False,
        buckets: bool = False,
        matched_type: bool = False,
    ) -> None:
        """Set the columns; *matched_type* is for rows with several identifiers."""
        self.status_counts: Counter[str] = Counter()
        self._rule = rule
        self._explode = explode
        self._buckets = buckets
        self._matched = matched_type
        shown = ["BUCKET_ID"] if buckets else ["PREV_UID", "REFRESH_FROM"]
        matched = ["MATCHED_TYPE"] if self._matched else []
        names = ["UID", *shown, "UNMAPPED", *matched, "ERROR"]
        self.contents: Mapping[str, Content] = {
            name.lower() if snake_case else name: (
                Content.INSTANT if name == "REFRESH_FROM" else Content.TEXT
            )
            for name in names
        }

    def make(
        self,
        outcomes: Sequence[Sequence[Outcome]],
        kinds: Sequence[str | Sequence[str]] = (),
    ) -> tuple[Columns, list[int] | None]:
        """Make the columns from the outcomes of each identifier, of these *kinds*.

        Returns:
            The columns, and the row index of each cell; None if there is one cell per
            row.
        """
        if len(outcomes) == 1 and not self._explode:
            return self._of_each(outcomes[0], None, kinds), None
        rows = list(zip(*outcomes, strict=True))
        if not self._explode:
            choices = [choose(row, self._rule) for row in rows]
            chosen = [row[at] for row, at in zip(rows, choices, strict=True)]
            return self._of_each(chosen, choices, kinds), None
        repeat: list[int] = []
        choices = []
        for number, row in enumerate(rows):
            present = [at for at, one in enumerate(row) if one is not ABSENT] or [0]
            repeat += [number] * len(present)
            choices += present
        chosen = [rows[at][choice] for at, choice in zip(repeat, choices, strict=True)]
        return self._of_each(chosen, choices, kinds), repeat

    def _of_each(
        self,
        outcomes: Sequence[Outcome],
        choices: Sequence[int] | None,
        kinds: Sequence[str | Sequence[str]],
    ) -> Columns:
        """Make the columns of rows with a chosen outcome.

        This runs for every row of a file, so it works by column and handles unmapped
        rows afterwards.
        """
        uids = [one.raw_uid for one in outcomes]
        rows: Sequence[Any] = outcomes
        if None in uids:
            rows = [
                _BLANK if uid is None else one
                for one, uid in zip(outcomes, uids, strict=True)
            ]
        middle: list[list[Any]]
        if self._buckets:
            middle = [[row.bucket_id for row in rows]]
        else:
            previous = [row.previous_raw_uid for row in rows]
            middle = [previous, [row.refresh_from_s for row in rows]]
        unmapped: list[str | None] = [None] * len(rows)
        errors: list[str | None] = [None] * len(rows)
        self.status_counts[RowStatus.MAPPED] += len(rows) - uids.count(None)
        for at, uid in enumerate(uids) if None in uids else ():
            if uid is None:
                status, unmapped[at], errors[at] = explain(outcomes[at])
                self.status_counts[status] += 1
        made = [uids, *middle, unmapped]
        if self._matched:
            made.append(
                [
                    None if uid is None else kinds[at]
                    for uid, at in zip(uids, choices or [0] * len(rows), strict=True)
                ]
            )
        return dict(zip(self.contents, [*made, errors], strict=True))


# --- Opt-out statuses -----------------------------------------------------------------

_STATUS_WORDS: Final = {
    RowStatus.MAPPED: "ok",
    RowStatus.OPTED_OUT: "opted_out",
    RowStatus.OTHER: "unverifiable",
    RowStatus.INVALID: "invalid",
    RowStatus.EMPTY: "invalid",
    RowStatus.FAILED: "failed",
}


def status_of_uid(outcome: Outcome) -> RowStatus:
    """Return the status of a raw UID: MAPPED is ok, OTHER is unverifiable."""
    if outcome.raw_uid is None:
        return explain(outcome)[0]
    # The operator cannot find these in its list (docs/protocol.md 2.7).
    from uid2_async.protocol.raw_uid import (  # noqa: PLC0415 - imports cryptography
        Environment,
        inspect_raw_uid,
    )

    info = inspect_raw_uid(outcome.raw_uid)
    if info is not None and info.environment in (Environment.INTEG, Environment.PROD):
        return RowStatus.OTHER
    return RowStatus.MAPPED


class StatusColumns:
    """Makes the STATUS column, or drops rows that must not be shared.

    Attributes:
        contents: The columns in order, and what each contains.
        status_counts: The number of rows by status: *mapped* is ok, *other* is
            unverifiable.
    """

    contents: ClassVar[Mapping[str, Content]] = {"STATUS": Content.TEXT}

    def __init__(self, *, drop: bool, allow_unverifiable: bool) -> None:
        """Set which rows to keep."""
        self.status_counts: Counter[str] = Counter()
        self._drop = drop
        self._kept = {RowStatus.MAPPED}
        if allow_unverifiable:
            self._kept.add(RowStatus.OTHER)

    def make(
        self,
        outcomes: Sequence[Sequence[Outcome]],
        kinds: Sequence[str | Sequence[str]] = (),  # noqa: ARG002 - all are raw UIDs
    ) -> tuple[Columns, list[int] | None]:
        """See :meth:`OutcomeColumns.make`; there is one raw UID per row."""
        (found,) = outcomes
        statuses = list(map(status_of_uid, found))
        self.status_counts.update(statuses)
        words = [_STATUS_WORDS[one] for one in statuses]
        if not self._drop:
            return {"STATUS": words}, None
        rows = [at for at, one in enumerate(statuses) if one in self._kept]
        return {"STATUS": [words[at] for at in rows]}, rows


RowFormatter: TypeAlias = OutcomeColumns | StatusColumns
"""Turns outcomes into added columns, and counts rows by status."""

strip_tracebacks(globals())
