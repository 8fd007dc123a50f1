"""One process fetches the keys, and three workers decrypt tokens with them.

    python examples/key_workers.py

However many workers a machine has, the operator is asked once an hour. If it is down,
the workers are not affected, because their keys are valid for days. In this
demonstration, the operator is embedded, and a pool of processes represents the workers.
In production, `python key_workers.py /run/uid2/keys.json` is a service that fetches
keys from the operator that the environment names (UID2_BASE_URL, UID2_API_KEY,
UID2_SECRET_KEY), and gunicorn's workers open the file.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path

from uid2_async import (
    BidstreamClient,
    BlockingClient,
    DecryptedToken,
    IdentityTokens,
    KeyStore,
    UID2Client,
)
from uid2_async.operator import Fault, LocalOperator

WORKERS = 3
SAVE_EVERY_SECONDS = 60.0


# --- the process that fetches ---------------------------------------------------------


def run_fetcher(file: Path) -> None:
    """Fetch keys every hour and save them, until the process is stopped."""
    asyncio.run(fetch(file))


async def fetch(file: Path) -> None:
    """Save the keys after each refresh."""
    async with (
        UID2Client.from_env() as client,
        KeyStore(client.fetch_bidstream_keys, required=False) as keys,
    ):
        while True:
            if keys.ready:
                keys.save(file)  # in one step: no worker reads half of it
            await asyncio.sleep(SAVE_EVERY_SECONDS)


# --- a worker -------------------------------------------------------------------------

BIDSTREAM: BidstreamClient


def start_worker(file: Path, all_started: Barrier) -> None:
    """Set up a worker, which never contacts the operator. Called once in each."""
    global BIDSTREAM  # noqa: PLW0603 - one for each process
    BIDSTREAM = BidstreamClient(KeyStore.from_file(file))
    all_started.wait()  # only so that each has its part of the load


def open_tokens(tokens: Sequence[str]) -> tuple[int, int]:
    """Decrypt tokens. Return how many were decrypted, and by which process."""
    found = BIDSTREAM.decrypt_many(tokens)
    return sum(isinstance(row, DecryptedToken) for row in found), os.getpid()


# --- the demonstration ----------------------------------------------------------------


def generate_tokens() -> list[str]:
    """Generate tokens, as a publisher does."""
    with BlockingClient.from_env() as uid2:
        replies = [uid2.generate_token(f"{one}@example.com") for one in range(20)]
    return [one.advertising_token for one in replies if isinstance(one, IdentityTokens)]


def put_under_load(file: Path, operator: LocalOperator, batches: int) -> None:
    """Let the workers decrypt many tokens during an outage of the operator."""
    tokens = generate_tokens()
    while not file.exists():
        time.sleep(0.05)
    operator.fail_next(Fault(status=503), times=1_000)
    spawn = get_context("spawn")
    given = (file, spawn.Barrier(WORKERS))
    with ProcessPoolExecutor(WORKERS, spawn, start_worker, given) as pool:
        done = list(pool.map(open_tokens, [tokens * 50] * batches))
    opened = sum(count for count, _ in done)
    print(f"{len({pid for _, pid in done})} workers decrypted {opened:,} tokens.")
    fetches = sum(call.path.startswith("/v2/key/") for call in operator.calls)
    print(f"The operator was asked for keys {fetches} time(s).")


def demo(batches: int = 60) -> None:
    """Run an operator, a fetcher and the workers."""
    with (
        LocalOperator.in_thread() as operator,
        tempfile.TemporaryDirectory() as folder,
    ):
        os.environ["UID2_BASE_URL"] = operator.url
        os.environ["UID2_API_KEY"] = operator.api_key
        os.environ["UID2_SECRET_KEY"] = operator.client_secret
        file = Path(folder) / "keys.json"
        fetcher = get_context("spawn").Process(target=run_fetcher, args=(file,))
        fetcher.start()
        try:
            put_under_load(file, operator, batches)
        finally:
            fetcher.terminate()
            fetcher.join()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        run_fetcher(Path(sys.argv[1]))
    else:
        demo()
