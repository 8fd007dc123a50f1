"""A job that ends at any of its steps is finished by the same command.

It ends at each call of the disk, and at each n-th SQL statement of the state;
``UID2_STEPS`` is n (97).
"""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import shutil
import sqlite3
import stat
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest

from day_operator import Day
from uid2_async import (
    MapOptions,
    MappingState,
    errors,
    map_file,
)
from uid2_async.bulk.options import JobSummary
from uid2_async.bulk.private_files import DISK, Disk, System

# The calls that reach the disk are the job's own, whichever Python makes them.
pytestmark = pytest.mark.once
EACH = int(os.environ.get("UID2_STEPS", "97"))
DAY = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER = DAY + timedelta(days=9)
BATCH = 4
KILLED = 77
# Some rows have the same person, some nobody, and each file has somebody of its own.
FIRST = {"a": range(9), "b": range(6, 14), "deep/c": range(12, 18)}
SECOND = {"a": range(1, 9), "b": range(6, 14), "deep/c": [12, 12, 15, 16, 17, 20, 21]}


class StepConnection(sqlite3.Connection):
    """Calls *on_step* before each statement."""

    on_step: ClassVar[Callable[[], object]] = staticmethod(lambda: None)

    def execute(self, *args: Any) -> sqlite3.Cursor:
        """Execute a statement."""
        StepConnection.on_step()
        return super().execute(*args)

    def executemany(self, *args: Any) -> sqlite3.Cursor:
        """Execute a statement with many rows."""
        StepConnection.on_step()
        return super().executemany(*args)


class StepState(MappingState):
    """A state that ends at a statement."""

    _connection_factory = StepConnection


@attrs.define
class StepDisk:
    """Calls *on_step* before each call, and knows what a power cut would take.

    Attributes:
        on_step: What is called.
        written: A descriptor of each file that was written to since it was synced, and
            how many of its bytes are on the disk.
        renames: What a folder that was not synced since may forget: old name, new
            name, and a link to what had the new name before.
    """

    on_step: Callable[[], object] = lambda: None
    written: dict[int, tuple[int, int]] = attrs.field(factory=dict)
    renames: list[tuple[Path, Path, Path | None]] = attrs.field(factory=list)

    def disk(self) -> Disk:
        """Return the calls."""
        return Disk(write=self._write, fsync=self._fsync, replace=self._replace)

    def _write(self, descriptor: int, data: bytes) -> int:
        self.on_step()
        status = os.fstat(descriptor)
        if status.st_ino not in self.written:
            self.written[status.st_ino] = os.dup(descriptor), status.st_size
        return os.write(descriptor, data)

    def _fsync(self, descriptor: int) -> None:
        self.on_step()
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            kept = [
                one
                for one in self.renames
                if not os.path.samestat(one[1].parent.stat(), status)
            ]
            self._forget([one for one in self.renames if one not in kept])
            self.renames = kept
        elif status.st_ino in self.written:
            os.close(self.written.pop(status.st_ino)[0])

    def _replace(self, source: Path, target: Path) -> None:
        self.on_step()
        before = None
        if target.exists():
            before = target.with_name(f".before-{len(self.renames)}-{target.name}")
            os.link(target, before)
        DISK.replace(source, target)
        self.renames.append((source, target, before))

    def cut_power(self) -> None:
        """Take what is not on the disk; the process ends after that."""
        for descriptor, size in self.written.values():
            os.ftruncate(descriptor, size)
        for source, target, before in reversed(self.renames):
            target.rename(source)
            if before is not None:
                before.rename(target)

    def tidy(self) -> None:
        """Close and remove what only a power cut needs."""
        self._forget(self.renames)
        for descriptor, _ in self.written.values():
            os.close(descriptor)
        self.written.clear()

    @staticmethod
    def _forget(renames: list[tuple[Path, Path, Path | None]]) -> None:
        for _, _, before in renames:
            if before is not None:
                before.unlink(missing_ok=True)


def write_inputs(folder: Path, files: dict[str, Any]) -> None:
    """Write a folder of inputs."""
    for name, numbers in files.items():
        path = folder / "in" / f"{name}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = "".join(f"{n},person{n}@example.com\n" for n in numbers)
        path.write_text(f"id,mail\n{lines}-,nobody\n")


@attrs.define
class Job:
    """The job of the second day, in a folder."""

    folder: Path
    with_state: bool
    operator: Day = attrs.field(factory=lambda: Day("second"))
    disk: StepDisk = attrs.field(factory=StepDisk)
    day: datetime = LATER

    def run(self) -> JobSummary:
        """Run it."""
        try:
            return asyncio.run(self._run())
        finally:
            self.disk.tidy()

    async def _run(self) -> JobSummary:

        more: dict[str, Any] = {}
        if self.with_state:
            path = self.folder / "people.db"
            more["state"] = StepState(path, clock=lambda: self.day)
            more["delta"] = self.folder / "delta.csv"
        options = MapOptions(
            column="mail",
            type="email",
            keys=["id"] if self.with_state else [],
            full=self.with_state,
            max_removed=1.0 if self.with_state else 0.05,
            batch_size=BATCH,
            concurrency=1,
            force=self.day == DAY,
        )
        async with self.operator.client() as client:
            return await map_file(
                self.folder / "in",
                self.folder / "out",
                client=client,
                options=options,
                _system=System(clock=lambda: self.day, disk=self.disk.disk()),
                **more,
            )

    def again(self) -> Job:
        """Return the job as the same command runs it again."""
        StepConnection.on_step = staticmethod(lambda: None)
        return Job(self.folder, self.with_state)

    def result(self) -> dict[str, Any]:
        """Return all files that there are, and what the state knows."""
        files: dict[str, Any] = {}
        for path in sorted(self.folder.rglob("*")):
            name = str(path.relative_to(self.folder))
            if path.is_file() and ".db" not in name:
                files[name] = path.read_bytes()
            else:
                files[name] = None
        if self.with_state:
            files["state"] = asyncio.run(self._exported())
        return files

    async def _exported(self) -> Any:
        async with MappingState(
            self.folder / "people.db", clock=lambda: LATER
        ) as state:
            known = [one async for page in state.export() for one in page]
            history = [one async for page in state.history(1) for one in page]
            return known, history


