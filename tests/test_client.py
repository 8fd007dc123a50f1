"""UID2Client against the embedded operator: every endpoint, every outcome."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
from msgspec.structs import replace

from consent import NO_CONSENT, consent_in
from uid2_async import (
    AesGcmEnvelope,
    Email,
    EmailHash,
    IdentityScope,
    IdentityTokens,
    InsufficientConsent,
    KeyRing,
    MappedUID,
    OptedOut,
    Phone,
    RetryPolicy,
    SessionPool,
    UID2Client,
    Unmapped,
    UnmappedReason,
    errors,
)
from uid2_async.operator import Fault, LocalOperator

SECRET = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
KEY = "UID2-C-L-1-abcdef.canary"


def connect(operator: LocalOperator, **options: Any) -> UID2Client:
    """Make a client of *operator*."""
    defaults = {
        "api_key": operator.api_key,
        "client_secret": operator.client_secret,
        "scope": operator.data.scope,
        "clock": lambda: operator.now,
    }
    return UID2Client(operator.url, **(defaults | options))


async def generate(client: UID2Client, identity: str) -> IdentityTokens:
    """Generate tokens that must be there."""
    tokens = await client.generate_token(
        identity, tcf_consent_string=consent_in(client.scope)
    )
    assert isinstance(tokens, IdentityTokens)
    return tokens


async def test_tokens_are_generated_and_validated(client: UID2Client) -> None:
    """The token is this identity's and nobody else's."""
    tokens = await generate(client, "user@example.com")

    token = tokens.advertising_token
    assert await client.validate_token("USER@example.com", token)
    assert await client.validate_token(Email("user@example.com "), token)
    assert not await client.validate_token("other@example.com", token)
    with pytest.raises(errors.BadRequestError, match="Invalid token"):
        await client.validate_token("user@example.com", "no token")


async def test_tokens_are_refreshed_with_a_new_key(client: UID2Client) -> None:
    """A refresh gives all new tokens, and those can be refreshed again."""
    first = await generate(client, "+12345678901")

    second = await client.refresh_token(first)
    assert isinstance(second, IdentityTokens)
    third = await client.refresh_token(second)

    assert isinstance(third, IdentityTokens)
    keys = {one.refresh_response_key for one in (first, second, third)}
    assert len(keys) == 3
    assert len(first.refresh_token) == 388


async def test_a_refresh_needs_no_api_key(
    client: UID2Client, operator: LocalOperator
) -> None:
    """A key that the operator does not know changes nothing."""
    tokens = await generate(client, "user@example.com")

    unknown = f"{operator.data.scope}-C-L-1-abcdef.unknown"
    async with connect(operator, api_key=unknown, client_secret=SECRET) as stranger:
        assert isinstance(await stranger.refresh_token(tokens), IdentityTokens)
        expired = operator.now + timedelta(days=40)
        operator.advance((expired - operator.now).total_seconds())
        with pytest.raises(errors.InvalidTokenError) as caught:
            await stranger.refresh_token(tokens)

    assert "expired" in caught.value.hint
    with pytest.raises(errors.ExpiredTokenError):
        await client.refresh_token(tokens)


async def test_a_refresh_reply_in_the_clear_is_for_short_tokens_alone(
    client: UID2Client, operator: LocalOperator
) -> None:
    """A 388-character token must get a sealed reply; others get theirs in the clear."""
    tokens = await generate(client, "user@example.com")
    clear = Fault(status=200, body=b'{"status":"optout"}')

    operator.fail_next(clear, times=9)
    with pytest.raises(errors.EnvelopeError):
        await client.with_options(retry=RetryPolicy.never()).refresh_token(tokens)
    short = replace(tokens, refresh_token="x" * 168, refresh_response_key=None)
    assert await client.refresh_token(short) == OptedOut()


async def test_a_wrong_response_key_is_named_in_the_hint(client: UID2Client) -> None:
    """The client secret, which plays no part in a refresh, is not."""
    tokens = await generate(client, "user@example.com")
    wrong = replace(tokens, refresh_response_key="A" * 43 + "=")

    with pytest.raises(errors.EnvelopeError) as caught:
        await client.refresh_token(wrong)

    assert "refresh_response_key" in caught.value.hint
    assert "client secret" not in caught.value.hint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"refresh_response_key": None}, "refresh_response_key"),
        ({"refresh_response_key": "canary"}, "refresh_response_key"),
        ({"refresh_token": ""}, "refresh token"),
        ({"refresh_token": "canary\n"}, "refresh token"),
        ({"refresh_token": "canäry"}, "refresh token"),
    ],
)
async def test_tokens_that_cannot_be_refreshed_are_refused(
    client: UID2Client, operator: LocalOperator, change: dict, message: str
) -> None:
    """A reply that could not be opened is not asked for."""
    tokens = replace(await generate(client, "user@example.com"), **change)
    operator.reset()

    with pytest.raises(errors.InputError, match=message) as caught:
        await client.refresh_token(tokens)

    assert "can" not in str(caught.value)
    assert operator.calls == []


async def test_an_opt_out_is_a_value_everywhere(
    client: UID2Client, operator: LocalOperator, consent: str | None
) -> None:
    """Generate, refresh and map answer an opt-out; none raises it."""
    tokens = await generate(client, "gone@example.com")
    operator.opt_out("gone@example.com")

    assert (
        await client.generate_token("gone@example.com", tcf_consent_string=consent)
        == OptedOut()
    )
    assert await client.refresh_token(tokens) == OptedOut()
    found = await client.map_identities(["gone@example.com"])
    assert found.get("gone@example.com") == Unmapped(UnmappedReason.OPTED_OUT)
    operator.opt_in("gone@example.com")
    assert isinstance(await client.refresh_token(tokens), IdentityTokens)


async def test_logging_out_opts_out(client: UID2Client, consent: str | None) -> None:
    """token/logout reaches the built-in operator's own store."""
    await client.opt_out("leaving@example.com")

    assert (
        await client.generate_token("leaving@example.com", tcf_consent_string=consent)
        == OptedOut()
    )


