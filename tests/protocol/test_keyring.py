"""Keys, key rings and the endpoints for keys (docs/protocol.md 6.1 to 6.4)."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from copy import deepcopy
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis.strategies import (
    binary,
    booleans,
    dictionaries,
    integers,
    lists,
    none,
    permutations,
    recursive,
    sampled_from,
    text,
)
from msgspec.structs import replace

from operator_answers import answer, sample_index
from uid2_async.errors import ProtocolError
from uid2_async.models import IdentityScope
from uid2_async.operator import endpoints
from uid2_async.protocol import wire
from uid2_async.protocol.keyring import (
    Key,
    KeyRing,
    KeysBody,
    KeysReply,
    WireSite,
    active_key,
    by_activation,
)

CALLER = sample_index().data.clients[-1]
KEY_SECRET = bytes(range(32))
KEY = Key(id=7, secret=KEY_SECRET, created=0, activates=100, expires=200)
OTHER = replace(KEY, id=8, secret=KEY_SECRET[::-1])
gcm_ivs, cbc_ivs = binary(min_size=12, max_size=12), binary(min_size=16, max_size=16)


def make_key(number: int, activates: int, expires: int) -> Key:
    """Make a key with an id and a time."""
    return replace(KEY, id=number, activates=activates, expires=expires)


def test_repr_hides_the_secret() -> None:
    """Everything is shown but the secret."""
    KEY.seal_gcm(bytes(12), b"")  # so that the cipher has been made
    assert repr(KEY) == (
        "Key(id=7, created=0, activates=100, expires=200, keyset_id=None, site_id=None)"
    )


@pytest.mark.parametrize(
    ("now_ms", "active"),
    [(99_999, False), (100_000, True), (199_999, True), (200_000, False)],
)
def test_a_key_is_active_from_activates_up_to_expires(
    now_ms: int, *, active: bool
) -> None:
    """The first instant counts and the last does not (6.4)."""
    assert KEY.is_active(now_ms) is active


@given(gcm_ivs, binary(max_size=200), binary(max_size=20))
def test_gcm_round_trip(iv: bytes, data: bytes, before: bytes) -> None:
    """A GCM blob is IV, ciphertext and tag, and opens from any place on."""
    blob = KEY.seal_gcm(iv, data)
    assert blob[:12] == iv
    assert len(blob) == 12 + len(data) + 16
    assert KEY.open_gcm(before + blob, len(before)) == data
    assert OTHER.open_gcm(blob) is None


@given(cbc_ivs, binary(max_size=200), binary(max_size=20))
def test_cbc_round_trip(iv: bytes, data: bytes, before: bytes) -> None:
    """A CBC blob is IV and padded ciphertext, and opens from any place on."""
    blob = KEY.seal_cbc(iv, data)
    assert blob[:16] == iv
    assert len(blob) == 16 + len(data) // 16 * 16 + 16
    assert KEY.open_cbc(before + blob, len(before)) == data


@given(binary(max_size=100))
def test_foreign_bytes_do_not_open(data: bytes) -> None:
    """Opening answers None and never raises; CBC may find a padding by chance."""
    assert KEY.open_gcm(data) is None
    found = KEY.open_cbc(data)
    assert found is None or len(found) < len(data)


def test_cbc_verifies_the_padding() -> None:
    """Another key does not open it: this one's padding comes out wrong."""
    assert OTHER.open_cbc(KEY.seal_cbc(bytes(16), b"data")) is None


@pytest.mark.parametrize("size", [0, 11, 13, 16])
def test_a_gcm_iv_has_12_bytes(size: int) -> None:
    """Another IV is refused: its blob could not be opened."""
    with pytest.raises(ValueError, match="12 bytes"):
        KEY.seal_gcm(bytes(size), b"data")


@pytest.mark.parametrize("size", [0, 12, 17])
def test_a_cbc_iv_has_16_bytes(size: int) -> None:
    """Another IV is refused."""
    with pytest.raises(ValueError, match="IV"):
        KEY.seal_cbc(bytes(size), b"data")


