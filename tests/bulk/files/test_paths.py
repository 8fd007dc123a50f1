"""Which files a job has, and what is refused before any work is done."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from uid2_async.bulk.paths import (
    FileFormatOptions,
    FilePair,
    Format,
    check_roles,
    check_targets,
    check_unchanged,
    expand,
    identify,
    is_gzipped,
    state_paths,
)
from uid2_async.errors import InputError, JobError

CSV, JSONL, PARQUET, ARROW = Format


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """Make a folder as a warehouse exports it."""
    folder = tmp_path / "export"
    for name in (
        "b.csv",
        "a.csv",
        "day=2/part-0.csv",
        "day=10/part-0.csv",
        "_SUCCESS",
        ".b.csv.crc",
        "_temporary/0.csv",
        ".hidden/0.csv",
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("a\n1\n")
    return folder


NAMES = ["a.csv", "b.csv", "day=10/part-0.csv", "day=2/part-0.csv"]


def names(pairs: list[FilePair], source: Path, target: Path) -> list[str]:
    """List the names that inputs and outputs share."""
    found = [str(pair.source.relative_to(source)) for pair in pairs if pair.source]
    assert found == [
        str(pair.target.relative_to(target)) for pair in pairs if pair.target
    ]
    return found


def test_one_file() -> None:
    """A file is what it is called; - is a stream."""
    assert expand("in.csv", "out.csv") == [FilePair(Path("in.csv"), Path("out.csv"))]
    assert expand("-", "-") == [FilePair(None, None)]


def test_a_name_that_looks_like_a_pattern(tmp_path: Path) -> None:
    """A file that is there is no pattern."""
    path = tmp_path / "in[1].csv"
    path.write_text("a\n")

    assert expand(str(path), "out.csv") == [FilePair(path, Path("out.csv"))]


def test_a_folder(export: Path, tmp_path: Path) -> None:
    """Its files are sorted, and keep their names; marks of warehouses are no input."""
    pairs = expand(str(export), str(tmp_path / "out"))

    assert names(pairs, export, tmp_path / "out") == NAMES


def test_a_folder_that_looks_like_a_pattern(export: Path, tmp_path: Path) -> None:
    """A folder that is there is none."""
    odd = export.rename(tmp_path / "ex[p]*rt")

    assert (
        names(expand(str(odd), str(tmp_path / "out")), odd, tmp_path / "out") == NAMES
    )


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.csv", NAMES[:2]),
        ("day=*/*.csv", NAMES[2:]),
        ("**/*.csv", NAMES),
        ("a*", ["a.csv"]),
    ],
)
def test_a_pattern(
    export: Path, tmp_path: Path, pattern: str, found: list[str]
) -> None:
    """Names are kept from the first part on that is a pattern."""
    pairs = expand(str(export / pattern), str(tmp_path / "out"))

    assert names(pairs, export, tmp_path / "out") == found


def test_outputs_are_no_inputs(export: Path) -> None:
    """A folder of outputs inside of that of the inputs does not become input."""
    (export / "out").mkdir()
    (export / "out" / "a.csv").write_text("a\n")

    pairs = expand(str(export), str(export / "out"))

    assert names(pairs, export, export / "out") == NAMES


@pytest.mark.parametrize("pattern", ["empty", "empty/*.csv", "missing/*"])
def test_nothing_to_read(tmp_path: Path, pattern: str) -> None:
    """A folder or a pattern without files is refused."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "_SUCCESS").touch()

    with pytest.raises(InputError, match="There is no file in"):
        expand(str(tmp_path / pattern), "out")


def test_many_files_to_stdout(export: Path) -> None:
    """They are refused."""
    with pytest.raises(InputError, match="cannot be written to stdout"):
        expand(str(export), "-")


@pytest.mark.parametrize(
    ("source", "target", "given", "expected"),
    [
        ("a.csv", "b.csv", None, CSV),
        ("a.CSV.gz", "-", None, CSV),
        ("a.tsv", "-", None, CSV),
        ("-", "b.ndjson", None, JSONL),
        ("a.jsonl", "b.txt", None, JSONL),
        ("a.jsonl.gz", "b.jsonl", None, JSONL),
        ("a.parquet", "b.parquet", None, PARQUET),
        ("a.feather", "b.arrow", None, ARROW),
        ("a.txt", "-", "jsonl", JSONL),
        ("-", "-", None, CSV),
        ("a.csv", "b.jsonl", None, "different formats"),
        ("a.parquet", "-", None, "Parquet cannot be read from stdin"),
        ("-", "a", "arrow", "Arrow cannot be read from stdin"),
        ("a.parquet.gz", "b.parquet", None, "Parquet is not compressed as a whole"),
        ("a", "b", "xlsx", "no such format"),
    ],
)
def test_formats(
    source: str, target: str, given: str | None, expected: Format | str
) -> None:
    """The option tells the format, or else the names, which must agree."""
    if isinstance(expected, Format):
        assert format_of(source, target, given) is expected
    else:
        with pytest.raises(InputError, match=expected):
            format_of(source, target, given)


