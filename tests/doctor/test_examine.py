"""Each thing that can be broken is broken in turn, and the right cause is named."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest
import trustme
from msgspec import structs

from uid2_async import IdentityScope
from uid2_async.doctor import CheckId, Finding, Outcome, Role, examine
from uid2_async.operator import Fault, LocalOperator, OperatorData
from uid2_async.operator.data import MASTER_KEYSET

UID2, EUID = IdentityScope
Environ = dict[str, str]
Examine = Callable[..., Awaitable["Examined"]]

PAGE = b"<html><body>Welcome to the hotel</body></html>"
HTML = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n%s" % (
    len(PAGE),
    PAGE,
)
REDIRECT = (
    b"HTTP/1.1 302 Found\r\nLocation: https://login.example/?next=secret\r\n"
    b"Content-Length: 0\r\n\r\n"
)


# What depends on keys, roles, secrets or variables is examined in both systems.
in_both = pytest.mark.parametrize("scope", IdentityScope, ids=str)


@pytest.fixture
def scope() -> IdentityScope:
    """Run in one system where a test says nothing else."""
    return UID2


def name(operator: LocalOperator, who: str = "everything") -> Environ:
    """Name an operator, and one of its keys, as a user's environment does."""
    credentials = operator.credentials[who]
    scope = operator.data.scope
    return {
        f"{scope}_BASE_URL": operator.url,
        f"{scope}_API_KEY": credentials.api_key,
        f"{scope}_SECRET_KEY": credentials.client_secret,
    }


def scope_of(environ: Mapping[str, str]) -> IdentityScope:
    """Tell the system whose operator is named."""
    return UID2 if "EUID_BASE_URL" not in environ else EUID


@pytest.fixture
def environ(operator: LocalOperator) -> Environ:
    """Name the embedded operator, and the key that can do everything."""
    return name(operator)


class Examined:
    """The findings of an examination, as tests ask about them."""

    def __init__(self, findings: list[Finding]) -> None:
        """Keep the findings."""
        self.findings = findings

    @property
    def outcomes(self) -> set[Outcome]:
        """Which outcomes there are."""
        return {one.outcome for one in self.findings}

    @property
    def causes(self) -> list[Finding]:
        """What has failed."""
        return [one for one in self.findings if one.outcome is Outcome.FAILED]

    @property
    def warnings(self) -> list[Finding]:
        """What is not as it should be."""
        return [one for one in self.findings if one.outcome is Outcome.WARNING]


@pytest.fixture
def examined() -> Callable[..., Awaitable[Examined]]:
    """Examine what an environment names; look for secrets in every finding."""

    async def run(environ: Mapping[str, str], **options: Any) -> Examined:
        scope = options.pop("scope", scope_of(environ))
        findings = [one async for one in examine(scope, environ, **options)]
        text = repr(findings)
        for variable, value in environ.items():
            if variable.endswith(("_KEY", "_SECRET")) and len(value) > 3:
                assert value not in text
        return Examined(findings)

    return run


async def expect(
    examined: Examine, environ: Environ, check: CheckId, words: str, **options: Any
) -> Examined:
    """Examine, and expect one cause: *check*, whose message holds *words*."""
    found = await examined(environ, **options)

    assert [one.check for one in found.causes] == [check]
    assert words in found.causes[0].message
    assert found.causes[0].hint
    return found


# --- what works -----------------------------------------------------------------------


@in_both
async def test_all_is_well(examined: Examine, environ: Environ) -> None:
    """With everything in order every check says so, in the order of the checks."""
    found = await examined(environ, needed=list(Role))

    assert [one.check for one in found.findings] == list(CheckId)
    assert found.outcomes == {Outcome.OK}


@in_both
@pytest.mark.parametrize(
    ("who", "roles"),
    [
        ("publisher", "GENERATOR"),
        ("advertiser", "MAPPER"),
        ("bidder", "ID_READER"),
        ("sharer", "SHARER"),
    ],
)
async def test_roles_are_found_by_harmless_calls(
    examined: Examine, operator: LocalOperator, who: str, roles: str
) -> None:
    """Each key gets exactly its own roles; nothing fails because of the others."""
    found = await examined(name(operator, who))
    (finding,) = (one for one in found.findings if one.check is CheckId.ROLES)

    assert finding.message.startswith(f"It has {roles}; it lacks ")
    assert found.causes == found.warnings == []
    assert not any(
        call.path == "/v2/token/logout" and call.items for call in operator.calls
    )