def count_steps(job: Job, kind: str) -> tuple[int, dict[str, Any]]:
    """Run a job undisturbed; return how many steps it has, and its result."""
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1

    _watch(job, kind, count)
    done = job.run()
    assert done.complete
    assert done.mapped > 5
    job.again()
    return steps, job.result()


def _watch(job: Job, kind: str, on_step: Callable[[], object]) -> None:
    """Call *on_step* at each step of a kind."""
    if kind == "disk":
        job.disk.on_step = on_step
    else:
        StepConnection.on_step = staticmethod(on_step)


def end_at(job: Job, kind: str, step: int, end: Callable[[], object]) -> None:
    """Run a job that is ended at a step."""
    left = step

    def on_step() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            end()

    _watch(job, kind, on_step)
    job.run()


def killed_at(job: Job, kind: str, step: int, *, power: bool = False) -> None:
    """Run a job in a process that ends at a step."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        # The threads of earlier tests are idle.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:

        def end() -> None:
            if power:
                job.disk.cut_power()
            else:
                job.disk.tidy()
            os.write(write, b"%d" % job.operator.asked)
            os._exit(KILLED)

        try:
            end_at(job, kind, step, end)
        except BaseException:  # noqa: BLE001 - this process ends here
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(write)
    with os.fdopen(read) as pipe:
        asked = pipe.read()
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == KILLED
    job.operator.asked = int(asked)


@pytest.fixture(params=[True, False], ids=["state", "stream"])
def prepared(request: pytest.FixtureRequest, memory_path: Path) -> Job:
    """Map the inputs of the first day, and write those of the second."""
    folder = memory_path / "first"
    folder.mkdir()
    write_inputs(folder, FIRST)
    job = Job(folder, request.param, Day("first"), day=DAY)
    if request.param:
        assert job.run().complete
        shutil.rmtree(folder / "out")
        (folder / "delta.csv").unlink()
    write_inputs(folder, SECOND)
    return job


def copy_of(prepared: Job, name: str) -> Job:
    """Copy the folder, and return the job of the second day in it."""
    folder = prepared.folder.with_name(name)
    # The inputs are the same files as far as their times say.
    shutil.copytree(prepared.folder, folder)
    return Job(folder, prepared.with_state)


def finish(job: Job, expected: dict[str, Any], what: str) -> None:
    """Run the same command again: all is as after an undisturbed run."""
    again = job.again()
    # If its folder is gone, it was done.
    with suppress(errors.InputError):
        assert again.run().complete, what
    assert again.result() == expected, what
    if job.with_state:
        people = len({n for numbers in SECOND.values() for n in numbers})
        assert job.operator.asked + again.operator.asked <= people + 2 * BATCH, what
    shutil.rmtree(job.folder)


@pytest.mark.parametrize("power", [False, True], ids=["kill", "power"])
def test_killed_at_each_call_of_the_disk(prepared: Job, *, power: bool) -> None:
    """Outputs, delta and state are those of an undisturbed run; nothing is left."""
    steps, expected = count_steps(copy_of(prepared, "whole"), "disk")
    assert steps > 20
    for step in range(steps):
        job = copy_of(prepared, f"step{step}")
        killed_at(job, "disk", step, power=power)
        finish(job, expected, f"step {step}")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_each_call_of_the_disk_fails(prepared: Job, code: int) -> None:
    """The error says so, and the same command finishes the job."""
    steps, expected = count_steps(copy_of(prepared, "whole"), "disk")

    def fail() -> None:
        raise OSError(code, os.strerror(code))

    for step in range(steps):
        job = copy_of(prepared, f"step{step}")
        with pytest.raises(errors.JobError, match=os.strerror(code)):
            end_at(job, "disk", step, fail)
        gc.collect()
        finish(job, expected, f"step {step}")


def test_killed_at_statements_of_the_state(prepared: Job) -> None:
    """The same between any two of them."""
    if not prepared.with_state:
        return
    steps, expected = count_steps(copy_of(prepared, "whole"), "sql")
    assert steps > 50
    for step in range(EACH // 2, steps, EACH):
        job = copy_of(prepared, f"step{step}")
        killed_at(job, "sql", step)
        finish(job, expected, f"statement {step}")


class NoSpaceError(sqlite3.OperationalError):
    """What SQLite raises if the disk is full."""

    sqlite_errorcode = sqlite3.SQLITE_FULL


def test_no_space_for_the_state(prepared: Job) -> None:
    """A disk that is full at any statement is an error, and costs nothing."""
    if not prepared.with_state:
        return
    steps, expected = count_steps(copy_of(prepared, "whole"), "sql")

    def fail() -> None:
        raise NoSpaceError

    for step in range(0, steps, EACH):
        job = copy_of(prepared, f"step{step}")
        # At the end it has done its work and tidies up.
        with suppress(errors.JobError):
            end_at(job, "sql", step, fail)
        finish(job, expected, f"statement {step}")
