"""The console as a function from requests to replies, without any HTTP library."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any, Final

import attrs

from uid2_async.errors import InputError
from uid2_async.operator.console import orders, views
from uid2_async.operator.console.exchanges import Exchange, Exchanges, identify
from uid2_async.operator.console.guard import SECURITY_HEADERS, Guard
from uid2_async.operator.console.inspecting import inspect
from uid2_async.operator.console.people import People
from uid2_async.operator.data import OperatorData
from uid2_async.operator.exchange import JSON, Reply, Request
from uid2_async.operator.state import Call, OperatorState
from uid2_async.operator.world import World

__all__ = ["Console"]

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
    """Shows what an operator does, and tells it what to do."""

    def __init__(
        self, data: OperatorData, world: World, state: OperatorState, *, guard: Guard
    ) -> None:
        """Watch the operator that answers from *world* to whom *guard* lets in."""
        self._exchanges = Exchanges()
        self._data = data
        self._world = world
        self._state = state
        self._guard = guard
        self._people = People(data, world)
        # Tells one operator from the next at the same port.
        self._run = world.random(8).hex()

    def owns(self, method: str, path: str) -> bool:
        """Tell whether a request is for the console and not for the operator."""
        if path == "/":
            return method == "GET"
        return path == _PREFIX or path.startswith(f"{_PREFIX}/")

    def record(
        self, call: Call, request: Request, reply: Reply, *, now_ms: int, took: float
    ) -> None:
        """Keep a call of the operator for whoever will look at it.

        Args:
            call: What the log of calls keeps.
            request: The request with its body.
            reply: The whole answer.
            now_ms: The operator's clock, as the call saw it.
            took: How long it took, in s.
        """
        authorization = request.header("Authorization")
        exchange = Exchange(
            at_ms=now_ms,
            took_ms=took * 1000,
            call=call,
            caller=identify(self._world.api_keys, authorization),
            body=request.body,
            reply=reply,
        )
        self._exchanges.add(exchange)

    def reset(self) -> None:
        """Forget the calls, and who was typed in."""
        self._exchanges.clear()
        self._people.reset()

    def answer(self, request: Request) -> Reply:
        """Answer a request that the console owns."""
        why = self._guard.refusal(request, page=request.path == "/")
        reply = self._route(request) if why is None else _fault(403, why)
        return attrs.evolve(reply, headers={**SECURITY_HEADERS, **reply.headers})

    def _route(self, request: Request) -> Reply:
        """Find who answers."""
        name = request.path.removeprefix(f"{_PREFIX}/")
        if name in self._orders:
            if request.method != "POST":
                return _no_method("POST")
            return self._obey(name, request.body)
        if request.method != "GET":
            return _no_method("GET")
        if request.path in _FILES:
            file, kind = _FILES[request.path]
            body = (_PAGE / file).read_bytes()
            return Reply(status=200, content_type=kind, body=body)
        return self._show(name, request.headers.get("Host", ""))

    # --- looking ----------------------------------------------------------------------

    def _show(self, name: str, host: str) -> Reply:
        """Answer what is asked for by its name, and a number where there is one."""
        if name == "world":
            return _json(views.world_view(self._data, f"http://{host}"))
        what, _, number = name.partition("/")
        if _NUMBER.fullmatch(number):
            if what == "news":
                return _json(self._news(int(number)))
            exchange = self._exchanges.find(int(number)) if what == "calls" else None
            if exchange is not None:
                return _json(views.call_view(exchange, self._world))
        return _fault(404, "There is no such thing here, or not any more.")

    def _news(self, after: int) -> dict[str, Any]:
        """Tell what has changed since the call number *after*."""
        return {
            "run": self._run,
            "now_ms": self._state.now_ms(),
            "ahead_ms": self._state.ahead_ms,
            "first": self._exchanges.first,
            "calls": [views.summary(one) for one in self._exchanges.after(after)],
            "armed": [views.armed_view(one) for one in self._state.armed],
            **self._people.view(),
        }

    # --- doing ------------------------------------------------------------------------

    def _obey(self, name: str, body: bytes) -> Reply:
        """Do what is asked for, or say what is wrong with it."""
        kind, act = self._orders[name]
        try:
            return _json(act(self, orders.read_order(body, kind)))
        except InputError as error:
            return _fault(400, error.message)

    def _switch(self, order: orders.Switch) -> dict[str, Any]:
        """Opt a person out or in."""
        return self._people.switch(order, self._state.now_ms())

    def _arm(self, order: orders.Arm) -> dict[str, Any]:
        """Arm a fault."""
        self._state.arm(order.read(), times=order.times, path=order.path)
        return {"message": "Armed."}

    def _disarm(self, order: orders.Disarm) -> dict[str, Any]:
        """Forget an armed fault."""
        found = self._state.disarm(order.number)
        return {"message": "Disarmed." if found else "It has hit already."}

    def _set_clock(self, order: orders.Advance) -> dict[str, Any]:
        """Set the clock forward, or right."""
        if order.seconds is None:
            self._state.set_right()
            return {"message": "Back to now."}
        order.check(self._state.ahead_ms)
        self._state.advance(order.seconds)
        return {"message": "The clock is set."}

    def _inspect(self, order: orders.Inspect) -> dict[str, Any]:
        """Tell what a value is."""
        return inspect(self._world, order.value, now_ms=self._state.now_ms())

    def _reset(self, _order: orders.Nothing) -> dict[str, Any]:
        """Forget calls, faults, the clock's advance and opt-outs since the start."""
        self._state.reset()
        self._world.opt_outs.reset()
        self.reset()
        return {"message": "The sandbox is as it was at its start."}

    def _clear(self, _order: orders.Nothing) -> dict[str, Any]:
        """Forget the calls that are shown; the log of calls keeps them."""
        self._exchanges.clear()
        return {"message": "The list is empty."}

    _orders: Final[Mapping[str, tuple[type[Any], Callable[..., dict[str, Any]]]]] = {
        "people": (orders.Switch, _switch),
        "faults": (orders.Arm, _arm),
        "disarm": (orders.Disarm, _disarm),
        "clock": (orders.Advance, _set_clock),
        "inspect": (orders.Inspect, _inspect),
        "clear": (orders.Nothing, _clear),
        "reset": (orders.Nothing, _reset),
    }


def _json(fields: Mapping[str, Any]) -> Reply:
    """Answer JSON, in ASCII: what was sent may hold lone surrogates."""
    return Reply(status=200, content_type=JSON, body=json.dumps(fields).encode())


def _fault(status: int, message: str) -> Reply:
    """Answer what is wrong."""
    return attrs.evolve(_json({"error": message}), status=status)


def _no_method(allowed: str) -> Reply:
    """Answer another method than the one that is due."""
    reply = _fault(405, f"Use {allowed}.")
    return attrs.evolve(reply, headers={"Allow": allowed})
