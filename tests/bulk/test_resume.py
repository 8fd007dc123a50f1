"""The folder of a job: started, resumed, refused, discarded; and its log."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Callable
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given, settings, strategies as st

from failing_disk import FailingDisk
from uid2_async.bulk.paths import InputIdentity
from uid2_async.bulk.private_files import DISK, Disk
from uid2_async.bulk.resume import (
    Checkpoint,
    JobFolder,
    check_input,
    job_folder_for,
    part_path,
)
from uid2_async.errors import JobError

Open = Callable[..., JobFolder]
INPUT = InputIdentity(name="people.csv", size=7, mtime_ns=1, digest="ab")
OTHER = InputIdentity(name="others.csv", size=8, mtime_ns=2, digest="cd")


def terms_for(target: Path | str, **changes: Any) -> Any:
    """Return what a job is."""
    digest = changes.pop("settings", lambda salt: f"digest with {salt}")
    options = {"batch_size": 5_000, "columns": ("email", "phone")}
    terms = {"target": str(target), "options": options, **changes}
    return lambda salt: {**terms, "settings": digest(salt)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a job's folder."""
    return tmp_path / "job"


@pytest.fixture
def open_job(path: Path, now: datetime) -> Open:
    """Open the job, with changes."""

    def open_it(*, restart: bool = False, disk: Disk = DISK, **changes: Any) -> Any:
        target = changes.pop("target", path.parent / "mapped.csv")
        terms = terms_for(target, **changes)
        return JobFolder(path, terms, now=now, restart=restart, disk=disk)

    return open_it


def rows(job: JobFolder) -> dict[str, int]:
    """Return how many rows of each input are saved."""
    return {name: one.rows for name, one in job.checkpoints.items()}


def test_the_folder_is_hidden_beside_the_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is on the same disk, so that the rename at the end moves nothing."""
    monkeypatch.chdir(tmp_path)

    expected = tmp_path / ".out.csv.uid2-job"
    assert job_folder_for("out.csv") == expected
    assert job_folder_for(tmp_path / "out.csv") == expected


def test_a_job_is_started_and_resumed(open_job: Open) -> None:
    """The second run has the newest checkpoint of each input, as it was saved."""
    counts = {"mapped": 4, "invalid": 1}
    saved = Checkpoint(input=INPUT, rows=5, output=77, counts=counts)
    with open_job() as begun:
        assert not begun.resumed
        assert begun.checkpoints == {}
        begun.append(Checkpoint(input=INPUT, rows=2))
        begun.append(saved)
        begun.append(Checkpoint(input=OTHER, rows=9, done=True))

    with open_job() as resumed:
        assert resumed.resumed
        assert resumed.checkpoints["people.csv"] == saved
        assert rows(resumed) == {"people.csv": 5, "others.csv": 9}


def test_everything_in_it_is_private(
    open_job: Open, path: Path, umask: Callable[[int], Any]
) -> None:
    """F14: the folder is 0700, its files are 0600, whatever the umask is."""
    umask(0)

    with open_job():
        modes = {one.name: one.stat().st_mode & 0o777 for one in path.iterdir()}

    assert path.stat().st_mode & 0o777 == 0o700
    assert modes == {"log": 0o600, "lock": 0o600}


def test_a_done_job_leaves_nothing(open_job: Open, tmp_path: Path, path: Path) -> None:
    """The parts hold the customer's columns: they go, and folders among them too."""
    job = open_job()
    part_path(path, "people.csv").write_text("person@example.com")
    (path / "parts").mkdir()
    (path / "parts" / "0").touch()
    (tmp_path / "kept").touch()
    (path / "link").symlink_to(tmp_path)

    job.discard()

    assert [one.name for one in tmp_path.iterdir()] == ["kept"]


def test_a_folder_that_cannot_be_removed_is_emptied(
    now: datetime, unprivileged: None
) -> None:
    """A finished job does not fail because another user made the folder."""
    with tempfile.TemporaryDirectory() as parent:
        path = Path(parent) / "job"
        path.mkdir(mode=0o700)
        Path(parent).chmod(0o500)

        JobFolder(path, terms_for("out.csv"), now=now).discard()

        assert list(path.iterdir()) == []
        Path(parent).chmod(0o700)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"settings": lambda _: "other"}, "another API key or operator"),
        ({"target": "other.csv"}, "another output"),
        ({"options": {"batch_size": 1, "columns": ("email", "phone")}}, "batch_size"),
        ({"options": {"batch_size": 5_000}}, "option columns"),
    ],
)
def test_another_job_is_refused_with_the_reason(
    open_job: Open, changes: dict[str, Any], words: str
) -> None:
    """F9: the message names what differs, shows no value, and the job can go on."""
    with open_job() as begun:
        begun.append(Checkpoint(input=INPUT, rows=5))

    with pytest.raises(JobError, match=words) as caught:
        open_job(**changes)

    assert "5000" not in caught.value.message
    assert "`restart=True`" in caught.value.hint
    with open_job() as resumed:
        assert rows(resumed) == {"people.csv": 5}


