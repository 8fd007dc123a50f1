"""The list of checks, each with those that it requires."""

from __future__ import annotations

import warnings
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from contextlib import AsyncExitStack
from typing import Final
from urllib.parse import SplitResult, urlsplit

from uid2_async._traceback import strip_tracebacks
from uid2_async.clock import Clock, system_clock
from uid2_async.doctor import network, operator, settings
from uid2_async.doctor.findings import CheckId, Finding, Outcome, skipped
from uid2_async.doctor.network import date_offset, request_without_key
from uid2_async.doctor.operator import OperatorProbe, Role
from uid2_async.environment import Settings, read_settings
from uid2_async.models import IdentityScope, ms_from_datetime
from uid2_async.transport import SessionPool, verifying_context

_PROXIES: Final = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


_PORTS: Final = {"https": 443, "http": 80}


async def examine(
    scope: IdentityScope,
    environ: Mapping[str, str],
    *,
    needed: Collection[Role] = (),
    timeout: float = 10.0,
    clock: Clock = system_clock,
) -> AsyncGenerator[Finding]:
    """Check everything between this program and an operator, in order.

    What is sent is harmless: it changes nothing and concerns nobody. The API key is
    sent to nothing that does not answer like an operator.

    Args:
        scope: UID2 or EUID.
        environ: The variables that name the operator, as ``UID2Client.from_env``
            reads them.
        needed: The roles that the API key must have.
        timeout: How long each step may take, in seconds.
        clock: Gives the time of this machine.

    Yields:
        One finding for each check, as soon as it is there; skipped ones too.
    """
    case = _Run(scope, environ, needed=needed, timeout=timeout, clock=clock)
    causes: dict[CheckId, CheckId] = {}
    async with case.resources:
        for check, (needs, run) in _CHECKS.items():
            cause = next((causes[one] for one in needs if one in causes), None)
            if cause is None:
                finding = await run(case)
                if finding.outcome is Outcome.FAILED:
                    causes[check] = check
            else:
                finding = skipped(check, f"It would tell nothing: {cause} failed.")
                causes[check] = cause
            yield finding


