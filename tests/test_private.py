"""The wrapper for what must not be shown."""

from __future__ import annotations

import copy
import pickle

import pytest

from uid2_async._private import Secret

SECRET = Secret("canary")


@pytest.mark.parametrize(
    "shown",
    [repr(SECRET), str(SECRET), f"{SECRET}", f"{SECRET:>30}", f"{SECRET!r}", [SECRET]],
)
def test_a_secret_is_not_shown(shown: object) -> None:
    """However it is printed, and whatever contains it."""
    assert "canary" not in str(shown)
    assert "Secret(***)" in str(shown)


def test_a_secret_comes_out_by_name_alone() -> None:
    """There is one way to get at it."""
    assert SECRET.reveal() == "canary"
    assert not isinstance(SECRET, str | bytes)
    assert not hasattr(SECRET, "__dict__")


@pytest.mark.parametrize("take", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_secret_does_not_travel(take: object) -> None:
    """Copies and pickles would carry it where nobody looks after it."""
    with pytest.raises(TypeError, match="cannot be copied or pickled"):
        take(SECRET)


def test_a_secret_is_equal_to_itself_alone() -> None:
    """Secrets are compared in constant time where they are compared at all."""
    assert SECRET == SECRET  # noqa: PLR0124 - the rule itself
    assert Secret("canary") != SECRET
    assert SECRET != "canary"
    assert len({SECRET, Secret("canary")}) == 2
