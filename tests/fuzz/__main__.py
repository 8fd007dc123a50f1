"""Fuzz everything that reads what others wrote: ``python -m tests.fuzz MINUTES``.

With Atheris, where it installs, guided by coverage; else with random changes of valid
inputs. The minutes are shared by the targets; an input that breaks one is printed.
"""

from __future__ import annotations

import importlib.util
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

GUIDED = importlib.util.find_spec("atheris") is not None


def fuzz_guided(name: str, seconds: int) -> None:
    """Fuzz one target with Atheris, in this process, which it ends."""
    import atheris  # noqa: PLC0415 - only where it installs

    with atheris.instrument_imports(include=["uid2_async"]):
        from tests.fuzz.targets import TARGETS  # noqa: PLC0415 - to be instrumented

    target, seeds = TARGETS[name]
    corpus = Path(tempfile.mkdtemp(prefix=f"uid2-corpus-{name}-"))
    for number, seed in enumerate(seeds):
        (corpus / str(number)).write_bytes(seed)
    options = [f"-max_total_time={seconds}", "-max_len=4096", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], target)
    atheris.Fuzz()


def fuzz_random(name: str, seconds: int) -> None:
    """Fuzz one target with random changes of its seeds."""
    from tests.fuzz.targets import TARGETS  # noqa: PLC0415 - as above

    target, seeds = TARGETS[name]
    dice = random.Random(time.time_ns())  # noqa: S311 - to find bugs with
    until, runs = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        data = change(dice, dice.choice(seeds))
        try:
            target(data)
        except BaseException:
            print("input:", data.hex())
            raise
        runs += 1
    print(f"stat::number_of_executed_units: {runs}")


def change(dice: random.Random, seed: bytes) -> bytes:
    """Change some bytes, cut, double or insert."""
    data = bytearray(seed)
    for _ in range(dice.randrange(1, 8)):
        at = dice.randrange(len(data) + 1)
        match dice.randrange(4):
            case 0 if data:
                data[at % len(data)] = dice.randrange(256)
            case 1:
                del data[at : at + dice.randrange(1, 16)]
            case 2:
                data[at:at] = data[max(0, at - 16) : at]
            case _:
                data[at:at] = dice.choice([b'"', b"{", b"\0", b"-1", b"1e999", b"\xff"])
    return bytes(data)


def run_target(name: str, seconds: int) -> bool:
    """Fuzz one target in its own process; return whether it passed."""
    done = subprocess.run(  # noqa: S603 - ourselves
        [sys.executable, "-m", "tests.fuzz", name, str(seconds)],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = (done.stdout + done.stderr).splitlines()
    runs = [one.split(":")[-1].strip() for one in lines if "executed_units" in one]
    how = "guided" if GUIDED else "random"
    print(f"{name:10} {how} {'held' if done.returncode == 0 else 'BROKEN'}", end=" ")
    print(f"{runs[-1] if runs else '?'} inputs in {seconds} s", flush=True)
    if done.returncode:
        print("\n".join(lines[-40:]))
    return done.returncode == 0


def main(arguments: list[str]) -> None:
    """Share the minutes among all targets."""
    names = ("envelope", "replies", "refusals", "headers", "tokens", "csv", "job_log")
    if arguments and arguments[0] in names:
        (fuzz_guided if GUIDED else fuzz_random)(arguments[0], int(arguments[1]))
        return
    minutes = float(arguments[0]) if arguments else 1.0
    seconds = max(1, round(minutes * 60 / len(names)))
    held = [run_target(name, seconds) for name in names]
    if not all(held):
        raise SystemExit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
