"""Text with columns behind it: the rest comes back byte by byte."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import resource
import stat
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path, PurePath
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from tests.bulk.files.conftest import ADDED, cells, rewrite, rewrite_bytes
from uid2_async.bulk.csv_files import CsvOutput, CsvReader
from uid2_async.bulk.files import TableWriter, open_output, open_reader
from uid2_async.bulk.json_lines import JsonOutput, JsonReader
from uid2_async.bulk.paths import Content, FileFormatOptions, Remote
from uid2_async.bulk.private_files import Disk
from uid2_async.errors import InputError, JobError

BOM = "\N{ZERO WIDTH NO-BREAK SPACE}"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (
            'a,T\n"x, ""y""",1\n 1 ,\n',
            (
                'a,T,UID,REFRESH_FROM,ERROR\n"x, ""y""",1,,,"ServerError, HTTP 500"\n'
                " 1 ,,uid1,1,\n"
            ),
        ),
        (
            f'{BOM}"t",a\r\n1,"2\r3"\r\n4,5\n6,"7"',
            (
                f'{BOM}"t",a,UID,REFRESH_FROM,ERROR\r\n'
                '1,"2\r3",,,"ServerError, HTTP 500"\r\n4,5,uid1,1,\n6,"7",uid2,2,\r\n'
            ),
        ),
        (
            "a\r\r\n1\r\r\n2\r",
            (
                'a,UID,REFRESH_FROM,ERROR\r\r\n1,,,"ServerError, HTTP 500"\r\r\n'
                "2,uid1,1,\r\n"
            ),
        ),
        ("T", "T,UID,REFRESH_FROM,ERROR\n"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le"])
def test_csv(tmp_path: Path, data: str, expected: str, encoding: str) -> None:
    """Rows stay as they are, and so do line ends, marks and the encoding."""
    made = rewrite_bytes(tmp_path, data.encode(encoding), "csv", encoding=encoding)

    assert made.decode(encoding) == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (
            '{"n": 1.10, "big":123456789012345678901234567890 }\r\n',
            (
                '{"n": 1.10, "big":123456789012345678901234567890,"UID":null,'
                '"REFRESH_FROM":null,"ERROR":"ServerError, HTTP 500"}\r\n'
            ),
        ),
        (
            f'{BOM} {{"T":"ü}}"}}\t\n\n{{ }}',
            (
                f'{BOM} {{"T":"ü}}","UID":null,"REFRESH_FROM":null,'
                '"ERROR":"ServerError, HTTP 500"}\n'
                '{"UID":"uid1","REFRESH_FROM":1,"ERROR":null}\n'
            ),
        ),
        ("", ""),
        (BOM, BOM),
    ],
)
def test_jsonl(tmp_path: Path, data: str, expected: str) -> None:
    """Only the end of each object is touched: numbers keep all of their digits."""
    assert rewrite_bytes(tmp_path, data.encode(), "jsonl").decode() == expected


def reader_of(data: bytes, file_format: str = "csv", **options: Any) -> Any:
    """Open a reader in memory."""
    kind = CsvReader if file_format == "csv" else JsonReader
    return kind(io.BytesIO(data), FileFormatOptions(**options), name="x")


def format_rows(
    data: bytes,
    columns: dict[str, list[Any]],
    repeat: list[int] | None = None,
    *,
    file_format: str = "csv",
    added: Any = ADDED,
    **options: Any,
) -> str:
    """Write the rows of *data* with columns appended, without a header."""
    reader = reader_of(data, file_format, **options)
    reader.load()
    rows = reader.take(1_000)
    kind = CsvOutput if file_format == "csv" else JsonOutput
    output = kind(reader, FileFormatOptions(**options), None, added=added, saved=0)
    return output.format(rows, columns, repeat).decode()


def test_instants() -> None:
    """They are seconds since the epoch, or ISO 8601."""
    columns = {
        "UID": ["u", None],
        "REFRESH_FROM": [1795564800, None],
        "ERROR": [None] * 2,
    }

    assert format_rows(b"a\n1\n2\n", columns) == "1,u,1795564800,\n2,,,\n"
    assert (
        format_rows(b"a\n1\n2\n", columns, iso=True)
        == "1,u,2026-11-25T00:00:00Z,\n2,,,\n"
    )
    objects = format_rows(
        b'{"a":1}\n{}\n', columns, file_format="jsonl", iso=True
    ).splitlines()
    assert [json.loads(one)["REFRESH_FROM"] for one in objects] == [
        "2026-11-25T00:00:00Z",
        None,
    ]


