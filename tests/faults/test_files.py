"""F1 to F14: files and processes of bulk work.

What a row says of one part of a job is tested at length beside that part
(tests/bulk/test_resume.py, tests/bulk/files, tests/bulk/test_kills.py); here it is held
against a whole job.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from canaries import API_KEY, CLIENT_SECRET, EMAIL, find_canaries
from commands import Command
from fault_bench import Bench, Rows
from memory_operator import MemoryOperator, refusal
from uid2_async import MapOptions, UID2Client, errors, map_file
from uid2_async.bulk import BulkMapper
from uid2_async.bulk.private_files import Disk, System
from uid2_async.operator import LocalOperator

rows = Rows()

PEOPLE = 6_000
MAIL = MapOptions(column="mail", type="email")


@contextmanager
def job(people: int = PEOPLE, *, last: str = "") -> Iterator[Path]:
    """Make a folder with an input, whose first row is a canary."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = "".join(f"{n}@example.com\n" for n in range(people))
        (folder / "in.csv").write_text(f"mail\n{EMAIL}\n{lines}{last}")
        yield folder


async def run(bench: Bench, folder: Path, **options: Any) -> Any:
    """Run the job; its client is new each time, as it is after a crash."""
    client = options.pop("client", None) or make_client(bench)
    return await map_file(
        folder / "in.csv",
        folder / "out.csv",
        client=client,
        options=attrs.evolve(
            options.pop("options", MAIL), batch_size=500, concurrency=2
        ),
        _system=System(**options),
    )


def make_client(
    bench: Bench, fate: Callable[[str], Any] | None = None, **options: Any
) -> UID2Client:
    """Make a client of an operator in memory."""
    return bench.client(bench.wire(MemoryOperator(fate)), **options)


def rejected_after(calls: int) -> Callable[[str], Any]:
    """Reject the key after some calls."""
    fates = [None] * calls
    return lambda _: fates.pop() if fates else refusal(401)


def left(folder: Path) -> list[str]:
    """List what is in a folder."""
    return sorted(one.name for one in folder.iterdir())


async def whole(bench: Bench) -> bytes:
    """Give the output of an unbroken run."""
    with job() as folder:
        await run(bench, folder)
        return (folder / "out.csv").read_bytes()


async def broken(bench: Bench, folder: Path) -> None:
    """Leave a job half-way."""
    client = make_client(bench, rejected_after(11))
    await bench.fails(errors.AuthError, run(bench, folder, client=client))
    assert left(folder) == [".out.csv.uid2-job", "in.csv"]


# --- killed, stopped ------------------------------------------------------------------


def command(folder: Path, operator: LocalOperator) -> Command:
    """Start the command in a process of its own."""
    key = operator.credentials["everything"]
    names = {"BASE_URL": operator.url, "API_KEY": key.api_key}
    names["SECRET_KEY"] = key.client_secret
    return Command(
        [
            *("map", "in.csv", "out.csv", "-q", "--column", "mail", "--type", "email"),
            *("--state", "people.db", "--batch-size", "100", "--concurrency", "4"),
        ],
        folder=folder,
        env={f"UID2_{name}": value for name, value in names.items()},
        log=folder / "log",
    )


async def output_of(folder: Path, operator: LocalOperator) -> bytes:
    """Run the command to its end; return its output."""
    with command(folder, operator) as process:
        assert await asyncio.to_thread(process.wait, 60) == 0, process.stderr
    return (folder / "out.csv").read_bytes()


async def stop_and_go_on(number: signal.Signals, code: int) -> None:
    """Stop a job by a signal; the same command does the rest, and little twice."""
    with job() as folder, job() as other, LocalOperator.in_thread() as operator:
        unbroken = await output_of(other, operator)
        begun = len(operator.calls)
        with command(folder, operator) as process:
            while len(operator.calls) < begun + 12 and process.poll() is None:  # noqa: ASYNC110 - another process's doing
                await asyncio.sleep(0.002)
            process.send_signal(number)
            assert await asyncio.to_thread(process.wait, 5) == code
        assert not (folder / "out.csv").exists()
        assert await output_of(folder, operator) == unbroken
        asked = sum(call.items or 0 for call in operator.calls[begun:])
        # Those in flight, and as many whose answers waited to be committed.
        assert asked - (PEOPLE + 1) <= 2 * 4 * 100


@rows.add("F1", within=30.0)
async def killed(bench: Bench) -> None:
    """SIGKILL: the output is that of an unbroken run."""
    await stop_and_go_on(signal.SIGKILL, -9)


