"""F1 to F14: files and processes of bulk work.

``UID2_KILLS`` says at how many random moments the job of F1 is killed (5).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import attrs

from canaries import API_KEY, CLIENT_SECRET, EMAIL, find_canaries
from fault_bench import Bench, Rows
from fault_server import Exchange, FaultServer, ok, silence
from memory_operator import MemoryOperator, refusal
from uid2_async import errors
from uid2_async.bulk import BulkMapper, MapOptions, RunOptions, map_file
from uid2_async.bulk.resume.journal import Checkpoint, Journal
from uid2_async.bulk.resume.private_files import Disk, open_private, replace, write_all

rows = Rows()
KILLS = int(os.environ.get("UID2_KILLS", "5"))
MAIL = MapOptions(column="mail", type="email")
PEOPLE, BATCH, IN_FLIGHT = 20_000, 1_000, 4
RUN = RunOptions(batch_size=BATCH, concurrency=IN_FLIGHT)


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """Give a folder for a job, with its input."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        people = "".join(f"{n},{n}.{EMAIL}\n" for n in range(PEOPLE))
        (path / "in.csv").write_text(f"id,mail\n{people}")
        yield path


def job(at: Path, client: Any, run: RunOptions = RUN, **options: Any) -> Any:
    """Make the job of a folder."""
    changed = attrs.evolve(MAIL, **options)
    return map_file(
        at / "in.csv", at / "out.csv", client=client, options=changed, run=run
    )


def fails_after(count: int, fate: Any) -> Callable[[str], Any]:
    """Let so many requests pass, and then none."""
    left = [None] * count
    return lambda path: left.pop() if left else fate


async def interrupted(bench: Bench, at: Path, after: int = 12) -> None:
    """Let a job begin, and end before its time with a part done."""
    wire = bench.wire(MemoryOperator(fails_after(after, refusal(401))))
    await bench.fails(errors.AuthError, job(at, bench.client(wire)))
    assert (at / ".out.csv.uid2-job").is_dir()
    assert not (at / "out.csv").exists()


async def unbroken(bench: Bench) -> bytes:
    """Run the job without any harm."""
    with folder() as at:
        await job(at, bench.client(bench.wire(MemoryOperator())))
        return (at / "out.csv").read_bytes()


