"""Which path leads where."""

from __future__ import annotations

import attrs
import pytest

from uid2_async.operator import dispatch, http_messages as operator_http_messages
from uid2_async.operator.data import Settings
from uid2_async.operator.http_messages import Reply
from uid2_async.protocol.mapping import STATUS_PATH

SETTINGS = Settings()


@pytest.mark.parametrize(
    ("path", "clean"),
    [
        ("/v2/x", "/v2/x"),
        ("//v2///x/", "/v2/x"),
        ("/v2/x//", "/v2/x"),
        ("/", "/"),
        ("//", "/"),
    ],
)
def test_slashes_are_collapsed(path: str, clean: str) -> None:
    """One at the end is tolerated (docs/protocol.md 1.1)."""
    assert operator_http_messages.clean_path(path) == clean


@pytest.mark.parametrize(
    ("path", "setting"),
    [
        (STATUS_PATH, "optout_status_api_enabled"),
        ("/v2/token/client-generate", "client_side_token_generate"),
    ],
)
def test_two_routes_can_be_switched_off(path: str, setting: str) -> None:
    """Then they do not exist (docs/protocol.md 1.9)."""
    off = attrs.evolve(SETTINGS, **{setting: False})
    found = dispatch.find("POST", path, off)

    assert not isinstance(dispatch.find("POST", path, SETTINGS), Reply)
    assert isinstance(found, Reply)
    assert found.status == 404


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("GET", "/v2/key/sharing", "POST"), ("POST", dispatch.HEALTH_PATH, "GET")],
)
def test_a_wrong_method_is_told_the_right_one(
    method: str, path: str, allowed: str
) -> None:
    """405 with Allow and nothing else (docs/protocol.md 1.9)."""
    assert dispatch.find(method, path, SETTINGS) == Reply(
        status=405, headers={"Allow": allowed}
    )
