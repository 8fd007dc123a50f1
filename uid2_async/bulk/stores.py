"""Inputs and outputs in object stores (S3, Google Cloud Storage, Azure), and URLs.

fsspec reads and writes them. An object is copied into the job's folder before it is
read, so that it is downloaded only once. An output is uploaded when it is complete; a
store shows an upload only when all of it has arrived.

The text of a foreign exception is never shown: it may contain a signed URL or a key.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from fnmatch import fnmatchcase
from functools import partial
from glob import has_magic
from hashlib import sha256
from importlib import import_module
from itertools import takewhile
from operator import itemgetter
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import urlsplit, urlunsplit

import attrs

from uid2_async._private import printable
from uid2_async._traceback import strip_tracebacks
from uid2_async.bulk.database import DeltaTable
from uid2_async.bulk.paths import (
    LAKE_MARKS,
    STDIO,
    FileFormatOptions,
    FilePair,
    Format,
    InputIdentity,
    Location,
    Remote,
    check_unchanged,
    find_files,
    known_suffix,
    lake_format,
    lake_table_error,
    load_extra,
    path_of,
    refuse_tables,
    resolve,
    write_atomically,
)
from uid2_async.bulk.private_files import DISK, Disk, open_private
from uid2_async.bulk.text import open_stdio
from uid2_async.config import is_loopback
from uid2_async.errors import InputError, JobError, UID2Error


@attrs.frozen(kw_only=True)
class _Store:
    """A kind of store."""

    package: str
    extra: str
    credentials: str = ""


_AZURE: Final = _Store(
    package="adlfs",
    extra="azure",
    credentials="AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY or "
    "AZURE_STORAGE_SAS_TOKEN, or AZURE_STORAGE_CONNECTION_STRING",
)
_S3: Final = _Store(
    package="s3fs",
    extra="s3",
    credentials="AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or the role "
    "of the machine",
)
_GCS: Final = _Store(
    package="gcsfs",
    extra="gcs",
    credentials="GOOGLE_APPLICATION_CREDENTIALS, or gcloud auth application-default "
    "login",
)
_HTTPS: Final = _Store(package="aiohttp", extra="https")
_STORES: Final = {
    "s3": _S3,
    "gs": _GCS,
    "az": _AZURE,
    "https": _HTTPS,
    "http": _HTTPS,
}
_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_SIGNATURE: Final = re.compile(
    r"[?&][^&=]*(sig|signature|token|credential|passw\w*|pwd|secret|key|keyid)=",
    re.IGNORECASE,
)
_CONNECTION_STRING: Final = re.compile(
    r"^jdbc:|\b(ssl)?(passw\w*|pwd)\s*=", re.IGNORECASE
)

_THROTTLED: Final = (429, 503)
_DENIED: Final = (401, 403)
_CREDENTIAL_ERRORS: Final = (
    "Credential",
    "ProfileNotFound",
    "ClientAuthenticationError",
    "SSOTokenLoadError",
    "RefreshError",
    "TokenRetrievalError",
)
_NETWORK_ERRORS: Final = (
    "ConnectionError",
    "ConnectError",
    "HTTPClientError",
    "TimeoutError",
    "ClientError",
    "ClientPayloadError",
    "IncompleteRead",
    "ResponseParserError",
    "ServiceRequestError",
)
_DISK_ERRORS: Final = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_RESUME: Final = "Then run the same command again: the job resumes where it stopped."


def is_url(name: str) -> bool:
    """Return whether a name is a URL instead of a path."""
    return _URL.match(name) is not None


def local_path(name: str | os.PathLike[str], role: str) -> Path:
    """Return the path of a file that must be local."""
    if is_url(os.fspath(name)):
        raise InputError(
            f"{role} must be on this machine, not at a URL.",
            hint="Name a file or a folder of a local disk.",
        )
    if os.fspath(name) == STDIO:
        raise InputError(
            f"{role} cannot be stdin or stdout.",
            hint="Name a file or a folder of a local disk.",
        )
    return _path(name)


def _path(name: str | os.PathLike[str]) -> Path:
    """Return a path; reject a name that no file can have."""
    path = os.fspath(name)
    if not path or "\0" in path:
        raise InputError(
            "The name of a file must not be empty or have a NUL character.",
            hint="Check the arguments, and the variables in them.",
        )
    if _CONNECTION_STRING.search(path):
        raise InputError(
            "The name of a file must not be a connection string of a database.",
            hint="Name the database as postgresql://user@host/database, and set "
            "PGPASSWORD.",
        )
    return Path(path)


def copy_path(folder: Path, remote: Remote, *, version: str = "") -> Path:
    """Return the path of a job's copy of an input or output."""
    digest = sha256(f"{remote.name}\n{version}".encode()).hexdigest()[:16]
    return folder / f"copy-{digest}{known_suffix(remote.path)}"


