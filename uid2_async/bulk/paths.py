"""The files that a job reads and writes, their formats, and the naming of outputs.

Invalid paths and options are rejected here, before any work is done.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import gzip
import os
import shutil
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from enum import Enum, StrEnum
from glob import escape as glob_escape, glob, has_magic
from hashlib import sha256
from importlib import import_module
from itertools import takewhile
from operator import itemgetter
from pathlib import Path, PurePath
from typing import Any, Final, TypeAlias, TypeVar

import attrs
import msgspec

from uid2_async._private import Unpicklable, printable
from uid2_async._traceback import check_types, strip_tracebacks
from uid2_async.bulk.private_files import (
    DISK,
    SYSTEM,
    Disk,
    FileLock,
    attempt,
    check_folder,
    delete,
    make_private_folder,
    open_private,
    replace,
)
from uid2_async.errors import ConfigError, InputError, JobError

_T = TypeVar("_T")

STDIO: Final = "-"
"""The name that means stdin or stdout."""

_END_BYTES: Final = 1024 * 1024
# The names that we derive fit into the 255 bytes of a file name: a character has up to
# four.
_NAME_CHARS: Final = 40


def load_extra(extra: str, what: str, *modules: str) -> list[Any]:
    """Import the modules of an extra; *what* says what needs it."""
    try:
        return [import_module(one) for one in modules]
    except ImportError:
        pass
    raise InputError(
        f"{what}, which is not installed.", hint=f"pip install 'uid2-async[{extra}]'"
    )


# --- Formats --------------------------------------------------------------------------


class Format(StrEnum):
    """The format of a file."""

    CSV = "csv"
    JSONL = "jsonl"
    PARQUET = "parquet"
    ARROW = "arrow"

    @property
    def is_text(self) -> bool:
        """Whether it can be streamed and compressed as a whole."""
        return self in (Format.CSV, Format.JSONL)


class Content(Enum):
    """What an added column contains. None means a missing value in all of them."""

    TEXT = "text"
    INTEGER = "an integer of 32 bits"
    INSTANT = "an instant, as seconds since the epoch"


_SUFFIXES: Final = {
    ".csv": Format.CSV,
    ".tsv": Format.CSV,
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
    ".parquet": Format.PARQUET,
    ".arrow": Format.ARROW,
    ".feather": Format.ARROW,
}
_FOREIGN: Final = frozenset(
    {".avro", ".bz2", ".json", ".orc", ".xls", ".xlsx", ".xz", ".zip", ".zst"}
)


def is_gzipped(path: PurePath | None) -> bool:
    """Return whether the name of a file ends in ``.gz``."""
    return path is not None and path.suffix.lower() == ".gz"


def known_suffix(path: PurePath) -> str:
    """Return the format that a file name shows; empty for none."""
    suffix = _suffix(path)
    packed = ".gz" if is_gzipped(path) else ""
    return (suffix if suffix in _SUFFIXES else "") + packed


def _suffix(path: PurePath | None) -> str:
    """Return the suffix that names the format."""
    if path is None:
        return ""
    return (path.with_suffix("") if is_gzipped(path) else path).suffix.lower()


def _refuse_foreign(path: PurePath | None) -> None:
    """Reject a file whose name shows a format that is none of ours."""
    suffix = _suffix(path)
    if suffix in _FOREIGN:
        raise InputError(
            f"{printable(str(path))}: the format of {suffix} files is unknown.",
            hint="Use a file whose name ends in .csv, .jsonl, .parquet or .arrow. "
            'If it is one in spite of its name, say so: `format="jsonl"`.',
        )


def _read_delimiter(delimiter: str | None) -> str | None:
    """Reject a delimiter that the csv module does not accept."""
    if delimiter is None:
        return None
    with contextlib.suppress(TypeError, ValueError):
        csv.reader([], delimiter=delimiter, strict=True)
        if delimiter not in '"\r\n' and len(delimiter) == 1:
            return delimiter
    raise ConfigError(
        "A delimiter must be one character, and not a quote or a line end.",
        hint='Examples: `delimiter=";"` or `delimiter="\\t"`.',
    )


# Stateful encodings, and codecs that are not for files: host names (idna, punycode) and
# Python literals.
_UNUSABLE: Final = ("hz", "iso2022", "utf-7", "idna", "punycode", "undefined")


def _read_encoding(encoding: str) -> str:
    """Return the canonical name of an encoding."""
    try:
        found: codecs.CodecInfo | None = codecs.lookup(encoding)
    except (LookupError, TypeError, ValueError):
        found = None
    if (
        found is None
        or not getattr(found, "_is_text_encoding", True)
        or getattr(found, "incrementaldecoder", None) is None
        or found.name.startswith(_UNUSABLE)
        or "escape" in found.name
    ):
        raise ConfigError(
            "The encoding is unknown, or cannot be read in chunks.",
            hint="Examples: utf-8, latin-1, utf-16.",
        )
    # A byte order mark is kept if there is one.
    return "utf-8" if found.name == "utf-8-sig" else found.name


@attrs.frozen(kw_only=True, field_transformer=check_types)
class FileFormatOptions:
    r"""How the rows of a file are encoded.

    None of this is guessed from the content of a file.

    Attributes:
        format: The format; None takes it from the file name.
        delimiter: The separator of CSV fields; None means a tab in ``.tsv`` files and a
            comma in others.
        encoding: The encoding of CSV and JSON lines.
        escape: The character before a quote within a quoted CSV field (Spark writes a
            backslash); None if quotes are doubled.
        comment: The prefix of CSV lines that are not rows.
        sep_line: Whether the first line of CSV is ``sep=`` and the delimiter, as Excel
            writes it.
        null: The text that means a missing value, such as ``\N`` or ``NULL``.
        strip_header: Whether white space around column names is ignored.
        skip_initial_space: Whether spaces after a CSV delimiter are ignored.
        iso: Whether times are written as ISO 8601 text; None means seconds since the
            epoch in text files and timestamps in the others.
        spreadsheet_safe: Whether CSV fields that a spreadsheet would run as formulas
            get a ``'`` prefix.
    """

    format: Format | None = attrs.field(
        default=None, converter=attrs.converters.optional(Format)
    )
    delimiter: str | None = attrs.field(default=None, converter=_read_delimiter)
    encoding: str = attrs.field(default="utf-8", converter=_read_encoding)
    escape: str | None = None
    comment: str | None = None
    sep_line: bool = False
    null: str | None = None
    strip_header: bool = False
    skip_initial_space: bool = False
    iso: bool | None = None
    spreadsheet_safe: bool = False

    def __attrs_post_init__(self) -> None:
        """Reject ambiguous options."""
        escape, comment = self.escape, self.comment
        if escape is not None and (len(escape) != 1 or escape in '"\r\n'):
            raise ConfigError(
                "An escape must be one character, and not a quote or a line end.",
                hint='Spark writes \\ before quotes: `escape="\\\\"`.',
            )
        if comment is not None and (not comment or set(comment) & set('"\r\n')):
            raise ConfigError(
                "A comment prefix must be text such as #, without a quote."
            )
        if self.delimiter and self.delimiter in (escape, (comment or "")[:1]):
            raise ConfigError(
                "The delimiter cannot be the escape or begin a comment.",
                hint="Pass the `delimiter` of the file, or another character.",
            )

    def for_file(
        self, path: PurePath | None, *, other: PurePath | None = None
    ) -> FileFormatOptions:
        """Fill in format and delimiter by the name of *path* or of the *other* file."""
        suffix = _suffix(path)
        named = _SUFFIXES.get(suffix, _SUFFIXES.get(_suffix(other)))
        given: Format | None = self.format
        if given is None:
            _refuse_foreign(path)
        chosen = (named or Format.CSV) if given is None else given
        if not chosen.is_text and path is None:
            raise InputError(
                f"{chosen.capitalize()} cannot be read from stdin or written to "
                "stdout.",
                hint="Name files, or use CSV or JSON lines.",
            )
        if not chosen.is_text and is_gzipped(path):
            raise InputError(
                f"{printable(str(path))}: {chosen.capitalize()} files are not "
                "compressed as a whole.",
                hint="They compress their columns themselves. Drop the .gz.",
            )
        tabs = suffix == ".tsv" or (path is None and _suffix(other) == ".tsv")
        return attrs.evolve(
            self, format=chosen, delimiter=self.delimiter or ("\t" if tabs else ",")
        )


# --- Inputs and outputs ---------------------------------------------------------------


class InputIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """The identity of an input file, which differs after a change.

    Attributes:
        name: Its path in the job; bytes that are not UTF-8 are escaped.
        size: In bytes.
        mtime_ns: The time of the last change, in ns since the epoch.
        digest: SHA-256 of its first and last MiB, in hex.
    """

    name: str
    size: int
    mtime_ns: int
    digest: str


class Remote(Unpicklable, ABC):
    """An input or output that is not a local file.

    A job copies such an input into its folder and reads the copy. It writes such an
    output into its folder, and delivers it when it is complete.

    Attributes:
        is_pinned: Whether a job reads its first copy until it is done. Otherwise, a
            changed input is rejected.
    """

    is_pinned: bool = False

    @property
    @abstractmethod
    def name(self) -> str:
        """The name in messages, summaries and the log, without credentials."""

    @property
    def path(self) -> PurePath:
        """A path whose name shows the format, by default that of rows: Arrow."""
        return PurePath("rows.arrow")

    def __str__(self) -> str:
        """Return the name."""
        return self.name

    def identify(self) -> InputIdentity:
        """Return an identity that differs once the input has changed. Blocks.

        That of a pinned input is only its name, because the job reads its copy.
        """
        return InputIdentity(name=self.name, size=0, mtime_ns=0, digest="")

    def fetch(self, copy: Path, *, disk: Disk = DISK) -> None:  # noqa: ARG002 - for those that can
        """Copy the input into the file *copy*, whole or not at all. Blocks."""
        raise InputError(f"{self.name} cannot be read.", hint="Name another input.")

    def check_target(self, *, may_exist: bool) -> None:  # noqa: ARG002 - as above
        """Raise if the output must not or cannot be written. Blocks."""
        raise InputError(f"{self.name} cannot be written.", hint="Name another output.")

    def rehearse(self, schema: Any, *, job: str = "") -> None:
        """Raise if rows of an Arrow *schema* could not be delivered. Blocks."""

    def deliver(self, whole: Path, *, job: str = "") -> None:  # noqa: ARG002 - as above
        """Make the output from a complete file. Idempotent. Blocks."""
        raise InputError(f"{self.name} cannot be written.", hint="Name another output.")


Location: TypeAlias = Path | Remote


def path_of(location: Location | None) -> PurePath | None:
    """Return the path whose name shows the format; None for stdin and stdout."""
    return location.path if isinstance(location, Remote) else location


@attrs.frozen
class FilePair:
    """A file to read and the one to write.

    Attributes:
        source: The input; None for stdin.
        target: The output; None for stdout.
        folder: The folder of all outputs, which is created if missing; None if the
            output was named.
    """

    source: Location | None
    target: Location | None
    folder: Path | None = None

    def formats(
        self, options: FileFormatOptions
    ) -> tuple[FileFormatOptions, FileFormatOptions]:
        """Return how to read the input and write the output.

        The format of *options* is the input's; the output's name sets its own. A
        delimiter of None for the output means the input's.
        """
        read, written = path_of(self.source), path_of(self.target)
        suffix = _suffix(written)
        named = _SUFFIXES.get(suffix)
        # A name without a known suffix keeps the format of the input.
        other = None if named is None or not named.is_text else written
        source = options.for_file(read, other=other)
        if options.format is None:
            _refuse_foreign(written)
        target = attrs.evolve(options, format=named or source.format).for_file(written)
        if options.spreadsheet_safe and target.format is not Format.CSV:
            raise ConfigError("Only CSV can be made safe for spreadsheets.")
        delimiter = options.delimiter
        if suffix == ".tsv":
            delimiter = "\t"
        elif source.format is Format.CSV:
            was_tabs = _suffix(read) == ".tsv" and delimiter is None
            delimiter = "," if was_tabs and suffix == ".csv" else None
        return source, attrs.evolve(target, delimiter=delimiter)


def find_files(source: str, target: Path | None = None) -> list[tuple[str, Location]]:
    """Find the files of a folder or pattern, and the names of their outputs.

    Includes subfolders; sorted. Hidden files, and files that begin with an underscore,
    are markers of data warehouses and ignored. If *target* is a folder in *source*, its
    files are not inputs.
    """
    root = Path(source)
    pattern = os.path.join(glob_escape(source), "**")  # noqa: PTH118 - as glob takes it
    if not root.is_dir():
        pattern = source
        root = Path(*takewhile(lambda part: not has_magic(part), root.parts))
    folders = {root, *resolve(root).parents}
    outputs = resolve(target or Path(os.devnull))
    may_meet = target is not None and resolve(root) in outputs.parents
    found: dict[str, Location] = {}
    for path in map(Path, glob(pattern, recursive=True)):  # noqa: PTH207 - the pattern may be absolute
        name = path.relative_to(root)
        if any(part.startswith((".", "_")) for part in name.parts):
            continue
        is_output = may_meet and outputs in resolve(path).parents
        if path.is_file() and not is_output:
            found[str(name)] = path
            folders.update(path.parents)
    refuse_tables(folders)
    if not found:
        raise InputError(
            f"No files were found in {printable(source)}.",
            hint="Hidden files, and files that begin with _, are ignored.",
        )
    return sorted(found.items(), key=itemgetter(0))


# A table has a log of the files that belong to it.
LAKE_MARKS: Final = {
    "_delta_log": "Delta Lake",
    ".hoodie": "Hudi",
    "metadata/*.metadata.json": "Iceberg",
}
_TABLE_HINTS: Final = {
    "Delta Lake": "Name the folder of the table itself as IN, to read its current "
    "version; or export a snapshot.",
    "Hudi": "Export a snapshot as Parquet with Spark (spark.read.format('hudi')), and "
    "map that; or map the DataFrame with uid2_async.integrations.spark.",
    "Iceberg": "Export a snapshot as Parquet (pyiceberg: table.scan().to_arrow(), or "
    "Spark: spark.table(...)), and map that; or map the DataFrame with "
    "uid2_async.integrations.spark.",
}


def lake_format(folder: Path) -> str | None:
    """Return the kind of lake table in a folder; None if it is not a table."""
    for mark, kind in LAKE_MARKS.items():
        if next(folder.glob(mark), None) is not None:
            return kind
    return None


def lake_table_error(name: str, kind: str) -> InputError:
    """Return the error for a folder that is a table."""
    return InputError(
        f"{printable(name)} is a {kind} table, not a folder of files: some of its "
        "files contain deleted rows.",
        hint=_TABLE_HINTS[kind],
    )


def refuse_tables(folders: Iterable[Path]) -> None:
    """Reject folders of lake tables, which also contain deleted rows."""
    for folder in folders:
        kind = lake_format(folder)
        if kind is not None:
            raise lake_table_error(str(folder), kind)


def resolve(path: Path) -> Path:
    """Return the absolute path without links. A loop of links stays as it is."""
    return Path(os.path.realpath(path))


# --- Roles ----------------------------------------------------------------------------


def state_paths(path: Path) -> list[Path]:
    """List the files of a state: SQLite's companion files, staging and lock."""
    if not path.name:
        raise InputError(f"{path} is not a file.", hint="Name a file for the state.")
    databases = (path, path.with_name(f"{path.name}-staging"))
    suffixes = ("", "-wal", "-shm", "-journal", ".lock")
    return [one.with_name(one.name + end) for one in databases for end in suffixes]


