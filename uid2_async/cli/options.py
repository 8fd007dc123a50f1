"""The options that commands share: each is declared once, and has a panel of the help.

An option of a job is a field of its options class in :mod:`uid2_async.bulk`, which has
its default and its rules, and a declaration in one of the tables below.
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
        help="Use an embedded operator with made-up data, not the one that the "
        "environment names.",
    ),
]
KindOption = Annotated[
    Kind | None,
    typer.Option(
        "--type",
        help="What the value is; without it, a leading + means a phone and all else "
        "an e-mail.",
    ),
]
ValueFileOption = Annotated[
    str | None,
    typer.Option(
        "--file", metavar="FILE", help="Read values from FILE, one a line; - is stdin."
    ),
]
CountryOption = Annotated[
    str | None,
    typer.Option(
        "--country",
        metavar="XX",
        help="Take phones as they are written in this country, such as DE, and not in "
        "E.164 alone.",
    ),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print a JSON object.")]
JobJsonOption = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print one JSON object at the end, on failure too: counts, exit_code, "
        "error, and whether the same command resumes.",
    ),
]

InArgument = Annotated[
    str,
    typer.Argument(
        metavar="IN",
        help="A file (.csv, .jsonl, .parquet, .arrow; .csv.gz, .jsonl.gz), a folder or "
        "a pattern such as 'export/*.parquet'; its URL (s3://, gs://, az://, https://) "
        "or a Delta table; - is stdin.",
    ),
]
OutArgument = Annotated[
    str,
    typer.Argument(
        metavar="OUT",
        help="The file to write, or the folder, or its URL (s3://, gs://, az://); - is "
        "stdout.",
    ),
]
StateArgument = Annotated[
    str, typer.Argument(metavar="STATE", help="The state, as --state made it.")
]
StateOption = Annotated[
    Path | None,
    typer.Option(
        "--state",
        metavar="FILE",
        help="Remember answers in FILE, and ask only about what is new or due.",
    ),
]
DeltaOption = Annotated[
    str | None,
    typer.Option(
        "--delta",
        metavar="FILE",
        help="Write what has changed since the last delta, in the format that its name "
        "says; - is stdout. Requires --state.",
    ),
]
KeyOption = Annotated[
    list[str] | None,
    typer.Option(
        "--key",
        metavar="COL",
        help="A column of the input that the delta repeats. Can be repeated.",
    ),
]
FullOption = Annotated[
    bool,
    typer.Option(
        "--full",
        help="IN is the whole audience: the delta has a REMOVED for all others.",
    ),
]
BatchSizeOption = Annotated[
    int | None,
    typer.Option(
        "--batch-size", min=1, help="Identities a request; 5,000 is what is allowed."
    ),
]
ConcurrencyOption = Annotated[
    int,
    typer.Option(
        "--concurrency",
        min=1,
        help="Requests in flight at most; 20 is what is allowed.",
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
    """What is said about a job, and where. Each field is an option."""

    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors.")] = (
        False
    )
    as_json: JobJsonOption = False
    progress: Annotated[
        ProgressMode,
        typer.Option(
            "--progress",
            help="auto is a bar on a terminal, and elsewhere a line every 30 s on "
            "stderr.",
        ),
    ] = ProgressMode.AUTO
    metrics_file: Annotated[
        str | None,
        typer.Option(
            "--metrics-file",
            metavar="FILE.prom",
            help="Write how the job ended to FILE.prom, for the textfile collector of "
            "Prometheus' node exporter.",
        ),
    ] = None


_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_DURATION: Final = re.compile(r"([0-9]{1,6})([smhd])", re.ASCII)


def parse_duration(text: str) -> timedelta:
    """Parse a length of time as people write it: 90s, 15m, 12h, 7d.

    Raises:
        typer.BadParameter: If it is none.
    """
    found = _DURATION.fullmatch(text.strip().lower())
    if found is None:
        raise typer.BadParameter(
            "a number and its unit is needed: s, m, h or d, as in --help"
        )
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


# --- options of jobs, by the field of the class that has their defaults ---------------

_IDENTIFIERS: Final = "uid2.identifiers"


def identifiers_of(context: typer.Context) -> dict[str, str]:
    """Return the columns of identifiers by type, in the order of the command line."""
    named: dict[str, str] = context.meta.get(_IDENTIFIERS, {})
    return named


def _identifier(kind: str, words: str) -> Any:
    """Declare the option that names the column of one kind of identifier."""

    def note(context: typer.Context, value: str | None) -> str | None:
        if value is not None:
            context.meta.setdefault(_IDENTIFIERS, {})[kind] = value
        return value

    option = typer.Option(
        f"--{kind.replace('_', '-')}",
        metavar="COL",
        callback=note,
        help=f"The column with {words}; several columns may be named, the first that "
        "maps counts.",
    )
    return Annotated[str | None, option]


IDENTIFIERS: Final[Mapping[str, Any]] = {
    "column": typer.Option(
        "--column",
        metavar="NAME",
        help="The column with the identifiers; INPUT by default.",
    ),
    "type": Annotated[
        Kind | None,
        typer.Option(
            "--type",
            help="What the identifiers are; by default the column INPUT_TYPE tells it "
            "for each row.",
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
        help="The column with the country of each row's phone; --country is for "
        "the rows where it is empty.",
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
            help="csv, jsonl, parquet or arrow; by default the name of the file tells.",
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
        help="The character before a quote in a quoted CSV field. Spark writes a "
        "backslash. By default quotes are doubled.",
    ),
    "comment": typer.Option(
        "--comment", metavar="TEXT", help="CSV lines that begin with TEXT are not rows."
    ),
    "sep_line": typer.Option(
        "--sep-line",
        help="The first line of the CSV file is sep=;, as Excel writes it.",
    ),
    "null": typer.Option(
        "--null", metavar="TEXT", help="The text of a missing value, such as NULL."
    ),
    "strip_header": typer.Option(
        "--strip-header", help="Ignore white space around column names."
    ),
    "skip_initial_space": typer.Option(
        "--skip-initial-space", help="Ignore blanks after CSV delimiters."
    ),
}
RULES: Final[Mapping[str, Any]] = {
    "spreadsheet_safe": typer.Option(
        "--spreadsheet-safe",
        help="Put ' before CSV fields that a spreadsheet would run as formulas; "
        "this changes data.",
    ),
    "names": typer.Option("--names", help="How the added columns are called."),
    "refresh_from": typer.Option(
        "--refresh-from",
        help="How REFRESH_FROM is written; by default as seconds since 1970, in "
        "Parquet and Arrow as a timestamp.",
    ),
    "optout_rule": typer.Option(
        "--optout-rule",
        help="With several identifiers a row: is the person opted out if any of "
        "them is, or does each count for itself?",
    ),
    "explode": typer.Option("--explode", help="Write a row for each identifier."),
    "api": typer.Option("--api", help="v2: for operators that live by salt buckets."),
    "full": FullOption,
    "segment": typer.Option(
        "--segment", help="With --full: the name of that audience."
    ),
}
SENDING: Final[Mapping[str, Any]] = {
    "batch_size": BatchSizeOption,
    "concurrency": ConcurrencyOption,
    "stall_timeout": typer.Option(
        "--stall-timeout",
        min=1,
        help="After how many seconds without a success the job stops.",
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
            help="Where the job keeps what it needs to be resumed; by default beside "
            "OUT.",
        ),
    ],
    "restart": typer.Option(
        "--restart", help="Discard an unfinished job and begin anew; a state stays."
    ),
    "precheck": typer.Option(
        "--precheck/--no-precheck",
        help="Read text files through before the first request, so that a "
        "malformed row is found before anything is sent.",
    ),
    "bad_rows": Annotated[
        str | None,
        typer.Option(
            "--bad-rows",
            metavar="FILE",
            help="Collect rows that cannot be read in FILE, and map the others.",
        ),
    ],
}


@attrs.frozen
class OptionTable:
    """Marks a parameter that takes the options of one of the tables above, as a dict.

    Attributes:
        owner: The options class. Its fields have the types and the defaults.
        options: The declarations by field, with a type if it is not that of the field;
            what is not a field is for the command.
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
        """Take the options out of *given*, and return those that *owner* has."""
        values = {name: given.pop(name) for name in self.options}
        fields = attrs.fields_dict(self.owner)
        return {name: value for name, value in values.items() if name in fields}


def with_shared_options(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take options in groups: typer wants each of them named.

    A parameter stands for several options if an :class:`OptionTable` marks it, or if
    its type is an attrs class: each field is an option then.
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
"""Of each panel: an example, and the parameters in their order."""


class PanelCommand(TyperCommand):
    """A command whose options are listed in panels."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, the panels, and the options that are in none."""
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
    """Let the help of a command list its options in panels."""
    command.command_class = PanelCommand  # type: ignore[attr-defined] # for the tree
    return command


def _write(
    ctx: Any, formatter: Any, title: str, parameters: Sequence[Any], example: str = ""
) -> None:
    """Write a panel, if it has any parameter."""
    records = [one.get_help_record(ctx) for one in parameters]
    shown = [record for record in records if record is not None]
    if shown:
        with formatter.section(title):
            if example:
                formatter.write_text(f"Example: {example}")
            formatter.write_dl(shown)