# --- Names ----------------------------------------------------------------------------


def _check_url(url: str) -> tuple[str, _Store]:
    """Return the scheme of a URL and the kind of its store; reject unsafe URLs."""
    scheme = url.partition("://")[0].lower()
    store = _STORES.get(scheme)
    if store is None and scheme.startswith("postgres"):
        raise InputError(
            "A database is read with a query and written to a table.",
            hint="Name the query with `sql=QUERY`, and the table with `table=TABLE`.",
        )
    if store is None:
        raise InputError(
            "The scheme of a URL must be s3, gs, az or https.",
            hint="Name a local file by its path, without file://.",
        )
    rest = url.partition("://")[2]
    host = re.split("[/?#]", rest, maxsplit=1)[0]
    # A password with a slash: what is before it looks like a port.
    is_cut = ":" in host and "@" in rest and not host.startswith("arn:")
    is_signed = store is not _HTTPS and _SIGNATURE.search(rest)
    if "@" in host or is_cut or is_signed:
        more = "" if store.credentials else ", and write an @ in it as %40"
        raise InputError(
            "A URL must not have credentials in it.",
            hint=f"Use {store.credentials or 'a signed URL'}{more}.",
        )
    try:
        hostname = urlsplit(url).hostname if store is _HTTPS else None
    except ValueError:
        hostname, store = None, None
    if store is None:
        raise InputError("The URL cannot be parsed.", hint="Check its host.")
    if scheme == "http" and not is_loopback(hostname or ""):
        raise InputError(
            "http:// sends personal data in the clear.", hint="Use https://."
        )
    return scheme, store


def _open_store(url: str) -> StoreFile:
    scheme, store = _check_url(url)
    name = _display_name(url)
    what = f"{name} needs the extra '{store.extra}'"
    fsspec, package = load_extra(store.extra, what, "fsspec", store.package)
    # gcsfs logs retries with tracebacks, on stderr if logging is not configured.
    logging.getLogger(store.package).addHandler(logging.NullHandler())
    options: dict[str, Any] = {}
    if store is _HTTPS:  # long downloads are allowed, but not stalled ones
        timeout = package.ClientTimeout(total=None, sock_connect=30, sock_read=60)
        options["client_kwargs"] = {"timeout": timeout, "trust_env": True}
    # Not shared: other code in the process may use other credentials. Listings are not
    # cached: a file may change at any time.
    make = partial(
        fsspec.filesystem,
        scheme,
        skip_instance_cache=True,
        use_listings_cache=False,
        **options,
    )
    fs = _call(name, store, make)
    key = url if store is _HTTPS else str(fs._strip_protocol(url))  # noqa: SLF001 - fsspec offers no public name for it
    return StoreFile(url=url, fs=fs, key=key)


def _display_name(url: str) -> str:
    """Return a URL without its query, which may contain a signature."""
    if _STORES.get(url.partition("://")[0].lower()) is not _HTTPS:
        return printable(url)
    parts = urlsplit(url)
    return printable(urlunsplit((parts.scheme, parts.netloc, parts.path, "", "")))


