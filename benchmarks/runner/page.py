"""Parts of a page that a run writes: between ``<!-- table: NAME -->`` and its end."""

from __future__ import annotations

import re

END = "<!-- end of table -->"


def replace_part(page: str, name: str, text: str) -> str:
    """Put *text* between the markers of *name*.

    Raises:
        ValueError: If *page* does not have these markers exactly once.
    """
    begin = f"<!-- table: {name} -->"
    pattern = re.compile(f"{re.escape(begin)}\n.*?{re.escape(END)}", re.DOTALL)
    part = f"{begin}\n{text}\n{END}"
    replaced, count = pattern.subn(lambda _match: part, page)
    if count != 1:
        raise ValueError(f"{count} parts of the page are marked {begin} … {END}.")
    return replaced