async def test_the_key_is_shown_to_operators_alone(
    examined: Examine, raw_server: Any
) -> None:
    """What does not answer like an operator is never sent the API key."""
    async with raw_server(HTML) as server:
        key = {"UID2_API_KEY": "older-key", "UID2_SECRET_KEY": "A" * 43 + "="}
        await examined({"UID2_BASE_URL": server.url, **key})

        assert server.requests
        assert not any(b"older-key" in head for head in server.requests)
        assert not any(b"authorization" in head.lower() for head in server.requests)


# --- settings -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "words", "hint"),
    [
        ({}, "UID2_API_KEY is not set", "Set UID2_ENV"),
        ({"EUID_API_KEY": "x"}, "UID2_API_KEY is not set", "--scope EUID"),
        ({"UID_API_KEY": "x"}, "UID2_API_KEY is not set", "Use UID2_API_KEY instead"),
        (
            {"UID_CLIENT_SECRET": "x"},
            "UID2_SECRET_KEY is not set",
            "Use UID2_SECRET_KEY instead",
        ),
        ({"UID2_SECRET_KEY_FILE": "/nowhere"}, "UID2_SECRET_KEY_FILE names", "Set"),
    ],
)
async def test_missing_settings(
    examined: Examine, environ: Environ, words: str, hint: str
) -> None:
    """Every variable that is missing is named, and those that were meant."""
    found = await expect(examined, environ, CheckId.SETTINGS, words)

    assert hint in found.causes[0].hint
    assert found.outcomes == {Outcome.FAILED, Outcome.SKIPPED}


async def test_settings_without_effect(examined: Examine, environ: Environ) -> None:
    """Two variables for one thing are a warning, which names the idle one."""
    found = await examined(environ | {"UID2_ENV": "prod", "UID2_CLIENT_SECRET": "x"})

    (finding,) = found.warnings
    assert finding.check is CheckId.SETTINGS
    assert "not used: UID2_ENV, UID2_CLIENT_SECRET" in finding.message


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://operator.example", "must start with https://"),
        ("http://operator.example", "Plain http would send the API key in the clear"),
        ("http://prod.uidapi.com", "support only https"),
        ("https://prod.euid.eu", "serves EUID, but the scope is UID2"),
        ("https://operator.example/v2/token/generate", "contains an endpoint"),
        ("https://operator.example/v3", "contains an endpoint"),
        ("https://user:canary@operator.example", "contains credentials"),
        ("https://operator example", "is not a URL"),
    ],
)
async def test_base_urls(
    examined: Examine, environ: Environ, url: str, words: str
) -> None:
    """A base URL that cannot be right fails before anything is sent."""
    found = await expect(
        examined, environ | {"UID2_BASE_URL": url}, CheckId.BASE_URL, words
    )

    assert "canary" not in repr(found.findings)


async def test_a_private_operator_over_http(
    examined: Examine, environ: Environ
) -> None:
    """The hint names the variable that allows plain http."""
    environ |= {"UID2_BASE_URL": "http://operator.example"}
    found = await examined(environ)

    assert "UID2_ALLOW_HTTP=1" in found.causes[0].hint


@in_both
async def test_keys_that_cannot_be_right(
    examined: Examine, scope: IdentityScope, environ: Environ
) -> None:
    """Another scope's key, an operator's and a quoted one are distinguished."""
    key = environ[f"{scope}_API_KEY"]
    (other,) = set(IdentityScope) - {scope}
    for wrong, words in (
        (key.replace(scope, other), f"belongs to {other}, not to {scope}"),
        (key.replace("-C-", "-O-"), "belongs to an operator"),
        (f'"{key}"', "in quotes"),
        (f"{key}\n", "not printable"),
    ):
        changed = environ | {f"{scope}_API_KEY": wrong}
        await expect(examined, changed, CheckId.API_KEY_FORM, words)


