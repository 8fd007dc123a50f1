"""Files are opened, refused and put in place as a job needs it."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

import pytest

from uid2_async.cli.csv_files import check_target, open_source, open_target, size_of
from uid2_async.errors import InputError


def test_a_new_file_may_be_written(tmp_path: Path) -> None:
    """A path where nothing is passes, and so does stdout."""
    check_target(str(tmp_path / "out.csv"), source="-", force=False)
    check_target("-", source="-", force=False)


def test_force_replaces(tmp_path: Path) -> None:
    """An existing file passes with force alone."""
    out = tmp_path / "out.csv"
    out.write_text("old")

    check_target(str(out), source="-", force=True)
    with pytest.raises(InputError, match=r"already exists.*--force"):
        check_target(str(out), source="-", force=False)


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("in.csv", "same file"),
        ("link.csv", "same file"),
        ("folder", "not a regular file"),
        ("missing/out.csv", "folder of .* does not exist"),
        ("in.csv/out.csv", "folder of .* does not exist"),
    ],
)
def test_targets_that_are_refused(
    tmp_path: Path, target: str, words: str, *, force: bool
) -> None:
    """The input, folders and paths into nowhere are refused with force, too."""
    source = tmp_path / "in.csv"
    source.write_text("a\n")
    (tmp_path / "link.csv").symlink_to(source)
    (tmp_path / "folder").mkdir()

    with pytest.raises(InputError, match=words):
        check_target(str(tmp_path / target), source=str(source), force=force)


def test_a_device_is_not_replaced() -> None:
    """Replacing /dev/null would be a catastrophe for the whole machine."""
    with pytest.raises(InputError, match="not a regular file"):
        check_target(os.devnull, source="-", force=True)


def test_the_output_appears_when_it_is_whole(tmp_path: Path) -> None:
    """Until the block ends there is a temporary file, for its owner alone."""
    out = tmp_path / "out.csv"
    with open_target(str(out)) as file:
        file.write("Zoë\r\n")
        (temporary,) = tmp_path.iterdir()
        assert temporary != out
        assert stat.S_IMODE(temporary.stat().st_mode) == 0o600

    assert list(tmp_path.iterdir()) == [out]
    assert out.read_bytes() == "Zoë\r\n".encode()
    assert stat.S_IMODE(out.stat().st_mode) == 0o600


def fail_while_writing(out: Path | str) -> None:
    """Write to *out* and fail."""
    with open_target(str(out)) as file:
        file.write("new")
        raise OSError


def test_a_failed_job_leaves_nothing(tmp_path: Path) -> None:
    """Where the block fails, the old file stays and no new one does."""
    out = tmp_path / "out.csv"
    out.write_text("old")
    with pytest.raises(OSError):  # noqa: PT011 - any will do
        fail_while_writing(out)

    assert list(tmp_path.iterdir()) == [out]
    assert out.read_text() == "old"


def test_a_link_is_followed(tmp_path: Path) -> None:
    """What a symbolic link points to is replaced, not the link."""
    real = tmp_path / "real.csv"
    link = tmp_path / "link.csv"
    link.symlink_to(real)
    with open_target(str(link)) as file:
        file.write("new")

    assert link.is_symlink()
    assert real.read_text() == "new"


def test_a_long_name(tmp_path: Path) -> None:
    """The temporary name of the longest name there can be is not too long."""
    out = tmp_path / ("語" * 85)
    with open_target(str(out)) as file:
        file.write("new")

    assert out.read_text() == "new"


def test_a_folder_that_cannot_be_written_to() -> None:
    """Where no file can be made, the message says so before any work is done."""
    with (
        pytest.raises(InputError, match="cannot be written to"),
        open_target("/proc/out.csv"),
    ):
        pass


def test_the_source(tmp_path: Path) -> None:
    """A file is read as bytes and closed at the end."""
    source = tmp_path / "in.csv"
    source.write_bytes(b"a\n")
    with open_source(str(source)) as stream:
        assert stream.read() == b"a\n"

    assert stream.closed
    assert size_of(str(source)) == 2


@pytest.mark.parametrize("name", ["missing.csv", "."])
def test_a_source_that_cannot_be_opened(tmp_path: Path, name: str) -> None:
    """A missing file and a folder are refused by name."""
    with (
        pytest.raises(InputError, match="cannot be read"),
        open_source(str(tmp_path / name)),
    ):
        pass


def test_streams_have_no_size() -> None:
    """The size of stdin or a device is not known."""
    assert size_of("-") is None
    assert size_of(os.devnull) is None


def test_a_pipe_is_not_closed(tmp_path: Path) -> None:
    """Closing a pipe would wait for whoever writes to it."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    keep = os.open(pipe, os.O_RDWR)
    with open_source(str(pipe)) as stream:
        pass

    assert not stream.closed
    stream.close()
    os.close(keep)


def test_stdin_is_opened_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stdin is read through a buffer of its own, from which nobody else takes."""
    source = tmp_path / "in.csv"
    source.write_bytes(b"a\n")
    with source.open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        with open_source("-") as stream:
            assert stream.read() == b"a\n"
            assert stream is not stdin.buffer
        assert not stdin.closed


def test_stdout_is_opened_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stdout is written as UTF-8 whatever its own encoding, and stays open."""
    with (tmp_path / "out.csv").open("w", encoding="ascii") as stdout:
        monkeypatch.setattr("sys.stdout", stdout)
        with open_target("-") as file:
            file.write("Zoë\r\n")
        assert not stdout.closed

    assert (tmp_path / "out.csv").read_bytes() == "Zoë\r\n".encode()


def test_a_failed_job_leaves_stdout_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the block fails, what was written before stays written."""
    written = io.BytesIO()
    stdout = io.TextIOWrapper(written)
    monkeypatch.setattr("sys.stdout", stdout)
    with pytest.raises(OSError):  # noqa: PT011 - any will do
        fail_while_writing("-")

    assert written.getvalue() == b"new"
