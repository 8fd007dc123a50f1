"""The package as a whole: public names, imports, docstrings."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import inspect
import pkgutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

import uid2_async
from uid2_async import bulk

ROOT = Path(__file__).parent.parent
# Importing these needs what only some users have installed.
EXTRAS = {"uid2_async.__main__"} | {
    f"uid2_async.integrations.{name}"
    for name in ("fastapi", "opentelemetry", "starlette")
    if importlib.util.find_spec(name) is None
}


def packages() -> list[str]:
    """List the packages in ours, and itself."""
    found = pkgutil.walk_packages(uid2_async.__path__, "uid2_async.")
    return ["uid2_async", *(one.name for one in found if one.ispkg)]


def run(code: str) -> str:
    """Run *code* in a Python of its own."""
    done = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_all_public_names_are_there_in_order() -> None:
    """``__all__`` has what type checkers see, and everything in it can be had."""
    source = ast.parse(Path(uid2_async.__file__).read_text(encoding="utf-8"))
    seen = [
        name.asname
        for block in source.body
        if isinstance(block, ast.If)
        for imported in block.body
        if isinstance(imported, ast.ImportFrom)
        for name in imported.names
    ]
    assert uid2_async.__all__ == sorted(seen)
    for name in uid2_async.__all__:
        assert getattr(uid2_async, name) is not None
        assert name in dir(uid2_async)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = uid2_async.nothing


def test_the_version_is_one() -> None:
    """The version in code is the one that the build takes."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    source = ROOT / pyproject["tool"]["hatch"]["version"]["path"]

    assert f'__version__ = "{uid2_async.__version__}"' in source.read_text("utf-8")


@pytest.mark.parametrize("package", packages())
def test_no_public_name_is_also_a_submodule(package: str) -> None:
    """Importing a submodule would put it in the place of the object of its name."""
    module = importlib.import_module(package)
    submodules = {one.name for one in pkgutil.iter_modules(module.__path__)}
    # This name stands for the module itself.
    submodules -= {"errors"}

    assert submodules.isdisjoint(getattr(module, "__all__", ()))


def test_public_names_are_the_same_after_other_imports() -> None:
    """What one package has loaded does not replace a name of another."""
    code = (
        "import importlib, inspect, uid2_async\n"
        "for name in uid2_async.__all__:\n"
        "    getattr(uid2_async, name)\n"
        f"for package in map(importlib.import_module, {packages()}):\n"
        "    for name in getattr(package, '__all__', []):\n"
        "        value = getattr(package, name)\n"
        "        assert name == 'errors' or not inspect.ismodule(value), name\n"
        "        ours = getattr(uid2_async, name, value)\n"
        "        assert value is ours, name\n"
    )

    assert run(code) == ""


@pytest.mark.parametrize(
    "name", ["uid2_async", "uid2_async.protocol", "uid2_async.models"]
)
def test_light_imports_do_not_pay_for_the_network(name: str) -> None:
    """The package, its values and the protocol import no aiohttp and no asyncio."""
    code = (
        f"import sys, {name}\n"
        "heavy = {'aiohttp', 'asyncio', 'tenacity', 'typer', 'rich'} & set(sys.modules)"
        "\nprint(sorted(heavy))"
    )

    assert run(code).strip() == "[]"


def test_every_module_of_the_protocol_stays_without_the_network() -> None:
    """Not one module of the protocol imports aiohttp."""
    code = (
        "import importlib, pkgutil, sys, uid2_async.protocol as p\n"
        "for m in pkgutil.iter_modules(p.__path__, p.__name__ + '.'):\n"
        "    importlib.import_module(m.name)\n"
        "print('aiohttp' in sys.modules, 'asyncio' in sys.modules)"
    )

    assert run(code).strip() == "False False"


def modules() -> list[ModuleType]:
    """Import every module of the package."""
    found = pkgutil.walk_packages(uid2_async.__path__, "uid2_async.")
    return [importlib.import_module(m.name) for m in found if m.name not in EXTRAS]


def test_every_public_name_has_a_docstring() -> None:
    """Modules, classes, functions and methods say what they are for."""
    missing = []
    for module in modules():
        if not module.__doc__:
            missing.append(module.__name__)
        for name, value in vars(module).items():
            if name.startswith("_") or getattr(value, "__module__", "") != (
                module.__name__
            ):
                continue
            missing += _undocumented(f"{module.__name__}.{name}", value)

    assert missing == []


def _undocumented(name: str, value: object) -> list[str]:
    """List *value* and its public methods where they have no docstring."""
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return []
    missing = [] if value.__doc__ else [name]
    if inspect.isclass(value):
        for key, member in vars(value).items():
            function = getattr(member, "fget", None) or member
            if not key.startswith("_") and inspect.isfunction(function):
                missing += [] if function.__doc__ else [f"{name}.{key}"]
    return missing


def test_no_public_name_shows_a_test_seam() -> None:
    """Sleep, randomness and the disk are private arguments, if they are arguments."""
    for module in (uid2_async, bulk):
        for name in module.__all__:
            with contextlib.suppress(TypeError, ValueError):
                shown = inspect.signature(getattr(module, name)).parameters
                assert not {"sleep", "random", "disk", "run"} & set(shown), name
