"""What a scheduler relies on: exit codes, one JSON object, progress lines, metrics."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from commands import Command
from uid2_async import IdentityScope
from uid2_async.bulk.options import FileProgress, JobSummary
from uid2_async.bulk.outcomes import Progress
from uid2_async.cli.exit_codes import ExitCode
from uid2_async.cli.job import PROGRESS_SECONDS, JobDisplay
from uid2_async.cli.options import OutputOptions, ProgressMode
from uid2_async.cli.output import Failure
from uid2_async.hooks import CallFinished
from uid2_async.operator import Fault, LocalOperator

Uid2 = Callable[..., Any]

ONLY_UID2 = pytest.mark.parametrize("scope", [IdentityScope.UID2])
ROWS = 20_000
FEW = 500


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Write a file of a few requests."""
    return write(tmp_path / "in.csv", FEW)


def write(path: Path, count: int) -> Path:
    """Write a file of *count* rows."""
    lines = (f"{n},user{n}@example.com\n" for n in range(count))
    path.write_text("id,mail\n" + "".join(lines))
    return path


def command(source: Path, *more: str) -> list[str]:
    """Write the command line of a job with small requests."""
    out = source.with_name("out.csv")
    options = ["--email", "mail", "--batch-size", "100", "--concurrency", "2"]
    return ["map", str(source), str(out), *options, *more]


# --- signals --------------------------------------------------------------------------


def start(arguments: Sequence[str], env: dict[str, str], folder: Path) -> Command:
    """Start ``uid2`` in a process of its own."""
    return Command([*arguments], folder=folder, env=env, log=folder / "log")


@ONLY_UID2
@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize(
    ("number", "code", "name"),
    [(signal.SIGTERM, 143, "Terminated"), (signal.SIGINT, 130, "Interrupted")],
)
def test_a_signal_ends_a_job_cleanly(
    env: dict[str, str],
    local_operator: LocalOperator,
    source: Path,
    with_state: bool,
    number: signal.Signals,
    code: int,
    name: str,
) -> None:
    """SIGTERM and SIGINT give true counts, no output that is not there, and resume."""
    more = ["--state", str(source.with_name("people.db"))] if with_state else []
    arguments = command(write(source, ROWS), "--json", *more)
    with start(arguments, env, source.parent) as stopped:
        while len(local_operator.calls) < 5:
            assert stopped.poll() is None, stopped.stderr
            os.sched_yield()
        stopped.send_signal(number)
        exit_code = stopped.wait(60)
        first, said = json.loads(stopped.stdout), stopped.stderr
    asked = sum(call.items for call in local_operator.calls)
    with start(arguments, env, source.parent) as again:
        assert again.wait(100) == 0, again.stderr
        second = json.loads(again.stdout)

    assert (exit_code, first["exit_code"]) == (code, code), said
    assert first["error"]["class"] == name
    assert (first["complete"], first["resumes"]) == (False, True)
    assert first["outputs"] == []
    assert first["rows"] == first["mapped"] == asked < ROWS
    assert first["requests"] == math.ceil(asked / 100)
    assert "Run the same command again to resume." in said
    assert (second["rows"], second["resumes"]) == (ROWS, False)
    assert sum(call.items for call in local_operator.calls) == ROWS


# --- --json on failure ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "code", "name"),
    [
        (Fault(status=401, body=b'{"status":"unauthorized"}'), 4, "UnauthorizedError"),
        (Fault(status=404), 1, "UnexpectedStatusError"),
    ],
)
def test_json_on_failure(
    uid2: Uid2,
    env: dict[str, str],
    local_operator: LocalOperator,
    source: Path,
    fault: Fault,
    code: int,
    name: str,
) -> None:
    """One object says what failed, what was done, and whether a retry resumes."""
    started = uid2(*command(source, "--json"), env=env)
    assert started.exit_code == 0
    source.with_name("out.csv").unlink()
    local_operator.fail_next(fault, times=10**6)
    result = uid2(*command(source, "--json"), env=env)
    found = json.loads(result.stdout)

    assert result.exit_code == found["exit_code"] == code
    assert found["error"]["class"] in (name, "AuthError")
    assert found["error"]["http"] == fault.status
    assert found["error"]["message"] in result.stderr
    assert (found["rows"], found["requests"] > 0) == (0, True)
    assert (found["complete"], found["resumes"], found["outputs"]) == (False, False, [])


def test_json_with_the_data_on_stdout(
    uid2: Uid2, env: dict[str, str], source: Path
) -> None:
    """The object is on stderr, alone, where the data are on stdout."""
    broken = "mail\nx,y\n"
    result = uid2("map", "-", "-", "--email", "mail", "--json", stdin=broken, env=env)

    found = json.loads(result.stderr)
    assert (found["exit_code"], found["error"]["class"]) == (2, "InputError")
    assert result.stdout in ("", "mail,UID,PREV_UID,REFRESH_FROM,UNMAPPED,ERROR\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["map", "nowhere.csv", "out.csv"],
        ["map", "a", "b", "--nope"],
        ["map", "a", "b", "--recheck-after", "soon"],
        ["estimate", "nowhere.csv"],
        ["state", "stats", "nowhere.db"],
        ["keys", "--keys-file", "nowhere.json"],
        ["doctor", "--api-key", "x"],
    ],
)
def test_json_of_every_command(uid2: Uid2, arguments: list[str]) -> None:
    """Whichever command fails, and however early, --json gets one object."""
    result = uid2(*arguments, "--json")

    found = json.loads(result.stdout)
    assert result.exit_code == found["exit_code"] == 2
    assert found["error"]["message"]
    assert found["resumes"] is False


