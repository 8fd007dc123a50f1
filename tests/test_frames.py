"""Errors leave without the frames in which DII and keys are at hand."""

from __future__ import annotations

import asyncio
import inspect
import traceback

import pytest

from uid2_async import ClientSideClient, UID2Client, errors
from uid2_async.frames import cut_frames, without_frames


def fail(kind: type[BaseException]) -> None:
    """Raise, with something in hand."""
    canary = "canary"
    raise kind(len(canary))


class Service:
    """Something public."""

    @without_frames
    async def call(self, canary: str, kind: type[BaseException] | None = None) -> str:
        """Succeed or fail."""
        if kind is not None:
            fail(kind)
        return canary.upper()


def frames(error: BaseException) -> list[str]:
    """List the functions of a traceback, from the outside in."""
    return [one.name for one in traceback.extract_tb(error.__traceback__)]


async def test_a_success_passes() -> None:
    """Arguments go in, the result comes out, and the name stays."""
    assert await Service().call("ok") == "OK"
    assert Service.call.__name__ == "call"
    assert inspect.iscoroutinefunction(Service.call)


@pytest.mark.parametrize("kind", [errors.InputError, asyncio.CancelledError])
async def test_an_error_of_ours_shows_the_border_alone(
    kind: type[BaseException],
) -> None:
    """Neither the method nor what it called, nor the arguments."""
    with pytest.raises(kind) as caught:
        await Service().call("canary", kind)

    assert frames(caught.value)[1:] == ["call"]
    assert caught.value.__context__ is None
    assert caught.tb.tb_next is not None
    assert "canary" not in repr(caught.tb.tb_next.tb_frame.f_locals)


async def test_a_bug_keeps_its_frames() -> None:
    """What is not ours must be found."""
    with pytest.raises(KeyError) as caught:
        await Service().call("canary", KeyError)

    assert frames(caught.value)[-2:] == ["call", "fail"]


def test_frames_are_cut_where_nothing_is_awaited() -> None:
    """The same for a plain function."""
    assert cut_frames(lambda: 7) == 7
    with pytest.raises(errors.ConfigError) as caught:
        cut_frames(lambda: fail(errors.ConfigError))

    assert frames(caught.value)[1:] == ["cut_frames"]


@pytest.mark.parametrize("kind", [UID2Client, ClientSideClient])
def test_every_call_of_a_client_is_a_border(kind: type) -> None:
    """A new method cannot be forgotten."""
    calls = {
        name: method
        for name, method in vars(kind).items()
        if inspect.iscoroutinefunction(method) and not name.startswith("_")
    }
    calls.pop("aclose")

    assert len(calls) >= 2
    for name, method in calls.items():
        assert hasattr(method, "__wrapped__"), name