def test_integers() -> None:
    """They are written as they are."""
    added = {"SITE_ID": Content.INTEGER}

    assert format_rows(b"a\n1\n2\n", {"SITE_ID": [7, None]}, added=added) == "1,7\n2,\n"


def test_a_row_for_each_identifier() -> None:
    """A row may be written more than once, or not at all."""
    assert format_rows(b"a\n1\n2\n3", cells(1, 4), [0, 0, 2, 2]) == (
        '1,uid1,1,\n1,uid2,2,\n3,,,"ServerError, HTTP 500"\n3,uid4,4,\n'
    )


@pytest.mark.parametrize("delimiter", [";", "u", "5", "\t"])
def test_delimiters_that_stand_in_cells(delimiter: str) -> None:
    """What is added is quoted by the same rules, whatever the delimiter."""
    columns = {
        "UID": ['u"', "\r", "\n", " "],
        "REFRESH_FROM": [None] * 4,
        "ERROR": ["", None, "u;5\t", '"'],
    }

    text = format_rows(b"a\n" + b"1\n" * 4, columns, delimiter=delimiter)

    found = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    each = [
        ["" if one is None else str(one) for one in col] for col in columns.values()
    ]
    assert found == [["1", *row] for row in zip(*each, strict=True)]


FIELDS = st.text(alphabet='ab,;"\n\r é', max_size=5)


@given(
    rows=st.lists(st.tuples(FIELDS, FIELDS), max_size=6),
    ends=st.lists(st.sampled_from(["\n", "\r\n"]), min_size=7, max_size=7),
    mark=st.booleans(),
    whole=st.booleans(),
    step=st.integers(1, 4),
    delimiter=st.sampled_from(",;\t"),
)
@settings(max_examples=200, deadline=None)
def test_any_csv(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, str]],
    ends: list[str],
    step: int,
    delimiter: str,
    *,
    mark: bool,
    whole: bool,
) -> None:
    """Without the added columns, what comes out is what went in, byte by byte."""
    lines = []
    for row, end in zip([("a", "b"), *rows], ends, strict=False):
        text = io.StringIO()
        csv.writer(
            text, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL
        ).writerow(row)
        lines.append(text.getvalue())
    if not whole:
        lines[-1] = lines[-1].rstrip("\r\n")
    data = (BOM * mark + "".join(lines)).encode()

    folder = tmp_path_factory.mktemp("any")
    made = rewrite_bytes(folder, data, "csv", step=step, delimiter=delimiter)

    expected = BOM * mark
    added = [list(ADDED), *zip(*cells(0, len(rows)).values(), strict=True)]
    for line, row in zip(lines, added, strict=True):
        body = line.rstrip("\r\n")
        end = line[len(body) :] or ("\r\n" if lines[0].endswith("\r\n") else "\n")
        new = ["" if one is None else str(one) for one in row]
        new = [f'"{one}"' if delimiter in one else one for one in new]
        expected += delimiter.join([body, *new]) + end
    assert made == expected.encode()


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.text(max_size=2), inner, max_size=2)
    ),
    max_leaves=4,
)


