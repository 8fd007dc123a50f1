"""Reads which entries the built documentation has, from Sphinx's inventory."""

from __future__ import annotations

import zlib
from pathlib import Path


def read_inventory(path: Path, kind: str) -> set[str]:
    """Return the entries whose domain and role begin with *kind*, such as ``py:``."""
    data = path.read_bytes().split(b"\n", 4)[4]
    lines = zlib.decompress(data).decode().splitlines()
    return {line.split()[0] for line in lines if line.split(" ", 2)[1].startswith(kind)}
