"""Removes the frames that hold DII and keys from the errors that the library raises.

Tools that report errors show the local variables of each frame of a traceback. In this
library these are identities, tokens and keys. Every public callable is therefore
wrapped. The traceback of an error that it raises ends in the wrapper, whose frame has
no local variables.
"""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import (
    AsyncIterator,
    Callable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, contextmanager
from enum import EnumType
from functools import cache, cached_property, partial, wraps
from numbers import Integral, Real
from opcode import opmap
from types import CodeType, FunctionType, MethodType, TracebackType
from typing import Any, Final, TypeVar, cast

from uid2_async.errors import ConfigError, InputError, UID2Error

if typing.TYPE_CHECKING:
    import attrs

F = TypeVar("F", bound=Callable[..., Any])

_PACKAGE: Final = __name__.partition(".")[0]
_MARK: Final = "__strips_traceback__"

# Frames of these packages are part of our work. Any other frame is the caller's: a
# callback, a source of items, a transport.
_OURS_AND_LIBRARIES: Final = sys.stdlib_module_names | {
    *("aiohttp", "aiohappyeyeballs", "aiosignal", "attr", "attrs", "click"),
    *("cryptography", "fastapi", "frozenlist", "fsspec", "msgspec", "multidict"),
    *("narwhals", "opentelemetry", "phonenumbers", "propcache", "pyarrow", "pyspark"),
    *("rich", "starlette", "tenacity", "typer", "yarl", _PACKAGE),
}

# Their messages contain types and positions, but never a value.
_SPEAK_OF_TYPES: Final = (
    *(AssertionError, AttributeError, BufferError, EOFError, ImportError, IndexError),
    *(MemoryError, NameError, OSError, OverflowError, RuntimeError, TypeError),
    *(ZeroDivisionError, StopAsyncIteration, StopIteration, TimeoutError),
)

_RAISE: Final = opmap["RAISE_VARARGS"]

# In addition to the public names of a class.
_METHODS: Final = frozenset(
    f"__{name}__"
    for name in (
        *(
            "new",
            "init",
            "post_init",
            "attrs_post_init",
            "call",
            "getitem",
            "contains",
            "len",
        ),
        *("iter", "next", "enter", "exit", "aiter", "anext", "aenter", "aexit"),
    )
)


def strip_traceback(function: F) -> F:
    """Wrap *function* so that the tracebacks of its errors end in the wrapper.

    For functions, coroutine functions, generators and async generators. An error of
    this package keeps its message, but loses its frames and the foreign errors that
    caused it. Any other error also loses everything in which it may quote a value,
    unless it was raised by the caller's own code. In that case, the caller's frames are
    kept, too. A note says where it was raised. If an argument has the wrong type
    according to the signature, a foreign error is replaced by an InputError that names
    the argument.
    """
    if is_stripped(function):
        return function
    if inspect.isasyncgenfunction(function):
        wrapper = _wrap_async_generator(function)
    elif inspect.iscoroutinefunction(function):
        wrapper = _wrap_function(function, "async def", "await ")
    elif inspect.isgeneratorfunction(function):
        wrapper = _wrap_function(function, "def", "yield from ")
    else:
        wrapper = _wrap_function(function, "def", "")
    setattr(wrapper, _MARK, function)
    return cast("F", wrapper)


def is_stripped(function: object) -> bool:
    """Whether *function* was wrapped by :func:`strip_traceback`."""
    return hasattr(function, _MARK)


def unwrapped(function: F) -> F:
    """Return *function* as it was before :func:`strip_traceback`.

    For inner loops whose public callers are wrapped themselves. A wrapper of somebody
    else, even around one of ours, is not removed.
    """
    inner = cast("F", getattr(function, "__wrapped__", function))
    if inner is function or getattr(function, _MARK, None) is not inner:
        return function
    owner = getattr(function, "__self__", None)
    return inner if owner is None else cast("F", MethodType(inner, owner))


# The wrapper's frame stays in the traceback, so its variables are deleted first.


_WRAPPER: Final = """
{define} call({parameters}):
    try:
        return ({wait}function({arguments}))
    except BaseException as error:
        failure = error
    failure = strip(failure, function, {positional}, {named})
    {forget}
    try:
        raise failure
    finally:
        del failure
"""


def _wrap_function(function: Any, define: str, wait: str) -> Callable[..., Any]:
    """Wrap a function, coroutine or generator in one that has the same parameters.

    With ``*args`` and ``**kwargs``, a call would cost 0.3 microseconds instead of 0.07.
    """
    code = function.__code__
    variable = bool(code.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS))
    count, named = code.co_argcount, code.co_kwonlyargcount
    made = _compile_wrapper(define, wait, count, named, variable=variable)
    changes: dict[str, Any] = {"co_name": code.co_name, "co_qualname": code.co_qualname}
    if not variable:
        changes |= _rename(made, code.co_varnames[: count + named])
    made = made.replace(**changes)
    known = {"__name__": __name__, "function": function, "strip": _strip}
    call = FunctionType(made, known, code.co_name, function.__defaults__)
    call.__kwdefaults__ = function.__kwdefaults__
    return wraps(function)(call)