async def test_identities_are_mapped_in_the_order_of_the_input(
    client: UID2Client, operator: LocalOperator
) -> None:
    """All kinds, duplicates and invalid ones in one request, each row answered."""
    asked = [
        "user@example.com",
        "not an address",
        Phone("+12345678901"),
        EmailHash("tMmiiTI7IaAcPpQPFQ65uMVCWH8av9jw4cwf/F5HVRQ="),
        "USER@example.com",
        "optout@example.com",
    ]

    found = await client.map_identities(asked)

    assert [type(row) for row in found] == [
        *(MappedUID, Unmapped, MappedUID, MappedUID, MappedUID, Unmapped)
    ]
    uids = [row.raw_uid for row in found if isinstance(row, MappedUID)]
    assert uids[0] == uids[2] == uids[3] != uids[1]
    assert found[1] == Unmapped(UnmappedReason.INVALID_IDENTIFIER)
    assert len(operator.calls) == 1
    assert operator.calls[0].binary
    assert operator.calls[0].items == 5


async def test_raw_and_hashed_dii_map_alike(
    client: UID2Client, operator: LocalOperator
) -> None:
    """Local normalization is the operator's own."""
    asked = [" Jane.Doe+x@Gmail.com ", "jane doe@example.com", "+12345678901"]

    hashed = await client.map_identities(asked)
    raw = await client.with_options(send_raw=True).map_identities(asked)

    assert list(hashed) == list(raw)
    assert operator.calls[0].keys != operator.calls[1].keys


async def test_nothing_to_send_is_not_sent(
    client: UID2Client, operator: LocalOperator
) -> None:
    """Empty input, and input that is invalid throughout, cost no request."""
    assert list(await client.map_identities([])) == []
    found = await client.map_identities(["x", ""])
    assert set(found) == {Unmapped(UnmappedReason.INVALID_IDENTIFIER)}
    assert not (await client.opt_out_status([])).opted_out
    assert operator.calls == []