def check_roles(
    roles: Mapping[str, Location | Iterable[Location | None]],
    *,
    folders: Mapping[str, Path | None] | None = None,
) -> None:
    """Reject a path with two roles in one job, also inside one of its *folders*.

    None is stdout, or stdin in the role IN.
    """
    owners: dict[object, str] = {}
    inside = {resolve(path): name for name, path in (folders or {}).items() if path}
    for role, given in roles.items():
        paths = [given] if isinstance(given, Path | Remote) else list(given)
        names = set()
        for path in paths:
            keys = _identity_keys(path, role)
            names.add(keys[0])
            taken = [owners.setdefault(key, role) for key in keys]
            parents = Path(keys[0]).parents if isinstance(path, Path) else ()
            taken += [inside[one] for one in inside.keys() & {*keys, *parents}]
            for owner in taken:
                if owner != role:
                    raise InputError(
                        f"{owner} and {role} are the same file or folder: "
                        f"{printable(str(path or keys[0]))}.",
                        hint="Give each a name of its own.",
                    )
        if role != "IN" and len(names) < len(paths):
            raise InputError(
                f"Two outputs would have the same name in {role}.",
                hint="Give each output a name of its own.",
            )


def _identity_keys(path: Location | None, role: str) -> list[Any]:
    """List what identifies a file: its name in its folder, its link target, its inode.

    Links are resolved in the folder, but not in the name.
    """
    if path is None:
        return ["stdin" if role == "IN" else "stdout"]  # the names of a Pipe
    if isinstance(path, Remote):
        return [path.name]
    target = resolve(path)
    keys: list[Any] = [resolve(path.parent) / path.name if path.name else target]
    keys.append(target)
    with contextlib.suppress(OSError):
        found = path.stat()
        if stat.S_ISREG(found.st_mode):
            keys.append((found.st_dev, found.st_ino))
    return keys


