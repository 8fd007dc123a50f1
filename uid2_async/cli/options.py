"""The options that commands share, each declared once and listed in a help panel.

A job option is a field of an options class in :mod:`uid2_async.bulk`, with its default
and rules, and a declaration in one of the tables below.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias, get_type_hints

import attrs
import typer
from typer.core import TyperCommand
from typer.models import OptionInfo

from uid2_async.bulk.paths import FileFormatOptions
from uid2_async.models import IdentityScope

# --- options of several commands ------------------------------------------------------


class Kind(StrEnum):
    """What a value is."""

    EMAIL = "email"
    PHONE = "phone"
    EMAIL_HASH = "email_hash"
    PHONE_HASH = "phone_hash"


ScopeOption = Annotated[
    IdentityScope,
    typer.Option("--scope", case_sensitive=False, help="Which system: UID2 or EUID."),
]
SandboxOption = Annotated[
    bool,
    typer.Option(
        "--sandbox",
        help="Use an embedded operator with made-up data instead of the "
        "configured one.",
    ),
]
KindOption = Annotated[
    Kind | None,
    typer.Option(
        "--type",
        help="The type of the values. By default, a leading + means a phone, and "
        "everything else is an email address.",
    ),
]
ValueFileOption = Annotated[
    str | None,
    typer.Option(
        "--file",
        metavar="FILE",
        help="Read values from FILE, one per line; - is stdin.",
    ),
]
CountryOption = Annotated[
    str | None,
    typer.Option(
        "--country",
        metavar="XX",
        help="Also accept phones in the national format of this country, such as DE.",
    ),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print a JSON object.")]
JobJsonOption = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print one JSON object at the end, also after a failure: counts, "
        "exit_code, error, and whether the same command would resume the job.",
    ),
]

InArgument = Annotated[
    str,
    typer.Argument(
        metavar="IN",
        help="A file (.csv, .jsonl, .parquet, .arrow; .csv.gz, .jsonl.gz), a folder or "
        "a pattern such as 'export/*.parquet'; a URL (s3://, gs://, az://, https://) "
        "or a Delta table; - is stdin.",
    ),
]
OutArgument = Annotated[
    str,
    typer.Argument(
        metavar="OUT",
        help="The file or folder to write, or its URL (s3://, gs://, az://); - is "
        "stdout.",
    ),
]
StateArgument = Annotated[
    str, typer.Argument(metavar="STATE", help="The state file that --state created.")
]
StateOption = Annotated[
    Path | None,
    typer.Option(
        "--state",
        metavar="FILE",
        help="Keep results in FILE, and ask only about new or due identities.",
    ),
]
DeltaOption = Annotated[
    str | None,
    typer.Option(
        "--delta",
        metavar="FILE",
        help="Write the changes since the last delta to FILE, whose name sets the "
        "format; - is stdout. Requires --state.",
    ),
]
KeyOption = Annotated[
    list[str] | None,
    typer.Option(
        "--key",
        metavar="COL",
        help="An input column to include in the delta. Can be repeated.",
    ),
]
FullOption = Annotated[
    bool,
    typer.Option(
        "--full",
        help="IN is the whole audience: the delta lists everybody else as REMOVED.",
    ),
]
BatchSizeOption = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        min=1,
        help="Identities per request. Operators allow up to 5,000.",
    ),
]
ConcurrencyOption = Annotated[
    int,
    typer.Option(
        "--concurrency",
        min=1,
        help="The maximum number of requests in flight. Operators allow up to 20.",
    ),
]


class ProgressMode(StrEnum):
    """How progress is shown on stderr."""

    AUTO = "auto"
    PLAIN = "plain"
    JSON = "json"
    NONE = "none"


@attrs.frozen(kw_only=True)
class OutputOptions:
    """What to report about a job, and where. Each field is an option."""

    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors.")] = (
        False
    )
    as_json: JobJsonOption = False
    progress: Annotated[
        ProgressMode,
        typer.Option(
            "--progress",
            help="auto: a bar on a terminal, otherwise a line on stderr every 30 s.",
        ),
    ] = ProgressMode.AUTO
    metrics_file: Annotated[
        str | None,
        typer.Option(
            "--metrics-file",
            metavar="FILE.prom",
            help="Write the result of the job to FILE.prom, for the textfile collector "
            "of the Prometheus node exporter.",
        ),
    ] = None


_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_DURATION: Final = re.compile(r"([0-9]{1,6})([smhd])", re.ASCII)


def parse_duration(text: str) -> timedelta:
    """Parse a duration such as 90s, 15m, 12h or 7d."""
    found = _DURATION.fullmatch(text.strip().lower())
    if found is None:
        raise typer.BadParameter(
            "a duration is a number and a unit (s, m, h or d), such as 12h"
        )
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


# --- options of jobs, by the field of the class that has their defaults ---------------

_IDENTIFIERS: Final = "uid2.identifiers"


def identifiers_of(context: typer.Context) -> dict[str, str]:
    """Return the identifier columns by type, in the order of the command line."""
    named: dict[str, str] = context.meta.get(_IDENTIFIERS, {})
    return named


def _identifier(kind: str, words: str) -> Any:
    """Declare the option for the column of one kind of identifier."""

    def note(context: typer.Context, value: str | None) -> str | None:
        if value is not None:
            context.meta.setdefault(_IDENTIFIERS, {})[kind] = value
        return value

    option = typer.Option(
        f"--{kind.replace('_', '-')}",
        metavar="COL",
        callback=note,
        help=f"The column with {words}. If you name several columns, the first "
        "identifier that maps counts.",
    )
    return Annotated[str | None, option]


IDENTIFIERS: Final[Mapping[str, Any]] = {
    "column": typer.Option(
        "--column",
        metavar="NAME",
        help="The column with the identifiers. Defaults to INPUT.",
    ),
    "type": Annotated[
        Kind | None,
        typer.Option(
            "--type",
            help="The type of the identifiers. Defaults to the value of the INPUT_TYPE "
            "column of each row.",
        ),
    ],
    "email_column": _identifier("email", "emails"),
    "phone_column": _identifier("phone", "phones"),
    "email_hash_column": _identifier("email_hash", "email hashes"),
    "phone_hash_column": _identifier("phone_hash", "phone hashes"),
    "country": CountryOption,
    "country_column": typer.Option(
        "--country-column",
        metavar="COL",
        help="The column with the country of each row's phone. If it is empty in "
        "a row, --country applies.",
    ),
}


def _read_tab(value: str | None) -> str | None:
    """Read a backslash and a t as a tab, which is hard to type in a shell."""
    return value and value.replace("\\t", "\t")


FORMATS: Final[Mapping[str, Any]] = {
    "format": Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="csv, jsonl, parquet or arrow. Defaults to the format that the file "
            "name shows.",
        ),
    ],
    "delimiter": typer.Option(
        "--delimiter",
        metavar="CHAR",
        callback=_read_tab,
        help="The separator of CSV fields; \\t is a tab. Defaults to a comma, and "
        "to a tab for .tsv files.",
    ),
    "encoding": typer.Option("--encoding", help="The encoding of text files."),
    "escape": typer.Option(
        "--escape",
        metavar="CHAR",
        help="The character before a quote in a quoted CSV field; Spark writes a "
        "backslash. By default, quotes are doubled.",
    ),
    "comment": typer.Option(
        "--comment", metavar="TEXT", help="Skip CSV lines that begin with TEXT."
    ),
    "sep_line": typer.Option(
        "--sep-line",
        help="The first CSV line is sep= and the delimiter, as Excel writes it.",
    ),
    "null": typer.Option(
        "--null",
        metavar="TEXT",
        help="The text that means a missing value, such as NULL.",
    ),
    "strip_header": typer.Option(
        "--strip-header", help="Ignore white space around column names."
    ),
    "skip_initial_space": typer.Option(
        "--skip-initial-space", help="Ignore spaces after CSV delimiters."
    ),
}
RULES: Final[Mapping[str, Any]] = {
    "spreadsheet_safe": typer.Option(
        "--spreadsheet-safe",
        help="Put ' before CSV fields that a spreadsheet would run as formulas. This "
        "changes data.",
    ),
    "names": typer.Option("--names", help="The spelling of the added columns."),
    "refresh_from": typer.Option(
        "--refresh-from",
        help="The format of REFRESH_FROM. Defaults to seconds since 1970, and to a "
        "timestamp in Parquet and Arrow.",
    ),
    "optout_rule": typer.Option(
        "--optout-rule",
        help="With several identifiers per row: any opts the person out if one of them "
        "is opted out; each treats them separately.",
    ),
    "explode": typer.Option("--explode", help="Write one row per identifier."),
    "api": typer.Option(
        "--api", help="The endpoint version. v2 works with salt buckets."
    ),
    "full": FullOption,
    "segment": typer.Option("--segment", help="With --full: the name of the audience."),
}
SENDING: Final[Mapping[str, Any]] = {
    "batch_size": BatchSizeOption,
    "concurrency": ConcurrencyOption,
    "stall_timeout": typer.Option(
        "--stall-timeout",
        min=1,
        help="Seconds without a successful request before the job is aborted.",
    ),
    "force": ForceOption,
    "shared_folders": typer.Option(
        "--shared-folders", help="Accept output folders that other users can write to."
    ),
}
RESUMING: Final[Mapping[str, Any]] = {
    "job_dir": Annotated[
        str | None,
        typer.Option(
            "--job-dir",
            metavar="DIR",
            help="The folder with the data for resuming the job. Defaults to a hidden "
            "folder next to OUT.",
        ),
    ],
    "restart": typer.Option(
        "--restart", help="Discard an unfinished job and start over. A state is kept."
    ),
    "precheck": typer.Option(
        "--precheck/--no-precheck",
        help="Read text files completely before the first request, so that a malformed "
        "row is found before anything is sent.",
    ),
    "bad_rows": Annotated[
        str | None,
        typer.Option(
            "--bad-rows",
            metavar="FILE",
            help="Write rows that cannot be read to FILE, and map the others.",
        ),
    ],
}


@attrs.frozen
class OptionTable:
    """Marks a parameter that receives the options of one of the tables above as a dict.

    Attributes:
        owner: The options class, whose fields have the types and defaults.
        options: The declarations by field, with a type if it differs from that of the
            field. Names that are not fields go to the command.
    """

    owner: type
    options: Mapping[str, Any]

    def parameters(self) -> Iterator[inspect.Parameter]:
        """Make a parameter for each option."""
        fields, types = attrs.fields_dict(self.owner), get_type_hints(self.owner)
        for name, option in self.options.items():
            has_type = not isinstance(option, OptionInfo)
            yield inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=fields[name].default if name in fields else None,
                annotation=option if has_type else Annotated[types[name], option],
            )

    def collect(self, given: dict[str, Any]) -> dict[str, Any]:
        """Remove the options from *given*, and return those that *owner* has."""
        values = {name: given.pop(name) for name in self.options}
        fields = attrs.fields_dict(self.owner)
        return {name: value for name, value in values.items() if name in fields}


def with_shared_options(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take options in groups, although typer needs each one declared.

    A parameter stands for several options if an :class:`OptionTable` marks it, or if
    its type is an attrs class, of which each field is an option.
    """
    hints = get_type_hints(command, include_extras=True)
    parameters: list[inspect.Parameter] = []
    groups: dict[str, tuple[OptionTable, Callable[..., Any]]] = {}
    for parameter in inspect.signature(command).parameters.values():
        kind = hints[parameter.name]
        table = getattr(kind, "__metadata__", [None])[0]
        build: Callable[..., Any] = dict
        if attrs.has(kind):
            table = OptionTable(kind, get_type_hints(kind, include_extras=True))
            build = kind
        if isinstance(table, OptionTable):
            groups[parameter.name] = (table, build)
            parameters += table.parameters()
        else:
            parameters.append(parameter.replace(annotation=kind))

    @wraps(command)
    def flat(**given: Any) -> None:
        grouped = {
            name: build(**table.collect(given))
            for name, (table, build) in groups.items()
        }
        command(**grouped, **given)

    flat.__annotations__ = {one.name: one.annotation for one in parameters}
    flat.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined] # PEP 362
    return flat


