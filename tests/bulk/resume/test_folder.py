from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import attrs
import pytest

from uid2_async.bulk.private_files import (
    DISK,
    Disk,
    open_private,
    replace,
    sync_file,
    write_all,
)
from uid2_async.bulk.resume.folder import JobFolder, job_folder_for
from uid2_async.bulk.resume.journal import Checkpoint
from uid2_async.bulk.resume.manifest import JobTerms
from uid2_async.errors import JobError

Open = Callable[..., JobFolder]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give the path of a job's folder."""
    return tmp_path / "job"


@pytest.fixture
def open_job(path: Path, terms: JobTerms, now: datetime) -> Open:
    """Open the job, with changes."""

    def open_it(*, restart: bool = False, disk: Disk = DISK, **changes: Any) -> Any:
        changed = attrs.evolve(terms, **changes)
        return JobFolder.open(path, changed, now=now, restart=restart, disk=disk)

    return open_it


def test_the_folder_lies_hidden_beside_the_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that it is on the same disk, and the rename at the end moves nothing."""
    monkeypatch.chdir(tmp_path)

    expected = tmp_path / ".out.csv.uid2-job"
    assert job_folder_for("out.csv") == expected
    assert job_folder_for(tmp_path / "out.csv") == expected


def test_a_job_is_begun_and_gone_on_with(open_job: Open, now: datetime) -> None:
    """The second run has the name, the salt and the checkpoints of the first."""
    with open_job() as begun:
        assert not begun.resumed
        assert begun.journal.last is None
        assert begun.manifest.created == now
        begun.journal.append(Checkpoint(file=0, rows=5))

    with open_job() as resumed:
        assert resumed.resumed
        assert resumed.manifest == begun.manifest
        assert resumed.journal.last == Checkpoint(file=0, rows=5)
        assert "row 5" in repr(resumed)


def test_two_jobs_have_different_names(open_job: Open) -> None:
    """The same terms, begun anew, are another job."""
    with open_job() as first:
        pass
    with open_job(restart=True) as second:
        assert second.manifest.job != first.manifest.job
        assert second.manifest.settings != first.manifest.settings


def test_everything_in_it_is_private(
    open_job: Open, path: Path, umask: Callable[[int], Any]
) -> None:
    """F14: the folder is 0700, its files are 0600, whatever the umask is."""
    umask(0)

    with open_job():
        modes = {one.name: one.stat().st_mode & 0o777 for one in path.iterdir()}

    assert path.stat().st_mode & 0o777 == 0o700
    assert modes == {"journal": 0o600, "lock": 0o600, "manifest.json": 0o600}


def test_a_done_job_leaves_nothing(open_job: Open, tmp_path: Path) -> None:
    """The parts hold the customer's columns: they go, folders among them too."""
    job = open_job()
    job.path("part-0").write_text("person@example.com")
    job.path("parts").mkdir()
    (job.path("parts") / "0").touch()
    (tmp_path / "kept").touch()
    job.path("link").symlink_to(tmp_path)

    job.discard()

    assert [one.name for one in tmp_path.iterdir()] == ["kept"]


def test_a_folder_that_cannot_be_removed_is_left_empty(
    terms: JobTerms, now: datetime, unprivileged: None
) -> None:
    """A job that is done does not fail because the folder was made by somebody else."""
    with tempfile.TemporaryDirectory() as parent:
        path = Path(parent) / "job"
        path.mkdir(mode=0o700)
        Path(parent).chmod(0o500)

        JobFolder.open(path, terms, now=now).discard()

        assert list(path.iterdir()) == []
        Path(parent).chmod(0o700)


@pytest.mark.parametrize("name", ["journal", "lock", "manifest.json", "", "..", "a/b"])
def test_a_part_cannot_take_a_name_of_ours(open_job: Open, name: str) -> None:
    """Nothing leads out of the folder, or over its own files."""
    with open_job() as job, pytest.raises(ValueError, match="is no name"):
        job.path(name)


def test_another_job_is_refused_with_the_reasons(open_job: Open) -> None:
    """F8, F9: all that differs is told at once, and the job can still go on."""
    with open_job() as begun:
        begun.journal.append(Checkpoint(file=0, rows=5))

    with pytest.raises(JobError) as caught:
        open_job(settings=lambda _: "other", inputs=[], options={})

    assert caught.value.message == (
        "The job was begun with something else: another API key or operator; "
        "other inputs; option batch_size; option columns."
    )
    assert "--restart" in caught.value.hint
    with open_job() as resumed:
        assert resumed.journal.last == Checkpoint(file=0, rows=5)


