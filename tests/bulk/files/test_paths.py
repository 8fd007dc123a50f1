"""Which files a job has, and what is refused before any work is done."""

from __future__ import annotations

import itertools
import os
import stat
from contextlib import ExitStack, closing
from encodings.aliases import aliases
from pathlib import Path
from typing import Any

import msgspec
import pytest

from uid2_async.bulk.files import open_reader
from uid2_async.bulk.paths import (
    FileFormatOptions,
    FilePair,
    Format,
    check_roles,
    check_targets,
    check_unchanged,
    find_files,
    identify,
    is_gzipped,
    move_file,
    state_paths,
    temp_sibling,
    write_atomically,
)
from uid2_async.bulk.resume import job_folder_for
from uid2_async.bulk.stores import expand_locations, local_path, through_files
from uid2_async.errors import ConfigError, InputError, JobError

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
    assert expand_locations("in.csv", "out.csv") == [
        FilePair(Path("in.csv"), Path("out.csv"))
    ]
    assert expand_locations("-", "-") == [FilePair(None, None)]


def test_a_name_that_looks_like_a_pattern(tmp_path: Path) -> None:
    """A file that is there is no pattern."""
    path = tmp_path / "in[1].csv"
    path.write_text("a\n")

    assert expand_locations(str(path), "out.csv") == [FilePair(path, Path("out.csv"))]


def test_a_folder(export: Path, tmp_path: Path) -> None:
    """Its files are sorted, and keep their names; marks of warehouses are no input."""
    pairs = expand_locations(str(export), str(tmp_path / "out"))

    assert names(pairs, export, tmp_path / "out") == NAMES