def test_another_version_is_named(open_job: Open, path: Path) -> None:
    """A version that may write other bytes does not resume the job."""
    with open_job():
        pass
    body = (path / "log").read_bytes()[9:-1]
    fields = json.loads(body)
    body = body.replace(fields["version"].encode(), b"0.0.1")
    (path / "log").write_bytes(b"%08x %s\n" % (crc32(body), body))

    with pytest.raises(JobError, match=r"another version of uid2_async.*0\.0\.1"):
        open_job()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size": 9}, "size"),
        ({"mtime_ns": 9}, "time of the last change"),
        ({"digest": "ff"}, "content"),
    ],
)
def test_a_changed_input_is_named(changes: dict[str, Any], words: str) -> None:
    """F8: an input that was begun must stay as it was, and only that one."""
    saved = Checkpoint(input=INPUT, rows=5)
    fields = {"name": INPUT.name, "size": 7, "mtime_ns": 1, "digest": "ab"}
    changed = InputIdentity(**{**fields, **changes})

    check_input(saved, INPUT)
    check_input(None, changed)
    with pytest.raises(JobError, match=rf"people\.csv has changed .*: {words}"):
        check_input(saved, changed)


def test_restart_discards_what_another_job_left(open_job: Open, path: Path) -> None:
    """Its parts and its checkpoints are gone."""
    with open_job() as begun:
        begun.append(Checkpoint(input=INPUT, rows=5))
        part_path(path, INPUT.name).touch()

    with open_job(restart=True, options={}) as begun:
        assert not begun.resumed
        assert begun.checkpoints == {}
        assert {one.name for one in path.iterdir()} == {"log", "lock"}


@pytest.mark.parametrize("restart", [False, True])
def test_a_job_that_runs_is_left_alone(open_job: Open, *, restart: bool) -> None:
    """F10: nobody takes a job from under another process; the holder is named."""
    with (
        open_job(),
        pytest.raises(JobError, match=f"locked by process {os.getpid()}"),
    ):
        open_job(restart=restart)


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("name", ["customers.csv", "log", "manifest.json"])
def test_a_foreign_folder_is_not_touched(
    open_job: Open, path: Path, name: str, *, restart: bool
) -> None:
    """What we did not create is neither deleted nor written to."""
    path.mkdir()
    (path / name).write_text("theirs")

    with pytest.raises(JobError, match="not the folder of a job"):
        open_job(restart=restart)

    assert [one.name for one in path.iterdir()] == [name]
    assert (path / name).read_text() == "theirs"


def test_a_pipe_in_the_place_of_the_log_does_not_hang(
    open_job: Open, path: Path
) -> None:
    """A FIFO that nobody writes to is refused like any other foreign file."""
    path.mkdir()
    os.mkfifo(path / "log")

    with pytest.raises(JobError, match="not the folder of a job"):
        open_job()


def test_an_empty_folder_will_do(open_job: Open, path: Path) -> None:
    """A folder that was created for the job becomes private."""
    path.mkdir(mode=0o755)

    with open_job():
        assert path.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("kind", ["link", "file"])
def test_only_a_folder_of_your_own_will_do(
    open_job: Open, path: Path, tmp_path: Path, kind: str
) -> None:
    """F7: a link or a file in its place is refused."""
    if kind == "link":
        (tmp_path / "elsewhere").mkdir()
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path.touch()

    with pytest.raises(JobError, match="belongs to another user"):
        open_job()


def test_a_folder_that_cannot_be_created_is_refused(now: datetime) -> None:
    """F7: the error comes before the first request."""
    with pytest.raises(JobError, match="cannot be used"):
        JobFolder(Path("/nowhere/job"), terms_for("o"), now=now)


def test_a_refused_job_is_not_left_locked(open_job: Open, path: Path) -> None:
    """Whatever the refusal, the next attempt meets no lock."""
    with open_job():
        pass
    for _ in range(2):
        with pytest.raises(JobError, match="another output"):
            open_job(target="other.csv")
    with open_job():
        pass


def test_no_secret_and_no_identity_is_kept(open_job: Open, path: Path) -> None:
    """Only a salted digest of the settings is in the log."""
    seen: list[str] = []

    def digest(salt: str) -> str:
        seen.append(salt)
        return sha256(b"key" + salt.encode()).hexdigest()

    with open_job(settings=digest):
        text = (path / "log").read_text() + (path / "lock").read_text()

    assert sha256(b"key").hexdigest() not in text
    assert len(set(seen)) == 1
    assert len(seen[0]) == 32


def test_names_that_are_not_utf_8(open_job: Open) -> None:
    """K11: any file name and option can be written."""
    odd = InputIdentity(name="caf\udce9.csv", size=1, mtime_ns=1, digest="")
    options = {"delta": "caf\udce9"}
    with open_job(options=options) as begun:
        begun.append(Checkpoint(input=odd, rows=5))

    with open_job(options=options) as resumed:
        assert rows(resumed) == {"caf\udce9.csv": 5}


# --- the log --------------------------------------------------------------------------


@pytest.fixture
def log(open_job: Open, path: Path) -> Path:
    """Return the log of a job with three checkpoints."""
    with open_job() as job:
        for count in (1, 2, 3):
            job.append(Checkpoint(input=INPUT, rows=count))
    return path / "log"


