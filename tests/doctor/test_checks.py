"""Checks as pure functions of what a probe found: what no embedded operator does."""

from __future__ import annotations

import asyncio
import re
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from certificates import DAY, HOST, Faults, contexts
from uid2_async import IdentityScope, KeyRing, errors
from uid2_async.doctor import CheckId
from uid2_async.doctor.checks import check_api_key_form, check_base_url
from uid2_async.doctor.findings import Verdict
from uid2_async.doctor.network import (
    check_connection,
    check_dns,
    check_latency,
    check_operator,
    check_tls,
    date_offset,
    explain_certificate,
    explain_no_connection,
    explain_no_tls,
)
from uid2_async.doctor.operator import (
    CallOutcome,
    ProbeEndpoint,
    check_api_key,
    check_client_secret,
    check_clock,
    check_keys,
    check_roles,
    check_test_identities,
)
from uid2_async.models import IdentityMap, MapRow, OptedOut
from uid2_async.protocol.keyring import Key
from uid2_async.tls import CertificateFault, CertificateProblem
from uid2_async.transport import Reply, verifying_context

PAGE = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text(encoding="utf-8")
UID = "A" * 44
OUT = MapRow(reason="optout")
MAPPED = MapRow(raw_uid=UID)
UNKNOWN_KEY = CallOutcome(error=errors.AuthError("HTTP 401.", status=401))


def answers(**given: CallOutcome) -> dict[ProbeEndpoint, CallOutcome]:
    """Answer with a missing role whatever is not given."""
    return {one: given.get(one.name.lower(), UNKNOWN_KEY) for one in ProbeEndpoint}


def mapped(*rows: MapRow) -> CallOutcome:
    """Answer a map call."""
    return CallOutcome(value=IdentityMap(["a"] * len(rows), rows))


def refused(error: errors.OperatorError, status: int) -> CallOutcome:
    """Answer with an error of an HTTP status."""
    error.status = status
    return CallOutcome(error=error)


def says(finding: Verdict, outcome: str, words: str) -> bool:
    """Tell whether a finding is of *outcome* and its text holds *words*."""
    assert (finding.outcome, words in f"{finding.message} {finding.hint}") == (
        outcome,
        True,
    ), finding
    return True


def ssl_error(reason: str) -> ssl.SSLError:
    """Make an error of OpenSSL with a reason."""
    error = ssl.SSLError(1, "canary")
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ssl_error("WRONG_VERSION_NUMBER"), "does not speak TLS"),
        (ssl_error("TLSV1_ALERT_PROTOCOL_VERSION"), "TLS 1.2 or later"),
        (TimeoutError(), "took too long"),
        (ConnectionResetError(), "the handshake failed"),
    ],
)
def test_every_tls_fault_has_advice(error: OSError, words: str) -> None:
    """Whatever goes wrong in TLS, there is something to do."""
    finding = explain_no_tls(error)

    assert says(finding, "failed", words)
    assert finding.hint
    assert "canary" not in repr(finding)


@pytest.mark.parametrize("fault", CertificateFault)
def test_every_certificate_fault_has_advice_for_the_command_line(
    fault: CertificateFault,
) -> None:
    """OpenSSL's words say what it is, and no hint is about Python code."""
    problem = CertificateProblem(fault, "The operator's certificate was rejected: why.")

    finding = explain_certificate(problem)

    assert says(finding, "failed", "The operator's certificate was rejected: why.")
    assert finding.hint
    assert "SessionPool" not in finding.hint
    assert "TLS 1.2" not in finding.hint


CERTIFICATES = {
    "non-critical basic constraints": (
        Faults(ca_critical=False),
        "not marked critical",
    ),
    "no authority key identifier": (Faults(authority_key=False), "key identifier"),
    "no key usage": (Faults(ca_usage=False), "key usage"),
    "a weak key": (Faults(rsa_bits=1024), "key too weak"),
    "a wrong purpose": (
        Faults(purpose=ExtendedKeyUsageOID.CLIENT_AUTH),
        "purpose",
    ),
    "an issuer that is no CA": (Faults(ca=False, ca_usage=False), "CA"),
    "another host": (Faults(host="x.example"), "mismatch"),
    "expired": (Faults(begins=-2 * DAY, ends=-DAY), "expired"),
    "not yet valid": (Faults(begins=DAY, ends=2 * DAY), "not yet valid"),
}


