"""The checks of the settings, and the list of all checks with their requirements."""

from __future__ import annotations

import warnings
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Collection,
    Mapping,
    Sequence,
)
from contextlib import AsyncExitStack
from typing import Final
from urllib.parse import SplitResult, urlsplit

import attrs

from uid2_async._traceback import strip_tracebacks
from uid2_async.clock import Clock, system_clock
from uid2_async.config import (
    PUBLISHED,
    Settings,
    check_api_key,
    find_sources,
    list_faults,
    normalize_base_url,
    parse_proxy,
    published_scope,
    read_settings,
    sends_clear,
)
from uid2_async.doctor import network, operator
from uid2_async.doctor.findings import (
    CheckId,
    Finding,
    Outcome,
    Verdict,
    failed,
    failed_call,
    ok,
    skipped,
    warning,
)
from uid2_async.doctor.network import date_offset, request_without_key
from uid2_async.doctor.operator import OperatorProbe, Role
from uid2_async.errors import ConfigError, TransportError
from uid2_async.models import IdentityScope, ms_from_datetime
from uid2_async.protocol import base64
from uid2_async.protocol.envelope import KEY_BYTES
from uid2_async.protocol.hash_spelling import HashSpelling, diagnose_hash
from uid2_async.protocol.inspection import ValueKind, inspect_value
from uid2_async.transport import SessionPool, verifying_context

# The names of these settings in the samples and tests of the official SDKs.
_OTHER_NAMES: Final = {
    "base_url": ("UID_SERVER_BASE_URL", "UID_CLIENT_BASE_URL", "OPERATOR_URL"),
    "api_key": ("UID_API_KEY", "CLIENT_KEY"),
    "client_secret": ("UID_CLIENT_SECRET", "CLIENT_SECRET"),
}

_PLACES: Final = {
    "prod.uidapi.com": "Ohio",
    "global.prod.uidapi.com": "the nearest region",
    "usw.prod.uidapi.com": "Oregon",
    "au.prod.uidapi.com": "Sydney",
    "jp.prod.uidapi.com": "Tokyo",
    "sg.prod.uidapi.com": "Singapore",
}

_ENVIRONMENTS: Final = {"I": "integration", "P": "production"}
_KEY_BEGINNINGS: Final = ("UID2-", "EUID-")


def check_settings(scope: IdentityScope, environ: Mapping[str, str]) -> Verdict:
    """Check which variables are set, without showing their values."""
    sources = find_sources(scope, environ)
    faults = list_faults(scope, environ)
    if faults:
        return failed(
            " ".join(fault.message for fault in faults),
            _other_settings(scope, environ) or faults[0].hint,
        )
    used = [names[0] for names in sources.values() if names]
    idle = [name for names in sources.values() for name in names[1:]]
    message = f"Taken from {', '.join(used)}."
    if idle:
        return warning(
            f"{message} Set, but not used: {', '.join(idle)}.",
            "Unset the ones that you do not need.",
        )
    return ok(message)


def _other_settings(scope: IdentityScope, environ: Mapping[str, str]) -> str:
    """Return a hint about settings under names that are not read, or ""."""
    for other in IdentityScope:
        sources = find_sources(other, environ)
        if other is not scope and sources["api_key"]:
            return f"Variables of {other} are set: did you mean --scope {other}?"
    ours = find_sources(scope, environ)
    for setting, names in _OTHER_NAMES.items():
        for name in names:
            if environ.get(name) and not ours[setting]:
                wanted = f"{scope}_{'SECRET_KEY' if 'secret' in setting else setting}"
                return f"{name} is set, but is not read. Use {wanted.upper()} instead."
    return ""