async def test_the_old_map_tells_buckets(
    client: UID2Client, operator: LocalOperator
) -> None:
    """One request for each kind; the same raw UIDs as v3, with a bucket; a warning."""
    asked = ["user@example.com", "bad", "+12345678901", "optout@example.com"]

    with pytest.warns(DeprecationWarning, match="past its announced end") as warned:
        old = await client.map_identities_v2(asked)
    new = await client.map_identities(asked)

    assert warned[0].filename == __file__
    for one, other in zip(old, new, strict=True):
        if isinstance(one, MappedUID):
            assert isinstance(other, MappedUID)
            assert one.raw_uid == other.raw_uid
            assert one.bucket_id
        else:
            assert one == other
    paths = [call.path for call in operator.calls]
    assert paths == ["/v2/identity/map"] * 2 + ["/v3/identity/map"]


async def test_buckets_are_listed_since_an_instant(client: UID2Client) -> None:
    """All buckets since long ago, none since the future."""
    with pytest.warns(DeprecationWarning, match="buckets") as warned:
        everything = await client.identity_buckets(datetime(2000, 1, 1, tzinfo=UTC))
    assert warned[0].filename == __file__
    with pytest.warns(DeprecationWarning, match="buckets"):
        nothing = await client.identity_buckets(datetime(2100, 1, 1, tzinfo=UTC))

    assert len(everything) >= 1_000
    assert everything[0].last_updated.tzinfo is UTC
    assert nothing == []


async def test_opted_out_raw_uids_are_found(
    client: UID2Client, operator: LocalOperator
) -> None:
    """Recorded raw UIDs are found with the time of the opt-out, others are not."""
    found = await client.map_identities(
        [f"person{number}@example.com" for number in range(40)]
    )
    # A v2 raw UID: the operator does not find v4 ones of most environments.
    uids = [row.raw_uid for row in found if isinstance(row, MappedUID)]
    at = next(at for at, uid in enumerate(uids) if uid.endswith("="))
    operator.opt_out(f"person{at}@example.com")

    status = await client.opt_out_status(uids)

    assert list(status.opted_out) == [uids[at]]
    assert abs(status.opted_out[uids[at]] - operator.now) < timedelta(seconds=5)


async def test_keys_are_fetched(client: UID2Client) -> None:
    """Sharing keys can encrypt, bid stream keys cannot."""
    sharing = await client.fetch_sharing_keys()
    bidstream = await client.fetch_bidstream_keys()

    assert isinstance(sharing, KeyRing)
    assert sharing.caller_site_id is not None
    assert bidstream.caller_site_id is None


async def test_roles_are_enforced(operator: LocalOperator) -> None:
    """A key without the role gets an AuthError with a hint, after two tries."""
    publisher = operator.credentials["publisher"]
    async with connect(
        operator, api_key=publisher.api_key, client_secret=publisher.client_secret
    ) as client:
        await generate(client, "user@example.com")
        with pytest.raises(errors.AuthError) as caught:
            await client.map_identities(["user@example.com"])

    assert caught.value.status == 401
    assert "role" in caught.value.hint
    assert caught.value.trace_id == operator.calls[-1].trace_id
    # The kept connection, and a fresh one that confirms it.
    assert len(operator.calls) == 3


async def test_a_wrong_secret_is_named(
    operator: LocalOperator, consent: str | None
) -> None:
    """The operator cannot open the request, and says so before anything else."""
    async with connect(operator, client_secret=SECRET) as client:
        with pytest.raises(errors.AuthError) as caught:
            await client.generate_token("user@example.com", tcf_consent_string=consent)

    assert "client secret" in caught.value.hint


async def test_a_wrong_clock_is_named(
    client: UID2Client, operator: LocalOperator, consent: str | None
) -> None:
    """An envelope that is too old or too new is a ClockSkewError."""
    operator.advance(3600)
    async with connect(operator, clock=lambda: datetime.now(UTC)) as late:
        with pytest.raises(errors.ClockSkewError):
            await late.generate_token("user@example.com", tcf_consent_string=consent)


async def test_transient_failures_are_survived(
    client: UID2Client, operator: LocalOperator
) -> None:
    """A dropped connection, a 503 and a cut reply in a row end in the answer."""
    patient = client.with_options(retry=RetryPolicy(_random=lambda: 0.0))
    for fault in (Fault(drop=True), Fault(status=503), Fault(cut_after=10)):
        operator.fail_next(fault)

    assert await generate(patient, "user@example.com")
    assert len(operator.calls) >= 3