def check_targets(
    pairs: Sequence[FilePair],
    *,
    others: Mapping[str, Iterable[Location | None]] | None = None,
    roles: Mapping[str, Iterable[Path]] | None = None,
    folders: Mapping[str, Path | None] | None = None,
    may_exist: bool,
    allow_shared: bool = False,
) -> None:
    """Reject outputs that must not be written; create the folder for many.

    The *others* are further outputs by role, and *roles* and *folders* further paths
    that a job uses.
    """
    for pair in pairs:
        if isinstance(pair.source, Path):
            _check_source(pair.source)
    others = others or {}
    ends = {"IN": [one.source for one in pairs], "OUT": [one.target for one in pairs]}
    check_roles({**ends, **(roles or {}), **others}, folders=folders)
    more = [FilePair(None, one) for given in others.values() for one in given]
    for pair in (*pairs, *more):
        if isinstance(pair.target, Remote):
            pair.target.check_target(may_exist=may_exist)
        elif pair.target is not None:
            folder = pair.target.parent
            while pair.folder is not None and not os.path.lexists(folder):
                folder = folder.parent
            _check_target(
                pair.target, folder, may_exist=may_exist, allow_shared=allow_shared
            )
    for pair in pairs:
        if pair.folder is not None and isinstance(pair.target, Path):
            _make_folders(pair.target.parent)