FormatOptions: TypeAlias = Annotated[
    dict[str, Any], OptionTable(FileFormatOptions, FORMATS)
]


# --- panels ---------------------------------------------------------------------------

PANELS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "What: the columns of IN": (
        "uid2 map IN.csv OUT.csv --email mail --phone tel --country DE",
        (
            *("email_column", "phone_column", "email_hash_column"),
            *("phone_hash_column", "column", "type", "country", "country_column"),
        ),
    ),
    "How: the state, the rules, the operator": (
        "uid2 map IN.csv OUT.csv --email mail --state people.db",
        (
            *("state", "recheck_after", "optout_rule", "api", "full", "segment"),
            *("max_removed", "restart", "job_dir", "scope", "sandbox"),
        ),
    ),
    "Output: files and messages": (
        "uid2 map IN.csv OUT.parquet --email mail --force --json",
        (
            *("force", "delta", "keys", "names", "refresh_from", "explode"),
            *("spreadsheet_safe", "bad_rows", "shared_folders", "quiet", "as_json"),
            *("progress", "metrics_file"),
        ),
    ),
    "Databases": (
        "uid2 map postgresql:///db OUT.csv --query 'SELECT mail FROM people'",
        ("query", "to_table", "if_exists"),
    ),
    "Speed": (
        "uid2 map IN.csv OUT.csv --email mail --concurrency 5",
        ("batch_size", "concurrency", "stall_timeout", "precheck"),
    ),
    "Formats: how files are written": (
        "uid2 map IN.txt OUT.csv --email mail --delimiter ';'",
        (
            *("format", "delimiter", "encoding", "escape", "comment"),
            *("sep_line", "null", "strip_header", "skip_initial_space"),
        ),
    ),
}
"""For each panel: an example, and the parameters in order."""


