"""What values say without any key."""

from __future__ import annotations

import json
from base64 import b64encode, urlsafe_b64encode
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis.strategies import binary, dictionaries, one_of, sampled_from, text

from uid2_async import UID2Client
from uid2_async.identity_tokens import IdentityTokens, TokenState
from uid2_async.models import IdentityScope, IdentityType, MappedUID
from uid2_async.operator import LocalOperator, OperatorData
from uid2_async.protocol import base64
from uid2_async.protocol.hash_spelling import HashSpelling
from uid2_async.protocol.inspection import (
    Encoding,
    Inspection,
    Note,
    ValueKind,
    inspect_value,
)
from uid2_async.protocol.raw_uid import Environment

VECTORS = json.loads(
    (Path(__file__).parents[1] / "vectors" / "protocol_vectors.json").read_text()
)

TOKENS = {one["name"]: one for one in VECTORS["advertising_tokens"]}
REFRESH = VECTORS["refresh_tokens"]
V4_TOKEN: str = TOKENS["v4 uid2 email, v4 raw uid (prod)"]["token"]
V3_TOKEN: str = TOKENS["v3 uid2 email, v3 raw uid"]["token"]
V2_TOKEN: str = TOKENS["v2 uid2 email, v2 raw uid"]["token"]
MASTER_ID: int = VECTORS["token_keys"]["master"]["id"]
REFRESH_ID: int = VECTORS["token_keys"]["refresh"]["id"]
UID2, EUID = IdentityScope
CONSENT = "CPehNtWPehNtWABAMBFRACBoALAAAEJAAIYgAKwAQAKgArABAAqAAA"
NOW_MS = 1_700_000_000_000
HOUR_MS = 3_600_000
HEX = sha256(b"jane@example.com").hexdigest()
HASH = b64encode(bytes.fromhex(HEX)).decode()

# Of 32 bytes that spell both - and _ in the URL-safe alphabet.
URL_HASH = urlsafe_b64encode(b"\xfb\xff" * 16).decode()

# 33 bytes whose first one is no type byte.
NO_UID = b64encode(b"\x03" * 33).decode()


def inspect(value: str, now_ms: int = NOW_MS) -> Inspection:
    """Inspect at a fixed time."""
    return inspect_value(value, now_ms=now_ms)


def identity(**changes: Any) -> str:
    """Write identity tokens that are fresh."""
    fields = {
        "advertising_token": V4_TOKEN,
        "refresh_token": REFRESH["wrapped_b64"],
        "refresh_response_key": REFRESH["refresh_response_key_b64"],
        "refresh_from": NOW_MS + HOUR_MS,
        "identity_expires": NOW_MS + 2 * HOUR_MS,
        "refresh_expires": NOW_MS + 3 * HOUR_MS,
    }
    return json.dumps(fields | changes)


@pytest.mark.parametrize("name", TOKENS)
def test_advertising_tokens(name: str) -> None:
    """The header of a token has version, scope, type and key; v2 has less."""
    one = TOKENS[name]
    found = inspect(one["token"])
    old = one["version"] == 2

    assert found == Inspection(
        kinds=(ValueKind.ADVERTISING_TOKEN,),
        length=len(one["token"]),
        version=one["version"],
        scope=None if old else IdentityScope(one["scope"]),
        identity_type=None if old else IdentityType(one["identity_type"]),
        key_id=MASTER_ID,
        notes=(Note.SILENT_V2,) if old else (),
    )


@pytest.mark.parametrize("one", VECTORS["raw_uid_v4"])
def test_raw_uids_of_version_4(one: dict[str, Any]) -> None:
    """A v4 raw UID has scope, type, environment and key."""
    assert inspect(one["raw_uid"]) == Inspection(
        kinds=(ValueKind.RAW_UID,),
        length=44,
        version=4,
        scope=(UID2, EUID)[one["scope"]],
        identity_type=tuple(IdentityType)[one["type"]],
        environment=Environment(one["environment"]),
        key_id=one["key_id"],
    )


@pytest.mark.parametrize("name", [name for name in TOKENS if "v3 raw" in name])
def test_raw_uids_of_version_3(name: str) -> None:
    """A v3 raw UID has scope and type."""
    one = TOKENS[name]

    assert inspect(one["raw_uid"]) == Inspection(
        kinds=(ValueKind.RAW_UID,),
        length=44,
        version=3,
        scope=IdentityScope(one["scope"]),
        identity_type=IdentityType(one["identity_type"]),
    )