async def start(at: Path, server: FaultServer) -> asyncio.subprocess.Process:
    """Start the job as the command ``uid2``."""
    names = ("in.csv", "out.csv", "--column", "mail", "--type", "email", "-q")
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "uid2_async", "map", *names),
        *("--batch-size", str(BATCH), "--concurrency", str(IN_FLIGHT)),
        cwd=at,
        env=os.environ
        | {
            "UID2_BASE_URL": server.url,
            "UID2_API_KEY": API_KEY,
            "UID2_SECRET_KEY": CLIENT_SECRET,
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


def signalling(number: int, when: int, child: list[Any]) -> Any:
    """Make the step that sends a signal to the child at a request."""
    count = 0

    async def step(exchange: Exchange) -> None:
        nonlocal count
        count += 1
        if count == when and child[-1].returncode is None:
            child[-1].send_signal(number)
        await ok(exchange)

    return step


async def goes_on(bench: Bench, number: int, when: int) -> tuple[int, bytes, int]:
    """Signal a job at a request and run it again; give code, output, what was asked."""
    child: list[Any] = []
    with folder() as at:
        async with bench.server(signalling(number, when, child)) as server:
            child.append(await start(at, server))
            began = time.monotonic()
            _, told = await child[-1].communicate()
            took = time.monotonic() - began
            assert took < 30
            assert not find_canaries(told.decode())
            code = child[-1].returncode
            child.append(await start(at, server))
            _, told = await child[-1].communicate()
            done = child[-1].returncode == 0 or b"exists" in told
            assert done, told
            assert not any(one.name.startswith(".out") for one in at.iterdir())
            return code, (at / "out.csv").read_bytes(), len(server.requests)


@rows.add("F1", requests=(0, 10_000), within=600.0)
async def killed(bench: Bench) -> None:
    """SIGKILL at random requests: the output is the same, and little is asked twice."""
    whole = await unbroken(bench)
    dice = random.Random(7)  # noqa: S311 - moments
    for _ in range(KILLS):
        when = dice.randrange(1, PEOPLE // BATCH + 1)
        code, output, asked = await goes_on(bench, signal.SIGKILL, when)
        assert code in (-signal.SIGKILL, 0)
        assert output == whole
        # Those in flight, and those that were answered before one that was.
        assert asked - PEOPLE // BATCH <= 2 * IN_FLIGHT


@rows.add("F2", requests=(40, 50), within=60.0)
async def terminated(bench: Bench) -> None:
    """SIGTERM: the job ends in order, and goes on."""
    code, output, _ = await goes_on(bench, signal.SIGTERM, 8)
    assert code == 128 + signal.SIGTERM
    assert output == await unbroken(bench)


@rows.add("X9", requests=(40, 50), within=60.0)
async def interrupted_by_hand(bench: Bench) -> None:
    """Ctrl-C: exit code 130, and the journal is valid."""
    code, output, _ = await goes_on(bench, signal.SIGINT, 8)
    assert code == 128 + signal.SIGINT
    assert output == await unbroken(bench)


LINES = [Checkpoint(file=0, rows=n * 100, output=n * 1_000) for n in range(1, 4)]


def write_journal(path: Path, disk: Disk | None = None) -> None:
    """Write a journal of three lines."""
    journal = Journal(path) if disk is None else Journal(path, disk=disk)
    try:
        for line in LINES:
            journal.append(line)
    finally:
        journal.close()


def last_of(path: Path) -> Checkpoint | None:
    """Read a journal's last line."""
    journal = Journal(path)
    journal.close()
    return journal.last


@rows.add("F3")
async def torn_line(bench: Bench) -> None:
    """A last line that was cut anywhere is dropped; the ones before it stay."""
    with folder() as at:
        path = at / "journal"
        write_journal(path)
        whole = path.read_bytes()
        second = whole.index(b"\n", whole.index(b"\n") + 1) + 1
        for length in range(second, len(whole)):
            path.write_bytes(whole[:length])
            assert last_of(path) in (LINES[1], LINES[2])
        path.write_bytes(whole[: second + 3])
        assert last_of(path) == LINES[1]


@rows.add("F4")
async def flipped_bit(bench: Bench) -> None:
    """A damaged line in the middle is refused by its number, without its content."""
    with folder() as at:
        path = at / "journal"
        write_journal(path)
        whole = path.read_bytes()
        for place in range(whole.index(b"\n")):
            damaged = bytearray(whole)
            damaged[place] ^= 4
            path.write_bytes(damaged)
            try:
                last_of(path)
            except errors.JobError as error:
                bench.errors.append(error)
        assert len(bench.errors) == whole.index(b"\n")
        assert not {str(e) for e in bench.errors if "Line 1" not in str(e)}


def broken(code: int) -> Callable[..., Any]:
    """Make a call of the operating system that always fails."""

    def call(*_: object) -> Any:
        raise OSError(code, os.strerror(code))

    return call


def refused(bench: Bench, call: Callable[[], Any]) -> str:
    """Expect a JobError; give its text."""
    try:
        call()
    except errors.JobError as error:
        bench.errors.append(error)
        return str(error)
    raise AssertionError("it worked")


@rows.add("F5")
async def full_disk(bench: Bench) -> None:
    """ENOSPC on output, journal or rename: told, and what was there is kept."""
    full = broken(errno.ENOSPC)
    with folder() as at:
        descriptor = open_private(at / "part")
        disk = Disk(write=full)
        told = refused(bench, lambda: write_all(descriptor, b"x", "It", disk=disk))
        os.close(descriptor)
        assert "space" in told
        write_journal(at / "journal")
        refused(bench, lambda: write_journal(at / "journal", Disk(write=full)))
        assert last_of(at / "journal") == LINES[-1]
        (at / "out.csv").write_text("old")
        (at / "part").write_text("new")
        disk = Disk(replace=full)
        refused(bench, lambda: replace(at / "part", at / "out.csv", disk=disk))
        assert (at / "out.csv").read_text() == "old"


@rows.add("F6")
async def failing_sync(bench: Bench) -> None:
    """EIO on fsync is the end: a later yes of the disk is not believed."""
    answers = [OSError(errno.EIO, "broken")]

    def fsync(_: int) -> None:
        if answers:
            raise answers.pop()

    with folder() as at:
        write_journal(at / "journal")
        answers[:] = []
        journal = Journal(at / "journal", disk=Disk(fsync=fsync))
        answers.append(OSError(errno.EIO, "broken"))
        later = Checkpoint(file=0, rows=900)
        refused(bench, lambda: journal.append(later))
        refused(bench, lambda: journal.append(later))
        assert journal.last == LINES[-1]
        journal.close()


@rows.add("F7", requests=0)
async def bad_target(bench: Bench) -> None:
    """A target that cannot be, or must not be, written is told before any request."""
    client = bench.client(bench.wire(MemoryOperator()))
    with folder() as at:
        (at / "out.csv").symlink_to(at / "elsewhere.csv")
        (at / "folder").mkdir()
        (at / "open").mkdir()
        (at / "open").chmod(0o777)
        targets = ("out.csv", "missing/out.csv", "open/out.csv", "/proc/out.csv")
        for target in targets:
            call = map_file(at / "in.csv", at / target, client=client, options=MAIL)
            try:
                await call
            except (errors.JobError, errors.InputError) as error:
                bench.errors.append(error)
        assert len(bench.errors) == len(targets)
        assert not (at / "elsewhere.csv").exists()


@rows.add("F8", requests=(13, 20), within=20.0)
async def changed_input(bench: Bench) -> None:
    """An input that is another one by now is not gone on with."""
    client = bench.client(bench.wire(MemoryOperator()))
    with folder() as at:
        await interrupted(bench, at)
        source = at / "in.csv"
        text, times = source.read_text(), source.stat()
        source.write_text(f"{text}9,new.{EMAIL}\n")
        assert "size" in str(await bench.fails(errors.JobError, job(at, client)))
        # The same size at the same time: the content tells.
        source.write_text(text.replace("7.canary", "8.canary"))
        os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))
        await bench.fails(errors.JobError, job(at, client))


