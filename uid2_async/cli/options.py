"""The options that commands share. Each is declared once, with its help panel.

A job option is a field of an options class in :mod:`uid2_async.bulk`, with its type,
default and rules, and a declaration in one of the tables below.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from enum import StrEnum
from functools import partial, wraps
from typing import Annotated, Any, Final, get_type_hints

import attrs
import typer
from typer.core import TyperCommand
from typer.models import OptionInfo

from uid2_async.bulk.options import MAX_CONCURRENCY
from uid2_async.cli.output import reject_repeated
from uid2_async.errors import InputError
from uid2_async.models import IdentityScope

# --- panels ---------------------------------------------------------------------------

PANELS: Final = {
    "What: the columns of IN": (
        "uid2 map IN.csv OUT.csv --email mail --phone tel --country DE"
    ),
    "How: the state, the rules, the operator": (
        "uid2 map IN.csv OUT.csv --email mail --state people.db"
    ),
    "Output: files and messages": (
        "uid2 map IN.csv OUT.parquet --email mail --force --json"
    ),
    "Databases": (
        "uid2 map postgresql:///db OUT.csv --query 'SELECT mail FROM people'"
    ),
    "Speed": "uid2 map IN.csv OUT.csv --email mail --concurrency 5",
    "Formats: how files are written": (
        "uid2 map IN.txt OUT.csv --email mail --delimiter ';'"
    ),
}
"""The panels in order, each with an example."""

what_option: Callable[..., Any]
how_option: Callable[..., Any]
output_option: Callable[..., Any]
database_option: Callable[..., Any]
speed_option: Callable[..., Any]
format_option: Callable[..., Any]
what_option, how_option, output_option, database_option, speed_option, format_option = (
    partial(typer.Option, rich_help_panel=panel) for panel in PANELS
)


# Arguments and options with one of these are paths and names. A shell that expands an
# unset variable passes them empty, and an empty path means the current folder.
_NEVER_EMPTY: Final = {
    *("IN", "OUT", "[OUT]", "STATE", "FILE", "FILE.prom", "DIR", "FOLDER"),
    *("COL", "NAME", "SQL", "TABLE", "ADDRESS"),
}


class Command(TyperCommand):
    """A command that rejects empty paths and names, and can list options in panels."""

    in_panels = False

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the command line; reject repeated options, and names that are empty."""
        given = list(args)
        rest = super().parse_args(ctx, args)
        reject_repeated(self, ctx, given)
        parameter: Any
        for parameter in self.get_params(ctx):
            value = ctx.params.get(parameter.name or "")
            is_empty = value == "" or (isinstance(value, list | tuple) and "" in value)
            if not is_empty or ctx.resilient_parsing:
                continue
            if parameter.metavar in _NEVER_EMPTY:
                raise typer.BadParameter("it is empty.", ctx=ctx, param=parameter)
        return rest

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, the panels, and the options without a panel."""
        if not self.in_panels:
            super().format_options(ctx, formatter)
            return
        sections: dict[str, list[Any]] = {"Arguments": []}
        sections.update((title, []) for title in PANELS)
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            title = getattr(parameter, "rich_help_panel", None) or "Other options"
            if parameter.param_type_name == "argument":
                title = "Arguments"
            if record is not None:
                sections.setdefault(title, []).append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    if self.name == "map" and title in PANELS:
                        formatter.write_text(f"Example: {PANELS[title]}")
                    formatter.write_dl(records)


class PanelCommand(Command):
    """A command whose options are listed in panels."""

    in_panels = True


# --- options of several commands ------------------------------------------------------


class Kind(StrEnum):
    """What a value is."""

    EMAIL = "email"
    PHONE = "phone"
    EMAIL_HASH = "email_hash"
    PHONE_HASH = "phone_hash"


ScopeOption = Annotated[
    IdentityScope,
    how_option("--scope", case_sensitive=False, help="Which system: UID2 or EUID."),
]
SandboxOption = Annotated[
    bool,
    how_option(
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
    what_option(
        "--country",
        metavar="XX",
        help="Also accept phones in the national format of this country, such as DE.",
    ),
]
ForceOption = Annotated[
    bool, output_option("--force", help="Replace outputs that exist.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print a JSON object.")]
JobJsonOption = Annotated[
    bool,
    output_option(
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
    str | None,
    how_option(
        "--state",
        metavar="FILE",
        help="Keep results in FILE, and ask only about new or due identities.",
    ),
]
DeltaOption = Annotated[
    str | None,
    output_option(
        "--delta",
        metavar="FILE",
        help="Write the changes since the last delta to FILE, whose name sets the "
        "format; - is stdout. Needs a state.",
    ),
]
KeyOption = Annotated[
    list[str] | None,
    output_option(
        "--key",
        metavar="COL",
        help="An input column to include in the delta. Can be repeated.",
    ),
]
ConcurrencyOption = Annotated[
    int,
    speed_option(
        "--concurrency",
        min=1,
        max=MAX_CONCURRENCY,
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

    quiet: Annotated[
        bool, output_option("--quiet", "-q", help="Print only errors.")
    ] = False
    as_json: JobJsonOption = False
    progress: Annotated[
        ProgressMode,
        output_option(
            "--progress",
            help="auto: a bar on a terminal, otherwise a line on stderr every 30 s.",
        ),
    ] = ProgressMode.AUTO
    metrics_file: Annotated[
        str | None,
        output_option(
            "--metrics-file",
            metavar="FILE.prom",
            help="Write the result of the job to FILE.prom, for the textfile collector "
            "of the Prometheus node exporter.",
        ),
    ] = None


_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_DURATION: Final = re.compile(r"([0-9]{1,6})([smhd])", re.ASCII)


def parse_duration(text: str, option: str) -> timedelta:
    """Parse a duration such as 90s, 15m, 12h or 7d, which is the value of *option*."""
    found = _DURATION.fullmatch(text.strip().lower())
    if found is None:
        raise InputError(
            f"{option} is not a duration.",
            hint="Write a number and a unit (s, m, h or d), such as 12h.",
        )
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


# --- options of jobs, by the field of the class that has their defaults ---------------


def _identifier(kind: str, words: str) -> Any:
    option = what_option(
        f"--{kind.replace('_', '-')}",
        metavar="COL",
        help=f"The column with {words}. If you name columns of several types, the "
        "first identifier that maps counts.",
    )
    return Annotated[str | None, option]


IDENTIFIERS: Final[Mapping[str, Any]] = {
    "email_column": _identifier("email", "emails"),
    "phone_column": _identifier("phone", "phones"),
    "email_hash_column": _identifier("email_hash", "email hashes"),
    "phone_hash_column": _identifier("phone_hash", "phone hashes"),
    "column": what_option(
        "--column",
        metavar="NAME",
        help="The column with the identifiers. Defaults to INPUT.",
    ),
    "type": Annotated[
        Kind | None,
        what_option(
            "--type",
            help="The type of the identifiers. Defaults to the value of the INPUT_TYPE "
            "column of each row.",
        ),
    ],
    "country": CountryOption,
    "country_column": what_option(
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
        format_option(
            "--format",
            metavar="FORMAT",
            help="csv, jsonl, parquet or arrow. Defaults to the format that the file "
            "name shows.",
        ),
    ],
    "delimiter": format_option(
        "--delimiter",
        metavar="CHAR",
        callback=_read_tab,
        help="The separator of CSV fields; \\t is a tab. Defaults to a comma, and "
        "to a tab for .tsv files.",
    ),
    "encoding": format_option("--encoding", help="The encoding of text files."),
    "escape": format_option(
        "--escape",
        metavar="CHAR",
        help="The character before a quote in a quoted CSV field; Spark writes a "
        "backslash. By default, quotes are doubled.",
    ),
    "comment": format_option(
        "--comment", metavar="TEXT", help="Skip CSV lines that begin with TEXT."
    ),
    "sep_line": format_option(
        "--sep-line",
        help="The first CSV line is sep= and the delimiter, as Excel writes it.",
    ),
    "null": format_option(
        "--null",
        metavar="TEXT",
        help="The text that means a missing value, such as NULL.",
    ),
    "strip_header": format_option(
        "--strip-header", help="Ignore white space around column names."
    ),
    "skip_initial_space": format_option(
        "--skip-initial-space", help="Ignore spaces after CSV delimiters."
    ),
}
RULES: Final[Mapping[str, Any]] = {
    "spreadsheet_safe": output_option(
        "--spreadsheet-safe",
        help="Put ' before CSV fields that a spreadsheet would run as formulas. This "
        "changes data.",
    ),
    "names": output_option("--names", help="The spelling of the added columns."),
    "refresh_from": output_option(
        "--refresh-from",
        help="The format of REFRESH_FROM. Defaults to seconds since 1970, and to a "
        "timestamp in Parquet and Arrow.",
    ),
    "optout_rule": how_option(
        "--optout-rule",
        help="With several identifiers per row: any opts the person out if one of them "
        "is opted out; each treats them separately.",
    ),
    "explode": output_option("--explode", help="Write one row per identifier."),
    "api": how_option(
        "--api", help="The endpoint version. v2 works with salt buckets."
    ),
    "full": how_option(
        "--full",
        help="IN is the whole audience: the delta lists everybody else as REMOVED, "
        "except people who are only in other segments.",
    ),
    "segment": how_option(
        "--segment",
        help="With --full: the name of the audience, if the state has several. The "
        "others keep their people.",
    ),
}
SENDING: Final[Mapping[str, Any]] = {
    "batch_size": speed_option(
        "--batch-size",
        min=1,
        help="Identities per request. Operators allow up to 5,000.",
    ),
    "concurrency": ConcurrencyOption,
    "stall_timeout": speed_option(
        "--stall-timeout",
        min=1,
        help="Seconds without a successful request before the job is aborted.",
    ),
    "force": ForceOption,
    "shared_folders": output_option(
        "--shared-folders", help="Accept output folders that other users can write to."
    ),
}
RESUMING: Final[Mapping[str, Any]] = {
    "job_dir": Annotated[
        str | None,
        how_option(
            "--job-dir",
            metavar="DIR",
            help="The folder with the data for resuming the job. Defaults to a hidden "
            "folder next to OUT.",
        ),
    ],
    "restart": how_option(
        "--restart", help="Discard an unfinished job and start over. A state is kept."
    ),
    "precheck": speed_option(
        "--precheck/--no-precheck",
        help="Read text files completely before the first request, so that a malformed "
        "row is found before anything is sent.",
    ),
    "bad_rows": Annotated[
        str | None,
        output_option(
            "--bad-rows",
            metavar="FILE",
            help="Write rows that cannot be read to FILE, and map the others.",
        ),
    ],
}


# --- commands with shared options -----------------------------------------------------


def with_shared_options(
    owner: type | None = None, *tables: Mapping[str, Any], in_panels: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a command take options in groups, although typer needs each one declared.

    A parameter whose type is an attrs class stands for its fields, which are options.
    ``**options`` stands for the options of *tables* that the command does not declare.

    Args:
        owner: The class whose fields have the types and defaults for *tables*.
        tables: Declarations by field, with a type if it differs from that of the field.
            Names that are not fields have a type, and the default None.
        in_panels: Whether the help lists the options in panels.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(command, include_extras=True)
        groups = {name: hint for name, hint in hints.items() if attrs.has(hint)}
        parameters: dict[str, inspect.Parameter] = {}
        for name, parameter in inspect.signature(command).parameters.items():
            if name in groups:
                declared = get_type_hints(groups[name], include_extras=True)
                parameters |= _parameters(groups[name], declared)
            elif parameter.kind is not inspect.Parameter.VAR_KEYWORD:
                parameters[name] = parameter.replace(annotation=hints[name])
        for table in tables:
            assert owner is not None  # noqa: S101 - tables are about its fields
            parameters = {**parameters, **_parameters(owner, table), **parameters}

        @wraps(command)
        def flat(**given: Any) -> None:
            for name, group in groups.items():
                fields = attrs.fields_dict(group)
                given[name] = group(**{field: given.pop(field) for field in fields})
            command(**given)

        flat.__annotations__ = {one.name: one.annotation for one in parameters.values()}
        signature = inspect.Signature(list(parameters.values()))
        flat.__signature__ = signature  # type: ignore[attr-defined] # PEP 362
        kind = PanelCommand if in_panels else Command
        flat.command_class = kind  # type: ignore[attr-defined] # for the tree
        return flat

    return decorate


def _parameters(
    owner: type, options: Mapping[str, Any]
) -> dict[str, inspect.Parameter]:
    fields, types = attrs.fields_dict(owner), get_type_hints(owner)
    return {
        name: inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=fields[name].default if name in fields else None,
            annotation=Annotated[types[name], option]
            if isinstance(option, OptionInfo)
            else option,
        )
        for name, option in options.items()
    }