THREE = (ValueKind.HASH, ValueKind.RAW_UID, ValueKind.CLIENT_SECRET)


@pytest.mark.parametrize(
    ("value", "kinds", "encoding", "notes"),
    [
        (HEX, (ValueKind.HASH,), Encoding.HEX, (Note.HASH,)),
        (HEX.upper(), (ValueKind.HASH,), Encoding.HEX, (Note.HASH,)),
        (HASH, THREE, Encoding.BASE64, (Note.AMBIGUOUS,)),
        (
            HASH.rstrip("="),
            THREE,
            Encoding.BASE64,
            (HashSpelling.UNPADDED.advice, Note.AMBIGUOUS),
        ),
        (URL_HASH, THREE, Encoding.BASE64URL, (Note.URL_SAFE, Note.AMBIGUOUS)),
        (
            b64encode(HEX.encode()).decode(),
            (ValueKind.HASH,),
            Encoding.BASE64_OF_HEX,
            (HashSpelling.BASE64_OF_HEX.advice,),
        ),
        (
            b64encode(HASH.encode()).decode(),
            (ValueKind.HASH,),
            Encoding.BASE64_OF_BASE64,
            (HashSpelling.BASE64_OF_BASE64.advice,),
        ),
        (
            f"0x{HEX}",
            (ValueKind.HASH,),
            Encoding.HEX,
            (HashSpelling.PREFIXED_HEX.advice,),
        ),
        (
            sha256(b"").hexdigest(),
            (ValueKind.HASH,),
            Encoding.HEX,
            (HashSpelling.EMPTY_HASHED.advice,),
        ),
        (
            b64encode(sha256(b"").digest()).decode(),
            (ValueKind.HASH,),
            Encoding.BASE64,
            (HashSpelling.EMPTY_HASHED.advice,),
        ),
        (HEX[:32], (), None, (HashSpelling.OTHER_HASH.advice,)),
        (HEX[:40], (), None, (HashSpelling.OTHER_HASH.advice,)),
    ],
)
def test_hashes(
    value: str,
    kinds: tuple[ValueKind, ...],
    encoding: Encoding | None,
    notes: tuple[str, ...],
) -> None:
    """A hash is known by its writing; a wrong one comes with what to do."""
    found = inspect(value)

    assert (found.kinds, found.encoding, found.notes) == (kinds, encoding, notes)


def test_raw_uids_of_version_2_look_like_hashes() -> None:
    """32 bytes in base64 may be any of three things, and the note says so."""
    found = inspect(TOKENS["v2 uid2 email, v2 raw uid"]["raw_uid"])

    assert (found.kinds, found.version) == (THREE, 2)


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("wrapped_b64", Inspection(length=388, scope=UID2)),
        (
            "inner_v3_b64",
            Inspection(
                length=168,
                version=3,
                scope=UID2,
                identity_type=IdentityType.EMAIL,
                notes=(Note.NO_WRAPPER,),
            ),
        ),
        (
            "inner_v2_b64",
            Inspection(length=168, version=2, notes=(Note.NO_WRAPPER,)),
        ),
    ],
)
def test_refresh_tokens(field: str, expected: Inspection) -> None:
    """Wrapped or not, a refresh token names the key that it is sealed with."""
    found = inspect(REFRESH[field])

    assert found.kinds == (ValueKind.REFRESH_TOKEN,)
    assert found.key_id == REFRESH_ID
    for name in ("length", "version", "scope", "identity_type", "notes"):
        assert getattr(found, name) == getattr(expected, name)


@pytest.mark.parametrize(
    ("hours", "state"),
    [
        (0, TokenState.FRESH),
        (1, TokenState.DUE),
        (2, TokenState.EXPIRED_REFRESHABLE),
        (3, TokenState.DEAD),
    ],
)
def test_identity_tokens(hours: int, state: TokenState) -> None:
    """Identity tokens show their times and state, and the tokens in them are read."""
    found = inspect(identity(), NOW_MS + hours * HOUR_MS)

    assert (found.kinds, found.state) == ((ValueKind.IDENTITY_TOKENS,), state)
    assert found.refresh_from is not None
    assert found.refresh_from.timestamp() * 1000 == NOW_MS + HOUR_MS
    assert found.parts == {
        "advertising_token": inspect(V4_TOKEN),
        "refresh_token": inspect(REFRESH["wrapped_b64"]),
    }
    assert found.notes == ()