def test_the_active_key_is_the_latest_activated() -> None:
    """Future keys do not count, expired ones are stepped over (6.4)."""
    keys = by_activation(
        [
            make_key(4, 400, 900),  # not yet
            make_key(1, 100, 900),
            make_key(3, 300, 310),  # expired
            make_key(2, 200, 900),
        ]
    )
    assert [key.id for key in keys] == [1, 2, 3, 4]
    found = {now: active_key(keys, now * 1000) for now in (99, 150, 305, 310, 450, 900)}
    assert {now: key and key.id for now, key in found.items()} == {
        99: None,
        150: 1,
        305: 3,
        310: 2,
        450: 4,
        900: None,
    }


def test_of_keys_that_activate_together_the_last_counts() -> None:
    """The order in which they came decides."""
    keys = by_activation([make_key(5, 100, 900), make_key(3, 100, 900)])
    assert active_key(keys, 500_000) is keys[1]
    assert keys[1].id == 3


def test_no_keys_have_no_active_key() -> None:
    """An empty keyset answers None."""
    assert active_key((), 0) is None


@given(
    lists(integers(0, 50), min_size=1, max_size=12, unique=True).flatmap(
        lambda starts: lists(
            integers(1, 50), min_size=len(starts), max_size=len(starts)
        ).map(lambda spans: list(zip(starts, spans, strict=True)))
    ),
    integers(0, 110_000),
)
def test_the_active_key_is_the_newest_of_those_that_hold(
    spans: list[tuple[int, int]], now_ms: int
) -> None:
    """Whatever the order, it is the one of the largest activation among the active."""
    keys = [make_key(n, start, start + long) for n, (start, long) in enumerate(spans)]
    active = [key for key in keys if key.is_active(now_ms)]
    expected = max(active, key=lambda key: key.activates, default=None)
    assert active_key(by_activation(keys), now_ms) == expected


SECRET = b"0123456789abcdef0123456789ABCDEF"
SECRET_TEXT = b64encode(SECRET).decode()


def wire_key(number: int, **more: Any) -> dict[str, Any]:
    """Make a key as it is on the wire."""
    times = {"created": 50, "activates": 100, "expires": 1000}
    return {"id": number, **times, "secret": SECRET_TEXT, **more}


def make_ring(*keys: dict[str, Any], **more: Any) -> KeyRing:
    """Read a ring from a reply."""
    return KeyRing.from_json(json.dumps({"body": {"keys": keys, **more}}))


def test_the_sharing_reply(vectors: dict[str, Any]) -> None:
    """Every field of key/sharing arrives, by its type (6.1)."""
    ring = KeyRing.from_json(json.dumps(vectors["key_sharing_response"]))
    assert ring.identity_scope is IdentityScope.UID2
    assert ring.caller_site_id == 124
    assert ring.master_keyset_id == 9_999_999
    assert ring.default_keyset_id == 700
    assert ring.token_expiry_seconds == 2_592_000
    assert ring.max_sharing_lifetime_seconds == 2_592_010
    assert ring.max_bidstream_lifetime_seconds is None
    assert ring.allow_clock_skew_seconds == 1800
    assert ring.site_data == {124: frozenset({"example.com"})}
    assert list(ring.keys) == [164, 165]
    master = vectors["token_keys"]["master"]
    assert ring.key(164) == Key(
        id=master["id"],
        secret=decode_secret(master["secret_b64"]),
        created=1_600_000_000,
        activates=1_600_000_100,
        expires=4_088_629_662,
        keyset_id=9_999_999,
    )


def decode_secret(value: str) -> bytes:
    """Decode a secret."""
    return msgspec.json.decode(f'"{value}"', type=bytes)


def test_the_bidstream_reply(vectors: dict[str, Any]) -> None:
    """key/bidstream has no keysets and no caller, so it cannot encrypt (6.2)."""
    text = json.dumps(vectors["key_bidstream_response"])
    ring = KeyRing.from_json(text.encode())
    assert ring.max_bidstream_lifetime_seconds == 259_210
    assert ring.max_sharing_lifetime_seconds is None
    assert (
        ring.caller_site_id is ring.master_keyset_id is ring.default_keyset_id is None
    )
    assert ring.key(165) is not None
    assert ring.active_key(ring.default_keyset_id, 1_700_000_000_000) is None
    assert ring.has_valid_key(1_700_000_000_000)


