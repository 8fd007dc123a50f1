"""The order of the checks, and which of them tell nothing once another has failed."""

from __future__ import annotations

import warnings
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from contextlib import AsyncExitStack
from typing import Final
from urllib.parse import SplitResult, urlsplit

import attrs

from uid2_async._traceback import strip_tracebacks
from uid2_async.clock import Clock, system_clock
from uid2_async.doctor import (
    network_checks,
    network_probes,
    operator_checks,
    settings_checks,
)
from uid2_async.doctor.findings import (
    Check,
    Finding,
    Outcome,
    failure,
    ok,
    skipped,
)
from uid2_async.doctor.operator_checks import Role
from uid2_async.doctor.operator_probes import Interview, date_offset, knock
from uid2_async.environment import Settings, read_settings
from uid2_async.errors import ConfigError, TransportError
from uid2_async.models import IdentityScope, ms_from_datetime
from uid2_async.regions import parse_proxy
from uid2_async.transport import SessionPool, verifying_context

__all__ = ["examine"]

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
    case = _Case(scope, environ, needed=needed, timeout=timeout, clock=clock)
    causes: dict[Check, Check] = {}
    async with case.resources:
        for check, (needs, examine_step) in _STEPS.items():
            cause = next((causes[one] for one in needs if one in causes), None)
            if cause is None:
                finding = await examine_step(case)
                if finding.outcome is Outcome.FAILED:
                    causes[check] = check
            else:
                finding = skipped(check, f"It would tell nothing: {cause} failed.")
                causes[check] = cause
            yield finding


class _Case:
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
    interview: Interview

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
    def next_hop(self) -> SplitResult:
        """The URL of the proxy, or of the operator where there is none."""
        proxy = self.settings.proxy
        return self.url if proxy is None else urlsplit(parse_proxy(proxy).url)

    @property
    def port(self) -> int:
        """The port of the next hop."""
        return self.next_hop.port or _PORTS[self.next_hop.scheme]

    @property
    def proxies(self) -> list[str]:
        """The variables that name an HTTP proxy, and are not used."""
        if self.settings.proxy is not None:
            return []
        return [name for name in _PROXIES if self.environ.get(name)]

    async def examine_settings(self) -> Finding:
        """Read the variables."""
        finding = settings_checks.check_settings(self.scope, self.environ)
        if finding.outcome is not Outcome.FAILED:
            self.settings = read_settings(self.scope, self.environ)
        return finding

    async def examine_base_url(self) -> Finding:
        """Judge the base URL, and get ready to use it."""
        base_url, allow_http = self.settings.base_url, self.settings.allow_http
        finding = settings_checks.check_base_url(
            self.scope, base_url, allow_http=allow_http
        )
        if finding.outcome is not Outcome.FAILED:
            with warnings.catch_warnings():
                # What it warns of is in the finding.
                warnings.simplefilter("ignore")
                try:
                    self.pool = SessionPool(
                        base_url,
                        proxy=self.settings.proxy,
                        ca_file=self.settings.ca_file,
                        allow_http=allow_http,
                    )
                except ConfigError as error:
                    return failure(Check.BASE_URL, error)
            await self.resources.enter_async_context(self.pool)
            self.base_urls = self.pool.base_urls
            self.url = urlsplit(self.base_urls[0])
        return finding

    async def examine_api_key_form(self) -> Finding:
        """Judge the API key by itself."""
        return settings_checks.check_api_key_form(
            self.scope, self.settings.api_key, self.base_urls
        )

    async def examine_client_secret_form(self) -> Finding:
        """Judge the client secret by itself."""
        return settings_checks.check_client_secret_form(self.settings.client_secret)

    async def examine_dns(self) -> Finding:
        """Look up the host."""
        host = self.next_hop.hostname or ""
        found = await network_probes.resolve(host, self.port, timeout=self.timeout)
        self.addresses = found.addresses
        return self._name_hop(network_checks.check_dns(found, self.proxies))

    async def examine_connection(self) -> Finding:
        """Connect to the port."""
        found = await network_probes.connect(
            self.addresses, self.port, timeout=self.timeout
        )
        self.address = found.address
        return self._name_hop(network_checks.check_connection(found, self.proxies))

    def _name_hop(self, finding: Finding) -> Finding:
        """Say that it is the proxy that was looked at, where it was."""
        if self.settings.proxy is None:
            return finding
        return attrs.evolve(finding, message=f"Proxy: {finding.message}")

    async def examine_tls(self) -> Finding:
        """Begin TLS, where the base URL wants it."""
        found = None
        if self.settings.proxy is not None and self.url.scheme == "https":
            # Only a request opens a tunnel; it has no API key.
            reply = await knock(self.pool, timeout=self.timeout)
            if isinstance(reply, TransportError):
                return failure(Check.TLS, reply)
            return ok(Check.TLS, "The proxy opens a tunnel to the operator.")
        if self.url.scheme == "https":
            found = await network_probes.shake_hands(
                self.address,
                self.port,
                self.url.hostname or "",
                verifying_context(self.settings.ca_file),
                timeout=self.timeout,
            )
        return network_checks.check_tls(found, self.clock().timestamp())

    async def examine_operator(self) -> Finding:
        """See who answers, without showing the API key."""
        found = await knock(self.pool, timeout=self.timeout)
        self.date_offset = date_offset(found, self.clock())
        return network_checks.check_operator(found, https=self.url.scheme == "https")

    async def examine_api_key(self) -> Finding:
        """Ask for all roles."""
        self.interview = Interview(
            self.settings, self.pool, timeout=self.timeout, clock=self.clock
        )
        await self.interview.ask_for_roles()
        return operator_checks.check_api_key(self.interview.answers)

    async def examine_roles(self) -> Finding:
        """Judge which of them were accepted."""
        return operator_checks.check_roles(self.interview.answers, self.needed)

    async def examine_client_secret(self) -> Finding:
        """Judge whether what it sealed was opened."""
        return operator_checks.check_client_secret(self.interview.answers)

    async def examine_clock(self) -> Finding:
        """Compare the clocks."""
        interview = self.interview
        if interview.refused_clock:
            await interview.find_offset(self.date_offset)
        return operator_checks.check_clock(
            interview.offset, refused=interview.refused_clock
        )

    async def examine_test_identities(self) -> Finding:
        """See whether opt-outs are respected."""
        if operator_checks.find_roles(self.interview.answers)[Role.GENERATOR]:
            await self.interview.ask_for_test_identities()
        return operator_checks.check_test_identities(self.interview.answers)

    async def examine_keys(self) -> Finding:
        """Judge the keys that came."""
        now_ms = ms_from_datetime(self.clock())
        now_ms += round((self.interview.offset or 0.0) * 1000)
        return operator_checks.check_keys(self.interview.answers, self.scope, now_ms)

    async def examine_latency(self) -> Finding:
        """Judge how long all calls took."""
        return network_checks.check_latency(self.interview.seconds)