def test_identity_tokens_without_response_key() -> None:
    """Without its key, the reply to a refresh cannot be opened: say so."""
    found = inspect(identity(refresh_response_key=None))

    assert found.notes == (Note.NO_RESPONSE_KEY,)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("{", "not a JSON object"),
        ('{"a": 1}', "advertising_token is missing"),
        (identity(refresh_from="soon"), "refresh_from is not of type int"),
    ],
)
def test_other_json(value: str, words: str) -> None:
    """JSON that holds no identity tokens is nothing known; the note says what lacks."""
    found = inspect(value)

    assert found.kinds == ()
    assert words in found.notes[0]


@pytest.mark.parametrize(
    ("value", "scope", "environment", "site_id"),
    [
        (f"UID2-C-L-124-{'a' * 6}.{'b' * 38}", UID2, "local", 124),
        (f"EUID-C-T-5-{'a' * 6}.{'b' * 38}", EUID, "test", 5),
        (f"UID2-O-I-5-{'a' * 6}.{'b' * 38}", UID2, "integ", 5),
        (f"UID2-C-P-5-{'a' * 6}.{'b' * 38}", UID2, "prod", 5),
    ],
)
def test_api_keys(
    value: str, scope: IdentityScope, environment: str, site_id: int
) -> None:
    """An API key has scope, environment and site."""
    assert inspect(value) == Inspection(
        kinds=(ValueKind.API_KEY,),
        length=len(value),
        scope=scope,
        key_environment=environment,
        site_id=site_id,
    )


@pytest.mark.parametrize("value", ["UID2-C-L-124-short.key", "uid2-c-x"])
def test_odd_api_keys(value: str) -> None:
    """What merely begins like an API key is treated as one."""
    found = inspect(value)

    assert (found.kinds, found.notes) == ((ValueKind.API_KEY,), (Note.ODD_KEY,))


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("jane@example.com", ValueKind.EMAIL),
        # It spells the header of a token.
        ("B4Abigail@example.com", ValueKind.EMAIL),
        ("+12345678901", ValueKind.PHONE),
    ],
)
def test_dii(value: str, kind: ValueKind) -> None:
    """DII that nobody has hashed is named."""
    found = inspect(value)

    assert (found.kinds, found.notes) == ((kind,), (Note.DII,))


@pytest.mark.parametrize(
    ("value", "note"),
    [
        (V4_TOKEN[:200], Note.CUT),
        (V4_TOKEN[:217], Note.CUT),
        (f"{V3_TOKEN[:100]}\n{V3_TOKEN[100:]}", Note.CUT),
        (V4_TOKEN.replace("-", "+").replace("_", "/"), Note.ALPHABET),
        (V3_TOKEN.replace("+", "-").replace("/", "_"), Note.ALPHABET),
        (V2_TOKEN.replace("+", "-").replace("/", "_"), Note.ALPHABET),
    ],
)
def test_damaged_tokens(value: str, note: Note) -> None:
    """A token that was cut or rewritten is known as one, with what is wrong."""
    found = inspect(value)

    assert found.kinds == (ValueKind.ADVERTISING_TOKEN,)
    assert note in found.notes


def test_white_space() -> None:
    """White space around a value is looked past, and noted."""
    found = inspect(f" {HEX}\n")

    assert (found.length, found.kinds) == (66, (ValueKind.HASH,))
    assert found.notes == (Note.TRIMMED, Note.HASH)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (V3_TOKEN.replace("A", "%41"), ValueKind.ADVERTISING_TOKEN),
        (quote(identity()), ValueKind.IDENTITY_TOKENS),
    ],
)
def test_percent_encoding(value: str, kind: ValueKind) -> None:
    """A value out of a URL or cookie is decoded, and the encoding noted."""
    found = inspect(value)

    assert found.kinds == (kind,)
    assert found.length == len(value)
    assert HashSpelling.PERCENT_ENCODED.advice in found.notes


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "Jane",
        "100%",
        "0" * 44,
        HEX[:-1],
        NO_UID,
        "=" * 44,
        b64encode(b"\x02" + bytes(60)).decode(),
        # The header of a token but for the fill bits, the type, the version.
        b64encode(bytes((0, 128)) + bytes(161)).decode(),
        b64encode(bytes((11, 128)) + bytes(161)).decode(),
        b64encode(bytes((3, 129)) + bytes(161)).decode(),
        b64encode(bytes((0, 1)) + bytes(62)).decode(),
        b64encode(b"\x20" + bytes(290)).decode(),
        "." * 388,
        b64encode(b"\xff" * 64).decode(),
        "\ud800",
    ],
)
def test_nothing_known(value: str) -> None:
    """What is nothing known has no kind."""
    assert inspect(value).kinds == ()


