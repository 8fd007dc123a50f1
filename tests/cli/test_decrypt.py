"""``uid2 decrypt``: tokens become raw UIDs, in files and one by one."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import csv
import json
import stat
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import msgspec
import pytest

from uid2_async import (
    ClientSideClient,
    IdentityScope,
    KeyRing,
    KeyStore,
    SharingClient,
    UID2Client,
)
from uid2_async.operator import LocalOperator

Uid2 = Callable[..., Any]

UIDS = [base64.b64encode(bytes([at]) * 32).decode() for at in range(3)]


@pytest.fixture
def ring(scope: IdentityScope, env: dict[str, str]) -> KeyRing:
    """Fetch the keys of the operator that the tests ask; tokens hold for an hour."""

    async def fetch() -> KeyRing:
        async with UID2Client.from_env(scope, environ=env) as client:
            return await client.fetch_sharing_keys()

    return attrs.evolve(asyncio.run(fetch()), token_expiry_seconds=3600)


@pytest.fixture
def tokens(ring: KeyRing) -> dict[str, str]:
    """Make a token for each status that a file may meet."""
    client = SharingClient(ring)
    past = SharingClient(ring, clock=lambda: datetime.now(UTC) - timedelta(hours=2))
    future = SharingClient(ring, clock=lambda: datetime.now(UTC) + timedelta(hours=2))
    foreign = attrs.evolve(
        ring,
        keys={
            one.id + 900_000: msgspec.structs.replace(one, id=one.id + 900_000)
            for one in ring.keys.values()
        },
    )
    return {
        "": client.encrypt(UIDS[0]),
        "EXPIRED_TOKEN": past.encrypt(UIDS[1]),
        "INVALID_TOKEN_LIFETIME": future.encrypt(UIDS[1]),
        "NOT_AUTHORIZED_FOR_MASTER_KEY": SharingClient(foreign).encrypt(UIDS[1]),
        "INVALID_PAYLOAD": "not a token",
        "VERSION_NOT_SUPPORTED": "A5AAAAPp" + "A" * 100,
    }


def test_one(uid2: Uid2, env: dict[str, str], tokens: dict[str, str]) -> None:
    """Tokens on the command line become lines of JSON."""
    result = uid2(
        *("decrypt", "--token", tokens[""], "--token", tokens["EXPIRED_TOKEN"]), env=env
    )
    first, second = map(json.loads, result.stdout.splitlines())

    assert result.exit_code == 3
    assert result.stderr == "uid2: Rows without a raw UID: 1 (EXPIRED_TOKEN 1).\n"
    assert list(first) == ["UID", "SITE_ID", "DECRYPTION_STATUS"]
    assert (first["UID"], first["DECRYPTION_STATUS"]) == (UIDS[0], None)
    assert isinstance(first["SITE_ID"], int)
    assert second == {
        "UID": None,
        "SITE_ID": None,
        "DECRYPTION_STATUS": "EXPIRED_TOKEN",
    }


def test_pipe(uid2: Uid2, env: dict[str, str]) -> None:
    """What encrypt prints is what decrypt reads."""
    sealed = uid2("encrypt", "--uid", "-", env=env, stdin="\n".join(UIDS))
    rows = ("-", "--format", "jsonl")
    opened = uid2("decrypt", *rows, "--keys", "sharing", env=env, stdin=sealed.stdout)

    assert (opened.exit_code, opened.stderr) == (0, "")
    assert [json.loads(one)["UID"] for one in opened.stdout.splitlines()] == UIDS


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_round_trip(
    uid2: Uid2, env: dict[str, str], tmp_path: Path, suffix: str
) -> None:
    """A file that is encrypted and decrypted has its raw UIDs back."""
    paths = [str(tmp_path / f"{name}.{suffix}") for name in ("raw", "sealed", "opened")]
    rows = [{"id": str(at), "RAW": one} for at, one in enumerate(UIDS)]
    write(paths[0], rows)

    sealed = uid2("encrypt", paths[0], paths[1], "--column", "raw", env=env)
    opened = uid2(*("decrypt", "--keys", "sharing", paths[1], paths[2]), env=env)
    found = read(paths[2])

    assert (sealed.exit_code, sealed.output) == (0, "")
    assert (opened.exit_code, opened.output) == (0, "")
    assert [row["UID"] for row in found] == UIDS
    assert [{name: row[name] for name in ("id", "RAW")} for row in found] == rows
    assert stat.S_IMODE(Path(paths[2]).stat().st_mode) == 0o600


def write(path: str, rows: list[dict[str, str]]) -> None:
    """Write rows in the format of the suffix."""
    if path.endswith("parquet"):
        pa = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(
            pa.Table.from_pylist(rows), path
        )
    elif path.endswith("jsonl"):
        Path(path).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    else:
        with Path(path).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def read(path: str) -> list[dict[str, Any]]:
    """Read rows in the format of the suffix."""
    if path.endswith("parquet"):
        table = pytest.importorskip("pyarrow.parquet").read_table(path)
        return list(table.to_pylist())
    lines = Path(path).read_text().splitlines()
    if path.endswith("jsonl"):
        return [json.loads(line) for line in lines]
    return list(csv.DictReader(lines))


def test_statuses(
    uid2: Uid2, env: dict[str, str], tokens: dict[str, str], tmp_path: Path
) -> None:
    """Each row says why it failed, and none of the others is touched."""
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    lines = [f'"{why}, ""so""",{token}' for why, token in tokens.items()]
    source.write_text("\n".join(["expected,UID_TOKEN", *lines, '"",']))

    result = uid2("decrypt", str(source), str(target), env=env)
    rows = read(str(target))

    assert result.exit_code == 3
    assert "Rows without a raw UID: 6 (EXPIRED_TOKEN 1, INVALID_" in result.stderr
    assert [row["DECRYPTION_STATUS"] for row in rows] == [*tokens, "INVALID_PAYLOAD"]
    assert [row["UID"] for row in rows] == [UIDS[0], *[""] * 6]
    assert [row["expected"] for row in rows[:-1]] == [f'{one}, "so"' for one in tokens]
    assert not any(token in result.output for token in tokens.values() if token)