class _Run:
    """What has been found so far.

    Each step uses what those before it left here; the table of steps says which those
    are, and none runs without them.
    """

    settings: Settings
    url: SplitResult
    pool: SessionPool
    addresses: tuple[str, ...]
    address: str
    date_offset: float | None
    interview: OperatorProbe

    def __init__(
        self,
        scope: IdentityScope,
        environ: Mapping[str, str],
        *,
        needed: Collection[Role],
        timeout: float,
        clock: Clock,
    ) -> None:
        """Start with nothing."""
        self.scope = scope
        self.environ = environ
        self.needed = needed
        self.timeout = timeout
        self.clock = clock
        self.base_urls: tuple[str, ...] = ()
        self.resources: AsyncExitStack = AsyncExitStack()

    @property
    def port(self) -> int:
        """The port of the base URL."""
        return self.url.port or _PORTS[self.url.scheme]

    @property
    def proxies(self) -> list[str]:
        """The variables that name an HTTP proxy."""
        return [name for name in _PROXIES if self.environ.get(name)]

    async def examine_settings(self) -> Finding:
        """Read the variables."""
        finding = settings.check_settings(self.scope, self.environ)
        if finding.outcome is not Outcome.FAILED:
            self.settings = read_settings(self.scope, self.environ)
        return finding

    async def examine_base_url(self) -> Finding:
        """Judge the base URL, and get ready to use it."""
        base_url, allow_http = self.settings.base_url, self.settings.allow_http
        finding = settings.check_base_url(self.scope, base_url, allow_http=allow_http)
        if finding.outcome is not Outcome.FAILED:
            with warnings.catch_warnings():
                # What it warns of is in the finding.
                warnings.simplefilter("ignore")
                self.pool = SessionPool(base_url, allow_http=allow_http)
            await self.resources.enter_async_context(self.pool)
            self.base_urls = self.pool.base_urls
            self.url = urlsplit(self.base_urls[0])
        return finding

    async def examine_api_key_form(self) -> Finding:
        """Judge the API key by itself."""
        return settings.check_api_key_form(
            self.scope, self.settings.api_key, self.base_urls
        )

    async def examine_client_secret_form(self) -> Finding:
        """Judge the client secret by itself."""
        return settings.check_client_secret_form(self.settings.client_secret)

    async def examine_dns(self) -> Finding:
        """Look up the host."""
        host = self.url.hostname or ""
        found = await network.resolve(host, self.port, timeout=self.timeout)
        self.addresses = found.addresses
        return network.check_dns(found, self.proxies)

    async def examine_connection(self) -> Finding:
        """Connect to the port."""
        found = await network.tcp_connect(
            self.addresses, self.port, timeout=self.timeout
        )
        self.address = found.address
        return network.check_connection(found, self.proxies)

    async def examine_tls(self) -> Finding:
        """Begin TLS, where the base URL wants it."""
        found = None
        if self.url.scheme == "https":
            found = await network.tls_handshake(
                self.address,
                self.port,
                self.url.hostname or "",
                verifying_context(),
                timeout=self.timeout,
            )
        return network.check_tls(found, self.clock().timestamp())

    async def examine_operator(self) -> Finding:
        """See who answers, without showing the API key."""
        found = await request_without_key(self.pool, timeout=self.timeout)
        self.date_offset = date_offset(found, self.clock())
        return network.check_operator(found, https=self.url.scheme == "https")

    async def examine_api_key(self) -> Finding:
        """Ask for all roles."""
        self.interview = OperatorProbe(
            self.settings, self.pool, timeout=self.timeout, clock=self.clock
        )
        await self.interview.ask_for_roles()
        return operator.check_api_key(self.interview.answers)

    async def examine_roles(self) -> Finding:
        """Judge which of them were accepted."""
        return operator.check_roles(self.interview.answers, self.needed)

    async def examine_client_secret(self) -> Finding:
        """Judge whether what it sealed was opened."""
        return operator.check_client_secret(self.interview.answers)

    async def examine_clock(self) -> Finding:
        """Compare the clocks."""
        interview = self.interview
        if interview.refused_clock:
            await interview.find_offset(self.date_offset)
        return operator.check_clock(interview.offset, refused=interview.refused_clock)

    async def examine_test_identities(self) -> Finding:
        """See whether opt-outs are respected."""
        if operator.find_roles(self.interview.answers)[Role.GENERATOR]:
            await self.interview.ask_for_test_identities()
        return operator.check_test_identities(self.interview.answers)

    async def examine_keys(self) -> Finding:
        """Judge the keys that came."""
        now_ms = ms_from_datetime(self.clock())
        now_ms += round((self.interview.offset or 0.0) * 1000)
        return operator.check_keys(self.interview.answers, self.scope, now_ms)

    async def examine_latency(self) -> Finding:
        """Judge how long all calls took."""
        return network.check_latency(self.interview.seconds)


_Check = tuple[tuple[CheckId, ...], Callable[[_Run], Awaitable[Finding]]]


_CHECKS: Final[Mapping[CheckId, _Check]] = {
    CheckId.SETTINGS: ((), _Run.examine_settings),
    CheckId.BASE_URL: ((CheckId.SETTINGS,), _Run.examine_base_url),
    CheckId.API_KEY_FORM: ((CheckId.SETTINGS,), _Run.examine_api_key_form),
    CheckId.CLIENT_SECRET_FORM: ((CheckId.SETTINGS,), _Run.examine_client_secret_form),
    CheckId.DNS: ((CheckId.BASE_URL,), _Run.examine_dns),
    CheckId.CONNECTION: ((CheckId.DNS,), _Run.examine_connection),
    CheckId.TLS: ((CheckId.CONNECTION,), _Run.examine_tls),
    CheckId.OPERATOR: ((CheckId.TLS,), _Run.examine_operator),
    CheckId.API_KEY: (
        (CheckId.API_KEY_FORM, CheckId.CLIENT_SECRET_FORM, CheckId.OPERATOR),
        _Run.examine_api_key,
    ),
    CheckId.ROLES: ((CheckId.API_KEY,), _Run.examine_roles),
    CheckId.CLIENT_SECRET: ((CheckId.API_KEY,), _Run.examine_client_secret),
    CheckId.CLOCK: ((CheckId.CLIENT_SECRET,), _Run.examine_clock),
    CheckId.TEST_IDENTITIES: ((CheckId.CLOCK,), _Run.examine_test_identities),
    CheckId.KEYS: ((CheckId.CLOCK,), _Run.examine_keys),
    CheckId.LATENCY: ((CheckId.API_KEY,), _Run.examine_latency),
}


strip_tracebacks(globals())
