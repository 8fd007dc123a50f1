"""A job to put into a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from uid2_async.bulk.resume.manifest import InputIdentity, JobTerms


@pytest.fixture
def terms(tmp_path: Path) -> JobTerms:
    """Give what a job is to do."""
    people = InputIdentity(name="people.csv", size=7, mtime_ns=1, digest="ab")
    return JobTerms(
        inputs=[people],
        target=str(tmp_path / "mapped.csv"),
        options={"batch_size": 5_000, "columns": ("email", "phone")},
        settings=lambda salt: f"digest with {salt}",
    )
