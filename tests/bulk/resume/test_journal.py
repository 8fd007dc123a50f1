from __future__ import annotations

import errno
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from uid2_async.bulk.private_files import DISK, Disk
from uid2_async.bulk.resume.journal import Checkpoint, Journal
from uid2_async.errors import JobError

LINES = [
    Checkpoint(file=0, rows=5_000, position=[91_000, 5_001], output=120_000),
    Checkpoint(file=0, rows=9_000, output=190_000, counts={"mapped": 8_000}, done=True),
    Checkpoint(file=1, rows=5_000, position={"batch": 3}, delta=17),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give the path of a journal of three lines."""
    journal = Journal(tmp_path / "journal")
    for line in LINES:
        journal.append(line)
    journal.close()
    return tmp_path / "journal"


def read(path: Path) -> Checkpoint | None:
    """Open a journal and give its last checkpoint."""
    journal = Journal(path)
    journal.close()
    return journal.last


def test_what_was_appended_comes_back(path: Path) -> None:
    """The last checkpoint of all, and that of each input."""
    journal = Journal(path)

    assert journal.last == LINES[2]
    assert dict(journal.by_file) == {0: LINES[1], 1: LINES[2]}
    assert repr(journal) == "<Journal file 1, row 5000>"
    journal.close()


def test_a_new_journal_is_empty(tmp_path: Path) -> None:
    """Before the first checkpoint there is none."""
    assert read(tmp_path / "new") is None
    assert read(tmp_path / "new") is None


def test_a_torn_last_line_is_dropped_at_every_length(path: Path) -> None:
    """F3: what was not finished is cut off, and the next line takes its place."""
    data = path.read_bytes()
    whole = data.rindex(b"\n", 0, -1) + 1

    for length in range(whole, len(data)):
        path.write_bytes(data[:length])
        journal = Journal(path)
        assert journal.last == LINES[1]
        assert path.stat().st_size == whole
        journal.append(LINES[2])
        journal.close()
        assert path.read_bytes() == data


def test_a_last_line_that_lost_a_sector_is_dropped(path: Path) -> None:
    """A power cut may keep the new length of a file, and lose some of its content."""
    data = path.read_bytes()
    whole = data.rindex(b"\n", 0, -1) + 1

    for hole in range(1, len(data) - whole):
        path.write_bytes(data[:whole] + b"\0" * hole + data[whole + hole :])
        assert read(path) == LINES[1]
    path.write_bytes(data[:whole] + b"\0" * 512)
    assert read(path) == LINES[1]


def test_a_flipped_bit_in_an_earlier_line_is_refused(path: Path) -> None:
    """F4: the line is named, nothing of it is shown, and the file stays as it is."""
    data = path.read_bytes()
    last = data.rindex(b"\n", 0, -1) + 1

    for at in range(last):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[at] ^= 1 << bit
            path.write_bytes(flipped)
            number = 1 + data.count(b"\n", 0, at)
            with pytest.raises(JobError) as caught:
                Journal(path)
            assert caught.value.message == (
                f"Line {number} of the job's journal is damaged."
            )
            assert path.read_bytes() == flipped


def test_a_flipped_bit_in_the_last_line_loses_that_line_at_most(path: Path) -> None:
    """F4: refused, or taken for torn; never read as something else."""
    data = path.read_bytes()

    for at in range(data.rindex(b"\n", 0, -1) + 1, len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[at] ^= 1 << bit
            path.write_bytes(flipped)
            try:
                assert read(path) == LINES[1]
            except JobError as error:
                assert "Line 3 " in error.message  # noqa: PT017 - either is right


def test_a_line_of_another_shape_is_damaged(path: Path) -> None:
    """A right checksum does not make a checkpoint."""
    path.write_bytes(b"00000000 \n")

    with pytest.raises(JobError, match="Line 1"):
        Journal(path)


@settings(deadline=None)
@given(before=st.binary(max_size=99), after=st.binary(max_size=99))
def test_any_bytes_are_read_or_refused(before: bytes, after: bytes) -> None:
    """Nothing but our own error comes out, and no checkpoint that was not put in."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal"
        journal = Journal(path)
        journal.append(LINES[0])
        journal.close()
        whole = path.read_bytes()
        path.write_bytes(before + whole + after)
        try:
            assert read(path) in (LINES[0], None)
        except JobError as error:
            assert "is damaged" in error.message  # noqa: PT017 - either is right


@pytest.mark.parametrize("kept", range(0, 100, 7))
def test_a_full_disk_loses_the_line_that_met_it(
    path: Path, failing: Any, kept: int
) -> None:
    """F5: no line follows a torn one; the next run goes on from the last whole line."""
    disk = failing(0, kept=kept, only="write")
    journal = Journal(path, disk=disk.disk())
    with pytest.raises(JobError, match="cannot be written: full"):
        journal.append(Checkpoint(file=1, rows=10_000))
    with pytest.raises(JobError, match="takes no more checkpoints"):
        journal.append(Checkpoint(file=1, rows=15_000))
    journal.close()

    assert journal.last == LINES[2]
    journal = Journal(path)
    assert journal.last in (LINES[2], Checkpoint(file=1, rows=10_000))
    journal.append(Checkpoint(file=1, rows=20_000))
    journal.close()
    assert read(path) == Checkpoint(file=1, rows=20_000)


def test_a_failed_sync_is_not_made_good_by_the_next(path: Path, failing: Any) -> None:
    """F6: after EIO the journal takes nothing, though the disk would now say yes."""
    disk = failing(1, lambda: OSError(errno.EIO, "broken"), only="fsync")
    journal = Journal(path, disk=disk.disk())

    with pytest.raises(JobError, match="cannot be saved: broken"):
        journal.append(Checkpoint(file=1, rows=10_000))
    with pytest.raises(JobError, match="takes no more checkpoints"):
        journal.append(Checkpoint(file=1, rows=10_000))

    assert journal.last == LINES[2]
    journal.close()


def test_each_checkpoint_is_saved_before_append_returns(
    tmp_path: Path, failing: Any
) -> None:
    """One write and one sync for each."""
    disk = failing()
    journal = Journal(tmp_path / "journal", disk=disk.disk())
    disk.calls.clear()

    journal.append(LINES[0])

    assert disk.calls == ["write", "fsync"]
    journal.close()


def test_a_closed_journal_takes_nothing(path: Path) -> None:
    """Closing twice is closing once."""
    journal = Journal(path)
    journal.close()
    journal.close()

    with pytest.raises(JobError, match="it is closed"):
        journal.append(LINES[0])


def test_the_file_is_private(path: Path) -> None:
    """F14: mode 0600."""
    assert path.stat().st_mode & 0o777 == 0o600


WRITER = """
import sys
from pathlib import Path
from uid2_async.bulk.resume.journal import Checkpoint, Journal

journal = Journal(Path(sys.argv[1]))
for rows in range(1, 1_000_000):
    journal.append(Checkpoint(file=0, rows=rows))
    print(rows, flush=True)
"""


def test_a_killed_writer_loses_nothing_that_was_saved(tmp_path: Path) -> None:
    """F1: after SIGKILL every line that was saved is there."""
    path = tmp_path / "journal"
    writer = subprocess.Popen(  # noqa: S603 - our own script
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    for _ in range(20):
        writer.stdout.readline()
    writer.kill()
    told, _ = writer.communicate()

    saved = int(told.split()[-1]) if told else 20
    last = read(path)
    assert last is not None
    assert saved <= last.rows <= saved + 1


class PowerCutError(BaseException):
    """The end of the process, in the middle of a call."""


class JournalMachine(RuleBasedStateMachine):
    """Append, be cut off in the middle, open again: against a list."""

    def __init__(self) -> None:
        """Begin in a folder of its own."""
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.kept: int | None = None
        self.saved: list[Checkpoint] = []
        self.rows = 0

    def teardown(self) -> None:
        """Leave nothing."""
        self.journal.close()
        shutil.rmtree(self.folder)

    def _write(self, descriptor: int, data: bytes) -> int:
        """Write all, or a part of it and be cut off."""
        kept, self.kept = self.kept, None
        written = DISK.write(descriptor, data if kept is None else data[:kept])
        if kept is not None:
            raise PowerCutError
        return written

    @initialize()
    def open(self) -> None:
        """Open the journal for the first time."""
        disk = Disk(write=self._write, fsync=lambda descriptor: None)
        self.journal = Journal(self.folder / "journal", disk=disk)

    def _next(self, file: int) -> Checkpoint:
        """Make a checkpoint that no other equals."""
        self.rows += 1
        return Checkpoint(file=file, rows=self.rows, position=["p", self.rows])

    @rule(file=st.integers(0, 2))
    def append(self, file: int) -> None:
        """Append one that is saved."""
        checkpoint = self._next(file)
        self.journal.append(checkpoint)
        self.saved.append(checkpoint)

    @rule()
    def reopen(self) -> None:
        """End in order, and begin again."""
        self.journal.close()
        self.open()

    @rule(file=st.integers(0, 2), kept=st.integers(0, 120))
    def cut_off(self, file: int, kept: int) -> None:
        """Die in the middle of an append, and begin again."""
        checkpoint = self._next(file)
        self.kept = kept
        with pytest.raises(PowerCutError):
            self.journal.append(checkpoint)
        self.reopen()
        if self.journal.last == checkpoint:
            self.saved.append(checkpoint)

    @precondition(lambda self: self.saved)
    @rule(lost=st.integers(1, 200))
    def lose_the_end(self, lost: int) -> None:
        """Lose some of the last bytes, as a disk that lied about a sync does."""
        self.journal.close()
        path = self.folder / "journal"
        rest = path.read_bytes()[:-lost]
        path.write_bytes(rest)
        del self.saved[rest.count(b"\n") :]
        self.open()

    @invariant()
    def agrees(self) -> None:
        """It knows the last of all and of each input, and holds whole lines."""
        if not hasattr(self, "journal"):
            return
        assert self.journal.last == (self.saved[-1] if self.saved else None)
        assert dict(self.journal.by_file) == {one.file: one for one in self.saved}
        data = (self.folder / "journal").read_bytes()
        assert data.count(b"\n") == len(self.saved)
        assert data == b"" or data.endswith(b"\n")


TestJournal = JournalMachine.TestCase
TestJournal.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
