"""The console as a function from requests to replies, without any HTTP library.

Another page that is open in the same browser could send requests to this machine, or
point its own host name here (DNS rebinding). :class:`Guard` refuses the former by what
browsers say of a request's origin, the latter by the Host header.
"""

from __future__ import annotations

import hmac
import json
import re
from collections import ChainMap
from collections.abc import Collection, Mapping
from importlib.resources import files
from ipaddress import ip_address
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

import attrs
import msgspec

from uid2_async.config import is_loopback
from uid2_async.errors import InputError
from uid2_async.models import Email, EmailHash, Identity, Phone, PhoneHash, as_identity
from uid2_async.operator.console import views
from uid2_async.operator.console.calls import Exchange, ExchangeLog, check_key
from uid2_async.operator.console.views import inspection_view
from uid2_async.operator.http_messages import JSON, TOO_LONG, HttpReply, HttpRequest
from uid2_async.operator.indexes import DataIndex
from uid2_async.operator.state import Fault, OperatorState, RecordedCall
from uid2_async.protocol import base64

SECURITY_HEADERS: Final[Mapping[str, str]] = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'; require-trusted-types-for 'script'; "
        "trusted-types 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""The headers of every reply of the console."""

_OWN_SITES: Final = frozenset({"same-origin", "none"})


class Guard:
    """Rejects requests without the token that are not from the console's own page."""

    def __init__(
        self, host: str, *, allowed_hosts: Collection[str] = (), token: str = ""
    ) -> None:
        """Allow the address *host* and *allowed_hosts*, other names of this machine.

        Requests to these names must send *token* as ``Authorization: Bearer``, and are
        rejected without a token.
        """
        self._host = host.lower()
        self._local = is_loopback(self._host)
        self._allowed_hosts = {name.lower() for name in allowed_hosts}
        self._token = token

    def refusal(self, request: HttpRequest, *, page: bool) -> str | None:
        """Return why *request* is rejected, or None.

        Any site may link to the *page* itself.
        """
        host = request.headers.get("Host", "")
        if _name_of(host) in self._allowed_hosts and not self._has_token(request):
            return "Send the token of the sandbox, as Authorization: Bearer TOKEN."
        if not self._is_own(host):
            return "The Host header does not name this machine."
        return None if page else _foreign_page(request)

    def _is_own(self, host: str) -> bool:
        """Return whether *host* names this machine. Addresses cannot be rebound."""
        name = _name_of(host)
        if is_loopback(name) or name in self._allowed_hosts:
            return True
        return not self._local and (name == self._host or _is_address(name))

    def _has_token(self, request: HttpRequest) -> bool:
        """Return whether *request* carries the token."""
        sent = request.headers.get("Authorization", "").encode()
        expected = f"Bearer {self._token}".encode()
        return bool(self._token) and hmac.compare_digest(sent, expected)


def _name_of(host: str) -> str:
    """Return the name in a Host header; empty if it has none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _foreign_page(request: HttpRequest) -> str | None:
    """Return why a request is not from the console's own page, or None."""
    if request.headers.get("Sec-Fetch-Site", "none") not in _OWN_SITES:
        return "The request comes from another site."
    if request.method != "POST":
        return None
    own = f"http://{request.headers.get('Host', '')}"
    if request.headers.get("Origin", own) != own:
        return "The request comes from another origin."
    kind = request.headers.get("Content-Type", "").partition(";")[0].strip()
    # No form of another page sends this type without asking first.
    return None if kind.lower() == JSON else f"Send JSON, as {JSON}."


def _is_address(name: str) -> bool:
    """Return whether *name* is an IP address."""
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


_MAX_TIMES: Final = 1_000
_MAX_DELAY: Final = 600

# The keys of the sample data are valid for this long.
_MAX_CLOCK_OFFSET: Final = 3_650 * 86_400
_OPT_OUTS_SHOWN: Final = 100


