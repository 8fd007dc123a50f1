"""What identities cost by the million and by the thousand million (docs/scale.md).

The measured figures stand here and nowhere else: ``uid2 estimate`` and the tables of
docs/scale.md are worked out from them.
"""

from __future__ import annotations

import math
from typing import Final

import attrs

__all__ = ["Costs", "RunCosts", "due_in_a_day", "work_out"]

# What the command takes before it reads a row, most of it for imports.
START_SECONDS: Final = 0.8
# On one core of a present machine, whatever the operator does: files without a state,
# and two jobs of 300,000 rows with one.
ROW_SECONDS: Final = 6e-6
FIRST_LOAD_ROW_SECONDS: Final = 1 / 39_000
DAILY_ROW_SECONDS: Final = 1 / 75_000
# On disk, when each raw UID has rotated once and its change is kept; a third of it
# after a first load (``nox -s bench -- state``).
STATE_BYTES: Final = 365
# A hash, and its answer, where one raw UID in four has a previous one.
SENT_BYTES: Final = 47
RECEIVED_BYTES: Final = 88
# The headers and the envelope of a request and of its reply.
REQUEST_BYTES: Final = 430
REPLY_BYTES: Final = 260
# Each salt bucket rotates about once a year (docs/protocol.md 2.6).
DUE_SHARE: Final = 1 / 365


@attrs.frozen(kw_only=True)
class RunCosts:
    """What one run costs.

    Attributes:
        identities: How many are asked about.
        batches: In how many requests.
        seconds: How long it takes at the least.
        sent_bytes: What goes to the operator.
        received_bytes: What comes back.
    """

    identities: int
    batches: int
    seconds: float
    sent_bytes: int
    received_bytes: int


@attrs.frozen(kw_only=True)
class Costs:
    """What a set of identities costs.

    Attributes:
        once: A run without a state.
        first_load: The first run with a state.
        daily: A later run with that state, on a day when nobody has been unchecked for
            too long; on a day when all have, it asks as much as the first one.
        state_bytes: How large the state is.
    """

    once: RunCosts
    first_load: RunCosts
    daily: RunCosts
    state_bytes: int


def work_out(
    identities: int,
    *,
    rows: int | None = None,
    batch_size: int = 5_000,
    concurrency: int = 20,
    latency: float = 0.5,
    processes: int = 1,
) -> Costs:
    """Work out what *identities* cost, as docs/scale.md says.

    Args:
        identities: How many different ones there are.
        rows: How many rows, or identifiers in them, name them; as many by default.
        batch_size: How many identities one request carries.
        concurrency: How many requests are in flight, in all processes together.
        latency: How many seconds the operator takes for one.
        processes: How many share the work, each on a core of its own.
    """
    read = identities if rows is None else rows

    def run(asked: int, row_seconds: float, *, in_steps: bool = True) -> RunCosts:
        batches = math.ceil(asked / batch_size)
        waiting = math.ceil(batches / concurrency) * latency
        working = read * row_seconds / processes
        return RunCosts(
            identities=asked,
            batches=batches,
            # With a state the job reads, then asks, then writes.
            seconds=waiting + working if in_steps else max(waiting, working),
            sent_bytes=asked * SENT_BYTES + batches * REQUEST_BYTES,
            received_bytes=asked * RECEIVED_BYTES + batches * REPLY_BYTES,
        )

    return Costs(
        once=run(identities, ROW_SECONDS, in_steps=False),
        first_load=run(identities, FIRST_LOAD_ROW_SECONDS),
        daily=run(due_in_a_day(identities), DAILY_ROW_SECONDS),
        state_bytes=identities * STATE_BYTES,
    )


def due_in_a_day(identities: int) -> int:
    """Say how many of *identities* have to be asked about again on a usual day."""
    return math.ceil(identities * DUE_SHARE)
