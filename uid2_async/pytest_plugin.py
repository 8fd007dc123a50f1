"""Fixtures and a marker for pytest: test an application without credentials or mocks.

pytest loads this module in every run, so the fixtures import what they need on first
use. docs/testing.md shows how to use them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from uid2_async.client import UID2Client
    from uid2_async.operator import Fault, LocalOperator
    from uid2_async.testing import ManualClock, OperatorThread

__all__ = [
    "pytest_configure",
    "uid2_client",
    "uid2_clock",
    "uid2_env",
    "uid2_operator",
]

_MARKER: Final = (
    "uid2(scope='UID2', role='everything', opted_out=(), faults=()): the setup of the "
    "embedded operator for a test: UID2 or EUID, the credentials of uid2_client, the "
    "people who have opted out, and the faults of the next calls (a list of Faults or "
    "HTTP statuses, or a mapping of paths to such lists)."
)
_DEFAULTS: Final[Mapping[str, Any]] = {
    "scope": "UID2",
    "role": "everything",
    "opted_out": (),
    "faults": (),
}


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line("markers", _MARKER)


@pytest.fixture(scope="session")
def _uid2_thread() -> Iterator[OperatorThread]:
    """Run a thread until all tests of this process are done."""
    from uid2_async.testing import OperatorThread  # noqa: PLC0415 - see the module

    with OperatorThread() as thread:
        yield thread


@pytest.fixture
def _uid2_settings(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Merge the markers of a test. For each keyword, the nearest one is used."""
    settings: dict[str, Any] = {}
    for marker in request.node.iter_markers("uid2"):
        if marker.args or set(marker.kwargs) - set(_DEFAULTS):
            raise pytest.UsageError(
                f"The marker uid2 takes the keywords {', '.join(_DEFAULTS)}."
            )
        settings = {**marker.kwargs, **settings}
    return {**_DEFAULTS, **settings}


@pytest.fixture
def uid2_operator(
    _uid2_thread: OperatorThread, _uid2_settings: dict[str, Any]
) -> LocalOperator:
    """An embedded operator, reset for each test and set up by the marker ``uid2``.

    It runs in its own thread, so that synchronous tests and tests in any event loop can
    use it.
    """
    from uid2_async.models import (  # noqa: PLC0415 - see the module
        Identity,
        IdentityScope,
    )
    from uid2_async.publisher.generate import (  # noqa: PLC0415 - see the module
        close_circuit_breakers,
    )

    if _uid2_settings["scope"] not in set(IdentityScope):
        raise pytest.UsageError("The marker uid2 takes scope='UID2' or 'EUID'.")
    operator = _uid2_thread.operator(IdentityScope(_uid2_settings["scope"]))
    if _uid2_settings["role"] not in operator.credentials:
        known = ", ".join(operator.credentials)
        raise pytest.UsageError(f"The marker uid2 takes one of the roles {known}.")
    operator.reset()
    close_circuit_breakers()
    people = _uid2_settings["opted_out"]
    for identity in [people] if isinstance(people, str | Identity) else people:
        operator.opt_out(identity)
    for path, fault in _faults(_uid2_settings["faults"]):
        operator.fail_next(fault, path=path)
    return operator


@pytest.fixture
def uid2_client(
    uid2_operator: LocalOperator,
    _uid2_thread: OperatorThread,
    _uid2_settings: dict[str, Any],
) -> Iterator[UID2Client]:
    """A client of the embedded operator, as strict about event loops as in production.

    It uses the operator's clock, retries immediately, and is closed after the test.
    """
    with _uid2_thread.client(uid2_operator, role=_uid2_settings["role"]) as client:
        yield client


@pytest.fixture
def uid2_clock(
    uid2_operator: LocalOperator, _uid2_thread: OperatorThread
) -> Iterator[ManualClock]:
    """The operator's clock, which stands still until the test moves it.

    Objects that are created during the test without ``clock=`` use it as well, such as
    the client and the refresher of an application.
    """
    from uid2_async.clock import use_clock  # noqa: PLC0415 - see the module
    from uid2_async.testing import ManualClock  # noqa: PLC0415 - see the module

    before = _uid2_thread.clock
    _uid2_thread.clock = clock = ManualClock(uid2_operator.now)
    with use_clock(clock):
        yield clock
    _uid2_thread.clock = before


@pytest.fixture
def uid2_env(
    uid2_operator: LocalOperator,
    _uid2_settings: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> LocalOperator:
    """The operator, and environment variables with which ``from_env()`` finds it."""
    prefix = uid2_operator.data.scope
    credentials = uid2_operator.credentials[_uid2_settings["role"]]
    monkeypatch.setenv(f"{prefix}_BASE_URL", uid2_operator.url)
    monkeypatch.setenv(f"{prefix}_API_KEY", credentials.api_key)
    monkeypatch.setenv(f"{prefix}_SECRET_KEY", credentials.client_secret)
    # These may be needed for a real operator, but not for this one.
    for name in ("PROXY", "PROXY_FILE", "CA_FILE"):
        monkeypatch.delenv(f"{prefix}_{name}", raising=False)
    return uid2_operator


def _faults(given: Any) -> Iterator[tuple[str | None, Fault]]:
    """Yield the faults of a marker, each with the path that it applies to."""
    from uid2_async.operator import Fault  # noqa: PLC0415 - see the module

    by_path = given if isinstance(given, Mapping) else {None: given}
    for path, faults in by_path.items():
        for one in [faults] if isinstance(faults, Fault | int) else faults:
            yield path, one if isinstance(one, Fault) else Fault(status=one)
