"""Who has opted out, by the names that were typed into the console."""

from __future__ import annotations

from typing import Any, Final

from uid2_async.errors import InputError
from uid2_async.models import Email, Identity, Phone
from uid2_async.operator.console.orders import Switch
from uid2_async.operator.data import OperatorData
from uid2_async.operator.indexes import DataIndex
from uid2_async.protocol import base64

__all__ = ["People"]

_SHOWN: Final = 100


class People:
    """The opt-out store of an operator, as people know each other."""

    def __init__(self, data: OperatorData, index: DataIndex) -> None:
        """Take the names of those who had opted out at the start."""
        self._index = index
        self._initial: dict[bytes, str] = {}
        for record in data.opt_outs:
            text = record.email if record.email is not None else record.phone or ""
            one = Email(text) if record.email is not None else Phone(text)
            self._initial[index.first_level_hash(one)] = text
        self._typed: dict[bytes, str] = {}

    def reset(self) -> None:
        """Forget what was typed."""
        self._typed.clear()

    def _name(self, flh: bytes) -> str | None:
        """Find the name of someone, or None where it was never given here."""
        return self._typed.get(flh, self._initial.get(flh))

    def view(self) -> dict[str, Any]:
        """List who is opted out, latest first, and how many there are."""
        everyone = self._index.opt_outs.people
        people = [
            {
                "hash": base64.encode_text(flh),
                "name": self._name(flh),
                "since_ms": since * 1000,
            }
            for flh, since in everyone[:_SHOWN]
        ]
        return {"people": people, "people_count": len(everyone)}

    def switch(self, order: Switch, now_ms: int) -> dict[str, Any]:
        """Opt someone out or in, and say what came of it.

        Raises:
            InputError: If the order names nobody, or not validly.
        """
        if order.hash:
            if order.out or order.identity:
                raise InputError("A hash alone can be opted in, and nothing else.")
            flh = base64.decode(order.hash) or b""
            who = self._name(flh) or "This person"
            self._opt_in(flh)
            return {"message": f"{who} is opted in."}
        identity = order.read()
        return {"message": self._switch(identity, now_ms, out=order.out)}

    def _switch(self, identity: Identity, now_ms: int, *, out: bool) -> str:
        """Opt an identity out or in, and say what it is then."""
        flh = self._index.first_level_hash(identity)
        opt_outs = self._index.opt_outs
        if out:
            self._index.opt_out(identity, now_ms)
            self._typed[flh] = identity.value
        else:
            self._opt_in(flh)
        is_out = opt_outs.is_out(flh, identity.identity_type)
        state = "opted out" if is_out else "opted in"
        if is_out is not out:
            return f"{identity.value} is a test identity: always {state} for tokens."
        return f"{identity.value} is {state}."

    def _opt_in(self, flh: bytes) -> None:
        """Opt someone in, and forget who it is."""
        self._index.opt_outs.remove(flh)
        self._typed.pop(flh, None)
