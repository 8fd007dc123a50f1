"""``uid2 sandbox``: an operator in a process of its own."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from uid2_async import IdentityScope, UID2Client
from uid2_async.cli.sandbox import Sandbox
from uid2_async.identity_tokens import IdentityTokens
from uid2_async.models import MappedUID

Uid2 = Callable[..., Any]

WORLDS = Path(__file__).parents[1] / "conformance"


@contextmanager
def sandbox(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a sandbox until the block ends."""
    process = subprocess.Popen(  # noqa: S603 - the interpreter that runs this
        [sys.executable, "-m", "uid2_async", "sandbox", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": ""},
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def settings(process: subprocess.Popen[str], role: str) -> dict[str, str]:
    """Read what is printed until the environment of *role* has come."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(f"# {role}:"):
            break
    words = shlex.split(process.stdout.readline())
    assert words[0] == "export"
    return dict(word.split("=", 1) for word in words[1:])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_client_from_its_lines(number: signal.Signals) -> None:
    """The printed lines are all that a client needs; a signal ends it with 0."""
    with sandbox() as process:
        env = settings(process, "publisher")
        async with UID2Client.from_env(environ=env) as client:
            answer = await client.generate_token("jane@example.com")
        process.send_signal(number)
        assert process.wait(30) == 0
        assert process.stderr is not None
        assert process.stderr.read() == "uid2: The sandbox has stopped.\n"

    assert isinstance(answer, IdentityTokens)


async def test_euid() -> None:
    """An EUID sandbox prints EUID's variables."""
    with sandbox("--scope", "euid") as process:
        env = settings(process, "advertiser")
        async with UID2Client.from_env(IdentityScope.EUID, environ=env) as client:
            (row,) = await client.map_identities(["jane@example.com"])

    assert isinstance(row, MappedUID)
    assert set(env) == {"EUID_BASE_URL", "EUID_API_KEY", "EUID_SECRET_KEY"}


def test_data() -> None:
    """--data loads a folder of an operator's files."""
    with sandbox("--data", str(WORLDS / "euid" / "world")) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("# EUID operator at http://127.")


def test_beyond_this_machine() -> None:
    """Listening beyond loopback is allowed, with a warning and the switch for http."""
    with sandbox("--host", "0.0.0.0") as process:  # noqa: S104 - that is the case
        env = settings(process, "everything")
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        assert process.stderr is not None
        assert process.stderr.readline().startswith("uid2: warning: 0.0.0.0 can be")

    assert env["UID2_ALLOW_HTTP"] == "1"


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ([], 200),
        (["--no-console"], 404),
        (["--host", "0.0.0.0"], 404),  # noqa: S104 - that is the case
        (["--host", "0.0.0.0", "--console"], 200),  # noqa: S104 - as above
    ],
)
def test_the_console_is_for_this_machine(arguments: list[str], status: int) -> None:
    """On at loopback, off elsewhere unless told, with a word on who can see it."""
    with sandbox(*arguments) as process:
        url = settings(process, "publisher")["UID2_BASE_URL"]
        connection = HTTPConnection(url.removeprefix("http://"), timeout=10)
        connection.request("GET", "/")
        assert connection.getresponse().status == status
        connection.close()
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)

    assert ("shows them every call" in errors) == ("--console" in arguments)
    assert ("console is off there" in errors) == (len(arguments) == 2)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--data", "/nowhere"], 2, "world.json"),
        (
            ["--data", str(WORLDS / "euid" / "world"), "--scope", "uid2"],
            2,
            "are EUID's, not UID2's",
        ),
        (["--host", "192.0.2.1"], 1, "192.0.2.1"),
    ],
)
def test_what_cannot_start(
    uid2: Uid2, arguments: list[str], code: int, words: str
) -> None:
    """What cannot be loaded or listened at is one line and a code."""
    result = uid2("sandbox", *arguments)

    assert result.exit_code == code
    assert words in result.stderr
    assert result.stdout == ""


class StoppingScreen(io.StringIO):
    """A stdout that ends the program once all has been printed."""

    def write(self, text: str) -> int:
        """Take *text*."""
        written = super().write(text)
        if "export" in text and "# everything" in self.getvalue():
            signal.raise_signal(signal.SIGTERM)
        return written


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])  # noqa: S104 - that is the case
def test_what_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], host: str
) -> None:
    """Every line can be pasted into a shell; comments tell the roles."""
    screen = StoppingScreen()
    monkeypatch.setattr("sys.stdout", screen)
    asyncio.run(Sandbox(host=host).serve())
    lines = [line for line in screen.getvalue().splitlines() if line]
    errors = capsys.readouterr().err

    assert all(line.startswith(("# ", "export UID2_")) for line in lines)
    local = host != "0.0.0.0"  # noqa: S104 - as above
    if local:
        url = lines[0].split()[4]
        assert lines.pop(1) == f"# Console, for a browser: {url}/"
    assert [line.partition(":")[0] for line in lines[1::2]] == [
        f"# {role}"
        for role in ("publisher", "advertiser", "bidder", "sharer", "everything")
    ]
    assert ("UID2_ALLOW_HTTP=1" in lines[2]) is not local
    assert ("warning" in errors) is not local