class PanelCommand(TyperCommand):
    """A command whose options are listed in panels."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, the panels, and the options without a panel."""
        parameters = {one.name: one for one in self.get_params(ctx)}
        named = {name for _, names in PANELS.values() for name in names}
        kinds = {one.param_type_name for one in parameters.values()}
        for kind in sorted(kinds - {"option"}):
            rest = [one for one in parameters.values() if one.param_type_name == kind]
            _write(ctx, formatter, f"{kind.capitalize()}s", rest)
        for title, (example, names) in PANELS.items():
            panel = [parameters[name] for name in names if name in parameters]
            _write(ctx, formatter, title, panel, example if self.name == "map" else "")
        rest = [one for one in parameters.values() if one.name not in named]
        rest = [one for one in rest if one.param_type_name == "option"]
        _write(ctx, formatter, "Other options", rest)


def in_panels(command: Callable[..., None]) -> Callable[..., None]:
    """List the options of a command in panels of its help."""
    command.command_class = PanelCommand  # type: ignore[attr-defined] # for the tree
    return command


def _write(
    ctx: Any, formatter: Any, title: str, parameters: Sequence[Any], example: str = ""
) -> None:
    """Write a panel if it has parameters."""
    records = [one.get_help_record(ctx) for one in parameters]
    shown = [record for record in records if record is not None]
    if shown:
        with formatter.section(title):
            if example:
                formatter.write_text(f"Example: {example}")
            formatter.write_dl(shown)
