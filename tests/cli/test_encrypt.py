"""``uid2 encrypt``: raw UIDs become tokens, in files and one by one."""

from __future__ import annotations

import asyncio
import base64
import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from uid2_async import IdentityScope, KeyStore, SharingClient, UID2Client
from uid2_async.models import IdentityType

Uid2 = Callable[..., Any]

RAW_UID = base64.b64encode(bytes(32)).decode()
# Of version 4, as production makes them (docs/protocol.md 5.3).
PHONE_UIDS = {
    IdentityScope.UID2: base64.b64encode(b"\xa4" + bytes(32)).decode(),
    IdentityScope.EUID: base64.b64encode(b"\xb4" + bytes(32)).decode(),
}


@pytest.fixture
def sharing(scope: IdentityScope, env: dict[str, str]) -> SharingClient:
    """Open tokens with the keys of the operator that the tests ask."""

    async def fetch() -> SharingClient:
        async with UID2Client.from_env(scope, environ=env) as client:
            return SharingClient(await client.fetch_sharing_keys())

    return asyncio.run(fetch())


def test_one(uid2: Uid2, env: dict[str, str], sharing: SharingClient) -> None:
    """A raw UID on the command line becomes a line of JSON."""
    result = uid2("encrypt", "--uid", RAW_UID, env=env)
    line = json.loads(result.stdout)
    opened = sharing.decrypt(line["UID_TOKEN"])

    assert (result.exit_code, result.stderr) == (0, "")
    assert list(line) == ["UID_TOKEN", "ENCRYPTION_STATUS"]
    assert line["ENCRYPTION_STATUS"] is None
    assert (opened.raw_uid, opened.identity_type) == (RAW_UID, IdentityType.EMAIL)


def test_type(uid2: Uid2, env: dict[str, str], sharing: SharingClient) -> None:
    """The type of a raw UID that does not tell it can be said."""
    line = ["encrypt", "--uid", "-", "--type", "phone"]
    result = uid2(*line, env=env, stdin=f"{RAW_UID}\n")
    token = json.loads(result.stdout)["UID_TOKEN"]

    assert sharing.decrypt(token).identity_type is IdentityType.PHONE


def test_statuses(
    uid2: Uid2,
    scope: IdentityScope,
    env: dict[str, str],
    sharing: SharingClient,
    tmp_path: Path,
) -> None:
    """A row that fails stays, says why, and turns the exit code into 3."""
    uid = PHONE_UIDS[scope]
    (other,) = set(PHONE_UIDS.values()) - {uid}
    rows = [["UID"], [RAW_UID], [uid], [other], ["x"], [""]]
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text("".join(f'"{row[0]}"\n' for row in rows))

    result = uid2("encrypt", str(source), str(target), env=env)
    header, *found = csv.reader(target.read_text().splitlines())

    assert result.exit_code == 3
    assert result.stdout == ""
    assert result.stderr == (
        "uid2: Rows without a token: 3 (MISMATCHING_IDENTITY_SCOPE 1, "
        "MISSING_OR_INVALID_RAW_UID 2).\n"
    )
    assert header == ["UID", "UID_TOKEN", "ENCRYPTION_STATUS"]
    assert [row[0] for row in found] == [row[0] for row in rows[1:]]
    assert [row[2] for row in found] == [
        "",
        "",
        "MISMATCHING_IDENTITY_SCOPE",
        "MISSING_OR_INVALID_RAW_UID",
        "MISSING_OR_INVALID_RAW_UID",
    ]
    assert [sharing.decrypt(row[1]).raw_uid for row in found[:2]] == [
        RAW_UID,
        uid,
    ]
    assert [row[1] for row in found[2:]] == ["", "", ""]


def test_keysets(uid2: Uid2, env: dict[str, str]) -> None:
    """A keyset that the API key may not encrypt with fails every row."""
    own = uid2("encrypt", "--uid", RAW_UID, "--keyset-id", "15", env=env)
    foreign = uid2("encrypt", "--uid", RAW_UID, "--keyset-id", "11", env=env)

    assert own.exit_code == 0
    assert foreign.exit_code == 3
    assert json.loads(foreign.stdout) == {
        "UID_TOKEN": None,
        "ENCRYPTION_STATUS": "NOT_AUTHORIZED_FOR_SITE_KEY",
    }


def test_keys_of_bidders(
    uid2: Uid2, scope: IdentityScope, env: dict[str, str], tmp_path: Path
) -> None:
    """The keys of a bidder, here out of a file, do not encrypt."""

    async def save() -> None:
        async with (
            UID2Client.from_env(scope, environ=env) as client,
            KeyStore(client.fetch_bidstream_keys) as store,
        ):
            store.save(tmp_path / "keys")

    asyncio.run(save())

    result = uid2("encrypt", "--uid", RAW_UID, "--keys-file", str(tmp_path / "keys"))

    status = json.loads(result.stdout)["ENCRYPTION_STATUS"]
    assert (result.exit_code, status) == (3, "NOT_AUTHORIZED_FOR_MASTER_KEY")


def test_a_key_without_the_role(
    uid2: Uid2, env_of: Callable[[str], dict[str, str]], tmp_path: Path
) -> None:
    """Where the operator refuses the keys, nothing is written."""
    env = env_of("advertiser")
    (tmp_path / "in.csv").write_text("UID\nx\n")
    paths = (str(tmp_path / "in.csv"), str(tmp_path / "out.csv"))

    result = uid2("encrypt", *paths, env=env)

    assert result.exit_code == 4
    assert [one.name for one in tmp_path.iterdir()] == ["in.csv"]