@given(
    rows=st.lists(st.dictionaries(st.sampled_from("ab{}"), JSON), max_size=6),
    step=st.integers(1, 4),
    pretty=st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_any_jsonl(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[dict[str, Any]],
    step: int,
    *,
    pretty: bool,
) -> None:
    """Each object keeps its own text, and gets three fields more."""
    separators = (", ", " : ") if pretty else (",", ":")
    lines = [json.dumps(row, separators=separators) for row in rows]
    data = "".join(f"{line}\n" for line in lines).encode()

    folder = tmp_path_factory.mktemp("any")
    made = rewrite_bytes(folder, data, "jsonl", step=step).decode().splitlines()

    for number, (row, line, text) in enumerate(zip(rows, lines, made, strict=True)):
        (uid,), (due,), (error,) = cells(number, 1).values()
        added = {"UID": uid, "REFRESH_FROM": due, "ERROR": error}
        assert json.loads(text) == row | added
        assert text.startswith(line[:-1])


BIG = "".join(f'{n},"Zoë\n{n}"\r\n' if n % 3 else f"{n},x\r\n" for n in range(40))
OBJECTS = "".join(f'{{"a":"{n}"}}\n' for n in range(40))


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "jsonl", "jsonl.gz"])
@pytest.mark.parametrize("lost", [0, 2])
def test_going_on(tmp_path: Path, suffix: str, lost: int) -> None:
    """Wherever the process dies, the final bytes are those of an unbroken run."""
    text = f"{BOM}a,b\r\n{BIG}" if suffix.startswith("csv") else OBJECTS
    data = gzip.compress(text.encode()) if suffix.endswith("gz") else text.encode()
    source = tmp_path / f"in.{suffix}"
    source.write_bytes(data)
    rewrite(source, tmp_path / f"whole.{suffix}", step=3)
    whole = (tmp_path / f"whole.{suffix}").read_bytes()

    for steps in range(14):
        target = tmp_path / f"out{steps}.{suffix}"
        rewrite(source, target, step=3, die_after=steps, lost=lost)
        assert target.read_bytes() == whole
        (tmp_path / "part").unlink(missing_ok=True)


def test_gzip(tmp_path: Path) -> None:
    """It is read and written as the suffix says, without a name and a time."""
    made = rewrite_bytes(tmp_path, gzip.compress(b"T\n1\n"), "csv.gz")

    assert gzip.decompress(made) == (
        b'T,UID,REFRESH_FROM,ERROR\n1,,,"ServerError, HTTP 500"\n'
    )
    assert made[3:8] == bytes(5)  # no flags, no time


def test_names_tell_about_compression(tmp_path: Path) -> None:
    """Only one of both need be compressed."""
    (tmp_path / "in.csv").write_bytes(b"T\n1\n")

    rewrite(tmp_path / "in.csv", tmp_path / "out.csv.gz")

    assert gzip.decompress((tmp_path / "out.csv.gz").read_bytes()).startswith(b"T,UID")


def open_part(
    folder: Path, target: str = "out.csv", **options: Any
) -> tuple[Any, Path]:
    """Open an output with a row in it."""
    source = folder / "in.csv"
    source.write_bytes(b"T\n1\n")
    options = {"added": ADDED} | options
    reader = open_reader(source, FileFormatOptions())
    output = open_output(reader, FileFormatOptions(), folder / "part", **options)
    while (chunk := reader.take(9)) is None:
        reader.load()
    output.write(output.format(chunk, cells(1, 1)))
    reader.close()
    return output, folder / target


