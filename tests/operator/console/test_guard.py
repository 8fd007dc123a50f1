"""Nobody but the console's own page may look or change anything."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from uid2_async.operator import Fault, LocalOperator
from uid2_async.operator.console.console import _FILES, _PAGE, Guard
from uid2_async.operator.http_messages import HttpRequest

FOREIGN_HOSTS = [
    "evil.example",
    "127.0.0.1.evil.example",
    "localhost.evil.example:80",
    "evil.example:127.0.0.1",
    "user@evil.example",
    "192.168.0.7",
    "[::1",
    "",
]
ORDERS: dict[str, Any] = {
    "opt-out": {"out": True, "identity": "jane@example.com"},
    "faults": {"status": 503},
    "disarm": {"number": 1},
    "clock": {"seconds": 60},
    "inspect": {"value": "x"},
    "clear": {},
}


def is_untouched(desk: Any) -> bool:
    """Tell whether nothing has been changed, with one fault armed before."""
    updates = desk.see("updates/0")
    return (
        [one["what"] for one in updates["armed"]] == ["HTTP 500"]
        and updates["opt_outs"] == []
        and updates["ahead_ms"] == 0
        and len(updates["calls"]) == 1
    )


@pytest.fixture
def watched(desk: Any) -> Any:
    """Give a console with something to lose."""
    desk.send("GET", "/ops/healthcheck")
    desk.operator.fail_next(Fault(status=500))
    assert is_untouched(desk)
    return desk


@pytest.mark.parametrize(
    "path", ["/", *_FILES, "/_console/updates/0", "/_console/operator"]
)
@pytest.mark.parametrize("host", FOREIGN_HOSTS)
def test_a_foreign_host_sees_nothing(desk: Any, host: str, path: str) -> None:
    """A name that was rebound to this machine comes in the Host header."""
    answer = desk.send("GET", path, Host=host)

    # Older parsers refuse some of these by themselves.
    assert answer.status in {400, 403}
    assert b"api_key" not in answer.body


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
def test_a_foreign_host_changes_nothing(watched: Any, host: str) -> None:
    """The same for orders, each of them."""
    for name, order in ORDERS.items():
        assert watched.order(name, order, Host=host).status in {400, 403}
    assert is_untouched(watched)


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:1", "127.0.0.1:99", "[::1]:8080", "127.9.9.9"]
)
def test_this_machine_has_many_names(desk: Any, host: str) -> None:
    """A published port of a container is another one than the operator's."""
    assert desk.send("GET", "/", Host=host).status == 200


@pytest.mark.parametrize(
    ("listens", "host", "allowed"),
    [
        ("0.0.0.0", "10.1.2.3:8080", True),  # noqa: S104 - judged, not bound
        ("0.0.0.0", "[fd00::1]", True),  # noqa: S104 - as above
        ("0.0.0.0", "evil.example", False),  # noqa: S104 - as above
        ("box.lan", "BOX.lan:1", True),
        ("box.lan", "evil.example", False),
        ("localhost", "10.1.2.3", False),
    ],
)
def test_beyond_this_machine_only_addresses_count(
    listens: str, host: str, *, allowed: bool
) -> None:
    """An address cannot be rebound; of names, only the one that it listens at."""
    request = HttpRequest(method="GET", path="/", headers={"Host": host})

    assert (Guard(listens).refusal(request, page=True) is None) is allowed


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Content_Type": "text/plain"},
        {"Content_Type": "application/x-www-form-urlencoded"},
        {"Content_Type": None},
    ],
)
def test_another_page_changes_nothing(watched: Any, headers: dict[str, Any]) -> None:
    """Origin, Sec-Fetch-Site and the type of a form show it."""
    for name, order in ORDERS.items():
        assert watched.order(name, order, **headers).status == 403
    assert is_untouched(watched)


def test_another_page_reads_nothing(desk: Any) -> None:
    """Neither as a script nor as a picture; a link to the page itself is fine."""
    for path in ("/_console/updates/0", "/_console/operator", "/_console/console.js"):
        assert desk.send("GET", path, Sec_Fetch_Site="cross-site").status == 403
    assert desk.send("GET", "/", Sec_Fetch_Site="cross-site").status == 200


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
def test_only_post_changes_anything(watched: Any, method: str) -> None:
    """Another method is refused, and a preflight from elsewhere gets no leave."""
    origin = f"http://{watched.host}"
    for name in ORDERS:
        answer = watched.send(
            method,
            f"/_console/{name}",
            Origin=origin,
            Access_Control_Request_Method="POST",
        )
        assert answer.status == 405
        assert answer.headers["allow"] == "POST"
        assert "access-control-allow-origin" not in answer.headers
    assert is_untouched(watched)


