"""The help of commands with many options: in panels, each with an example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from typer.core import TyperCommand

__all__ = ["PANELS", "PanelCommand"]

PANELS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "What: the columns of IN": (
        "uid2 map IN.csv OUT.csv --email mail --phone tel --country DE",
        (
            *("email_column", "phone_column", "email_hash_column"),
            *("phone_hash_column", "column", "kind", "country", "country_column"),
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
            *("file_format", "delimiter", "encoding", "escape", "comment"),
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
