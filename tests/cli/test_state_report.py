"""``uid2 state report``: one page, with counts and nobody's name."""

from __future__ import annotations

import asyncio
import base64
import itertools
import math
import os
import re
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from uid2_async import IdentityScope, MappingState
from uid2_async.bulk.state_values import DUE_DAYS, OPT_OUT_DAYS
from uid2_async.cli.app import app
from uid2_async.models import IdentityType, MapRow

Uid2 = Callable[..., Any]

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
IDENTITIES = [sha256(f"canary.{n}@example.com".encode()).digest() for n in range(8)]
UIDS = [base64.b64encode(b"\x00" + sha256(one).digest()).decode() for one in IDENTITIES]
JOB = "canary-job@example.com"
STATUS = "canary reason <b>"
STATE = "canary@example.com.db"
WEEKS = math.ceil(OPT_OUT_DAYS / 7)
FIVE = ["identities", "due", "optouts", "versions", "ages"]


async def make_state(path: Path) -> None:
    """Make a state in which all there can be is."""

    def mapped(number: int, days: float) -> MapRow:
        due = datetime.now(UTC) + timedelta(days=days)
        return MapRow(raw_uid=UIDS[number], refresh_from_s=int(due.timestamp()))

    rows = [mapped(0, -1), mapped(1, 5), mapped(2, 90), mapped(3, 5)]
    rows += [
        MapRow(reason="optout"),
        MapRow(reason="invalid identifier"),
        MapRow(reason=STATUS),
    ]
    operator = "https://operator.example"
    for ago in (40, 3):
        then = datetime.now(UTC) - timedelta(days=ago)
        async with MappingState(path, clock=lambda then=then: then) as state:
            run = await state.start_run(
                scope=IdentityScope.UID2, operator=operator, job=JOB
            )
            for kind, some in (
                (IdentityType.EMAIL, (0, 4)),
                (IdentityType.PHONE, (4, 7)),
            ):
                part = slice(*some)
                await state.record(run, kind, IDENTITIES[part], rows[part])
            await state.finish(run, exported=True)
            rows[3] = MapRow(reason="optout")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with a state."""
    monkeypatch.chdir(tmp_path)
    asyncio.run(make_state(tmp_path / STATE))
    return tmp_path


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the report of a state whose name and folder are somebody's."""
    folder = tmp_path_factory.mktemp("canary.folder@example.com")
    path = folder / "report.html"
    asyncio.run(make_state(folder / STATE))
    command = ["state", "report", str(folder / STATE), "--html", str(path)]
    assert CliRunner().invoke(app, command).exit_code == 0
    return path


class Page(HTMLParser):
    """Notes the elements and words of a page."""

    def __init__(self, text: str) -> None:
        """Read *text*."""
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        """Note an element."""
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        """Note words."""
        self.words += [data.strip()] if data.strip() else []

    def of(self, name: str) -> list[str]:
        """List the values of an attribute."""
        return [value for _, one, value in self.attributes if one == name]


def test_a_page(report: Path) -> None:
    """Five tables; where one is long, there are columns above it that say the same."""
    page = Page(report.read_text(encoding="utf-8"))

    assert page.tags.count("h2") == page.tags.count("table") == len(FIVE)
    order = [tag for tag in page.tags if tag in ("h2", "i", "table")]
    order = [tag for tag, _ in itertools.groupby(order)]
    assert order == [
        *("h2", "table", "i", "h2", "i", "table"),
        *("h2", "table", "i") * 3,
    ]
    words = "\n".join(page.words)
    assert "mapped\n3\n0\n3\n42.9\N{NO-BREAK SPACE}%" in words
    assert "opted out\n1\n1\n2\n28.6\N{NO-BREAK SPACE}%" in words
    assert "unmapped for other reasons\n0\n1\n1\n" in words
    assert "1 are due already (uid2 refresh asks about them), 1 more" in words
    assert "1 identities that were mapped before are opted out" in words
    assert "version 3\n3\n100.0\N{NO-BREAK SPACE}%" in words
    assert "1 to 7 days\n7\n100.0\N{NO-BREAK SPACE}%" in words


def test_bars_are_as_long_as_their_numbers(report: Path) -> None:
    """Each is a share of the longest in its table, or of the days."""
    page = Page(report.read_text(encoding="utf-8"))
    rows = [one for one in page.of("style") if one.startswith("width")]
    days = [one for one in page.of("style") if one.startswith("height")]

    assert rows[:4] == ["width:100.0%", "width:66.7%", "width:33.3%", "width:33.3%"]
    assert rows[4 : 4 + WEEKS].count("width:100.0%") == 1
    assert rows[4 : 4 + WEEKS].count("width:0.0%") == WEEKS - 1
    assert len(days) == DUE_DAYS
    assert [at for at, one in enumerate(days) if one == "height:100.0%"] in ([4], [5])
    assert set(days) == {"height:0.0%", "height:100.0%"}
    assert page.of("title")[days.index("height:100.0%")].endswith(": 1")