def test_the_format_of_a_folder(tmp_path: Path) -> None:
    """It is that of the files in it."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.parquet").touch()
    (folder / "_metadata.json").touch()
    assert format_of(str(folder), str(tmp_path / "out"), None) is PARQUET

    (folder / "b.csv").touch()
    with pytest.raises(InputError, match="different formats"):
        format_of(str(folder), str(tmp_path / "out"), None)
    assert format_of(str(folder / "*.csv"), str(tmp_path / "out"), None) is CSV


def check(
    source: Path | None, target: Path, *, force: bool = False, begun: bool = False
) -> None:
    """Check one output."""
    check_targets([FilePair(source, target)], force=force, begun=begun)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Make an input, and things that are no output."""
    path = tmp_path / "in.csv"
    path.write_text("a\n")
    (tmp_path / "link.csv").symlink_to(path)
    (tmp_path / "dangling.csv").symlink_to(tmp_path / "nowhere.csv")
    (tmp_path / "hard.csv").hardlink_to(path)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    return path


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("in.csv", "same file"),
        ("hard.csv", "same file"),
        ("folder/../in.csv", "same file"),
        ("link.csv", "is a symbolic link"),
        ("dangling.csv", "is a symbolic link"),
        ("folder", "not a regular file"),
        ("pipe.csv", "not a regular file"),
        ("missing/out.csv", "folder of .* does not exist"),
        ("in.csv/out.csv", "folder of .* does not exist"),
    ],
)
def test_targets_that_are_refused(
    source: Path, target: str, words: str, *, force: bool
) -> None:
    """What must not be replaced is refused with force, too."""
    with pytest.raises(InputError, match=words):
        check(source, source.parent / target, force=force)


def test_a_device_is_not_replaced() -> None:
    """Replacing /dev/null would be a catastrophe for the whole machine."""
    with pytest.raises(InputError, match="not a regular file"):
        check(None, Path(os.devnull), force=True)


def test_an_output_that_exists(source: Path) -> None:
    """It passes with force, or where the job that wrote it goes on."""
    out = source.parent / "out.csv"
    check(source, out)
    out.write_text("old")

    check(source, out, force=True)
    check(source, out, begun=True)
    with pytest.raises(InputError, match="already exists") as caught:
        check(source, out)
    assert "--force" in caught.value.hint


@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_a_folder_in_which_others_can_write(source: Path, mode: int) -> None:
    """They could exchange what is written there; the sticky bit prevents it."""
    folder = source.parent / "folder"
    folder.chmod(mode)
    with pytest.raises(JobError, match="other users can replace files"):
        check(source, folder / "out.csv")

    folder.chmod(mode | stat.S_ISVTX)
    check(source, folder / "out.csv")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder(source: Path) -> None:
    """It is refused before any work is done."""
    folder = source.parent / "folder"
    folder.chmod(0o500)
    with pytest.raises(JobError, match="cannot be written to"):
        check(source, folder / "out.csv")


@pytest.mark.parametrize(
    ("name", "words"),
    [("missing.csv", "No such file"), ("pipe.csv", "no regular"), ("folder", "no reg")],
)
def test_inputs_that_are_refused(source: Path, name: str, words: str) -> None:
    """A pipe with a name is none that could be gone on with."""
    with pytest.raises(InputError, match=words) as caught:
        check(source.parent / name, source.parent / "out.csv")

    assert "name -" in caught.value.hint


def test_an_output_that_another_input_is(source: Path) -> None:
    """None may be the input or the output of another one."""
    other = source.parent / "other.csv"
    other.write_text("a\n")
    out = source.parent / "out.csv"
    with pytest.raises(InputError, match="same file"):
        check_targets(
            [FilePair(source, out), FilePair(None, source)], force=True, begun=False
        )
    with pytest.raises(InputError, match=r"out\.csv would be written twice"):
        check_targets(
            [
                FilePair(source, out),
                FilePair(other, source.parent / "folder/../out.csv"),
            ],
            force=True,
            begun=False,
        )


def test_folders_of_outputs_are_made(export: Path, tmp_path: Path) -> None:
    """For their owner alone; and only if nothing is refused."""
    out = tmp_path / "made" / "out"
    (tmp_path / "made").mkdir()
    pairs = expand(str(export), str(out))
    with pytest.raises(InputError, match="No such file"):
        check_targets([*pairs, FilePair(export / "x", None)], force=False, begun=False)
    assert not out.exists()

    check_targets(pairs, force=False, begun=False)

    assert (out / "day=10").is_dir()
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    check_targets(pairs, force=False, begun=False)


def test_a_file_where_the_folder_of_outputs_should_be(export: Path) -> None:
    """It is not replaced."""
    out = export.parent / "out"
    out.write_text("precious")

    with pytest.raises(InputError, match="does not exist"):
        check_targets(expand(str(export), str(out)), force=True, begun=False)


def test_identity_of_a_file(tmp_path: Path) -> None:
    """Another size, time, beginning or end make another file."""
    path = tmp_path / "in.csv"
    path.write_bytes(bytes(3 << 20))
    os.utime(path, ns=(1, 1))
    before = identify(path)
    assert (before.name, before.size, before.mtime_ns) == (str(path), 3 << 20, 1)
    assert identify(path) == before

    for at in (0, (3 << 20) - 1):
        with path.open("r+b") as file:
            file.seek(at)
            file.write(b"x")
        os.utime(path, ns=(1, 1))
        after = identify(path)
        assert after.digest != before.digest
        before = after
    with pytest.raises(InputError, match="cannot be read: No such file"):
        identify(tmp_path / "missing")