# --- Objects --------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class StoreFile(Remote):
    """One object of a store, or the file at a URL."""

    url: str = attrs.field(repr=False)
    _fs: Any = attrs.field(repr=False, eq=False, alias="fs")
    _key: str = attrs.field(repr=False, alias="key")
    # The keys that did not exist when they were checked; shared with the children.
    _new: set[str] = attrs.field(factory=set, repr=False, eq=False, alias="new")

    @property
    def name(self) -> str:
        """See :class:`~uid2_async.bulk.paths.Remote`."""
        return _display_name(self.url)

    @property
    def path(self) -> PurePath:
        """See :class:`~uid2_async.bulk.paths.Remote`."""
        return PurePosixPath(self.name.partition("://")[2])

    @property
    def folder_url(self) -> str:
        """The normal form of its URL as that of a folder."""
        return f"{self._scheme}://{self._key.rstrip('/')}/"

    @property
    def _scheme(self) -> str:
        return self.url.partition("://")[0].lower()

    @property
    def _store(self) -> _Store:
        return _STORES[self._scheme]

    @property
    def is_web(self) -> bool:
        """Whether it is a file at a URL, which can only be read."""
        return self._store is _HTTPS

    def child(self, name: str) -> StoreFile:
        """Return the object called *name* in this folder."""
        url, key = self.url.rstrip("/"), self._key.rstrip("/")
        return attrs.evolve(self, url=f"{url}/{name}", key=f"{key}/{name}")

    def _run(self, call: Callable[..., Any], *args: Any, **instead: Any) -> Any:
        """Make one fsspec call.

        *instead* has what to return for a :data:`_Reason` instead of raising.
        """
        return _call(self.name, self._store, partial(call, *args), **instead)

    def fetch_info(self) -> dict[str, Any] | None:
        """Return the object's metadata from the store; None if it does not exist."""
        found: dict[str, Any] | None = self._run(self._fs.info, self._key, missing=None)
        return found

    def identify(self) -> InputIdentity:
        """Return an identity that differs once the object has changed. Blocks."""
        info = self.fetch_info()
        if info is None:
            raise self.missing()
        # Of the same content before it was written again, the time differs, which
        # nobody could restore. Without a tag, a query may name another file.
        tags = ("md5Hash", "ETag", "etag", "generation", "Content-MD5", "Digest")
        times = ("LastModified", "last_modified", "updated", "mtime", "Last-Modified")
        version = next((f"{one} {info[one]}" for one in tags if info.get(one)), None)
        moment = 0
        if version is None:
            changed = next((info[one] for one in times if info.get(one)), None)
            version = f"{self.url}\n{changed}"
            if isinstance(changed, datetime):
                moment = int(changed.timestamp() * 1000) * 1_000_000
        return InputIdentity(
            name=self.name,
            size=int(info.get("size") or 0),
            mtime_ns=moment,
            digest=sha256(version.encode()).hexdigest(),
        )

    def fetch(self, copy: Path, *, disk: Disk = DISK) -> None:
        """Download the object into the file *copy*. Blocks."""
        before = self.identify()

        def download(path: Path) -> None:
            os.close(open_private(path))
            self._run(self._fs.get_file, self._key, str(path))
            size = path.stat().st_size if before.size else None
            check_unchanged(self, before, size=size)

        write_atomically(copy, download, disk=disk)

    def check_target(self, *, may_exist: bool) -> None:
        """Raise if the object must not be written. Blocks."""
        if self.is_web:
            raise InputError(
                f"{self.name} cannot be written: https:// is for inputs only.",
                hint="Write a file, or to s3://, gs:// or az://.",
            )
        if "/" not in self._key.strip("/") or self.url.endswith("/"):
            raise InputError(
                f"{self.name} is a bucket or a folder.", hint="Name an object in it."
            )
        info = self.fetch_info()
        if info is None:
            self._refuse_missing_bucket()
            if not may_exist:
                self._new.add(self._key)
        elif info.get("type") == "directory":
            raise InputError(f"{self.name} is a folder.", hint="Name an object in it.")
        elif not may_exist:
            raise InputError(
                f"{self.name} already exists.", hint="Pass `force=True` to replace it."
            )

    def lake_format(self, folder: str | None = None) -> str | None:
        """Return the kind of lake table in a folder, by default this one. Blocks."""
        folder = self._key.rstrip("/") if folder is None else folder
        for mark, kind in LAKE_MARKS.items():
            name, _, pattern = mark.partition("/")
            inside = f"{folder}/{name}", ["**", *filter(None, [pattern])]
            # Those who may read a file need not have the right to list its folder.
            if next(self._list(*inside, denied={}), None) is not None:
                return kind
        return None

    def refuse_tables(self, keys: Iterable[str] = ()) -> None:
        """Reject keys in the folders of lake tables, by default this key. Blocks."""
        paths = map(PurePosixPath, keys or [self._key])
        for folder in sorted({str(one) for path in paths for one in path.parents}):
            kind = None if folder == "." else self.lake_format(folder)
            if kind is not None:
                raise lake_table_error(f"{self._scheme}://{folder}", kind)

    def find(
        self, *, is_pattern: bool, outputs: str = ""
    ) -> Iterator[tuple[str, Location]]:
        """Yield the names and objects in this folder or pattern. Blocks.

        If *outputs* is the normal URL of a folder in it, its objects are not inputs.
        """
        parts = self._key.rstrip("/").split("/")
        fixed = list(takewhile(lambda part: not has_magic(part), parts))
        fixed = fixed if is_pattern else parts
        if not fixed:
            raise InputError(
                "The name of a bucket cannot be a pattern.", hint="Name one bucket."
            )
        root = "/".join(fixed)
        may_meet = outputs.startswith(f"{self._scheme}://{root}/")
        found = {}
        for key, size in self._list(root, parts[len(fixed) :] or ["**"]):
            name = key[len(root) :].lstrip("/")
            # The consoles of stores, and Hadoop, make empty objects for folders.
            is_marker = not size and key.endswith(("/", "_$folder$"))
            is_hidden = any(part.startswith(("_", ".")) for part in name.split("/"))
            is_output = may_meet and f"{self._scheme}://{key}".startswith(outputs)
            if not (is_marker or is_hidden or is_output):
                found[key] = name
        self.refuse_tables(found)
        for key, name in found.items():
            if not all(name.split("/")) or "\0" in name:
                shown = f"{self._scheme}://{printable(key)}"
                raise InputError(
                    f"{shown} has a name that a file cannot have.",
                    hint="Map it separately, and name its output.",
                )
            yield name, attrs.evolve(self, url=f"{self._scheme}://{key}", key=key)

    def _list(
        self, folder: str, pattern: Sequence[str], **instead: Any
    ) -> Iterator[tuple[str, int | None]]:
        """Yield the keys and sizes in a folder that match the parts of a pattern.

        fsspec's own glob skips keys that are also folders, and folders that it fails to
        list. Blocks.
        """
        call = self._fs.find if pattern[0] == "**" else self._fs.ls
        call = partial(call, folder, detail=True)
        listed = self._run(call, **{"missing": {}, **instead})
        if pattern[0] == "**":
            regex = import_module("fsspec.utils").glob_translate("/".join(pattern))
            matches = re.compile(regex).match
            for key, info in listed.items():
                if key.startswith(f"{folder}/") and matches(key[len(folder) + 1 :]):
                    yield key, info.get("size")
            return
        for info in listed:
            key, is_folder = info["name"], info.get("type") == "directory"
            name = key[len(folder) + 1 :].rstrip("/" if is_folder else "")
            if not name or not fnmatchcase(name, pattern[0]):
                continue
            if is_folder and len(pattern) > 1:
                yield from self._list(f"{folder}/{name}", pattern[1:], **instead)
            elif not is_folder and len(pattern) == 1:
                yield key, info.get("size")

    def missing(self) -> InputError:
        """Return the error that says what does not exist. Blocks."""
        self._refuse_missing_bucket()
        return InputError(f"{self.name} does not exist.", hint="Check the URL.")

    def _refuse_missing_bucket(self) -> None:
        """Raise if the bucket does not exist; ignore a missing permission to check."""
        if self.is_web:
            return
        bucket = self._key.partition("/")[0]
        look = partial(self._fs.exists, bucket)
        if self._store is _S3:  # whose exists() takes any failure for an absence
            look = partial(self._fs.call_s3, "head_bucket", Bucket=bucket)
        if self._run(look, missing=False, denied=None) is False:
            shown = printable(f"{self._scheme}://{bucket}")
            raise InputError(
                f"The bucket {shown} does not exist.",
                hint="Check its name, or create it.",
            )

    def deliver(self, whole: Path, *, job: str = "") -> None:  # noqa: ARG002 - an object is replaced by itself
        """Upload a file; the object appears when all of it has arrived. Blocks."""
        if self._key in self._new and self.fetch_info() is not None:
            raise JobError(
                f"{self.name} was written by another program while the job ran.",
                hint="Rename it if you need it. Then run the same command again, which "
                "replaces it.",
            )
        self._new.discard(self._key)
        self._abort_uploads()
        self._run(self._fs.put_file, str(whole), self._key)
        info = self.fetch_info() or {}
        if info.get("size") != whole.stat().st_size:
            raise JobError(
                f"{self.name} is not what was uploaded.",
                hint=f"Check whether another program writes it. {_RESUME}",
            )

    def _abort_uploads(self) -> None:
        """Discard partial uploads of killed runs, which would cost money.

        The stores of Google and Azure do so automatically after a week.
        """
        if self._store is not _S3:
            return
        bucket, _, key = self._key.partition("/")
        call, where = self._fs.call_s3, {"Bucket": bucket}
        # Permission to write does not imply permission to list or abort.
        found = self._run(
            partial(call, "list_multipart_uploads", **where, Prefix=key),
            denied=None,
        )
        for upload in (found or {}).get("Uploads", []):
            if upload["Key"] == key:
                one = {**where, "Key": key, "UploadId": upload["UploadId"]}
                abort = partial(call, "abort_multipart_upload", **one)
                self._run(abort, denied=None)


