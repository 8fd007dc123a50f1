"""Every public name is in the API reference, and every error in its own page."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

import pages
import uid2_async
from inventory import read_inventory
from uid2_async import errors

MODULES = (
    "uid2_async",
    "uid2_async.bidstream",
    "uid2_async.bulk",
    "uid2_async.bulk.state",
    "uid2_async.doctor",
    "uid2_async.errors",
    "uid2_async.hooks",
    "uid2_async.integrations.aiohttp",
    "uid2_async.integrations.arrow",
    "uid2_async.integrations.fastapi",
    "uid2_async.integrations.opentelemetry",
    "uid2_async.integrations.spark",
    "uid2_async.integrations.starlette",
    "uid2_async.operator",
    "uid2_async.phones",
    "uid2_async.publisher",
    "uid2_async.pytest_plugin",
    "uid2_async.retry",
    "uid2_async.testing",
    "uid2_async.transport",
)
PROTOCOL = sorted(
    f"uid2_async.protocol.{file.stem}"
    for file in Path(uid2_async.__file__).parent.glob("protocol/[!_]*.py")
)
# Names for pytest, or for the library's own use.
INTERNAL = {"HASH_NAME", "Retries", "emit", "hash_identities", "pytest_configure"}


@pytest.mark.parametrize("module", [*MODULES, *PROTOCOL])
def test_every_public_name_is_documented(site: Path, module: str) -> None:
    """Under the module, under uid2_async, or where it is defined."""
    entries = read_inventory(site / "objects.inv", "py:")
    there = importlib.import_module(module)
    for name in set(getattr(there, "__all__", ())) - INTERNAL:
        home = getattr(getattr(there, name), "__module__", module)
        assert entries & {f"{one}.{name}" for one in (module, "uid2_async", home)}, name


def test_every_method_of_the_client_is_documented(site: Path) -> None:
    """The names that start without an underscore."""
    entries = read_inventory(site / "objects.inv", "py:")
    names = {name for name in vars(uid2_async.UID2Client) if name[0] != "_"}

    for name in names - {"run_call"}:
        assert f"uid2_async.UID2Client.{name}" in entries


def test_every_error_has_an_entry() -> None:
    """In errors.md: what it means, who must act, what to do."""
    text = (pages.ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    for name in errors.__all__:
        if name != "TokenFailure":
            assert re.search(rf"^### {name}$", text, re.MULTILINE), name
    for failure in errors.TokenFailure:
        assert f"| `{failure.name}` |" in text
