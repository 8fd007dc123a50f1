"""Runs an operator in this process, for tests and experiments.

See docs/protocol.md 1 and 2.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from ipaddress import ip_address
from typing import Self

from aiohttp import web

from uid2_async._portal import Portal
from uid2_async._private import Unpicklable
from uid2_async._traceback import strip_tracebacks
from uid2_async.models import Identity, as_identity, datetime_from_ms
from uid2_async.operator.app import make_runner
from uid2_async.operator.console.console import Console, Guard
from uid2_async.operator.data import Credentials, OperatorData
from uid2_async.operator.indexes import DataIndex
from uid2_async.operator.state import Fault, OperatorState, RecordedCall

_ROLES = frozenset({"GENERATOR", "ID_READER", "MAPPER", "OPTOUT", "SHARER"})


class LocalOperator(Unpicklable):
    """An operator that answers like a real one, on a port of this machine.

    Use it as an async context manager, or with :meth:`in_thread` from sync code. All
    methods are thread-safe.

    Example:
        >>> async with LocalOperator() as operator:
        ...     key = operator.credentials["publisher"].api_key
    """

    def __init__(
        self,
        data: OperatorData | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        clock: Callable[[], datetime] | None = None,
        console: bool = False,
        allowed_hosts: Collection[str] = (),
        control_token: str = "",
    ) -> None:
        """Configure an operator. It starts listening when its block is entered.

        Args:
            data: The operator's data. Defaults to the sample data.
            host: The address to listen on.
            port: The port to listen on, or 0 for a free port.
            clock: Returns the current time, with a time zone. Defaults to the real
                time.
            console: Serve a page at ``/`` that shows the calls decrypted and controls
                the operator (docs/sandbox.md). A real operator answers 404 there.
                Everyone who can reach *host* can use the page.
            allowed_hosts: Other host names that clients of the console's API may use,
                such as that of a container.
            control_token: The token that requests under these names must send as
                ``Authorization: Bearer``.

        Raises:
            ConfigError: If a private key or an opt-out record in *data* is malformed.
        """
        self._state = OperatorState(clock)
        if data is None:
            data = OperatorData.sample(base=datetime_from_ms(self._state.now_ms()))
        self._index = DataIndex(data)
        guard = Guard(host, allowed_hosts=allowed_hosts, token=control_token)
        self._console = (
            Console(self._index, self._state, guard=guard) if console else None
        )
        self._host = host
        self._port = port
        self._runner: web.ServerRunner | None = None
        self._url: str | None = None

    # --- lifecycle --------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Start listening.

        Raises:
            OSError: If the address is in use.
            RuntimeError: If the operator is already running.
        """
        if self._runner is not None:
            raise RuntimeError("The operator is already running.")
        runner = make_runner(self._index, self._state, self._console)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, self._port).start()
        except BaseException:
            await runner.cleanup()
            raise
        self._runner = runner
        self._url = _url_of(self._host, runner.addresses[0][1])
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop listening and close all connections."""
        runner, self._runner, self._url = self._runner, None, None
        if runner is not None:
            await runner.cleanup()

    @classmethod
    @contextmanager
    def in_thread(
        cls,
        data: OperatorData | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        clock: Callable[[], datetime] | None = None,
        console: bool = False,
        allowed_hosts: Collection[str] = (),
        control_token: str = "",
    ) -> Iterator[Self]:
        """Run an operator in a thread with its own event loop.

        This is a sync context manager. Arguments and errors are those of the class.
        """
        operator = cls(
            data,
            host=host,
            port=port,
            clock=clock,
            console=console,
            allowed_hosts=allowed_hosts,
            control_token=control_token,
        )
        with Portal("uid2-operator") as portal:
            portal.open(operator)
            yield operator

    def __repr__(self) -> str:
        """Return the scope and the URL."""
        where = "stopped" if self._url is None else self._url
        return f"<LocalOperator {self.data.scope} {where}>"

    # --- what a client needs ----------------------------------------------------------

    @property
    def url(self) -> str:
        """The base URL, such as ``http://127.0.0.1:49152``.

        Raises:
            RuntimeError: If the operator is not listening.
        """
        if self._url is None:
            raise RuntimeError("The operator is not running: enter its block first.")
        return self._url

    @property
    def data(self) -> OperatorData:
        """The data that the operator was created with."""
        return self._index.data

    @property
    def credentials(self) -> Mapping[str, Credentials]:
        """API keys and secrets by role or name, such as ``publisher``."""
        return self.data.credentials

    @property
    def api_key(self) -> str:
        """The API key with the most roles. In the sample data, it is ``everything``."""
        return self._best.api_key

    @property
    def client_secret(self) -> str:
        """The client secret of :attr:`api_key`."""
        return self._best.client_secret

    @property
    def _best(self) -> Credentials:
        return max(
            self.credentials.values(), key=lambda one: len(_ROLES & {*one.roles})
        )

    # --- what a test needs ------------------------------------------------------------

    def opt_out(self, identity: Identity | str) -> None:
        """Opt *identity* out as of now. Test identities are not affected.

        Raises:
            InputError: If *identity* is not valid.
        """
        self._index.opt_out(as_identity(identity), self._state.now_ms())

    def opt_in(self, identity: Identity | str) -> None:
        """Undo an opt-out.

        Raises:
            InputError: If *identity* is not valid.
        """
        flh = self._index.first_level_hash(as_identity(identity))
        self._index.opt_outs.remove(flh)

    def fail_next(
        self, fault: Fault, times: int = 1, *, path: str | None = None
    ) -> None:
        """Inject *fault* into the next POST requests, after faults armed earlier.

        Args:
            fault: The fault to inject.
            times: The number of requests to affect.
            path: Affect only requests to this path, such as ``/v3/identity/map``.
                Defaults to all paths.

        Raises:
            InputError: If *times* is less than 1.
        """
        self._state.arm(fault, times=times, path=path)

    def advance(self, seconds: float) -> None:
        """Move the operator's clock forward by *seconds*.

        Raises:
            InputError: If the clock would leave the years 1 to 9999.
        """
        self._state.advance(seconds)

    @property
    def now(self) -> datetime:
        """The current time of the operator."""
        return datetime_from_ms(self._state.now_ms())

    @property
    def calls(self) -> list[RecordedCall]:
        """The answered requests, oldest first. Only the last 10,000 are kept."""
        return self._state.calls

    @property
    def most_in_flight(self) -> int:
        """The highest number of concurrent requests since the last reset."""
        return self._state.most_in_flight

    def reset(self) -> None:
        """Undo opt-outs, opt-ins and clock changes, and clear the calls and faults."""
        if self._console is not None:
            self._console.reset()
        else:
            self._state.reset()
            self._index.opt_outs.reset()


def _url_of(host: str, port: int) -> str:
    """Return the URL at which a client on this machine reaches *host*."""
    try:
        address = ip_address(host)
    except ValueError:
        return f"http://{host}:{port}"
    if address.version == 4:  # noqa: PLR2004 - the IP version
        return f"http://{'127.0.0.1' if address.is_unspecified else address}:{port}"
    return f"http://[{'::1' if address.is_unspecified else address}]:{port}"


strip_tracebacks(globals())
