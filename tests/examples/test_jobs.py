"""The batch script and the daily job, as users run them."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import uid2_async
from uid2_async.operator import Fault, LocalOperator

Run = Callable[..., Any]

EXAMPLES = Path(__file__).parents[2] / "examples"
CUSTOMERS = "id,INPUT,INPUT_TYPE\n1,jane@example.com,email\n2,joe@example.com,email\n"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Write a small file."""
    path = tmp_path / "customers.csv"
    path.write_text(CUSTOMERS)
    return path


def told(path: Path) -> list[tuple[str, str]]:
    """Read who has changed how in a delta."""
    with path.open(encoding="utf-8", newline="") as file:
        return [(row["CHANGE"], row["id"]) for row in csv.DictReader(file)]


def test_a_batch_is_mapped_without_credentials(run: Run, tmp_path: Path) -> None:
    """The demo data, by an embedded operator."""
    target = tmp_path / "mapped.csv"

    done = run("batch_job.py", EXAMPLES / "customers.csv", target)

    assert done.returncode == 0, done.stderr
    assert "mapped    9606" in done.stdout
    with target.open(encoding="utf-8", newline="") as file:
        assert sum(bool(row["UID"]) for row in csv.DictReader(file)) == 9_606


def test_a_batch_says_what_failed(
    run: Run, env: dict[str, str], operator: LocalOperator, source: Path
) -> None:
    """Failed rows make the exit code 3, a wrong key 4; no secret is shown."""
    operator.fail_next(Fault(status=400, body=b"{}"))
    target = source.with_name("mapped.csv")
    partly = run("batch_job.py", source, target, env=env)
    wrong = run("batch_job.py", source, target, env=env | {"UID2_API_KEY": "nobody"})

    assert (partly.returncode, partly.stdout.splitlines()[-1]) == (3, "  failed    2")
    assert wrong.returncode == 4
    assert wrong.stderr.splitlines()[-1].startswith("AuthError: ")
    assert "nobody" not in wrong.stderr


def test_a_day_hands_on_what_has_changed(
    run: Run, env: dict[str, str], operator: LocalOperator, source: Path
) -> None:
    """Everybody, then who is new or gone; half an audience is not removed unasked."""
    outbox = source.with_name("outbox")
    day = ("daily_job.py", source, source.with_name("work"), outbox)
    lines = [f"{at},p{at}@example.com,email" for at in range(60)]

    def run_with(found: list[str], *more: str) -> Any:
        source.write_text("\n".join(["id,INPUT,INPUT_TYPE", *found]))
        return run(*day, *more, env=env)

    first = run_with(lines[:50], "2026-01-01")
    again = run_with(lines, "2026-01-01")
    second = run_with(lines[1:51], "2026-01-02")
    half = run_with(lines[:25], "2026-01-03")
    third = run_with(lines[1:52], "2026-01-03", "--restart")

    codes = [one.returncode for one in (first, again, second, half, third)]
    assert codes == [0, 0, 0, 1, 0]
    assert again.stdout == "2026-01-01 is done.\n"
    assert "49 people known" in second.stdout
    assert second.stdout.endswith(" 2 changes\n")
    whole, *daily = [told(one) for one in sorted(outbox.iterdir())]
    assert sorted(whole) == sorted(("ADDED", str(at)) for at in range(50))
    assert daily[0] == [("ADDED", "50"), ("REMOVED", "")]
    assert ("ADDED", "51") in daily[1]
    assert sum(call.items for call in operator.calls) < 110


def test_a_delta_that_was_not_handed_on_is_not_lost(
    run: Run, env: dict[str, str], source: Path
) -> None:
    """Whatever comes between the two, the next run hands it on, and asks nobody."""
    work, outbox = source.with_name("work"), source.with_name("outbox")
    outbox.write_text("in the way")

    day = ("daily_job.py", source, work, outbox, "2026-01-01")
    broken = run(*day, env=env)
    outbox.unlink()
    done = run(*day, env=env | {"UID2_API_KEY": "not needed"})

    assert broken.returncode == 1
    assert (done.returncode, done.stdout) == (0, "")
    assert told(outbox / "delta-2026-01-01.csv") == [("ADDED", "1"), ("ADDED", "2")]


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault(status=401, body=b'{"status":"unauthorized"}'), 4),
        (Fault(status=400, body=b"{}"), 3),
    ],
)
def test_a_day_ends_with_the_codes_of_the_command(
    run: Run,
    env: dict[str, str],
    operator: LocalOperator,
    source: Path,
    fault: Fault,
    code: int,
) -> None:
    """So that cron and Airflow know whether another try is worth it."""
    operator.fail_next(fault, times=2)
    work, outbox = source.with_name("work"), source.with_name("outbox")

    done = run("daily_job.py", source, work, outbox, "2026-01-01", env=env)
    missing = run("daily_job.py", "nowhere.csv", work, outbox, "2026-01-02", env=env)

    assert (done.returncode, missing.returncode) == (code, 2)


def test_a_day_that_is_stopped_goes_on(
    run: Run, env: dict[str, str], operator: LocalOperator, source: Path
) -> None:
    """SIGTERM ends it in order with 143, and the same command does the rest."""
    operator.fail_next(Fault(delay=60), times=9)
    work, outbox = source.with_name("work"), source.with_name("outbox")
    arguments = [source, work, outbox, "2026-01-01"]
    package = str(Path(uid2_async.__file__).parents[1])
    with subprocess.Popen(  # noqa: S603 - our own example
        [sys.executable, EXAMPLES / "daily_job.py", *arguments],
        stdout=subprocess.PIPE,
        env={**os.environ, **env, "PYTHONPATH": package},
    ) as process:
        while not operator.most_in_flight:
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
    operator.reset()

    done = run("daily_job.py", *arguments, env=env)

    assert done.returncode == 0, done.stderr
    assert len(told(outbox / "delta-2026-01-01.csv")) == 2