@pytest.mark.parametrize("case", CERTIFICATES)
async def test_a_refused_certificate_is_named_for_what_it_is(
    raw_server: Any, tmp_path: Path, case: str
) -> None:
    """As Python 3.13 refuses it, by its strict flag; never as an old TLS."""
    faults, words = CERTIFICATES[case]
    server, client = contexts(faults, tmp_path)
    async with raw_server(b"", context=server) as running:
        port = int(running.url.rpartition(":")[2])
        finding = await check_tls("127.0.0.1", port, HOST, client, timeout=5.0, now=0.0)

    assert says(finding, "failed", "No secure connection.")
    assert words.lower() in finding.message.lower()
    assert "handshake failed" not in finding.message


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionRefusedError(), "closed: the connection was refused"),
        (TimeoutError(), "silent: connecting timed out"),
        (OSError("canary"), "unreachable"),
    ],
)
def test_every_connection_fault_has_advice(error: OSError, words: str) -> None:
    """Refused, silent and unreachable are distinguished."""
    finding = explain_no_connection(error, "192.0.2.1, port 443", [])

    assert says(finding, "failed", f"192.0.2.1, port 443 is {words}.")
    assert finding.hint
    assert "canary" not in repr(finding)


def test_several_addresses() -> None:
    """The first address is shown, the others are counted."""
    finding = check_dns("a.example", ("192.0.2.1", "192.0.2.2"), [])

    assert says(finding, "ok", "a.example is 192.0.2.1 and 1 more.")


def test_a_proxy_that_alone_knows_the_way() -> None:
    """Behind a corporate proxy not even names resolve, and the finding says so."""
    finding = check_dns("a.example", (), ["HTTPS_PROXY"])

    assert says(finding, "failed", "HTTPS_PROXY is set")
    assert "SessionPool" not in finding.hint


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("/login", "another path"),
        ("//login.example/", "redirects to login.example."),
        ("http://[", "another path"),
        ("http://a\x01b/", "another path"),
        ("", "another path"),
    ],
)
def test_redirects(location: str, words: str) -> None:
    """Only scheme and host of a redirect are shown, and only where they are sane."""
    reply = Reply(status=301, headers={"location": location}, body=b"")

    assert says(check_operator(reply, https=True), "failed", words)


@pytest.mark.parametrize(
    "error",
    [
        errors.ConnectError("Closed.", disconnected=True),
        errors.ProtocolError("Odd.", unparseable_http=True),
        errors.ConnectError("Unreachable."),
    ],
)
def test_silence_over_tls(error: errors.UID2Error) -> None:
    """What went wrong under TLS is no matter of the scheme."""
    assert says(check_operator(error, https=True), "failed", error.message)


def test_latency() -> None:
    """The middle counts; one slow call is no warning."""
    assert says(check_latency([0.1, 0.1, 5.0]), "ok", "Median 100 ms, longest 5000 ms")
    assert says(check_latency([0.1, 2.0, 5.0]), "warning", "nearer region")
    assert says(check_latency([]), "failed", "No call got a reply")


@pytest.mark.parametrize(
    ("scope", "url", "outcome", "words"),
    [
        ("UID2", "https://au.prod.uidapi.com", "ok", "UID2 production, Sydney"),
        ("UID2", "operator-integ.uidapi.com/v2", "ok", "UID2 integration."),
        ("EUID", "https://prod.euid.eu", "ok", "EUID production."),
        ("UID2", "https://prd.uidapi.com", "warning", "not one of the published"),
        ("UID2", "https://prod.uidapi.com/x", "warning", "not one of the published"),
        ("UID2", "https://prod.uidapi.com:8443", "warning", "not one of the published"),
        ("UID2", "http://10.0.0.1:8080", "warning", "sent unencrypted"),
    ],
)
def test_base_urls(scope: str, url: str, outcome: str, words: str) -> None:
    """Scheme, region, environment and path of a base URL are judged."""
    finding = check_base_url(IdentityScope(scope), url, allow_http=True)

    assert says(finding, outcome, words)


@pytest.mark.parametrize(
    ("key", "outcome", "words"),
    [
        ("old-key", "ok", "older keys"),
        ("UID2-C-I-8-cut", "warning", "copied completely"),
        ("A" * 43 + "=", "warning", "are swapped"),
    ],
)
def test_api_keys(key: str, outcome: str, words: str) -> None:
    """A key of an unknown form passes, with a warning where it looks wrong."""
    assert says(check_api_key_form(IdentityScope.UID2, key, ()), outcome, words)