# --- progress and log -----------------------------------------------------------------


def progress(**changes: Any) -> FileProgress:
    """Return how far a job is."""
    facts: dict[str, Any] = {
        "rows": 5_000,
        "bytes_read": 1_000,
        "total_bytes": 4_000,
        "endings": {"mapped": 4_900, "failed": 100},
        "job": Progress(in_flight=7, limit=12, throttled=3),
    }
    return FileProgress(**{**facts, **changes})


def lines_of(
    capsys: pytest.CaptureFixture[str], options: OutputOptions, **changes: Any
) -> list[str]:
    """Run a job of a hundred seconds, and return the lines on stderr."""
    time = 0.0
    ticks: list[float] = []

    async def sleep(seconds: float) -> None:
        nonlocal time
        ticks.append(seconds)
        if len(ticks) > 3:
            ended.set()
            await asyncio.Event().wait()
        time += seconds

    ended = asyncio.Event()
    display = JobDisplay(
        command="map", options=options, now=lambda: time, sleep=sleep, **changes
    )

    async def run() -> None:
        async with display.lines():
            display.on_progress(progress())
            if display.mode is not ProgressMode.NONE:
                await ended.wait()

    asyncio.run(run())
    assert set(ticks) <= {PROGRESS_SECONDS}
    return capsys.readouterr().err.splitlines()


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (OutputOptions(), 3),
        (OutputOptions(as_json=True), 3),
        (OutputOptions(quiet=True), 0),
        (OutputOptions(quiet=True, progress=ProgressMode.PLAIN), 3),
        (OutputOptions(progress=ProgressMode.NONE), 0),
    ],
)
def test_progress_lines(
    capsys: pytest.CaptureFixture[str], options: OutputOptions, count: int
) -> None:
    """Off a terminal a line every 30 s says how far the job is."""
    lines = lines_of(capsys, options)

    assert len(lines) == count
    if lines:
        assert lines[0] == (
            "uid2: Mapping: 5,000 rows (25%), 167/s, mapped 4,900, failed 100, "
            "0 requests, 7/12 in flight, 3 x 429"
        )


def test_progress_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    """--progress json prints an object in each line."""
    options = OutputOptions(progress=ProgressMode.JSON)
    found = [json.loads(line) for line in lines_of(capsys, options)]

    assert [one["seconds"] for one in found] == [30, 60, 90]
    assert (found[0]["event"], found[0]["rows"], found[0]["failed"]) == (
        "progress",
        5_000,
        100,
    )


def test_no_lines_in_the_object_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """Where the JSON object goes to stderr, nothing else does."""
    assert lines_of(capsys, OutputOptions(as_json=True), paths={"OUT": "-"}) == []


@pytest.mark.parametrize("place", ["before", "behind"])
def test_the_log_as_json(
    uid2: Uid2,
    env: dict[str, str],
    local_operator: LocalOperator,
    source: Path,
    place: str,
) -> None:
    """With --log-format json each line of stderr is an object, wherever it stands."""
    local_operator.fail_next(Fault(status=503), times=1)
    options = ["--log-level=info", "--log-format", "json"]
    line = command(source)
    result = uid2(*(options + line if place == "before" else line + options), env=env)
    entries = [json.loads(one) for one in result.stderr.splitlines()]

    assert result.exit_code == 0
    assert any("attempt 2 follows" in one["message"] for one in entries)
    assert {"time", "level", "message", "logger"} == set(entries[0])
    assert (entries[-1]["event"], entries[-1]["rows"]) == ("summary", 500)


def test_the_log_as_text(
    uid2: Uid2, env: dict[str, str], local_operator: LocalOperator, source: Path
) -> None:
    """--log-level prints what the library logs from that level on."""
    for level, count in (("info", 1), ("error", 0)):
        local_operator.fail_next(Fault(status=503), times=1)
        options = ["--quiet", "--force", "--log-level", level]
        result = uid2(*command(source, *options), env=env)

        lines = result.stderr.splitlines()
        assert len(lines) == count
        assert all(line.startswith("uid2: info: ") for line in lines)


# --- metrics --------------------------------------------------------------------------


def metrics_of(path: Path) -> dict[str, float]:
    """Read the metrics as the node exporter does."""
    from prometheus_client.parser import text_string_to_metric_families  # noqa: PLC0415 - an extra

    return {
        sample.labels.get("status", sample.name.removeprefix("uid2_job_")): sample.value
        for family in text_string_to_metric_families(path.read_text())
        for sample in family.samples
    }


