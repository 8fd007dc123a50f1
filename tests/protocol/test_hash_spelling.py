"""How hashes are written, rightly and wrongly."""

from __future__ import annotations

from base64 import b64encode, urlsafe_b64encode
from hashlib import md5, sha1, sha256, sha512

import pytest
from hypothesis import given, strategies as st

from uid2_async.protocol.hash_spelling import HashSpelling, diagnose_hash
from uid2_async.protocol.normalize import decode_hash

# A digest whose base64 differs between the alphabets.
DIGEST = sha256(b"user@example.com").digest()
HEX = DIGEST.hex()
BASE64 = b64encode(DIGEST).decode()
NOTHING = sha256(b"").digest()
RAW_UID_V3 = b64encode(b"\x04" + bytes(range(32))).decode()

CASES = [
    (HEX, HashSpelling.HEX),
    (HEX.upper(), HashSpelling.HEX),
    (BASE64, HashSpelling.BASE64),
    (NOTHING.hex(), HashSpelling.EMPTY_HASHED),
    (b64encode(NOTHING).decode(), HashSpelling.EMPTY_HASHED),
    (urlsafe_b64encode(DIGEST).decode(), HashSpelling.BASE64URL),
    (urlsafe_b64encode(DIGEST).decode().rstrip("="), HashSpelling.BASE64URL),
    (BASE64.rstrip("="), HashSpelling.UNPADDED),
    (b64encode(HEX.encode()).decode(), HashSpelling.BASE64_OF_HEX),
    (b64encode(HEX.upper().encode()).decode(), HashSpelling.BASE64_OF_HEX),
    (b64encode(HEX.encode()).decode().rstrip("="), HashSpelling.BASE64_OF_HEX),
    (b64encode(BASE64.encode()).decode(), HashSpelling.BASE64_OF_BASE64),
    (f"0x{HEX}", HashSpelling.PREFIXED_HEX),
    (f"\\x{HEX}", HashSpelling.PREFIXED_HEX),
    (f"0x{HEX[:40]}", HashSpelling.UNKNOWN),
    (BASE64.replace("/", "%2F").replace("=", "%3D"), HashSpelling.PERCENT_ENCODED),
    ("100%", HashSpelling.UNKNOWN),
    (f" {HEX}\n", HashSpelling.SPACED),
    (f" {BASE64.rstrip('=')}", HashSpelling.UNPADDED),
    (md5(b"x").hexdigest(), HashSpelling.OTHER_HASH),  # noqa: S324 - the case
    (sha1(b"x").hexdigest(), HashSpelling.OTHER_HASH),  # noqa: S324 - the case
    (sha512(b"x").hexdigest(), HashSpelling.OTHER_HASH),
    (RAW_UID_V3, HashSpelling.RAW_UID),
    ("user@example.com", HashSpelling.NOT_HASHED),
    ("a%20b@example.com", HashSpelling.NOT_HASHED),
    ("+12345678901", HashSpelling.NOT_HASHED),
    ("", HashSpelling.EMPTY),
    (" \t", HashSpelling.EMPTY),
    (HEX[:63], HashSpelling.UNKNOWN),
    (BASE64[:40], HashSpelling.UNKNOWN),
    ("grüße", HashSpelling.UNKNOWN),
]


@pytest.mark.parametrize(("text", "spelling"), CASES)
def test_each_mistake_has_a_name_and_an_advice(
    text: str, spelling: HashSpelling
) -> None:
    """The encoding is named with advice, except for a good hash."""
    assert diagnose_hash(text) is spelling
    good = spelling in {HashSpelling.HEX, HashSpelling.BASE64}
    assert (spelling.advice == "") is good
    assert good or spelling.advice.endswith(".")


def test_every_spelling_is_tried() -> None:
    """No spelling is left without a case."""
    assert {spelling for _, spelling in CASES} == set(HashSpelling)


@given(st.text(max_size=100) | st.from_regex(r"[A-Za-z0-9+/_=%-]{0,90}"))
def test_what_the_operator_refuses_is_never_called_good(text: str) -> None:
    """A diagnosis without advice is a promise that the operator decodes 32 bytes."""
    if not diagnose_hash(text).advice:
        assert len(decode_hash(text) or b"") == 32
