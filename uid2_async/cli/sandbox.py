"""``uid2 sandbox``: a local operator with made-up data."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import secrets
import shlex
import signal
import socket
import stat
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeAlias
from urllib.parse import urlsplit

import attrs
import typer

from uid2_async import operator
from uid2_async._private import access_logger
from uid2_async.cli.options import with_shared_options
from uid2_async.cli.output import print_error, print_json, print_lines, print_message
from uid2_async.errors import InputError
from uid2_async.models import IdentityScope

if TYPE_CHECKING:
    from uid2_async.operator import LocalOperator, OperatorData

_TOKEN_VARIABLE: Final = "UID2_SANDBOX_TOKEN"  # noqa: S105 - a name


_HOST_NAME: Final = re.compile(
    r"(?=.{1,253}$)[\w:-]{1,63}(\.[\w:-]{1,63})*\.?|\[[\w:.%]+\]", re.ASCII
)

AccessLog: TypeAlias = Literal["text", "json", "none"]
"""How requests are printed."""


class _AccessHandler(logging.Handler):
    """Prints the access log of the operator."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def emit(self, record: logging.LogRecord) -> None:
        """Print one request."""
        if not self._as_json:
            print_message("info", record.getMessage())
        elif isinstance(record.args, dict):
            time = datetime.fromtimestamp(record.created, UTC)
            print_json({"time": time, **record.args}, to_stderr=True)


@contextlib.contextmanager
def _access_logged(access_log: AccessLog) -> Iterator[None]:
    """Print the requests that arrive while the block runs."""
    handler = _AccessHandler(as_json=access_log == "json")
    if access_log != "none":
        access_logger.setLevel(logging.INFO)
        access_logger.addHandler(handler)
    try:
        yield
    finally:
        access_logger.removeHandler(handler)


@attrs.frozen(kw_only=True)
class Sandbox:
    """An operator that runs until a signal arrives. Each field is an option."""

    host: Annotated[
        str,
        typer.Option("--host", metavar="ADDRESS", help="The address to listen on."),
    ] = "127.0.0.1"
    port: Annotated[
        int,
        typer.Option("--port", min=0, max=65535, help="The port. 0 picks a free one."),
    ] = 0
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="FOLDER",
            help="Load the operator's data from the files in FOLDER instead of the "
            "built-in data.",
        ),
    ] = None
    scope: Annotated[
        IdentityScope | None,
        typer.Option(
            "--scope",
            case_sensitive=False,
            help="Which system: UID2 (the default) or EUID. --data sets its own.",
        ),
    ] = None
    allow_hosts: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host",
            metavar="NAME",
            help="A host name under which other containers reach the sandbox. Printed "
            "URLs use the first one, and the control API requires a token there. Can "
            "be repeated.",
        ),
    ] = None
    env_file: Annotated[
        str | None,
        typer.Option(
            "--env-file",
            metavar="FILE",
            help="Write the variables of the key 'everything' to FILE, for docker run "
            "--env-file. Only you can read it.",
        ),
    ] = None
    force: Annotated[
        bool,
        typer.Option("--force", help="Replace the file of --env-file if it exists."),
    ] = False
    console: Annotated[
        bool | None,
        typer.Option(
            "--console/--no-console",
            help="Serve a page at the URL that shows each call decrypted, and lets you "
            "opt people out, inject faults and set the clock. On by default, unless "
            "other machines can reach --host.",
            show_default=False,
        ),
    ] = None

    def load_data(self) -> OperatorData:
        """Return the operator's data."""
        if self.data is None:
            return operator.OperatorData.sample(scope=self.scope or IdentityScope.UID2)
        data = operator.OperatorData.load(self.data)
        if self.scope not in (None, data.scope):
            raise InputError(
                f"The data in {self.data} are {data.scope}'s, not {self.scope}'s."
            )
        return data

    async def serve(self) -> None:
        """Serve until a signal arrives."""
        from uid2_async.config import is_loopback  # noqa: PLC0415 - imports aiohttp

        data = self.load_data()
        _check_host("--host", self.host)
        for name in self.allow_hosts or ():
            _check_host("--allow-host", name)
        if self.env_file is not None:
            _check_env_file(self.env_file, force=self.force)
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        for one in (signal.SIGINT, signal.SIGTERM):
            # Windows has no such handlers, and Ctrl-C interrupts.
            with contextlib.suppress(NotImplementedError):
                loop.add_signal_handler(one, stopped.set)
        loopback = is_loopback(self.host)
        console = loopback if self.console is None else self.console
        if not loopback:
            _warn(self.host, console=console)
        names = self.allow_hosts or []
        known = os.environ.get(_TOKEN_VARIABLE, "")
        made = secrets.token_urlsafe() if names and not known else ""
        async with operator.LocalOperator(
            data,
            host=self.host,
            port=self.port,
            console=console,
            allowed_hosts=names,
            control_token=known or made,
        ) as local:
            lines = [f"# {data.scope} operator at {local.url} - Ctrl-C stops it"]
            if console:
                lines.append(f"# Console, for a browser: {local.url}/")
            if console and made:
                lines.append(f"# Token of the control API: {made}")
            print_lines([*lines, *self._credentials(local, loopback=loopback)])
            await stopped.wait()
        print_message("info", "The sandbox has stopped.")

    def _credentials(self, local: LocalOperator, *, loopback: bool) -> Iterator[str]:
        """List how to use each API key, and write the environment file."""
        from uid2_async.operator.console.views import environment  # noqa: PLC0415 - as above

        scope, url = local.data.scope, local.url
        if self.allow_hosts:
            url, loopback = f"http://{self.allow_hosts[0]}:{urlsplit(url).port}", False
        settings: Mapping[str, str] = {}
        for name, one in local.credentials.items():
            settings = environment(scope, url, one, allow_http=not loopback)
            pairs = [f"{key}={shlex.quote(value)}" for key, value in settings.items()]
            roles = ", ".join(one.roles) or "no roles"
            yield from ("", f"# {name}: {roles}", f"export {' '.join(pairs)}")
        if self.env_file is not None:
            # The last key of the built-in data has every role.
            _write_env_file(self.env_file, settings, force=self.force)


