"""No public callable lets a person's data out through an error, a log or a stream.

Every function, constructor, method and property of the API reference is called with
canaries, first as it wants them, and then with each argument in turn of a wrong type or
form. What it raises, logs and prints shows none of them, and neither do the frames of
its traceback. The arguments are made from annotations: a callable for which that does
not work fails here until tests/doubles/canary_arguments.py knows how to make them.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import itertools
import logging
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

import uid2_async
from canaries import find_canaries, find_frames, find_leaks
from canary_arguments import (
    WRONG,
    Maker,
    make_blocking,
    make_ring,
    parameters_of,
)
from public_api import PublicCallable, public_callables
from uid2_async import BidstreamClient, KeyStore, SharingClient
from uid2_async._traceback import is_stripped, strip_traceback
from uid2_async.bulk.mapper import Records
from uid2_async.errors import InputError, UID2Error

# What a call made is left to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """End its threads and collect it here: in another test it would do harm."""
    yield
    if make_blocking.cache_info().currsize:
        make_blocking().close()
        make_blocking.cache_clear()
    gc.collect()
    # What it has loaded and kept would be looked through after each of the next tests.
    gc.freeze()


CALLABLES = public_callables()

NOT_WRAPPED = {
    "uid2_async.pytest_plugin": "pytest calls its fixtures, and only pytest can",
    "uid2_async.errors": "assigns; an error that is made has not been raised",
}
"""What does not end a traceback, and why nothing can get out there."""

NOT_CALLED = {
    "uid2_async.pytest_plugin": "only pytest can call a fixture",
    "uid2_async.integrations.spark.local_session": "starts Java",
    "uid2_async.integrations.spark.map_dataframe": "needs a session of Spark",
    "uid2_async.client.UID2Client.run_call": "takes a Call, whose path is a constant",
    **{
        f"uid2_async.blocking.{name}": "ends the client of the other calls"
        for name in ("BlockingClient.close", "BlockingClient.__exit__")
    },
    "uid2_async.blocking.BlockingClient.run_call": "as UID2Client.run_call",
    "uid2_async.blocking.BlockingClient.submit": "takes a coroutine function",
    "uid2_async.blocking.BlockingKeyStore.submit": "as above",
    "uid2_async.blocking.BlockingTokenRefresher.submit": "as above",
    "uid2_async.testing.OperatorThread.__exit__": "ends a thread that must run",
    "uid2_async.bulk.mapper.Records": "made by BulkMapper.map, which is walked",
}
"""What is not called here, and why."""

PATHS = {"ca_file", "source", "target", "path", "delta", "state", "inputs"}
"""Parameters that name files: an error names the file, so no canary is passed."""


def listed(path: str, registry: dict[str, str]) -> bool:
    """Whether *path* or what holds it is in *registry*."""
    return any(path == one or path.startswith(f"{one}.") for one in registry)


def ids(item: PublicCallable) -> str:
    """Name a case."""
    return item.path.removeprefix("uid2_async.")


def test_the_reference_is_walked(
    record_property: Callable[[str, object], None],
) -> None:
    """There are hundreds of public callables, and no registry has a stale entry."""
    paths = {item.path for item in CALLABLES}
    for entry in [*NOT_WRAPPED, *NOT_CALLED]:
        assert any(listed(path, {entry: ""}) for path in paths), entry
    called = [item for item in CALLABLES if not listed(item.path, NOT_CALLED)]
    record_property("called", f"{len(called)} of {len(CALLABLES)} public callables")
    assert len(called) > 400


@pytest.mark.parametrize("item", CALLABLES, ids=ids)
def test_every_public_callable_ends_its_traceback(item: PublicCallable) -> None:
    """A function that is added to a public module cannot be forgotten."""
    if listed(item.path, NOT_WRAPPED):
        return
    if item.kind != "constructor":
        assert is_stripped(item.function)
        return
    for name in ("__init__", "__post_init__", "__attrs_post_init__"):
        method = getattr(item.owner, name, None)
        file = getattr(getattr(method, "__code__", None), "co_filename", "")
        # What attrs generates assigns; the walk below calls it all the same.
        ours = "uid2_async" in file and not file.startswith("<attrs")
        assert not ours or is_stripped(method), name


# --- calling --------------------------------------------------------------------------


def instance_of(owner: type, maker: Maker) -> Any:
    """Make an object whose methods are called."""
    if owner is KeyStore:
        return KeyStore(make_ring, _sleep=asyncio.sleep)  # type: ignore[arg-type] # no coroutine: one more wrong thing
    if owner in {SharingClient, BidstreamClient}:
        return owner(make_ring())
    made = maker.make(owner, "self", owner)
    return made if isinstance(made, owner) else owner(**maker.arguments(owner))


def cases(item: PublicCallable, maker: Maker) -> Iterator[Callable[[], Any]]:
    """Give calls of *item*: with good arguments, and with one bad one."""
    target = item.owner if item.kind == "constructor" else item.function
    assert target is not None
    names = [parameter.name for parameter in parameters_of(target)]
    for bad, name in [(None, None), *itertools.product(WRONG, names)]:
        if name in PATHS and find_canaries(repr(bad)):
            continue

        def call(bad: object = bad, name: str | None = name) -> Any:
            arguments = maker.arguments(target)
            if name is not None:
                arguments[name] = bad
            return bind(item, maker)(**arguments)

        yield call


def bind(item: PublicCallable, maker: Maker) -> Callable[..., Any]:
    """Give *item* with its object or class, as a user calls it."""
    if item.kind in {"function", "constructor"}:
        return item.owner or item.function
    name = item.path.rpartition(".")[2]
    if item.kind == "classmethod":
        return getattr(item.owner, name)  # type: ignore[no-any-return] # any of them
    assert item.owner is not None
    if item.kind == "staticmethod":
        return getattr(item.owner, name)  # type: ignore[no-any-return] # as above
    made = instance_of(item.owner, maker)
    if item.kind == "property":
        return lambda: getattr(made, name)
    return getattr(made, name)  # type: ignore[no-any-return] # as above


async def finish(result: Any) -> None:
    """Do with a result what a user does: await, enter, iterate."""
    if inspect.isawaitable(result):
        result = await result
    if hasattr(result, "__aenter__"):
        async with result as result:
            pass
    if inspect.isasyncgen(result) or isinstance(result, Records):
        async for _ in result:
            pass
    if inspect.isgenerator(result):
        list(itertools.islice(result, 3))


async def run(call: Callable[[], Any]) -> BaseException | None:
    """Call, and give what was raised."""
    try:
        async with asyncio.timeout(0.3):
            await finish(call())
    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - to be looked at
        return error
    return None


@pytest.mark.parametrize(
    "item", [one for one in CALLABLES if not listed(one.path, NOT_CALLED)], ids=ids
)
def test_nothing_leaks(
    item: PublicCallable,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Whatever is passed: no canary in error, frames, pickle, log, stdout, stderr."""
    assert find_all(item, Maker(tmp_path), caplog, capfd) == []