def check_base_url(
    scope: IdentityScope, base_url: str, *, allow_http: bool = False
) -> Verdict:
    """Check the scheme, host, scope and path of a base URL."""
    try:
        url = normalize_base_url(base_url, allow_http=allow_http)
    except ConfigError as error:
        hint = error.hint.replace("allow_http=True", f"{scope}_ALLOW_HTTP=1")
        return failed(error.message, hint)
    parts = urlsplit(url)
    host = parts.hostname or ""
    served = published_scope(host)
    if served not in {None, scope}:
        return failed(
            f"{url} serves {served}, but the scope is {scope}.",
            f"Use the base URL of {scope}, or --scope {served}.",
        )
    if {"v1", "v2", "v3"} & set(parts.path.split("/")):
        return failed(
            f"{url} contains an endpoint or an API version.",
            "End the base URL before /v2 or /v3.",
        )
    if served is not None and (host not in PUBLISHED or parts.path or parts.port):
        return warning(
            f"{url} is not one of the published base URLs.",
            f"Look for a typo, or set {scope}_ENV instead.",
        )
    if sends_clear(url):
        return warning(
            f"{url} is plain http: the API key is sent unencrypted.",
            "Use https, unless only you use the network.",
        )
    return ok(f"{url}, {_describe_host(scope, host)}.")


def _describe_host(scope: IdentityScope, host: str) -> str:
    if host not in PUBLISHED:
        return f"a private {scope} operator or a sandbox"
    region = f", {_PLACES[host]}" if host in _PLACES else ""
    return f"{scope} {_ENVIRONMENTS[PUBLISHED[host]]}{region}"


def check_api_key_form(
    scope: IdentityScope, api_key: str, base_urls: Sequence[str]
) -> Verdict:
    """Check the form of an API key for some base URLs, without showing it."""
    fault = _find_key_fault(scope, api_key, base_urls)
    if fault:
        return failed(fault, _UNQUOTE if _is_quoted(api_key) else _KEY_HINT)
    found = inspect_value(api_key, now_ms=0)
    if found.site_id is not None:
        where = f"site {found.site_id}, environment {found.key_environment}"
        return ok(f"A key of {scope}: {where}.")
    if ValueKind.CLIENT_SECRET in found.kinds:
        return warning("The API key looks like a client secret.", _SWAPPED)
    if ValueKind.API_KEY in found.kinds:
        return warning(
            "The API key begins like one, but does not have the usual form.", _WHOLE
        )
    return ok("It does not have the documented form; older keys do not have it either.")


def _find_key_fault(
    scope: IdentityScope, api_key: str, base_urls: Sequence[str]
) -> str:
    """Return why an API key cannot be valid, or an empty string."""
    if _is_quoted(api_key):
        return "The API key is in quotes."
    if api_key.startswith(f"{scope}-O-"):
        return "The API key belongs to an operator, not to a client."
    try:
        check_api_key(api_key, scope, base_urls)
    except ConfigError as error:
        return error.message
    return ""


_UNQUOTE: Final = "Remove the quotes: some tools keep them as part of the value."
_SWAPPED: Final = "Check whether the API key and the client secret are swapped."
_WHOLE: Final = "Check that it was copied completely."
_KEY_HINT: Final = "Use the key that the UID2 portal shows for this environment."


def check_client_secret_form(client_secret: str) -> Verdict:
    """Check the form of a client secret, without showing it."""
    data = base64.decode(client_secret)
    if data is not None and len(data) == KEY_BYTES:
        return ok("Base64 of 32 bytes.")
    if _is_quoted(client_secret):
        return failed("The client secret is in quotes.", _UNQUOTE)
    if client_secret.startswith(_KEY_BEGINNINGS):
        return failed("The client secret looks like an API key.", _SWAPPED)
    spelling = diagnose_hash(client_secret)
    if spelling in {HashSpelling.NOT_HASHED, HashSpelling.UNKNOWN}:
        size = "not base64" if data is None else f"base64 of {len(data)} bytes"
        return failed(
            f"The client secret has {len(client_secret)} characters and is {size}; it "
            "must be base64 of 32 bytes, 44 characters.",
            _WHOLE,
        )
    return failed(
        f"The client secret is not plain base64 of 32 bytes: {spelling}.",
        "Use the secret exactly as the UID2 portal shows it.",
    )


