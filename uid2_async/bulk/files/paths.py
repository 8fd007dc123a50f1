"""Which files a job reads and writes, and what is refused before any work is done."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from glob import glob, has_magic
from hashlib import sha256
from pathlib import Path

import attrs

from uid2_async.bulk.files.formats import STANDARD
from uid2_async.bulk.resume.manifest import InputIdentity
from uid2_async.bulk.resume.private_files import check_folder
from uid2_async.errors import InputError

__all__ = ["FilePair", "check_targets", "expand", "identify"]

_END_BYTES = 1024 * 1024


@attrs.frozen
class FilePair:
    """A file to read and the one to write.

    Attributes:
        source: The input's path; None for stdin.
        target: The output's path; None for stdout.
    """

    source: Path | None
    target: Path | None


def expand(source: str, target: str) -> list[FilePair]:
    """List the files of a job.

    Args:
        source: A file, a folder, a pattern, or ``-``.
        target: A file or ``-``; a folder where *source* is more than a file.

    Raises:
        InputError: If there is nothing to read.
    """
    if source == STANDARD or Path(source).is_file() or not _is_many(source):
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
    found = sorted(_find(source))
    if not found:
        raise InputError(
            f"There is no file in {source}.",
            hint="Hidden files, and those that begin with _, do not count.",
        )
    folder = Path(target)
    with contextlib.suppress(FileExistsError, FileNotFoundError):
        folder.mkdir(mode=0o700)
    pairs = [FilePair(path, folder / name) for name, path in found]
    if len({pair.target for pair in pairs}) < len(pairs):
        raise InputError(
            "Two inputs have the same name.", hint="Map their folders one by one."
        )
    return pairs


def _is_many(source: str) -> bool:
    """Tell whether *source* is a folder or a pattern."""
    return Path(source).is_dir() or has_magic(source)


def _find(source: str) -> Iterator[tuple[str, Path]]:
    """Find the files of a folder or a pattern, and how their outputs are called."""
    folder = Path(source)
    paths = folder.iterdir() if folder.is_dir() else map(Path, glob(source))  # noqa: PTH207 - the pattern may be absolute
    for path in paths:
        if path.is_file() and not path.name.startswith((".", "_")):
            yield path.name, path


def check_targets(pairs: list[FilePair], *, force: bool, begun: bool) -> None:
    """Refuse outputs that must not be written; make their folder if there are many.

    Args:
        pairs: The files.
        force: Whether existing files may be replaced.
        begun: Whether the job goes on, so that some may be there.

    Raises:
        InputError: If an output exists and may not be replaced; is the input; or is a
            link, a folder or a device.
        JobError: If its folder is missing, cannot be written to, or is one where others
            can exchange files.
    """
    for pair in pairs:
        if pair.target is not None:
            _check_target(pair.target, pair.source, may_exist=force or begun)


def _check_target(target: Path, source: Path | None, *, may_exist: bool) -> None:
    """Check one output; see :func:`check_targets`."""
    if not target.parent.is_dir():
        raise InputError(
            f"The folder of {target} does not exist.", hint="Make it first."
        )
    check_folder(target.parent)
    try:
        mode = target.lstat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISLNK(mode):
        raise InputError(
            f"{target} is a symbolic link.", hint="Name the file that it points to."
        )
    if not stat.S_ISREG(mode):
        raise InputError(
            f"{target} is not a regular file.", hint="Name a file, or - for stdout."
        )
    if source is not None and target.samefile(source):
        raise InputError("IN and OUT are the same file.", hint="Write to another file.")
    if not may_exist:
        raise InputError(
            f"{target} already exists.", hint="Pass --force to replace it."
        )


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