# --- Failures -------------------------------------------------------------------------


_Reason: TypeAlias = Literal["missing", "denied", "other"]
"""Why a call failed: callers may expect that an object is missing or access denied."""


def _call(
    name: str,
    store: _Store,
    call: Callable[[], Any],
    **instead: Any,
) -> Any:
    """Make one call, and explain failures without repeating their text."""
    try:
        return call()
    except UID2Error:
        raise
    except Exception as failure:  # noqa: BLE001 - each store has errors of its own
        error: BaseException = failure
        # fsspec reports any failure of a URL as a missing file.
        while isinstance(error, FileNotFoundError) and error.__cause__ is not None:
            error = error.__cause__
        reason, found = _explain(error, name, store)
    if reason in instead:
        return instead[reason]
    raise found


def _explain(  # noqa: PLR0911 - one table, to be read as a whole
    error: BaseException, name: str, store: _Store
) -> tuple[_Reason, UID2Error]:
    """Choose only by class and number."""
    kind = type(error).__name__
    status = _status_of(error)
    number = error.errno if isinstance(error, OSError) else None
    check = f"Check {store.credentials}." if store.credentials else "Check the URL."
    if isinstance(error, FileNotFoundError) or status == 404:  # noqa: PLR2004 - HTTP
        hint = "Check the URL."
        return "missing", InputError(f"{name} does not exist.", hint=hint)
    # adlfs raises a ValueError if it finds none.
    no_account = store is _AZURE and isinstance(error, ValueError)
    if kind == "NoCredentialsError" or no_account:
        hint = f"Set {check[6:]}"
        return "other", InputError(f"{name} needs credentials.", hint=hint)
    if any(word in kind for word in _CREDENTIAL_ERRORS):
        message = f"The credentials for {name} cannot be used."
        return "other", InputError(message, hint=check)
    if isinstance(error, PermissionError) or status in _DENIED:
        return "denied", InputError(
            f"Access to {name} is denied.",
            hint=f"{check} Check that they may read, list and write there.",
        )
    if number in _DISK_ERRORS:
        cause = os.strerror(number or 0)
        hint = f"Free disk space, or name another `job_dir=FOLDER`. {_RESUME}"
        message = f"The copy of {name} cannot be saved: {cause}."
        return "other", JobError(message, hint=hint)
    if number == errno.ENOSYS:
        message = f"The store of {name} does not support an operation."
        return "denied", JobError(message, hint="Use another store.")
    if number == errno.EBUSY or status in _THROTTLED:
        return "other", JobError(
            f"The store of {name} is still throttling after several attempts.",
            hint=f"Wait a few minutes. {_RESUME}",
        )
    is_lost = any(one.__name__.endswith(_NETWORK_ERRORS) for one in type(error).__mro__)
    if isinstance(error, ConnectionError | TimeoutError) or (is_lost and not status):
        return "other", JobError(
            f"The store of {name} cannot be reached ({kind}).",
            hint=f"Check the network and the endpoint. {_RESUME}",
        )
    # The reply to a HEAD request has no body that names the reason.
    expired = f" Check that its credentials have not expired: {store.credentials}."
    return "other", JobError(
        f"{name} could not be used ({kind}).",
        hint=f"Check the store, its endpoint and region."
        f"{expired if store.credentials else ''} {_RESUME}",
    )


