"""The files that an operator is loaded with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from uid2_async.errors import ConfigError
from uid2_async.models import IdentityScope
from uid2_async.operator import LocalOperator, OperatorData

WORLD = Path(__file__).parents[1] / "conformance" / "euid" / "world"
FILES = sorted(one.name for one in WORLD.iterdir() if one.name != "services.json")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a copy of a recorded world."""
    return Path(shutil.copytree(WORLD, tmp_path / "world"))


def change(path: Path, edit: Callable[[Any], object]) -> None:
    """Edit the JSON of a file."""
    value = json.loads(path.read_bytes())
    edit(value)
    path.write_text(json.dumps(value))


def failure(folder: Path) -> str:
    """Load a folder that is refused, and give the message."""
    with pytest.raises(ConfigError) as caught:
        OperatorData.load(folder)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    return str(caught.value)


def test_a_recorded_world_is_loaded() -> None:
    """The files are those of an operator; more of them do not matter."""
    data = OperatorData.load(str(WORLD))

    assert data.scope is IdentityScope.EUID
    assert data.settings.validate_service_links
    assert data.runtime.identity_environment == "prod"
    assert (len(data.clients), len(data.keysets), len(data.keys)) == (10, 9, 15)
    assert [len(one.rows) for one in data.salts.snapshots] == [61, 61]
    assert data.credentials["dsp"].site_id == 901


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    """Every file is needed, but for that of services."""
    (folder / name).unlink()

    assert f"{name} cannot be read: No such file" in failure(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_malformed_file_is_named(folder: Path, name: str) -> None:
    """The message shows no content."""
    (folder / name).write_bytes(b"hush,\xff")

    message = failure(folder)

    assert f"{name} is malformed" in message
    assert "hush" not in message


def test_the_place_of_a_wrong_field_is_named(folder: Path) -> None:
    """Never its value."""
    change(folder / "clients.json", lambda all_: all_[1].update(site_id="hush"))

    message = failure(folder)

    assert "clients.json is malformed: at [1].site_id" in message
    assert "hush" not in message


@pytest.mark.parametrize(
    ("name", "edit", "place"),
    [
        ("clients.json", lambda all_: all_[2].update(secret="AAAA"), "[2].secret"),
        ("keyset_keys.json", lambda all_: all_[0].update(secret="AAAA"), "[0]"),
        ("keyset_keys.json", lambda all_: all_[3].pop("keyset_id"), "[3]"),
        ("world.json", lambda one: one.update(scope="uid3"), "scope"),
    ],
)
def test_what_json_cannot_tell_is_checked_too(
    folder: Path, name: str, edit: Callable[[Any], object], place: str
) -> None:
    """Secrets have 32 bytes, keys a keyset, and there are two scopes."""
    change(folder / name, edit)

    message = failure(folder)

    assert f"{name} is malformed" in message
    assert place in message


@pytest.mark.parametrize(
    "line",
    [
        "",
        "1,2,salt,3",
        "x,2,salt,3,,,,,,,",
        "1,2,,3,,,,,,,",
        "1,2,,3,,7,tooshort,salt,,,",
        "1,2,,3,,x,K123456789K123456789K123456789K1,salt,,,",
    ],
)
def test_a_malformed_line_of_salts_is_named(folder: Path, line: str) -> None:
    """Eleven fields, and a salt or a key (docs/protocol.md 4.3)."""
    path = folder / "salts-2.txt"
    lines = path.read_text().splitlines()
    lines[4] = line
    path.write_text("\n".join(lines))

    assert "salts-2.txt is malformed: line 5." in failure(folder)


def test_keys_of_buckets_count_as_a_whole(folder: Path) -> None:
    """Id and key must be there, and for the previous one its salt (4.3 and 4.5)."""
    key = "K123456789K123456789K123456789K1"
    path = folder / "salts-2.txt"
    path.write_text(f"1,2,,3,,7,{key},,8,{key},\n2,2,salt,3,, ,{key},x,9,{key},s\n")

    first, second = OperatorData.load(folder).salts.snapshots[1].rows

    assert first.key is not None
    assert (first.key.id, first.key.salt) == (7, "")
    assert first.previous_key is None
    assert second.key is None
    assert second.previous_key is not None


def test_snapshots_come_in_the_order_of_time(folder: Path) -> None:
    """Whatever their order in the metadata; without an end they last."""
    path = folder / "salts_metadata.json"
    change(path, lambda one: one["salts"].reverse())
    change(path, lambda one: one["salts"][0].pop("expires"))

    snapshots = OperatorData.load(folder).salts.snapshots

    assert snapshots[0].effective < snapshots[1].effective
    assert snapshots[1].expires > snapshots[0].expires


def test_an_opt_out_record_must_name_someone(folder: Path) -> None:
    """It is found when the operator is made."""
    change(folder / "optouts.json", lambda all_: all_[3].update(phone="hush"))
    data = OperatorData.load(folder)

    with pytest.raises(ConfigError) as caught:
        LocalOperator(data)

    assert "record 3" in str(caught.value)
    assert "hush" not in str(caught.value)