def test_metrics(uid2: Uid2, env: dict[str, str], source: Path) -> None:
    """The metrics of a run replace those of the run before, failed or not."""
    path = source.with_name("uid2.prom")
    option = ["--metrics-file", str(path)]
    done = uid2(*command(source, "--quiet", *option), env=env)
    first = metrics_of(path)
    again = uid2(*command(source, "--quiet", *option), env=env)
    second = metrics_of(path)

    assert (done.exit_code, again.exit_code) == (0, 2)
    assert (first["mapped"], first["requests"], first["exit_code"]) == (FEW, 5, 0)
    assert (second["mapped"], second["requests"], second["exit_code"]) == (0, 0, 2)
    assert 0 < first["end_time_seconds"] <= second["end_time_seconds"]
    assert [one.name for one in source.parent.glob("uid2.prom*")] == ["uid2.prom"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("uid2.txt", "must end in .prom"),
        ("nowhere/uid2.prom", "does not exist"),
        ("state.prom", "--state and --metrics-file are the same file"),
    ],
)
def test_a_metrics_file_that_cannot_be(
    uid2: Uid2, env: dict[str, str], source: Path, name: str, words: str
) -> None:
    """It is refused before the job starts, and replaces no file of the job."""
    folder = source.parent
    state = ["--state", str(folder / "state.prom")]
    result = uid2(
        *command(source, "--metrics-file", str(folder / name), *state), env=env
    )

    assert result.exit_code == 2
    assert words in result.stderr
    assert sorted(one.name for one in folder.iterdir()) == ["in.csv"]


def test_metrics_that_cannot_be_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """They are a warning: the job is done."""
    folder = tmp_path / "metrics"
    folder.mkdir()
    options = OutputOptions(metrics_file=str(folder / "uid2.prom"))
    display = JobDisplay(command="map", options=options)
    folder.rmdir()
    display.finished(JobSummary(rows=1), ExitCode.OK)

    assert "cannot be written: No such file" in capsys.readouterr().err


# --- what is said at the end ----------------------------------------------------------


def test_requests_are_counted_with_retries() -> None:
    """The display counts attempts, which a failed job has no summary of."""
    display = JobDisplay(command="map", options=OutputOptions())
    for attempts in (1, 3):
        display.on_event(
            CallFinished(
                endpoint="/v3/identity/map",
                attempts=attempts,
                trace_id=None,
                elapsed=1.0,
                error_type=None,
            )
        )

    assert display.counts()["requests"] == 4


def test_names_that_are_not_utf8(capsys: pytest.CaptureFixture[str]) -> None:
    """A file name of any bytes can be told in JSON."""
    name = os.fsdecode(b"out-\xff.csv")
    display = JobDisplay(command="map", options=OutputOptions(as_json=True))
    display.finished(JobSummary(outputs=(Path(name),)), ExitCode.OK)

    (told,) = json.loads(capsys.readouterr().out)["outputs"]
    assert os.fsencode(told) == b"out-\xff.csv"


@pytest.mark.parametrize(
    ("begun", "saved", "error", "resumes"),
    [
        (True, True, Failure("X", "x"), True),
        (True, False, Failure("X", "x"), False),
        (False, True, Failure("X", "x"), False),
        (True, True, Failure("X", "x", ExitCode.USAGE), True),
        (False, True, Failure("X", "x", ExitCode.USAGE), False),
        (True, True, None, False),
    ],
)
def test_whether_a_retry_resumes(
    begun: bool, saved: bool, error: Failure | None, resumes: bool
) -> None:
    """It does if the job had begun and left something, whatever ended it."""
    paths = {"IN": "in.csv", "OUT": "-", "--state": "people.db" if saved else None}
    display = JobDisplay(command="map", options=OutputOptions(), paths=paths)
    if begun:
        display.on_progress(progress())

    assert display.resumes(error) is resumes


# --- exit codes -----------------------------------------------------------------------


def test_exit_codes(uid2: Uid2) -> None:
    """One command prints the whole table, which every help refers to."""
    rows = json.loads(uid2("exit-codes", "--json").stdout)
    text = uid2("exit-codes").stdout

    assert [row["code"] for row in rows] == [0, 1, 2, 3, 4, 5, 130, 143]
    for row in rows:
        assert row["meaning"] in text
        assert row["action"] in text
    assert "uid2 exit-codes" in uid2("--help").stdout


def test_examples_take_the_codes_without_the_extra() -> None:
    """The table can be imported where typer and rich are missing."""
    script = (
        "import sys; sys.modules['typer'] = sys.modules['rich'] = None\n"
        "from uid2_async.cli.exit_codes import ExitCode\n"
        "print(ExitCode.TRY_LATER.value)"
    )
    done = subprocess.run(  # noqa: S603 - the interpreter that runs this
        [sys.executable, "-c", script], capture_output=True, check=True, timeout=60
    )

    assert done.stdout == b"5\n"