def _status_of(error: BaseException) -> int | None:
    response = getattr(error, "response", None)  # botocore's
    told = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}
    if isinstance(told.get("HTTPStatusCode"), int):
        return int(told["HTTPStatusCode"])
    for attribute in ("status", "status_code", "code"):
        found = getattr(error, attribute, None)
        if isinstance(found, int | str) and str(found).isdigit():
            return int(found)
    return None


# --- Many -----------------------------------------------------------------------------


def locate(name: str | os.PathLike[str] | Remote) -> Location | None:
    """Return the file for a path or URL; None for stdin or stdout."""
    if isinstance(name, Remote):
        return name
    name = os.fspath(name)
    if name == STDIO:
        return None
    return _open_store(name) if is_url(name) else _path(name)


@attrs.frozen(kw_only=True)
class Pipe(Remote):
    """Stdin or stdout as a file, for formats that are not streams and for two passes.

    Attributes:
        stream: ``stdin`` or ``stdout``.
        suffix: That of a file with its data, such as ``.parquet``.
    """

    # A pipe cannot be read again, so its copy cannot change.
    is_pinned = True

    stream: str
    suffix: str

    @property
    def name(self) -> str:
        """See :class:`~uid2_async.bulk.paths.Remote`."""
        return self.stream

    @property
    def path(self) -> PurePath:
        """See :class:`~uid2_async.bulk.paths.Remote`."""
        return PurePath(f"{self.stream}{self.suffix}")

    def fetch(self, copy: Path, *, disk: Disk = DISK) -> None:  # noqa: ARG002 - a pipe has no second chance
        """See :class:`~uid2_async.bulk.paths.Remote`."""
        with os.fdopen(open_private(copy), "wb") as file:
            shutil.copyfileobj(open_stdio(sys.stdin, "rb"), file)

    def check_target(self, *, may_exist: bool) -> None:  # noqa: ARG002 - nothing is replaced
        """Reject writing to a terminal."""
        if sys.stdout.isatty():
            raise InputError(
                f"{self.suffix[1:].capitalize()} cannot be shown on a terminal.",
                hint="Name a file, or pipe it into another program.",
            )

    def deliver(self, whole: Path, *, job: str = "") -> None:  # noqa: ARG002 - as above
        """Write a complete file to stdout. Blocks."""
        stream = open_stdio(sys.stdout, "wb")
        with whole.open("rb") as file:
            shutil.copyfileobj(file, stream)
        stream.flush()


