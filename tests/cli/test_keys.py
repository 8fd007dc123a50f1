"""``uid2 keys`` lists keys and saves them, and prints no secret."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from uid2_async import IdentityScope
from uid2_async.protocol.keyring import KeyRing

Uid2 = Callable[..., Any]

HEADER = ["ID", "KEYSET", "ID", "CREATED", "ACTIVATES", "EXPIRES", "STATE"]


def saved_ring(path: Path) -> KeyRing:
    """Read the ring in a key file."""
    return KeyRing.from_json(json.dumps(json.loads(path.read_text())["reply"]))


def test_table(uid2: Uid2, env: dict[str, str]) -> None:
    """The settings come first, then one line for each key."""
    result = uid2("keys", env=env)
    settings, table = result.stdout.split("\n\n")
    header, *rows = table.splitlines()

    assert result.exit_code == 0
    assert "kind: sharing" in settings.splitlines()
    assert "caller site id: 105" in settings.splitlines()
    assert "token expiry seconds: 2592000" in settings.splitlines()
    assert "max bidstream lifetime seconds" not in settings
    assert header.split() == HEADER
    assert {row.split()[-1] for row in rows} == {"active", "future"}
    assert {len(row.split()) for row in rows} == {6}
    assert result.stderr == ""


def test_json(uid2: Uid2, scope: IdentityScope, env: dict[str, str]) -> None:
    """The same as a JSON object, with times in ISO 8601."""
    report = json.loads(uid2("keys", "--keys", "bidstream", "--json", env=env).stdout)

    assert (report["kind"], report["identity_scope"]) == ("bidstream", scope)
    assert report["caller_site_id"] is None
    assert report["max_bidstream_lifetime_seconds"] > 0
    assert {key["keyset_id"] for key in report["keys"]} == {None}
    assert all(key["created"].endswith("T00:00:00Z") for key in report["keys"])


@pytest.mark.parametrize("flag", [[], ["--json"]])
def test_no_secret_is_printed(
    uid2: Uid2, env: dict[str, str], tmp_path: Path, flag: list[str]
) -> None:
    """Secrets are only in the saved file, which only its owner can read."""
    path = tmp_path / "ring"
    result = uid2("keys", "--save", str(path), *flag, env=env)
    secrets = {b64encode(key.secret) for key in saved_ring(path).keys.values()}

    assert result.exit_code == 0
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(secrets) >= 10
    assert not any(one.decode()[:8] in result.output for one in secrets)
    assert result.stderr.startswith(f"uid2: The keys are saved in {path}")


def test_saved_keys(uid2: Uid2, env: dict[str, str], tmp_path: Path) -> None:
    """What was saved can be listed without the operator."""
    path = tmp_path / "ring"
    listed = uid2("keys", "--save", str(path), env=env).stdout
    result = uid2("keys", "--keys-file", str(path))

    assert (result.exit_code, result.stdout) == (0, listed)


def test_expired_keys(uid2: Uid2, env: dict[str, str], tmp_path: Path) -> None:
    """Expired keys, and those of a ring that never ends, are listed for what they are.

    A ring without any valid key is not worth saving.
    """
    path = tmp_path / "ring"
    uid2("keys", "--save", str(path), env=env)
    saved = json.loads(path.read_text())
    keys = saved["reply"]["body"]["keys"][:1]
    saved["reply"]["body"]["keys"] = keys
    keys[0] |= {"created": 10**14, "activates": 0, "expires": 1}
    path.write_text(json.dumps(saved))
    result = uid2("keys", "--keys-file", str(path), "--save", str(tmp_path / "new"))

    assert result.exit_code == 1
    assert "100000000000000000 ms" in result.stdout
    assert result.stdout.splitlines()[-1].endswith("1970-01-01T00:00:01Z  expired")
    assert "All fetched keys have expired" in result.stderr
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--keys-file", "/nowhere/ring"], "it does not exist"),
        (["--keys-file", __file__], "was not written by KeyStore.save"),
        (["--keys-file", __file__, "--sandbox"], "either --keys-file or --sandbox"),
    ],
)
def test_bad_files(uid2: Uid2, arguments: list[str], words: str) -> None:
    """What is no key file is refused, and nothing is fetched."""
    result = uid2("keys", *arguments)

    assert result.exit_code in {1, 2}
    assert words in result.stderr
    assert "Traceback" not in result.output


def test_a_key_without_the_role(
    uid2: Uid2, env_of: Callable[[str], dict[str, str]]
) -> None:
    """An API key without access to the keys gets an error that says so."""
    assert uid2("keys", env=env_of("publisher")).exit_code == 4


def test_sandbox(uid2: Uid2) -> None:
    """The sandbox has keys of either scope."""
    result = uid2("keys", "--sandbox", "--scope", "euid", "--json")

    assert json.loads(result.stdout)["identity_scope"] == "EUID"


def test_no_place_to_save(uid2: Uid2, env: dict[str, str], tmp_path: Path) -> None:
    """A file that cannot be written is refused before keys are fetched."""
    result = uid2("keys", "--save", str(tmp_path / "no" / "ring"), env=env)

    assert (result.exit_code, result.stdout) == (2, "")
    assert "its folder does not exist" in result.stderr


def test_help(uid2: Uid2) -> None:
    """The command explains itself."""
    result = uid2("keys", "--help")

    assert result.exit_code == 0
    assert "--keys-file" in result.stdout
