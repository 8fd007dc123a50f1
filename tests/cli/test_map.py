"""``uid2 map``: the whole job, its refusals and what it prints."""

from __future__ import annotations

import asyncio
import csv
import io
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from uid2_async import Email, EmailHash, IdentityScope, Phone, PhoneHash, UID2Client
from uid2_async.models import MappedUID, Unmapped
from uid2_async.operator import LocalOperator
from uid2_async.operator.state import Fault

Uid2 = Callable[..., Any]

CUSTOMERS = Path(__file__).parents[2] / "examples" / "customers.csv"
ADDED = ["UID", "PREV_UID", "REFRESH_FROM", "UNMAPPED", "ERROR"]
TYPES = {one.kind: one for one in (Email, EmailHash, Phone, PhoneHash)}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Write a small file."""
    path = tmp_path / "in.csv"
    path.write_text("id,INPUT,INPUT_TYPE\n1,jane@example.com,email\n2,x,email\n")
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Name the output."""
    return tmp_path / "out.csv"


def read(path: Path) -> list[list[str]]:
    """Read a CSV file."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file, strict=True))


def left_over(folder: Path) -> list[str]:
    """List what is in *folder* except the input."""
    return sorted(one.name for one in folder.iterdir() if one.name != "in.csv")


# --- the demo -------------------------------------------------------------------------


async def ask(
    scope: IdentityScope, env: dict[str, str], rows: Sequence[Sequence[str]]
) -> Iterator[MappedUID | Unmapped]:
    """Map the rows of valid type with only the client."""
    wanted = [TYPES[row[3]](row[2]) for row in rows if row[3] in TYPES]
    async with UID2Client.from_env(scope, environ=env) as client:
        parts = [
            await client.map_identities(wanted[at : at + 5000])
            for at in range(0, len(wanted), 5000)
        ]
    return iter([row for part in parts for row in part])


def test_the_demo(
    uid2: Uid2, env: dict[str, str], local_operator: LocalOperator, out: Path
) -> None:
    """All 10,000 customers keep their columns and get what the client would tell."""
    result = uid2("map", str(CUSTOMERS), str(out), env=env)
    sizes = sorted(call.items for call in local_operator.calls)
    header, *rows = read(out)
    source_header, *source_rows = read(CUSTOMERS)

    assert result.exit_code == 0, result.stderr
    assert header == [*source_header, *ADDED]
    assert [row[:6] for row in rows] == source_rows
    assert len(rows) == 10_000
    answers = asyncio.run(ask(local_operator.data.scope, env, source_rows))
    for row in rows:
        if row[3] not in TYPES:
            assert row[6:] == ["", "", "", "INVALID INPUT TYPE", ""]
            continue
        answer = next(answers)
        assert row[6:] == (
            [
                answer.raw_uid,
                answer.previous_raw_uid or "",
                str(answer.refresh_from_s),
                "",
                "",
            ]
            if answer.raw_uid
            else ["", "", "", (answer.reason or "").upper(), ""]
        )
    assert len(sizes) == 2
    assert sizes[1] == 5000


def test_the_demo_has_everything() -> None:
    """The example shows what files are like: every kind, oddity and outcome."""
    header, *rows = read(CUSTOMERS)
    kinds = {row[3] for row in rows}
    values = [row[2] for row in rows]
    text = CUSTOMERS.read_text(encoding="utf-8")

    assert header == ["id", "name", "INPUT", "INPUT_TYPE", "city", "note"]
    assert kinds > set(TYPES)
    assert len(set(values)) < len(values)
    assert {"optout@example.com", "+00000000000", ""} < set(values)
    assert any(not value.isascii() for row in rows for value in row)
    assert any("\n" in row[5] for row in rows)
    assert any('"' in row[5] and "," in row[4] for row in rows)
    assert '"Portland, OR"' in text


def test_the_demo_can_be_made_again(tmp_path: Path) -> None:
    """The script next to the example makes it, byte for byte."""
    script = CUSTOMERS.with_name("make_customers.py")
    made = tmp_path / "customers.csv"
    subprocess.run([sys.executable, str(script), str(made)], check=True, timeout=60)  # noqa: S603 - our own script

    assert made.read_bytes() == CUSTOMERS.read_bytes()


def test_in_a_process_of_its_own(tmp_path: Path) -> None:
    """The demo as users run it: summary and first rows on stderr, and no bar there."""
    out = tmp_path / "out.csv"
    done = subprocess.run(  # noqa: S603 - the interpreter that runs this
        [sys.executable, "-m", "uid2_async", "map", CUSTOMERS, out, "--sandbox"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "COLUMNS": "80", "PYTHONUTF8": "1"},
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "Mapping" not in done.stderr
    assert "\x1b" not in done.stderr
    assert max(len(line) for line in done.stderr.splitlines()) <= 80
    words = done.stderr.split()
    for name in ("rows", "mapped", "duplicates", "requests", "seconds"):
        assert name in words
    assert "10,000" in words
    assert len(read(out)) == 10_001


# --- ways to call it ------------------------------------------------------------------


def test_one_column(uid2: Uid2, env: dict[str, str], tmp_path: Path, out: Path) -> None:
    """A file of one kind needs two options and no column of types."""
    source = tmp_path / "in.csv"
    source.write_text("Phone number\n+12025550123\n")
    result = uid2(
        "map",
        str(source),
        str(out),
        "--column",
        "phone number",
        "--type",
        "phone",
        env=env,
    )

    assert result.exit_code == 0
    assert read(out)[1][1]
    assert "INPUT_TYPE" not in result.stderr


def test_streams(uid2: Uid2, env: dict[str, str], source: Path) -> None:
    """A hyphen is stdin or stdout; the result alone is on stdout."""
    data = b"\xef\xbb\xbf" + source.read_bytes()
    result = uid2("map", "-", "-", stdin=data, env=env)
    header, first, second = csv.reader(result.stdout.splitlines())

    assert result.exit_code == 0
    assert header == ["\ufeffid", "INPUT", "INPUT_TYPE", *ADDED]
    assert first[3]
    assert second == ["2", "x", "email", "", "", "", "INVALID IDENTIFIER", ""]
    assert "Summary" in result.stderr


@pytest.mark.parametrize("options", [(), ("--state", "people.db")])
def test_stdin_for_a_tsv_file(
    uid2: Uid2,
    env: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
) -> None:
    """It has tabs as well, whether it is read once or, with a state, twice."""
    monkeypatch.chdir(tmp_path)
    data = b"id\tmail\n1,x\tjane@example.com\n2\t\n"

    result = uid2(
        "map", "-", "out.tsv", "--email", "mail", *options, stdin=data, env=env
    )

    assert result.exit_code == 0, result.stderr
    header, first, second = (tmp_path / "out.tsv").read_text().splitlines()
    assert header.split("\t") == ["id", "mail", *ADDED]
    assert first.startswith("1,x\tjane@example.com\t")
    assert second.split("\t")[5] == "INVALID IDENTIFIER"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("options", [(), ("--state", "people.db")])
@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_binary_streams(
    uid2: Uid2,
    env: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    options: tuple[str, ...],
) -> None:
    """Parquet and Arrow go through pipes as through files; nothing of them is left."""
    feather = pytest.importorskip("pyarrow.feather")
    parquet = pytest.importorskip("pyarrow.parquet")
    arrow = pytest.importorskip("pyarrow")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    data = io.BytesIO()
    table = arrow.table({"id": [1, 2], "mail": ["jane@example.com", None]})
    write = parquet.write_table if kind == "parquet" else feather.write_feather
    write(table, data)

    line = ("-", "-", "--format", kind, "--email", "mail", *options)
    result = uid2("map", *line, stdin=data.getvalue(), env=env)

    assert result.exit_code == 0, result.stderr
    read = parquet.read_table if kind == "parquet" else feather.read_table
    found = read(io.BytesIO(result.stdout_bytes))
    assert found.column_names == ["id", "mail", *ADDED]
    assert found.column("id").equals(table.column("id"))
    assert [one is None for one in found.column("UID").to_pylist()] == [False, True]
    left = {one.name for one in tmp_path.iterdir()}
    assert left == ({"people.db", "people.db.lock"} if options else set())


def test_binary_on_a_terminal(tmp_path: Path) -> None:
    """A terminal is not written to."""
    parquet = pytest.importorskip("pyarrow.parquet")
    arrow = pytest.importorskip("pyarrow")
    path = tmp_path / "in.parquet"
    parquet.write_table(arrow.table({"mail": ["jane@example.com"]}), path)
    line = [sys.executable, "-m", "uid2_async", "map", str(path), "-", "--sandbox"]
    try:
        terminal, other_end = os.openpty()
    except OSError:
        pytest.skip("there are no terminals here")

    done = subprocess.run(  # noqa: S603 - the interpreter that runs this
        [*line, "--email", "mail"],
        stdout=other_end,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )

    os.close(other_end)
    os.close(terminal)
    assert done.returncode == 2
    assert b"Parquet cannot be shown on a terminal" in done.stderr


def test_quiet(uid2: Uid2, env: dict[str, str], source: Path, out: Path) -> None:
    """--quiet prints nothing."""
    result = uid2("map", str(source), str(out), "--quiet", env=env)

    assert result.exit_code == 0
    assert result.output == ""


def test_sandbox_of_the_other_scope(uid2: Uid2, source: Path, out: Path) -> None:
    """--sandbox needs no environment, and --scope chooses its system."""
    one = uid2("map", str(source), str(out), "--sandbox", "--scope", "euid", "-q")
    other = uid2("map", str(source), "-", "--sandbox", "-q")

    assert one.exit_code == other.exit_code == 0
    assert read(out)[1][3] != next(csv.reader(other.stdout.splitlines()[1:]))[3]


def test_euid_environment(uid2: Uid2, source: Path, out: Path) -> None:
    """With --scope euid the variables are EUID's."""
    result = uid2("map", str(source), str(out), "--scope", "euid")

    assert result.exit_code == 2
    assert IdentityScope.EUID.value + "_BASE_URL" in result.stderr


