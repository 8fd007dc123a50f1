# ruff: noqa: ASYNC240 - the files of a test are small
"""What once lost data, or cost a whole job, through map_file."""

from __future__ import annotations

import asyncio
import csv
import errno
import gc
import os
import threading
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from day_operator import Day
from failing_disk import FailingDisk
from uid2_async import MapOptions, MappingState, errors, map_file
from uid2_async.bulk.job import FileSource
from uid2_async.bulk.options import JobSummary
from uid2_async.bulk.paths import Remote, temp_sibling
from uid2_async.bulk.private_files import DISK, SYSTEM, Disk, System

FAULTY = {
    "a.csv": b"id,mail\n1,secret@example.com\n2,secret,x\n3\n",
    "b.csv": b"",
    "c.csv": b"id,email\n1,secret\n",
    "d.csv": b"id,mail\n1,secret\n\xff\n",
    "e.csv": b'id,mail\n1,secret\n2,"secret\n',
    "f.csv": b"id,mail\n1,secret@example.com\n",
}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    """Write the inputs of a job."""
    for name, data in files.items():
        path = folder / "in" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    return folder / "in"


async def run(
    source: Path,
    target: Path,
    *,
    day: Day | None = None,
    disk: FailingDisk | None = None,
    options: dict[str, Any] | None = None,
    state: Path | None = None,
    delta: Path | None = None,
    **more: Any,
) -> JobSummary:
    """Run a job on the column mail."""
    async with (day or Day("first")).client() as client:
        return await map_file(
            source,
            target,
            client=client,
            options=MapOptions(
                column="mail",
                type="email",
                **{"batch_size": 4, "concurrency": 2, **(options or {}), **more},
            ),
            state=state,
            delta=delta,
            _system=SYSTEM if disk is None else System(disk=disk.disk()),
        )


