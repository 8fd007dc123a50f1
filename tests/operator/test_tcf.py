from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from uid2_async.operator.tcf import (
    REQUIRED_PURPOSES,
    Consent,
    UnusableConsentError,
    read_consent,
)

CONFORMANCE = Path(__file__).parents[1] / "conformance"
VENDOR = 21
ALL = range(1, 25)
NO_VENDORS = f"{0:016b}0"
NO_RESTRICTIONS = f"{0:012b}"


def bits_of(ids: range | list[int], width: int) -> str:
    """Write ids as flags, the first one for the id 1."""
    return "".join("01"[at in ids] for at in range(1, width + 1))


def as_flags(ids: list[int], max_id: int) -> str:
    """Write a list of vendors as flags."""
    return f"{max_id:016b}0{bits_of(ids, max_id)}"


def as_ranges(*entries: tuple[int, ...]) -> str:
    """Write ids and pairs of first and last id."""
    text = f"{len(entries):012b}"
    for entry in entries:
        text += f"{len(entry) - 1}" + "".join(f"{at:016b}" for at in entry)
    return text


def encode(bits: str) -> str:
    """Write a part: bits, filled up to whole bytes, as base64 without padding."""
    bits += "0" * (-len(bits) % 8)
    data = int(f"1{bits}", 2).to_bytes(len(bits) // 8 + 1)[1:]
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def core(
    *,
    version: int = 2,
    purposes: range | list[int] = ALL,
    legitimate_purposes: range | list[int] = ALL,
    vendors: str = NO_VENDORS,
    legitimate_vendors: str = NO_VENDORS,
    restrictions: str = NO_RESTRICTIONS,
) -> str:
    """Write the first part of a consent string."""
    return encode(
        f"{version:06b}"
        + "01" * 73  # created to special features
        + bits_of(purposes, 24)
        + bits_of(legitimate_purposes, 24)
        + "1" * 13  # purpose one treatment and country
        + vendors
        + legitimate_vendors
        + restrictions
    )


def verdict(text: str) -> str:
    """Judge a consent string as token/generate does."""
    consent = read_consent(text)
    if consent is None:
        return "invalid"
    return "ok" if consent.allows(REQUIRED_PURPOSES, VENDOR) else "insufficient"


def recorded() -> list[tuple[str, str]]:
    """Take the consent strings of the recorded calls and what became of them."""
    exchanges = json.loads((CONFORMANCE / "euid/exchanges.json").read_text("utf-8"))
    found = []
    for case in exchanges["cases"]:
        if "tcf_consent_string" not in (case["payload"] or ""):
            continue
        text = json.loads(case["payload"])["tcf_consent_string"]
        if isinstance(text, str):
            found.append((text, recorded_verdict(case["response"])))
    return found


def recorded_verdict(response: dict[str, str]) -> str:
    """Name the outcome of a recorded token/generate call."""
    if response["opened"] is None:
        body = json.loads(base64.b64decode(response["body_b64"]))
        assert body["message"] == "User consent is invalid"
        return "invalid"
    status = json.loads(response["opened"])["status"]
    return {"success": "ok", "insufficient_user_consent": "insufficient"}[status]


@pytest.mark.parametrize(("text", "expected"), recorded())
def test_recorded_calls(text: str, expected: str) -> None:
    """Every recorded consent string is judged as the real operator judged it."""
    assert verdict(text) == expected


def test_the_recorded_calls_cover_every_outcome() -> None:
    """The recordings hold all three outcomes."""
    assert {outcome for _, outcome in recorded()} == {"ok", "insufficient", "invalid"}


def test_fields() -> None:
    """Purposes and vendors of both grounds are read from their places."""
    text = core(
        purposes=[1, 24],
        legitimate_purposes=[2],
        vendors=as_flags([1, 21], 30),
        legitimate_vendors=f"{40:016b}1{as_ranges((5,), (20, 22))}",
    )
    assert read_consent(text) == Consent(
        purposes=frozenset({1, 24}),
        legitimate_purposes=frozenset({2}),
        vendors=frozenset({1, 21}),
        legitimate_vendors=frozenset({5, 20, 21, 22}),
    )


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param({"vendors": as_flags([21], 21)}, "ok", id="consent"),
        pytest.param(
            {"legitimate_vendors": as_flags([21], 21)}, "ok", id="legitimate interest"
        ),
        pytest.param(
            {
                "vendors": as_flags([21], 21),
                "legitimate_vendors": as_flags([21], 21),
                "purposes": [1, 3, 4],
                "legitimate_purposes": [2, 7, 10],
            },
            "ok",
            id="both grounds together",
        ),
        pytest.param(
            {
                "vendors": as_flags([21], 21),
                "purposes": [1, 3, 4],
                "legitimate_purposes": [2, 7, 10],
            },
            "insufficient",
            id="vendor missing on one ground",
        ),
        pytest.param(
            {"vendors": as_flags([21], 21), "purposes": [1, 2, 3, 4, 7]},
            "insufficient",
            id="purpose missing",
        ),
        pytest.param({}, "insufficient", id="no vendor"),
        pytest.param(
            {"vendors": as_flags([20, 22], 30)}, "insufficient", id="other vendors"
        ),
        pytest.param(
            {"vendors": f"{5:016b}1{as_ranges((21,))}"},
            "ok",
            id="single id beyond the greatest",
        ),
    ],
)
def test_sufficiency(fields: dict[str, str], expected: str) -> None:
    """A purpose counts only if the vendor is listed on the same ground."""
    assert verdict(core(**fields)) == expected  # type: ignore[arg-type]