def test_restart_discards_what_another_job_left(open_job: Open, path: Path) -> None:
    """Its parts and its checkpoints are gone."""
    with open_job() as begun:
        begun.journal.append(Checkpoint(file=0, rows=5))
        begun.path("part-0").touch()

    with open_job(restart=True, options={}) as anew:
        assert not anew.resumed
        assert anew.journal.last is None
        assert {one.name for one in path.iterdir()} == {
            "journal",
            "lock",
            "manifest.json",
        }


@pytest.mark.parametrize("restart", [True, False])
def test_a_job_that_runs_is_left_alone(open_job: Open, *, restart: bool) -> None:
    """F10: nobody restarts a job under the hands of another process."""
    with open_job() as job:
        job.journal.append(Checkpoint(file=0, rows=5))
        with pytest.raises(JobError, match="is locked by process"):
            open_job(restart=restart)

    with open_job() as resumed:
        assert resumed.journal.last == Checkpoint(file=0, rows=5)


@pytest.mark.parametrize("restart", [True, False])
@pytest.mark.parametrize("name", ["report.csv", "journal", "manifest.json"])
def test_a_folder_of_somebody_else_is_not_touched(
    open_job: Open, path: Path, name: str, *, restart: bool
) -> None:
    """What we did not make is neither deleted nor written to."""
    path.mkdir()
    (path / name).write_text("precious")

    with pytest.raises(JobError, match="not the folder of a job"):
        open_job(restart=restart)

    assert [one.name for one in path.iterdir()] == [name]
    assert (path / name).read_text() == "precious"


def test_an_empty_folder_will_do(open_job: Open, path: Path) -> None:
    """A folder that was made for the job becomes private."""
    path.mkdir(mode=0o755)

    with open_job() as job:
        assert not job.resumed

    assert path.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("make", ["symlink_to", "touch"])
def test_only_a_folder_of_ones_own_will_do(
    open_job: Open, path: Path, tmp_path: Path, make: str
) -> None:
    """F7: a link or a file in its place is refused."""
    (tmp_path / "elsewhere").mkdir()
    arguments = [tmp_path / "elsewhere"] if make == "symlink_to" else []
    getattr(path, make)(*arguments)

    with pytest.raises(JobError, match="is no folder of yours"):
        open_job()

    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_refused(open_job: Open, path: Path) -> None:
    """What another user has prepared could be changed by that user."""
    path.mkdir()
    os.chown(path, 65534, 65534)

    with pytest.raises(JobError, match="is no folder of yours"):
        open_job()


def test_a_folder_that_cannot_be_made_is_refused(
    tmp_path: Path, terms: JobTerms, now: datetime, unprivileged: None
) -> None:
    """F7: an error before the first request."""
    with pytest.raises(JobError, match="cannot be written to"):
        JobFolder.open(Path("/job"), terms, now=now)


def test_a_folder_around_the_output_is_refused(
    tmp_path: Path, terms: JobTerms, now: datetime
) -> None:
    """The folder is deleted in the end, and must not take the output with it."""
    with pytest.raises(JobError, match="must not hold its inputs and its output"):
        JobFolder.open(tmp_path, terms, now=now)

    assert not list(tmp_path.iterdir())


def test_a_damaged_manifest_can_only_be_discarded(open_job: Open, path: Path) -> None:
    """It is refused as it is, and known to be ours."""
    with open_job():
        data = (path / "manifest.json").read_bytes()
    (path / "manifest.json").write_bytes(data[:-5])

    with pytest.raises(JobError, match="damaged"):
        open_job()

    with open_job(restart=True) as anew:
        assert not anew.resumed


def test_a_refused_job_is_not_left_locked(open_job: Open) -> None:
    """Whatever the refusal, the next try meets no lock."""
    with open_job():
        pass
    for _ in range(2):
        with pytest.raises(JobError, match="option"):
            open_job(options={})
    with open_job():
        pass


def test_no_secret_and_no_identity_is_kept(open_job: Open, path: Path) -> None:
    """Neither the key nor a digest of it alone is in manifest, journal or lock."""
    with open_job() as job:
        job.journal.append(Checkpoint(file=0, rows=1, position=[9, 1]))

    data = b"".join(one.read_bytes() for one in path.iterdir())
    assert b"canary" not in data
    assert sha256(b"UID2-C-L-1-canary-key").hexdigest().encode() not in data


ROWS = [b"row %d\n" % number for number in range(12)]


def run(job: JobFolder, target: Path, disk: Disk) -> None:
    """Do a small job as a large one is done: write, sync, checkpoint; rename."""
    last = job.journal.last or Checkpoint(file=0, rows=0, output=0)
    part = job.path("part")
    if last.done:
        return
    if last.rows < len(ROWS) or part.exists():
        output = open_private(part, exclusive=False, append=True)
        try:
            os.ftruncate(output, last.output)
            write_rows(job, output, last.rows, disk)
        finally:
            os.close(output)
        replace(part, target, disk=disk)
    job.journal.append(Checkpoint(file=0, rows=len(ROWS), done=True))