def test_force(uid2: Uid2, env: dict[str, str], source: Path, out: Path) -> None:
    """--force replaces the output, which then is its owner's alone."""
    out.write_text("old")
    out.chmod(0o644)
    result = uid2("map", str(source), str(out), "--force", env=env)

    assert result.exit_code == 0
    assert read(out)[0][-5:] == ADDED
    assert stat.S_IMODE(out.stat().st_mode) == 0o600


def test_header_only(uid2: Uid2, env: dict[str, str], source: Path, out: Path) -> None:
    """A file without rows is mapped to one without rows."""
    source.write_text("INPUT,INPUT_TYPE\n")
    result = uid2("map", str(source), str(out), env=env)

    assert result.exit_code == 0
    assert read(out) == [["INPUT", "INPUT_TYPE", *ADDED]]
    assert "First rows" not in result.stderr


def test_requests_count_repeated_ones(
    uid2: Uid2,
    env: dict[str, str],
    local_operator: LocalOperator,
    source: Path,
    out: Path,
) -> None:
    """A request that had to be repeated counts twice."""
    local_operator.fail_next(Fault(drop=True))
    result = uid2("map", str(source), str(out), env=env)
    (line,) = [one for one in result.stderr.splitlines() if "requests" in one]

    assert result.exit_code == 0
    assert line.split() == ["requests", "2"]