def _rename(made: CodeType, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the changes that rename the parameters of a compiled wrapper."""
    new = dict(zip(made.co_varnames, names, strict=False))

    def rename(constant: Any) -> Any:
        if isinstance(constant, tuple):
            return tuple(map(rename, constant))
        return new.get(constant, constant) if isinstance(constant, str) else constant

    return {
        "co_varnames": names + made.co_varnames[len(names) :],
        "co_consts": tuple(map(rename, made.co_consts)),
    }


@cache
def _compile_wrapper(
    define: str, wait: str, count: int, named: int, *, variable: bool
) -> CodeType:
    """Compile a wrapper for a number of parameters. They are renamed later."""
    many = [f"positional_{at}" for at in range(count)]
    by_name = [f"named_{at}" for at in range(named)]
    given = [*many, *(f"{one}={one}" for one in by_name)]
    fields = {
        "parameters": ", ".join([*many, *(["*"] if named else []), *by_name]),
        "arguments": ", ".join(given),
        "positional": f"({''.join(f'{one}, ' for one in many)})",
        "named": f"dict({', '.join(given[count:])})",
        "forget": f"del {', '.join([*many, *by_name])}" if given else "pass",
    }
    if variable:
        fields = {
            "parameters": "*args, **kwargs",
            "arguments": "*args, **kwargs",
            "positional": "args",
            "named": "kwargs",
            "forget": "del args, kwargs",
        }
    source = _WRAPPER.format(define=define, wait=wait, **fields)
    made: dict[str, Any] = {}
    exec(compile(source, f"<{_PACKAGE}>", "exec"), made)  # noqa: S102 - the source is above
    code: CodeType = made["call"].__code__
    return code


def _wrap_async_generator(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap an async generator function. Exceptions thrown into it reach *function*."""

    @wraps(function)
    async def call(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        items = item = step = sent = None
        try:
            items = function(*args, **kwargs)
            step = items.__anext__()
            while True:
                item = await step
                try:
                    sent = yield item
                except GeneratorExit:
                    await items.aclose()
                    raise
                except BaseException as error:  # noqa: BLE001 - the consumer's: passed on
                    step = items.athrow(error)
                else:
                    step = items.asend(sent)
        except StopAsyncIteration:
            return
        except BaseException as error:  # noqa: BLE001 - raised again below
            failure = error
        failure = _strip(failure, function, args, kwargs)
        del args, kwargs, items, item, step, sent
        try:
            raise failure
        finally:
            del failure

    return call


# --- whole modules --------------------------------------------------------------------


def strip_tracebacks(module: dict[str, Any]) -> None:
    """Wrap every public callable of a module: functions, and methods of classes.

    A module calls this in its last statement, so that no function is forgotten. Type
    checkers see the original functions.

    Args:
        module: The module's ``globals()``.
    """
    for name in module.get("__all__") or [one for one in module if one[0] != "_"]:
        value = module.get(name)
        if getattr(value, "__module__", None) != module["__name__"]:
            continue
        if inspect.isclass(value):
            _wrap_class(value)
        else:
            module[name] = _wrap_member(value)


def _wrap_class(cls: type) -> None:
    """Wrap the public methods that *cls* or one of its private bases defines."""
    if getattr(cls, "_is_protocol", False):
        return
    for base in cls.__mro__:
        if base is cls or (base.__module__, base.__name__[0]) == (
            cls.__module__,
            "_",
        ):
            for name, member in list(vars(base).items()):
                if _is_public(base, name, member):
                    _wrap_attribute(base, name, member)


def _wrap_attribute(cls: type, name: str, member: Any) -> None:
    if isinstance(member, cached_property):
        member.func = strip_traceback(member.func)
        return
    wrapped = _wrap_member(member)
    if wrapped is not member:
        setattr(cls, name, wrapped)


def _is_public(cls: type, name: str, member: Any) -> bool:
    """Whether a member can be called from outside and contains code that can fail."""
    if not name.startswith("_"):
        return not inspect.isclass(member)
    if name not in _METHODS:
        return False
    # Methods generated by attrs only assign attributes, unless there are validators
    # or converters.
    code = getattr(member, "__code__", None)
    if code is None or not code.co_filename.startswith("<attrs"):
        return True
    return hasattr(cls, "__attrs_post_init__") or any(
        one.validator or one.converter or getattr(one.default, "takes_self", False)
        for one in cls.__attrs_attrs__  # type: ignore[attr-defined] # attrs made it
    )


def _wrap_member(member: Any) -> Any:
    """Wrap a function, even inside a descriptor. Return anything else unchanged."""
    if isinstance(member, classmethod | staticmethod):
        return type(member)(_wrap_member(member.__func__))
    if isinstance(member, property):
        getter, setter = member.fget, member.fset
        return property(
            getter and _wrap_member(getter),
            setter and _wrap_member(setter),
            doc=member.__doc__,
        )
    if not isinstance(member, FunctionType):
        return member
    manager = _MANAGERS.get(member.__code__)
    if manager is not None:
        return wraps(member)(manager(strip_traceback(inspect.unwrap(member))))
    return strip_traceback(member)


_MAKERS: Final[tuple[Any, ...]] = (contextmanager, asynccontextmanager)
# By the code object of the functions that they create.
_MANAGERS: Final = {make(lambda: None).__code__: make for make in _MAKERS}


# --- one error ------------------------------------------------------------------------


def _strip(
    error: BaseException,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> BaseException:
    """Remove the frames and values below *function* from *error*."""
    # The first frame is the wrapper's own.
    trace = error.__traceback__ and error.__traceback__.tb_next
    if trace is not None and _callers_part(trace) is None:
        clearer = _explain(error, function, args, kwargs)
        if clearer is not None:
            return clearer
    _clean(error, trace, _Chain(sys.exception()))
    return error


def _explain(
    error: BaseException,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> UID2Error | None:
    """Return a clearer error if the arguments do not match *function*'s signature."""
    of_arguments = [kind for kind in (ConfigError, InputError) if type(error) is kind]
    if not _is_foreign(error) and not of_arguments:
        return None
    mismatch = _find_mismatch(function, args, kwargs)
    if mismatch is not None:
        # An InputError may quote an argument if that has the wrong type.
        kind = of_arguments[0] if of_arguments else InputError
        return kind(mismatch)
    if isinstance(error, UnicodeError):
        return InputError(
            "A string is not valid Unicode.",
            hint="Look for lone surrogates, or bytes in another encoding.",
        )
    return None


def _is_foreign(error: BaseException) -> bool:
    """Whether *error* is an exception of Python or of another package."""
    package = type(error).__module__.partition(".")[0]
    return isinstance(error, Exception) and package != _PACKAGE


class _Chain:
    """The errors that have been visited in a chain of causes and contexts."""

    def __init__(self, outer: BaseException | None) -> None:
        """Stop at *outer*, which the caller was already handling."""
        self.outer = outer
        self._seen = {id(outer)}

    def enter(self, error: BaseException) -> bool:
        """Record *error*, and return whether it is new."""
        first = id(error) not in self._seen
        self._seen.add(id(error))
        return first


def _clean(error: BaseException, trace: TracebackType | None, chain: _Chain) -> None:
    """Remove the frames from *error* and from all errors that caused it."""
    if not chain.enter(error):
        return
    part = _callers_part(trace)
    if _is_foreign(error) and part is None and trace is not None:
        _note_location(error, trace)
        if not _is_raised_by_us(trace):
            _drop_values(error)
    suppress = error.__suppress_context__
    error.__cause__ = _clean_origin(error.__cause__, chain)
    error.__context__ = _clean_origin(error.__context__, chain)
    error.__suppress_context__ = suppress
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            _clean(one, one.__traceback__, chain)
    error.__traceback__ = part


def _clean_origin(error: BaseException | None, chain: _Chain) -> BaseException | None:
    """Clean the cause of an error, or drop it if it is foreign."""
    if error is None:
        return None
    trace = error.__traceback__
    if _is_foreign(error) and trace is not None and _callers_part(trace) is None:
        return error if error is chain.outer else None
    _clean(error, trace, chain)
    return error


def _callers_part(trace: TracebackType | None) -> TracebackType | None:
    """Return the innermost part of a traceback that is the caller's code, or None."""
    while trace is not None and _package_of(trace) in _OURS_AND_LIBRARIES:
        trace = trace.tb_next
    return trace


def keep_callers_frames(error: BaseException) -> BaseException:
    """Remove the frames from *error* that are not the caller's code, and return it."""
    return error.with_traceback(_callers_part(error.__traceback__))


def _package_of(trace: TracebackType) -> str:
    name = trace.tb_frame.f_globals.get("__name__") or ""
    return str(name).partition(".")[0]


def _is_raised_by_us(trace: TracebackType) -> bool:
    """Whether this package raised the error, so that its message is our own."""
    *_, last = _frames(trace)
    code = last.tb_frame.f_code
    is_raise = code.co_code[last.tb_lasti] == _RAISE
    return is_raise and _package_of(last) == _PACKAGE


def _frames(trace: TracebackType | None) -> Iterator[TracebackType]:
    while trace is not None:
        yield trace
        trace = trace.tb_next


def _note_location(error: BaseException, trace: TracebackType) -> None:
    """Add a note with the location of a defect, because its frames are removed."""
    *_, last = [one for one in _frames(trace) if _package_of(one) == _PACKAGE] or [
        trace
    ]
    code = last.tb_frame.f_code
    module = last.tb_frame.f_globals.get("__name__")
    note = f"Raised in {module}.{code.co_qualname}, line {last.tb_lineno}."
    if note not in getattr(error, "__notes__", ()):
        error.add_note(note)


def _drop_values(error: BaseException) -> None:
    """Remove everything from a foreign error that may quote a value."""
    if isinstance(error, AttributeError):
        error.obj = None
    if type(error).__module__ != "builtins" or not isinstance(error, _SPEAK_OF_TYPES):
        notes = getattr(error, "__notes__", [])
        vars(error).clear()
        error.__notes__ = notes
        error.args = ("The value is not shown, because it may identify a person.",)


# --- arguments of a wrong type --------------------------------------------------------


def check_types(
    cls: type, fields: list[attrs.Attribute[Any]]
) -> list[attrs.Attribute[Any]]:
    """Make a class of options reject values that do not match their annotations.

    A field transformer of attrs. The ConfigError names the option and, for an
    enumeration, the values. Converters of enumerations, which remain for type checkers,
    are replaced.
    """
    names = vars(sys.modules[cls.__module__])
    own = inspect.get_annotations(cls)  # the others are checked by the base class
    return [
        _check_type(one, _resolve(one.type, names)) if one.name in own else one
        for one in fields
    ]


def _check_type(field: attrs.Attribute[Any], hint: Any) -> attrs.Attribute[Any]:
    for kind in (hint, *typing.get_args(hint)):
        if isinstance(kind, EnumType):
            return field.evolve(converter=partial(_to_member, field, kind))

    def check(options: Any, attribute: attrs.Attribute[Any], value: object) -> None:
        if not _fits_deeply(value, hint):
            raise ConfigError(f"{field.name} must be {field.type}.")
        if field.validator is not None:
            field.validator(options, attribute, value)

    return field.evolve(validator=check)


def _to_member(field: attrs.Attribute[Any], kind: EnumType, value: object) -> Any:
    if value is None and field.default is None:
        return None
    try:
        return kind(value)
    except ValueError:
        pass
    raise ConfigError(f"{field.name} must be one of {', '.join(map(str, kind))}.")


def _fits_deeply(value: Any, hint: Any) -> bool:
    """Return whether *value* and its elements match *hint*."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in _UNIONS:
        return any(_fits_deeply(value, one) for one in args)
    if isinstance(value, bool):
        return hint in (bool, Any)
    if not _fits(value, hint):
        return False
    if origin is Mapping:
        pairs = zip((value, value.values()), args, strict=True)
        return all(_fits_deeply(one, kind) for many, kind in pairs for one in many)
    if origin is Sequence:
        return not isinstance(value, str) and all(
            _fits_deeply(one, args[0]) for one in value
        )
    return True


_VARIABLE = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}


def _find_mismatch(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> str | None:
    """Return a sentence about the first argument that does not match its annotation.

    Elements of containers are not checked. An annotation that cannot be evaluated here,
    such as a name that is imported only for type checkers, matches everything.

    Returns:
        A sentence that does not contain the value, or None if all arguments match.
    """
    signature = inspect.signature(function)
    try:
        bound = signature.bind(*args, **kwargs).arguments
    except TypeError:
        return None
    names = getattr(function, "__globals__", {})
    for name, value in bound.items():
        parameter = signature.parameters[name]
        # A default is always valid, even a marker such as that of attrs for
        # factories.
        if value is parameter.default or parameter.kind in _VARIABLE:
            continue
        if not _fits(value, _resolve(parameter.annotation, names)):
            what = inspect.formatannotation(parameter.annotation).strip("'")
            return f"{name} must be {what}, not {type(value).__name__}."
    return None


def _resolve(annotation: Any, names: Mapping[str, Any]) -> Any:
    """Evaluate an annotation of our own source, or return Any if that fails."""
    if annotation is inspect.Parameter.empty:
        return Any
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, dict(names))  # noqa: S307 - the source of this package
    except (AttributeError, NameError, TypeError):
        return Any


def _fits(value: object, hint: Any) -> bool:
    """Whether *value* may match *hint*. If in doubt, return True."""
    if hint is None:
        return value is None
    origin = typing.get_origin(hint) or hint
    if origin in _UNIONS:
        return any(_fits(value, one) for one in typing.get_args(hint))
    if origin is typing.Annotated:
        return _fits(value, typing.get_args(hint)[0])
    kinds = _KINDS.get(origin, origin)
    if typing.is_typeddict(kinds):
        return isinstance(value, dict)
    try:
        return isinstance(value, kinds)
    except TypeError:  # such as a Protocol or a type variable
        return True


_UNIONS = {typing.Union, types.UnionType}
# What an annotation also accepts, or accepts instead if isinstance() cannot check it.
_KINDS: dict[Any, Any] = {
    Any: object,
    # The numbers of NumPy are numbers, too.
    int: Integral,
    float: Real,
    typing.Literal: (str, int, bytes, bool, type(None)),
}
