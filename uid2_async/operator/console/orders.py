"""What the page can tell the operator to do, each as JSON of a strict shape."""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeVar

import msgspec

from uid2_async.errors import InputError
from uid2_async.models import Email, EmailHash, Identity, Phone, PhoneHash
from uid2_async.operator.state import Fault

__all__ = ["Advance", "Arm", "Disarm", "Inspect", "Nothing", "Switch", "read_order"]

_MOST_TIMES: Final = 1_000
_LONGEST_DELAY: Final = 600
_FURTHEST: Final = 3_650 * 86_400  # for so long the keys of the built-in world hold

_T = TypeVar("_T")


class _Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whatever is not foreseen is refused."""


class Nothing(_Order, frozen=True):
    """An order without arguments."""


class Switch(_Order, frozen=True):
    """Opt a person out or in.

    Attributes:
        out: Whether out.
        identity: An e-mail address, a phone number or a hash.
        kind: What *identity* is; ``dii`` is told apart by a leading plus sign.
        hash: In place of an identity, the first-level hash in base64.
    """

    out: bool
    identity: Annotated[str, msgspec.Meta(max_length=1_000)] = ""
    kind: Literal["dii", "email_hash", "phone_hash"] = "dii"
    hash: Annotated[str, msgspec.Meta(max_length=100)] = ""

    def read(self) -> Identity:
        """Make the identity."""
        if self.kind == "email_hash":
            return EmailHash(self.identity.strip())
        if self.kind == "phone_hash":
            return PhoneHash(self.identity.strip())
        text = self.identity.strip()
        return Phone(text) if text.startswith("+") else Email(text)


class Arm(_Order, frozen=True):
    """Arm a fault; the fields are those of :class:`uid2_async.operator.Fault`."""

    times: Annotated[int, msgspec.Meta(ge=1, le=_MOST_TIMES)] = 1
    path: Annotated[str, msgspec.Meta(max_length=200)] | None = None
    status: Annotated[int, msgspec.Meta(ge=400, le=599)] | None = None
    retry_after: Annotated[int, msgspec.Meta(ge=0, le=86_400)] | None = None
    delay: Annotated[float, msgspec.Meta(ge=0, le=_LONGEST_DELAY)] = 0.0
    cut_after: Annotated[int, msgspec.Meta(ge=0, le=1_048_576)] | None = None
    drop: bool = False
    clock_offset: Annotated[float, msgspec.Meta(ge=-_FURTHEST, le=_FURTHEST)] = 0.0

    def read(self) -> Fault:
        """Make the fault.

        Raises:
            InputError: If nothing would go wrong.
        """
        fault = Fault(
            status=self.status,
            retry_after=self.retry_after,
            delay=self.delay,
            cut_after=self.cut_after,
            drop=self.drop,
            clock_offset=self.clock_offset,
        )
        if fault == Fault():
            raise InputError("This fault does nothing.")
        return fault


class Disarm(_Order, frozen=True):
    """Forget an armed fault."""

    number: int


class Advance(_Order, frozen=True):
    """Set the clock forward, or right.

    Attributes:
        seconds: By how much; negative is back. None sets the clock right.
    """

    seconds: Annotated[float, msgspec.Meta(ge=-_FURTHEST, le=_FURTHEST)] | None

    def check(self, ahead_ms: int) -> None:
        """Refuse to leave the years for which there are keys.

        Raises:
            InputError: If the clock would be off by more than ten years.
        """
        if abs(ahead_ms + (self.seconds or 0) * 1000) > _FURTHEST * 1000:
            raise InputError("The clock can be off by ten years at most.")


class Inspect(_Order, frozen=True):
    """Tell what a value is."""

    value: Annotated[str, msgspec.Meta(max_length=100_000)]


def read_order(body: bytes, kind: type[_T]) -> _T:
    """Read an order.

    Raises:
        InputError: If it is not of the shape; the message names the place alone.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        place = str(error).rpartition(" - at `$.")[2].removesuffix("`")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        place = ""
    where = f" at {place}" if place.isidentifier() else ""
    raise InputError(f"This is not what the console takes{where}.")
