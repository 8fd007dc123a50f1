"""Commands around a state: state, refresh, optout-status, estimate."""

from __future__ import annotations

import csv
import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from uid2_async import Email, IdentityScope, MappingState
from uid2_async.bulk import estimate as costs
from uid2_async.bulk.estimate import work_out
from uid2_async.operator import LocalOperator
from uid2_async.protocol.normalize import identity_hash

Uid2 = Callable[..., Any]

PEOPLE = ["jane@example.com", "joe@example.com", "optout@example.com", "bad"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with an input."""
    monkeypatch.chdir(tmp_path)
    Path("in.csv").write_text("\n".join(["mail", *PEOPLE, PEOPLE[0], ""]) + "\n")
    return tmp_path


@pytest.fixture
def mapped(folder: Path, uid2: Uid2, env: dict[str, str]) -> Path:
    """Have a state."""
    arguments = ["map", "in.csv", "out.csv", "--column", "mail", "--type", "email"]
    result = uid2(*arguments, "--state", "people.db", "--delta", "delta.csv", env=env)
    assert result.exit_code == 0, result.stderr
    return folder


def rows(name: str) -> list[dict[str, str]]:
    """Read a CSV file."""
    with Path(name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_show(mapped: Path, uid2: Uid2, scope: IdentityScope) -> None:
    """What a state holds, for people and for programs."""
    text = uid2("state", "show", "people.db").stdout
    found = json.loads(uid2("state", "show", "people.db", "--json").stdout)

    assert "identities email mapped: 2\n" in text
    assert found["identities"] == {"email mapped": 2, "email optout": 1}
    assert (found["scope"], found["runs"], found["due"]) == (scope, 1, 0)


def test_export(mapped: Path, uid2: Uid2) -> None:
    """Everything, as a file that can be an input."""
    result = uid2("state", "export", "people.db", "state.csv")
    found = {row["IDENTITY_HASH"]: row for row in rows("state.csv")}

    assert result.exit_code == 0
    assert len(found) == 3
    jane = found[identity_hash(Email(PEOPLE[0])) or ""]
    assert (jane["INPUT_TYPE"], jane["UID"]) == (
        "email_hash",
        rows("out.csv")[0]["UID"],
    )
    assert found[identity_hash(Email(PEOPLE[2])) or ""]["UNMAPPED"] == "OPTOUT"
    assert uid2("state", "export", "people.db", "state.csv").exit_code == 2


def test_a_delta_again(mapped: Path, uid2: Uid2) -> None:
    """What a run has changed can be written once more."""
    result = uid2("state", "delta", "people.db", "again.csv", "--since", "1")
    unknown = uid2("state", "delta", "people.db", "other.csv", "--since", "7")

    assert result.exit_code == 0
    assert {row["UID"] for row in rows("again.csv")} == {
        row["UID"] for row in rows("delta.csv")
    }
    assert unknown.exit_code == 2
    assert "The last one is 1" in unknown.stderr


@pytest.mark.parametrize("option", [(), ("--type", "raw_uid")])
def test_purge_by_raw_uid(mapped: Path, uid2: Uid2, option: tuple[str, ...]) -> None:
    """The form shows it, and the option can name it."""
    uid = rows("out.csv")[0]["UID"]

    result = uid2("state", "purge", "people.db", *option, stdin=uid)

    assert "1 of 1 were found" in result.stderr


@pytest.mark.parametrize("name", ["mail", "hash", "uid"])
def test_purge(mapped: Path, uid2: Uid2, env: dict[str, str], name: str) -> None:
    """By email, hash or raw UID: forgotten, and REMOVED in the next delta."""
    jane = rows("out.csv")[0]
    names = {
        "mail": PEOPLE[0],
        "hash": identity_hash(Email(PEOPLE[0])),
        "uid": jane["UID"],
    }
    result = uid2("state", "purge", "people.db", stdin=f"{names[name]}\n")
    uid2("refresh", "people.db", "--delta", "next.csv", env=env)

    assert "1 of 1 were found" in result.stderr
    (told,) = rows("next.csv")
    assert (told["CHANGE"], told["OLD_UID"]) == ("REMOVED", jane["UID"])
    assert PEOPLE[0] not in result.output


@pytest.mark.parametrize(("flags", "comes_back"), [((), 0), (("--no-suppress",), 1)])
def test_a_purged_person_and_the_next_input(
    mapped: Path,
    uid2: Uid2,
    env: dict[str, str],
    flags: tuple[str, ...],
    comes_back: int,
) -> None:
    """By default nobody is added again; the API has the same default."""
    uid2("state", "purge", "people.db", *flags, stdin=PEOPLE[0])
    arguments = ["map", "in.csv", "out.csv", "--column", "mail", "--type", "email"]
    uid2(*arguments, "--state", "people.db", "--force", env=env)
    found = json.loads(uid2("state", "show", "people.db", "--json").stdout)

    assert rows("out.csv")[0]["UNMAPPED"] == ("" if comes_back else "OPTOUT")
    assert found["suppressed"] == 1 - comes_back
    assert found["identities"]["email mapped"] == 1 + comes_back
    default = inspect.signature(MappingState.purge).parameters["suppress"].default
    assert default is True


def test_purge_of_nobody(mapped: Path, uid2: Uid2) -> None:
    """An invalid line is reported by its number, and nobody is purged."""
    result = uid2("state", "purge", "people.db", stdin=f"{PEOPLE[0]}\nsecret\n")
    empty = uid2("state", "purge", "people.db", stdin="\n")

    assert result.exit_code == empty.exit_code == 2
    assert "Number 2 is not an email" in result.stderr
    assert "secret" not in result.output


def test_vacuum(mapped: Path, uid2: Uid2) -> None:
    """It says what it has given back."""
    result = uid2("state", "vacuum", "people.db")

    assert result.exit_code == 0
    assert "bytes before" in result.stderr


@pytest.mark.parametrize(
    "arguments", [["show"], ["vacuum"], ["export", "o.csv"], ["purge"]]
)
def test_there_is_no_such_state(folder: Path, uid2: Uid2, arguments: list[str]) -> None:
    """Looking at a state does not make one."""
    name, *rest = arguments
    result = uid2("state", name, "people.db", *rest, stdin="a@b.c\n")

    assert result.exit_code == 2
    assert "There is no state people.db" in result.stderr
    assert not Path("people.db").exists()


def test_refresh(
    mapped: Path, uid2: Uid2, env: dict[str, str], local_operator: LocalOperator
) -> None:
    """Nothing is due on the same day."""
    before = len(local_operator.calls)
    result = uid2("refresh", "people.db", "--json", env=env)

    assert json.loads(result.stdout)["rows"] == 0
    assert len(local_operator.calls) == before


def test_a_sweep(
    mapped: Path, uid2: Uid2, env: dict[str, str], local_operator: LocalOperator
) -> None:
    """Everybody is mapped again, and new opt-outs are reported."""
    local_operator.opt_out(PEOPLE[1])
    arguments = ["optout-status", "people.db", "--by-status", "--delta", "next.csv"]
    result = uid2(*arguments, "-q", env=env)

    assert result.exit_code == 0
    assert {row["CHANGE"] for row in rows("next.csv")} <= {"OPTED_OUT"}


def test_a_file_to_share(mapped: Path, uid2: Uid2, env: dict[str, str]) -> None:
    """Rows without a raw UID are invalid, and are left out by --drop."""
    told = uid2("optout-status", "out.csv", "told.csv", "--json", env=env)
    kept = uid2("optout-status", "out.csv", "kept.csv", "--drop", "-q", env=env)

    assert told.exit_code == 0
    assert json.loads(told.stdout)["rows"] == 5
    assert [row["STATUS"] for row in rows("told.csv")].count("invalid") == 2
    assert kept.exit_code in (0, 3)
    assert {row["STATUS"] for row in rows("kept.csv")} <= {"ok"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["people.db", "--drop"],
        ["people.db", "--column", "UID"],
        ["people.db", "--optout-concurrency", "1"],
        ["people.db", "--by-status", "--unchecked-for", "1d"],
        ["out.csv", "told.csv", "--delta", "next.csv"],
        ["out.csv", "told.csv", "--by-status"],
    ],
)
def test_options_without_effect(
    mapped: Path, uid2: Uid2, env: dict[str, str], arguments: list[str]
) -> None:
    """They are refused, by name, before anything is sent."""
    result = uid2("optout-status", *arguments, env=env)

    assert result.exit_code == 2
    assert "has no effect on" in result.stderr
    assert not Path("told.csv").exists()


def test_estimate(folder: Path, uid2: Uid2) -> None:
    """Counted without network and without settings."""
    result = uid2("estimate", "in.csv", "--column", "mail", "--type", "email", "--json")

    found = json.loads(result.stdout)
    assert result.exit_code == 0
    taken = dict.fromkeys(("seconds", "first_load_seconds", "daily_seconds"), 0)
    assert found | taken == {
        "rows": 5,
        "identifiers": 5,
        "unique": 3,
        "is_exact": True,
        "invalid": 1,
        "empty": 0,
        "input_warnings": {},
        "batches": 1,
        "sent_bytes": 3 * costs.SENT_BYTES + costs.REQUEST_BYTES,
        "received_bytes": 3 * costs.RECEIVED_BYTES + costs.REPLY_BYTES,
        "state_bytes": 3 * costs.STATE_BYTES,
        "daily_unique": 1,
        "daily_batches": 1,
        **taken,
    }


def test_estimate_for_people(folder: Path, uid2: Uid2) -> None:
    """The latency that is assumed is said."""
    result = uid2("estimate", "in.csv", "--email", "mail", "--latency", "60")

    assert "different identities: 3\n" in result.stdout
    assert "minutes: 1.0, with 60 s a request\n" in result.stdout


def test_estimate_says_what_follows(folder: Path, uid2: Uid2) -> None:
    """Traffic, the size of a state, and its daily run, with several processes."""
    people = "".join(f"p{number}@example.com\n" for number in range(30_000))
    Path("many.csv").write_text(f"mail\n{people}")
    found = work_out(30_000, concurrency=2, latency=0, processes=4)

    options = ["--concurrency", "2", "--latency", "0", "--processes", "4", "--json"]
    result = uid2("estimate", "many.csv", "--email", "mail", *options)
    told = uid2("estimate", "many.csv", "--email", "mail")

    exact = json.loads(result.stdout)
    assert exact["unique"] == pytest.approx(30_000, rel=0.005)
    start = costs.START_SECONDS
    assert exact["seconds"] == pytest.approx(start + found.once.seconds, rel=0.01)
    for name, run in (("first_load", found.first_load), ("daily", found.daily)):
        assert exact[f"{name}_seconds"] == pytest.approx(start + run.seconds, rel=0.01)
    assert re.search(r"network: 1\.4 MB out, 2\.6 MB in\n", told.stdout)
    assert re.search(r"a state of them: 6\.\d MB, 0\.\d minutes for", told.stdout)
    assert re.search(r"each day after that: 8\d due in 1 requests, ", told.stdout)


@pytest.mark.parametrize("text", ["", "7", "d", "7w", "-1d"])
def test_durations(folder: Path, uid2: Uid2, env: dict[str, str], text: str) -> None:
    """A time needs a unit."""
    arguments = ["map", "in.csv", "out.csv", "--email", "mail", "--state", "people.db"]
    result = uid2(*arguments, f"--recheck-after={text}", env=env)

    assert result.exit_code == 2
    assert "--recheck-after is not a duration." in result.stderr


def test_several_identifiers_keep_the_order_of_the_command(
    folder: Path, uid2: Uid2, env: dict[str, str]
) -> None:
    """The option that comes first is preferred."""
    Path("both.csv").write_text("mail,tel\njane@example.com,+12345678901\n")
    orders = [
        ["--phone", "tel", "--email", "mail"],
        ["--email", "mail", "--phone", "tel"],
    ]
    matched = []
    for order in orders:
        uid2("map", "both.csv", "out.csv", *order, "--force", "-q", env=env)
        matched.append(rows("out.csv")[0]["MATCHED_TYPE"])

    assert matched == ["phone", "email"]
