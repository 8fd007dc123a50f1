"""Values that must never be shown, and functions that look for them."""

from __future__ import annotations

import os
import pickle
import traceback
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from types import TracebackType

from uid2_async.protocol.base64 import encode_text

KEY = sha256(b"the client secret").digest()
REPLY_KEY = sha256(b"the key of a refresh reply").digest()
CLIENT_SECRET = encode_text(KEY)
API_KEY = "canary-api-key-5f0e7c1b9d"
EMAIL = "canary.person@example.com"
PHONE = "+15550009876543"
UID = encode_text(sha256(b"a raw UID").digest())
ADVERTISING_TOKEN = "CanaryAdvertisingTokenAAAAbcdefghijkl"
REFRESH_TOKEN = "CanaryRefreshToken" * 20 + "CanaryRefreshToken++++++++++"

CANARIES = {
    "API key": API_KEY,
    "client secret": CLIENT_SECRET,
    "client secret, raw": repr(KEY)[2:40],
    "reply key": encode_text(REPLY_KEY),
    "email": EMAIL,
    "phone": PHONE,
    "email, hashed": encode_text(sha256(b"canary.person@example.com").digest()),
    "phone, hashed": encode_text(sha256(PHONE.encode()).digest()),
    "raw UID": UID,
    "advertising token": ADVERTISING_TOKEN[:20],
    "refresh token": REFRESH_TOKEN[:20],
}
"""The values to look for, by name."""

# The frames of the tests are the caller's, and contain what the caller passed.
_OWN = f"{Path(__file__).parents[1]}{os.sep}"
_PACKAGE = f"{Path(__file__).parents[2] / 'uid2_async'}{os.sep}"


def find_canaries(text: str) -> list[str]:
    """Return the names of the canaries in *text*."""
    return [name for name, canary in CANARIES.items() if canary in text]


def find_leaks(error: BaseException) -> list[str]:
    """Return what an error shows of the canaries, and where.

    Checks its text, arguments, attributes, notes and traceback, the repr of every local
    variable of every frame except the caller's, and the same for all errors that caused
    it.
    """
    return [
        f"{name} in {place} of {type(one).__name__}"
        for one in _chain(error, set())
        for place, text in _texts(one)
        for name in find_canaries(text)
    ]


def find_frames(error: BaseException) -> list[str]:
    """Return the frames of our package in an error, except that of the wrapper.

    A traceback ends in the wrapper of the public callable, whose frame holds no
    variables.
    """
    return [
        f"frame of {tb.tb_frame.f_code.co_name} in {tb.tb_frame.f_code.co_filename}"
        for one in _chain(error, set())
        for tb in _frames(one.__traceback__)
        if tb.tb_frame.f_code.co_filename.startswith(_PACKAGE)
        and "failure" not in tb.tb_frame.f_code.co_varnames
    ]


# The attributes in which Python's errors store values.
_SLOTS = ("object", "obj", "doc", "value", "filename", "filename2")


def _chain(error: BaseException | None, seen: set[int]) -> Iterator[BaseException]:
    """Yield an error and all errors that it references."""
    if error is None or id(error) in seen:
        return
    seen.add(id(error))
    yield error
    yield from _chain(error.__cause__, seen)
    yield from _chain(error.__context__, seen)
    for one in getattr(error, "exceptions", ()):
        yield from _chain(one, seen)


def _texts(error: BaseException) -> Iterator[tuple[str, str]]:
    """Yield everything that an error shows, with its location."""
    yield "text", str(error)
    yield "repr", repr(error)
    yield "args", repr(error.args)
    yield "attributes", repr(vars(error))
    yield "its own attributes", repr([getattr(error, name, None) for name in _SLOTS])
    with suppress(Exception):
        yield "pickle", pickle.dumps(error).decode("latin-1")
    lines = traceback.format_exception(error, chain=False)
    own = [i for i, line in enumerate(lines) if _OWN in line]
    yield "traceback", "".join(line for i, line in enumerate(lines) if i not in own)
    for tb in _frames(error.__traceback__):
        code = tb.tb_frame.f_code
        if code.co_filename.startswith(_OWN):
            continue
        for name, value in tb.tb_frame.f_locals.items():
            yield f"{code.co_name}: {name}", _repr(value)


def _frames(tb: TracebackType | None) -> Iterator[TracebackType]:
    """Iterate over the frames of a traceback."""
    while tb is not None:
        yield tb
        tb = tb.tb_next


def _repr(value: object) -> str:
    """Return the repr of a local variable, as error reporting tools do."""
    try:
        return repr(value)
    except Exception as error:  # noqa: BLE001 - a half-made object may have none
        return type(error).__name__
