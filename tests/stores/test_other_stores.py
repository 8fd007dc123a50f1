"""Google's and Azure's stores do what S3 does; tested with emulators of their servers.

That of Azure is Azurite, from npm: without ``azurite-blob`` on PATH it is skipped.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Azurite's own: public, and good for nothing else.
AZURITE_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/"
    "KBHBeksoGMGw=="
)


@contextlib.contextmanager
def serving(*line: str, port: int) -> Iterator[None]:
    """Run a server until it is no longer needed."""
    with subprocess.Popen(  # noqa: S603 - one of those below
        line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            for _ in range(600):
                with contextlib.suppress(OSError):
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                time.sleep(0.05)
            else:
                raise AssertionError(f"{line[0]} does not start")
            yield
        finally:
            process.kill()


@pytest.fixture
def port() -> int:
    """Find a free port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        found: int = free.getsockname()[1]
    return found


@pytest.fixture
def google(port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Run an emulator with a bucket, and let the environment name it."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    # It asks for the kind of the bucket by gRPC, which the emulator does not speak.
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    gcsfs = pytest.importorskip("gcsfs")
    pytest.importorskip("gcp_storage_emulator")
    line = [sys.executable, "-m", "gcp_storage_emulator", "start", "--in-memory"]
    line += ["--host=127.0.0.1", f"--port={port}", "--default-bucket=people"]
    with serving(*line, port=port):
        yield gcsfs.GCSFileSystem(
            token="anon",
            endpoint_url=os.environ["STORAGE_EMULATOR_HOST"],
            skip_instance_cache=True,
            use_listings_cache=False,
        )


@pytest.fixture
def azure(
    port: int, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    """Run an emulator with a container, and let the environment name it."""
    adlfs = pytest.importorskip("adlfs")
    program = shutil.which("azurite-blob")
    if program is None:
        pytest.skip("azurite-blob is not on PATH: npm install --global azurite")
    account = "devstoreaccount1"
    text = f"DefaultEndpointsProtocol=http;AccountName={account};"
    text += f"AccountKey={AZURITE_KEY};"
    text += f"BlobEndpoint=http://127.0.0.1:{port}/{account};"
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
    line = [program, "--silent", "--skipApiVersionCheck", "--blobPort", str(port)]
    line += ["--location", str(tmp_path_factory.mktemp("azurite"))]
    with serving(*line, port=port):
        store = adlfs.AzureBlobFileSystem(
            connection_string=text, skip_instance_cache=True, use_listings_cache=False
        )
        store.mkdir("people")
        yield store


@pytest.mark.parametrize(("kind", "scheme"), [("google", "gs"), ("azure", "az")])
def test_a_store_is_read_and_written(
    kind: str,
    scheme: str,
    request: pytest.FixtureRequest,
    command: Callable[..., subprocess.Popen[str]],
    people: bytes,
    tmp_path: Path,
) -> None:
    """One object or many, whole or absent, never replaced; what is missing is named."""
    store = request.getfixturevalue(kind)
    store.pipe_file("people/in/people.csv", people)
    source = f"{scheme}://people/in/people.csv"
    target = f"{scheme}://people/out/people.parquet"
    missing = f"{scheme}://none/people.csv"

    def run(*ends: str) -> tuple[int, str]:
        process = command("map", *ends, "--column", "mail", "--type", "email", "-q")
        _, errors = process.communicate(timeout=100)
        return process.returncode, errors

    assert run(source, target) == (0, "")
    assert run(f"{scheme}://people/in/*.csv", f"{scheme}://people/all") == (0, "")
    for ends, message in (
        ((source, target), "already exists"),
        ((source, missing), f"The bucket {scheme}://none does not exist"),
        ((missing, "out.csv"), "does not exist"),
        ((f"{source}2", "out.csv"), f"{source}2 does not exist"),
    ):
        code, errors = run(*ends)
        assert code == 2
        assert message in errors

    assert store.find("people") == [
        "people/all/people.csv",
        "people/in/people.csv",
        "people/out/people.parquet",
    ]
    whole = tmp_path / "whole.parquet"
    store.get_file("people/out/people.parquet", str(whole))
    table = importlib.import_module("pyarrow.parquet").read_table(whole)
    assert table.column("id").to_pylist() == [str(n) for n in range(300)]
    assert sum(table.column("UID").is_valid().to_pylist()) == 270
    assert [one.name for one in tmp_path.iterdir()] == [whole.name]
