"""A job that is killed at any moment goes on as if nothing had happened.

``UID2_KILLS`` says at how many random moments it is killed (2); in CI it is 4.
"""

from __future__ import annotations

import csv
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from typer.testing import CliRunner

from commands import Command
from uid2_async.cli.app import app
from uid2_async.operator import LocalOperator

KILLS = int(os.environ.get("UID2_KILLS", "2"))
STATE = ("--state", "people.db", "--delta", "delta.csv", "--key", "id")
KINDS = {"plain": (), "delta": STATE, "full": (*STATE, "--full")}
PEOPLE = 2_400
# Every tenth person is there twice.
DISTINCT = PEOPLE * 9 // 10
BATCH = 20
IN_FLIGHT = 6
# With a state, what was in flight and what waited to be saved meanwhile. Without one,
# what follows the last checkpoint, of which so short a job makes none.
LOST = {
    "plain": PEOPLE + 1,
    "delta": 2 * IN_FLIGHT * BATCH,
    "full": 2 * IN_FLIGHT * BATCH,
}


@attrs.frozen
class Outcome:
    """What a job has left: the output, the delta, and the state without its times."""

    output: bytes
    delta: bytes
    state: list[list[str]]


@attrs.frozen
class Job:
    """The command, in a folder, against an operator."""

    operator: LocalOperator
    folder: Path
    kind: str

    def prepare(self) -> None:
        """Write the input: every tenth person twice, some invalid. Forget calls."""
        # The operator keeps a limited number of them.
        self.operator.reset()
        self.folder.mkdir()
        people = [f"person{n - n % 10 // 9}@example.com" for n in range(PEOPLE)]
        lines = [f'{n},"a\nnote",{one}\n' for n, one in enumerate(people)]
        (self.folder / "in.csv").write_text(
            "id,note,mail\n" + "".join(lines) + "x,,y\n"
        )

    def map(self) -> Command:
        """Start the job."""
        key = self.operator.credentials["everything"]
        env = {
            "UID2_BASE_URL": self.operator.url,
            "UID2_API_KEY": key.api_key,
            "UID2_SECRET_KEY": key.client_secret,
        }
        return Command(
            [
                *("map", "in.csv", "out.csv", "--column", "mail", "--type", "email"),
                *(*KINDS[self.kind], "-q"),
                *("--batch-size", str(BATCH), "--concurrency", str(IN_FLIGHT)),
            ],
            folder=self.folder,
            env=env,
            log=self.folder.with_name("log"),
        )

    def outcome(self) -> Outcome:
        """Read what there is when the job is done."""
        output = (self.folder / "out.csv").read_bytes()
        if not KINDS[self.kind]:
            return Outcome(output=output, delta=b"", state=[])
        export = (
            "state",
            "export",
            self.folder / "people.db",
            self.folder / "state.csv",
        )
        done = CliRunner().invoke(app, [*map(str, export)])
        assert done.exit_code == 0, done.output
        with (self.folder / "state.csv").open(newline="") as file:
            state = [row[:-1] for row in csv.reader(file)]
        return Outcome(
            output=output,
            delta=(self.folder / "delta.csv").read_bytes(),
            state=state,
        )


def finish(job: Command) -> None:
    """Wait until a job is done; it was if it had only to tidy up when it was killed."""
    with job:
        code = job.wait(60)
        assert code == 0 or "out.csv already exists" in job.stderr, job.stderr


@pytest.fixture(scope="module")
def operator() -> Iterator[LocalOperator]:
    """Run an operator."""
    with LocalOperator.in_thread() as running:
        yield running


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Name a kind of job."""
    return str(request.param)


@pytest.fixture(scope="module")
def unbroken(
    operator: LocalOperator, kind: str, tmp_path_factory: pytest.TempPathFactory
) -> Outcome:
    """Run the job once without harm."""
    job = Job(operator, tmp_path_factory.mktemp("unbroken") / "job", kind)
    job.prepare()
    finish(job.map())
    assert identities_asked(operator) == DISTINCT
    return job.outcome()


def identities_asked(operator: LocalOperator) -> int:
    """Count the identities that the operator was asked about."""
    return sum(call.items or 0 for call in operator.calls)


@pytest.mark.parametrize("seed", range(KILLS))
def test_killed_at_any_moment(
    operator: LocalOperator, unbroken: Outcome, kind: str, tmp_path: Path, seed: int
) -> None:
    """Output, delta and state are equal, and little was asked about again."""
    dice = random.Random(seed)  # noqa: S311 - a moment
    job = Job(operator, tmp_path / "job", kind)
    job.prepare()
    moment = dice.randrange(PEOPLE // BATCH + 1)

    with job.map() as process:
        while len(operator.calls) < moment and process.poll() is None:
            time.sleep(0.001)
        time.sleep(dice.random() ** 4 * 0.2)
        process.send_signal(signal.SIGKILL)
        assert process.wait(60) in {0, -signal.SIGKILL}
    finish(job.map())

    asked = identities_asked(operator)
    assert job.outcome() == unbroken
    assert asked - DISTINCT <= LOST[kind]
    left = {"in.csv", "out.csv"}
    if KINDS[kind]:
        left |= {"delta.csv", "people.db", "people.db.lock", "state.csv"}
    assert {one.name for one in job.folder.iterdir()} == left


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_stopped_in_order(
    operator: LocalOperator,
    unbroken: Outcome,
    kind: str,
    tmp_path: Path,
    number: signal.Signals,
    code: int,
) -> None:
    """Ctrl-C and SIGTERM end a job within seconds, and it resumes as after a kill."""
    job = Job(operator, tmp_path / "job", kind)
    job.prepare()

    with job.map() as process:
        while len(operator.calls) < 10 and process.poll() is None:
            time.sleep(0.001)
        process.send_signal(number)
        assert process.wait(5) == code
    assert not (job.folder / "out.csv").exists()
    finish(job.map())

    asked = identities_asked(operator)
    assert job.outcome() == unbroken
    assert asked - DISTINCT <= LOST[kind]