@rows.add("F2", within=30.0)
async def terminated(bench: Bench) -> None:
    """SIGTERM: an end within 5 s, with 143."""
    await stop_and_go_on(signal.SIGTERM, 143)


@rows.add("X9", within=30.0)
async def interrupted(bench: Bench) -> None:
    """Ctrl-C: an end in order, with 130; the log is valid."""
    await stop_and_go_on(signal.SIGINT, 130)


# --- the log --------------------------------------------------------------------------


@rows.add("F3", requests=(24, 200), within=20.0)
async def torn(bench: Bench) -> None:
    """A truncated last line is dropped, and the job resumes before it."""
    expected = await whole(bench)
    for cut in (1, 30, 90):
        with job() as folder:
            await broken(bench, folder)
            log = folder / ".out.csv.uid2-job" / "log"
            log.write_bytes(log.read_bytes()[:-cut])
            await run(bench, folder)
            assert (folder / "out.csv").read_bytes() == expected


@rows.add("F4", requests=(10, 60), within=20.0)
async def flipped(bench: Bench) -> None:
    """A bit that flipped in the middle is refused, by line and without its content."""
    with job(12_000) as folder:
        client = make_client(bench, rejected_after(23))
        await bench.fails(errors.AuthError, run(bench, folder, client=client))
        log = folder / ".out.csv.uid2-job" / "log"
        data = bytearray(log.read_bytes())
        assert data.count(b"\n") >= 2
        data[60] ^= 1
        log.write_bytes(data)
        error = await bench.fails(errors.JobError, run(bench, folder))
        assert "Line 1 of the job's log is damaged" in str(error)


# --- the disk -------------------------------------------------------------------------


def failing(call: str, number: int, code: int) -> Disk:
    """Make a disk of which one call fails, once it has been made so often."""
    left_over = number

    def fail(real: Callable[..., Any]) -> Callable[..., Any]:
        def made(*arguments: Any) -> Any:
            nonlocal left_over
            left_over -= 1
            if left_over == 0:
                raise OSError(code, os.strerror(code))
            return real(*arguments)

        return made

    return Disk(**{call: fail(getattr(Disk(), call))})


@rows.add("F5", requests=(36, 400), within=60.0)
async def full(bench: Bench) -> None:
    """No space for output, log or rename: the same job resumes when there is some."""
    expected = await whole(bench)
    for call, numbers in {"write": range(2, 8), "replace": range(1, 3)}.items():
        for number in numbers:
            with job() as folder:
                disk = failing(call, number, errno.ENOSPC)
                error = await bench.fails(
                    errors.JobError, run(bench, folder, disk=disk)
                )
                assert "No space left" in str(error)
                assert not (folder / "out.csv").exists()
                await run(bench, folder)
                assert (folder / "out.csv").read_bytes() == expected


@rows.add("F6", requests=(24, 400), within=60.0)
async def broken_disk(bench: Bench) -> None:
    """An fsync that fails is fatal, and never taken for a success."""
    expected = await whole(bench)
    for number in range(2, 8):
        with job() as folder:
            disk = failing("fsync", number, errno.EIO)
            error = await bench.fails(errors.JobError, run(bench, folder, disk=disk))
            assert "Input/output error" in str(error)
            assert not (folder / "out.csv").exists()
            await run(bench, folder)
            assert (folder / "out.csv").read_bytes() == expected


# --- refused --------------------------------------------------------------------------


@rows.add("F7", requests=0)
async def places(bench: Bench) -> None:
    """A folder, a link, an open folder: refused before the first request."""
    with job(3) as folder:
        target = folder / "out.csv"
        target.mkdir()
        await bench.fails(errors.InputError, run(bench, folder))
        target.rmdir()
        target.symlink_to(folder / "elsewhere.csv")
        await bench.fails(errors.InputError, run(bench, folder))
        target.unlink()
        folder.chmod(0o777)
        await bench.fails(errors.JobError, run(bench, folder))
        folder.chmod(0o700)
        assert left(folder) == ["in.csv"]


@rows.add("F8", requests=(11, 20))
async def changed(bench: Bench) -> None:
    """An input that has changed is not gone on with."""
    with job() as folder:
        await broken(bench, folder)
        with (folder / "in.csv").open("a") as file:
            file.write("late@example.com\n")
        error = await bench.fails(errors.JobError, run(bench, folder))
        assert "has changed since the job started to map it: size" in str(error)