@pytest.fixture
def page_token(local_operator: LocalOperator) -> str:
    """Generate a token as a page does."""
    pair = local_operator.data.keypairs[0]

    async def generate() -> str:
        async with ClientSideClient(
            local_operator.url,
            subscription_id=pair.subscription_id,
            server_public_key=pair.public_key,
            origin="https://example.com",
        ) as client:
            answer = await client.generate_token("jane@example.com")
        return answer.advertising_token

    return asyncio.run(generate())


def test_domains(
    uid2: Uid2, env: dict[str, str], page_token: str, tmp_path: Path
) -> None:
    """A page's token needs a domain of its site: of its row, or of all."""
    source = tmp_path / "in.jsonl"
    domains = ["EXAMPLE.com", "thief.example.org", None]
    rows = [{"UID_TOKEN": page_token, "site": one} for one in domains]
    source.write_text("".join(f"{json.dumps(one)}\n" for one in rows))
    file = ("decrypt", str(source))
    refused = "DOMAIN_OR_APP_NAME_CHECK_FAILED"

    def statuses(*arguments: str) -> list[str | None]:
        result = uid2(*arguments, env=env)
        return [
            json.loads(one)["DECRYPTION_STATUS"] for one in result.stdout.splitlines()
        ]

    assert statuses(*file, "--domain-column", "SITE") == [None, refused, refused]
    assert statuses(*file, "--domain", "example.com") == [None] * 3
    assert statuses("decrypt", "--token", page_token) == [refused]
    assert statuses("decrypt", "--token", page_token, "--keys", "sharing") == [None]


async def save(ring: KeyRing, path: str) -> None:
    """Save keys as a program does."""

    async def fetch() -> KeyRing:
        return ring

    async with KeyStore(fetch) as store:
        store.save(path)