def test_looking_is_by_get_alone(desk: Any) -> None:
    """Whatever else is asked for."""
    for name in ("updates/0", "operator", "console.js", "nothing"):
        answer = desk.order(name, {})
        assert (answer.status, answer.headers["allow"]) == (405, "GET")


def test_orders_from_the_page_itself_are_obeyed(watched: Any) -> None:
    """With the headers that a browser sends."""
    for name, order in ORDERS.items():
        answer = watched.order(
            name, order, Origin=f"http://{watched.host}", Sec_Fetch_Site="same-origin"
        )
        assert answer.status == 200
    assert not is_untouched(watched)


@pytest.mark.parametrize(
    ("path", "size"),
    [
        *(("/", 0), ("/_console/updates/0", 0), ("/_console/nothing", 0)),
        ("/_console/clear", 1_048_577),
    ],
)
def test_every_answer_is_locked_down(desk: Any, path: str, size: int) -> None:
    """A strict policy, no framing, no sniffing, no cache, no sharing."""
    headers = desk.send("GET", path, bytes(size), Origin="https://evil.example").headers

    policy = headers["content-security-policy"].split("; ")
    assert policy[:2] == ["default-src 'none'", "script-src 'self'"]
    assert {"frame-ancestors 'none'", "base-uri 'none'"} < set(policy)
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "access-control-allow-origin" not in headers


def test_the_page_needs_nothing_from_elsewhere(desk: Any) -> None:
    """All that it loads is the console's own, and nothing is inline."""
    page = desk.send("GET", "/").body.decode()
    links = re.findall(r'(?:src|href)="([^"]*)"', page)

    assert links
    for link in {*links} - {"#calls"}:
        assert desk.send("GET", link).status == 200
    assert "style=" not in page
    assert re.search(r"<script(?! src=)|<style|\son\w+=", page) is None
    for file in ("console.css", "console.js"):
        assert "://" not in (_PAGE / file).read_text("utf-8")


def test_the_script_makes_no_html_of_text() -> None:
    """What comes from a call is shown only as text."""
    script = (_PAGE / "console.js").read_text("utf-8")

    found = re.findall(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|eval|Function\(|"
        r"parseFromString|createContextualFragment|setTimeout\(\"",
        script,
    )
    assert found == []


def test_a_body_has_its_limit(desk: Any) -> None:
    """As for the operator's own calls."""
    answer = desk.send(
        "POST",
        "/_console/inspect",
        bytes(1_048_577),
        Content_Type="application/json",
    )

    assert answer.status == 413


def test_the_console_is_off_unless_asked_for(make_desk: Callable[..., Any]) -> None:
    """A real operator knows neither the page nor its calls."""
    with LocalOperator.in_thread() as operator:
        desk = make_desk(operator)
        for path in ("/", "/_console", "/_console/updates/0", "/_console/console.js"):
            answer = desk.send("GET", path)
            assert answer.status == 404
            assert answer.body.startswith(b"<html><body><h1>Resource not found")
            assert "content-security-policy" not in answer.headers
        assert desk.send("POST", "/_console/clock").status == 404
        assert len(operator.calls) == 5


def test_all_else_is_the_operators(desk: Any) -> None:
    """With the console on, every other path and method answers as before."""
    origin = {"Origin": "https://a.example", "Access_Control_Request_Method": "POST"}

    assert desk.send("POST", "/").status == 404
    assert desk.send("HEAD", "/").status == 404
    assert desk.send("OPTIONS", "/", **origin).status == 204
    assert desk.send("GET", "/_consoles").status == 404
    health = desk.send("GET", "/ops/healthcheck", Host="any.example")
    assert (health.status, health.body) == (200, b"OK")
    assert health.headers.keys() == {"vary", "content-length"}


def test_the_console_is_no_call(desk: Any) -> None:
    """It is in no log, takes no fault and is not in flight."""
    desk.operator.fail_next(Fault(status=503))
    desk.order("clock", {"seconds": 1})
    desk.see("updates/0")

    assert desk.operator.calls == []
    assert desk.operator.most_in_flight == 0
    assert [one["what"] for one in desk.see("updates/0")["armed"]] == ["HTTP 503"]