def _check_source(path: Path) -> None:
    """Reject an input that cannot be accessed, or is a pipe or a device."""
    hint = "Check the path. To read a pipe or a device, pipe it in and name -."
    if not stat.S_ISREG(attempt_read(path, path.stat, hint=hint).st_mode):
        raise InputError(
            f"{printable(str(path))} cannot be read: it is not a regular file.",
            hint=hint,
        )


def attempt_read(
    path: Path,
    call: Callable[[], _T],
    *,
    verb: str = "read",
    hint: str = "Check the path.",
) -> _T:
    """Make a call that looks at *path*; on failure, raise an error with the cause."""
    try:
        return call()
    except OSError as error:
        cause = error.strerror or type(error).__name__
    raise InputError(f"{printable(str(path))} cannot be {verb}: {cause}.", hint=hint)


def _check_target(
    target: Path, folder: Path, *, may_exist: bool, allow_shared: bool
) -> None:
    """Reject an output that must not be replaced, or an unsafe *folder* for it."""
    shown = printable(str(target))
    if not folder.is_dir():
        raise InputError(f"The folder of {shown} does not exist.", hint="Create it.")
    check_folder(folder, allow_shared)

    def look() -> os.stat_result | None:
        with contextlib.suppress(FileNotFoundError):
            return target.lstat()
        return None

    found = attempt_read(target, look, verb="written", hint="Rename it.")
    if found is None:
        return
    if stat.S_ISLNK(found.st_mode):
        raise InputError(
            f"{shown} is a symbolic link.",
            hint="Symbolic links are not followed. Name the file that it points to.",
        )
    if not stat.S_ISREG(found.st_mode):
        raise InputError(
            f"{shown} is not a regular file.", hint="Name a file, or - for stdout."
        )
    if not may_exist:
        raise InputError(
            f"{shown} already exists.", hint="Pass `force=True` to replace it."
        )