@rows.add("F9", requests=(11, 20))
async def another_job(bench: Bench) -> None:
    """Other options or another operator are refused; no secret is kept to know it."""
    with job() as folder:
        await broken(bench, folder)
        snake = MapOptions(column="mail", type="email", names="snake")
        error = await bench.fails(errors.JobError, run(bench, folder, options=snake))
        assert "option names" in str(error)
        wire = bench.wire(MemoryOperator())
        stranger = UID2Client(
            "https://other.example",
            api_key=API_KEY,
            client_secret=CLIENT_SECRET,
            transport=wire,
        )
        error = await bench.fails(errors.JobError, run(bench, folder, client=stranger))
        assert "another API key or operator" in str(error)
        kept = folder / ".out.csv.uid2-job"
        assert not find_canaries((kept / "log").read_text())


@rows.add("F10", requests=(13, 60), within=10.0)
async def two_at_once(bench: Bench) -> None:
    """The second process on one job is rejected, with the name of the first."""
    with job() as folder:
        slow = make_client(bench, lambda _: 0.05)
        first = asyncio.create_task(run(bench, folder, client=slow))
        log = folder / ".out.csv.uid2-job" / "log"
        while not log.exists() and not first.done():  # noqa: ASYNC110 - a file's coming
            await asyncio.sleep(0.01)
        error = await bench.fails(errors.JobError, run(bench, folder))
        assert f"process {os.getpid()}" in str(error)
        assert (await first).rows == PEOPLE + 1


@rows.add("F11", requests=(13, 60))
async def dead_owner(bench: Bench) -> None:
    """The lock of a process that is gone is taken over."""
    with job() as folder:
        await broken(bench, folder)
        lock = folder / ".out.csv.uid2-job" / "lock"
        lock.write_text("process 999999 on nowhere since long ago\n")
        assert (await run(bench, folder)).complete


@rows.add("F12", requests=(0, 5), within=30.0)
async def bad_input(bench: Bench) -> None:
    """What cannot be read is reported by its line, in bounded memory."""
    told = {
        b"\xff\n": "is not UTF-8",
        b"a\0b\n": "a NUL byte",
        b'"never closed\n': "never closed",
        b"a,b\n": "2 fields",
        b"x" * (70 << 20): "too long",
    }
    for data, words in told.items():
        with job(3) as folder:
            with (folder / "in.csv").open("ab") as file:
                file.write(data)
            error = await bench.fails(errors.InputError, run(bench, folder))
            assert words in str(error)
            assert "out.csv" not in left(folder)
    with job(0) as folder:
        mixed = f"\ufeffmail\r\n{EMAIL}\nx@example.com".encode()
        (folder / "in.csv").write_bytes(mixed)
        with warnings.catch_warnings():
            assert (await run(bench, folder, client=local(bench))).rows == 2
        assert (folder / "out.csv").read_bytes().count(b"\r\n") == 2


def local(bench: Bench) -> UID2Client:
    """Make a client whose requests do not count."""
    return UID2Client(
        "https://operator.example",
        api_key=API_KEY,
        client_secret=CLIENT_SECRET,
        transport=MemoryOperator(),
    )


@rows.add("F13", requests=(1, 60), within=400.0, virtual=True)
async def stalled(bench: Bench) -> None:
    """Nothing succeeds for stall_timeout: a clean end, which says how far it came."""
    fates = [None] * 3
    wire = bench.wire(
        MemoryOperator(lambda path: fates.pop() if fates else refusal(503))
    )
    client = bench.client(wire, max_batch_size=100)
    people = [f"{n}@example.com" for n in range(3_000)]
    rows_before = 0

    async def mapping() -> None:
        nonlocal rows_before
        async with BulkMapper(client, stall_timeout=120).map(people) as records:
            async for _ in records:
                rows_before += 1

    error = await bench.fails(errors.StalledError, mapping())
    assert "3 had succeeded before" in str(error)


@rows.add("F14", requests=(13, 60))
async def open_umask(bench: Bench) -> None:
    """Whatever the umask is, only the owner can read what a job writes."""
    before = os.umask(0)
    try:
        with job() as folder:
            await broken(bench, folder)
            kept = folder / ".out.csv.uid2-job"
            assert kept.stat().st_mode & 0o777 == 0o700
            modes = {one.name: one.stat().st_mode & 0o777 for one in kept.iterdir()}
            assert set(modes.values()) == {0o600}
            await run(bench, folder)
            assert (folder / "out.csv").stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


test_fault = rows.test()