@pytest.mark.parametrize("name", ["key_sharing_response", "key_bidstream_response"])
def test_the_structs_write_what_they_read(vectors: dict[str, Any], name: str) -> None:
    """What is None is left out, and nothing else changes."""
    given_reply = vectors[name]
    reply = msgspec.json.decode(json.dumps(given_reply), type=KeysReply)
    assert json.loads(msgspec.json.encode(reply.body)) == given_reply["body"]


def test_the_body_of_key_latest() -> None:
    """Its bare array is read and written with the same struct (6.3)."""
    keys = [wire_key(3, site_id=-1), wire_key(4, site_id=124)]
    found = msgspec.json.decode(json.dumps(keys), type=list[Key])
    assert [key.site_id for key in found] == [-1, 124]
    assert json.loads(msgspec.json.encode(found)) == keys


def test_what_may_be_missing_gets_the_documented_default() -> None:
    """Only the keys are needed; unknown fields are ignored."""
    ring = make_ring(later="unknown")
    assert ring == KeyRing(keys={})
    assert ring.identity_scope is IdentityScope.UID2
    assert ring.token_expiry_seconds == 30 * 86_400
    assert ring.allow_clock_skew_seconds == 1800
    assert ring.site_data == {}


def test_null_counts_as_missing() -> None:
    """A null is no value."""
    ring = make_ring(site_data=None, token_expiry_seconds=None, identity_scope=None)
    assert ring == KeyRing(keys={})


@pytest.mark.parametrize(("value", "seconds"), [("60", 60), (60, 60), ("0", 0), (0, 0)])
def test_the_token_expiry_is_digits_or_a_number(value: object, seconds: int) -> None:
    """It is a string of digits on the wire, but a number is taken too."""
    assert make_ring(token_expiry_seconds=value).token_expiry_seconds == seconds


def test_the_clock_skew_may_be_zero() -> None:
    """Zero is a value, not a lack of one."""
    assert make_ring(allow_clock_skew_seconds=0).allow_clock_skew_seconds == 0


def test_names_of_sites_are_kept_in_lower_case() -> None:
    """They are compared without letter case."""
    sites = [{"id": 5, "domain_names": ["Example.COM", "com.App"]}, {"id": 6}]
    ring = make_ring(site_data=sites)
    assert ring.site_data == {5: frozenset({"example.com", "com.app"}), 6: frozenset()}


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"body": None}, "body"),
        ({"body": []}, "body"),
        ({"status": "optout"}, "status"),
        ({"keys": None}, "body.keys"),
        ({"keys": [wire_key(1), 5]}, "body.keys[1]"),
        ({"keys": [wire_key(2**31)]}, "body.keys[0].id"),
        ({"keys": [wire_key(1, secret="c2VjcmV0")]}, "body.keys[0].secret"),
        ({"keys": [wire_key(1, secret="s3cret!")]}, "body.keys[0].secret"),
        ({"keys": [wire_key(1, secret=None)]}, "body.keys[0].secret"),
        ({"keys": [wire_key(1, expires="s3cret")]}, "body.keys[0].expires"),
        ({"identity_scope": "s3cret"}, "body.identity_scope"),
        ({"token_expiry_seconds": "1e9"}, "body.token_expiry_seconds"),
        ({"token_expiry_seconds": "-1"}, "body.token_expiry_seconds"),
        ({"token_expiry_seconds": "1\n"}, "body.token_expiry_seconds"),
        ({"token_expiry_seconds": "9" * 5000}, "body.token_expiry_seconds"),
        ({"site_data": [{"id": 1, "domain_names": [1]}]}, "body.site_data[0]"),
    ],
)
def test_a_wrong_shape_names_its_path_and_no_value(
    vectors: dict[str, Any], change: dict[str, Any], path: str
) -> None:
    """The error says where, and does not show the value."""
    reply = deepcopy(vectors["key_sharing_response"])
    target = reply if change.keys() & {"body", "status"} else reply["body"]
    target.update(change)
    with pytest.raises(ProtocolError) as caught:
        KeyRing.from_json(json.dumps(reply))
    assert caught.value.path.startswith(path)
    assert "s3cret" not in str(caught.value)
    assert SECRET_TEXT not in str(caught.value)
    assert caught.value.__context__ is caught.value.__cause__ is None