@in_both
async def test_secrets_that_cannot_be_right(
    examined: Examine, scope: IdentityScope, environ: Environ
) -> None:
    """Length, encoding, quotes and a mix-up with the API key are distinguished."""
    secret = environ[f"{scope}_SECRET_KEY"]
    for wrong, words in (
        (secret[:40], "has 40 characters and is base64 of 30 bytes"),
        ("x!y?z-canary", "has 12 characters and is not base64"),
        ("ab" * 32, "not plain base64 of 32 bytes: hex"),
        (f"{secret}\n", "not plain base64 of 32 bytes: white space"),
        (f"'{secret}'", "in quotes"),
        (environ[f"{scope}_API_KEY"], "looks like an API key"),
    ):
        changed = environ | {f"{scope}_SECRET_KEY": wrong}
        await expect(examined, changed, CheckId.CLIENT_SECRET_FORM, words)


# --- network --------------------------------------------------------------------------


async def test_a_host_that_does_not_resolve(
    examined: Examine, environ: Environ
) -> None:
    """The host is named."""
    environ |= {"UID2_BASE_URL": "https://operator.invalid"}
    await expect(examined, environ, CheckId.DNS, "operator.invalid does not resolve")


async def test_a_closed_port(examined: Examine, environ: Environ) -> None:
    """A port where nobody listens; a proxy that is set but not used is named."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    environ |= {"UID2_BASE_URL": url}
    found = await expect(examined, environ, CheckId.CONNECTION, "is closed")
    assert "that the operator is running" in found.causes[0].hint

    found = await examined(environ | {"HTTPS_PROXY": "http://proxy:3128"})
    assert "HTTPS_PROXY is set" in found.causes[0].hint


async def test_https_where_there_is_no_tls(examined: Examine, environ: Environ) -> None:
    """https:// at a port that speaks plain http."""
    environ["UID2_BASE_URL"] = environ["UID2_BASE_URL"].replace("http", "https")
    found = await expect(examined, environ, CheckId.TLS, "does not speak TLS")

    assert "http://" in found.causes[0].hint


def tls(host: str, *, expires: datetime | None = None) -> ssl.SSLContext:
    """Make the TLS side of a server, with a certificate that nobody trusts."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert(host, not_after=expires).configure_cert(context)
    return context


async def test_http_where_there_is_tls(
    examined: Examine, environ: Environ, raw_server: Any
) -> None:
    """http:// at a port that speaks TLS."""
    async with raw_server(HTML, context=tls("127.0.0.1")) as server:
        environ["UID2_BASE_URL"] = server.url.replace("https", "http")
        await expect(examined, environ, CheckId.OPERATOR, "does not support plain http")


async def test_an_untrusted_certificate(
    examined: Examine, environ: Environ, raw_server: Any
) -> None:
    """A private CA that this machine does not know."""
    async with raw_server(HTML, context=tls("127.0.0.1")) as server:
        environ["UID2_BASE_URL"] = server.url
        found = await expect(examined, environ, CheckId.TLS, "certificate was rejected")

    assert "UID2_CA_FILE" in found.causes[0].hint


@pytest.mark.parametrize(
    ("host", "days", "words"),
    [
        ("other.example", 100, "mismatch"),
        ("127.0.0.1", -1, "has expired"),
    ],
)
async def test_wrong_certificates(
    examined: Examine,
    environ: Environ,
    raw_server: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Any,
    host: str,
    days: int,
    words: str,
) -> None:
    """From a trusted CA, but for another host or over."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    expires = datetime.now(UTC) + timedelta(days=days)
    authority.issue_cert(host, not_after=expires).configure_cert(context)
    async with raw_server(HTML, context=context) as server:
        environ["UID2_BASE_URL"] = server.url
        await expect(examined, environ, CheckId.TLS, words)


@pytest.mark.parametrize(("days", "warned"), [(3, True), (100, False)])
async def test_a_certificate_that_is_about_to_end(
    examined: Examine,
    environ: Environ,
    raw_server: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Any,
    days: int,
    warned: bool,
) -> None:
    """A good certificate is ok, and in its last two weeks a warning."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    expires = datetime.now(UTC) + timedelta(days=days, hours=1)
    authority.issue_cert("127.0.0.1", not_after=expires).configure_cert(context)
    async with raw_server(HTML, context=context) as server:
        environ["UID2_BASE_URL"] = server.url
        found = await expect(examined, environ, CheckId.OPERATOR, "a web page")

    (finding,) = (one for one in found.findings if one.check is CheckId.TLS)
    assert f"valid for {days} days" in finding.message
    assert (finding.outcome is Outcome.WARNING) is warned


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (HTML, "a web page or another service replies"),
        (REDIRECT, "redirects to https://login.example."),
    ],
)
async def test_something_else_answers(
    examined: Examine, environ: Environ, raw_server: Any, answer: bytes, words: str
) -> None:
    """A captive portal is no operator."""
    async with raw_server(answer) as server:
        environ["UID2_BASE_URL"] = server.url
        found = await expect(examined, environ, CheckId.OPERATOR, words)

    assert "secret" not in found.causes[0].message


