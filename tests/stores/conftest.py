"""A server that speaks S3's protocol, PostgreSQL, and an operator, on loopback.

``nox -s stores`` installs what is needed.
"""

from __future__ import annotations

import importlib
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from uid2_async.operator import LocalOperator

PEOPLE = 300
PASSWORD = "canary-password"
TYPED = """
CREATE TABLE typed (id int PRIMARY KEY, email text, n numeric(12,3), d date,
 ts timestamptz, u uuid, j jsonb, a int[], b bytea, v varchar(20), ok bool);
INSERT INTO typed VALUES (1, 'a@example.com', 1.230, '2020-01-02',
 '2020-01-02 03:04:05+00', '6f1c0f9e-7a86-4b40-8d3c-1f2b3c4d5e6f', '{"a": 1}', '{1,2}',
 '\\x0102', 'x', true), (2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
CREATE TABLE people AS SELECT n AS id, 'person' || n || '@example.com' AS email
 FROM generate_series(0, 299) AS n
"""


def find_programs() -> Path:
    """Return the folder of the server's programs, or skip."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    path = shutil.which("initdb") or (str(found[-1]) if found else None)
    if path is None:
        pytest.skip("PostgreSQL is not installed")
    return Path(path).resolve().parent


@attrs.define
class Server:
    """A server in a temporary folder, on loopback.

    Attributes:
        folder: Where its data is.
        user: The name of the user it runs as; None for the one of the tests.
        port: Where it listens.
    """

    folder: Path
    user: str | None
    port: int
    process: subprocess.Popen[bytes] | None = None

    def program(self, name: str, *arguments: str) -> list[str]:
        """Return a command line of one of its programs."""
        return [str(find_programs() / name), *arguments]

    def settings(self) -> dict[str, Any]:
        """Return how its programs are run; initdb refuses root."""
        settings: dict[str, Any] = {"cwd": self.folder, "stderr": subprocess.DEVNULL}
        if self.user is not None:
            settings |= {"user": self.user, "extra_groups": []}
        return settings | {"stdout": subprocess.DEVNULL}

    def start(self) -> None:
        """Start it, and wait until it answers."""
        port, folder = str(self.port), str(self.folder)
        line = ("-D", f"{folder}/data", "-p", port, "-k", folder, "-h", "127.0.0.1")
        self.process = subprocess.Popen(  # noqa: S603 - PostgreSQL's own program
            self.program("postgres", *line, "-F"), **self.settings()
        )
        ready = self.program("pg_isready", "-q", "-h", "127.0.0.1", "-p", port)
        for _ in range(600):
            if subprocess.run(ready, check=False).returncode == 0:  # noqa: S603 - as above
                return
            time.sleep(0.05)
        raise AssertionError("PostgreSQL does not start")

    def stop(self) -> None:
        """Stop it at once, as a crash would."""
        assert self.process is not None
        self.process.send_signal(3)
        self.process.wait()

    def uri(self, password: str = PASSWORD) -> str:
        """Return the URI with the password in it."""
        return f"postgresql://owner:{password}@127.0.0.1:{self.port}/postgres"

    def run(self, sql: str) -> list[tuple[Any, ...]]:
        """Run statements, and return the rows of the last."""
        dbapi = pytest.importorskip("adbc_driver_postgresql.dbapi")
        rows: list[tuple[Any, ...]] = []
        with dbapi.connect(self.uri()) as connection, connection.cursor() as cursor:
            for statement in sql.split(";"):
                cursor.execute(statement)
                rows = cursor.fetchall() if cursor.description else []
            connection.commit()
        return rows


@pytest.fixture(scope="session")
def running() -> Iterator[Server]:
    """Run a server."""
    find_programs()
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    user = "postgres" if os.geteuid() == 0 else None
    if user is not None:
        owner = pwd.getpwnam(user)
        os.chown(folder, owner.pw_uid, owner.pw_gid)
    with socket.create_server(("127.0.0.1", 0)) as free:
        server = Server(folder, user, free.getsockname()[1])
    secret = folder / "password"
    secret.write_text(PASSWORD)
    secret.chmod(0o644)
    line = ("-D", f"{folder}/data", "-U", "owner", "--pwfile", str(secret))
    line += ("-A", "scram-sha-256", "--no-sync", "-E", "UTF8", "--locale=C")
    subprocess.run(server.program("initdb", *line), check=True, **server.settings())  # noqa: S603 - as above
    server.start()
    yield server
    server.stop()
    shutil.rmtree(folder)


@pytest.fixture
def server(running: Server) -> Server:
    """Give the server with new tables."""
    running.run("DROP SCHEMA public CASCADE; CREATE SCHEMA public;" + TYPED)
    return running


@attrs.frozen
class Bucket:
    """A bucket of the server, which is new.

    Attributes:
        name: Its name.
        client: botocore's client.
    """

    name: str
    client: Any

    def url(self, key: str) -> str:
        """Return the URL of an object."""
        return f"s3://{self.name}/{key}"

    def put(self, key: str, data: bytes) -> None:
        """Make an object."""
        self.client.put_object(Bucket=self.name, Key=key, Body=data)

    def get(self, key: str) -> bytes:
        """Return the content of an object."""
        found = self.client.get_object(Bucket=self.name, Key=key)["Body"]
        try:
            return bytes(found.read())
        finally:
            found.close()

    def listed(self) -> list[str]:
        """List the objects."""
        found = self.client.list_objects_v2(Bucket=self.name).get("Contents", [])
        return [one["Key"] for one in found]

    def uploads(self) -> list[str]:
        """List the objects of which a part was uploaded only."""
        found = self.client.list_multipart_uploads(Bucket=self.name)
        return [one["Key"] for one in found.get("Uploads", [])]


class Store:
    """moto's server, whose requests a test can let fail.

    Attributes:
        endpoint: Its URL.
        fault: Says for a method and a path what happens: None to answer, a code of S3
            with its status such as ``(503, "SlowDown")``, ``"refuse"`` for a lost
            connection, or ``"cut"`` for one that is lost within the answer.
    """

    def __init__(self) -> None:
        """Listen on a free port."""
        werkzeug = importlib.import_module("moto.moto_server.werkzeug_app")
        serving = importlib.import_module("werkzeug.serving")
        app = werkzeug.DomainDispatcherApplication(werkzeug.create_backend_app)
        self._app = app
        self.fault: Callable[[str, str], Any] = lambda *_: None

        class Quiet(serving.WSGIRequestHandler):  # type: ignore[misc] # untyped here
            def log(self, *_: Any) -> None:
                """Log nothing."""

        self._server = serving.make_server(
            "127.0.0.1", 0, self, threaded=True, request_handler=Quiet
        )
        self.endpoint = f"http://127.0.0.1:{self._server.port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def __call__(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        """Answer one request."""
        fault = self.fault(environ["REQUEST_METHOD"], environ["PATH_INFO"])
        if fault is None:
            found: Iterable[bytes] = self._app(environ, start)
            return found
        if isinstance(fault, tuple):
            status, code = fault
            body = f"<Error><Code>{code}</Code></Error>".encode()
            if environ["REQUEST_METHOD"] == "HEAD":
                body = b""
            headers = {"Content-Type": "application/xml", "Connection": "close"}
            headers["Content-Length"] = str(len(body))
            start(f"{status} {code}", list(headers.items()))
            return [body]
        connection = environ["werkzeug.socket"]
        if fault == "refuse":
            connection.shutdown(socket.SHUT_RDWR)
            return []
        return self._cut(environ, start, connection)

    def _cut(self, environ: Any, start: Any, connection: Any) -> Iterator[bytes]:
        """Answer by half."""
        data = b"".join(self._app(environ, start))
        yield data[: len(data) // 2]
        connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture(scope="session")
def running_store() -> Iterator[Store]:
    """Run the server."""
    pytest.importorskip("moto")
    store = Store()
    yield store
    store.close()


@pytest.fixture
def store(running_store: Store) -> Iterator[Store]:
    """Give the server without faults."""
    yield running_store
    running_store.fault = lambda *_: None


@pytest.fixture
def aws(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let the environment name the server, and nothing of the machine's own."""
    for name in [one for one in os.environ if one.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATESTTESTTESTTEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-secret-access-key")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    # What deltalake needs to speak to such a server.
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")


@pytest.fixture
def bucket(aws: None, store: Store) -> Iterator[Bucket]:
    """Make a bucket."""
    session = pytest.importorskip("botocore.session").get_session()
    client = session.create_client("s3", endpoint_url=store.endpoint)
    name = f"people-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=name)
    yield Bucket(name, client)
    client.close()


@pytest.fixture(scope="session")
def started() -> Iterator[LocalOperator]:
    """Run an operator."""
    with LocalOperator.in_thread() as running:
        yield running


@pytest.fixture
def operator(
    started: LocalOperator, monkeypatch: pytest.MonkeyPatch
) -> Iterator[LocalOperator]:
    """Let the environment name the operator, which is as new."""
    started.reset()
    key = started.credentials["everything"]
    monkeypatch.setenv("UID2_BASE_URL", started.url)
    monkeypatch.setenv("UID2_API_KEY", key.api_key)
    monkeypatch.setenv("UID2_SECRET_KEY", key.client_secret)
    yield started
    started.reset()


@pytest.fixture
def command(
    tmp_path: Path, operator: LocalOperator
) -> Callable[..., subprocess.Popen[str]]:
    """Start the command ``uid2`` in an empty folder."""

    def start(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(  # noqa: S603 - the interpreter that runs this
            [sys.executable, "-m", "uid2_async", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.fixture
def people() -> bytes:
    """Return a CSV file, one in ten of whose rows has no email address."""
    lines = [
        f"{n},{'nobody' if n % 10 == 9 else f'person{n}@example.com'}\n"
        for n in range(PEOPLE)
    ]
    return b"id,mail\n" + "".join(lines).encode()