def test_an_env_file_that_exists_is_not_replaced(uid2: Uid2, tmp_path: Path) -> None:
    """An existing file, or anything else at the path, is rejected before listening."""
    env_file = tmp_path / "uid2.env"
    env_file.write_text("mine", encoding="ascii")
    link = tmp_path / "link"
    link.symlink_to(env_file)
    for path, *more in (
        (env_file,),
        (link,),
        (tmp_path, "--force"),
        (tmp_path / "no" / "uid2.env", "--force"),
    ):
        result = uid2("sandbox", "--env-file", str(path), *more)

        assert (result.exit_code, result.stdout) == (2, "")
        assert str(path) in result.stderr
    assert "--force" in uid2("sandbox", "--env-file", str(env_file)).stderr
    assert env_file.read_text(encoding="ascii") == "mine"


@pytest.mark.parametrize("is_link", [False, True])
def test_an_env_file_is_replaced_by_force(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, is_link: bool
) -> None:
    """By a new file, so that a reader of the old one does not see the keys."""
    monkeypatch.setattr("sys.stdout", StoppingScreen())
    path, other = tmp_path / "uid2.env", tmp_path / "other"
    other.write_text("of somebody else", encoding="ascii")
    if is_link:
        path.symlink_to(other)
    else:
        path.write_text("x" * 10_000, encoding="ascii")
        path.chmod(0o666)
    with path.open(encoding="ascii") as reader:
        before = reader.read()
        asyncio.run(Sandbox(env_file=str(path), force=True).serve())
        assert reader.read() == ""
    text = path.read_text(encoding="ascii")
    assert text.startswith("UID2_BASE_URL=http://127.0.0.1:")
    assert (path.is_symlink(), path.stat().st_mode & 0o777) == (False, 0o600)
    assert other.read_text(encoding="ascii") == "of somebody else"
    assert before not in text


# --- from other containers ------------------------------------------------------------


def ask(url: str, path: str, order: Any = None, **headers: str) -> tuple[int, Any]:
    """Send a request to the control API, as a container would."""
    parts = urlsplit(url)
    connection = HTTPConnection("127.0.0.1", parts.port or 0, timeout=30)
    body = None if order is None else json.dumps(order)
    fields = {"Host": parts.netloc, "Content-Type": "application/json", **headers}
    try:
        connection.request("POST" if body else "GET", path, body, fields)
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())
    finally:
        connection.close()


async def test_the_control_api_of_another_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the token it opts out, arms, sets the clock, shows calls, and resets."""
    monkeypatch.setenv("UID2_SANDBOX_TOKEN", "t0ken")
    env_file = tmp_path / "uid2.env"
    line = ["--console", "--allow-host", "uid2-sandbox", "--env-file", str(env_file)]
    with sandbox(*line, "--access-log", "json") as process:
        env = settings(process, "everything")
        written = dict(one.split("=", 1) for one in env_file.read_text().splitlines())
        url, token = env["UID2_BASE_URL"], {"Authorization": "Bearer t0ken"}
        near = env | {"UID2_BASE_URL": url.replace("uid2-sandbox", "127.0.0.1")}
        orders = {
            "opt-out": {"out": True, "identity": "jane@example.com"},
            "faults": {"status": 503},
        }
        done = [
            ask(url, f"/_console/{name}", order, **token)[0]
            for name, order in orders.items()
        ]
        async with UID2Client.from_env(environ=near) as client:
            rows = await client.map_identities(["jane@example.com"])
        done.append(ask(url, "/_console/clock", {"seconds": 3600}, **token)[0])
        news = ask(url, "/_console/updates/0", **token)[1]
        other = url.replace("uid2-sandbox", "other")
        refused = [
            ask(url, "/_console/updates/0")[0],
            ask(url, "/_console/reset", {}, Authorization="Bearer t0ke")[0],
            ask(other, "/_console/updates/0", **token)[0],
        ]
        reset = ask(url, "/_console/reset", {}, **token)[0]
        after = ask(url, "/_console/updates/0", **token)[1]
        process.terminate()
        _, log = process.communicate(timeout=60)

    assert written == env
    assert env_file.stat().st_mode & 0o77 == 0
    assert urlsplit(url).hostname == "uid2-sandbox"
    assert env["UID2_ALLOW_HTTP"] == "1"
    assert (done, refused, reset) == ([200] * 3, [403] * 3, 200)
    assert not isinstance(rows[0], MappedUID)
    assert (len(news["calls"]), news["ahead_ms"]) == (2, 3_600_000)
    assert (after["calls"], after["armed"], after["ahead_ms"]) == ([], [], 0)
    entries = [json.loads(one) for one in log.splitlines() if one.startswith("{")]
    assert [one["status"] for one in entries] == [503, 200]
    assert {"time", "method", "path", "status", "ms"} == set(entries[0])
    assert "t0ken" not in log


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--allow-host", "a b", "a b is not a host name."),
        ("--allow-host", "x" * 300, "is not a host name."),
        ("--host", "x" * 64, "is not a host name."),
    ],
)
def test_hosts_that_cannot_be(uid2: Uid2, option: str, value: str, words: str) -> None:
    """A URL that nobody can use is not printed."""
    result = uid2("sandbox", option, value)

    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr
