"""Which files a job reads and writes, and what is refused before any work is done."""

from __future__ import annotations

import os
import stat
from glob import escape as glob_escape, glob, has_magic
from hashlib import sha256
from pathlib import Path
from typing import TypeAlias

import attrs

from uid2_async.bulk.files.formats import STANDARD, Format, format_by_names
from uid2_async.bulk.private_files import check_folder, make_private_folder
from uid2_async.bulk.resume.manifest import InputIdentity
from uid2_async.errors import InputError

__all__ = ["FilePair", "check_targets", "expand", "format_of", "identify"]

_END_BYTES = 1024 * 1024


@attrs.frozen
class FilePair:
    """A file to read and the one to write.

    Attributes:
        source: The input's path; None for stdin.
        target: The output's path; None for stdout.
        folder: The folder of all outputs, which is made where it is missing; None where
            the output was named.
    """

    source: Path | None
    target: Path | None
    folder: Path | None = None


def expand(source: str, target: str) -> list[FilePair]:
    """List the files of a job.

    Those of a folder and of the folders in it, or of a pattern, are sorted; their
    outputs have the same names in the folder *target*. Hidden files, and those that
    begin with an underscore, are the warehouse's own marks.

    Args:
        source: A file, a folder, a pattern (``**`` for any folders), or ``-``.
        target: A file or ``-``; a folder where *source* is more than a file.

    Raises:
        InputError: If there is nothing to read, or no place for what there is.
    """
    if not _is_many(source):
        return [
            FilePair(
                None if source == STANDARD else Path(source),
                None if target == STANDARD else Path(target),
            )
        ]
    if target == STANDARD:
        raise InputError(
            "Several files cannot be written to stdout.", hint="Name a folder."
        )
    folder = Path(target)
    return [
        FilePair(path, folder / name, folder) for name, path in _find(source, folder)
    ]


def format_of(source: str, target: str, given: str | None) -> Format:
    """Tell in which format the files of a job are.

    Args:
        source: The input as :func:`expand` takes it.
        target: The output.
        given: What the user says; the names of the files tell it if None, and CSV is
            what they do not call otherwise.

    Raises:
        InputError: If the names differ; or if a format whose end has to be read first
            is to come from a pipe, or to be compressed.
    """
    names = [source]
    if _is_many(source):
        names = [name for name, _ in _find(source, Path(target))]
    return format_by_names([*names, target], given)


def _is_many(source: str) -> bool:
    """Tell whether *source* is a folder or a pattern."""
    path = Path(source)
    return source != STANDARD and (
        path.is_dir() or (has_magic(source) and not path.exists())
    )


def _find(source: str, target: Path) -> list[tuple[str, Path]]:
    """Find the files of a folder or a pattern, and how their outputs are called.

    Where *target* is a folder in *source*, what lies in it is no input.
    """
    root = Path(source)
    pattern = os.path.join(glob_escape(source), "**")  # noqa: PTH118 - as glob takes it
    if not root.is_dir():
        pattern = source
        parts = root.parts
        fixed = next(at for at, part in enumerate(parts) if has_magic(part))
        root = Path(*parts[:fixed])
    outputs = target.resolve()
    may_meet = root.resolve() in outputs.parents
    found = []
    for path in map(Path, glob(pattern, recursive=True)):  # noqa: PTH207 - the pattern may be absolute
        name = path.relative_to(root)
        if any(part.startswith((".", "_")) for part in name.parts):
            continue
        is_output = may_meet and outputs in path.resolve().parents
        if path.is_file() and not is_output:
            found.append((str(name), path))
    if not found:
        raise InputError(
            f"There is no file in {source}.",
            hint="Hidden files, and those that begin with _, do not count.",
        )
    return sorted(found)


def check_targets(pairs: list[FilePair], *, force: bool, begun: bool) -> None:
    """Refuse outputs that must not be written; make their folder if there are many.

    Args:
        pairs: The files.
        force: Whether existing files may be replaced.
        begun: Whether the job goes on, so that some may be there.

    Raises:
        InputError: If an input is no file; or if an output exists and may not be
            replaced, is an input or the output of another, or is a link, a folder or a
            device.
        JobError: If its folder is missing, cannot be written to, or is one where others
            can exchange files.
    """
    sources = {_key(pair.source) for pair in pairs if pair.source is not None}
    targets = set()
    for pair in pairs:
        if pair.target is None:
            continue
        _check_target(pair, sources, may_exist=force or begun)
        path = os.path.abspath(pair.target)  # noqa: PTH100 - links stay as they are
        if path in targets:
            raise InputError(
                f"{pair.target} would be written twice.", hint="Name another file."
            )
        targets.add(path)
    for pair in pairs:
        if pair.folder is not None and pair.target is not None:
            _make_folders(pair.target.parent)


_Key: TypeAlias = tuple[int, int]


def _key(path: Path) -> _Key:
    """Tell a file from all others, whatever it is called; refuse what is none.

    Raises:
        InputError: If it cannot be looked at, or is a pipe or a device.
    """
    cause = ""
    try:
        found = path.stat()
    except OSError as error:
        cause = error.strerror or type(error).__name__
    else:
        if stat.S_ISREG(found.st_mode):
            return found.st_dev, found.st_ino
        cause = "it is no regular file"
    hint = "Check the path. What is no file can be piped in: name - instead."
    raise InputError(f"{path} cannot be read: {cause}.", hint=hint)


def _check_target(pair: FilePair, sources: set[_Key], *, may_exist: bool) -> None:
    """Check one output; see :func:`check_targets`."""
    target = pair.target
    assert target is not None  # noqa: S101 - by the caller
    folder = _existing_folder(pair, target)
    if not folder.is_dir():
        raise InputError(
            f"The folder of {target} does not exist.", hint="Make it first."
        )
    check_folder(folder)
    try:
        found = target.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISLNK(found.st_mode):
        raise InputError(
            f"{target} is a symbolic link.", hint="Name the file that it points to."
        )
    if not stat.S_ISREG(found.st_mode):
        raise InputError(
            f"{target} is not a regular file.", hint="Name a file, or - for stdout."
        )
    if (found.st_dev, found.st_ino) in sources:
        raise InputError("IN and OUT are the same file.", hint="Write to another file.")
    if not may_exist:
        raise InputError(
            f"{target} already exists.", hint="Pass --force to replace it."
        )


def _existing_folder(pair: FilePair, target: Path) -> Path:
    """Give the folder of an output, or the one in which that will be made."""
    folder = target.parent
    while pair.folder is not None and not os.path.lexists(folder):
        folder = folder.parent
    return folder


def _make_folders(folder: Path) -> None:
    """Make a folder, for its owner alone, and the missing ones above it."""
    if not folder.exists():
        _make_folders(folder.parent)
        make_private_folder(folder)


def identify(path: Path) -> InputIdentity:
    """Say what tells a file from another, and from itself after a change.

    Its first and last MiB are read; in between, its size and time have to tell.

    Raises:
        InputError: If it cannot be read.
    """
    cause = ""
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            digest = sha256(file.read(_END_BYTES))
            file.seek(max(0, found.st_size - _END_BYTES))
            digest.update(file.read(_END_BYTES))
    except OSError as error:
        cause = error.strerror or type(error).__name__
    else:
        return InputIdentity(
            name=str(path),
            size=found.st_size,
            mtime_ns=found.st_mtime_ns,
            digest=digest.hexdigest(),
        )
    raise InputError(f"{path} cannot be read: {cause}.", hint="Check the path.")