def through_files(
    pair: FilePair, options: FileFormatOptions, *, spool: bool = False
) -> FilePair:
    """Replace stdin or stdout with a :class:`Pipe` if the format needs it.

    With *spool*, stdin is replaced in any format.
    """
    source, target = pair.source, pair.target
    given = options.format
    if source is None and given is not None and not given.is_text:
        source = Pipe(stream="stdin", suffix=f".{given}")
    elif source is None and spool:
        how = options.for_file(None, other=path_of(target))
        is_tsv = how.format is Format.CSV and how.delimiter == "\t"
        source = Pipe(stream="stdin", suffix=".tsv" if is_tsv else f".{how.format}")
    if target is None:
        written = options.for_file(path_of(source)).format
        if written is not None and not written.is_text:
            target = Pipe(stream="stdout", suffix=f".{written}")
    return attrs.evolve(pair, source=source, target=target)


def expand_locations(
    source: str | os.PathLike[str] | Remote, target: str | os.PathLike[str] | Remote
) -> list[FilePair]:
    """List the inputs and outputs of a job, local or remote."""
    where = locate(target)
    source = source if isinstance(source, Remote) else os.fspath(source)
    if isinstance(source, Remote) or source == STDIO:
        found: Location | list[tuple[str, Location]] | None = locate(source)
    elif is_url(source):
        found = _find_at_url(source, where)
    else:
        found = _find_at_path(source, where)
    if not isinstance(found, list):
        return [FilePair(found, where)]
    if isinstance(where, StoreFile):
        return [FilePair(one, where.child(name)) for name, one in found]
    if not isinstance(where, Path):
        raise InputError(
            f"Several files cannot be written to {where or 'stdout'}.",
            hint="Name a folder.",
        )
    names = {name for name, _ in found}
    if any(str(one) in names for name in names for one in PurePath(name).parents):
        raise InputError(
            f"A file and a folder in {printable(str(source))} have the same name.",
            hint="Write the outputs to a store, or map the files separately.",
        )
    return [FilePair(one, where / name, where) for name, one in found]