def find_all(
    item: PublicCallable,
    maker: Maker,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> list[str]:
    """Make all calls of *item*, and name what shows."""
    caplog.set_level(logging.DEBUG)
    leaks = set()

    async def walk() -> None:
        for call in cases(item, maker):
            in_thread = partial(asyncio.to_thread, call)
            error = await run(in_thread if "blocking" in item.path else call)
            if error is not None:
                leaks.update([*find_leaks(error), *find_frames(error)])

    with warnings.catch_warnings(record=True) as caught:
        asyncio.run(walk())
    out, err = capfd.readouterr()
    shown = [*(str(one.message) for one in caught), caplog.text, out, err]
    return sorted(leaks | set(find_canaries("\n".join(shown))))


# --- the walk itself ------------------------------------------------------------------


def in_frame(text: str) -> None:
    """Leak by a local variable: in the package, and not wrapped."""
    held = f"{text}"
    raise InputError("Wrong.") if held else KeyError


def in_text(text: str) -> None:
    """Leak by the message."""
    raise UID2Error(f"{text} is wrong.")


def in_cause(text: str) -> None:
    """Leak by what the error came from."""
    raise InputError("Wrong.") from ValueError(text)


def in_log(text: str) -> None:
    """Leak by a record."""
    logging.getLogger("uid2_async").debug("%s", text)


def in_stdout(text: str) -> None:
    """Leak by a stream."""
    print(text)  # noqa: T201 - on purpose


@pytest.mark.parametrize("leak", [in_frame, in_text, in_cause, in_log, in_stdout])
def test_the_walk_sees_what_is_planted(
    leak: Callable[[str], None],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Each kind of leak is found, and none in a frame that is wrapped."""
    planted = PublicCallable("planted", as_ours(leak))
    assert "email" in " ".join(find_all(planted, Maker(tmp_path), caplog, capfd))
    caplog.clear()
    wrapped = PublicCallable("wrapped", strip_traceback(as_ours(in_frame)))
    assert find_all(wrapped, Maker(tmp_path), caplog, capfd) == []


def as_ours(function: Any) -> Any:
    """Give *function* as if a module of the package held it."""
    place = str(Path(uid2_async.__file__).parent / "planted.py")
    names = {**globals(), "__name__": "uid2_async.planted"}
    code = function.__code__.replace(co_filename=place)
    made = FunctionType(code, names, function.__name__)
    made.__annotations__ = function.__annotations__
    made.__module__ = __name__
    return made