_Step = tuple[tuple[Check, ...], Callable[[_Case], Awaitable[Finding]]]
_STEPS: Final[Mapping[Check, _Step]] = {
    Check.SETTINGS: ((), _Case.examine_settings),
    Check.BASE_URL: ((Check.SETTINGS,), _Case.examine_base_url),
    Check.API_KEY_FORM: ((Check.SETTINGS,), _Case.examine_api_key_form),
    Check.CLIENT_SECRET_FORM: ((Check.SETTINGS,), _Case.examine_client_secret_form),
    Check.DNS: ((Check.BASE_URL,), _Case.examine_dns),
    Check.CONNECTION: ((Check.DNS,), _Case.examine_connection),
    Check.TLS: ((Check.CONNECTION,), _Case.examine_tls),
    Check.OPERATOR: ((Check.TLS,), _Case.examine_operator),
    Check.API_KEY: (
        (Check.API_KEY_FORM, Check.CLIENT_SECRET_FORM, Check.OPERATOR),
        _Case.examine_api_key,
    ),
    Check.ROLES: ((Check.API_KEY,), _Case.examine_roles),
    Check.CLIENT_SECRET: ((Check.API_KEY,), _Case.examine_client_secret),
    Check.CLOCK: ((Check.CLIENT_SECRET,), _Case.examine_clock),
    Check.TEST_IDENTITIES: ((Check.CLOCK,), _Case.examine_test_identities),
    Check.KEYS: ((Check.CLOCK,), _Case.examine_keys),
    Check.LATENCY: ((Check.API_KEY,), _Case.examine_latency),
}


strip_tracebacks(globals())