async def test_an_operator_that_stays_down_is_reported(
    client: UID2Client, operator: LocalOperator, consent: str | None
) -> None:
    """The last answer comes out, with the number of attempts."""
    patient = client.with_options(retry=RetryPolicy(_random=lambda: 0.0))
    operator.fail_next(Fault(status=500, body=b"broken"), times=9)

    with pytest.raises(errors.ServerError) as caught:
        await patient.generate_token("user@example.com", tcf_consent_string=consent)

    assert (caught.value.status, caught.value.attempts) == (500, 4)
    assert caught.value.retryable


@pytest.mark.parametrize("fault", [Fault(wrong_nonce=True), Fault(wrong_key=True)])
async def test_a_forged_reply_is_refused(
    client: UID2Client, operator: LocalOperator, fault: Fault
) -> None:
    """A reply to another request or with another key is rejected."""
    operator.fail_next(fault, times=9)
    patient = client.with_options(retry=RetryPolicy(_random=lambda: 0.0))

    with pytest.raises(errors.EnvelopeError):
        await generate(patient, "user@example.com")


async def test_a_slow_operator_meets_the_time_out(
    client: UID2Client, operator: LocalOperator, consent: str | None
) -> None:
    """The time-out of a call bounds it as a whole."""
    operator.fail_next(Fault(delay=30), times=9)

    with pytest.raises(errors.CallTimeoutError):
        await client.generate_token(
            "user@example.com", tcf_consent_string=consent, timeout=0.05
        )


async def test_a_second_region_takes_over(operator: LocalOperator) -> None:
    """With the first region down, the call succeeds at the second."""
    async with UID2Client(
        ["http://127.0.0.1:1", operator.url],
        api_key=operator.api_key,
        client_secret=operator.client_secret,
        scope=operator.data.scope,
        retry=RetryPolicy(_random=lambda: 0.0),
    ) as client:
        assert await generate(client, "user@example.com")


@pytest.mark.parametrize("scope", [IdentityScope.EUID])
async def test_consent_is_judged_in_the_euid_scope(client: UID2Client) -> None:
    """Unreadable consent is an error, insufficient consent a value."""
    with pytest.raises(errors.BadRequestError, match="consent"):
        await client.generate_token("user@example.com", tcf_consent_string="bad")
    assert (
        await client.generate_token("user@example.com", tcf_consent_string=NO_CONSENT)
        == InsufficientConsent()
    )


@pytest.mark.parametrize("scope", [IdentityScope.EUID])
async def test_missing_consent_is_warned_of_once(client: UID2Client) -> None:
    """An EUID operator judges no consent where none is given; UID2 has none at all."""
    with pytest.warns(UserWarning, match="tcf_consent_string") as warned:
        await client.generate_token("user@example.com")
    assert await client.generate_token("user@example.com")

    assert len(warned) == 1
    assert warned[0].filename == __file__


async def test_too_many_items_are_refused(
    client: UID2Client, operator: LocalOperator
) -> None:
    """A call carries at most max_batch_size, which private operators may raise."""
    small = client.with_options(max_batch_size=2)

    for call in (small.map_identities, small.opt_out_status):
        with pytest.raises(errors.InputError, match="3 items, more than 2"):
            await call(["a@b.c"] * 3)
    with pytest.raises(errors.InputError, match="is a str"):
        await client.map_identities("user@example.com")
    assert operator.calls == []


@pytest.mark.parametrize("identity", ["canary", "", "+1canary", EmailHash("canary")])
async def test_one_invalid_identity_is_refused_before_anything_is_sent(
    client: UID2Client, operator: LocalOperator, consent: str | None, identity: Any
) -> None:
    """The error names the kind, never the value."""
    for call in (
        client.generate_token(identity, tcf_consent_string=consent),
        client.validate_token(identity, "token"),
        client.opt_out(identity),
    ):
        with pytest.raises(errors.InputError, match="is not valid") as caught:
            await call
        assert "canary" not in str(caught.value)
    assert operator.calls == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"client_secret": ""}, "client secret"),
        ({"client_secret": SECRET + "\n"}, "client secret"),
        ({"client_secret": SECRET[:-4]}, "client secret"),
        ({"client_secret": "canary"}, "client secret"),
        ({"api_key": ""}, "API key"),
        ({"api_key": "EUID-C-L-1-canary"}, "belongs to EUID"),
        ({"base_url": "https://user:canary@host"}, "credentials"),
        ({"base_url": "http://host"}, "in the clear"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"max_batch_size": 0}, "max_batch_size"),
    ],
)
def test_wrong_settings_are_refused_at_once(options: dict, message: str) -> None:
    """A client that cannot work is not made; no secret is shown."""
    settings = {"base_url": "https://x", "api_key": KEY, "client_secret": SECRET}

    with pytest.raises(errors.ConfigError, match=message) as caught:
        UID2Client(**(settings | options))

    assert "canary" not in str(caught.value)