def _find_at_path(
    source: str, target: Location | None
) -> Location | list[tuple[str, Location]]:
    """Return a file, or the names and files of a folder or a pattern."""
    path = _path(source)
    # Unlike those of Path, these never fail.
    is_folder, is_there = os.path.isdir(path), os.path.exists(path)  # noqa: PTH110, PTH112
    if is_folder and lake_format(path) == "Delta Lake":
        return DeltaTable(location=source)
    if is_folder or (has_magic(source) and not is_there):
        return find_files(source, target if isinstance(target, Path) else None)
    if path.suffix.lower() == ".parquet":
        refuse_tables([path.parent, *resolve(path.parent).parents])
    return path


def _find_at_url(
    source: str, target: Location | None
) -> Location | list[tuple[str, Location]]:
    """Return a file or an object, or the names and objects of a folder or a pattern."""
    store = _open_store(source)
    if store.is_web:
        return store
    is_folder = source.endswith("/")
    info = None if is_folder and not has_magic(source) else store.fetch_info()
    is_file = info is not None and info.get("type") != "directory"
    if is_file and not is_folder:
        if store.path.suffix.lower() == ".parquet":
            store.refuse_tables()
        return store
    # The name of a folder may look like a pattern.
    is_pattern = has_magic(source) and (info is None or is_file)
    kind = None if is_pattern else store.lake_format()
    if kind == "Delta Lake":
        return DeltaTable(location=source)
    if kind is not None:
        raise lake_table_error(store.name, kind)
    outputs = target.folder_url if isinstance(target, StoreFile) else ""
    found = store.find(is_pattern=is_pattern, outputs=outputs)
    if listed := sorted(found, key=itemgetter(0)):
        return listed
    missing = store.missing()
    if info is None and not is_pattern and not is_folder:
        raise missing
    raise InputError(
        f"No files were found in {store.name}.",
        hint="Hidden files, and files that begin with _, are ignored.",
    )


strip_tracebacks(globals())