class _Command(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A command of the page. Unknown fields are rejected."""

    def run(self, console: Console) -> str | dict[str, Any]:
        """Run the command, and return a message for the page, or a view.

        Raises:
            InputError: If a field has a value that makes no sense.
        """
        raise NotImplementedError


class SetOptOut(_Command, frozen=True):
    """Opt a person out or in.

    Attributes:
        out: Whether to opt out.
        identity: An email address, a phone number or a hash.
        kind: The kind of *identity*. ``dii`` is a phone number if it starts with ``+``.
        hash: The first-level hash in base64, instead of an identity.
    """

    out: bool
    identity: Annotated[str, msgspec.Meta(max_length=1_000)] = ""
    kind: Literal["dii", "email_hash", "phone_hash"] = "dii"
    hash: Annotated[str, msgspec.Meta(max_length=100)] = ""

    def run(self, console: Console) -> str:
        """Opt the person out or in, and describe the state."""
        if self.hash:
            if self.out or self.identity:
                raise InputError("A hash can only be opted in, without an identity.")
            flh = base64.decode(self.hash) or b""
            who = console.names.get(flh, "This person")
            if not console.index.opt_outs.remove(flh):
                raise InputError("Nobody with this hash has opted out.")
            console.names.maps[0].pop(flh, None)
            return f"{who} is opted in."
        identity = self._identity()
        flh = console.index.first_level_hash(identity)
        if self.out:
            console.index.opt_out(identity, console.state.now_ms())
            console.names[flh] = identity.value
        else:
            console.index.opt_outs.remove(flh)
            console.names.maps[0].pop(flh, None)
        is_out = console.index.opt_outs.is_out(flh, identity.identity_type)
        state = "opted out" if is_out else "opted in"
        if is_out is not self.out:
            return f"{identity.value} is a test identity: always {state} for tokens."
        return f"{identity.value} is {state}."

    def _identity(self) -> Identity:
        text = self.identity.strip()
        if self.kind == "dii":
            return as_identity(text)
        return EmailHash(text) if self.kind == "email_hash" else PhoneHash(text)


class ArmFault(_Command, frozen=True):
    """Arm a fault. The fields are those of :class:`uid2_async.operator.Fault`."""

    times: Annotated[int, msgspec.Meta(ge=1, le=_MAX_TIMES)] = 1
    path: Annotated[str, msgspec.Meta(max_length=200)] | None = None
    status: Annotated[int, msgspec.Meta(ge=400, le=599)] | None = None
    retry_after: Annotated[int, msgspec.Meta(ge=0, le=86_400)] | None = None
    delay: Annotated[float, msgspec.Meta(ge=0, le=_MAX_DELAY)] = 0.0
    cut_after: Annotated[int, msgspec.Meta(ge=0, le=1_048_576)] | None = None
    drop: bool = False
    clock_offset: Annotated[
        float, msgspec.Meta(ge=-_MAX_CLOCK_OFFSET, le=_MAX_CLOCK_OFFSET)
    ] = 0.0

    def run(self, console: Console) -> str:
        """Arm the fault."""
        fields = msgspec.structs.asdict(self)
        times, path = fields.pop("times"), fields.pop("path")
        fault = Fault(**fields)
        if fault == Fault():
            raise InputError("This fault does nothing.")
        console.state.arm(fault, times=times, path=path)
        return "Armed."


class DisarmFault(_Command, frozen=True):
    """Disarm a fault."""

    number: int

    def run(self, console: Console) -> str:
        """Disarm the fault."""
        found = console.state.disarm(self.number)
        return "Disarmed." if found else "It has already been injected."


class SetClock(_Command, frozen=True):
    """Move the clock by *seconds*, negative to move it back. None resets it."""

    seconds: (
        Annotated[float, msgspec.Meta(ge=-_MAX_CLOCK_OFFSET, le=_MAX_CLOCK_OFFSET)]
        | None
    )

    def run(self, console: Console) -> str:
        """Move the clock, but not to a time without keys."""
        if self.seconds is None:
            console.state.advance(-console.state.clock_offset_ms / 1000)
            return "Back to now."
        ahead_ms = console.state.clock_offset_ms + self.seconds * 1000
        if abs(ahead_ms) > _MAX_CLOCK_OFFSET * 1000:
            raise InputError("The clock can be off by ten years at most.")
        console.state.advance(self.seconds)
        return "The clock is set."


class InspectValue(_Command, frozen=True):
    """Identify a value."""

    value: Annotated[str, msgspec.Meta(max_length=100_000)]

    def run(self, console: Console) -> dict[str, Any]:
        """Return what the value is."""
        now_ms = console.state.now_ms()
        return inspection_view(console.index, self.value, now_ms=now_ms)


class ResetOperator(_Command, frozen=True):
    """Remove calls and faults, and restore the clock and the opt-outs."""

    def run(self, console: Console) -> str:
        """Reset the operator."""
        console.reset()
        return "The sandbox is back in its initial state."


class ClearCalls(_Command, frozen=True):
    """Clear the list of calls, but not the operator's own log."""

    def run(self, console: Console) -> str:
        """Clear the list."""
        console.exchanges.clear()
        return "The list is empty."


_COMMANDS: Final[Mapping[str, type[_Command]]] = {
    "opt-out": SetOptOut,
    "faults": ArmFault,
    "disarm": DisarmFault,
    "clock": SetClock,
    "inspect": InspectValue,
    "clear": ClearCalls,
    "reset": ResetOperator,
}


def _parse_command(body: bytes, kind: type[_Command]) -> _Command:
    """Parse a command, or raise an error that names only the position."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        field = str(error).rpartition(" - at `$.")[2].removesuffix("`")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        field = ""
    where = f" at {field}" if field.isidentifier() else ""
    raise InputError(f"The command is not valid{where}.")


_PREFIX: Final = "/_console"

_FILES: Final = {
    "/": ("index.html", "text/html; charset=utf-8"),
    f"{_PREFIX}/console.css": ("console.css", "text/css; charset=utf-8"),
    f"{_PREFIX}/console.js": ("console.js", "text/javascript; charset=utf-8"),
    f"{_PREFIX}/icon.svg": ("icon.svg", "image/svg+xml"),
}

_NUMBER: Final = re.compile(r"[0-9]{1,15}", re.ASCII)
_PAGE: Final = files("uid2_async.operator.console") / "page"


class Console:
    """Shows what an operator does, and controls it.

    Attributes:
        names: The email addresses and phone numbers that were typed here, and those of
            the initial opt-outs, by first-level hash.
    """

    def __init__(self, index: DataIndex, state: OperatorState, *, guard: Guard) -> None:
        """Control an operator by its data and state, if *guard* accepts the request."""
        self.index: DataIndex = index
        self.state: OperatorState = state
        self.exchanges: ExchangeLog = ExchangeLog()
        self._guard = guard
        # Distinguishes this operator from the next one at the same port.
        self._run = index.random(8).hex()
        initial: dict[bytes, str] = {}
        for record in index.data.opt_outs:
            text = record.email if record.email is not None else record.phone or ""
            one = Email(text) if record.email is not None else Phone(text)
            initial[index.first_level_hash(one)] = text
        self.names: ChainMap[bytes, str] = ChainMap({}, initial)

    def owns(self, method: str, path: str) -> bool:
        """Return whether a request is for the console, not for the operator."""
        if path == "/":
            return method == "GET"
        return path == _PREFIX or path.startswith(f"{_PREFIX}/")

    def record(
        self,
        call: RecordedCall,
        request: HttpRequest,
        reply: HttpReply,
        *,
        now_ms: int,
        took: float,
    ) -> None:
        """Keep a call of the operator for the page.

        *now_ms* is the operator's clock, and *took* the duration in seconds.
        """
        authorization = request.header("Authorization")
        client = self.index.api_keys.find(authorization)
        exchange = Exchange(
            at_ms=now_ms,
            took_ms=took * 1000,
            call=call,
            key_check=check_key(client, authorization),
            client=client,
            body=request.body,
            reply=reply,
        )
        self.exchanges.add(exchange)

    def reset(self) -> None:
        """Reset the operator, and remove the calls and the typed names."""
        self.state.reset()
        self.index.opt_outs.reset()
        self.exchanges.clear()
        self.names.maps[0].clear()

    def answer(self, request: HttpRequest, body: bytes | None) -> HttpReply:
        """Answer a request for the console. A *body* of None was too long."""
        why = self._guard.refusal(request, page=request.path == "/")
        if why is not None:
            reply = _error(403, why)
        else:
            reply = TOO_LONG if body is None else self._route(request, body)
        return attrs.evolve(reply, headers={**SECURITY_HEADERS, **reply.headers})

    def _route(self, request: HttpRequest, body: bytes) -> HttpReply:
        """Dispatch a request to a command, a file or a view."""
        name = request.path.removeprefix(f"{_PREFIX}/")
        allowed = "POST" if name in _COMMANDS else "GET"
        if request.method != allowed:
            reply = _error(405, f"Use {allowed}.")
            return attrs.evolve(reply, headers={"Allow": allowed})
        if name in _COMMANDS:
            return self._run_command(name, body)
        if request.path in _FILES:
            file, kind = _FILES[request.path]
            content = (_PAGE / file).read_bytes()
            return HttpReply(status=200, content_type=kind, body=content)
        return self._show(name, request.headers.get("Host", ""))

    def _run_command(self, name: str, body: bytes) -> HttpReply:
        """Run a command, or return what is wrong with it."""
        try:
            done = _parse_command(body, _COMMANDS[name]).run(self)
        except InputError as error:
            return _error(400, error.message)
        return _json({"message": done} if isinstance(done, str) else done)

    def _show(self, name: str, host: str) -> HttpReply:
        """Return the view *name*, which may end with a number."""
        if name == "operator":
            return _json(views.operator_view(self.index, f"http://{host}"))
        what, _, number = name.partition("/")
        if _NUMBER.fullmatch(number):
            if what == "updates":
                return _json(self._updates(int(number)))
            exchange = self.exchanges.find(int(number)) if what == "calls" else None
            if exchange is not None:
                return _json(views.call_view(exchange, self.index))
        return _error(404, "There is no such view, or the call is no longer kept.")

    def _updates(self, after: int) -> dict[str, Any]:
        """Return what has changed since call number *after*."""
        everyone = self.index.opt_outs.listed
        return {
            "run": self._run,
            "now_ms": self.state.now_ms(),
            "ahead_ms": self.state.clock_offset_ms,
            "first": self.exchanges.first,
            "calls": [views.call_summary(one) for one in self.exchanges.after(after)],
            "armed": [views.armed_view(one) for one in self.state.armed],
            "opt_out_count": len(everyone),
            "opt_outs": [
                {
                    "hash": base64.encode_text(flh),
                    "name": self.names.get(flh),
                    "since_ms": since * 1000,
                }
                for flh, since in everyone[:_OPT_OUTS_SHOWN]
            ],
        }


def _json(fields: Mapping[str, Any]) -> HttpReply:
    """Reply with JSON in ASCII, because a request may hold lone surrogates."""
    return HttpReply(status=200, content_type=JSON, body=json.dumps(fields).encode())


def _error(status: int, message: str) -> HttpReply:
    """Reply with an error."""
    return attrs.evolve(_json({"error": message}), status=status)