async def test_a_wrong_path(examined: Examine, environ: Environ) -> None:
    """An operator that is not where the base URL says."""
    environ["UID2_BASE_URL"] += "/uid2"
    await expect(examined, environ, CheckId.OPERATOR, "no operator at this path")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault(status=503), "failing"),
        (Fault(status=403, body=PAGE), "blocks this machine"),
        (Fault(status=401, body=PAGE), "requires a login"),
        (Fault(status=429), "limits the rate"),
        (Fault(status=418), "does not send such a reply"),
        (Fault(drop=True), "does not support plain http"),
    ],
)
async def test_something_before_the_operator(
    examined: Examine,
    environ: Environ,
    operator: LocalOperator,
    fault: Fault,
    words: str,
) -> None:
    """Gateways and load balancers are distinguished from operators."""
    operator.fail_next(fault)
    await expect(examined, environ, CheckId.OPERATOR, words)


async def test_an_operator_that_hangs(
    examined: Examine, environ: Environ, operator: LocalOperator
) -> None:
    """It takes connections, and does not answer."""
    operator.fail_next(Fault(delay=60))
    await expect(
        examined, environ, CheckId.OPERATOR, "does not reply in time", timeout=1.0
    )


async def test_an_operator_that_hangs_on_sealed_calls(
    examined: Examine, environ: Environ, operator: LocalOperator
) -> None:
    """One call without any answer is enough; the others are not waited for."""
    operator.fail_next(Fault(delay=60), times=5, path="/v3/identity/map")
    found = await expect(
        examined, environ, CheckId.ROLES, "did not reply in time", timeout=1.0
    )

    lost = "Unknown: MAPPER, SHARER, ID_READER, OPTOUT"
    assert lost in found.causes[0].message


async def test_an_old_operator(
    examined: Examine, environ: Environ, operator: LocalOperator
) -> None:
    """An endpoint that is not there is a warning, unless its role is needed."""
    operator.fail_next(Fault(status=404), times=9, path="/v3/identity/map")
    found = await examined(environ)
    (finding,) = found.warnings

    assert found.causes == []
    assert "Unknown: MAPPER." in finding.message
    await expect(
        examined, environ, CheckId.ROLES, "Unknown: MAPPER", needed=[Role.MAPPER]
    )


# --- key, secret, clock and keys ------------------------------------------------------


@in_both
async def test_an_unknown_key(
    examined: Examine, scope: IdentityScope, environ: Environ
) -> None:
    """A key of the right form that this operator does not know."""
    name = f"{scope}_API_KEY"
    environ[name] = environ[name][:-1] + "_"
    found = await expect(examined, environ, CheckId.API_KEY, "does not know the key")

    assert found.causes[0].unauthorized


@pytest.mark.parametrize("change", [{"disabled": True}, {"roles": frozenset()}])
async def test_a_key_without_any_role(
    examined: Examine, change: dict[str, Any]
) -> None:
    """A known key without roles is distinguished from an unknown one."""
    data = OperatorData.sample()
    clients = tuple(attrs.evolve(one, **change) for one in data.clients)
    async with LocalOperator(attrs.evolve(data, clients=clients)) as operator:
        environ = name(operator)
        found = await expect(
            examined, environ, CheckId.API_KEY, "disabled or has no role"
        )

    assert found.causes[0].unauthorized


@in_both
async def test_a_missing_role(examined: Examine, operator: LocalOperator) -> None:
    """A key that cannot do what it is needed for; all else is in order."""
    environ = name(operator, "publisher")
    found = await expect(
        examined, environ, CheckId.ROLES, "Needed: MAPPER", needed=[Role.MAPPER]
    )

    assert found.causes[0].unauthorized