def test_a_torn_last_line_is_dropped_at_every_length(open_job: Open, log: Path) -> None:
    """F3: an unfinished line is cut off, and the next one takes its place."""
    whole = log.read_bytes()
    start = whole[:-1].rindex(b"\n") + 1
    for length in range(start, len(whole)):
        log.write_bytes(whole[:length])
        with open_job() as job:
            assert rows(job) == {"people.csv": 2}
            job.append(Checkpoint(input=INPUT, rows=7))
        with open_job() as job:
            assert rows(job) == {"people.csv": 7}


def test_a_last_line_that_lost_a_sector_is_dropped(open_job: Open, log: Path) -> None:
    """A power cut may keep the new length of a file and lose some of its content."""
    whole = log.read_bytes()
    log.write_bytes(whole[:-9] + b"\0" * 8 + b"\n")

    with open_job() as job:
        assert rows(job) == {"people.csv": 2}


def test_a_flipped_bit_in_an_earlier_line_is_refused(open_job: Open, log: Path) -> None:
    """F4: the line is named, nothing of it is shown, and the file stays as it is."""
    whole = log.read_bytes()
    start = whole.index(b"\n") + 1
    for place in range(start, whole.index(b"\n", start)):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        log.write_bytes(damaged)
        with pytest.raises(JobError, match=r"Line [23] of the job's log is damaged"):
            open_job()
        assert log.read_bytes() == damaged


@settings(max_examples=60)
@given(before=st.binary(max_size=40), after=st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(before: bytes, after: bytes) -> None:
    """Only our own error comes out, and no checkpoint that was not put in."""
    now = datetime(2026, 11, 25).astimezone()
    with tempfile.TemporaryDirectory() as parent:
        path = Path(parent) / "job"
        with JobFolder(path, terms_for("o"), now=now) as job:
            job.append(Checkpoint(input=INPUT, rows=1))
        whole = (path / "log").read_bytes()
        (path / "log").write_bytes(before + whole + after)
        try:
            with JobFolder(path, terms_for("o"), now=now) as job:
                assert rows(job) == {"people.csv": 1}
        except JobError:
            pass


def test_a_full_disk_loses_only_the_line_that_met_it(
    open_job: Open, path: Path
) -> None:
    """F5: no line follows a torn one; the next run resumes from the last whole one."""
    failing = FailingDisk(only="write", kept=10)
    with open_job() as job:
        job.append(Checkpoint(input=INPUT, rows=1))
    with open_job(disk=failing.disk()) as job:
        failing.fails_at = len(failing.calls)
        with pytest.raises(JobError, match="cannot be written"):
            job.append(Checkpoint(input=INPUT, rows=2))
        with pytest.raises(JobError, match="could not be saved"):
            job.append(Checkpoint(input=INPUT, rows=3))
    with open_job() as job:
        assert rows(job) == {"people.csv": 1}


def test_a_failed_sync_is_final(open_job: Open) -> None:
    """F6: after EIO nothing is appended, though the disk would now say yes."""
    failing = FailingDisk(only="fsync", error=lambda: OSError(errno.EIO, "failed"))
    with open_job(disk=failing.disk()) as job:
        failing.fails_at = len(failing.calls)
        with pytest.raises(JobError, match="cannot be saved"):
            job.append(Checkpoint(input=INPUT, rows=2))
        with pytest.raises(JobError, match="could not be saved"):
            job.append(Checkpoint(input=INPUT, rows=2))


def test_a_closed_folder_takes_no_checkpoint(open_job: Open) -> None:
    """Closing twice is closing once."""
    job = open_job()
    job.close()
    job.close()

    with pytest.raises(JobError, match="closed"):
        job.append(Checkpoint(input=INPUT))


class Killed(BaseException):
    """The end of the process, in the middle of a call."""


@pytest.mark.parametrize("calls", range(12))
def test_a_job_killed_at_any_call_is_resumed(open_job: Open, calls: int) -> None:
    """Whatever was saved when the process died is there, and the job can go on."""
    dying = FailingDisk(fails_at=calls, error=Killed)
    saved = 0
    try:
        with open_job(disk=dying.disk()) as job:
            for count in (1, 2, 3):
                job.append(Checkpoint(input=INPUT, rows=count))
                saved = count
    except Killed:
        pass

    with open_job() as job:
        assert rows(job).get("people.csv", 0) in (saved, saved + 1)
        job.append(Checkpoint(input=INPUT, rows=9))
        job.discard()


@pytest.mark.parametrize("calls", range(10))
def test_a_restart_killed_at_any_call(open_job: Open, path: Path, calls: int) -> None:
    """The log never refers to data that is deleted already."""
    part = part_path(path, INPUT.name)
    with open_job() as job:
        part.touch()
        job.append(Checkpoint(input=INPUT, rows=5))
    dying = FailingDisk(fails_at=calls, error=Killed)

    with contextlib.suppress(Killed), open_job(disk=dying.disk(), restart=True):
        pass

    with open_job() as job:
        assert part.exists() or not job.checkpoints
