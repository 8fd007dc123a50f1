"""What the console can be told to do."""

from __future__ import annotations

import json
from base64 import b64encode
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import pytest

from uid2_async import Phone
from uid2_async.operator import Fault, LocalOperator, OperatorData

GENERATE = "/v2/token/generate"
ADDRESS = "jane@example.com"
HASH = b64encode(sha256(ADDRESS.encode()).digest()).decode()


def status_of(desk: Any, identity: dict[str, str]) -> str:
    """Generate a token, and read the status word."""
    desk.call(GENERATE, identity)
    word: str = json.loads(desk.last()["reply"]["text"])["status"]
    return word


@pytest.mark.parametrize(
    ("order", "identity"),
    [
        ({"identity": f" {ADDRESS} "}, {"email": ADDRESS}),
        ({"identity": "+12025550123"}, {"phone": "+12025550123"}),
        ({"identity": HASH, "kind": "email_hash"}, {"email": ADDRESS}),
        ({"identity": HASH, "kind": "phone_hash"}, {"phone_hash": HASH}),
    ],
)
def test_people_are_opted_out_and_in(
    desk: Any, order: dict[str, str], identity: dict[str, str]
) -> None:
    """The next generate is another; who it was is shown by what was typed."""
    done = desk.order("opt-out", {"out": True, **order})
    (person,) = desk.see("updates/0")["opt_outs"]
    assert done.json["message"] == f"{order['identity'].strip()} is opted out."
    assert person["name"] == order["identity"].strip()
    assert status_of(desk, identity) == "optout"

    done = desk.order("opt-out", {"out": False, **order})
    assert done.json["message"].endswith(" is opted in.")
    assert status_of(desk, identity) == "success"
    assert desk.see("updates/0")["opt_outs"] == []


def test_someone_is_opted_in_by_the_hash_in_the_list(desk: Any) -> None:
    """A person who opted out by a call has no name here."""
    desk.call("/v2/token/logout", {"email": ADDRESS})
    (person,) = desk.see("updates/0")["opt_outs"]
    assert person["name"] is None
    done = desk.order("opt-out", {"out": False, "hash": person["hash"]})

    assert done.json["message"] == "This person is opted in."
    assert status_of(desk, {"email": ADDRESS}) == "success"


@pytest.mark.parametrize(
    ("identity", "out", "said"),
    [
        ("validate@example.com", True, "is a test identity: always opted in for tok"),
        ("optout@example.com", False, "is a test identity: always opted out for tok"),
    ],
)
def test_test_identities_are_not_impressed(
    desk: Any, identity: str, *, out: bool, said: str
) -> None:
    """And the console says so."""
    done = desk.order("opt-out", {"out": out, "identity": identity})

    assert said in done.json["message"]


def test_those_who_had_opted_out_at_the_start_have_names() -> None:
    """A world from a folder can bring them; a reset brings them back."""
    world = OperatorData.load("tests/conformance/uid2/world")
    operator = LocalOperator(world, console=True)
    console = operator._console
    assert console is not None

    view = console._updates(0)

    assert view["opt_out_count"] == len(world.opt_outs) > 0
    names = {one["name"] for one in view["opt_outs"]}
    assert names == {one.email or one.phone for one in world.opt_outs}


def test_who_was_typed_in_is_forgotten(desk: Any) -> None:
    """With the opt-in, and with everything else."""
    typed = desk.operator._console.names.maps[0]
    order = {"identity": ADDRESS}
    for forget in (
        lambda: desk.order("opt-out", {"out": False, **order}),
        desk.operator.reset,
    ):
        desk.order("opt-out", {"out": True, **order})
        assert typed != {}
        forget()
        assert typed == {}


def test_the_list_of_people_is_short(desk: Any) -> None:
    """Of very many the latest are shown, and how many there are."""
    for n in range(101):
        desk.operator.opt_out(f"person{n}@example.com")

    updates = desk.see("updates/0")
    assert (len(updates["opt_outs"]), updates["opt_out_count"]) == (100, 101)


@pytest.mark.parametrize(
    ("order", "status", "headers"),
    [
        ({"status": 429, "retry_after": 7}, 429, {"retry-after": "7"}),
        ({"status": 503}, 503, {}),
        ({"clock_offset": -600.5}, 400, {}),
        ({"delay": 0.01}, 200, {}),
        ({"status": 500, "path": GENERATE}, 500, {}),
        ({"status": 500, "path": "/v3/identity/map"}, 200, {}),
    ],
)
def test_a_fault_hits_the_next_call(
    desk: Any, order: dict[str, Any], status: int, headers: dict[str, str]
) -> None:
    """As often as was said, and where."""
    assert desk.order("faults", {**order, "times": 2}).status == 200
    answers = [desk.call(GENERATE, {"email": ADDRESS}) for _ in range(3)]

    assert [one.status for one in answers] == [status, status, 200]
    assert headers.items() <= answers[0].headers.items()


def test_faults_are_counted_down_and_disarmed(desk: Any) -> None:
    """What is armed is shown with what is left of it."""
    desk.order("faults", {"status": 503, "times": 3})
    desk.order("faults", {"drop": True, "path": "/v3/identity/map"})
    desk.call(GENERATE, {"email": ADDRESS})
    first, second = desk.see("updates/0")["armed"]
    assert (first["what"], first["times"], first["path"]) == ("HTTP 503", 2, None)
    assert (second["what"], second["path"]) == ("no answer", "/v3/identity/map")

    done = desk.order("disarm", {"number": first["number"]})
    again = desk.order("disarm", {"number": first["number"]})

    assert done.json == {"message": "Disarmed."}
    assert again.json == {"message": "It has already been injected."}
    assert desk.see("updates/0")["armed"] == [second]
    assert desk.call(GENERATE, {"email": ADDRESS}).status == 200


