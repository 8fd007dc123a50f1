"""``uid2 sandbox``: an operator with made-up data, for experiments."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import signal
from typing import TYPE_CHECKING, Annotated

import typer

from uid2_async.cli.failure import print_error
from uid2_async.cli.printing import print_lines
from uid2_async.errors import InputError
from uid2_async.models import IdentityScope

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from uid2_async.operator import Credentials, OperatorData

__all__ = ["run_sandbox"]


def run_sandbox(
    *,
    host: Annotated[
        str, typer.Option("--host", help="The address to listen at.")
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option("--port", min=0, max=65535, help="The port; 0 is a free one."),
    ] = 0,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="FOLDER",
            help="Load the operator with the files in FOLDER, not the built-in world.",
        ),
    ] = None,
    scope: Annotated[
        IdentityScope | None,
        typer.Option(
            "--scope",
            case_sensitive=False,
            help="Which system: UID2 (the default) or EUID; --data knows its own.",
        ),
    ] = None,
    console: Annotated[
        bool | None,
        typer.Option(
            "--console/--no-console",
            help="Serve a page at the URL that shows each call decrypted, and with "
            "which people are opted out, faults armed and the clock is set. On, but "
            "where --host can be reached from other machines.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Run a local operator to develop and test against.

    Prints its URL, at which a browser shows what it does, and for each API key a line
    to paste into a shell in which `uid2` or a program of yours is to use it.
    """
    from uid2_async.operator import OperatorData  # noqa: PLC0415 - --help need not wait

    if data is None:
        world = OperatorData.sample(scope=scope or IdentityScope.UID2)
    else:
        world = OperatorData.load(data)
        if scope not in (None, world.scope):
            raise InputError(f"The data in {data} are {world.scope}'s, not {scope}'s.")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(world, host, port, console))


async def _serve(
    data: OperatorData, host: str, port: int, console: bool | None
) -> None:
    """Answer until a signal comes."""
    from uid2_async.operator import LocalOperator  # noqa: PLC0415 - --help need not wait
    from uid2_async.operator.console.guard import is_loopback  # noqa: PLC0415 - as above

    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for one in (signal.SIGINT, signal.SIGTERM):
        # Windows has no such handlers; Ctrl-C interrupts there.
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(one, stopped.set)
    loopback = is_loopback(host)
    shown = loopback if console is None else console
    if not loopback:
        _warn(host, console=shown)
    async with LocalOperator(data, host=host, port=port, console=shown) as operator:
        print_lines([f"# {data.scope} operator at {operator.url} - Ctrl-C stops it"])
        if shown:
            print_lines([f"# Console, for a browser: {operator.url}/"])
        print_lines(
            _lines(data.scope, operator.url, operator.credentials, loopback=loopback)
        )
        await stopped.wait()
    print_error("The sandbox has stopped.")


def _warn(host: str, *, console: bool) -> None:
    """Warn of other machines."""
    print_error(
        f"warning: {host} can be reached from other machines, over plain http and "
        "with API keys that anyone can look up."
    )
    if console:
        print_error("warning: The console shows them every call, decrypted.")
    else:
        print_error("The console is off there; --console switches it on.")


def _lines(
    scope: IdentityScope,
    url: str,
    credentials: Mapping[str, Credentials],
    *,
    loopback: bool,
) -> Iterator[str]:
    """Write the environment of each API key as a line of shell."""
    from uid2_async.operator.console.snippets import environment  # noqa: PLC0415 - as above

    for name, one in credentials.items():
        settings = environment(scope, url, one, allow_http=not loopback)
        pairs = [f"{key}={shlex.quote(value)}" for key, value in settings.items()]
        yield ""
        yield f"# {name}: {', '.join(one.roles) or 'no roles'}"
        yield f"export {' '.join(pairs)}"
