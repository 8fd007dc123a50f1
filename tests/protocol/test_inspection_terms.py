"""The words of an inspection."""

from __future__ import annotations

import pytest

from uid2_async.protocol.inspection import Note


@pytest.mark.parametrize("note", Note)
def test_notes_are_sentences(note: Note) -> None:
    """A note stands on a line of its own, as whole sentences."""
    assert note.value.endswith(".")
    assert note.value[0].isupper() or note.value[0].isdigit()
    assert "\n" not in note.value
