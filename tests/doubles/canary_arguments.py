"""Creates arguments from annotations, both valid and invalid ones."""

from __future__ import annotations

import asyncio
import collections.abc
import enum
import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pyarrow as pa
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from starlette.requests import HTTPConnection

import uid2_async
from canaries import (
    ADVERTISING_TOKEN,
    API_KEY,
    CLIENT_SECRET,
    EMAIL,
    KEY,
    PHONE,
    REFRESH_TOKEN,
    REPLY_KEY,
    UID,
)
from uid2_async.blocking import BlockingKeyStore, BlockingTokenRefresher
from uid2_async.models import IdentityType
from uid2_async.operator import LocalOperator, OperatorData
from uid2_async.protocol.base64 import encode_text
from uid2_async.protocol.inspection import Inspection, inspect_value
from uid2_async.transport import Reply, Request

NOW = datetime(2030, 1, 1, tzinfo=UTC)
SURROGATE = f"\ud800{EMAIL}"


class Shown:
    """An object of an unexpected type whose repr is a canary."""

    def __repr__(self) -> str:
        """Return the canary."""
        return EMAIL


WRONG: tuple[object, ...] = (
    *(None, EMAIL, PHONE, UID, SURROGATE, EMAIL.encode(), CLIENT_SECRET[:-3]),
    *([EMAIL], [SURROGATE], {EMAIL: UID}, {"advertising_token": SURROGATE}, Shown()),
    *(f"https://user:{API_KEY}@[", f'{{"a": "{EMAIL}"', ADVERTISING_TOKEN, 7),
)
"""Values that are of the wrong type or malformed for almost any parameter."""


class Refusing:
    """A transport, fetch, source or hook that fails as with a broken operator."""

    max_connections = 4

    async def send(self, request: Request) -> Reply:
        """Return a reply whose text would steer a terminal."""
        body = b'{"status": "client_error", "message": "\\u001b[2J\\nforged"}'
        return Reply(status=400, headers={}, body=body)

    async def aclose(self) -> None:
        """Do nothing."""


def make_ring() -> Any:
    """Create a key ring whose key is a canary."""
    now = int(NOW.timestamp())
    key = {"id": 64, "keyset_id": 1, "created": now, "activates": now}
    body = {
        "keys": [key | {"expires": now + 9**9, "secret": encode_text(KEY)}],
        "master_keyset_id": 1,
        "default_keyset_id": 1,
        "caller_site_id": 11,
    }
    text = msgspec.json.encode({"body": body, "status": "success"})
    return uid2_async.KeyRing.from_json(text)


def make_tokens() -> uid2_async.IdentityTokens:
    """Create identity tokens to refresh."""
    return uid2_async.IdentityTokens(
        advertising_token=ADVERTISING_TOKEN,
        refresh_token=REFRESH_TOKEN,
        refresh_response_key=encode_text(REPLY_KEY),
        identity_expires=NOW + timedelta(hours=1),
        refresh_from=NOW,
        refresh_expires=NOW + timedelta(days=1),
    )


def make_client() -> uid2_async.UID2Client:
    """Create a client whose requests are rejected."""
    return uid2_async.UID2Client(
        "http://127.0.0.1:9",
        api_key=API_KEY,
        client_secret=CLIENT_SECRET,
        transport=Refusing(),  # type: ignore[arg-type] # accepts every request
        retry=uid2_async.RetryPolicy.never(),
        timeout=2.0,
    )


@functools.cache
def make_blocking() -> uid2_async.BlockingClient:
    """Return the one blocking client whose requests are rejected. Each has a thread."""
    return uid2_async.BlockingClient(
        "http://127.0.0.1:9",
        api_key=API_KEY,
        client_secret=CLIENT_SECRET,
        transport=Refusing(),  # type: ignore[arg-type] # accepts every request
        retry=uid2_async.RetryPolicy.never(),
        timeout=2.0,
    )