def test_a_key_of_another_environment() -> None:
    """A key for integration is of no use at a production host."""
    key = f"UID2-C-I-8-{'a' * 6}.{'b' * 38}"
    finding = check_api_key_form(IdentityScope.UID2, key, ["https://prod.uidapi.com"])

    assert says(finding, "failed", "integration environment, but the base URL serves")


def test_the_key_could_not_be_asked_about() -> None:
    """Where the operator throttles or fails, the key is not blamed."""
    throttled = refused(errors.RateLimitError("HTTP 429."), 429)
    finding = check_api_key(answers(map=throttled))

    assert says(finding, "failed", "HTTP 429")
    assert not finding.unauthorized


def test_a_service_without_a_link_has_the_role() -> None:
    """A 401 with a message is not about the role (docs/protocol.md 2.5)."""
    link = errors.AuthError("The operator said: Invalid link_id", status=401)

    assert says(
        check_roles(answers(map=CallOutcome(error=link)), []), "ok", "has MAPPER"
    )


def test_a_role_that_cannot_be_told() -> None:
    """Bidders are let into sharing too, so that a ring alone tells a sharer."""
    wrong = refused(errors.AuthError("The operator cannot decrypt the request."), 400)
    found = answers(sharing=wrong, bidstream=wrong)

    assert says(check_roles(found, []), "warning", "Unknown: SHARER")


def test_replies_that_are_no_http_tell_nothing() -> None:
    """A garbled answer shows neither a role nor a secret to be right."""
    garbled = CallOutcome(error=errors.ProtocolError("No HTTP.", unparseable_http=True))

    assert says(check_api_key(answers(map=garbled)), "failed", "No HTTP")
    assert says(check_client_secret(answers(map=garbled)), "failed", "No HTTP")


def test_a_request_that_was_rewritten() -> None:
    """A gateway that changes bodies is distinguished from a wrong secret."""
    body = refused(errors.BadRequestError("The operator said: Invalid body: x"), 400)

    finding = check_client_secret(answers(generate=body))
    assert says(finding, "failed", "was changed in transit")
    assert not finding.unauthorized


def test_a_secret_that_nothing_tells_of() -> None:
    """Without a call that was let through there is no verdict."""
    throttled = refused(errors.RateLimitError("HTTP 429."), 429)

    assert says(check_client_secret(answers()), "skipped", "No call")
    assert says(check_client_secret(answers(map=throttled)), "failed", "HTTP 429")


@pytest.mark.parametrize(
    ("offset", "refused", "outcome"),
    [
        (0.4, False, "ok"),
        (-9.9, False, "ok"),
        (None, False, "ok"),
        (10.0, False, "warning"),
        (-59.0, False, "warning"),
        (61.0, False, "warning"),
        (119.9, False, "warning"),
        (-119.0, False, "warning"),
        (120.0, False, "failed"),
        (-119.1, False, "failed"),
        (1.0, True, "failed"),
        (None, True, "failed"),
    ],
)
def test_clocks(offset: float | None, refused: bool, outcome: str) -> None:
    """Ten seconds are a warning; from two minutes on requests fail (1.4)."""
    finding = check_clock(offset, refused=refused)

    assert finding.outcome == outcome
    if offset is not None:
        assert ("Requests are rejected." in finding.message) is (outcome == "failed")
        assert ("60 s is guaranteed" in finding.message) is (
            outcome == "failed" or abs(offset) >= 60
        )


@pytest.mark.parametrize(
    ("given", "outcome", "words"),
    [
        ({}, "skipped", "GENERATOR or MAPPER"),
        ({"map": mapped(OUT, MAPPED)}, "ok", "as documented"),
        ({"map": mapped(MAPPED, MAPPED)}, "failed", "optout@example.com was mapped"),
        ({"map": mapped(OUT, OUT)}, "failed", "validate@example.com was not"),
        (
            {
                "generate": CallOutcome(value="tokens"),
                "refresh": CallOutcome(value=OptedOut()),
            },
            "failed",
            "optout@example.com got tokens",
        ),
        (
            {
                "generate": CallOutcome(value=OptedOut()),
                "refresh": CallOutcome(value="tokens"),
            },
            "failed",
            "was not opted out on refresh",
        ),
        (
            {"generate": CallOutcome(value=OptedOut())},
            "failed",
            "HTTP 401",
        ),
        (
            {"map": refused(errors.BadRequestError("The operator said: no"), 400)},
            "failed",
            "said: no",
        ),
    ],
)
def test_test_identities(
    given: dict[str, CallOutcome], outcome: str, words: str
) -> None:
    """An operator that does not respect opt-outs is found out."""
    assert says(check_test_identities(answers(**given)), outcome, words)