# --- refusals before any request ------------------------------------------------------

ROW = b"INPUT,INPUT_TYPE\na@example.com,email\n"


@pytest.mark.parametrize(
    ("data", "arguments", "words"),
    [
        (b"", [], ["in.csv is empty"]),
        (b"\xff\xfe\n", [], ["UTF-16"]),
        (b"a,b\n1,2\n", [], ["no column 'INPUT'", "'a', 'b'"]),
        (ROW, ["--column", "mail"], ["no column 'mail'", "'INPUT', 'INPUT_TYPE'"]),
        (b"INPUT\nx\n", [], ["no column 'INPUT_TYPE'", "--type"]),
        (b"INPUT,INPUT_TYPE,UID\n", [], ["already has a column 'UID'"]),
        (b"INPUT,INPUT\n", ["--type", "email"], ["there are 2 columns 'INPUT'"]),
        (b"jane@example.com\n", ["--type", "email"], ["looks like data"]),
    ],
)
def test_input_that_is_refused(
    uid2: Uid2,
    env: dict[str, str],
    local_operator: LocalOperator,
    source: Path,
    out: Path,
    *,
    data: bytes,
    arguments: list[str],
    words: list[str],
) -> None:
    """Faults of the header are reported before any request."""
    source.write_bytes(data)
    result = uid2("map", str(source), str(out), *arguments, env=env)

    assert result.exit_code == 2
    assert result.stderr.startswith("uid2: ")
    assert all(word in result.stderr for word in words)
    assert "jane" not in result.stderr
    assert local_operator.calls == []
    assert left_over(source.parent) == []