@in_both
async def test_a_wrong_secret(
    examined: Examine, scope: IdentityScope, environ: Environ
) -> None:
    """A secret of the right form that is another key's."""
    environ[f"{scope}_SECRET_KEY"] = "A" * 43 + "="
    found = await expect(
        examined, environ, CheckId.CLIENT_SECRET, "does not belong to the API key"
    )

    assert found.causes[0].unauthorized


async def test_replies_that_cannot_be_opened(
    examined: Examine, environ: Environ, operator: LocalOperator
) -> None:
    """Replies that are sealed with another secret than the requests."""
    operator.fail_next(Fault(wrong_key=True), times=9, path="/v2/token/generate")
    # The first is taken by the request without key, which is answered as ever.
    await expect(examined, environ, CheckId.CLIENT_SECRET, "could not be decrypted")


@in_both
@pytest.mark.parametrize("seconds", [300, -300, 1_500, 7_200, -5 * 3_600 - 60])
@pytest.mark.parametrize("who", ["everything", "publisher", "advertiser", "bidder"])
async def test_a_clock_that_is_off(
    examined: Examine, operator: LocalOperator, who: str, seconds: int
) -> None:
    """How far it is off is found to the second, whatever the key may do."""
    operator.advance(seconds)
    side = "behind" if seconds > 0 else "ahead of"
    await expect(
        examined,
        name(operator, who),
        CheckId.CLOCK,
        f"{abs(seconds)} s {side} the operator's",
    )


async def test_a_clock_beyond_all_guesses(
    examined: Examine, environ: Environ, operator: LocalOperator
) -> None:
    """A clock that is off by days is still the cause that is named."""
    operator.advance(3 * 86_400)
    await expect(examined, environ, CheckId.CLOCK, "off by more than")


async def test_a_clock_that_a_date_header_tells(
    examined: Examine, environ: Environ, operator: LocalOperator
) -> None:
    """Where something before the operator sends a Date, no guessing is needed."""
    operator.advance(3 * 86_400)
    operator.fail_next(Fault(date=True))
    await expect(examined, environ, CheckId.CLOCK, f"{3 * 86_400} s behind")


async def test_a_clock_that_is_slightly_off(
    examined: Examine, environ: Environ, operator: LocalOperator
) -> None:
    """Half a minute still works, and is a warning."""
    operator.advance(30)
    found = await examined(environ)

    assert [one.check for one in found.warnings] == [CheckId.CLOCK]
    assert found.causes == []


def with_keys(change: Callable[[Any], Any]) -> OperatorData:
    """Make a world in which every key is changed."""
    data = OperatorData.sample()
    return attrs.evolve(data, keys=tuple(map(change, data.keys)))


@pytest.mark.parametrize("who", ["bidder", "sharer"])
async def test_expired_keys(examined: Examine, who: str) -> None:
    """An operator that has no master key any more does not return keys."""
    data = with_keys(lambda key: structs.replace(key, expires=key.activates + 60))
    async with LocalOperator(data) as operator:
        found = await examined(name(operator, who))

    assert [one.check for one in found.causes] == [CheckId.KEYS]
    assert "does not return keys" in found.causes[0].message


async def test_no_key_to_encrypt_with(examined: Examine) -> None:
    """A sharer whose own keys have expired can decrypt, and is warned."""

    def change(key: Any) -> Any:
        if key.keyset_id == MASTER_KEYSET:
            return key
        return structs.replace(key, expires=key.activates + 60)

    async with LocalOperator(with_keys(change)) as operator:
        found = await examined(name(operator, "sharer"))

    (finding,) = found.warnings
    assert finding.check is CheckId.KEYS
    assert "None of them can encrypt" in finding.message


@in_both
async def test_an_operator_of_the_other_scope(
    examined: Examine, scope: IdentityScope
) -> None:
    """A key whose form says one system, at an operator of the other."""
    (other,) = set(IdentityScope) - {scope}
    data = attrs.evolve(OperatorData.sample(scope=scope), scope=other)
    async with LocalOperator(data) as operator:
        bidder = operator.credentials["bidder"]
        environ = {
            f"{scope}_BASE_URL": operator.url,
            f"{scope}_API_KEY": bidder.api_key,
            f"{scope}_SECRET_KEY": bidder.client_secret,
        }
        await expect(examined, environ, CheckId.KEYS, f"serves {other}")
