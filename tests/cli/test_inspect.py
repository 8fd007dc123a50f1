"""``uid2 inspect`` tells what a value is, and never repeats it."""

from __future__ import annotations

import json
import os
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from uid2_async.identity_tokens import IdentityTokens
from uid2_async.models import IdentityScope, IdentityType
from uid2_async.protocol.keyring import Key, KeyRing
from uid2_async.protocol.token_codec import AdvertisingToken, open_token, seal_token

Uid2 = Callable[..., Any]

HEX = "8c87b489ce35cf2e2f39f80e282cb2e804932a56a213983eeeb428407d43b52d"
UID_V4 = "oA9CQHH1Ukv/rzgAB+T5O+8mgWz1teQGQv02ZlXaHvR1"


@pytest.fixture
def tokens(generate: Uid2) -> IdentityTokens:
    """Generate tokens for jane@example.com."""
    return IdentityTokens.from_json(generate("jane@example.com").stdout)


@pytest.fixture
def keys_file(uid2: Uid2, env: dict[str, str], tmp_path: Path) -> Path:
    """Save the keys of a sharer."""
    path = tmp_path / "ring"
    uid2("keys", "--save", str(path), env=env)
    return path


def ring_of(path: Path) -> KeyRing:
    """Read the ring in a key file."""
    return KeyRing.from_json(json.dumps(json.loads(path.read_text())["reply"]))


def reseal(token: str, path: Path, **changes: Any) -> str:
    """Encrypt a token again, with some fields changed."""
    ring = ring_of(path)
    opened = open_token(token, ring.key)
    fields = {name: getattr(opened, name) for name in opened.__struct_fields__}
    return seal_token(
        AdvertisingToken(**fields | changes),
        ring.key,
        master_iv=os.urandom(12),
        site_iv=os.urandom(12),
    )


def test_lines(uid2: Uid2) -> None:
    """Without keys the bytes tell; one field a line."""
    result = uid2("inspect", UID_V4)

    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "what: raw UID",
        "length: 44",
        "version: 4",
        "scope: UID2",
        "identity type: email",
        "environment: prod",
        "key id: 1000000",
    ]


def test_json(uid2: Uid2) -> None:
    """The same as JSON; several kinds are a list, and notes too."""
    report = json.loads(uid2("inspect", "--json", HEX).stdout)

    assert report["kinds"] == ["hash of DII"]
    assert report["encoding"] == "hex"
    assert len(report["notes"]) == 1


def test_ambiguity(uid2: Uid2) -> None:
    """What may be several things is all of them."""
    result = uid2("inspect", "jIe0ic41zy4vOfgOKCyy6ASTKlaiE5g+7rQoQH1DtS0=")

    first, *_, last = result.stdout.splitlines()
    assert first == "what: hash of DII or raw UID or client secret"
    assert last.startswith("note: 32 bytes in base64 can be")


def test_nothing_known(uid2: Uid2) -> None:
    """An unknown value is not repeated, and the exit code says so."""
    result = uid2("inspect", "gibberish")

    assert result.exit_code == 3
    assert result.stdout.splitlines() == ["what: nothing known", "length: 9"]


def test_identity_tokens(uid2: Uid2, tokens: IdentityTokens) -> None:
    """Identity tokens may have several lines; the tokens in them are set in."""
    text = json.dumps(tokens.to_dict(), indent=2)
    result = uid2("inspect", "-", stdin=text)
    lines = result.stdout.splitlines()

    assert lines[0] == "what: identity tokens"
    assert "state: fresh" in lines
    assert "  what: advertising token" in lines
    assert "  what: refresh token" in lines
    assert tokens.advertising_token[:12] not in result.output


@pytest.mark.parametrize("value", ["UID2-C-L-1-abc", "EUID-O-L-1-abc"])
def test_keys_as_arguments(uid2: Uid2, value: str) -> None:
    """API keys are refused where others see them."""
    result = uid2("inspect", value)

    assert result.exit_code == 2
    assert "not accepted on the command line" in result.stderr
    assert value not in result.output


def test_keys_from_stdin(uid2: Uid2, scope: IdentityScope, env: dict[str, str]) -> None:
    """From stdin they are taken, and not repeated."""
    key = env[f"{scope}_API_KEY"]
    result = uid2("inspect", "-", stdin=key)

    assert "what: API key" in result.stdout.splitlines()
    assert "key environment: local" in result.stdout.splitlines()
    assert "site id: 105" in result.stdout.splitlines()
    assert f"scope: {scope}" in result.stdout.splitlines()
    assert key not in result.output


@pytest.mark.parametrize("kind", ["sharing", "bidstream"])
def test_opening(
    uid2: Uid2, env: dict[str, str], tokens: IdentityTokens, kind: str
) -> None:
    """With keys, a token shows its site and times; the raw UID only on request."""
    arguments = ["inspect", tokens.advertising_token, "--keys", kind, "--json"]
    report = json.loads(uid2(*arguments, env=env).stdout)
    shown = json.loads(uid2(*arguments, "--show-uid", env=env).stdout)

    assert report["status"] == "SUCCESS"
    assert report["site_id"] == 105
    assert report["identity_type"] == "email"
    assert report["client_side_generated"] is False
    assert report["created"] <= report["expires"]
    assert report["established"] == report["created"]
    assert len(shown.pop("raw_uid")) == 44
    assert shown == report


