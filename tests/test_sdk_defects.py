"""What the official Python SDK gets wrong (docs/protocol.md 8.1) and ours must not.

The number in each name is the number in that table.
"""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tokens_by_ring import decrypt, encrypt
from uid2_async import (
    EmailHash,
    IdentityTokens,
    KeyRing,
    MappedUID,
    PhoneHash,
    RetryPolicy,
    UID2Client,
    Unmapped,
    UnmappedReason,
    errors,
)
from uid2_async.models import IdentityType, ms_from_datetime
from uid2_async.operator import Fault, LocalOperator
from uid2_async.operator.http_messages import encode_success
from uid2_async.operator.tokens import encode_status
from uid2_async.protocol import mapping, normalize, tokens
from uid2_async.protocol.token_rules import ClientType

NOW_MS = 1_800_000_000_000
DAY_MS = 86_400_000
SECRET = base64.b64encode(bytes(range(32))).decode()
V2_UID = base64.b64encode(bytes(32)).decode()


def key(key_id: int, keyset_id: int, activates: int) -> dict[str, Any]:
    """Make a key; times in seconds."""
    return {
        "id": key_id,
        "keyset_id": keyset_id,
        "created": 0,
        "activates": activates,
        "expires": NOW_MS // 1000 + 10_000,
        "secret": SECRET,
    }


def ring(**change: Any) -> KeyRing:
    """Make a key ring as key/sharing returns it, with changes."""
    body = {
        "caller_site_id": 7,
        "master_keyset_id": 9_999_999,
        "default_keyset_id": 5,
        "token_expiry_seconds": "2592000",
        "max_sharing_lifetime_seconds": 2_592_010,
        "identity_scope": "UID2",
        "allow_clock_skew_seconds": 1800,
        "keys": [key(1, 9_999_999, 100), key(2, 5, 100)],
    }
    body |= change
    body = {name: value for name, value in body.items() if value is not None}
    return KeyRing.from_json(json.dumps({"body": body, "status": "success"}))


def seal(raw_uid: str, keys: KeyRing, **options: Any) -> str:
    """Make a sharing token."""
    ivs = {"master_iv": bytes(12), "site_iv": bytes(range(12))}
    return encrypt(raw_uid, keys, now_ms=NOW_MS, **ivs, **options)


def unseal(token: str, keys: KeyRing) -> Any:
    """Open a sharing token."""
    return decrypt(token, keys, now_ms=NOW_MS, client=ClientType.SHARING)


def test_1_times_are_milliseconds() -> None:
    """An identity that expired yesterday is seen to be expired."""
    now = datetime.now(UTC)
    yesterday = ms_from_datetime(now) - DAY_MS
    stored = {
        "advertising_token": "a",
        "refresh_token": "b",
        "refresh_response_key": "c",
        "identity_expires": yesterday,
        "refresh_from": yesterday,
        "refresh_expires": yesterday + 2 * DAY_MS,
    }

    read = IdentityTokens.from_json(json.dumps(stored))

    assert read.identity_expires < now
    assert read.refresh_from < now < read.refresh_expires


@pytest.mark.parametrize("text", ['{"advertising_token":"a"}', "{}", "garbage"])
def test_3_stored_tokens_are_read_strictly(text: str) -> None:
    """A missing field is an error at once, not None for later."""
    with pytest.raises(errors.InputError):
        IdentityTokens.from_json(text)


def test_4_all_spaces_of_the_local_part_go() -> None:
    """An inner space hashes as the operator hashes it."""
    spaced = normalize.normalize_email("jane doe@example.com")

    assert spaced == "janedoe@example.com"


@pytest.mark.parametrize("phone", ["+1234567890\u00b2", "+\uff11234567890"])
def test_5_phones_are_ascii_digits(phone: str) -> None:
    """Digits of other scripts name nobody."""
    assert normalize.normalize_phone(phone) is None