@rows.add("F9", requests=(13, 20), within=20.0)
async def other_terms(bench: Bench) -> None:
    """Another key, operator or option is another job; no secret tells them apart."""
    wire = MemoryOperator()
    client = bench.client(bench.wire(wire))
    with folder() as at:
        await interrupted(bench, at)
        told = await bench.fails(errors.JobError, job(at, client, names="snake"))
        assert "names" in str(told)
        other = type(client)(
            "http://127.0.0.1",
            api_key="another-key",
            client_secret=CLIENT_SECRET,
            transport=wire,
        )
        await bench.fails(errors.JobError, job(at, other))
        kept = b"".join(
            one.read_bytes()
            for one in (at / ".out.csv.uid2-job").iterdir()
            if "part" not in one.name
        )
        hidden = [API_KEY, CLIENT_SECRET, EMAIL, sha256(API_KEY.encode()).hexdigest()]
        assert not [one for one in hidden if one.encode() in kept]


@rows.add("F10", "F11", requests=(1, 90), within=30.0)
async def locked(bench: Bench) -> None:
    """A second process on one job is refused; the lock of a dead one is taken over."""
    began = asyncio.Event()

    async def hang(exchange: Exchange) -> None:
        began.set()
        await silence(exchange)

    client = bench.client(bench.wire(MemoryOperator()))
    with folder() as at:
        async with bench.server(hang) as server:
            child = await start(at, server)
            await began.wait()
            if bench.id == "F10":
                await bench.fails(errors.JobError, job(at, client))
            child.kill()
            await child.communicate()
        if bench.id == "F11":
            # The same job: the operator is the one that it was begun with.
            lock = at / ".out.csv.uid2-job" / "lock"
            assert lock.exists()
            restarted = attrs.evolve(RUN, restart=True)
            summary = await job(at, client, restarted)
            assert summary.rows == PEOPLE


@rows.add("F12", requests=(1, 40), within=60.0)
async def odd_input(bench: Bench) -> None:
    """Invalid UTF-8, NUL, a mark, mixed ends, no last end, and a line of 100 MB."""
    client = bench.client(bench.wire(MemoryOperator()))
    with folder() as at:
        source = at / "in.csv"
        good = f"1.{EMAIL}".encode()
        source.write_bytes(
            b"\xef\xbb\xbfid,mail\r\n1,%b\n2,none\r\n3,%b" % (good, good)
        )
        summary = await job(at, client)
        assert (summary.rows, summary.mapped, summary.invalid) == (3, 2, 1)
        (at / "out.csv").unlink()
        # What is no text is no row: its line is named, and nothing is written.
        for bad in (b"2,\xff\xfe@example.com", b"2,a\x00b@example.com"):
            source.write_bytes(b"id,mail\n1,%b\n%b\n" % (good, bad))
            error = await bench.fails(
                errors.InputError, job(at, client, attrs.evolve(RUN, restart=True))
            )
            assert "line 3" in str(error)
            assert not (at / "out.csv").exists()
        source.write_bytes(b"id,mail\n1," + b"x" * 100_000_000 + b"\n")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        long = job(at, client, attrs.evolve(RUN, restart=True))
        await bench.fails(errors.InputError, long)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown < 100_000, f"{grown} kB"


@rows.add("F13", requests=(1, 60), within=400.0, virtual=True)
async def stalled(bench: Bench) -> None:
    """Nothing succeeds for stall_timeout: a clean end, which says how far it came."""
    wire = bench.wire(MemoryOperator(fails_after(3, refusal(503))))
    client = bench.client(wire, max_batch_size=100)
    people = [f"{n}@example.com" for n in range(3_000)]

    async def work() -> None:
        async with BulkMapper(client, stall_timeout=120).map(people) as records:
            async for _ in records:
                pass

    error = await bench.fails(errors.StalledError, work())
    assert "3 were answered before" in str(error)


@rows.add("F14", requests=(20, 40), within=20.0)
async def open_umask(bench: Bench) -> None:
    """Whatever the umask is, all files are the owner's alone."""
    old = os.umask(0)
    try:
        with folder() as at:
            await interrupted(bench, at)
            hidden = at / ".out.csv.uid2-job"
            modes = {one.name: one.stat().st_mode & 0o777 for one in hidden.iterdir()}
            assert modes
            assert set(modes.values()) == {0o600}, modes
            assert hidden.stat().st_mode & 0o777 == 0o700
            client = bench.client(bench.wire(MemoryOperator()))
            await job(at, client)
            assert (at / "out.csv").stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(old)


test_fault = rows.test()