def test_a_folder_that_looks_like_a_pattern(export: Path, tmp_path: Path) -> None:
    """A folder that is there is none."""
    odd = export.rename(tmp_path / "ex[p]*rt")

    assert (
        names(expand_locations(str(odd), str(tmp_path / "out")), odd, tmp_path / "out")
        == NAMES
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
    pairs = expand_locations(str(export / pattern), str(tmp_path / "out"))

    assert names(pairs, export, tmp_path / "out") == found


def test_outputs_are_no_inputs(export: Path) -> None:
    """A folder of outputs inside of that of the inputs does not become input."""
    (export / "out").mkdir()
    (export / "out" / "a.csv").write_text("a\n")

    pairs = expand_locations(str(export), str(export / "out"))

    assert names(pairs, export, export / "out") == NAMES


@pytest.mark.parametrize("pattern", ["empty", "empty/*.csv", "missing/*"])
def test_nothing_to_read(tmp_path: Path, pattern: str) -> None:
    """A folder or a pattern without files is refused."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "_SUCCESS").touch()

    with pytest.raises(InputError, match="No files were found in"):
        expand_locations(str(tmp_path / pattern), "out")


def test_many_files_to_stdout(export: Path) -> None:
    """They are refused."""
    with pytest.raises(InputError, match="cannot be written to stdout"):
        expand_locations(str(export), "-")


def path_of(name: str) -> Path | None:
    """Return the path of a name; - is a stream."""
    return None if name == "-" else Path(name)


@pytest.mark.parametrize(
    ("source", "target", "given", "expected"),
    [
        ("a.csv", "b.csv", None, (CSV, CSV)),
        ("a.CSV.gz", "-", None, (CSV, CSV)),
        ("-", "b.ndjson", None, (JSONL, JSONL)),
        ("a.jsonl", "b.txt", None, (JSONL, JSONL)),
        ("a.txt", "b.jsonl", None, (JSONL, JSONL)),
        ("a.jsonl.gz", "b.csv", None, (JSONL, CSV)),
        ("a.parquet", "b.parquet", None, (PARQUET, PARQUET)),
        ("a.feather", "b.parquet", None, (ARROW, PARQUET)),
        ("a.csv", "b.arrow", None, (CSV, ARROW)),
        ("a.parquet", "-", "csv", "not be"),
        ("a.txt", "-", "jsonl", (JSONL, JSONL)),
        ("a.txt", "b.parquet", "jsonl", (JSONL, PARQUET)),
        ("a", "b.parquet", None, (CSV, PARQUET)),
        ("-", "-", None, (CSV, CSV)),
        ("a.parquet", "-", None, "Parquet cannot be read from stdin or written"),
        ("-", "a", "arrow", "Arrow cannot be read from stdin or written"),
        ("a.parquet.gz", "b.parquet", None, "Parquet files are not compressed"),
        ("a.parquet", "b.parquet.gz", None, "Parquet files are not compressed"),
    ],
)
def test_formats(
    source: str, target: str, given: str | None, expected: tuple[Format, Format] | str
) -> None:
    """Each name tells its own format; a name that tells none is as the other one."""
    pair = FilePair(path_of(source), path_of(target))
    options = FileFormatOptions(format=given)
    if expected == "not be":
        assert pair.formats(options)[0].format is CSV
    elif isinstance(expected, str):
        with pytest.raises(InputError, match=expected):
            pair.formats(options)
    else:
        assert tuple(one.format for one in pair.formats(options)) == expected


@pytest.mark.parametrize(
    ("source", "target", "given", "expected"),
    [
        ("a.csv", "b.csv", None, (",", None)),
        ("a.tsv", "b.tsv", None, ("\t", "\t")),
        ("a.tsv.gz", "b.csv", None, ("\t", ",")),
        ("a.csv", "b.tsv", None, (",", "\t")),
        ("a.csv", "b.tsv", ";", (";", "\t")),
        ("a.csv", "b.txt", ";", (";", None)),
        ("a.tsv", "-", None, ("\t", None)),
        ("-", "b.tsv", None, ("\t", "\t")),
        ("a.jsonl", "b.csv", ";", (";", ";")),
        ("a.parquet", "b.tsv", None, (",", "\t")),
    ],
)
def test_delimiters(
    source: str, target: str, given: str | None, expected: tuple[str, str | None]
) -> None:
    """A tab in .tsv files, a comma in others; None is what the input has."""
    pair = FilePair(path_of(source), path_of(target))

    read, written = pair.formats(FileFormatOptions(delimiter=given))

    assert (read.delimiter, written.delimiter) == expected


def test_only_csv_is_safe_for_spreadsheets() -> None:
    """There is nothing to be made safe in others."""
    options = FileFormatOptions(spreadsheet_safe=True)
    assert FilePair(Path("a.parquet"), Path("a.csv")).formats(options)
    with pytest.raises(ConfigError, match="Only CSV"):
        FilePair(Path("a.csv"), Path("a.jsonl")).formats(options)


@pytest.mark.parametrize("delimiter", ["", ",,", '"', "\n", "\r"])
def test_delimiters_that_are_refused(delimiter: str) -> None:
    """One character, and not a quote or a line end."""
    with pytest.raises(ConfigError, match="A delimiter must be one character"):
        FileFormatOptions(delimiter=delimiter)


@pytest.mark.parametrize(
    "encoding",
    [
        *("", "no-such", "hex", "rot13", "utf-7", "iso-2022-jp", "hz", "idna"),
        *("punycode", "unicode_escape", "raw_unicode_escape", "undefined", "a\0b"),
    ],
)
def test_encodings_that_are_refused(encoding: str) -> None:
    """One that is unknown, is not for text, or cannot be read in parts."""
    with pytest.raises(ConfigError, match="The encoding is unknown"):
        FileFormatOptions(encoding=encoding)


def test_every_encoding_of_python_is_read_or_refused(tmp_path: Path) -> None:
    """No name of a codec raises an error that is not ours."""
    path = tmp_path / "in.csv"
    path.write_bytes(b"a,b\n1,\xe92\n")
    for name in sorted(set(aliases.values())):
        try:
            options = FileFormatOptions(encoding=name)
            with closing(open_reader(path, options)) as reader:
                reader.select([0])
                while reader.take(9) is not None or reader.load():
                    pass
        except (InputError, ConfigError):
            pass


def test_encodings_get_their_usual_names() -> None:
    """The one with a byte order mark is UTF-8: the mark is kept if there is one."""
    assert FileFormatOptions(encoding="UTF8").encoding == "utf-8"
    assert FileFormatOptions(encoding="utf-8-sig").encoding == "utf-8"
    assert FileFormatOptions(encoding="latin1").encoding == "iso8859-1"


def test_names_and_formats() -> None:
    """Text can be streamed; a suffix tells of compression."""
    assert [one.is_text for one in Format] == [True, True, False, False]
    assert is_gzipped(Path("a.csv.GZ"))
    assert not is_gzipped(Path("a.csv"))


@pytest.mark.parametrize(
    ("mark", "kind"),
    [
        ("_delta_log/0.json", "Delta Lake"),
        (".hoodie/x", "Hudi"),
        ("metadata/v1.metadata.json", "Iceberg"),
    ],
)
@pytest.mark.parametrize("source", ["table", "table/*.csv", "table/day=1", "*"])
def test_a_lake_table(tmp_path: Path, mark: str, kind: str, source: str) -> None:
    """Its files hold rows that were deleted, so it is not a folder of files."""
    for name in (mark, "part-0.csv", "day=1/part-1.csv"):
        path = tmp_path / "table" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("a\n1\n")
    if source == "*":
        source = "**/*.csv"

    with pytest.raises(InputError, match=f"is a {kind} table") as caught:
        find_files(str(tmp_path / source), tmp_path / "out")

    assert "snapshot" in caught.value.hint


ROLES = {
    "IN": [Path("in.csv"), Path("in2.csv")],
    "OUT": [Path("out.csv"), Path("out2.csv")],
    "--state": state_paths(Path("people.db")),
    "--delta": Path("delta.csv"),
    "--report": Path("report.html"),
    "--keys-file": Path("keys.json"),
    "--bad-rows": Path("bad.csv"),
}


def in_folder(folder: Path) -> dict[str, list[Path]]:
    """Put all paths into a folder."""
    return {
        role: [folder / one for one in ([paths] if isinstance(paths, Path) else paths)]
        for role, paths in ROLES.items()
    }


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(ROLES, 2)))
def test_two_roles_for_one_path(tmp_path: Path, one: str, other: str) -> None:
    """Every pair of roles is refused, by name, by link, and for each file of a role."""
    roles = in_folder(tmp_path)
    folders = {"--job-dir": tmp_path / ".out.csv.uid2-job"}
    check_roles(roles, folders=folders)
    for path in roles[other]:
        with pytest.raises(InputError, match="are the same file or folder"):
            check_roles(roles | {one: path.parent / "x" / ".." / path.name})
    roles[one][0].write_text("")
    roles[other][0].symlink_to(roles[one][0])
    with pytest.raises(InputError, match="are the same file or folder"):
        check_roles(roles)
    roles[other][0].unlink()
    roles[other][0].hardlink_to(roles[one][0])
    with pytest.raises(InputError, match="are the same file or folder"):
        check_roles(roles)


@pytest.mark.parametrize("role", ROLES)
def test_nothing_lies_in_the_job_folder(tmp_path: Path, role: str) -> None:
    """What a job keeps there is its own; the folder itself is no file, either."""
    roles = in_folder(tmp_path)
    inside = tmp_path / "job"
    for path in (inside, inside / "x", inside / "deep" / "x"):
        with pytest.raises(InputError, match=f"--job-dir and {role} are the same"):
            check_roles(roles | {role: path}, folders={"--job-dir": inside})


def test_a_file_that_changes(tmp_path: Path) -> None:
    """An input that was truncated or rewritten while it was read is refused."""
    path = tmp_path / "in.csv"
    path.write_text("a\n1\n")
    before = identify(path)
    check_unchanged(path, before)

    os.truncate(path, 2)

    with pytest.raises(InputError, match="was changed while it was read"):
        check_unchanged(path, before)
    path.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        check_unchanged(path, before)


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    """They can be read, stored as JSON, and shown."""
    path = tmp_path / os.fsdecode(b"caf\xe9\x1b[1m.csv")
    path.write_text("a\n1\n")

    found = identify(path)

    assert msgspec.json.decode(msgspec.json.encode(found.name)) == found.name
    assert found.name != identify_other(tmp_path).name
    with pytest.raises(InputError) as caught:
        check_targets([FilePair(path, path)], may_exist=True)
    str(caught.value).encode()
    assert "\x1b" not in str(caught.value)
    pairs = expand_locations(str(tmp_path / "*"), str(tmp_path / "out"))
    check_targets(pairs, may_exist=False)
    assert [pair.target.name for pair in pairs if pair.target] == [
        "caf\xe8.csv".encode("latin-1").decode("utf-8", "surrogateescape"),
        path.name,
    ]


def identify_other(folder: Path) -> Any:
    """Make a file whose name differs in the byte that is not UTF-8."""
    other = folder / os.fsdecode(b"caf\xe8.csv")
    other.write_text("a\n1\n")
    return identify(other)


def check(source: Path | None, target: Path, *, force: bool = False) -> None:
    """Check one output."""
    check_targets([FilePair(source, target)], may_exist=force)


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
        ("link.csv", "same file"),
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
    """It passes only where it may exist."""
    out = source.parent / "out.csv"
    check(source, out)
    out.write_text("old")

    check(source, out, force=True)
    with pytest.raises(InputError, match="already exists") as caught:
        check(source, out)
    assert "`force=True`" in caught.value.hint


def test_a_folder_in_which_others_can_write(source: Path) -> None:
    """They could replace what is written there; a sticky bit or a word allows it."""
    folder = source.parent / "folder"
    folder.chmod(0o777)
    pairs = [FilePair(source, folder / "out.csv")]
    with pytest.raises(JobError, match="other users can replace files"):
        check_targets(pairs, may_exist=False)

    check_targets(pairs, may_exist=False, allow_shared=True)
    folder.chmod(0o777 | stat.S_ISVTX)
    check_targets(pairs, may_exist=False)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder(source: Path) -> None:
    """It is refused before any work is done."""
    folder = source.parent / "folder"
    folder.chmod(0o500)
    with pytest.raises(JobError, match="cannot be written to"):
        check(source, folder / "out.csv")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing.csv", "No such file"),
        ("pipe.csv", "not a regular"),
        ("folder", "not a reg"),
    ],
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
            [FilePair(source, out), FilePair(None, source)],
            may_exist=True,
        )
    with pytest.raises(InputError, match="same name in OUT"):
        check_targets(
            [
                FilePair(source, out),
                FilePair(other, source.parent / "folder/../out.csv"),
            ],
            may_exist=True,
        )


def test_folders_of_outputs_are_made(export: Path, tmp_path: Path) -> None:
    """For their owner alone; and only if nothing is refused."""
    out = tmp_path / "made" / "out"
    (tmp_path / "made").mkdir()
    pairs = expand_locations(str(export), str(out))
    with pytest.raises(InputError, match="No such file"):
        check_targets([*pairs, FilePair(export / "x", None)], may_exist=False)
    assert not out.exists()

    check_targets(pairs, may_exist=False)

    assert (out / "day=10").is_dir()
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    check_targets(pairs, may_exist=False)


def test_a_file_where_the_folder_of_outputs_should_be(export: Path) -> None:
    """It is not replaced."""
    out = export.parent / "out"
    out.write_text("precious")

    with pytest.raises(InputError, match="does not exist"):
        check_targets(expand_locations(str(export), str(out)), may_exist=True)


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


# --- Names that no file can have ------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["", "a\0b", "x" * 5_000, "loop", "loop/x.csv", "loop/*.csv", "in.csv/x"]
)
def test_impossible_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """As an input or an output, each is refused with a message."""
    monkeypatch.chdir(tmp_path)
    Path("in.csv").touch()
    Path("loop").symlink_to("loop")

    def check(source: str, target: str) -> None:
        pairs = expand_locations(source, target)
        check_targets(pairs, may_exist=False)

    for source, target in ((name, "out.csv"), ("in.csv", name), ("loop", name)):
        with pytest.raises(InputError):
            check(source, target)


JSON_LINES = FileFormatOptions(format=Format.JSONL)


@pytest.mark.parametrize("name", ["a.json", "a.JSON.gz", "a.xlsx", "a.zip"])
def test_a_name_of_another_format(name: str) -> None:
    """It is not taken for CSV, unless the format is said; other names are."""
    with pytest.raises(InputError, match="is unknown"):
        FileFormatOptions().for_file(Path(name), other=Path("in.csv"))
    with pytest.raises(InputError, match="is unknown"):
        FilePair(Path("in.csv"), Path(name)).formats(FileFormatOptions())

    pair = FilePair(Path(name), Path(name))
    assert {one.format for one in pair.formats(JSON_LINES)} == {Format.JSONL}
    said = JSON_LINES.for_file(Path(name))
    other = FileFormatOptions().for_file(Path("a.txt"))

    assert (said.format, other.format) == (Format.JSONL, Format.CSV)


@pytest.mark.parametrize("url", ["https://[x/in.csv", "https://x]/in.csv"])
def test_impossible_urls(url: str) -> None:
    """They are refused with a message, which does not repeat them."""
    with pytest.raises(InputError, match="cannot be parsed"):
        expand_locations(url, "out.csv")


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    """The complete part is kept, and the error says what is missing."""
    part = tmp_path / "part"
    part.write_text("a\n")

    for name in ("out.csv", "out.csv.gz"):
        with pytest.raises(
            JobError, match=r"out\.csv.* cannot be put in place: No such"
        ):
            move_file(part, tmp_path / "gone" / name)

    assert part.exists()


# Names that share a long beginning, fill all 255 bytes, or are not UTF-8.
OUTPUTS = [
    *("out.csv", "Out.csv", "out.csv.gz"),
    *(f"{'x' * 40}{end}" for end in ("1.csv", "2.csv", "2.jsonl")),
    *(f"{'x' * 250}{end}" for end in ("1.csv", "2.csv")),
    *(f"{'語' * 83}{end}.gz" for end in ("123", "456")),
    *(os.fsdecode(b"\xff" * 250 + end) for end in (b"1.csv", b"\xfe.csv")),
]


def test_each_output_has_temporary_files_of_its_own(tmp_path: Path) -> None:
    """However alike two names are, and however long: no two share a file."""
    with ExitStack() as stack:
        targets = [tmp_path / name for name in OUTPUTS]
        parts = [stack.enter_context(temp_sibling(one)) for one in targets]
        for part, target in zip(parts, targets, strict=True):
            part.write_bytes(os.fsencode(target))
            job_folder_for(target).mkdir()
        for part, target in zip(parts, targets, strict=True):
            assert part.read_bytes() == os.fsencode(target)
            job_folder_for(target).rmdir()

    assert not list(tmp_path.iterdir())


def test_a_second_writer_of_an_output(tmp_path: Path) -> None:
    """It is refused until the first has ended, and touches none of its files."""
    target = tmp_path / "out.csv"
    with temp_sibling(target) as part:
        part.write_text("first")
        words = rf"out\.csv is being written by process {os.getpid()} on "
        with pytest.raises(JobError, match=words), temp_sibling(target):
            pass
        assert part.read_text() == "first"
        move_file(part, target)

    with temp_sibling(target) as part:
        assert not part.exists()
    assert [one.name for one in tmp_path.iterdir()] == ["out.csv"]


@pytest.mark.parametrize("is_folder", [True, False])
def test_what_a_killed_writer_left(tmp_path: Path, *, is_folder: bool) -> None:
    """The next one removes its file or folder, whose lock is free."""
    target = tmp_path / "out.csv"
    with temp_sibling(target) as part:
        pass
    part.with_name(f"{part.name}.lock").write_text("process 1 on host\n")
    left = part
    if is_folder:
        part.mkdir()
        left = part / "part-0"
    left.write_text("rows of somebody else")

    with temp_sibling(target) as part:
        assert not part.exists()

    assert not list(tmp_path.iterdir())


def test_a_link_at_a_temporary_name(tmp_path: Path) -> None:
    """It is removed, not followed; so is the file of the lock, which is refused."""
    target, other = tmp_path / "out.csv", tmp_path / "other"
    other.write_text("mine")
    with temp_sibling(target) as part:
        pass
    part.symlink_to(other)
    with temp_sibling(target) as part:
        assert not part.exists()
    lock = part.with_name(f"{part.name}.lock")
    lock.symlink_to(other)
    with pytest.raises(JobError, match="symbolic links"), temp_sibling(target):
        pass

    assert other.read_text() == "mine"


def test_two_jobs_that_finish_one_output(tmp_path: Path) -> None:
    """Each has a temporary file for its part, so the last one wins as a whole."""
    target = tmp_path / "out.csv.gz"

    def first(path: Path) -> None:
        path.write_text("fir")
        write_atomically(
            target, lambda other: other.write_text("second"), part=tmp_path / "b"
        )
        assert target.read_text() == "second"
        path.write_text("first")

    write_atomically(target, first, part=tmp_path / "a")

    assert target.read_text() == "first"
    assert [one.name for one in tmp_path.iterdir()] == ["out.csv.gz"]


@pytest.mark.parametrize("name", ["out.csv", "out.csv.gz"])
def test_a_part_that_is_gone(tmp_path: Path, name: str) -> None:
    """Without it nothing was written, whatever is there under the final name."""
    target = tmp_path / name
    target.write_text("of somebody else")

    with pytest.raises(JobError, match="cannot be put in place: No such file"):
        move_file(tmp_path / "part", target)

    assert target.read_text() == "of somebody else"


def test_each_input_has_a_name_of_its_own(tmp_path: Path) -> None:
    """An escaped byte is not taken for a name that has the escape in it."""
    names = [rb"\xe9.csv", b"\xe9.csv", rb"\\xe9.csv", b"\\\xe9.csv", b"e.csv"]
    paths = [tmp_path / os.fsdecode(name) for name in names]
    for path in paths:
        path.touch()

    assert len({identify(path).name for path in paths}) == len(names)


def test_stdout_has_one_role(tmp_path: Path) -> None:
    """Two tables in one stream could not be told apart; stdin is no output."""
    pair = FilePair(None, None)
    check_targets([pair], others={"delta": []}, may_exist=False)
    check_targets([], others={"delta": [None]}, may_exist=False)

    with pytest.raises(InputError, match=r"OUT and delta are the same .*: stdout"):
        check_targets([pair], others={"delta": [None]}, may_exist=False)
    for source in ("-", str(tmp_path / "in.arrow")):
        (pair,) = expand_locations(source, "-")
        pipe = through_files(pair, FileFormatOptions(format=Format.ARROW))
        with pytest.raises(InputError, match=r"OUT and delta are the same .*: stdout"):
            check_roles({"OUT": [pipe.target], "delta": [None]})
    with pytest.raises(InputError, match="bad_rows cannot be stdin or stdout"):
        local_path("-", "bad_rows")