async def test_6_errors_show_no_dii(client: UID2Client, consent: str | None) -> None:
    """An invalid email or phone is not in the error's text."""
    for canary in ("canary", "+1canary"):
        with pytest.raises(errors.InputError) as caught:
            await client.generate_token(canary, tcf_consent_string=consent)
        assert "canary" not in str(caught.value)
    with pytest.raises(errors.InputError):
        await client.generate_token(None, tcf_consent_string=consent)  # type: ignore[arg-type] # under test


async def test_7_one_bad_identity_spoils_no_batch(client: UID2Client) -> None:
    """The others are mapped."""
    found = await client.map_identities(["user@example.com", "bad"])

    assert isinstance(found[0], MappedUID)
    assert found[1] == Unmapped(UnmappedReason.INVALID_IDENTIFIER)


def test_13_the_newest_key_encrypts_whatever_the_order() -> None:
    """Keys that arrive unsorted do not make an old one serve."""
    newest_first = [key(9, 5, 900), key(3, 5, 300), key(2, 5, 100)]
    keys = ring(keys=[key(1, 9_999_999, 100), *newest_first])
    without = ring(keys=[key(1, 9_999_999, 100), *newest_first[1:]])

    token = seal(V2_UID, keys)

    assert unseal(token, keys).raw_uid == V2_UID
    with pytest.raises(errors.TokenError) as caught:
        unseal(token, without)
    assert caught.value.reason is errors.TokenFailure.NOT_AUTHORIZED_FOR_KEY


def test_14_keys_that_cannot_encrypt_say_so() -> None:
    """Bid stream keys have no caller: an error, not None."""
    with pytest.raises(errors.TokenError):
        seal(V2_UID, ring(caller_site_id=None))


def test_15_times_keep_their_milliseconds() -> None:
    """A token made at .123 s is established at .123 s."""
    keys = ring()
    ivs = {"master_iv": bytes(12), "site_iv": bytes(range(12))}
    token = encrypt(V2_UID, keys, now_ms=NOW_MS + 123, **ivs)

    assert ms_from_datetime(unseal(token, keys).established) == NOW_MS + 123


@pytest.mark.parametrize(
    ("first", "expected"),
    [(0x24, "phone"), (0x64, "phone"), (0xA4, "phone"), (0x20, "email")],
)
def test_16_the_type_of_a_v4_raw_uid_is_read_right(first: int, expected: str) -> None:
    """J, Z and p start v4 phones; the first character alone does not tell."""
    raw_uid = base64.b64encode(bytes([first]) + bytes(32)).decode()
    keys = ring()

    assert unseal(seal(raw_uid, keys), keys).identity_type is IdentityType(expected)


def test_16_a_v2_raw_uid_that_starts_with_f_is_an_email() -> None:
    """A raw UID without type is not guessed by its letter."""
    raw_uid = base64.b64encode(b"\x14" + bytes(31)).decode()
    keys = ring()

    assert raw_uid.startswith("F")
    assert unseal(seal(raw_uid, keys), keys).identity_type is IdentityType.EMAIL


async def test_17_a_hung_operator_is_left(
    client: UID2Client, operator: LocalOperator, consent: str | None
) -> None:
    """Every call ends within its time-out."""
    operator.fail_next(Fault(delay=60), times=9)

    with pytest.raises(errors.CallTimeoutError):
        await client.generate_token(
            "user@example.com", tcf_consent_string=consent, timeout=0.05
        )


async def test_18_the_operators_reason_is_read(client: UID2Client) -> None:
    """What a 400 says stands in the error."""
    with pytest.raises(errors.BadRequestError, match="Invalid token"):
        await client.validate_token("user@example.com", "nonsense")