def test_the_output_is_private_and_appears_when_it_is_whole(tmp_path: Path) -> None:
    """Until it is finished there is a part; nobody but the owner can read either."""
    output, target = open_part(tmp_path)
    assert not target.exists()
    assert stat.S_IMODE((tmp_path / "part").stat().st_mode) == 0o600

    before = os.umask(0)
    try:
        output.sync()
        output.finish(target)
    finally:
        os.umask(before)

    assert sorted(one.name for one in tmp_path.iterdir()) == ["in.csv", "out.csv"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


def test_another_file_system(tmp_path: Path) -> None:
    """A part on another disk than the output is copied, and then renamed."""
    shared = Path("/dev/shm")  # noqa: S108 - a file system in memory
    if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("There is no second file system.")
    output, target = open_part(tmp_path)
    far = shared / f"uid2-test-{os.getpid()}.csv"
    output.sync()
    try:
        output.finish(far)
        assert far.read_bytes() == b"T,UID,REFRESH_FROM,ERROR\n1,uid1,1,\n"
        assert stat.S_IMODE(far.stat().st_mode) == 0o600
    finally:
        far.unlink(missing_ok=True)
    assert [one.name for one in tmp_path.iterdir()] == ["in.csv"]
    assert not target.exists()


def test_a_long_name(tmp_path: Path) -> None:
    """The temporary name of the longest name there can be is not too long."""
    output, _ = open_part(tmp_path)
    target = tmp_path / ("語" * 84 + ".gz")
    output.sync()
    output.finish(target)

    assert gzip.decompress(target.read_bytes()).startswith(b"T,UID")


def reopen(folder: Path, saved: int, **options: Any) -> Any:
    """Open the output again."""
    reader, part = reader_of(b"T\n"), folder / "part"
    how = {"added": ADDED, "saved": saved, **options}
    return CsvOutput(reader, FileFormatOptions(), part, **how)


def test_killed_behind_the_rename(tmp_path: Path) -> None:
    """The output is there: nothing is left to do, and no row can be added."""
    output, target = open_part(tmp_path)
    remembered = output.sync()
    output.finish(target)
    whole = target.read_bytes()

    again = reopen(tmp_path, remembered)
    with pytest.raises(JobError, match="output already exists"):
        again.write(b"x")
    again.finish(target)

    assert target.read_bytes() == whole
    target.unlink()
    with pytest.raises(JobError, match=r"out\.csv and its saved part are missing"):
        reopen(tmp_path, remembered).finish(target)


def test_a_part_that_lost_something(tmp_path: Path) -> None:
    """It is not gone on with."""
    output, _ = open_part(tmp_path)
    remembered = output.sync()
    output.close()
    (tmp_path / "part").write_bytes(b"T")

    with pytest.raises(JobError, match="shorter than what was saved"):
        reopen(tmp_path, remembered)


@pytest.mark.parametrize("name", ["out.csv", "out.csv.gz", "out.parquet"])
def test_a_part_that_another_took(tmp_path: Path, name: str) -> None:
    """Outside of a resumed job, a missing part is an error, not an earlier success."""
    options = FileFormatOptions().for_file(tmp_path / name)
    output = open_output(None, options, tmp_path / "part", added=ADDED)
    output.write(output.format(None, cells(1, 1)))
    output.sync()
    (tmp_path / name).write_text("of somebody else")
    for part in tmp_path.glob("part*"):
        part.unlink()

    with pytest.raises(JobError, match="No such file"):
        output.finish(tmp_path / name)

    assert (tmp_path / name).read_text() == "of somebody else"


@pytest.mark.parametrize("name", ["table.csv", "table.csv.gz", "table.parquet"])
def test_two_tables(tmp_path: Path, name: str) -> None:
    """A second table of that name is refused; one of a like name has its own rows."""
    target, like = (tmp_path / f"{'x' * 40}{at}{name}" for at in "12")
    columns = {"A": Content.TEXT}
    with closing(TableWriter(target, columns)) as table:
        table.write({"A": ["first"]})
        with pytest.raises(JobError, match="is being written by process"):
            TableWriter(target, columns)
        with closing(TableWriter(like, columns)) as other:
            other.write({"A": ["other"]})
            other.finish()
        table.finish()

    assert sorted(one.name for one in tmp_path.iterdir()) == [target.name, like.name]
    for path, value in ((target, "first"), (like, "other")):
        with closing(open_reader(path, FileFormatOptions())) as reader:
            reader.select([0])
            while (rows := reader.take(9)) is None:
                reader.load()
            assert list(rows.values(0)) == [value]


class Upload(Remote):
    """An output that needs some time."""

    name = "s3://bucket/table.csv"
    path = PurePath("table.csv.gz")

    def __init__(self, meanwhile: Callable[[], object]) -> None:
        """Call *meanwhile* before the file is read."""
        self.meanwhile = meanwhile
        self.rows = b""

    def deliver(self, whole: Path, *, job: str = "") -> None:
        """Keep the rows."""
        self.meanwhile()
        self.rows = gzip.decompress(whole.read_bytes())


def test_two_uploads(tmp_path: Path) -> None:
    """The file of an upload is kept until it has ended; a second one is refused."""

    def again() -> None:
        with pytest.raises(JobError, match="is being written by process"):
            TableWriter(upload, {"A": Content.TEXT}, folder=tmp_path)

    upload = Upload(again)
    table = TableWriter(upload, {"A": Content.TEXT}, folder=tmp_path)
    table.write({"A": ["first"]})
    table.finish()

    assert upload.rows == b"A\nfirst\n"
    assert not list(tmp_path.iterdir())


def fail(number: int) -> Callable[..., Any]:
    """Make a system call that fails."""

    def call(*_: object) -> Any:
        raise OSError(number, os.strerror(number))

    return call


def test_a_full_disk(tmp_path: Path) -> None:
    """What was saved stays, and another run goes on from it."""
    output, target = open_part(tmp_path)
    remembered = output.sync()
    output.close()
    full = reopen(tmp_path, remembered, disk=Disk(write=fail(28)))
    with pytest.raises(JobError, match="No space left"):
        full.write(b"2,uid2,2,\n")
    assert full.sync() == remembered
    full.close()

    again = reopen(tmp_path, remembered)
    again.write(b"2,uid2,2,\n")
    again.sync()
    again.finish(target)

    assert target.read_bytes().splitlines()[1:] == [b"1,uid1,1,", b"2,uid2,2,"]


@pytest.mark.parametrize("suffix", ["csv", "csv.gz"])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_fails_at_the_end(tmp_path: Path, suffix: str, call: str) -> None:
    """Nothing has the final name then; the part is kept for another run."""
    output, target = open_part(tmp_path, f"out.{suffix}", disk=Disk(**{call: fail(5)}))

    with pytest.raises(JobError, match="Input/output error"):
        output.finish(target)

    assert sorted(one.name for one in tmp_path.iterdir()) == ["in.csv", "part"]


@pytest.fixture
def small_files() -> Any:
    """Let no file grow over a KiB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_024, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_is_full_while_compressing(
    tmp_path: Path, small_files: None
) -> None:
    """The unfinished copy is taken away, and the part is kept."""
    output, target = open_part(tmp_path, "out.csv.gz")
    output.write(os.urandom(900))  # which does not get smaller
    output.sync()
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (512, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    )

    with pytest.raises(JobError, match=r"out\.csv\.gz cannot be written: File"):
        output.finish(target)

    assert sorted(one.name for one in tmp_path.iterdir()) == ["in.csv", "part"]


def test_stdin_and_stdout_are_opened_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are read and written through buffers of ours, and stay open."""
    (tmp_path / "in.csv").write_bytes("T\nZoë\n".encode())
    with (
        (tmp_path / "in.csv").open() as stdin,
        (tmp_path / "out.csv").open("w", encoding="ascii") as stdout,
    ):
        monkeypatch.setattr("sys.stdin", stdin)
        monkeypatch.setattr("sys.stdout", stdout)
        reader = open_reader(None, FileFormatOptions())
        output = open_output(reader, FileFormatOptions(), None, added=ADDED)
        assert (tmp_path / "out.csv").read_bytes() == b"T,UID,REFRESH_FROM,ERROR\n"
        while (chunk := reader.take(9)) is None:
            reader.load()
        output.write(output.format(chunk, cells(1, 1)))
        output.finish(None)
        reader.close()
        assert not stdin.closed
        assert not stdout.closed

    assert (tmp_path / "out.csv").read_bytes() == (
        "T,UID,REFRESH_FROM,ERROR\nZoë,uid1,1,\n".encode()
    )


def test_a_pipe_that_is_being_read(tmp_path: Path) -> None:
    """Closing it would wait for whoever writes to it; else it is closed."""
    os.mkfifo(tmp_path / "in.csv")
    keep = os.open(tmp_path / "in.csv", os.O_RDWR)
    os.write(keep, b"T\n1\n")
    stream = (tmp_path / "in.csv").open("rb")
    reader = CsvReader(stream, FileFormatOptions(), name="pipe")
    reading = threading.Thread(target=reader.load)
    reading.start()
    while not reader._is_reading:
        pass

    reader.close()
    assert not stream.closed
    os.write(keep, b"2\n")
    reading.join()
    reader.close()

    assert stream.closed
    os.close(keep)


def test_a_disk_that_cannot_be_read() -> None:
    """It is reported, and is not an error of ours."""

    class Broken(io.BytesIO):
        """A stream on a broken disk."""

        def read1(self, _: int | None = -1, /) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(InputError, match="x cannot be read: Input/output error"):
        CsvReader(Broken(), FileFormatOptions(), name="x")
