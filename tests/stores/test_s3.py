"""Jobs from and to S3: outputs are whole or absent, and nothing is asked twice."""

from __future__ import annotations

import asyncio
import io
import os
import random
import time
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import attrs
import pytest

from uid2_async import UID2Client
from uid2_async.bulk import MapOptions, map_file, refresh_state
from uid2_async.bulk.estimate import estimate_file
from uid2_async.errors import InputError, JobError, UID2Error
from uid2_async.operator import LocalOperator

OPTIONS = MapOptions(column="mail", type="email")
SECRET = "canary-secret-access-key"
COLUMNS = ("id", "mail", "UID", "PREV_UID", "REFRESH_FROM", "UNMAPPED", "ERROR")

pytestmark = pytest.mark.usefixtures("aws")


@pytest.fixture
def run(
    operator: LocalOperator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """Run a job in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(source: str, target: str, **more: Any) -> Any:
        async def job() -> Any:
            given = {"on_progress", "stop", "state", "delta"} & more.keys()
            settings = {name: more.pop(name) for name in given}
            options = attrs.evolve(OPTIONS, **more)
            async with UID2Client.from_env(max_batch_size=50) as client:
                return await map_file(
                    source, target, client=client, options=options, **settings
                )

        return asyncio.run(job())

    return run


def read_parquet(data: bytes) -> dict[str, list[Any]]:
    """Return the columns of a Parquet file."""
    parquet = pytest.importorskip("pyarrow.parquet")
    found: dict[str, list[Any]] = parquet.read_table(io.BytesIO(data)).to_pydict()
    return found


def left_in(folder: Path) -> list[str]:
    """List what a job has left in a folder."""
    return sorted(str(one.relative_to(folder)) for one in folder.rglob("*"))


def test_csv_to_parquet(bucket: Any, people: bytes, run: Any, tmp_path: Path) -> None:
    """Formats convert by name; the result is that of local files; nothing is left."""
    bucket.put("in/people.csv", people)

    summary = run(bucket.url("in/people.csv"), bucket.url("out/people.parquet"))

    assert summary.outputs == (bucket.url("out/people.parquet"),)
    assert left_in(tmp_path) == []
    assert bucket.listed() == ["in/people.csv", "out/people.parquet"]
    Path("people.csv").write_bytes(people)
    run("people.csv", "local.parquet")
    columns = read_parquet(bucket.get("out/people.parquet"))
    assert tuple(columns) == COLUMNS
    assert columns == read_parquet(Path("local.parquet").read_bytes())
    assert summary.mapped == 270
    assert summary.invalid == 30


@pytest.mark.parametrize(
    ("pattern", "is_local"),
    [("day=*/part-*.csv", False), ("", True), ("**/*.csv", True)],
)
def test_patterns(
    bucket: Any, people: bytes, run: Any, pattern: str, is_local: bool
) -> None:
    """A pattern or a folder is many inputs, whose names the outputs keep."""
    names = ["day=1/part-0.csv", "day=2/part-1.csv"]
    for name in (*names, "_SUCCESS", "day=2/.part-1.csv.crc", "_tmp/part-7.csv"):
        bucket.put(f"data/{name}", people[:200].rpartition(b"\n")[0] + b"\n")

    target = "out" if is_local else bucket.url("out/")
    summary = run(bucket.url(f"data/{pattern}"), target)

    assert summary.requests > 0
    if is_local:
        written = [n for n in left_in(Path("out")) if n.endswith(".csv")]
    else:
        written = [n[4:] for n in bucket.listed() if n.startswith("out/")]
    assert written == names


def test_from_here_and_to_here(bucket: Any, people: bytes, run: Any) -> None:
    """Either end may be on this machine; stdout is one; bad rows are kept here."""
    Path("in").mkdir()
    for name in ("a.csv", "b.csv"):
        Path("in", name).write_bytes(people)
    run("in", bucket.url("all"))
    run("in/a.csv", bucket.url("one.jsonl.gz"))
    bucket.put("none.csv", b"id,mail\n")
    run(bucket.url("none.csv"), "none.csv")

    assert bucket.listed() == ["all/a.csv", "all/b.csv", "none.csv", "one.jsonl.gz"]
    assert bucket.get("one.jsonl.gz")[:2] == b"\x1f\x8b"
    assert Path("none.csv").read_text().startswith("id,mail,UID")
    assert estimate_file(bucket.url("one.jsonl.gz"), options=OPTIONS).rows == 300


def test_an_object_that_exists(bucket: Any, people: bytes, run: Any) -> None:
    """It is replaced with --force only."""
    bucket.put("in.csv", people)
    bucket.put("out.csv", b"precious")
    with pytest.raises(InputError, match="already exists") as caught:
        run(bucket.url("in.csv"), bucket.url("out.csv"))
    assert "`force=True`" in caught.value.hint
    assert bucket.get("out.csv") == b"precious"

    run(bucket.url("in.csv"), bucket.url("out.csv"), force=True)

    assert bucket.get("out.csv").startswith(b"id,mail,UID")


def test_one_object_has_one_role(bucket: Any, people: bytes, run: Any) -> None:
    """IN is not OUT, and a state is on this machine."""
    bucket.put("in.csv", people)
    with pytest.raises(InputError, match="are the same file"):
        run(bucket.url("in.csv"), bucket.url("in.csv"), force=True)
    for more in (
        {"state": bucket.url("s.db")},
        {"job_dir": "s3://b/j"},
    ):
        with pytest.raises(InputError, match="must be on this machine"):
            run(bucket.url("in.csv"), bucket.url("out.csv"), **more)


@pytest.mark.parametrize("name", ["a/../../x.csv", "a//x.csv", "./x.csv"])
def test_names_that_leave_the_folder(
    bucket: Any, people: bytes, run: Any, tmp_path: Path, name: str
) -> None:
    """The name of an object never leads out of the folder of outputs."""
    bucket.put(f"in/{name}", people)
    Path("deep").mkdir()
    with pytest.raises(UID2Error):
        run(bucket.url("in/**"), "deep/out")
    assert not (tmp_path / "x.csv").exists()
    assert not Path("deep/x.csv").exists()


FEW = b"id,mail\n1,a@example.com\n"


def mapped_in(bucket: Any, folder: str) -> list[str]:
    """List the names of the objects in a folder."""
    length = len(folder) + 1
    return [key[length:] for key in bucket.listed() if key.startswith(f"{folder}/")]


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("in/", ["a.csv", "a.csv/b.csv", "c/d.csv"]),
        ("in", ["a.csv", "a.csv/b.csv", "c/d.csv"]),
        ("in/*.csv", ["a.csv"]),
        ("in/*/*.csv", ["a.csv/b.csv", "c/d.csv"]),
        ("in/**/*.csv", ["a.csv", "a.csv/b.csv", "c/d.csv"]),
        ("in/c/**", ["d.csv"]),
    ],
)
def test_every_object_is_found(
    bucket: Any, run: Any, source: str, names: list[str]
) -> None:
    """Also one whose key is a folder, too; objects that stand for folders are not."""
    for key in ("a.csv", "a.csv/b.csv", "c/d.csv"):
        bucket.put(f"in/{key}", FEW)
    for key in ("", "c/", "empty/", "c_$folder$"):
        bucket.put(f"in/{key}", b"")

    run(bucket.url(source), bucket.url("out"))

    assert mapped_in(bucket, "out") == names


def test_a_key_that_is_a_folder_too(
    bucket: Any, run: Any, operator: LocalOperator
) -> None:
    """On a disk, it cannot be both; nothing is paid for."""
    for key in ("a.csv", "a.csv/b.csv"):
        bucket.put(f"in/{key}", FEW)
    with pytest.raises(InputError, match="have the same name"):
        run(bucket.url("in"), "out")
    assert not operator.calls


def test_a_folder_that_looks_like_a_pattern(bucket: Any, run: Any) -> None:
    """It is the folder, as a local one is; otherwise, it is a pattern."""
    for key in ("dir[1]/a.csv", "dir[1]/sub/b.csv", "dir1/c.csv"):
        bucket.put(key, FEW)

    run(bucket.url("dir[1]"), bucket.url("out"))
    run(bucket.url("dir[1]/"), bucket.url("again"))
    run(bucket.url("dir[12]/*.csv"), bucket.url("pattern"))

    assert mapped_in(bucket, "out") == ["a.csv", "sub/b.csv"]
    assert mapped_in(bucket, "again") == ["a.csv", "sub/b.csv"]
    assert mapped_in(bucket, "pattern") == ["dir1/c.csv"]


def test_a_folder_that_cannot_be_listed(bucket: Any, run: Any, store: Any) -> None:
    """A failure in the middle of a pattern is an error; its objects are not skipped."""
    for key in ("in/a/a.csv", "in/b/b.csv"):
        bucket.put(key, FEW)
    lists: list[str] = []

    def fail(method: str, path: str) -> Any:
        if method == "GET" and path.strip("/") == bucket.name:
            lists.append(path)
            # Those of the pattern itself, in, in/a, and in/b.
            return (403, "AccessDenied") if len(lists) == 4 else None
        return None

    store.fault = fail
    with pytest.raises(InputError, match="denied"):
        run(bucket.url("in/*/*.csv"), bucket.url("out"))


def test_outputs_in_the_folder_of_inputs(bucket: Any, run: Any) -> None:
    """They are not inputs of the next job, as on a disk."""
    bucket.put("in/a.csv", FEW)
    for _ in range(2):
        run(bucket.url("in/"), bucket.url("in/out"), force=True)
    assert bucket.listed() == ["in/a.csv", "in/out/a.csv"]


def test_an_object_that_appears(bucket: Any, people: bytes, run: Any) -> None:
    """What another program wrote to OUT in the meantime is not replaced unseen."""
    bucket.put("in.csv", people)

    def write(_: Any) -> None:
        bucket.put("out.csv", b"precious")

    ends = (bucket.url("in.csv"), bucket.url("out.csv"))
    with pytest.raises(JobError, match="another program") as caught:
        run(*ends, on_progress=write)
    assert "replaces it" in caught.value.hint
    assert bucket.get("out.csv") == b"precious"

    run(*ends)

    assert bucket.get("out.csv").startswith(b"id,mail,UID")


# --- resume ---------------------------------------------------------------------------


def many(people: bytes) -> bytes:
    """Repeat each person, so that a job has several parts and can be interrupted."""
    header, rows = people.split(b"\n", 1)
    return header + b"\n" + rows * 40


def interrupt(run: Any, source: str, target: str, **more: Any) -> Any:
    """Run a job that ends in order after its first rows."""

    async def stopped() -> asyncio.Event:
        return asyncio.Event()

    stop = asyncio.run(stopped())

    def tell(progress: Any) -> None:
        if progress.rows:
            stop.set()

    slow = {"concurrency": 1, "batch_size": 5, **more}
    return run(source, target, stop=stop, on_progress=tell, **slow)


def test_an_object_that_is_written_again(bucket: Any, people: bytes, run: Any) -> None:
    """The same content is the same input: nobody could restore its time."""
    bucket.put("in.csv", many(people))
    ends = (bucket.url("in.csv"), bucket.url("out.csv"))
    assert not interrupt(run, *ends).complete
    head = partial(bucket.client.head_object, Bucket=bucket.name, Key="in.csv")
    before = head()
    while head()["LastModified"] == before["LastModified"]:  # in whole seconds
        bucket.put("in.csv", many(people))
    assert head()["ETag"] == before["ETag"]

    assert run(*ends).resumed_rows


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_resume(bucket: Any, people: bytes, run: Any, store: Any, kind: str) -> None:
    """An interrupted job resumes from its copy of the input."""
    bucket.put("in.csv", many(people))
    ends = (bucket.url("in.csv"), bucket.url(f"out.{kind}"))
    downloads: list[str] = []

    def note(method: str, path: str) -> None:
        if method == "GET" and path.endswith("in.csv"):
            downloads.append(path)

    store.fault = note
    assert not interrupt(run, *ends).complete
    assert bucket.listed() == ["in.csv"]

    summary = run(*ends)

    assert summary.complete
    assert summary.resumed_rows > 0
    assert summary.rows == 12_000
    assert len(downloads) == 1
    assert bucket.listed() == ["in.csv", f"out.{kind}"]


@pytest.mark.parametrize("moment", ["between", "fetching", "mapping"])
def test_an_input_that_changes(
    bucket: Any, people: bytes, run: Any, store: Any, moment: str
) -> None:
    """It is refused by name, whenever it changes; --restart maps what is there now."""
    people = many(people)
    bucket.put("in.csv", people)
    ends = (bucket.url("in.csv"), bucket.url("out.csv"))
    changed = people.replace(b"person1@", b"someone@")

    if moment == "between":
        assert not interrupt(run, *ends).complete
        bucket.put("in.csv", changed)
        with pytest.raises(JobError, match=r"in\.csv has changed since"):
            run(*ends)
    elif moment == "fetching":
        todo = [changed]

        def change(method: str, path: str) -> None:
            if method == "GET" and path.endswith("in.csv") and todo:
                bucket.put("in.csv", todo.pop())

        store.fault = change
        with pytest.raises(InputError, match=r"in\.csv was changed while"):
            run(*ends)
    else:
        with pytest.raises(InputError, match=r"in\.csv was changed while"):
            run(*ends, on_progress=lambda _: bucket.put("in.csv", changed))

    assert bucket.listed() == ["in.csv"]
    assert run(*ends, restart=True).complete
    assert b"someone@" in bucket.get("out.csv")


@pytest.mark.parametrize("seed", range(int(os.environ.get("UID2_KILLS", "2"))))
def test_killed_at_any_moment(
    bucket: Any, people: bytes, command: Any, tmp_path: Path, seed: int
) -> None:
    """There is no output or all of it, and the next run completes it."""
    dice = random.Random(seed)  # noqa: S311 - a moment
    bucket.put("in.csv", people)
    line = ("map", bucket.url("in.csv"), bucket.url("out.parquet"), "--column", "mail")
    line += ("--type", "email", "--batch-size", "5", "--concurrency", "2", "-q")
    process = command(*line)
    # As long as an unbroken run takes on a quiet machine, start included.
    time.sleep(1 + 2 * dice.random())
    process.kill()
    process.communicate()
    if "out.parquet" in bucket.listed():
        assert len(read_parquet(bucket.get("out.parquet"))["id"]) == 300

    process = command(*line)
    _, errors = process.communicate(timeout=100)

    assert process.returncode == 0 or "already exists" in errors, errors
    assert read_parquet(bucket.get("out.parquet"))["id"] == [str(n) for n in range(300)]
    assert left_in(tmp_path) == []


def test_partial_uploads(bucket: Any, people: bytes, run: Any) -> None:
    """What a killed run has uploaded of OUT is discarded; other uploads are not."""
    for key in ("out.csv", "out.csv2"):
        upload = bucket.client.create_multipart_upload(Bucket=bucket.name, Key=key)
        bucket.client.upload_part(
            Bucket=bucket.name,
            Key=key,
            UploadId=upload["UploadId"],
            PartNumber=1,
            Body=b"half",
        )
    bucket.put("in.csv", people)

    run(bucket.url("in.csv"), bucket.url("out.csv"))

    assert bucket.uploads() == ["out.csv2"]
    assert bucket.get("out.csv").count(b"\n") == 301


# --- faults ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "fault", "words"),
    [
        ("in.csv", (403, "InvalidAccessKeyId"), "denied AWS_ACCESS_KEY_ID"),
        ("in.csv", (503, "SlowDown"), "throttling resumes"),
        ("in.csv", (500, "InternalError"), "could not be used resumes"),
        ("in.csv", (400, "ExpiredToken"), "could not be used AWS_ACCESS_KEY_ID"),
        ("out.csv", (403, "SignatureDoesNotMatch"), "denied AWS_SECRET_ACCESS_KEY"),
        ("out.csv", (503, "SlowDown"), "throttling resumes"),
        ("out.csv", "refuse", "cannot be reached resumes"),
    ],
)
def test_a_fault_that_stays(  # noqa: PLR0913, PLR0917 - fixtures
    bucket: Any,
    people: bytes,
    run: Any,
    store: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    where: str,
    fault: Any,
    words: str,
) -> None:
    """It says what failed, why, and what to do; never a credential; nothing is half."""
    # botocore's own retries would take minutes.
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    bucket.put("in.csv", people)
    store.fault = lambda _, path: fault if path.endswith(where) else None

    with pytest.raises(InputError if "denied" in words else JobError) as caught:
        run(bucket.url("in.csv"), bucket.url("out.csv"))

    text = f"{caught.value} {caught.value.hint}"
    assert all(word in text for word in words.split()), text
    assert where in text
    assert SECRET not in text + caplog.text
    assert "AKIA" not in text + caplog.text
    store.fault = lambda *_: None
    assert bucket.listed() == ["in.csv"]


@pytest.mark.parametrize(
    ("where", "fault"),
    [
        ("GET", "cut"),
        ("GET", (503, "SlowDown")),
        ("PUT", (503, "SlowDown")),
        ("PUT", "refuse"),
    ],
)
def test_an_outage_that_passes(
    bucket: Any, people: bytes, run: Any, store: Any, where: str, fault: Any
) -> None:
    """A few failures in the middle are not noticed."""
    bucket.put("in.csv", people)
    left = [fault, fault]

    def fail(method: str, path: str) -> Any:
        hit = method == where and path.endswith(".csv") and left
        return left.pop() if hit else None

    store.fault = fail

    assert run(bucket.url("in.csv"), bucket.url("out.csv")).complete
    assert not left
    assert bucket.get("out.csv").count(b"\n") == 301


def test_an_outage_at_the_end(
    bucket: Any,
    people: bytes,
    run: Any,
    store: Any,
    operator: LocalOperator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was mapped is kept: the next run has to upload only."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    bucket.put("in.csv", people)
    store.fault = lambda method, _: "refuse" if method == "PUT" else None
    with pytest.raises(JobError, match="cannot be reached"):
        run(bucket.url("in.csv"), bucket.url("out.csv"))
    asked = len(operator.calls)
    store.fault = lambda *_: None

    assert run(bucket.url("in.csv"), bucket.url("out.csv")).resumed_rows == 300
    assert len(operator.calls) == asked
    assert bucket.get("out.csv").count(b"\n") == 301


def test_what_does_not_exist(bucket: Any, people: bytes, run: Any) -> None:
    """A missing bucket is distinguished from a missing object, in IN and in OUT."""
    bucket.put("in.csv", people)
    cases = {
        (bucket.url("none.csv"), "x.csv"): "none.csv does not exist",
        ("s3://no-such-bucket/in.csv", "x.csv"): "bucket s3://no-such-bucket does not",
        ("s3://no-such-bucket/*.csv", "x"): "bucket s3://no-such-bucket does not",
        (bucket.url("*.parquet"), "x"): "No files were found in",
        (bucket.url("in.csv"), "s3://no-such-bucket/x.csv"): "bucket s3://no-such-buck",
        (bucket.url("in.csv"), f"s3://{bucket.name}"): "is a bucket or a folder",
        (bucket.url("in.csv"), "https://127.0.0.1/x.csv"): "is for inputs only",
    }
    for ends, message in cases.items():
        with pytest.raises(InputError, match=message):
            run(*ends)


def test_a_bucket_without_access(bucket: Any, run: Any, store: Any) -> None:
    """It is not called missing."""
    store.fault = lambda _, path: (
        (403, "AccessDenied") if path.strip("/") == bucket.name else None
    )
    for source in ("in.csv", "in/", "*.csv", "in/*/*.csv"):
        with pytest.raises(InputError, match="is denied"):
            run(bucket.url(source), "x")

    def deny(method: str, path: str) -> Any:
        is_bucket = path.strip("/") == bucket.name
        return (403, "AccessDenied") if is_bucket and method == "HEAD" else None

    store.fault = deny
    with pytest.raises(InputError, match=r"in\.csv does not exist"):
        run(bucket.url("in.csv"), "x.csv")


def test_no_credentials(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names where they come from."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(InputError, match="needs credentials") as caught:
        run("s3://bucket/in.csv", "x.csv")
    assert "AWS_ACCESS_KEY_ID" in caught.value.hint


# --- state ----------------------------------------------------------------------------


def test_delta_export_and_report(
    bucket: Any, people: bytes, run: Any, command: Any, tmp_path: Path
) -> None:
    """What leaves a state may go to a store, whole, and leaves nothing beside it."""
    bucket.put("in.parquet", b"")
    bucket.put("in.csv", people)
    run(
        bucket.url("in.csv"),
        bucket.url("out.csv"),
        state="people.db",
        delta=bucket.url("delta.parquet"),
    )
    assert len(read_parquet(bucket.get("delta.parquet"))["UID"]) == 270

    lines = (
        ("export", "people.db", bucket.url("all.csv")),
        ("delta", "people.db", bucket.url("since.jsonl"), "--since", "1"),
        ("report", "people.db", "--html", bucket.url("report.html")),
    )
    for line in lines:
        process = command("state", *line)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    assert bucket.get("all.csv").count(b"\n") == 271
    assert bucket.get("since.jsonl").count(b"\n") == 270
    assert bucket.get("report.html").startswith(b"<!")

    async def refresh() -> Any:
        async with UID2Client.from_env() as client:
            target = bucket.url("again.csv")
            return await refresh_state("people.db", client=client, delta=target)

    assert asyncio.run(refresh()).changes == 0
    assert bucket.get("again.csv").count(b"\n") == 1
    assert [n for n in left_in(tmp_path) if "people.db" not in n] == []


# --- URLs -----------------------------------------------------------------------------


def test_a_signed_url(bucket: Any, people: bytes, run: Any, tmp_path: Path) -> None:
    """A URL is an input; its signature is shown nowhere."""
    bucket.put("in.csv", people)
    url = bucket.client.generate_presigned_url(
        "get_object", Params={"Bucket": bucket.name, "Key": "in.csv"}
    )
    assert "Signature" in url

    assert run(url, "out.csv").rows == 300

    gone = url.replace("in.csv", "none.csv")
    with pytest.raises(InputError, match=r"none\.csv does not exist") as caught:
        run(gone, "other.csv")
    assert "Signature" not in str(caught.value)
    bucket.put("in.csv", many(people))
    assert not interrupt(run, url, "third.csv").complete
    log = Path(".third.csv.uid2-job/log").read_text()
    assert "in.csv" in log
    assert "Signature" not in log


def test_a_url_that_is_signed_again(bucket: Any, people: bytes, run: Any) -> None:
    """It is the same file, as its ETag says, so that an interrupted job resumes."""
    bucket.put("in.csv", many(people))
    first, again = (
        bucket.client.generate_presigned_url(
            "get_object",
            Params={"Bucket": bucket.name, "Key": "in.csv"},
            ExpiresIn=seconds,
        )
        for seconds in (600, 900)
    )
    assert first != again
    assert not interrupt(run, first, "out.csv").complete

    assert run(again, "out.csv").resumed_rows


class _Page(BaseHTTPRequestHandler):
    """Answers a query with a file of its own, of one size, without a version."""

    def do_HEAD(self) -> None:
        """Answer without the file."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(self._data())))
        self.end_headers()

    def do_GET(self) -> None:
        """Answer with the file."""
        self.do_HEAD()
        self.wfile.write(self._data())

    def _data(self) -> bytes:
        host = self.path[-1]
        lines = (f"{n},person{n}@{host}.example\n" for n in range(10_000, 22_000))
        return b"id,mail\n" + "".join(lines).encode()

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


def test_a_query_that_names_another_file(run: Any) -> None:
    """Without an ETag, its rows are not taken for those of an interrupted job."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Page) as server:
        Thread(target=server.serve_forever).start()
        url = f"http://127.0.0.1:{server.server_port}/people.csv?day="
        try:
            assert not interrupt(run, f"{url}1", "out.csv").complete
            with pytest.raises(JobError, match=r"people\.csv has changed"):
                run(f"{url}2", "out.csv")
            assert run(f"{url}1", "out.csv").resumed_rows
        finally:
            server.shutdown()