@pytest.fixture(params=["state", "stream"])
def state(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    """Name a state, or none."""
    return tmp_path / "people.db" if request.param == "state" else None


async def test_all_faults_at_once(tmp_path: Path, state: Path | None) -> None:
    """What cannot be read is named with file and line, before any request."""
    source, day = write(tmp_path, FAULTY), Day("first")

    with pytest.raises(errors.InputError) as caught:
        await run(source, tmp_path / "out", day=day, state=state)

    message = caught.value.message
    for words in (
        "a.csv, line 3",
        "a.csv, line 4",
        "b.csv is empty",
        "c.csv: there is no column 'mail'",
        "d.csv, line 3",
        "e.csv, line 3",
    ):
        assert words in message
    assert "secret" not in message
    assert day.asked == 0
    assert not list(tmp_path.rglob("out/*.csv"))


async def test_at_most_20_faults(tmp_path: Path, state: Path | None) -> None:
    """A file with the wrong delimiter has a fault in each line."""
    source = write(tmp_path, {"a.csv": b"id,mail\n" + b"1\n" * 100})

    with pytest.raises(errors.InputError, match=r"20 errors .* The first 20 are"):
        await run(source, tmp_path / "out", state=state)


async def test_a_carriage_return_in_a_key(tmp_path: Path) -> None:
    """A cell of the input never hides another person's change (faults 2 and 5)."""
    rows = "".join(f'"x\r{n}",p{n}@example.com\n' for n in range(9))
    source = write(tmp_path, {"a.csv": f"id,mail\n{rows}".encode()}) / "a.csv"
    delta = tmp_path / "delta.csv"
    await run(
        source,
        tmp_path / "out.csv",
        options={"keys": ["id"]},
        state=tmp_path / "people.db",
        delta=delta,
    )

    # As a Python before 3.13 reads it, which ends a row at a CR that is not quoted.
    with delta.open(newline="") as file:
        lines = list(csv.reader(file))
    assert [line[-1] for line in lines[1:]] == [f"x\r{n}" for n in range(9)]
    assert delta.read_bytes().count(b'"x\r') == 9


@pytest.mark.parametrize(
    ("roles", "words"),
    [
        ({"state": "job/people.db", "job_dir": "job"}, "state"),
        ({"state": "p.db", "delta": "job/d.csv", "job_dir": "job"}, "delta"),
        ({"state": "out.csv"}, "state"),
        ({"state": "p.db", "delta": "p.db"}, "delta"),
        ({"state": "p.db", "delta": "p.db-wal"}, "delta"),
        ({"state": "p.db", "delta": "out.csv"}, "delta"),
        ({"state": "in/a.csv"}, "state"),
        ({"state": "p.db", "delta": "-", "target": "-"}, "delta"),
    ],
)
async def test_two_roles(tmp_path: Path, roles: dict[str, str], words: str) -> None:
    """No file is two things at once (fault 6)."""
    source = write(tmp_path, {"a.csv": b"mail\np@example.com\n"}) / "a.csv"
    (tmp_path / "job").mkdir()
    day = Day("first")
    paths: dict[str, Any] = {"target": tmp_path / "out.csv"}
    for name, path in roles.items():
        paths[name] = Path(path) if path == "-" else tmp_path / path

    with pytest.raises(errors.InputError, match=rf"\b{words}\b.* are the same"):
        await run(source, day=day, **paths)

    assert day.asked == 0
    assert sorted(one.name for one in tmp_path.iterdir()) == ["in", "job"]
    assert not list((tmp_path / "job").iterdir())
    assert source.read_bytes() == b"mail\np@example.com\n"


@pytest.mark.parametrize("change", ["cut", "rewritten"])
async def test_an_input_that_changes(
    tmp_path: Path, state: Path | None, change: str
) -> None:
    """No output gets its name if its input has changed meanwhile (fault 7)."""
    rows = b"".join(b"p%d@example.com\n" % n for n in range(40))
    source = write(tmp_path, {"a.csv": b"mail\n" + rows}) / "a.csv"

    def change_it() -> None:
        data = source.read_bytes()
        source.write_bytes(data[:100] if change == "cut" else data.upper())

    with pytest.raises((errors.InputError, errors.JobError), match="changed"):
        await run(
            source, tmp_path / "out.csv", day=Day("first", change_it), state=state
        )
    assert not (tmp_path / "out.csv").exists()


async def test_a_mended_file(tmp_path: Path, state: Path | None) -> None:
    """What is done of a folder stays done when a bad file is mended (K4)."""
    good = b"mail\n" + b"".join(b"p%d@example.com\n" % n for n in range(20_000))
    source = write(tmp_path, {"a.csv": good, "b.csv": b"mail\nq@example.com,x\n"})
    out, day = tmp_path / "out", Day("first")
    with pytest.raises(errors.InputError, match=r"b\.csv, line 2"):
        await run(source, out, day=day, state=state, precheck=False, batch_size=500)
    write(tmp_path, {"b.csv": b"mail\nq@example.com\n"})

    summary = await run(
        source, out, day=day, state=state, precheck=False, batch_size=500
    )

    assert summary.complete
    assert summary.rows == 20_001
    # A state looks all files through first, so that nothing had been asked.
    assert summary.resumed_rows > 10_000 or state is not None
    assert day.asked <= 20_001 + 500


async def test_shared_folders(tmp_path: Path, state: Path | None) -> None:
    """A folder in which others can replace files needs an explicit option (K10)."""
    source = write(tmp_path, {"a.csv": b"mail\np@example.com\n"}) / "a.csv"
    tmp_path.chmod(0o777)

    with pytest.raises(errors.JobError, match="other users"):
        await run(source, tmp_path / "out.csv", state=state)
    summary = await run(source, tmp_path / "out.csv", state=state, shared_folders=True)

    assert summary.mapped == 1


async def test_names_of_any_bytes(tmp_path: Path, state: Path | None) -> None:
    """A file name needs not be UTF-8, and a message about it can be printed (K11)."""
    name = os.fsdecode(b"caf\xe9.csv")
    source = write(tmp_path, {name: b"mail\np@example.com\n"})
    summary = await run(source / name, tmp_path / name, state=state)
    with pytest.raises(errors.InputError) as caught:
        await run(source / name, tmp_path / name, state=state)

    assert summary.mapped == 1
    assert (tmp_path / name).exists()
    str(caught.value).encode()


async def test_a_long_name(tmp_path: Path, state: Path | None) -> None:
    """The job folder of the longest name there can be is not too long."""
    source = write(tmp_path, {"a.csv": b"mail\np@example.com\n"}) / "a.csv"
    name = "x" * 251 + ".csv"
    failing = FailingDisk(only="replace", fails_at=1 if state is None else 0)
    with pytest.raises(errors.JobError):
        await run(source, tmp_path / name, state=state, disk=failing)

    summary = await run(source, tmp_path / name, state=state)

    assert (summary.mapped, summary.complete) == (1, True)
    kept = {one.name for one in tmp_path.iterdir() if one.name[:6] != "people"}
    assert kept == {"in", name}


async def test_two_jobs_on_one_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While another command writes it, a job that cannot be resumed is refused."""
    source = write(tmp_path, {"a.csv": b"mail\np@example.com\n"}) / "a.csv"
    target, day = tmp_path / "out.csv", Day("first")
    with source.open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        with (
            temp_sibling(target),
            pytest.raises(errors.JobError, match="is being written by process"),
        ):
            await run(Path("-"), target, day=day)
        asked = day.asked
        summary = await run(Path("-"), target, day=day)

    assert (asked, summary.mapped) == (0, 1)
    assert {one.name for one in tmp_path.iterdir()} == {"in", "out.csv"}


async def test_what_a_killed_pipe_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next job removes its copy of stdin, which is next to the state."""
    source = write(tmp_path, {"a.csv": b"mail\np@example.com\n"}) / "a.csv"
    state = tmp_path / "people.db"
    with temp_sibling(state) as left:
        pass
    left.mkdir()
    (left / "copy-1.csv").write_bytes(source.read_bytes())
    written = SimpleNamespace(buffer=BytesIO(), fileno=BytesIO().fileno)
    monkeypatch.setattr("sys.stdout", written)
    with source.open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        summary = await run(Path("-"), Path("-"), state=state)

    assert (summary.mapped, left.exists()) == (1, False)


async def test_a_job_that_is_cancelled_while_it_opens(tmp_path: Path) -> None:
    """The lock is released and the new folder removed once it is there."""
    source = write(tmp_path, {"a.csv": b"mail\np@example.com\n"}) / "a.csv"
    target, opening, go_on = tmp_path / "out.csv", threading.Event(), threading.Event()
    threads: list[threading.Thread] = []

    def wait() -> datetime:
        threads.append(threading.current_thread())
        opening.set()
        go_on.wait(60)
        return datetime.now(UTC)

    async with Day("first").client() as client:
        options = MapOptions(column="mail", type="email")
        system = System(clock=wait)
        work = map_file(source, target, client=client, options=options, _system=system)
        task = asyncio.create_task(work)
        assert await asyncio.to_thread(opening.wait, 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go_on.set()
        await asyncio.to_thread(threads[0].join, 60)
        await asyncio.sleep(0)

        assert [one.name for one in tmp_path.iterdir()] == ["in"]
        assert (await map_file(source, target, client=client, options=options)).complete


async def test_a_job_that_is_cancelled_while_its_folder_is_deleted(
    tmp_path: Path, state: Path | None
) -> None:
    """It is complete and could not be resumed, so it returns its summary."""
    source = write(tmp_path, {"a.csv": b"mail\np@example.com\n"}) / "a.csv"
    target, folder = tmp_path / "out.csv", tmp_path / ".out.csv.uid2-job"
    deleting, go_on = threading.Event(), threading.Event()

    def fsync(descriptor: int) -> None:
        if target.exists() and os.path.samestat(os.fstat(descriptor), folder.stat()):
            deleting.set()
            go_on.wait(60)
        os.fsync(descriptor)

    disk: Any = SimpleNamespace(disk=lambda: Disk(fsync=fsync))
    task = asyncio.create_task(run(source, target, state=state, disk=disk))
    assert await asyncio.to_thread(deleting.wait, 60)
    task.cancel()
    await asyncio.sleep(0)
    go_on.set()
    summary = await task

    assert summary.complete
    assert not folder.exists()


async def test_a_job_that_is_cancelled_often_while_it_saves(tmp_path: Path) -> None:
    """The error of a save that nobody waits for any more is not logged."""
    source = write(tmp_path, {"a.csv": b"mail\np@example.com\n"}) / "a.csv"
    saving, go_on, reported = threading.Event(), threading.Event(), []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reported.append(context))
    ended = asyncio.Event()

    def save(descriptor: int, data: bytes) -> int:
        if b"@example.com" not in data:
            return os.write(descriptor, data)
        saving.set()
        go_on.wait(60)
        loop.call_soon_threadsafe(ended.set)
        raise OSError(errno.ENOSPC, "No space left")

    disk: Any = SimpleNamespace(disk=lambda: Disk(write=save))
    task = asyncio.create_task(run(source, tmp_path / "out.csv", disk=disk))
    assert await asyncio.to_thread(saving.wait, 60)
    for _ in range(6):
        task.cancel()
        await asyncio.sleep(0.01)
    with pytest.raises(asyncio.CancelledError):
        await task
    del task
    go_on.set()
    await ended.wait()
    for _ in range(10):
        await asyncio.sleep(0.01)
    gc.collect()

    assert not reported


@pytest.mark.parametrize("precheck", [True, False])
async def test_bad_rows_of_a_resumed_job(tmp_path: Path, *, precheck: bool) -> None:
    """Those of outputs that are done already are not lost."""
    files = dict.fromkeys(("a.csv", "b.csv"), b"mail\np@example.com\nx,y\n")
    source, bad = write(tmp_path, files), tmp_path / "bad.csv"
    disk = FailingDisk(only="replace")

    async def map_files() -> JobSummary:
        options = {"bad_rows": bad, "precheck": precheck, "force": True}
        return await run(source, tmp_path / "out", disk=disk, options=options)

    await map_files()
    expected, renames = bad.read_text(), len(disk.calls)
    # The last output, before or after the bad rows.
    disk.fails_at, disk.calls = renames - (1 if precheck else 2), []
    with pytest.raises(errors.JobError, match="No space left"):
        await map_files()

    summary = await map_files()

    assert summary.bad_rows == 2
    assert summary.resumed_rows >= 1
    assert bad.read_text() == expected


async def test_bad_rows_of_a_job_that_sent_nothing(
    tmp_path: Path, state: Path | None
) -> None:
    """A job that fails at its first request finds its own file of bad rows."""
    source = write(tmp_path, {"a.csv": b"mail\np@example.com\nx,y\n"}) / "a.csv"

    def refuse() -> None:
        raise errors.AuthError("The key is rejected.", status=401)

    options = {"bad_rows": tmp_path / "bad.csv"}
    refused = Day("first", on_request=refuse)
    with pytest.raises(errors.AuthError):
        await run(
            source, tmp_path / "out.csv", day=refused, state=state, options=options
        )

    summary = await run(source, tmp_path / "out.csv", state=state, options=options)

    assert (summary.rows, summary.bad_rows) == (1, 1)


@pytest.mark.parametrize("fault", ["missing", "damaged", "state"])
async def test_a_resumed_job_that_fails_early(
    tmp_path: Path, state: Path | None, fault: str
) -> None:
    """It can still be resumed: it finds its finished outputs, and replaces none."""
    files = dict.fromkeys(("a.csv", "b.csv"), b"mail\np@example.com\n")
    source, day = write(tmp_path, files), Day("first")
    disk = FailingDisk(only="replace")

    async def map_files(target: str) -> JobSummary:
        return await run(source, tmp_path / target, day=day, disk=disk, state=state)

    await map_files("first")
    disk.fails_at, disk.calls = len(disk.calls) - 1, []
    with pytest.raises(errors.JobError, match="No space left"):
        await map_files("out")
    assert [one.name for one in (tmp_path / "out").iterdir()] == ["a.csv"]
    if fault == "state" and state is not None:
        async with MappingState(state):
            with pytest.raises(errors.JobError, match="locked"):
                await map_files("out")
    elif fault == "damaged":
        (source / "c.csv").write_bytes(b"mail\nx,y\n")
        with pytest.raises(errors.InputError):
            await map_files("out")
        (source / "c.csv").unlink()
    else:
        (source / "b.csv").rename(tmp_path / "b.csv")
        (source / "b.csv").touch()
        with pytest.raises(errors.UID2Error):
            await map_files("out")
        (tmp_path / "b.csv").rename(source / "b.csv")

    summary = await map_files("out")

    assert summary.rows == 2
    assert not list(tmp_path.glob(".out*"))


class Rows(Remote):
    """The rows of a query, which are read only once per job."""

    is_pinned = True

    @property
    def name(self) -> str:
        """Return a name."""
        return "rows of a query"

    @property
    def path(self) -> Path:
        """Return a name that shows the format."""
        return Path("rows.csv")

    def fetch(self, copy: Path, *, disk: Disk = DISK) -> None:
        """Write the rows."""
        copy.write_text("mail\np@example.com\n")


class Rehearsed(Remote):
    """An output that counts the rehearsals of its delivery."""

    rehearsals = 0
    name = "table"

    def check_target(self, *, may_exist: bool) -> None:
        """Allow it."""

    def rehearse(self, schema: Any, *, job: str = "") -> None:
        """Count it."""
        assert "UID" in schema.names
        self.rehearsals += 1

    def deliver(self, whole: Path, *, job: str = "") -> None:
        """Keep nothing."""


async def test_a_delivery_is_rehearsed_once(tmp_path: Path, state: Path | None) -> None:
    """However often a job opens its input."""
    source = tmp_path / "in.csv"
    source.write_text("mail\na@example.com\n")
    target: Any = Rehearsed()

    await run(source, target, state=state)

    assert target.rehearsals == 1


async def test_a_query_whose_job_was_not_quite_deleted(tmp_path: Path) -> None:
    """A job that is done stays done, though its copy of the rows is gone already."""
    target, disk = tmp_path / "out.csv", FailingDisk(only="fsync")

    async def map_rows() -> JobSummary:
        rows: Any = Rows()  # as a query of a database
        return await run(rows, target, disk=disk, force=True)

    await map_rows()
    disk.fails_at, disk.calls = len(disk.calls) - 1, []
    with pytest.raises(errors.JobError, match="cannot be saved"):
        await map_rows()
    assert [one.name for one in tmp_path.glob(".out*/*")] != []

    summary = await map_rows()

    assert (summary.rows, summary.resumed_rows, summary.requests) == (1, 1, 0)
    assert [one.name for one in tmp_path.iterdir()] == ["out.csv"]


async def test_a_reader_is_used_by_one_thread(tmp_path: Path) -> None:
    """While it loads rows, none are taken from it: it could skip some."""
    started, end = threading.Event(), threading.Event()

    class Reader:
        """Waits for more rows."""

        def load(self) -> bool:
            """Wait."""
            started.set()
            return end.wait(60)

        def take(self, rows: int) -> None:
            """Return none, unless it loads."""
            assert not started.is_set() or end.is_set(), rows

        def close(self) -> None:
            """Do nothing."""

    class Job:
        """Opens the reader."""

        @staticmethod
        def open(file: object) -> tuple[Any, Any]:
            """Return it, with the columns."""
            del file
            return Reader(), SimpleNamespace(step_rows=1)

    source = FileSource(Job, [Job])  # type: ignore[arg-type, list-item] # all it uses
    assert await source.load()
    loading = asyncio.create_task(source.load())
    while not started.is_set():  # noqa: ASYNC110 - a thread sets it
        await asyncio.sleep(0)
    assert source.take(partial=True) is None
    end.set()
    assert await loading
    await source.aclose()
