"""Switch off each guard of the library in turn: a row of the fault matrix must fail.

Works on a copy of the sources; ``nox -s guards`` runs it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
NEEDED = ("pyproject.toml", "uid2_async", "tests/conftest.py")
NEEDED += ("tests/doubles", "tests/faults")


class Guard(NamedTuple):
    """A guard, and what it is without it.

    Attributes:
        name: What it guards against.
        path: Where it stands.
        on: The text that is the guard; it must be there once.
        off: The text without it.
        row: The row of the matrix that must fail then.
    """

    name: str
    path: str
    on: str
    off: str
    row: str


GUARDS = [
    Guard(
        "the nonce of a reply is compared",
        "protocol/envelope.py",
        "if not compare_digest(found, nonce):",
        "if False:",
        "C6",
    ),
    Guard(
        "the time of a reply must be plausible",
        "_call.py",
        "abs(server_ms - now_ms) > _PLAUSIBLE_MS",
        "False",
        "C8",
    ),
    Guard(
        "no reply in the clear is taken",
        "_call.py",
        'if call.reply_key == b"":',
        'if call.reply_key == b"" or body[:1] == b"{":',
        "C9",
    ),
    Guard(
        "an old refresh reply is no news",
        "protocol/tokens.py",
        "if ms_from_datetime(result.identity_expires) <= now_ms():",
        "if False:",
        "C10",
    ),
    Guard(
        "no IV is used twice",
        "_call.py",
        "random_bytes: Callable[[int], bytes] = os.urandom",
        "random_bytes: Callable[[int], bytes] = bytes",
        "N7",
    ),
    Guard(
        "an envelope is sealed after all waiting",
        "_call.py",
        "        connection = await self._connection_limit.acquire(run.deadline)\n"
        "        try:\n            sent = self._skew.read()\n",
        "        sent = self._skew.read()\n"
        "        connection = await self._connection_limit.acquire(run.deadline)\n"
        "        try:\n",
        "D8",
    ),
    Guard(
        "concurrent attempts are limited",
        "connections.py",
        "asyncio.Semaphore(self._size)",
        "asyncio.Semaphore(10_000)",
        "N18",
    ),
    Guard(
        "a stale connection is replaced by a fresh one",
        "transport.py",
        "self._session(fresh=request.fresh_connection)",
        "self._session(fresh=False)",
        "N10",
    ),
    Guard(
        "a stale connection costs no budget",
        "retry.py",
        "retry=True, backoff=Backoff.NONE, once=True, free=True, fresh_connection=True",
        "retry=True, backoff=Backoff.NONE, once=True, fresh_connection=True",
        "N9",
    ),
    Guard(
        "retries are paid for",
        "retry.py",
        "        self.level -= cost\n",
        "",
        "N1",
    ),
    Guard(
        "a certificate is never tried again",
        "retry.py",
        "        case CertificateError():\n            return _NO\n",
        "        case CertificateError():\n            return _TRANSIENT\n",
        "T1",
    ),
    Guard(
        "a context must check host names",
        "tls.py",
        " or not context.check_hostname",
        "",
        "T11",
    ),
    Guard(
        "certificates are verified",
        "transport.py",
        "ssl=self._ssl or True,\n",
        "ssl=False,\n",
        "T2",
    ),
    Guard(
        "no redirect is followed",
        "transport.py",
        "allow_redirects=False",
        "allow_redirects=True",
        "H14",
    ),
    Guard(
        "no cookie is kept",
        "transport.py",
        "aiohttp.DummyCookieJar()",
        "aiohttp.CookieJar(unsafe=True)",
        "H24",
    ),
    Guard(
        "nothing is decompressed",
        "transport.py",
        'one.strip().lower() in ("identity", "") for one in encodings',
        "True for one in encodings",
        "H21",
    ),
    Guard(
        "a reply has a cap while it streams",
        "transport.py",
        "        if size > limit:\n            return False\n",
        "",
        "H22",
    ),
    Guard(
        "Retry-After is digits or a date",
        "protocol/wire.py",
        'r"[0-9]{1,6}"',
        'r"[-+0-9.]{1,6}"',
        "H9",
    ),
    Guard(
        "nobody waits for a day",
        "retry.py",
        "MAX_RETRY_AFTER_SECONDS: Final = 20.0",
        "MAX_RETRY_AFTER_SECONDS: Final = 1e9",
        "H8",
    ),
    Guard(
        "a message that repeats a secret is not shown",
        "protocol/wire.py",
        "secret[start : start + _ECHO_CHARS] in text for start in starts",
        "False for start in starts",
        "H10",
    ),
    Guard(
        "rows are counted",
        "protocol/mapping.py",
        "if len(found) != len(sent):",
        "if False:",
        "P3",
    ),
    Guard(
        "a refused time is corrected",
        "retry.py",
        "        case ClockSkewError(corrected=True):\n            return _CORRECTED\n",
        "",
        "D1",
    ),
    Guard(
        "a time is corrected once in a call",
        "_call.py",
        "self.time_retried = True",
        "self.time_retried = False",
        "D5",
    ),
    Guard(
        "errors leave without frames",
        "_traceback.py",
        "    error.__traceback__ = part\n",
        "",
        "N2",
    ),
    Guard(
        "plain functions end their tracebacks",
        "_traceback.py",
        "    failure = strip(failure, function, {positional}, {named})\n    {forget}\n",
        "",
        "L1",
    ),
    Guard(
        "what a foreign error repeats is dropped",
        "_traceback.py",
        "        if not _is_raised_by_us(trace):\n",
        "        if False:\n",
        "L2",
    ),
    Guard(
        "an argument of a wrong type is named",
        "_traceback.py",
        "    if mismatch is not None:\n",
        "    if False:\n",
        "L3",
    ),
    Guard(
        "text from outside is escaped",
        "errors.py",
        '        message = printable(f"{message}")\n',
        '        message = f"{message}"\n',
        "L4",
    ),
    Guard(
        "people are shown on a terminal only",
        "cli/job_report.py",
        "if not console.file.isatty():",
        "if False:",
        "L5",
    ),
    Guard(
        "no line of the log is forged",
        "_private.py",
        "    if shown != message:\n",
        "    if False:\n",
        "L6",
    ),
    Guard(
        "foreign errors are detached",
        "transport.py",
        "mapped = map_error(error)",
        "raise map_error(error) from error",
        "L8",
    ),
    Guard(
        "no frames are seen between attempts",
        "_call.py",
        "failure = error.with_traceback(None)",
        "failure = error",
        "L7",
    ),
    Guard(
        "a fork is detected",
        "transport.py",
        "        if self._pid != os.getpid():\n",
        "        if False:\n",
        "X7",
    ),
    Guard(
        "a second loop is detected",
        "transport.py",
        "or first.is_closed():",
        "or first is not None:",
        "X6",
    ),
    Guard(
        "another job is not gone on with",
        "bulk/resume.py",
        '    if changed:\n        raise JobError(\n            f"The unfinished job',
        '    if False:\n        raise JobError(\n            f"The unfinished job',
        "F9",
    ),
    Guard(
        "a refusal is one whatever becomes of its body",
        "transport.py",
        "    with suppress(Exception):\n",
        "    with suppress():\n",
        "B3",
    ),
    Guard(
        "silence ends an attempt",
        "connections.py",
        "            self._on_read_timeout()\n",
        "            pass\n",
        "N11",
    ),
    Guard(
        "an attempt has a time limit",
        "connections.py",
        "            limit.expire()\n",
        "",
        "N13",
    ),
    Guard(
        "the head of a refusal is read before its body",
        "connections.py",
        'if data[8:12] == b" 200" or',
        "if True or",
        "B1",
    ),
    Guard(
        "a session is not let raise for a status",
        "transport.py",
        "                    raise_for_status=False,\n                    auto",
        "                    auto",
        "B3",
    ),
    Guard(
        "the connection of a refusal serves nobody else",
        "transport.py",
        "    drop_connection(response)\n    until",
        "    until",
        "B1",
    ),
    Guard(
        "every foreign exception is mapped",
        "transport.py",
        "except Exception as error:",
        "except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:",
        "N21",
    ),
    Guard(
        "a reused connection ends no call",
        "retry.py",
        "            return error.reused_connection\n",
        "            return False\n",
        "B8",
    ),
    Guard(
        "nobody is asked for a third time",
        "_call.py",
        "error.reused_connection and not self.fresh_connection",
        "True",
        "B12",
    ),
    Guard(
        "a given session has a fresh connection too",
        "connections.py",
        "                protocol.close()\n",
        "                pass\n",
        "B10",
    ),
    Guard(
        "what is not sealed comes over a fresh connection",
        "_call.py",
        'run.fresh_connection or call.reply_key == b""',
        "run.fresh_connection",
        "B14",
    ),
    Guard(
        "a given session verifies",
        "tls.py",
        "if verifies is False:",
        "if False:",
        "T12",
    ),
    Guard(
        "a context allows no old TLS",
        "tls.py",
        "return minimum < ssl.TLSVersion.TLSv1_2",
        "return False",
        "T11",
    ),
    Guard(
        "a refused certificate is explained",
        "tls.py",
        "_FAULTS.get(code, CertificateFault.OTHER)",
        "CertificateFault.OTHER",
        "T13",
    ),
    Guard(
        "what holds secrets is not pickled",
        "_private.py",
        "        raise TypeError(\n",
        "        return object.__reduce_ex__(self, 2)\n        raise TypeError(\n",
        "C13",
    ),
    Guard(
        "durations are not measured by the wall clock",
        "clock.py",
        'return monotonic or getattr(chosen, "monotonic", None) or MonotonicClock()',
        "return lambda: ns_clock(chosen)() / 1e9",
        "D11",
    ),
    Guard(
        "a sleep notices that the machine was suspended",
        "clock.py",
        "await asyncio.sleep(min(left, _NAP_SECONDS))",
        "await asyncio.sleep(left)",
        "D12",
    ),
    Guard(
        "time in which the process stood still is no stall",
        "bulk/dispatch.py",
        "        if late <= 0:\n",
        "        if True:\n",
        "D13",
    ),
    Guard(
        "tokens that come back due rest",
        "publisher/refresher.py",
        "if result.refresh_from < now + timedelta(seconds=interval):",
        "if False:",
        "D14",
    ),
    Guard(
        "without keys an operator that is down rests",
        "keystore.py",
        "return self._monotonic() < self._rest_until",
        "return False",
        "D15",
    ),
    Guard(
        "a source that cancels itself ends the job",
        "bulk/dispatch.py",
        "            if not self._is_stopped:\n                self._fail(",
        "            if isinstance(error, Exception):\n                self._fail(",
        "X10",
    ),
    Guard(
        "records end with their block",
        "bulk/dispatch.py",
        "            if self._is_stopped:\n                raise RuntimeError(",
        "            if False:\n                raise RuntimeError(",
        "X11",
    ),
    Guard(
        "each waiter gets an error of its own",
        "keystore.py",
        "            # A copy, because each caller that raises an object adds its "
        "frames to it.\n            raise fresh_error(self._last_error)",
        "            raise self._last_error",
        "X12",
    ),
    Guard(
        "a fetch that cancels itself has failed",
        "keystore.py",
        "            if not is_stray(failure, task):\n",
        "            if True:\n",
        "X13",
    ),
    Guard(
        "a background task that ended is noticed",
        "keystore.py",
        "(self._task is None or _is_running(self._task))",
        "True",
        "X13",
    ),
    Guard(
        "a refresh of a closed loop is not waited for",
        "publisher/refresher.py",
        "        if self._loop is not loop:\n",
        "        if self._loop is None:\n",
        "X14",
    ),
]


def copy_sources(target: Path) -> None:
    """Copy what the matrix needs."""
    for name in NEEDED:
        source = ROOT / name
        if source.is_dir():
            skip = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, target / name, ignore=skip)
        else:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target / name)


def run_rows(target: Path, rows: list[str], *, timeout: float) -> str:
    """Run some rows in the copy, for *timeout* s; return what a failure printed."""
    picked = " or ".join(f"[{row}]" for row in rows)
    command = [sys.executable, "-B", "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    try:
        done = subprocess.run(  # noqa: S603 - our own tests
            [*command, *files_of(target, rows), "-k", picked],
            cwd=target,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        return f"The rows did not end within {timeout:.0f} s."
    printed = f"{done.stdout[-2000:]}{done.stderr[-2000:]}"
    if done.returncode not in (0, 1):
        raise SystemExit(f"The rows do not start:\n{printed}")
    return printed if done.returncode else ""


def files_of(target: Path, rows: list[str]) -> list[Path]:
    """Find the files of some rows: loading the others takes longer than most rows."""
    files = sorted((target / "tests" / "faults").glob("test_*.py"))
    named = [f'"{row}"' for row in rows]
    return [one for one in files if any(row in one.read_text() for row in named)]


def without(guard: Guard, source: str) -> str:
    """Return *source* with *guard* switched off.

    Raises:
        ValueError: If the guard's text is not there exactly once.
        SyntaxError: If what is left is not Python.
    """
    if source.count(guard.on) != 1:
        raise ValueError(f"This guard is not in {guard.path} once: {guard.name}")
    changed = source.replace(guard.on, guard.off)
    compile(changed, guard.path, "exec")
    return changed


def is_caught(target: Path, guard: Guard) -> bool:
    """Switch *guard* off in the copy, run its row, and switch it on again."""
    path = target / "uid2_async" / guard.path
    whole = path.read_text(encoding="utf-8")
    path.write_text(without(guard, whole), encoding="utf-8")
    try:
        return bool(run_rows(target, [guard.row], timeout=120))
    finally:
        path.write_text(whole, encoding="utf-8")


def check_some(guards: list[Guard]) -> list[tuple[Guard, bool]]:
    """Check some guards, one after the other, on a copy of their own."""
    with tempfile.TemporaryDirectory() as name:
        target = Path(name)
        copy_sources(target)
        rows = sorted({guard.row for guard in guards})
        if printed := run_rows(target, rows, timeout=600):
            raise SystemExit(f"Rows fail with every guard in place:\n{printed}")
        return [(guard, is_caught(target, guard)) for guard in guards]


def main() -> None:
    """Check every guard; fail if one could go and nobody would notice."""
    began = time.monotonic()
    lanes = os.cpu_count() or 1
    with ThreadPoolExecutor(lanes) as pool:
        parts = pool.map(check_some, [GUARDS[n::lanes] for n in range(lanes)])
        found = [one for part in parts for one in part]
    for guard, caught in found:
        print(f"{'caught' if caught else 'MISSED'}  {guard.row:4} {guard.name}")
    count = sum(caught for _, caught in found)
    print(f"{count} of {len(found)} guards caught in {time.monotonic() - began:.0f} s")
    if count < len(found):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