GOOD = core(vendors=as_flags([21], 21))


@pytest.mark.parametrize(
    "rest",
    [
        pytest.param("", id="core alone"),
        pytest.param(".", id="dot at the end"),
        pytest.param("..", id="dots at the end"),
        pytest.param(f".{encode('001' + as_flags([3], 5))}", id="disclosed vendors"),
        pytest.param(f".{encode('010' + as_flags([3], 5))}", id="allowed vendors"),
        pytest.param(
            f".{encode('011' + '0' * 48 + f'{2:06b}' + '1010')}", id="publisher"
        ),
        pytest.param(f".{encode('100')}", id="unknown kind is not read"),
        pytest.param(
            f".{encode('001' + as_flags([3], 5))}.{encode('001')}",
            id="second of a kind is not read",
        ),
    ],
)
def test_further_parts(rest: str) -> None:
    """Parts after the first dot change nothing as long as they can be read."""
    assert verdict(GOOD + rest) == "ok"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param(".", id="dot"),
        pytest.param(f".{GOOD}", id="empty first part"),
        pytest.param("xyz", id="short"),
        pytest.param("xyz!", id="no base64"),
        pytest.param(GOOD.replace("A", "+", 1), id="standard alphabet"),
        pytest.param(core(version=3), id="version 3"),
        pytest.param(GOOD[:-8], id="cut in the publisher restrictions"),
        pytest.param(GOOD[:40], id="cut in the purposes"),
        pytest.param(
            core(vendors=f"{30:016b}1{as_ranges((22, 21))}"), id="range backwards"
        ),
        pytest.param(
            core(vendors=f"{20:016b}1{as_ranges((20, 21))}"), id="range too far"
        ),
        pytest.param(
            core(restrictions=f"{1:012b}{0:08b}{as_ranges((9, 8))}"),
            id="range backwards in a restriction",
        ),
        pytest.param(core(restrictions=f"{2:012b}"), id="restrictions missing"),
        pytest.param(f"{GOOD}..{encode('001')}", id="empty part in between"),
        pytest.param(f"{GOOD}.!", id="no base64 in a further part"),
        pytest.param(f"{GOOD}.{encode('001')}", id="disclosed vendors cut"),
        pytest.param(f"{GOOD}.{encode('010')}", id="allowed vendors cut"),
        pytest.param(f"{GOOD}.{encode('011')}", id="publisher part cut"),
    ],
)
def test_invalid(text: str) -> None:
    """What the real operator's decoder cannot read to the end is invalid."""
    assert verdict(text) == "invalid"


@pytest.mark.parametrize(
    "text",
    [
        "BA",
        "BA==",
        "B_",
        "BOEFEAyOEFEAyAHABDENAI4AAAB9vABAASA",
        "BA.!",
        "BA..x",
        core(version=1),
        core(version=1, vendors=as_flags([21], 21)),
    ],
)
def test_version_1_makes_the_operator_fail(text: str) -> None:
    """It is accepted by its first six bits, and is then useless (2.1)."""
    with pytest.raises(UnusableConsentError):
        read_consent(text)


def test_restrictions_are_read_over() -> None:
    """Restrictions by the publisher do not count, and their ranges have no bound."""
    restrictions = f"{1:012b}{0b000010_00:08b}{as_ranges((21, 65_535))}"
    text = core(vendors=as_flags([21], 21), restrictions=restrictions)
    assert verdict(text) == "ok"
