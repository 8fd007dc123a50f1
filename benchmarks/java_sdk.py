"""Calls a second with 20 in flight, beside the official Java SDK in 20 threads.

Both run in one process each, against canned operators in processes of their own. Maven
downloads the SDK. Where Maven or a JDK is missing, nothing is measured. The Java
virtual machine compiles what it has run often, so it warms up for longer.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import attrs

from benchmarks.call_overhead import some_at_once
from benchmarks.canned import API_KEY, SECRET, Canned, canned_operator, cpu_of, rate
from benchmarks.canned_tokens import canned_token_operator
from benchmarks.map_throughput import BATCH, IN_FLIGHT, ours
from benchmarks.runner import Better, Effort, Measure, Table, interleave
from benchmarks.token_calls import EMAIL

HERE = Path(__file__).parent / "java"
OURS, JAVA = "uid2_async", "Java SDK, 20 threads"
WARM_UP = {"generate": 10_000, "map": 100}
TITLES = {
    "generate": "token/generate, 20 in flight",
    "map": "Maps of 5,000 emails, 20 in flight",
}


@attrs.frozen
class JavaCaller:
    """A running Java program that makes calls on demand."""

    process: subprocess.Popen[str]

    def call(self, what: str, count: int) -> None:
        """Make *count* calls."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(what, count, file=self.process.stdin, flush=True)
        assert self.process.stdout.readline() == "done\n"

    def cpu(self) -> float:
        """Return the seconds of CPU that it has used."""
        return cpu_of(self.process.pid)


@contextmanager
def java_caller(tokens: Canned, maps: Canned) -> Iterator[JavaCaller]:
    """Compile and run the Java program."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "classpath")
        subprocess.run(  # noqa: S603 - our own project
            [
                *("mvn", "-q", "-B", "-f", str(HERE / "pom.xml")),
                *("dependency:build-classpath", f"-Dmdep.outputFile={path}"),
            ],
            check=True,
        )
        classes = path.read_text(encoding="utf-8").strip()
        source = str(HERE / "Calls.java")
        places = [tokens.url, maps.url, API_KEY, SECRET]
        with subprocess.Popen(  # noqa: S603 - our own program
            ["java", "-cp", classes, source, *places],  # noqa: S607 - as above
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield JavaCaller(process)
            finally:
                process.terminate()


def run(effort: Effort) -> Iterator[Table]:
    """Measure token calls, then maps."""
    if not (shutil.which("mvn") and shutil.which("javac")):
        print("java_sdk: not measured, because Maven or a JDK is missing.")
        return
    with (
        canned_token_operator() as tokens,
        canned_operator() as maps,
        java_caller(tokens, maps) as java,
    ):
        for what, count in WARM_UP.items():
            java.call(what, count)
        for what, canned, unit in (
            ("generate", tokens, "calls/s"),
            ("map", maps, "identities/s"),
        ):
            yield Table(
                title=TITLES[what],
                unit=unit,
                better=Better.MORE,
                baseline=JAVA,
                ours=(OURS,),
                lines=interleave(
                    measures(what, canned, java, effort),
                    rounds=effort.pick(3, 5),
                ),
            )


def measures(
    what: str, canned: Canned, java: JavaCaller, effort: Effort
) -> dict[str, Measure]:
    """Make the measurements of token calls or maps."""
    if what == "generate":
        calls = effort.pick(1_000, 4_000)
        job, each = lambda: asyncio.run(generate(canned, calls)), 1
    else:
        calls = effort.pick(20, 60)
        job, each = lambda: asyncio.run(ours(canned, calls, IN_FLIGHT)), BATCH
    items = calls * each
    return {
        OURS: lambda: canned.rate(job, items),
        JAVA: lambda: rate(lambda: java.call(what, calls), items, canned.pid, java.cpu),
    }


async def generate(canned: Canned, calls: int) -> None:
    """Generate tokens, 20 at once."""
    async with canned.client() as client:
        await some_at_once(partial(client.generate_token, EMAIL), calls)
