"""The options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from uid2_async.models import IdentityScope

__all__ = [
    "CountryOption",
    "FileOption",
    "Kind",
    "KindOption",
    "SandboxOption",
    "ScopeOption",
]


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
FileOption = Annotated[
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