def make_connection() -> HTTPConnection:
    """Create a request for a page with a forged session."""
    session = {"uid2": {"advertising_token": SURROGATE}}
    return HTTPConnection({"type": "http", "session": session, "headers": []})


class Maker:
    """Creates arguments.

    Attributes:
        folder: The folder for files.
    """

    def __init__(self, folder: Path) -> None:
        """Write a file with canaries to *folder*."""
        self.folder = folder
        self._file = folder / "in.csv"
        self._file.write_text(f"email\n{EMAIL}\n", encoding="utf-8")
        self._made = 0

    def arguments(self, function: Callable[..., Any]) -> dict[str, Any]:
        """Create the required and the optional arguments of *function*."""
        found = {}
        for parameter in parameters_of(function):
            name = parameter.name
            try:
                found[name] = self.make(parameter.annotation, name, function)
            except (LookupError, NameError):
                # The type belongs to a library. If it is required, it is in _VALUES.
                if parameter.default is parameter.empty:
                    raise
        return found

    def make(self, hint: Any, name: str, function: Any) -> Any:
        """Create one argument."""
        by_name = self._by_name(name)
        if isinstance(hint, typing.ForwardRef):
            hint = hint.__forward_arg__
        if isinstance(hint, str):
            hint = _resolve(hint, function)
        if by_name is not None and _may_be(by_name, hint):
            return by_name
        return self._of(hint, name, function)

    def _by_name(self, name: str) -> Any:
        if name in {"source", "inputs"}:
            return self._file if name == "source" else [self._file]
        if name in _SUFFIXES:
            self._made += 1
            return self.folder / f"out{self._made}{_SUFFIXES[name]}"
        return _BY_NAME.get(name)

    def _of(self, hint: Any, name: str, function: Any) -> Any:  # noqa: PLR0911 - one for each kind of type
        origin, inner = typing.get_origin(hint), typing.get_args(hint)
        if hint is None or hint is type(None):
            return None
        if origin in {typing.Union, types.UnionType}:
            nested = inspect.isclass(function) and type(None) in inner
            return None if nested else self.make(inner[0], name, function)
        if origin in {typing.Annotated, typing.Required, typing.NotRequired}:
            return self.make(inner[0], name, function)
        if origin is typing.Literal:
            return inner[0]
        if origin in _CONTAINERS:
            return _CONTAINERS[origin](
                [self.make(one, name, function) for one in inner if one is not ...]
            )
        kind = origin or hint
        if kind in _VALUES:
            return _VALUES[kind]()
        if isinstance(kind, typing.TypeVar) or kind is Any or kind is object:
            return EMAIL
        if kind is collections.abc.Callable:
            return _refuse
        return self._instance(kind)

    def _instance(self, kind: Any) -> Any:
        """Create an instance of our own class, or fail: then add it to _VALUES."""
        if isinstance(kind, type) and issubclass(kind, enum.Enum):
            return next(iter(kind))
        if isinstance(kind, type) and typing.is_typeddict(kind):
            return {}
        if getattr(kind, "_is_protocol", False):
            return Refusing()
        if isinstance(kind, type) and kind.__module__.startswith("uid2_async"):
            return kind(**self.arguments(kind))
        raise LookupError(f"tests/doubles/canary_arguments.py cannot make a {kind}.")