@pytest.mark.parametrize("value", ["", "[]", "null", "{", '"\ud800"', b"\xff", "{}"])
def test_what_is_no_reply_is_refused(value: str | bytes) -> None:
    """Any text is answered with a ProtocolError."""
    with pytest.raises(ProtocolError):
        KeyRing.from_json(value)


JSON = recursive(
    none() | booleans() | integers() | text(),
    lambda inner: lists(inner) | dictionaries(text(), inner),
    max_leaves=5,
)


@given(
    sampled_from(["body", "keys", "site_data", "token_expiry_seconds", "id", "secret"]),
    JSON,
)
def test_no_reply_raises_anything_else(name: str, value: object) -> None:
    """Whatever stands in a place, it is read or it is a ProtocolError."""
    key = wire_key(1) | ({name: value} if name in {"id", "secret"} else {})
    body = {"keys": [key]} | ({} if name in {"id", "secret", "body"} else {name: value})
    reply = {"body": value if name == "body" else body}
    try:
        ring = KeyRing.from_json(json.dumps(reply))
    except ProtocolError:
        return
    assert isinstance(ring, KeyRing)


def test_reprs_hide_secrets() -> None:
    """Neither the ring, nor its keys, nor the structs show one, to rich neither."""
    ring = make_ring(wire_key(1), caller_site_id=9)
    key = Key(id=1, created=1, activates=1, expires=1, secret=SECRET)
    body = KeysBody(keys=(key,), site_data=(WireSite(4, ("a.com",)),))
    assert repr(ring) == "<KeyRing UID2 keys=1 caller_site_id=9>"
    assert repr(key).startswith("Key(id=1, created=1, ")
    assert "secret" not in dict(key.__rich_repr__())
    for shown in (repr(ring), repr(ring.keys), repr(body), repr(KeysReply(body))):
        assert SECRET.decode() not in shown


KEYS = [
    wire_key(1, keyset_id=7),
    wire_key(2, keyset_id=7, activates=300),
    wire_key(3, keyset_id=7, activates=400, expires=450),
    wire_key(4, keyset_id=7, activates=900),
    wire_key(5, keyset_id=8, activates=800),
    wire_key(6, activates=850),  # shared to the caller: opens only
]


@given(permutations(KEYS))
def test_the_order_of_the_keys_does_not_matter(keys: list[dict[str, Any]]) -> None:
    """The latest active key of the keyset is found in any order (6.4)."""
    ring = make_ring(*keys)
    found = [ring.active_key(7, now * 1000) for now in (99, 100, 420, 500, 950, 1000)]
    assert [key and key.id for key in found] == [None, 1, 3, 2, 4, None]


def test_a_keyset_has_its_own_keys_alone() -> None:
    """Unknown keysets, and none, have no key; a key without keyset never seals."""
    ring = make_ring(*KEYS)
    assert ring.active_key(8, 990_000) == ring.key(5)
    assert ring.active_key(9, 990_000) is None
    assert ring.active_key(None, 990_000) is None


def test_keys_are_found_by_id_even_when_expired() -> None:
    """Decryption uses only the id (6.4)."""
    ring = make_ring(*KEYS)
    assert ring.key(3) is not None
    assert ring.key(99) is None


def test_of_keys_with_one_id_the_last_stays() -> None:
    """The operator never sends two, but it must not break."""
    ring = make_ring(wire_key(1, expires=5), wire_key(1, expires=6))
    assert [key.expires for key in ring.keys.values()] == [6]