def write_rows(job: JobFolder, output: int, start: int, disk: Disk) -> None:
    """Write the rows that are missing, three at a time."""
    for at in range(start, len(ROWS), 3):
        write_all(output, b"".join(ROWS[at : at + 3]), "The output", disk=disk)
        sync_file(output, "The output", disk=disk)
        size = os.fstat(output).st_size
        job.journal.append(Checkpoint(file=0, rows=at + 3, output=size))


class PowerCutError(BaseException):
    """The end of the process, in the middle of a call."""


ERRORS: dict[str, Callable[[], BaseException]] = {
    "ENOSPC": lambda: OSError(errno.ENOSPC, "full"),
    "EIO": lambda: OSError(errno.EIO, "broken"),
    "power cut": PowerCutError,
}


def count_calls(open_job: Open, failing: Any, target: Path) -> int:
    """Tell how many calls a job takes that nothing disturbs."""
    disk = failing()
    with open_job(disk=disk.disk()) as job:
        run(job, target, disk.disk())
    job = open_job()
    job.discard()
    assert target.read_bytes() == b"".join(ROWS)
    target.unlink()
    return len(disk.calls)


def rows_of(job: JobFolder) -> int:
    """Tell how far a job has come."""
    return job.journal.last.rows if job.journal.last else 0


def fail(open_job: Open, target: Path, disk: Disk) -> int:
    """Run a job that must fail, and tell how far it came."""
    saved = 0
    try:
        with open_job(disk=disk) as job:
            try:
                run(job, target, disk)
            finally:
                saved = rows_of(job)
    except (JobError, PowerCutError):
        return saved
    raise AssertionError("The failure went unnoticed.")


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
@pytest.mark.parametrize("kept", [0, 5])
def test_a_job_survives_a_failure_of_every_call(
    open_job: Open,
    failing: Any,
    tmp_path: Path,
    error: Callable[[], BaseException],
    kept: int,
) -> None:
    """F5, F6: on output, journal, manifest or rename: the next run ends it, exactly."""
    target = tmp_path / "mapped.csv"
    calls = count_calls(open_job, failing, target)
    assert calls > 25

    for fails_at in range(calls):
        disk = failing(fails_at, error, kept)
        saved = fail(open_job, target, disk.disk())
        assert len(disk.calls) == fails_at + 1
        if target.exists():
            assert target.read_bytes() == b"".join(ROWS)

        job = open_job()
        assert rows_of(job) >= saved
        run(job, target, DISK)
        job.discard()
        assert [one.name for one in tmp_path.iterdir()] == ["mapped.csv"]
        assert target.read_bytes() == b"".join(ROWS)
        target.unlink()


@pytest.mark.parametrize("number", range(12))
def test_what_cannot_be_deleted_is_told_and_still_a_job(
    terms: JobTerms, now: datetime, unprivileged: None, number: int
) -> None:
    """The manifest goes last, wherever the part is listed that stops the deletion."""
    with tempfile.TemporaryDirectory() as parent:
        path = Path(parent) / "job"
        job = JobFolder.open(path, terms, now=now)
        part = job.path(f"part-{number}")
        part.mkdir()
        (part / "0").touch()
        part.chmod(0o500)

        with pytest.raises(JobError, match="cannot be deleted: Permission denied"):
            job.discard()

        part.chmod(0o700)
        anew = JobFolder.open(path, terms, now=now)
        assert anew.resumed
        assert anew.journal.last is None
        anew.discard()


@pytest.mark.parametrize("gone", [["journal"], ["journal", "part"], ["manifest.json"]])
def test_an_interrupted_deletion_is_finished_by_the_next_run(
    open_job: Open, path: Path, gone: list[str]
) -> None:
    """What is left is known to be a job's, and no checkpoint speaks of what is gone."""
    with open_job() as job:
        job.journal.append(Checkpoint(file=0, rows=5))
        job.path("part").touch()
    if "manifest.json" in gone:
        gone = ["journal", "part", "manifest.json"]
    for name in gone:
        (path / name).unlink()

    with open_job() as job:
        assert job.journal.last is None
    with open_job(restart=True):
        assert not (path / "part").exists()


def test_the_journal_goes_before_what_it_speaks_of(
    open_job: Open, path: Path, failing: Any
) -> None:
    """A restart that is cut off leaves nothing that a later run would go on from."""
    with open_job() as job:
        job.journal.append(Checkpoint(file=0, rows=5))
        job.path("part").touch()

    with pytest.raises(PowerCutError):
        open_job(restart=True, disk=failing(1, PowerCutError).disk())

    assert (path / "part").exists()
    with open_job() as again:
        assert again.journal.last is None