def _make_folders(folder: Path) -> None:
    """Create a private folder, and the missing folders above it."""
    if not folder.exists():
        _make_folders(folder.parent)
        make_private_folder(folder)


# --- Inputs that change ---------------------------------------------------------------


def identify(path: Location) -> InputIdentity:
    """Return the identity of a file, which differs after a change.

    The first and last MiB are read; changes between them show in size and time.
    """
    if isinstance(path, Remote):
        return path.identify()

    def read_ends() -> tuple[os.stat_result, str]:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            digest = sha256(file.read(_END_BYTES))
            file.seek(max(0, status.st_size - _END_BYTES))
            digest.update(file.read(_END_BYTES))
        return status, digest.hexdigest()

    found, digest = attempt_read(path, read_ends, hint="Check the file.")
    return InputIdentity(
        # A backslash is escaped, too, so that no two paths have the same name.
        name=os.fsencode(path)
        .replace(b"\\", rb"\\")
        .decode("utf-8", "backslashreplace"),
        size=found.st_size,
        mtime_ns=found.st_mtime_ns,
        digest=digest,
    )


def check_unchanged(
    path: Location, before: InputIdentity, *, size: int | None = None
) -> None:
    """Reject an input that was changed while it was read, or is not of *size* bytes.

    Call this before the output gets its name.
    """
    if identify(path) != before or size not in (None, before.size):
        raise InputError(
            f"{printable(str(path))} was changed while it was read.",
            hint="Wait until it is complete. Then run the job again (`restart=True`).",
        )