@pytest.mark.parametrize(("now_ms", "valid"), [(999_999, True), (1_000_000, False)])
def test_a_ring_is_valid_while_any_key_is(now_ms: int, *, valid: bool) -> None:
    """At the last expiry itself it no longer is (6.6)."""
    assert (
        make_ring(wire_key(1, expires=500), wire_key(2)).has_valid_key(now_ms) is valid
    )


def test_an_empty_ring_is_never_valid() -> None:
    """Without a key nothing can be done."""
    assert not make_ring().has_valid_key(0)


@pytest.mark.parametrize("reply", ["key_sharing_response", "key_bidstream_response"])
def test_a_ring_is_written_as_the_reply_that_it_reads(
    vectors: dict[str, Any], reply: str
) -> None:
    """A stored ring comes back the same, including its secrets."""
    ring = KeyRing.from_json(json.dumps(vectors[reply]))

    assert KeyRing.from_json(ring.to_json()) == ring


def test_what_a_ring_lacks_is_not_written() -> None:
    """A bidder's reply says nothing of keysets, and names keep to their sites."""
    site = {"id": 5, "domain_names": ["B.com", "a.com"]}
    ring = make_ring(wire_key(1, site_id=-1), site_data=[site])

    body = json.loads(ring.to_json())["body"]

    assert body["keys"] == [wire_key(1, site_id=-1)]
    assert body["site_data"] == [{"id": 5, "domain_names": ["a.com", "b.com"]}]
    assert "caller_site_id" not in body
    assert KeyRing.from_json(ring.to_json()) == ring


def wire_keys(elements: list[dict[str, Any]]) -> tuple[Key, ...]:
    """Make keys of the JSON that they have on the wire."""
    return tuple(Key(**{**one, "secret": b64decode(one["secret"])}) for one in elements)


def wire_sites(elements: list[dict[str, Any]]) -> tuple[WireSite, ...]:
    """Make sites of the JSON that they have on the wire."""
    return tuple(
        WireSite(id=one["id"], domain_names=tuple(one["domain_names"]))
        for one in elements
    )


@pytest.mark.parametrize("name", ["key_sharing_response", "key_bidstream_response"])
def test_the_reply_is_the_recorded_one(vectors: dict[str, Any], name: str) -> None:
    """Every field is as documented (docs/protocol.md 6.1 and 6.2)."""
    expected = vectors[name]
    fields = {
        **expected["body"],
        "identity_scope": IdentityScope.UID2,
        "keys": wire_keys(expected["body"]["keys"]),
        "site_data": wire_sites(expected["body"]["site_data"]),
    }

    built = wire.encode(KeysReply(KeysBody(**fields)))

    assert json.loads(built) == expected
    assert list(json.loads(built)) == ["body", "status"]


def test_what_a_caller_has_not_is_left_out() -> None:
    """Absent fields are missing from the JSON, and an empty list is not absent."""
    scope = IdentityScope.EUID

    assert wire.encode(KeysBody(identity_scope=scope, keys=())) == (
        b'{"identity_scope":"EUID","keys":[]}'
    )
    assert wire.encode(KeysBody(identity_scope=scope, keys=(), site_data=())) == (
        b'{"identity_scope":"EUID","keys":[],"site_data":[]}'
    )


def test_a_key_ring_reads_what_an_operator_answers() -> None:
    """Both halves understand each other."""
    ring = KeyRing.from_json(answer(endpoints.sharing_keys, None))

    assert (ring.token_expiry_seconds, ring.allow_clock_skew_seconds) == (
        2_592_000,
        1_800,
    )
    assert ring.max_sharing_lifetime_seconds == 2_592_010
    assert len(ring.keys) == len(sample_index().keysets.visible_to(CALLER))


def test_the_latest_keys_have_sites_instead_of_keysets() -> None:
    """Key/latest is a bare list of keys with their sites (docs/protocol.md 6.3)."""
    keys = json.loads(answer(endpoints.latest_keys, None))["body"]

    assert keys
    assert all("site_id" in key and "keyset_id" not in key for key in keys)
