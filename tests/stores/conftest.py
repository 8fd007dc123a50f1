"""A server that speaks S3's protocol, on loopback, and an operator.

``nox -s stores`` installs what is needed.
"""

from __future__ import annotations

import importlib
import os
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from uid2_async.operator import LocalOperator

PEOPLE = 300


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
    """Return a CSV file, one in ten of whose rows has no e-mail address."""
    lines = [
        f"{n},{'nobody' if n % 10 == 9 else f'person{n}@example.com'}\n"
        for n in range(PEOPLE)
    ]
    return b"id,mail\n" + "".join(lines).encode()