@with_shared_options()
def run_sandbox(
    *,
    sandbox: Sandbox,
    access_log: Annotated[
        AccessLog, typer.Option("--access-log", help="Print each request to stderr.")
    ] = "none",
) -> None:
    """Run a local operator to develop and test against.

    Prints its URL, whose page in a browser shows what it does. For each API key, it
    also prints a line to paste into a shell where 'uid2' or your program should use it.
    """
    try:
        with _access_logged(access_log), contextlib.suppress(KeyboardInterrupt):
            asyncio.run(sandbox.serve())
    except socket.gaierror:
        # The error does not say which name it is about.
        raise InputError(
            f"{sandbox.host} is not a known address or host name.",
            hint="Correct --host.",
        ) from None


def _check_host(option: str, name: str) -> None:
    """Reject what would make a URL that nobody can use."""
    if not _HOST_NAME.fullmatch(name):
        raise InputError(f"{name} is not a host name.", hint=f"Correct {option}.")


def _check_env_file(path: str, *, force: bool) -> None:
    """Reject an existing file before the sandbox starts. Writing reports the rest."""
    with contextlib.suppress(OSError):
        mode = Path(path).lstat().st_mode
        is_file = stat.S_ISREG(mode)
        if is_file and not force:
            hint = "Pass --force to replace it."
            raise InputError(f"{path} already exists.", hint=hint)
        if not (is_file or (force and stat.S_ISLNK(mode))):
            hint = "Choose another --env-file."
            raise InputError(f"{path} is not a file.", hint=hint)


def _write_env_file(path: str, settings: Mapping[str, str], *, force: bool) -> None:
    """Write variables as lines that Docker and compose read.

    The file is always a new one, so it is private from the first byte, and no link is
    followed.
    """
    try:
        if force:
            Path(path).unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        cause = error.strerror or type(error).__name__
        raise InputError(
            f"{path} cannot be written: {cause}.", hint="Choose another --env-file."
        ) from None
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.writelines(f"{name}={value}\n" for name, value in settings.items())


def _warn(host: str, *, console: bool) -> None:
    """Warn that other machines can connect."""
    print_error(
        f"warning: {host} can be reached from other machines, over plain HTTP and with "
        "API keys that anyone can look up."
    )
    if console:
        print_error("warning: The console shows them every call, decrypted.")
    else:
        print_error("The console is off there. Pass --console to turn it on.")