def test_session_and_transport_exclude_each_other() -> None:
    """Two ways to carry requests at once is a mistake."""
    with pytest.raises(TypeError, match="not both"):
        UID2Client(
            "https://x",
            api_key=KEY,
            client_secret=SECRET,
            session=object(),  # type: ignore[arg-type] # never looked at
            transport=SessionPool("https://x"),
        )


async def test_a_given_session_stays_open(operator: LocalOperator) -> None:
    """The caller's session is used and not closed."""
    async with aiohttp.ClientSession() as session:
        async with connect(operator, session=session) as client:
            await generate(client, "user@example.com")
        assert not session.closed


async def test_a_given_transport_stays_open(operator: LocalOperator) -> None:
    """A pool may serve several clients; its owner closes it."""
    async with SessionPool(operator.url, max_connections=3) as pool:
        for _ in range(2):
            async with connect(operator, transport=pool) as client:
                await generate(client, "user@example.com")


class ForgetfulEnvelope(AesGcmEnvelope):
    """An envelope that seals nothing, whatever it is given."""

    def seal(self, payload: bytes, **options: Any) -> bytes:
        """Leave the payload out."""
        return super().seal(b"", **options)


async def test_the_envelope_can_be_replaced(
    operator: LocalOperator, consent: str | None
) -> None:
    """All that is sent and received passes through the envelope that was given."""
    async with connect(operator, envelope=ForgetfulEnvelope()) as client:
        with pytest.raises(errors.BadRequestError, match="Required Parameter Missing"):
            await client.generate_token("user@example.com", tcf_consent_string=consent)
        assert await client.fetch_sharing_keys()


async def test_options_can_be_changed_on_shared_connections(
    client: UID2Client,
) -> None:
    """A copy has its own options; closing it closes nothing."""
    seen: list[Any] = []
    copy = client.with_options(hooks=[seen.append], timeout=5)

    await generate(copy, "user@example.com")
    await copy.aclose()
    await generate(client, "user@example.com")

    assert [type(one).__name__ for one in seen] == [
        "CallStarted",
        "AttemptStarted",
        "CallFinished",
        "IdentitiesAnswered",
    ]


async def test_a_closed_client_says_so(
    operator: LocalOperator, consent: str | None
) -> None:
    """Closing twice is harmless; calling afterwards is a clear error."""
    client = connect(operator)
    await client.aclose()
    await client.aclose()

    with pytest.raises(errors.ClientClosedError, match="closed"):
        await client.generate_token("user@example.com", tcf_consent_string=consent)


async def test_a_client_comes_from_the_environment(
    scope: IdentityScope, operator: LocalOperator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variables of the scope name operator, key and secret, others do not."""
    monkeypatch.setenv(f"{scope}_BASE_URL", operator.url)
    monkeypatch.setenv(f"{scope}_API_KEY", operator.api_key)
    monkeypatch.setenv(f"{scope}_SECRET_KEY", operator.client_secret)

    async with UID2Client.from_env(scope, timeout=5) as client:
        assert await generate(client, "user@example.com")
    (other,) = set(IdentityScope) - {scope}
    with pytest.raises(errors.ConfigError, match=f"{other}_"):
        UID2Client.from_env(other)


def test_a_client_shows_where_it_calls_and_no_more() -> None:
    """A repr has scope and base URLs, no key and no secret."""
    client = UID2Client("x.example", api_key=KEY, client_secret=SECRET)

    assert repr(client) == "<UID2Client UID2 https://x.example>"
    assert "canary" not in repr(vars(client))
    assert SECRET not in repr(vars(client))