@pytest.mark.parametrize(
    ("source_name", "target_name", "words"),
    [
        ("missing.csv", "out.csv", "cannot be read: No such file"),
        ("empty", "out.csv", "No files were found in"),
        ("in.csv", "old.csv", "already exists"),
        ("in.csv", "in.csv", "same file"),
        ("in.csv", ".", "not a regular file"),
        ("in.csv", "nowhere/out.csv", "does not exist"),
    ],
)
def test_files_that_are_refused(
    uid2: Uid2,
    env: dict[str, str],
    local_operator: LocalOperator,
    source: Path,
    *,
    source_name: str,
    target_name: str,
    words: str,
) -> None:
    """Files that cannot be read or must not be written are refused first of all."""
    folder = source.parent
    (folder / "old.csv").write_text("old")
    (folder / "empty").mkdir()
    result = uid2("map", str(folder / source_name), str(folder / target_name), env=env)

    assert result.exit_code == 2
    assert words in result.stderr
    assert local_operator.calls == []
    assert left_over(folder) == ["empty", "old.csv"]
    assert (folder / "old.csv").read_text() == "old"


def test_no_environment(uid2: Uid2, source: Path, out: Path) -> None:
    """Without settings nothing is made."""
    result = uid2("map", str(source), str(out))

    assert result.exit_code == 2
    assert "UID2_BASE_URL" in result.stderr
    assert left_over(source.parent) == []


# --- failures on the way --------------------------------------------------------------


def test_a_rejected_key(
    uid2: Uid2,
    env: dict[str, str],
    local_operator: LocalOperator,
    source: Path,
    out: Path,
) -> None:
    """It ends the job at once: one line, and nothing is left."""
    local_operator.fail_next(Fault(status=401, body=b'{"status":"unauthorized"}'))
    result = uid2("map", str(source), str(out), env=env)

    assert result.exit_code == 4
    assert len(result.stderr.splitlines()) == 2
    assert "POST /v3/identity/map" in result.stderr
    assert left_over(source.parent) == []


def test_failed_rows(
    uid2: Uid2,
    env: dict[str, str],
    local_operator: LocalOperator,
    source: Path,
    out: Path,
) -> None:
    """What could not be asked about has an ERROR, and the command ends with 3."""
    local_operator.fail_next(Fault(status=400, body=b'{"status":"client_error"}'))
    result = uid2("map", str(source), str(out), env=env)
    _, first, second = read(out)

    assert result.exit_code == 3
    assert "1 rows failed: see the column ERROR." in result.stderr
    assert first[3:] == ["", "", "", "", "BadRequestError 400"]
    assert second[3:] == ["", "", "", "INVALID IDENTIFIER", ""]
    assert left_over(source.parent) == ["out.csv"]


