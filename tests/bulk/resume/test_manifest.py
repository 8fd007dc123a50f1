from __future__ import annotations

import contextlib
from datetime import datetime
from typing import Any

import attrs
import msgspec
import pytest

from uid2_async import IdentityScope, UID2Client
from uid2_async.bulk.resume.manifest import (
    InputIdentity,
    JobTerms,
    Manifest,
    differences,
    is_manifest,
    read_manifest,
)
from uid2_async.errors import JobError
from uid2_async.protocol import base64


@pytest.fixture
def begun(terms: JobTerms, now: datetime) -> Manifest:
    """Give the manifest of a job that was begun."""
    return terms.manifest(job="job", salt="salt", created=now)


def compare(begun: Manifest, terms: JobTerms, **changes: Any) -> list[str]:
    """Say in what a job of other terms differs."""
    changed = attrs.evolve(terms, **changes)
    new = changed.manifest(job="job", salt=begun.salt, created=begun.created)
    return differences(begun, new)


def test_a_manifest_comes_back_as_it_was(begun: Manifest) -> None:
    """What is written is what is read, tuples among the options included."""
    assert is_manifest(begun.encode())
    assert read_manifest(begun.encode()) == begun


def test_the_same_terms_are_the_same_job(begun: Manifest, terms: JobTerms) -> None:
    """Nothing has changed."""
    assert compare(begun, terms) == []


def test_the_settings_tell_clients_apart() -> None:
    """Scope, operator and key count; the order of regions and the secret do not."""

    def digest(**changes: Any) -> str:
        settings: dict[str, Any] = {
            "base_url": ["https://a.example", "https://b.example"],
            "api_key": "a-key",
            "client_secret": base64.encode_text(bytes(32)),
        }
        settings |= changes
        return UID2Client(settings.pop("base_url"), **settings).settings_digest("salt")

    secret = base64.encode_text(bytes(range(32)))
    same = [
        digest(),
        digest(base_url=["https://b.example", "https://a.example"]),
        digest(client_secret=secret),
    ]
    others = [
        digest(api_key="another"),
        digest(base_url="https://a.example"),
        digest(scope=IdentityScope.EUID),
    ]
    assert len(set(same)) == 1
    assert len({*same, *others}) == 4
    assert "a-key" not in digest()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"settings": lambda _: "other"}, "another API key or operator"),
        ({"target": "other.csv"}, "another output"),
        ({"options": {"batch_size": 1}}, "option batch_size"),
        ({"inputs": []}, "other inputs"),
    ],
)
def test_another_job_is_told_in_words(
    begun: Manifest, terms: JobTerms, changes: dict[str, Any], words: str
) -> None:
    """F9: whatever decides about the output must be the same."""
    assert words in compare(begun, terms, **changes)


def test_another_version_is_named(begun: Manifest, terms: JobTerms) -> None:
    """A job is not gone on with by a tool that may write other bytes."""
    assert compare(begun, terms, version="9.9") == [
        f"another version of uid2_async (9.9, not {begun.version})"
    ]


@pytest.mark.parametrize("options", [{}, {"batch_size": 5_000, "columns": ["email"]}])
def test_an_option_that_came_or_went_is_named(
    begun: Manifest, terms: JobTerms, options: dict[str, Any]
) -> None:
    """F9: a missing option is a changed one, and its value is not shown."""
    words = compare(begun, terms, options={**options, "new": None})

    assert words[-2:] == ["option columns", "option new"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size": 8}, "size"),
        ({"mtime_ns": 2}, "time of the last change"),
        ({"digest": "cd"}, "content"),
        ({"size": 8, "digest": "cd"}, "size, content"),
    ],
)
def test_a_changed_input_is_named(
    begun: Manifest, terms: JobTerms, changes: dict[str, Any], words: str
) -> None:
    """F8: each sign of a change is enough."""
    changed = msgspec.structs.replace(terms.inputs[0], **changes)

    assert compare(begun, terms, inputs=[changed]) == [
        f"the input people.csv changed: {words}"
    ]


def test_only_the_changed_input_of_many_is_named(
    terms: JobTerms, now: datetime
) -> None:
    """F8: a folder of inputs tells which one it was."""
    inputs = [
        InputIdentity(name=name, size=1, mtime_ns=1, digest="ab") for name in "abc"
    ]
    begun = attrs.evolve(terms, inputs=inputs).manifest(
        job="job", salt="salt", created=now
    )
    inputs[1] = msgspec.structs.replace(inputs[1], size=2)

    assert compare(begun, terms, inputs=inputs) == ["the input b changed: size"]


def test_neither_manifest_nor_repr_shows_the_key(
    begun: Manifest, terms: JobTerms, now: datetime
) -> None:
    """Only a digest is kept, salted: the same key looks different in another job."""
    other = terms.manifest(job="job", salt="other salt", created=now)

    assert b"canary" not in begun.encode()
    assert "canary" not in f"{begun!r}{terms!r}"
    assert other.settings != begun.settings


def test_a_damaged_manifest_is_an_error_of_ours(begun: Manifest) -> None:
    """Cut at any length, or with any byte replaced, it is read or refused."""
    data = begun.encode()
    damaged = [data[:length] for length in range(len(data))]
    damaged += [
        data[:at] + byte + data[at + 1 :]
        for at in range(len(data))
        for byte in (b"\0", b"\xff", b"{")
    ]

    for one in damaged:
        with contextlib.suppress(JobError):
            read_manifest(one)
    with pytest.raises(JobError, match="damaged") as caught:
        read_manifest(data[:-1])
    assert caught.value.__context__ is None
