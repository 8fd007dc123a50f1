"""pyarrow, where it is installed, and its errors, which may show data."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, TypeVar

from uid2_async.bulk.private_files import attempt
from uid2_async.errors import InputError

__all__ = ["load_arrow", "reading", "require_text", "writing"]

T = TypeVar("T")


def load_arrow(module: str = "pyarrow") -> Any:
    """Import a module of pyarrow.

    Raises:
        InputError: If it is not installed.
    """
    try:
        return import_module(module)
    except ImportError:
        pass
    raise InputError(
        "Parquet and Arrow files need pyarrow, which is not installed.",
        hint="pip install 'uid2-async[arrow]'",
    )


def require_text(field: Any, *, name: str = "") -> None:
    """Refuse a column of numbers or bytes: a phone would have lost its plus.

    Args:
        field: The column, as the schema has it.
        name: Of the file, for the message.

    Raises:
        InputError: If it is no text.
    """
    types = load_arrow().types
    kind = field.type.value_type if types.is_dictionary(field.type) else field.type
    if not (
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_string_view(kind)
        or types.is_null(kind)
    ):
        place = f"{name}: the" if name else "The"
        raise InputError(
            f"{place} column '{field.name}' is no text, but {kind}.",
            hint="Export it as a string: numbers lose a + and leading zeros.",
        )


def reading(call: Callable[[], T], *, name: str, what: str) -> T:
    """Make one call that reads; what Arrow says of a failure might show data.

    Raises:
        InputError: If it fails.
    """
    failures = (load_arrow().ArrowException, OSError)
    try:
        return call()
    except failures:
        pass
    raise InputError(
        f"{name} cannot be read as {what.capitalize()}.",
        hint=f"Is it whole, and is it {what.capitalize()}?",
    )


def writing(call: Callable[[], T]) -> T:
    """Make one call that writes; what Arrow says of a failure might show data.

    Raises:
        InputError: If the columns cannot be written.
        JobError: If the disk is full or broken.
    """
    failures = load_arrow().ArrowException
    try:
        return attempt("The output cannot be written", call)
    except failures:
        pass
    raise InputError(
        "The rows cannot be written again: such a file does not take their types.",
        hint="Drop the columns that are neither text nor numbers, or write CSV.",
    )