@pytest.mark.parametrize("encode", [False, True])
def test_opening_in_identity_tokens(
    uid2: Uid2, keys_file: Path, tokens: IdentityTokens, *, encode: bool
) -> None:
    """The token in identity tokens is opened, also out of a cookie; nothing is sent."""
    text = tokens.to_json().replace('"', "%22") if encode else tokens.to_json()
    text = text.replace("{", "%7B") if encode else text
    result = uid2("inspect", "-", "--keys-file", str(keys_file), stdin=text)

    assert "  status: SUCCESS" in result.stdout.splitlines()
    assert "  client side generated: no" in result.stdout.splitlines()


def test_expired_tokens(uid2: Uid2, keys_file: Path, tokens: IdentityTokens) -> None:
    """What has expired is opened, with the status that decryption has."""
    token = reseal(tokens.advertising_token, keys_file, created_ms=0, expires_ms=1000)
    result = uid2("inspect", token, "--keys-file", str(keys_file))

    assert result.exit_code == 0
    assert "status: EXPIRED_TOKEN" in result.stdout.splitlines()
    assert "expires: 1970-01-01T00:00:01Z" in result.stdout.splitlines()


def test_tokens_of_version_2(
    uid2: Uid2, keys_file: Path, tokens: IdentityTokens
) -> None:
    """A v2 token has no creation time, and none is shown."""
    ring = ring_of(keys_file)
    opened = open_token(tokens.advertising_token, ring.key)
    token = seal_token(
        AdvertisingToken(
            version=2,
            master_key_id=opened.master_key_id,
            site_key_id=opened.site_key_id,
            expires_ms=opened.expires_ms,
            site_id=opened.site_id,
            established_ms=opened.established_ms,
            raw_uid=opened.raw_uid,
        ),
        ring.key,
        master_iv=os.urandom(16),
        site_iv=os.urandom(16),
    )
    report = json.loads(
        uid2("inspect", token, "--keys-file", str(keys_file), "--json").stdout
    )

    assert (report["version"], report["status"]) == (2, "SUCCESS")
    assert "created" not in report


def test_foreign_tokens(uid2: Uid2, scope: IdentityScope, keys_file: Path) -> None:
    """A token under unknown keys has the status, and nothing more."""
    key = Key(id=9, secret=bytes(32), created=0, activates=0, expires=2**40)
    opened = AdvertisingToken(
        version=4,
        scope=scope,
        identity_type=IdentityType.EMAIL,
        master_key_id=9,
        site_key_id=9,
        expires_ms=0,
        created_ms=0,
        site_id=1,
        established_ms=0,
        refreshed_ms=0,
        raw_uid=b64encode(bytes(32)).decode(),
    )
    token = seal_token(
        opened, {9: key}.get, master_iv=os.urandom(12), site_iv=os.urandom(12)
    )
    result = uid2("inspect", token, "--keys-file", str(keys_file))

    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == "status: NOT_AUTHORIZED_FOR_MASTER_KEY"


def test_keys_that_have_expired(
    uid2: Uid2, keys_file: Path, tokens: IdentityTokens
) -> None:
    """With expired keys a token is still opened, and the status says so."""
    saved = json.loads(keys_file.read_text())
    for key in saved["reply"]["body"]["keys"]:
        key["expires"] = 1
    keys_file.write_text(json.dumps(saved))
    result = uid2("inspect", tokens.advertising_token, "--keys-file", str(keys_file))

    assert "status: KEYS_NOT_SYNCED" in result.stdout.splitlines()
    assert "site id: 105" in result.stdout.splitlines()


def test_domains(
    uid2: Uid2, env: dict[str, str], keys_file: Path, tokens: IdentityTokens
) -> None:
    """For bidders, a token that was generated client-side is tied to a domain."""
    token = reseal(tokens.advertising_token, keys_file, site_id=101, privacy_bits=3)
    arguments = ["inspect", token, "--keys", "bidstream"]
    without = uid2(*arguments, env=env).stdout.splitlines()
    at_home = uid2(*arguments, "--domain", "example.com", env=env).stdout.splitlines()

    assert "status: DOMAIN_OR_APP_NAME_CHECK_FAILED" in without
    assert "client side generated: yes" in without
    assert "status: SUCCESS" in at_home


def test_nothing_to_open(uid2: Uid2) -> None:
    """If there is no token to open, nothing is fetched."""
    result = uid2("inspect", HEX, "--keys", "sharing")

    assert result.exit_code == 0
    assert "no advertising token that keys could decrypt" in result.stdout


def test_keys_from_two_places(uid2: Uid2, keys_file: Path) -> None:
    """Keys come from one place."""
    result = uid2("inspect", HEX, "--keys", "sharing", "--keys-file", str(keys_file))

    assert result.exit_code == 2
    assert "either --keys or --keys-file" in result.stderr


def test_sandbox(uid2: Uid2, scope: IdentityScope, tokens: IdentityTokens) -> None:
    """The sandbox has the keys of its own tokens, which are the same in each."""
    arguments = ["--keys", "sharing", "--sandbox", "--scope", scope.lower()]
    result = uid2("inspect", tokens.advertising_token, *arguments)

    assert "status: SUCCESS" in result.stdout.splitlines()


def test_help(uid2: Uid2) -> None:
    """The command explains itself."""
    result = uid2("inspect", "--help")

    assert result.exit_code == 0
    assert "--keys-file" in result.stdout