def _is_quoted(text: str) -> bool:
    return text[:1] in {'"', "'"} or text[-1:] in {'"', "'"}


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

    All requests are harmless: they change no data and use only test identities. The API
    key is sent only after the server has replied like an operator.

    Args:
        scope: UID2 or EUID.
        environ: The environment variables with the settings, as read by
            ``UID2Client.from_env``.
        needed: The roles that the API key must have.
        timeout: The limit for each step, in seconds.
        clock: Returns this machine's time.

    Yields:
        One finding for each check as soon as it is complete, including skipped checks.
    """
    run = _Run(scope, environ, needed, timeout, clock)
    causes: dict[CheckId, CheckId] = {}
    async with run.resources:
        for check, (run_check, *required) in _CHECKS.items():
            cause = next((causes[one] for one in required if one in causes), None)
            if cause is None:
                verdict = await run_check(run)
                if verdict.outcome is Outcome.FAILED:
                    causes[check] = check
            else:
                verdict = skipped(f'Requires "{cause}", which failed.')
                causes[check] = cause
            yield Finding(check=check, **attrs.asdict(verdict))


@attrs.define(eq=False, repr=False)
class _Run:
    """One run of all checks. Each check stores what later checks need."""

    scope: IdentityScope
    environ: Mapping[str, str]
    needed: Collection[Role]
    timeout: float
    clock: Clock
    resources: AsyncExitStack = attrs.field(factory=AsyncExitStack, init=False)
    base_urls: tuple[str, ...] = attrs.field(default=(), init=False)
    # Set by the checks that a check requires.
    settings: Settings = attrs.field(init=False)
    url: SplitResult = attrs.field(init=False)
    pool: SessionPool = attrs.field(init=False)
    addresses: tuple[str, ...] = attrs.field(init=False)
    address: str = attrs.field(init=False)
    date_offset: float | None = attrs.field(init=False)
    probe: OperatorProbe = attrs.field(init=False)

    @property
    def next_hop(self) -> SplitResult:
        """The URL of the proxy, or of the operator if there is no proxy."""
        proxy = self.settings.proxy
        return self.url if proxy is None else urlsplit(parse_proxy(proxy).url)

    @property
    def port(self) -> int:
        return self.next_hop.port or _PORTS[self.next_hop.scheme]

    @property
    def proxies(self) -> list[str]:
        """The environment variables that name an HTTP proxy. They are not used."""
        if self.settings.proxy is not None:
            return []
        return [name for name in _PROXIES if self.environ.get(name)]

    async def examine_settings(self) -> Verdict:
        """Read the settings from the environment."""
        finding = check_settings(self.scope, self.environ)
        if finding.outcome is not Outcome.FAILED:
            self.settings = read_settings(self.scope, self.environ)
        return finding

    async def examine_base_url(self) -> Verdict:
        base_url, allow_http = self.settings.base_url, self.settings.allow_http
        finding = check_base_url(self.scope, base_url, allow_http=allow_http)
        if finding.outcome is not Outcome.FAILED:
            with warnings.catch_warnings():
                # A finding reports the same.
                warnings.simplefilter("ignore")
                try:
                    self.pool = SessionPool(
                        base_url,
                        proxy=self.settings.proxy,
                        ca_file=self.settings.ca_file,
                        allow_http=allow_http,
                    )
                except ConfigError as error:
                    return failed_call(error)
            await self.resources.enter_async_context(self.pool)
            self.base_urls = self.pool.base_urls
            self.url = urlsplit(self.base_urls[0])
        return finding

    async def examine_api_key_form(self) -> Verdict:
        return check_api_key_form(self.scope, self.settings.api_key, self.base_urls)

    async def examine_client_secret_form(self) -> Verdict:
        return check_client_secret_form(self.settings.client_secret)

    async def examine_dns(self) -> Verdict:
        host = self.next_hop.hostname or ""
        self.addresses = await network.resolve(host, self.port, timeout=self.timeout)
        finding = network.check_dns(host, self.addresses, self.proxies)
        return self._name_hop(finding)

    async def examine_connection(self) -> Verdict:
        finding, self.address = await network.check_connection(
            self.addresses, self.port, self.proxies, timeout=self.timeout
        )
        return self._name_hop(finding)

    def _name_hop(self, finding: Verdict) -> Verdict:
        """Add that the finding is about the proxy, if there is one."""
        if self.settings.proxy is None:
            return finding
        return attrs.evolve(finding, message=f"Proxy: {finding.message}")

    async def examine_tls(self) -> Verdict:
        """Start TLS, if the base URL is https."""
        if self.url.scheme != "https":
            return ok("Not used: the base URL is plain http.")
        if self.settings.proxy is not None:
            # Only a request opens the tunnel. It is sent without the API key.
            reply = await request_without_key(self.pool, timeout=self.timeout)
            if isinstance(reply, TransportError):
                return failed_call(reply)
            return ok("The proxy opens a tunnel to the operator.")
        return await network.check_tls(
            self.address,
            self.port,
            self.url.hostname or "",
            verifying_context(self.settings.ca_file),
            timeout=self.timeout,
            now=self.clock().timestamp(),
        )

    async def examine_operator(self) -> Verdict:
        """Send a request without the API key, and check whether an operator replies."""
        found = await request_without_key(self.pool, timeout=self.timeout)
        self.date_offset = date_offset(found, self.clock())
        return network.check_operator(found, https=self.url.scheme == "https")

    async def examine_api_key(self) -> Verdict:
        """Make one call for each role, and check whether the API key is accepted."""
        self.probe = OperatorProbe(
            self.settings, self.pool, timeout=self.timeout, clock=self.clock
        )
        await self.probe.call_for_roles()
        return operator.check_api_key(self.probe.outcomes)

    async def examine_roles(self) -> Verdict:
        return operator.check_roles(self.probe.outcomes, self.needed)

    async def examine_client_secret(self) -> Verdict:
        """Check whether the operator could decrypt the requests."""
        return operator.check_client_secret(self.probe.outcomes)

    async def examine_clock(self) -> Verdict:
        probe = self.probe
        if probe.refused_clock:
            await probe.find_offset(self.date_offset)
        return operator.check_clock(probe.offset, refused=probe.refused_clock)

    async def examine_test_identities(self) -> Verdict:
        """Check whether opt-outs are respected."""
        if operator.find_roles(self.probe.outcomes)[Role.GENERATOR]:
            await self.probe.call_for_test_identities()
        return operator.check_test_identities(self.probe.outcomes)

    async def examine_keys(self) -> Verdict:
        now_ms = ms_from_datetime(self.clock())
        now_ms += round((self.probe.offset or 0.0) * 1000)
        return operator.check_keys(self.probe.outcomes, self.scope, now_ms)

    async def examine_latency(self) -> Verdict:
        return network.check_latency(self.probe.seconds)


# For each check: how it is run, and the checks that it requires.
_CHECKS: Final[
    Mapping[CheckId, tuple[Callable[[_Run], Awaitable[Verdict]], *tuple[CheckId, ...]]]
] = {
    CheckId.SETTINGS: (_Run.examine_settings,),
    CheckId.BASE_URL: (_Run.examine_base_url, CheckId.SETTINGS),
    CheckId.API_KEY_FORM: (_Run.examine_api_key_form, CheckId.SETTINGS),
    CheckId.CLIENT_SECRET_FORM: (_Run.examine_client_secret_form, CheckId.SETTINGS),
    CheckId.DNS: (_Run.examine_dns, CheckId.BASE_URL),
    CheckId.CONNECTION: (_Run.examine_connection, CheckId.DNS),
    CheckId.TLS: (_Run.examine_tls, CheckId.CONNECTION),
    CheckId.OPERATOR: (_Run.examine_operator, CheckId.TLS),
    CheckId.API_KEY: (
        _Run.examine_api_key,
        *(CheckId.API_KEY_FORM, CheckId.CLIENT_SECRET_FORM, CheckId.OPERATOR),
    ),
    CheckId.ROLES: (_Run.examine_roles, CheckId.API_KEY),
    CheckId.CLIENT_SECRET: (_Run.examine_client_secret, CheckId.API_KEY),
    CheckId.CLOCK: (_Run.examine_clock, CheckId.CLIENT_SECRET),
    CheckId.TEST_IDENTITIES: (_Run.examine_test_identities, CheckId.CLOCK),
    CheckId.KEYS: (_Run.examine_keys, CheckId.CLOCK),
    CheckId.LATENCY: (_Run.examine_latency, CheckId.API_KEY),
}


strip_tracebacks(globals())