def test_it_names_nobody(report: Path) -> None:
    """No DII, hash, raw UID, job, file name or word of the operator gets into it."""
    data = report.read_bytes()
    hashes = [base64.b64encode(one) for one in IDENTITIES]
    hexes = [one.hex().encode() for one in IDENTITIES]
    uids = [uid.encode() for uid in UIDS]
    for canary in [
        b"canary",
        b"example.com",
        JOB.encode(),
        *IDENTITIES,
        *hashes,
        *hexes,
        *uids,
    ]:
        assert canary not in data
    assert not re.search(rb"[A-Za-z0-9+/]{43}", data)
    names = [one.name for one in report.parent.iterdir()]
    assert sorted(names) == [STATE, f"{STATE}.lock", "report.html"]


def test_it_needs_nothing_else(report: Path) -> None:
    """No script, no address, no font: it can be sent by mail and opened anywhere."""
    text = report.read_text(encoding="utf-8")
    page = Page(text)

    assert {"script", "link", "img", "image", "iframe"}.isdisjoint(page.tags)
    assert all(value.startswith("#") for value in page.of("href"))
    assert set(page.of("content")) >= {
        "default-src 'none'; style-src 'unsafe-inline'",
        "no-referrer",
    }
    assert "://" not in text.replace("https://operator.example", "")
    assert "prefers-color-scheme: dark" in text


def test_it_can_be_read_aloud(report: Path) -> None:
    """Columns and tables have names, each id is there once and is found."""
    page = Page(report.read_text(encoding="utf-8"))
    ids = page.of("id")

    assert page.of("lang") == ["en"]
    assert page.of("role") == ["img"]
    assert all(page.of("aria-label"))
    # What a bar in a row shows is in the row.
    hidden = [tag for tag, name, _ in page.attributes if name == "aria-hidden"]
    assert set(hidden) == {"td"}
    assert len(set(ids)) == len(ids)
    assert set(page.of("aria-labelledby")) == set(FIVE) == set(ids)
    assert set(page.of("scope")) == {"col", "row"}
    # Colors are variables of the page, which is light or dark.
    assert not [one for one in page.of("style") if "#" in one]


def test_it_is_private(folder: Path, uid2: Uid2) -> None:
    """As all that is made of a state, whatever the umask."""
    before = os.umask(0)
    try:
        result = uid2("state", "report", STATE, "--html", "report.html")
    finally:
        os.umask(before)

    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "uid2: The report is in report.html.\n"
    assert Path("report.html").stat().st_mode & 0o777 == 0o600


def test_it_goes_to_stdout(folder: Path, uid2: Uid2) -> None:
    """A hyphen is stdout, not a file of that name."""
    result = uid2("state", "report", STATE, "--html", "-")

    assert result.stdout.startswith("<!DOCTYPE html>")
    assert result.stdout.endswith("</html>\n")
    assert {one.name for one in folder.iterdir()} == {STATE, f"{STATE}.lock"}


def test_what_exists_stays(folder: Path, uid2: Uid2) -> None:
    """A page is replaced only with --force, and a state never."""
    Path("report.html").write_text("mine")
    state = Path(STATE).read_bytes()

    refused = uid2("state", "report", STATE, "--html", "report.html")
    kept = Path("report.html").read_text()
    itself = [
        uid2("state", *arguments, "--force")
        for arguments in (
            ["report", STATE, "--html", STATE],
            ["export", STATE, STATE],
            ["delta", STATE, STATE, "--since", "1"],
        )
    ]
    forced = uid2("state", "report", STATE, "--html", "report.html", "--force")

    assert (refused.exit_code, kept) == (2, "mine")
    assert "--force" in refused.stderr
    assert [one.exit_code for one in itself] == [2, 2, 2]
    assert Path(STATE).read_bytes() == state
    assert forced.exit_code == 0
    assert Path("report.html").read_text().startswith("<!DOCTYPE html>")


def test_no_state(folder: Path, uid2: Uid2) -> None:
    """What is missing, something else, or locked is told, and no page is written."""
    Path("text.db").write_text("no database" * 100)
    with sqlite3.connect("other.db") as other:
        other.execute("CREATE TABLE t (x)")
    other.close()

    async def locked() -> Any:
        async with MappingState(STATE):
            command = ["state", "report", STATE, "--html", "report.html"]
            return await asyncio.to_thread(uid2, *command)

    results = {
        "There is no state none.db": uid2(
            "state", "report", "none.db", "--html", "report.html"
        ),
        "is not a state": uid2("state", "report", "text.db", "--html", "report.html"),
        "not a state of bulk mapping": uid2(
            "state", "report", "other.db", "--html", "report.html"
        ),
        "is locked by process": asyncio.run(locked()),
    }

    for words, result in results.items():
        assert words in result.stderr
        assert result.exit_code in (1, 2)
    assert not Path("report.html").exists()