def test_keys_from_a_file(
    uid2: Uid2, ring: KeyRing, page_token: str, tmp_path: Path
) -> None:
    """Saved keys need no operator, and tell by themselves whose they are."""
    path = str(tmp_path / "keys")
    asyncio.run(save(ring, path))

    line = ["decrypt", "--token", page_token, "--keys-file", path]
    result = uid2(*line)
    strict = uid2(*line, "--keys", "bidstream")

    assert json.loads(result.stdout)["DECRYPTION_STATUS"] is None
    assert "DOMAIN_OR_APP_NAME_CHECK_FAILED" in strict.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "There is nothing to read"),
        (["--token", "x", "--column", "x"], "apply only to files"),
        (["--token", "-", "--force"], "apply only to files"),
        (["IN", "--token", "x"], "Give either IN or --token."),
        (["IN", "OLD"], "already exists"),
        (["IN", "IN", "--force"], "are the same file"),
        (
            ["IN", "--column", "y"],
            "no column 'y'. The columns are: 'UID_TOKEN'",
        ),
        (["IN", "--domain-column", "y"], "no column 'y'"),
        (["A4s3cr3t"], "The file IN does not exist."),
        (["IN", "--domain", "a", "--domain-column", "b"], "either --domain or"),
        (["IN", "--domain", "a", "--keys", "sharing"], "only with --keys bidstream"),
        (["IN", "--keys-file", "NONE"], "it does not exist"),
        (["UID2-C-L-123-abc"], "are not accepted on the command line"),
    ],
)
def test_wrong_usage(
    uid2: Uid2, tmp_path: Path, arguments: list[str], words: str
) -> None:
    """What contradicts itself is refused before any key is fetched."""
    for name in ("IN", "OLD"):
        (tmp_path / f"{name}.csv").write_text("UID_TOKEN\ns3cr3t\n")
    paths = {name: str(tmp_path / f"{name}.csv") for name in ("IN", "OLD")}

    result = uid2("decrypt", *(paths.get(one, one) for one in arguments))

    assert result.exit_code == 2
    assert words in result.stderr
    assert (result.stdout, "s3cr3t" in result.stderr) == ("", False)
    assert (tmp_path / "OLD.csv").read_text() == "UID_TOKEN\ns3cr3t\n"


def test_force(uid2: Uid2, env: dict[str, str], tmp_path: Path) -> None:
    """With --force an older file is replaced."""
    (tmp_path / "in.csv").write_text("UID_TOKEN\n")
    (tmp_path / "out.csv").write_text("old")
    paths = (str(tmp_path / "in.csv"), str(tmp_path / "out.csv"))

    assert uid2("decrypt", *paths, "--force", env=env).exit_code == 0
    assert (tmp_path / "out.csv").read_text() == (
        "UID_TOKEN,UID,SITE_ID,DECRYPTION_STATUS\n"
    )


@pytest.mark.parametrize("scope", [IdentityScope.UID2])
def test_sigterm(tmp_path: Path, ring: KeyRing) -> None:
    """SIGTERM ends the program with 143 and leaves no half-written file."""
    keys, out = tmp_path / "keys", tmp_path / "out.csv"
    asyncio.run(save(ring, str(keys)))
    command = [sys.executable, "-m", "uid2_async", "decrypt", "--keys-file", str(keys)]
    with subprocess.Popen(  # noqa: S603 - our own program
        [*command, "-", str(out)],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as program:
        assert program.stdin is not None
        program.stdin.write(b"UID_TOKEN\nx\n")
        program.stdin.flush()
        while not list(tmp_path.glob(".out.csv-*.uid2-part")):
            assert program.poll() is None
        # Python runs handlers between its own steps: a signal just before the call that
        # waits for the pipe is seen when that ends, or with another signal.
        for _ in range(4):
            program.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                program.wait(timeout=5)
                break

        assert program.returncode == 143
    assert [one.name for one in tmp_path.iterdir()] == ["keys"]