# --- Whole or absent ------------------------------------------------------------------


def short_name(name: str, *owner: str | Path) -> str:
    """Return the beginning of a name, and a digest of all of it and its *owner*."""
    digest = sha256(b"\0".join(map(os.fsencode, (name, *owner)))).hexdigest()
    return f"{name[:_NAME_CHARS]}-{digest[:16]}"


@contextmanager
def temp_sibling(target: Path, *, disk: Disk = DISK) -> Iterator[Path]:
    """Lock *target* for this command; yield a path next to it for what is unfinished.

    Until the block ends, a second command that writes *target* is rejected. What is at
    the path is removed at the end, and at the start if a killed command left it.
    """
    part = target.with_name(f".{short_name(target.name)}.uid2-part")
    path = part.with_name(f"{part.name}.lock")
    busy = f"{printable(str(target))} is being written"
    lock = FileLock(path, now=SYSTEM.clock(), busy=busy, disk=disk)
    try:
        _remove(part)
        yield part
    finally:
        with contextlib.suppress(JobError):
            _remove(part)
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        lock.release()


def _remove(part: Path) -> None:
    """Remove an unfinished file, or a folder of them."""
    if os.path.lexists(part):
        delete(part, f"{printable(str(part))} cannot be removed")


def write_atomically(
    target: Path,
    write: Callable[[Path], object],
    *,
    part: Path | None = None,
    disk: Disk = DISK,
) -> None:
    """Call *write* with a private file, and rename it to *target* when complete.

    If several processes may do so, *part* has a name that only this one uses.
    """
    name = short_name(target.name, part or "")
    unfinished = target.with_name(f".{name}.uid2-unfinished")
    try:
        _remove(unfinished)
        attempt(f"{printable(str(target))} cannot be written", write, unfinished)
        replace(unfinished, target, disk=disk)
    except BaseException:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise


def is_moved(parts: Sequence[Path], target: Path) -> bool:
    """Return whether an interrupted run has moved the parts of a job to *target*.

    Parts are removed only after the rename, which may not have been logged.
    """
    if all(part.exists() for part in parts):
        return False
    if target.exists():
        return True
    raise JobError(
        f"Both {printable(str(target))} and its saved part are missing.",
        hint="Discard the job and start over (`restart=True`).",
    )


def move_file(part: Path, target: Path, *, disk: Disk = DISK) -> None:
    """Move a complete part to its name, even across file systems; compress ``.gz``."""
    refusal = f"{printable(str(target))} cannot be put in place"
    folder = attempt(refusal, target.parent.stat)
    found = attempt(refusal, part.stat)
    if folder.st_dev == found.st_dev and not is_gzipped(target):
        replace(part, target, disk=disk)
        return

    def copy(path: Path) -> None:
        with ExitStack() as stack:
            source = stack.enter_context(part.open("rb"))
            file: Any = stack.enter_context(os.fdopen(open_private(path), "wb"))
            if is_gzipped(target):
                # The same bytes for the same rows. The level is gzip's own default;
                # Python's differs between versions.
                packed = gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0)
                file = stack.enter_context(packed)
            shutil.copyfileobj(source, file)

    write_atomically(target, copy, part=part, disk=disk)
    part.unlink()


strip_tracebacks(globals())