async def test_21_an_error_shows_no_token(
    client: UID2Client, operator: LocalOperator, consent: str | None
) -> None:
    """An unexpected answer is not quoted."""
    made = await client.generate_token("user@example.com", tcf_consent_string=consent)
    assert isinstance(made, IdentityTokens)
    operator.fail_next(Fault(status=200, body=made.to_json().encode()), times=9)

    with pytest.raises(errors.EnvelopeError) as caught:
        await client.with_options(retry=RetryPolicy.never()).refresh_token(made)

    assert made.advertising_token not in str(caught.value)


@pytest.mark.parametrize("end", ["/", "/v2", "/v2/"])
async def test_24_the_base_url_may_end_as_it_likes(
    operator: LocalOperator, end: str
) -> None:
    """No slash is doubled."""
    async with UID2Client(
        operator.url + end,
        api_key=operator.api_key,
        client_secret=operator.client_secret,
        scope=operator.data.scope,
    ) as client:
        await client.map_identities(["user@example.com"])

    assert [call.path for call in operator.calls] == ["/v3/identity/map"]


def test_26_one_hash_may_be_an_email_and_a_phone() -> None:
    """The same text as two kinds has two answers, and duplicates keep their rows."""
    query = mapping.prepare_map(
        [EmailHash(SECRET), PhoneHash(SECRET), EmailHash(SECRET)]
    )
    mapped = {"u": "A" * 44, "p": None, "r": 1}
    body = {"email_hash": [mapped, mapped], "phone_hash": [{"e": "optout"}]}
    payload = json.dumps({"status": "success", "body": body}).encode()

    found = mapping.align_map(query, mapping.parse_map_v3_rows(payload, query.values))

    first, second, third = found
    assert first == third != second
    assert found.get(EmailHash(SECRET)) == first
    assert found.get(PhoneHash(SECRET)) == second


def test_27_a_newer_operator_may_say_more() -> None:
    """Unknown keys are ignored, and ``p`` may be missing."""
    query = mapping.prepare_map(["user@example.com"])
    row = {"u": "A" * 44, "r": 1, "new": True}
    body = {"email_hash": [row], "loyalty_hash": []}
    payload = json.dumps({"status": "success", "body": body, "new": 1}).encode()

    assert isinstance(
        mapping.align_map(query, mapping.parse_map_v3_rows(payload, query.values))[0],
        MappedUID,
    )
    with pytest.raises(errors.OperatorError):
        mapping.align_map(
            query, mapping.parse_map_v3_rows(b'{"status":"maintenance"}', query.values)
        )


async def test_29_local_time_is_never_guessed(client: UID2Client) -> None:
    """A naive datetime is refused."""
    with (
        pytest.warns(DeprecationWarning, match="buckets"),
        pytest.raises(errors.InputError),
    ):
        await client.identity_buckets(datetime(2026, 1, 1))  # noqa: DTZ001 - under test


def test_30_a_token_with_a_stray_character_is_refused() -> None:
    """Foreign characters are not dropped."""
    keys = ring()
    token = seal(V2_UID, keys)

    with pytest.raises(errors.TokenError) as caught:
        unseal(token[:50] + "%" + token[50:], keys)

    assert caught.value.reason is errors.TokenFailure.INVALID_PAYLOAD


def test_20_insufficient_consent_is_an_answer() -> None:
    """A 200 that says so is not an exception."""
    payload = encode_status("insufficient_user_consent")

    assert repr(tokens.parse_tokens_reply(payload)) == "InsufficientConsent()"


def test_2_refreshed_times_can_be_compared() -> None:
    """Times of a refresh are instants, so that an expired one can be seen."""
    body = tokens.TokensBody(
        advertising_token="a",
        refresh_token="b",
        identity_expires=NOW_MS,
        refresh_expires=NOW_MS,
        refresh_from=NOW_MS,
    )

    read = tokens.parse_refresh_reply(encode_success(body))

    assert isinstance(read, IdentityTokens)
    assert read.identity_expires - datetime.fromtimestamp(
        NOW_MS / 1000, UTC
    ) == timedelta(0)
