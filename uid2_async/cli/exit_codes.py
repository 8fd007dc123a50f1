"""The exit codes of all commands: one table for the help, the docs and the examples."""

from __future__ import annotations

from enum import IntEnum
from typing import Self

from uid2_async.errors import (
    AuthError,
    CallTimeoutError,
    ConfigError,
    InputError,
    RateLimitError,
    StalledError,
    UID2Error,
)


class ExitCode(IntEnum):
    """A command's exit code, what happened, and what a scheduler should do."""

    meaning: str
    action: str

    def __new__(cls, code: int, meaning: str, action: str) -> Self:
        """Create a code with its meaning and action."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning, member.action = meaning, action
        return member

    OK = 0, "Done.", "Continue."
    FAILURE = (
        1,
        "Failed: the operator, the network, the disk or the state.",
        "Alert an operator. The message says whether a retry can help.",
    )
    USAGE = 2, "Wrong usage, settings or input.", "Fix the command. Do not retry."
    INCOMPLETE = (
        3,
        # map, refresh, optout-status; and hash, inspect, encrypt, decrypt.
        "Done, but some rows failed, or some values are invalid.",
        "Continue, and warn. With a state, the next run asks about failed rows again.",
    )
    AUTH = 4, "The API key or secret was rejected.", "Fix the key. Do not retry."
    TRY_LATER = (
        5,
        "Rate limited, timed out or stalled.",
        "Retry later with the same command, which resumes the job.",
    )
    INTERRUPTED = (
        130,
        "Interrupted by Ctrl-C (SIGINT).",
        "Retry with the same command, which resumes the job.",
    )
    TERMINATED = (
        143,
        "Terminated by SIGTERM.",
        "Retry with the same command, which resumes the job.",
    )


def exit_code_of(error: UID2Error) -> ExitCode:
    """Return the exit code of a command that fails with *error*."""
    match error:
        case InputError() | ConfigError():
            return ExitCode.USAGE
        case AuthError():
            return ExitCode.AUTH
        case RateLimitError() | CallTimeoutError() | StalledError():
            return ExitCode.TRY_LATER
        case _:
            return ExitCode.FAILURE
