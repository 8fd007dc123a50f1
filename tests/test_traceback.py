"""What leaves a public callable: the error, and no frame of ours below it."""

from __future__ import annotations

import asyncio
import inspect
import pickle
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import attrs
import msgspec
import pytest

from canaries import EMAIL, find_leaks
from uid2_async import errors
from uid2_async._traceback import is_stripped, strip_traceback, strip_tracebacks

OURS = "uid2_async.somewhere"


def ours(function: FunctionType) -> Callable[..., Any]:
    """Make *function* one of the package's, and public."""
    names = {**function.__globals__, "__name__": OURS}
    made = FunctionType(
        function.__code__, names, function.__name__, None, function.__closure__
    )
    made.__defaults__, made.__kwdefaults__ = (
        function.__defaults__,
        function.__kwdefaults__,
    )
    made.__annotations__ = function.__annotations__
    return strip_traceback(made)


def take(text: str, *, fail: str = "no") -> str:
    """Return or raise, with something in hand."""
    held = f"{text}."
    match fail:
        case "ours":
            raise errors.InputError("Wrong.")
        case "chained":
            try:
                {}[held]
            except KeyError as error:
                raise errors.InputError("Wrong.") from error
        case "key":
            {}[held]
        case "number":
            int(held)
        case "surrogate":
            f"{held}\ud800".encode()
        case "json":
            msgspec.json.decode(held, type=dict)
        case "raised":
            raise TypeError("Give one, not both.")
        case "cancelled":
            raise asyncio.CancelledError
    return text


def raised(call: Callable[[], object]) -> BaseException:
    """Give what *call* raises."""
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - of any kind
        call()
    return caught.value


def test_a_success_passes() -> None:
    """Arguments go in, the result comes out; name and signature stay."""
    function = ours(take)

    assert function("ok") == function(text="ok") == "ok"
    assert function.__name__ == "take"
    assert str(inspect.signature(function)) == str(inspect.signature(take))
    with pytest.raises(TypeError, match=r"take\(\) missing 1 required"):
        function()


@pytest.mark.parametrize(
    ("fail", "kind"),
    [
        ("ours", errors.InputError),
        ("chained", errors.InputError),
        ("key", KeyError),
        ("number", ValueError),
        ("surrogate", errors.InputError),
        ("json", msgspec.MsgspecError),
        ("raised", TypeError),
        ("cancelled", asyncio.CancelledError),
    ],
)
def test_an_error_holds_nothing(fail: str, kind: type[BaseException]) -> None:
    """Whatever it is: the wrapper's frame alone, and no value in text or chain."""
    error = raised(lambda: ours(take)(EMAIL, fail=fail))

    assert isinstance(error, kind)
    assert find_leaks(error) == []
    names = [one.name for one in traceback.extract_tb(error.__traceback__)]
    assert names[-1] == "take"
    assert names.count("take") == 1


def test_what_we_say_stays() -> None:
    """A text of ours is kept, and a note tells where a foreign error arose."""
    assert (
        str(raised(lambda: ours(take)(EMAIL, fail="raised"))) == "Give one, not both."
    )
    notes = raised(lambda: ours(take)(EMAIL, fail="key")).__notes__
    assert notes == [f"Raised in {OURS}.take, line {notes[0].split()[-1]}"]


def test_an_argument_of_a_wrong_type_is_named() -> None:
    """An InputError takes the place of a foreign error; its text names types alone."""

    def add(text: str, count: int | None = None) -> str:
        return text + str(count) + "."

    error = raised(lambda: ours(add)([EMAIL]))  # type: ignore[arg-type] # a function

    assert isinstance(error, errors.InputError)
    assert "text must be str, not list." in str(error)


def test_a_callers_error_stays_whole() -> None:
    """What a callback of the caller's raises keeps its text and the caller's frames."""

    def outer(callback: Callable[[], object]) -> object:
        return callback()

    def callback() -> None:
        raise LookupError("the caller's own words")

    error = raised(lambda: ours(outer)(callback))  # type: ignore[arg-type] # a function

    assert "the caller's own words" in str(error)
    names = [one.name for one in traceback.extract_tb(error.__traceback__)]
    assert names[-2:] == ["outer", "callback"]


def test_what_the_caller_handles_stays() -> None:
    """The error that was being handled already keeps its traceback."""
    try:
        raise LookupError("before")  # noqa: TRY301 - to be handled
    except LookupError as error:
        before = error
        failure = raised(lambda: ours(take)(EMAIL, fail="ours"))

    assert failure.__context__ is before
    assert before.__traceback__ is not None


async def test_coroutines_and_generators() -> None:
    """The same for all kinds of functions."""

    async def fetch(text: str) -> None:
        raise errors.InputError(text[:0])

    def count(text: str) -> Iterator[str]:
        yield text[:1]
        raise errors.InputError

    async def stream(text: str) -> AsyncIterator[str]:
        yield text[:1]
        raise errors.InputError

    one, two, three = map(ours, (fetch, count, stream))  # type: ignore[arg-type] # functions
    assert inspect.iscoroutinefunction(one)
    assert inspect.isgeneratorfunction(two)
    assert inspect.isasyncgenfunction(three)
    with pytest.raises(errors.InputError) as fetched:
        await one(EMAIL)
    counted = raised(lambda: list(two(EMAIL)))
    with pytest.raises(errors.InputError) as streamed:
        _ = [item async for item in three(EMAIL)]
    for error in (fetched.value, counted, streamed.value):
        assert find_leaks(error) == []


async def test_an_asynchronous_generator_is_closed() -> None:
    """What ends it early reaches the function, which can clean up."""
    seen = []

    async def stream() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            seen.append("closed")

    items = ours(stream)()  # type: ignore[arg-type] # a function
    assert await anext(items) == 1
    await items.aclose()
    assert seen == ["closed"]


def test_a_module_wraps_what_is_public() -> None:
    """Functions, methods, properties and managers; not what is private or foreign."""

    @attrs.frozen
    class Value:
        text: str = attrs.field(validator=attrs.validators.instance_of(str))

        def method(self) -> None:
            """Public."""

        def _private(self) -> None:
            """Private."""

        @property
        def prop(self) -> str:
            """Public."""
            return self.text

        @classmethod
        def make(cls) -> Any:
            """Public."""
            return cls("x")

    @contextmanager
    def manager(text: str) -> Iterator[str]:
        """Public."""
        yield text

    names = {"Value": Value, "manager": manager, "pickle": pickle, "__name__": OURS}
    for one in (Value, manager):
        one.__module__ = OURS
    strip_tracebacks(names)

    assert is_stripped(names["manager"])
    with names["manager"]("x") as text:  # type: ignore[operator] # a function
        assert text == "x"
    assert is_stripped(Value.method)
    assert is_stripped(Value.__init__)
    assert is_stripped(Value.make)
    assert is_stripped(Value.prop.fget)
    assert not is_stripped(Value._private)
    assert Value.make().prop == "x"


def test_a_default_is_no_wrong_argument() -> None:
    """What attrs marks a default with is not what the caller passed."""

    @attrs.frozen(kw_only=True)
    class Options:
        names: dict[str, str] = attrs.field(factory=dict)
        share: float = attrs.field(validator=attrs.validators.le(1))

    Options.__module__ = OURS
    strip_tracebacks({"Options": Options, "__name__": OURS})

    assert "names" not in str(raised(lambda: Options(share=2)))
