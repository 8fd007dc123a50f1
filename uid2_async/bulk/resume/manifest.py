"""The manifest of a job: which job it is, so that no other one goes on in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import attrs
import msgspec

from uid2_async._version import __version__
from uid2_async.errors import JobError

__all__ = [
    "InputIdentity",
    "JobTerms",
    "Manifest",
    "differences",
    "is_manifest",
    "read_manifest",
]

_KIND: Final = "uid2_async job"
_HEAD: Final = b'{"kind":"%s"' % _KIND.encode()


class InputIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """What tells an input file from another, and from itself after a change.

    Attributes:
        name: Its path, as the job names it.
        size: In bytes.
        mtime_ns: When it was changed last, in ns since the epoch.
        digest: Of its content, or of enough of it.
    """

    name: str
    size: int
    mtime_ns: int
    digest: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag=_KIND):
    """What a job folder keeps about its job.

    Attributes:
        job: A random name, the same from the first run to the last.
        version: Of uid2_async.
        inputs: The input files, in order.
        target: The output.
        options: What else must stay the same, as JSON has it.
        settings: A salted digest of scope, operator and API key.
        salt: The salt of *settings*, in hex.
        created: When the job began.
    """

    job: str
    version: str
    inputs: list[InputIdentity]
    target: str
    options: dict[str, Any]
    settings: str
    salt: str
    created: datetime

    def encode(self) -> bytes:
        """Make the content of the manifest's file."""
        return msgspec.json.encode(self)


@attrs.frozen(kw_only=True)
class JobTerms:
    """What a job is to do, and what must stay the same until it is done.

    Attributes:
        inputs: The input files, in order.
        target: The output.
        options: Whatever else decides about the output, as values that JSON can hold.
        settings: Digests scope, operator and API key with a salt, so that another
            client is told from this one and nothing of it is kept.
        version: Of uid2_async.
    """

    inputs: Sequence[InputIdentity]
    target: str
    options: Mapping[str, Any]
    settings: Callable[[str], str]
    version: str = __version__

    def manifest(self, *, job: str, salt: str, created: datetime) -> Manifest:
        """Make the manifest that these terms have in the job *job*."""
        return Manifest(
            job=job,
            version=self.version,
            inputs=list(self.inputs),
            target=self.target,
            options=msgspec.json.decode(msgspec.json.encode(self.options)),
            settings=self.settings(salt),
            salt=salt,
            created=created,
        )


def is_manifest(data: bytes) -> bool:
    """Tell whether *data* was written as a manifest, however it looks now."""
    return data.startswith(_HEAD)


def read_manifest(data: bytes) -> Manifest:
    """Read a manifest's file.

    Raises:
        JobError: If it is damaged, or of a version that this one cannot read.
    """
    try:
        return msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    raise JobError(
        "The manifest of the job is damaged, or of another version of uid2_async.",
        hint="Discard the job and begin anew (--restart).",
    )


def differences(old: Manifest, new: Manifest) -> list[str]:
    """Say in words in what *new* is not the job that *old* began; empty if it is.

    Both must have the same salt. Values of options are not shown.
    """
    return list(_differences(old, new))


def _differences(old: Manifest, new: Manifest) -> Iterator[str]:
    """Say it one by one."""
    if old.version != new.version:
        yield f"another version of uid2_async ({new.version}, not {old.version})"
    if old.settings != new.settings:
        yield "another API key or operator"
    if old.target != new.target:
        yield "another output"
    yield from _changed_inputs(old.inputs, new.inputs)
    for name in sorted(old.options.keys() | new.options.keys()):
        missing = (name in old.options) != (name in new.options)
        if missing or old.options[name] != new.options[name]:
            yield f"option {name}"


def _changed_inputs(
    old: Sequence[InputIdentity], new: Sequence[InputIdentity]
) -> Iterator[str]:
    """Say which inputs are others, or have changed in what."""
    if [one.name for one in old] != [one.name for one in new]:
        yield "other inputs"
        return
    for was, now in zip(old, new, strict=True):
        aspects = {
            "size": was.size != now.size,
            "time of the last change": was.mtime_ns != now.mtime_ns,
            "content": was.digest != now.digest,
        }
        changed = ", ".join(name for name, differs in aspects.items() if differs)
        if changed:
            yield f"the input {now.name} changed: {changed}"