NOW_MS = 1_000_000_000


def ring(**fields: Any) -> CallOutcome:
    """Answer with a ring of one key."""
    key = Key(
        id=1, secret=bytes(32), created=0, activates=0, expires=2_000_000, keyset_id=5
    )
    return CallOutcome(value=KeyRing(**({"keys": {1: key}} | fields)))


@pytest.mark.parametrize(
    ("given", "outcome", "words"),
    [
        ({}, "skipped", "SHARER or ID_READER"),
        ({"bidstream": ring()}, "ok", "1 keys, 1 of them active"),
        ({"bidstream": ring(keys={})}, "failed", "None of 0 keys is active"),
        (
            {"bidstream": ring(identity_scope=IdentityScope.EUID)},
            "failed",
            "--scope EUID",
        ),
        (
            {"sharing": ring(max_sharing_lifetime_seconds=60, default_keyset_id=5)},
            "ok",
            "1 of them active",
        ),
        (
            {"sharing": ring(max_sharing_lifetime_seconds=60)},
            "warning",
            "None of them can encrypt",
        ),
        (
            {"bidstream": CallOutcome(error=errors.ProtocolError("Not of the shape."))},
            "failed",
            "Not of the shape",
        ),
    ],
)
def test_keys(given: dict[str, CallOutcome], outcome: str, words: str) -> None:
    """Keys must be there, hold, be of the scope, and be fit for what the role does."""
    finding = check_keys(answers(**given), IdentityScope.UID2, NOW_MS)

    assert says(finding, outcome, words)


def test_keys_that_have_all_expired() -> None:
    """A ring that once was good is of no use."""
    finding = check_keys(
        answers(bidstream=ring()), IdentityScope.UID2, 3_000_000_000 * 1000
    )

    assert says(finding, "failed", "None of 1 keys is active")


def test_findings_hold_no_value() -> None:
    """An answer never shows what was returned."""
    assert UID not in repr(CallOutcome(value=UID))


@pytest.mark.parametrize(
    ("headers", "offset"),
    [
        ({"date": "Thu, 01 Jan 2026 00:00:30 GMT"}, 30.0),
        ({"date": "Thu, 01 Jan 2026 00:00:30 -0000"}, None),
        ({"date": "yesterday"}, None),
        ({}, None),
    ],
)
def test_dates(headers: dict[str, str], offset: float | None) -> None:
    """A valid Date header gives the offset; anything else does not."""
    reply = Reply(status=401, headers=headers, body=b"")

    assert date_offset(reply, datetime(2026, 1, 1, tzinfo=UTC)) == offset
    assert date_offset(errors.ConnectError("No."), datetime.now(UTC)) is None


async def test_nothing_to_connect_to() -> None:
    """Without an address there is no connection, and no exception."""
    finding, _ = await check_connection((), 443, [], timeout=1.0)

    assert says(finding, "failed", "is unreachable")


async def test_a_port_that_is_silent_in_tls(raw_server: Any) -> None:
    """A server that takes the connection and says nothing times out."""
    async with raw_server(b"", keep=True) as server:
        port = int(server.url.rpartition(":")[2])
        finding = await check_tls(
            "127.0.0.1", port, "localhost", verifying_context(), timeout=0.2, now=0.0
        )

    assert says(finding, "failed", "the handshake took too long")


def test_the_page_lists_every_check() -> None:
    """What is checked is documented, in the same order."""
    table = PAGE.split("| --- | --- |")[1].split("\n\n")[0]

    assert re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE) == [*CheckId]


async def test_the_example_of_the_page(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The block of Python in docs/doctor.md runs as it stands."""
    for scope in IdentityScope:
        for name in ("BASE_URL", "ENV", "API_KEY", "SECRET_KEY", "CLIENT_SECRET"):
            monkeypatch.delenv(f"{scope}_{name}", raising=False)
    block = PAGE.split("```python\n")[1].split("```")[0]
    await asyncio.to_thread(exec, compile(block, "docs/doctor.md", "exec"), {})

    assert capsys.readouterr().out.startswith("settings Neither UID2_BASE_URL")
