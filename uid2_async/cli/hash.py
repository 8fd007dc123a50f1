"""``uid2 hash``: what the operator makes of identities, without asking it."""

from __future__ import annotations

import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from uid2_async.cli.exit_codes import ExitCode
from uid2_async.cli.options import CountryOption, Kind, KindOption, ValueFileOption
from uid2_async.cli.output import print_error
from uid2_async.cli.values import LineBlock, read_blocks, source_of
from uid2_async.errors import InputError
from uid2_async.phones import PhoneFault, check_country, to_sendable
from uid2_async.protocol import base64
from uid2_async.protocol.normalize import identity_bytes, many_identity_bytes

if TYPE_CHECKING:
    from concurrent.futures import Future

T = TypeVar("T")


def hash_values(
    values: Annotated[
        list[str] | None,
        typer.Argument(metavar="VALUE", help="Identities; - alone is stdin."),
    ] = None,
    *,
    file: ValueFileOption = None,
    kind: KindOption = None,
    country: CountryOption = None,
    jobs: Annotated[
        int,
        typer.Option(
            "--jobs",
            metavar="N",
            min=1,
            help="Work in N processes: for files of a million values and more.",
        ),
    ] = 1,
) -> None:
    """Normalize and hash identities locally.

    Nothing is sent. Prints a line for each value, in order: its type, a tab, and the
    SHA-256 in base64 that the operator would make of it, or INVALID. Hashes in hex
    come out in base64. With --jobs the lines keep their order. Exits with 3 if a value
    is invalid.
    """
    if country is not None:
        if kind is not Kind.PHONE:
            raise InputError("--country is for phones alone: add --type phone.")
        check_country(country)
    work = partial(_hash_block, kind=kind, country=country)
    path = source_of(values or [], file)
    if path is None:
        hashed = iter([_hash_lines(values or [], kind, country)])
    else:
        hashed = _map_blocks(work, read_blocks(path), jobs)
    reasons: Counter[str] = Counter()
    for text, why in hashed:
        sys.stdout.write(text)
        reasons += why
    if reasons:
        _print_reasons(reasons)
        raise typer.Exit(ExitCode.INCOMPLETE)


def _hash_block(
    block: LineBlock, kind: Kind | None, country: str | None
) -> tuple[str, Counter[str]]:
    """Hash what a block holds, maybe in another process."""
    return _hash_lines(list(block.lines()), kind, country)


def _hash_lines(
    values: Sequence[str], kind: Kind | None, country: str | None
) -> tuple[str, Counter[str]]:
    """Return the lines for *values*, and the number of invalid ones by reason.

    A value that is not invalid by its country has no reason: it counts under "".
    """
    reasons: Counter[str] = Counter()
    if country is not None:
        found = [to_sendable(value, country) for value in values]
        faults = [one.sentence for one in found if isinstance(one, PhoneFault)]
        reasons.update(faults)
        # A fault's place is kept by a value that is no phone.
        values = ["" if isinstance(one, PhoneFault) else one for one in found]
    names, digests = _hash_many(values, kind)
    hashes = base64.encode_texts([digest or b"" for digest in digests])
    invalid = digests.count(None) - reasons.total()
    if invalid:
        reasons[""] += invalid
    lines = [
        f"{name}\t{digest or 'INVALID'}\n"
        for name, digest in zip(names, hashes, strict=True)
    ]
    return "".join(lines), reasons


def _hash_many(
    values: Sequence[str], kind: Kind | None
) -> tuple[Iterable[str], list[bytes | None]]:
    """Return the type of each value, and its identity bytes or None."""
    if kind is not None:
        return repeat(kind.value, len(values)), many_identity_bytes(kind, values)
    names = [Kind.PHONE.value if one[:1] == "+" else Kind.EMAIL.value for one in values]
    if Kind.PHONE.value not in names:
        return names, many_identity_bytes(Kind.EMAIL, values)
    return names, list(map(identity_bytes, names, values))


def _print_reasons(reasons: Counter[str]) -> None:
    """Print how many values are invalid and, for phones, why."""
    print_error(f"Invalid values: {reasons.total()}.")
    for sentence, count in reasons.most_common():
        if sentence:
            print_error(f"{count} of them: {sentence}")


def _map_blocks(
    work: Callable[[LineBlock], T], blocks: Iterator[LineBlock], jobs: int
) -> Iterator[T]:
    """Apply *work* to each block, in *jobs* processes if there are to be several.

    A few blocks are under way at once, however many there are; the results keep their
    order.
    """
    if jobs == 1:
        yield from map(work, blocks)
        return
    from concurrent.futures import ProcessPoolExecutor  # noqa: PLC0415 - --help need not wait

    under_way: deque[Future[T]] = deque()
    with ProcessPoolExecutor(jobs) as pool:
        for block in blocks:
            under_way.append(pool.submit(work, block))
            if len(under_way) > 2 * jobs:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