@functools.cache
def parameters_of(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Return the parameters that can be passed, without self and cls."""
    variable = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    return [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.name not in {"self", "cls"} and parameter.kind not in variable
    ]


@functools.cache
def _resolve(hint: str, function: Any) -> Any:
    home = inspect.getmodule(inspect.unwrap(function))
    if inspect.isclass(function):
        for base in function.__mro__:
            if "__init__" in vars(base) and base is not object:
                home = inspect.getmodule(base)
                break
    names = {**_NAMES, **vars(home or uid2_async)}
    return eval(hint, names)  # noqa: S307 - our own annotation


def _may_be(value: Any, hint: Any) -> bool:
    text = str(hint)
    return type(value).__name__ in text or "Any" in text or "Path" in text


async def _refuse(*_: object, **__: object) -> None:
    """A callback of the caller."""
    raise uid2_async.errors.ConnectError("refused")


_SAMPLE = OperatorData.sample()
_SUFFIXES = {"target": ".csv", "delta": ".delta.csv", "ca_file": ".pem", "path": ".db"}
"""The names of parameters that are new files, and how those end."""
_BY_NAME: dict[str, Any] = {
    "base_url": "http://127.0.0.1:9",
    "api_key": API_KEY,
    "client_secret": CLIENT_SECRET,
    "server_public_key": _SAMPLE.keypairs[0].public_key,
    "subscription_id": "4WvryDGbR5",
    "origin": "https://example.com",
    "identity": EMAIL,
    "token": ADVERTISING_TOKEN,
    "raw_uid": UID,
    "secret": KEY,
    "country": "DE",
    "name": "cookie",
    **dict.fromkeys(("timeout", "stall_timeout", "refresh_every"), 0.1),
    "text": EMAIL,
}
_NAMES: dict[str, Any] = {
    **{name: getattr(uid2_async, name) for name in uid2_async.__all__},
    **vars(typing),
    **vars(collections.abc),
    "aiohttp": aiohttp,
    "datetime": datetime,
    "Path": Path,
    "asyncio": asyncio,
    "pa": pa,
    "IdentityType": IdentityType,
    "LocalOperator": LocalOperator,
}
_CONTAINERS: dict[Any, Callable[[list[Any]], Any]] = {
    **dict.fromkeys((list, collections.abc.Sequence, collections.abc.Iterable), list),
    **dict.fromkeys((collections.abc.Collection, collections.abc.Iterator), iter),
    **dict.fromkeys((collections.abc.AsyncIterable,), list),
    **dict.fromkeys((set, frozenset, collections.abc.Set), set),
    tuple: tuple,
    **dict.fromkeys(
        (dict, collections.abc.Mapping, collections.abc.MutableMapping),
        lambda pair: {pair[0]: pair[1]},
    ),
}
_VALUES: Mapping[Any, Callable[[], Any]] = {
    str: lambda: EMAIL,
    bytes: EMAIL.encode,
    bytearray: lambda: bytearray(EMAIL.encode()),
    int: lambda: 7,
    float: lambda: 1.0,
    bool: lambda: False,
    type: lambda: str,
    datetime: lambda: NOW,
    timedelta: lambda: timedelta(1),
    Path: lambda: Path("/nonexistent"),
    dict: dict,
    list: list,
    BaseException: lambda: ValueError("nothing"),
    Exception: lambda: ValueError("nothing"),
    types.TracebackType: lambda: None,
    AESGCM: lambda: AESGCM(KEY),
    ec.EllipticCurvePrivateKey: lambda: ec.generate_private_key(ec.SECP256R1()),
    ec.EllipticCurvePublicKey: lambda: ec.generate_private_key(
        ec.SECP256R1()
    ).public_key(),
    HTTPConnection: make_connection,
    pa.RecordBatch: lambda: pa.record_batch({"email": [EMAIL]}),
    OperatorData: lambda: _SAMPLE,
    Request: lambda: Request(
        path="/v2/token/refresh",
        headers={"Authorization": API_KEY},
        body=REFRESH_TOKEN.encode(),
        timeout=0.1,
    ),
    Inspection: lambda: inspect_value(EMAIL),
    uid2_async.MapOptions: uid2_async.MapOptions,
    uid2_async.UID2Client: make_client,
    uid2_async.BlockingClient: make_blocking,
    BlockingTokenRefresher: lambda: make_blocking().token_refresher(),
    BlockingKeyStore: lambda: make_blocking().sharing_keys(),
    uid2_async.KeyRing: make_ring,
    uid2_async.IdentityTokens: make_tokens,
}