@pytest.mark.parametrize("byte", [0, 32])
def test_damaged_raw_uids(byte: int) -> None:
    """33 bytes that are no raw UID come with a note."""
    data = bytearray(base64.decode(VECTORS["raw_uid_v4"][0]["raw_uid"]) or b"")
    data[byte] ^= 1

    assert inspect(b64encode(data).decode()).notes == (Note.NO_RAW_UID,)


@pytest.mark.parametrize("scope", IdentityScope)
async def test_what_an_operator_gives_out(scope: IdentityScope) -> None:
    """What the embedded operator gives out is known for what it is."""
    async with LocalOperator(OperatorData.sample(scope=scope)) as operator:
        for credentials in operator.credentials.values():
            found = inspect(credentials.api_key)
            assert (found.scope, found.site_id) == (scope, credentials.site_id)
            assert ValueKind.CLIENT_SECRET in inspect(credentials.client_secret).kinds
        async with UID2Client(
            operator.url,
            api_key=operator.api_key,
            client_secret=operator.client_secret,
            scope=scope,
        ) as client:
            tokens = await client.generate_token(
                "jane@example.com", tcf_consent_string=CONSENT
            )
            people = await client.map_identities(f"{i}@example.com" for i in range(40))
    assert isinstance(tokens, IdentityTokens)
    found = inspect(tokens.to_json())
    assert found.kinds == (ValueKind.IDENTITY_TOKENS,)
    assert {part.scope for part in found.parts.values()} == {scope}
    found_uids = [inspect(one.raw_uid) for one in people if isinstance(one, MappedUID)]
    assert {one.version for one in found_uids} == {2, 4}
    assert {one.scope for one in found_uids if one.version == 4} == {scope}


VALUES = (
    *(one["token"] for one in TOKENS.values()),
    *(REFRESH[f"{name}_b64"] for name in ("wrapped", "inner_v3", "inner_v2")),
    *(one["raw_uid"] for one in VECTORS["raw_uid_v4"]),
    *(HEX, HASH, URL_HASH, identity(), "jane@example.com", "UID2-C-L-1-"),
)


@given(
    one_of(
        text(),
        binary().map(lambda data: b64encode(data).decode()),
        sampled_from(VALUES).flatmap(
            lambda value: text().map(lambda more: value[len(more) :] + more)
        ),
        sampled_from(VALUES).map(quote),
        dictionaries(sampled_from(list(json.loads(identity()))), text()).map(
            lambda changes: identity(**changes)
        ),
    )
)
def test_any_text_is_inspected(value: str) -> None:
    """Any text gives an inspection, never an exception."""
    found = inspect(value)

    assert found.length == len(value)
    assert all(isinstance(kind, ValueKind) for kind in found.kinds)


@pytest.mark.parametrize("value", VALUES)
def test_no_value_is_shown(value: str) -> None:
    """No repr holds a piece of the value."""
    shown = repr(inspect(value))
    secrets = json.loads(value).values() if value.startswith("{") else [value]
    texts = [one for one in secrets if isinstance(one, str)]
    pieces = {one[i : i + 11] for one in texts for i in range(len(one) - 10)}

    assert texts
    assert not any(piece in shown for piece in pieces)


@pytest.mark.parametrize("note", Note)
def test_notes_are_sentences(note: Note) -> None:
    """A note stands on a line of its own, as whole sentences."""
    assert note.value.endswith(".")
    assert note.value[0].isupper() or note.value[0].isdigit()
    assert "\n" not in note.value