def test_invalid_rows_are_results(
    uid2: Uid2, env: dict[str, str], tmp_path: Path, out: Path
) -> None:
    """A job whose rows are all invalid ends with 0, as the help says."""
    source = tmp_path / "invalid.csv"
    source.write_text("mail\nnobody\n", encoding="utf-8")
    arguments = ("--column", "mail", "--type", "email")
    result = uid2("map", str(source), str(out), *arguments, env=env)

    assert result.exit_code == 0
    assert "INVALID IDENTIFIER" in out.read_text("utf-8")
    assert "3  Done, but some rows failed" in uid2("exit-codes").stdout


def test_a_bad_row(uid2: Uid2, env: dict[str, str], source: Path, out: Path) -> None:
    """A row of another length names its line, and no partial file is left."""
    source.write_bytes(source.read_bytes() + b"3,secret\n")
    result = uid2("map", str(source), str(out), env=env)

    assert result.exit_code == 2
    assert "line 4: 2 fields, but the header has 3" in result.stderr
    assert "secret" not in result.stderr
    assert left_over(source.parent) == []


@pytest.mark.parametrize("scope", [IdentityScope.UID2])
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_signals(
    env: dict[str, str], tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """A job that is stopped while it waits for stdin ends at once and cleans up."""
    asked = threading.Event()

    def clock() -> datetime:
        asked.set()
        return datetime.now(UTC)

    with LocalOperator.in_thread(clock=clock) as operator:
        asked.clear()
        process = subprocess.Popen(  # noqa: S603 - the interpreter that runs this
            [sys.executable, "-m", "uid2_async", "map", "-", str(tmp_path / "out.csv")],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **env, "UID2_BASE_URL": operator.url},
        )
        assert process.stdin is not None
        with process:
            process.stdin.write(b"INPUT,INPUT_TYPE\n")
            for n in range(6_000):
                process.stdin.write(b"u%d@example.com,email\n" % n)
            process.stdin.flush()
            assert asked.wait(60)
            process.send_signal(number)
            assert process.wait(60) == code

    assert left_over(tmp_path) == []


# --- phones of a country --------------------------------------------------------------


def test_national_phones(uid2: Uid2, env: dict[str, str], tmp_path: Path) -> None:
    """An invalid phone says why, and is no failed row: the command ends with 0."""
    pytest.importorskip("phonenumbers")
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text("tel,land\n030 123456,\n020 7946 0958,GB\n030,\n030 1,XX\n")
    country = ["--phone", "tel", "--country", "de", "--country-column", "LAND"]

    result = uid2("map", str(source), str(out), *country, env=env)
    estimate = uid2("estimate", str(source), *country)

    assert (result.exit_code, result.stdout) == (0, "")
    found = [(bool(row[2]), row[5], row[6]) for row in read(out)[1:]]
    assert found == [
        (True, "", ""),
        (True, "", ""),
        (False, "INVALID IDENTIFIER", "PHONE_TOO_SHORT"),
        (False, "INVALID IDENTIFIER", "PHONE_UNKNOWN_COUNTRY"),
    ]
    assert "invalid: 2\n" in estimate.stdout


@pytest.mark.parametrize("command", ["map", "estimate"])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--email", "INPUT", "--country", "DE"], "no column contains any"),
        (["--type", "email", "--country-column", "id"], "no column contains any"),
        (["--phone", "INPUT", "--country", "XX"], "country is unknown"),
        (["--phone", "INPUT", "--country-column", "x"], "no column 'x'"),
    ],
)
def test_a_country_that_does_not_fit(
    uid2: Uid2,
    env: dict[str, str],
    source: Path,
    out: Path,
    command: str,
    arguments: list[str],
    words: str,
) -> None:
    """It is refused as wrong usage before anything is sent or written."""
    pytest.importorskip("phonenumbers")
    asks = command == "map"
    files = [str(source), str(out)] if asks else [str(source)]

    result = uid2(command, *files, *arguments, env=env if asks else {})

    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr
    assert left_over(source.parent) == []