def test_time_goes_forward_and_back_to_now(desk: Any) -> None:
    """For all that the operator does."""
    before = desk.see("updates/0")["now_ms"]
    desk.order("clock", {"seconds": 7_200})
    desk.order("clock", {"seconds": -3_600})
    updates = desk.see("updates/0")
    assert updates["ahead_ms"] == 3_600_000
    assert 3_600_000 <= updates["now_ms"] - before < 3_660_000
    assert desk.operator.now.timestamp() * 1000 >= updates["now_ms"]
    desk.order("clock", {"seconds": None})

    assert desk.see("updates/0")["ahead_ms"] == 0


@pytest.mark.parametrize(
    ("name", "order", "said"),
    [
        ("opt-out", {"out": True, "identity": "nobody"}, "The email is not valid."),
        ("opt-out", {"out": True}, "The email is not valid."),
        ("opt-out", {"out": True, "hash": "x"}, "A hash can only be opted in"),
        ("opt-out", {"out": False, "hash": "eA=="}, "Nobody with this hash"),
        ("opt-out", {"out": False, "hash": "%"}, "Nobody with this hash"),
        ("opt-out", {"out": "yes"}, "The command is not valid at out."),
        ("opt-out", {"out": True, "identity": "x" * 1_001}, "valid at identity."),
        ("opt-out", {"out": True, "kind": "x@example.com"}, "valid at kind."),
        ("opt-out", [], "The command is not valid."),
        ("faults", {}, "This fault does nothing."),
        ("faults", {"status": 200}, "valid at status."),
        ("faults", {"status": 503, "times": 0}, "valid at times."),
        ("faults", {"status": 503, "body": "x"}, "The command is not valid."),
        ("faults", {"delay": 601}, "valid at delay."),
        ("clock", {}, "The command is not valid."),
        ("clock", {"seconds": 1e12}, "valid at seconds."),
        ("inspect", {"value": "x" * 100_001}, "valid at value."),
        ("clear", {"all": True}, "The command is not valid."),
    ],
)
def test_an_order_that_cannot_be_obeyed(
    desk: Any, name: str, order: Any, said: str
) -> None:
    """It is refused as a whole, and the message repeats nothing of it."""
    answer = desk.order(name, order)

    assert answer.status == 400
    assert said in answer.json["error"]
    assert "x@example.com" not in answer.json["error"]
    assert desk.see("updates/0")["armed"] == []
    assert desk.see("updates/0")["opt_outs"] == []


def test_what_is_no_json_is_no_order(desk: Any) -> None:
    """Whatever the bytes are."""
    for body in (b"", b"{", b"\xff", b"[" * 20_000):
        answer = desk.send(
            "POST", "/_console/clock", body, Content_Type="application/json"
        )
        assert answer.status == 400


def test_the_clock_stays_within_ten_years(desk: Any) -> None:
    """For which there are keys, and which every calendar holds."""
    most = 3_650 * 86_400
    assert desk.order("clock", {"seconds": most}).status == 200
    assert desk.order("clock", {"seconds": 1}).status == 400
    assert desk.see("updates/0")["ahead_ms"] == most * 1000


@pytest.mark.parametrize(
    "path",
    ["calls/1", "calls/x", "calls/", "calls/" + "9" * 30, "nothing", "updates/-1"],
)
def test_what_is_not_there(desk: Any, path: str) -> None:
    """Gone or never been: 404 with a word."""
    answer = desk.send("GET", f"/_console/{path}")

    assert answer.status == 404
    assert "no longer kept" in answer.json["error"]


def test_another_operator_is_told_apart(make_desk: Any) -> None:
    """An open page starts again when the sandbox is restarted."""
    runs = set()
    for _ in range(2):
        with LocalOperator.in_thread(console=True) as operator:
            runs.add(make_desk(operator).see("updates/0")["run"])

    assert len(runs) == 2


@pytest.mark.parametrize(
    ("order", "method"),
    [
        (
            ("opt-out", {"out": True, "identity": "+12025550123"}),
            lambda operator: operator.opt_out(Phone("+12025550123")),
        ),
        (
            ("faults", {"status": 503, "times": 2, "path": GENERATE}),
            lambda operator: operator.fail_next(Fault(status=503), 2, path=GENERATE),
        ),
        (("clock", {"seconds": 3_600}), lambda operator: operator.advance(3_600)),
        (("reset", {}), lambda operator: operator.reset()),
    ],
    ids=["opt out", "fault", "clock", "reset"],
)
def test_an_order_does_what_the_method_does(
    make_desk: Any, order: Any, method: Any
) -> None:
    """Tests in Python and in other languages leave the same operator behind."""
    views = []
    for act in (lambda operator: make_desk(operator).order(*order), method):
        with LocalOperator.in_thread(
            console=True, clock=lambda: datetime(2026, 1, 1, tzinfo=UTC)
        ) as operator:
            desk = make_desk(operator)
            operator.opt_out(ADDRESS)
            operator.fail_next(Fault(drop=True), path="/v2/token/logout")
            desk.call(GENERATE, {"email": ADDRESS})
            act(operator)
            view = desk.see("updates/0")
            for name in ("run", "calls", "first"):
                view[name] = bool(view[name])
            for person in view["opt_outs"]:
                del person["name"]  # only what was typed has one
            views.append((view, len(operator.calls)))

    assert views[0] == views[1]
