"""The options of commands that work on files: map, refresh, optout-status, estimate."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import attrs
import typer

from uid2_async.cli.options import CountryOption, Kind, SandboxOption, ScopeOption
from uid2_async.models import IdentityScope
from uid2_async.protocol.normalize import KINDS

__all__ = [
    "BadRowsOption",
    "BatchSizeOption",
    "ConcurrencyOption",
    "ConnectionOptions",
    "DeltaOption",
    "ForceOption",
    "FullOption",
    "IdentifierOptions",
    "InArgument",
    "JsonOption",
    "KeyOption",
    "OutArgument",
    "OutputOptions",
    "ProgressMode",
    "ReplaceOptions",
    "ResumeOptions",
    "SendOptions",
    "StateArgument",
    "StateOption",
    "TextOptions",
    "settings_of",
]

_ORDER = "uid2.identifiers"


class ProgressMode(StrEnum):
    """How progress is shown on stderr."""

    AUTO = "auto"
    PLAIN = "plain"
    JSON = "json"
    NONE = "none"


def _note(
    context: typer.Context, param: typer.CallbackParam, value: str | None
) -> str | None:
    """Remember which columns were named, in the order of the command line."""
    if value is not None:
        named = context.meta.setdefault(_ORDER, {})
        named[str(param.name).removesuffix("_column")] = value
    return value


def _identifier(kind: str) -> typer.models.OptionInfo:
    """Make the option that names the column of one kind of identifier."""
    words = kind.replace("_hash", " hashes" if kind.endswith("hash") else "")
    option: typer.models.OptionInfo = typer.Option(
        f"--{kind.replace('_', '-')}",
        metavar="COL",
        callback=_note,
        help=f"The column with {words if kind.endswith('hash') else words + 's'}; "
        "several columns may be named, the first that maps counts.",
    )
    return option


EmailOption = Annotated[str | None, _identifier("email")]
PhoneOption = Annotated[str | None, _identifier("phone")]
EmailHashOption = Annotated[str | None, _identifier("email_hash")]
PhoneHashOption = Annotated[str | None, _identifier("phone_hash")]

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
ColumnOption = Annotated[
    str | None,
    typer.Option(
        "--column",
        metavar="NAME",
        help="The column with the identifiers; INPUT by default.",
    ),
]
KindOption = Annotated[
    Kind | None,
    typer.Option(
        "--type",
        help="What the identifiers are; by default the column INPUT_TYPE tells it "
        "for each row.",
    ),
]
CountryColumnOption = Annotated[
    str | None,
    typer.Option(
        "--country-column",
        metavar="COL",
        help="The column with the country of each row's phone; --country is for the "
        "rows where it is empty.",
    ),
]
FormatOption = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="FORMAT",
        help="csv, jsonl, parquet or arrow; by default the name of the file tells.",
    ),
]
DelimiterOption = Annotated[
    str | None,
    typer.Option(
        "--delimiter",
        metavar="CHAR",
        help="The separator of CSV fields; \\t is a tab. Defaults to a comma, and to a "
        "tab for .tsv files.",
    ),
]
EncodingOption = Annotated[
    str, typer.Option("--encoding", help="The encoding of text files.")
]
EscapeOption = Annotated[
    str | None,
    typer.Option(
        "--escape",
        metavar="CHAR",
        help="The character before a quote in a quoted CSV field. Spark writes a "
        "backslash. By default quotes are doubled.",
    ),
]
CommentOption = Annotated[
    str | None,
    typer.Option(
        "--comment", metavar="TEXT", help="CSV lines that begin with TEXT are not rows."
    ),
]
SepLineOption = Annotated[
    bool,
    typer.Option(
        "--sep-line",
        help="The first line of the CSV file is sep=;, as Excel writes it.",
    ),
]
NullOption = Annotated[
    str | None,
    typer.Option(
        "--null", metavar="TEXT", help="The text of a missing value, such as NULL."
    ),
]
StripHeaderOption = Annotated[
    bool,
    typer.Option("--strip-header", help="Ignore white space around column names."),
]
SkipInitialSpaceOption = Annotated[
    bool,
    typer.Option("--skip-initial-space", help="Ignore blanks after CSV delimiters."),
]
BadRowsOption = Annotated[
    str | None,
    typer.Option(
        "--bad-rows",
        metavar="FILE",
        help="Collect rows that cannot be read in FILE, and map the others.",
    ),
]
PrecheckOption = Annotated[
    bool,
    typer.Option(
        "--precheck/--no-precheck",
        help="Read text files through before the first request, so that a malformed "
        "row is found before anything is sent.",
    ),
]
SharedFoldersOption = Annotated[
    bool,
    typer.Option(
        "--shared-folders",
        help="Accept output folders that other users can write to.",
    ),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors.")]
JsonOption = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print one JSON object at the end, on failure too: counts, exit_code, "
        "error, and whether the same command resumes.",
    ),
]
ProgressOption = Annotated[
    ProgressMode,
    typer.Option(
        "--progress",
        help="auto is a bar on a terminal, and elsewhere a line every 30 s on stderr.",
    ),
]
MetricsFileOption = Annotated[
    str | None,
    typer.Option(
        "--metrics-file",
        metavar="FILE.prom",
        help="Write how the job ended to FILE.prom, for the textfile collector of "
        "Prometheus' node exporter.",
    ),
]
JobDirOption = Annotated[
    str | None,
    typer.Option(
        "--job-dir",
        metavar="DIR",
        help="Where the job keeps what it needs to be resumed; by default beside OUT.",
    ),
]
RestartOption = Annotated[
    bool,
    typer.Option(
        "--restart", help="Discard an unfinished job and begin anew; a state stays."
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
StallOption = Annotated[
    float,
    typer.Option(
        "--stall-timeout",
        min=1,
        help="After how many seconds without a success the job stops.",
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
StateOption = Annotated[
    Path | None,
    typer.Option(
        "--state",
        metavar="FILE",
        help="Remember answers in FILE, and ask only about what is new or due.",
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


@attrs.frozen(kw_only=True)
class IdentifierOptions:
    """Where the identifiers are."""

    column: ColumnOption = None
    kind: KindOption = None
    email_column: EmailOption = None
    phone_column: PhoneOption = None
    email_hash_column: EmailHashOption = None
    phone_hash_column: PhoneHashOption = None
    country: CountryOption = None
    country_column: CountryColumnOption = None

    def settings(self, context: typer.Context) -> dict[str, Any]:
        """Give them as MapOptions takes them, in the order of the command line."""
        named: dict[str, str] = context.meta.get(_ORDER, {})
        return {
            "column": self.column,
            "type": self.kind,
            "identifiers": {
                kind: name for kind, name in named.items() if kind in KINDS
            },
            "country": self.country,
            "country_column": self.country_column,
        }


@attrs.frozen(kw_only=True)
class TextOptions:
    """How files are read and written; named as in FileFormatOptions."""

    file_format: FormatOption = None
    delimiter: DelimiterOption = None
    encoding: EncodingOption = "utf-8"
    escape: EscapeOption = None
    comment: CommentOption = None
    sep_line: SepLineOption = False
    null: NullOption = None
    strip_header: StripHeaderOption = False
    skip_initial_space: SkipInitialSpaceOption = False

    def settings(self) -> dict[str, Any]:
        """Return them as FileFormatOptions takes them."""
        settings = attrs.asdict(self)
        settings["format"] = settings.pop("file_format")
        if self.delimiter is not None:
            # As shells let it be written.
            settings["delimiter"] = self.delimiter.replace("\\t", "\t")
        return settings


@attrs.frozen(kw_only=True)
class SendOptions:
    """How requests are sent; named as in JobOptions."""

    batch_size: BatchSizeOption = None
    concurrency: ConcurrencyOption = 20
    stall_timeout: StallOption = 120.0


@attrs.frozen(kw_only=True)
class ReplaceOptions:
    """What may be replaced, and where; named as in JobOptions."""

    force: ForceOption = False
    shared_folders: SharedFoldersOption = False


@attrs.frozen(kw_only=True)
class ResumeOptions:
    """What is resumed, discarded and checked; named as in FileJobOptions."""

    job_dir: JobDirOption = None
    restart: RestartOption = False
    precheck: PrecheckOption = True
    bad_rows: BadRowsOption = None


def settings_of(
    *groups: SendOptions | ReplaceOptions | ResumeOptions,
) -> dict[str, Any]:
    """Return options as JobOptions, MapOptions and StatusOptions take them."""
    settings: dict[str, Any] = {}
    for group in groups:
        settings |= attrs.asdict(group)
    return settings


@attrs.frozen(kw_only=True)
class ConnectionOptions:
    """Which operator is asked."""

    sandbox: SandboxOption = False
    scope: ScopeOption = IdentityScope.UID2


@attrs.frozen(kw_only=True)
class OutputOptions:
    """What is said about the job, and where."""

    quiet: QuietOption = False
    as_json: JsonOption = False
    progress: ProgressOption = ProgressMode.AUTO
    metrics_file: MetricsFileOption = None
