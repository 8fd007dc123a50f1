"""Local commands that append columns to a file, or print JSON for values.

Files are read and written in chunks, so they can be of any size, and their content is
kept unchanged. Messages never show a value.
"""

from __future__ import annotations

import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

import attrs
import msgspec
import typer

from uid2_async.bulk.columns import find_column
from uid2_async.bulk.files import Output, Reader, check_output, open_output, open_reader
from uid2_async.bulk.paths import (
    STDIO,
    Content,
    FileFormatOptions,
    FilePair,
    check_targets,
    check_unchanged,
    identify,
    temp_sibling,
)
from uid2_async.cli.connection import Connection
from uid2_async.cli.exit_codes import ExitCode
from uid2_async.cli.keys import KeysFileOption, KeysKind, KeysOption, kind_of, load_keys
from uid2_async.cli.options import (
    FORMATS,
    CountryOption,
    Kind,
    KindOption,
    with_shared_options,
)
from uid2_async.cli.output import print_error
from uid2_async.cli.values import read_lines
from uid2_async.errors import InputError, TokenError, TokenFailure
from uid2_async.models import IdentityType
from uid2_async.phones import PhoneFault, check_country, to_sendable
from uid2_async.protocol import base64
from uid2_async.protocol.normalize import (
    HASH_KINDS,
    identity_bytes,
    many_identity_bytes,
)

if TYPE_CHECKING:
    from uid2_async.protocol.keyring import KeyRing

CHUNK_ROWS: Final = 10_000

Columns: TypeAlias = tuple[Sequence[str | int | None], ...]
"""The columns appended to some rows. The last one says why a row failed, or is None."""

Work: TypeAlias = Callable[[Sequence[Sequence[str]]], Columns]
"""Computes the columns from the values of each wanted column, for some rows.

Values missing in the file are passed as an empty str.
"""


@attrs.frozen(kw_only=True)
class RowFiles:
    """The files of a command. Each field is an argument or an option."""

    source: Annotated[
        str | None,
        typer.Argument(
            metavar="IN",
            help="A file with a header (.csv, .jsonl, .parquet, .arrow); - is stdin.",
        ),
    ] = None
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="OUT", help="The file to write. Defaults to -, which is stdout."
        ),
    ] = None
    force: Annotated[
        bool, typer.Option("--force", help="Replace the output file if it exists.")
    ] = False


def values_option(name: str, metavar: str, what: str) -> Any:
    """Declare the option for single values, of which *what* is one."""
    text = f"{what}, instead of a file; - reads stdin line by line. Can be repeated."
    return typer.Option(name, metavar=metavar, help=text)


def column_option(what: str, default: str) -> Any:
    """Declare the option for the column with *what*."""
    text = f"The column with {what}. Defaults to {default}."
    return typer.Option("--column", metavar="NAME", help=text)


# --- columns for a file, or JSON for values -------------------------------------------


@attrs.frozen(kw_only=True)
class RowJob:
    """The work on values, or on the rows of a file.

    Attributes:
        option: The option for *values*, which may be ``-`` for the lines of stdin.
        files: The input, None if *values* are given, and the output.
        options: How the files are written.
        wanted: The columns to read, by the option that names them.
        named: Whether one of these options was given.
        added: The appended columns, and what each contains.
        result: What a successful row gets, for messages.
    """

    option: str
    values: Sequence[str] = attrs.field(repr=False, default=())
    files: RowFiles
    options: FileFormatOptions
    wanted: Mapping[str, str]
    named: bool = False
    added: Mapping[str, Content]
    result: str
    _failures: Counter[str] = attrs.field(factory=Counter, init=False)

    def run(self, prepare: Callable[[], Work]) -> None:
        """Print a result for each value, or write the output.

        Exits with 3 if rows failed. *prepare*, which is called after all other checks,
        gets the keys and returns the function that makes the cells.
        """
        source = self.files.source
        if source is None:
            self._print_values(prepare)
        else:
            self._check_source(source)
            self._rewrite(source, prepare)
        if failed := self._failures.total():
            reasons = sorted(self._failures.items())
            listed = ", ".join(f"{why} {count:,}" for why, count in reasons)
            print_error(f"Rows without {self.result}: {failed:,} ({listed}).")
            raise typer.Exit(ExitCode.INCOMPLETE)

    def _count(self, columns: Columns) -> dict[str, Sequence[str | int | None]]:
        """Name the columns, and count the failed rows by reason."""
        self._failures.update(str(why) for why in columns[-1] if why is not None)
        return dict(zip(self.added, columns, strict=True))

    def _print_values(self, prepare: Callable[[], Work]) -> None:
        """Print a JSON object for each value."""
        if not self.values:
            raise InputError(
                f"There is nothing to read: give a file, or values with {self.option}.",
                hint="IN and OUT are files; - is a pipe.",
            )
        if self.options != FileFormatOptions() or self.files.force or self.named:
            raise InputError(
                "--force and the options for columns and formats apply only to files.",
                hint=f"Name IN instead of {self.option}, or leave them out.",
            )
        encode = msgspec.json.Encoder().encode
        work: Work | None = None
        for value in read_lines(self.values):
            work = work or prepare()
            made = self._count(work([[value]]))
            row = {name: cells[0] for name, cells in made.items()}
            sys.stdout.write(f"{encode(row).decode()}\n")

    def _check_source(self, source: str) -> None:
        """Reject values together with a file, and a file that does not exist."""
        if self.values:
            raise InputError(f"Give either IN or {self.option}.")
        if source != STDIO and not Path(source).exists():
            # Not repeated: it may be a mistyped value, which is DII or a secret.
            raise InputError(
                "The file IN does not exist.",
                hint=f"Check the path. A single value is given with {self.option}.",
            )

    def _rewrite(self, name: str, prepare: Callable[[], Work]) -> None:
        source = None if name == STDIO else Path(name)
        target = None if self.files.target in (None, STDIO) else Path(self.files.target)
        file = source if source is not None and source.is_file() else None
        reading, writing = FilePair(source, target).formats(self.options)
        with closing(open_reader(source, reading)) as reader:
            columns = self._find_columns(reader)
            reader.select(columns, added=self.added)
            check_targets([FilePair(file, target)], may_exist=self.files.force)
            identity = None if file is None else identify(file)
            check_output(reader, writing, self.added)
            with ExitStack() as stack:
                stack.enter_context(_exit_on_sigterm())
                part = None
                if target is not None:
                    part = stack.enter_context(temp_sibling(target))
                work = prepare()
                output = stack.enter_context(
                    closing(
                        open_output(
                            reader, writing, part, added=self.added, resumable=False
                        )
                    )
                )
                self._write(reader, columns, output, work)
                if file is not None and identity is not None:
                    check_unchanged(file, identity)
                output.finish(target)

    def _find_columns(self, reader: Reader) -> list[int]:
        """Find the wanted columns; none if there are no rows."""
        return [
            find_column(
                reader.header,
                name,
                name=reader.name,
                hint=f"Name it with {option} NAME.",
            )
            for option, name in self.wanted.items()
            if reader.header
        ]

    def _write(
        self, reader: Reader, columns: Sequence[int], output: Output, work: Work
    ) -> None:
        while True:
            rows = reader.take(CHUNK_ROWS)
            if rows is None:
                if not reader.load():
                    break
            elif rows.count:
                values = list(map(rows.values, columns))
                output.write(output.format(rows, self._count(work(values))))
        output.sync()


@contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """Raise SystemExit on SIGTERM, so that the block cleans up."""

    def leave(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(ExitCode.TERMINATED)

    try:
        before = signal.signal(signal.SIGTERM, leave)
    except ValueError:  # not in the main thread, which alone gets signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# --- encrypt --------------------------------------------------------------------------

# Snowflake's names for these statuses.
_STATUSES: Final = {
    TokenFailure.INVALID_PAYLOAD: "MISSING_OR_INVALID_RAW_UID",
    TokenFailure.INVALID_IDENTITY_SCOPE: "MISMATCHING_IDENTITY_SCOPE",
    TokenFailure.NOT_AUTHORIZED_FOR_KEY: "NOT_AUTHORIZED_FOR_SITE_KEY",
}


@with_shared_options(FileFormatOptions, FORMATS)
def encrypt_uids(
    *,
    raw_uids: Annotated[
        list[str] | None, values_option("--uid", "RAW_UID", "A raw UID")
    ] = None,
    column: Annotated[str | None, column_option("the raw UIDs", "UID")] = None,
    keyset_id: Annotated[
        int | None,
        typer.Option(
            "--keyset-id",
            metavar="ID",
            help="The keyset whose members may read the tokens. Defaults to the API "
            "key's default keyset.",
        ),
    ] = None,
    identity_type: Annotated[
        IdentityType | None,
        typer.Option(
            "--type",
            help="What the raw UIDs were made from. Defaults to the type that they "
            "contain; those of 32 bytes contain none and count as an email's.",
        ),
    ] = None,
    files: RowFiles,
    keys_file: KeysFileOption = None,
    connection: Connection,
    **formats: Any,
) -> None:
    """Encrypt raw UIDs locally into tokens for sharing.

    Every row and column of IN is kept, in order; UID_TOKEN and ENCRYPTION_STATUS are
    appended. With --uid, the results are printed as JSON, one per line.

    ENCRYPTION_STATUS is empty (null) for an encrypted raw UID, else
    MISSING_OR_INVALID_RAW_UID, MISMATCHING_IDENTITY_SCOPE,
    NOT_AUTHORIZED_FOR_MASTER_KEY or NOT_AUTHORIZED_FOR_SITE_KEY. Exits with 3 if a raw
    UID cannot be encrypted.
    """

    def prepare() -> Work:
        ring = load_keys(KeysKind.SHARING, connection, keys_file)
        return _encrypter(ring, identity_type, keyset_id)

    RowJob(
        option="--uid",
        values=raw_uids or (),
        files=files,
        options=FileFormatOptions(**formats),
        wanted={"--column": column or "UID"},
        named=bool(column),
        added={"UID_TOKEN": Content.TEXT, "ENCRYPTION_STATUS": Content.TEXT},
        result="a token",
    ).run(prepare)


def _encrypter(
    ring: KeyRing, identity_type: IdentityType | None, keyset_id: int | None
) -> Work:
    from uid2_async.sharing import SharingClient  # noqa: PLC0415 - imports aiohttp

    client = SharingClient(ring)

    def encrypt_some(values: Sequence[Sequence[str]]) -> Columns:
        (raw_uids,) = values
        try:
            found = client.encrypt_many(
                raw_uids, identity_type=identity_type, keyset_id=keyset_id
            )
        except TokenError as error:
            # There is no key, so none of them can be encrypted.
            found = [error.reason] * len(raw_uids)
        failed = [one if isinstance(one, TokenFailure) else None for one in found]
        return (
            [None if why else str(one) for one, why in zip(found, failed, strict=True)],
            [why and _STATUSES.get(why, why.name) for why in failed],
        )

    return encrypt_some


# --- decrypt --------------------------------------------------------------------------


@with_shared_options(FileFormatOptions, FORMATS)
def decrypt_tokens(
    *,
    tokens: Annotated[
        list[str] | None, values_option("--token", "TOKEN", "A token")
    ] = None,
    column: Annotated[str | None, column_option("the tokens", "UID_TOKEN")] = None,
    domain_column: Annotated[
        str | None,
        typer.Option(
            "--domain-column",
            metavar="NAME",
            help="The column with the domain or app that each token comes from.",
        ),
    ] = None,
    domain: Annotated[
        str | None,
        typer.Option(
            "--domain", metavar="NAME", help="The domain or app of all tokens."
        ),
    ] = None,
    files: RowFiles,
    keys: KeysOption = None,
    keys_file: KeysFileOption = None,
    connection: Connection,
    **formats: Any,
) -> None:
    """Decrypt advertising tokens of any version locally.

    Every row and column of IN is kept, in order; UID, SITE_ID and DECRYPTION_STATUS are
    appended. With --token, the results are printed as JSON, one per line.

    DECRYPTION_STATUS is empty (null) for a decrypted token, else EXPIRED_TOKEN,
    INVALID_PAYLOAD, VERSION_NOT_SUPPORTED, INVALID_IDENTITY_SCOPE,
    NOT_AUTHORIZED_FOR_MASTER_KEY, NOT_AUTHORIZED_FOR_KEY, INVALID_TOKEN_LIFETIME or
    DOMAIN_OR_APP_NAME_CHECK_FAILED. Exits with 3 if a token cannot be decrypted.

    --keys bidstream, the default, applies the rules for bidders: a token generated by a
    page or app is valid only with a domain or app of its site. --keys sharing applies
    the rules for shared tokens, without domains. A file saved by 'uid2 keys' records
    its kind.
    """
    if domain and domain_column:
        raise InputError("Give either --domain or --domain-column.")
    if (domain or domain_column) and keys is KeysKind.SHARING:
        raise InputError(
            "Domains are checked only with --keys bidstream.",
            hint="Leave out --keys sharing, or the domains.",
        )
    wanted = {"--column": column or "UID_TOKEN"}
    if domain_column:
        wanted["--domain-column"] = domain_column

    def prepare() -> Work:
        kind = keys or KeysKind.BIDSTREAM
        ring = load_keys(kind, connection, keys_file)
        if keys is None and not (domain or domain_column):
            kind = kind_of(ring)
        return _decrypter(ring, kind, domain)

    RowJob(
        option="--token",
        values=tokens or (),
        files=files,
        options=FileFormatOptions(**formats),
        wanted=wanted,
        named=bool(column or domain_column),
        added={
            "UID": Content.TEXT,
            "SITE_ID": Content.INTEGER,
            "DECRYPTION_STATUS": Content.TEXT,
        },
        result="a raw UID",
    ).run(prepare)


def _decrypter(ring: KeyRing, kind: KeysKind, domain: str | None) -> Work:
    from uid2_async.bidstream import BidstreamClient  # noqa: PLC0415 - imports aiohttp
    from uid2_async.sharing import SharingClient  # noqa: PLC0415 - as above

    sharing, bidstream = SharingClient(ring), BidstreamClient(ring)

    def decrypt_some(values: Sequence[Sequence[str]]) -> Columns:
        tokens, *others = values
        if kind is KeysKind.SHARING:
            found = sharing.decrypt_many(tokens)
        else:
            domains = others[0] if others else [domain] * len(tokens)
            found = bidstream.decrypt_many(tokens, domains)
        decrypted = [None if isinstance(one, TokenFailure) else one for one in found]
        return (
            [None if one is None else one.raw_uid for one in decrypted],
            [None if one is None else one.site_id for one in decrypted],
            [one.name if isinstance(one, TokenFailure) else None for one in found],
        )

    return decrypt_some


# --- hash -----------------------------------------------------------------------------

_INVALID: Final = "INVALID_IDENTIFIER"


@with_shared_options(FileFormatOptions, FORMATS)
def hash_identities(
    *,
    values: Annotated[
        list[str] | None, values_option("--value", "VALUE", "An identity")
    ] = None,
    column: Annotated[str | None, column_option("the identities", "INPUT")] = None,
    kind: KindOption = None,
    country: CountryOption = None,
    files: RowFiles,
    **formats: Any,
) -> None:
    """Normalize and hash identities locally.

    Nothing is sent. Every row and column of IN is kept, in order; HASH, HASH_TYPE and
    HASH_STATUS are appended. With --value, the results are printed as JSON, one per
    line.

    HASH is the SHA-256 in base64, as the operator computes it; a hash in hex is
    converted to base64. HASH_TYPE is email_hash or phone_hash. HASH_STATUS is empty
    (null) for a hashed identity, else INVALID_IDENTIFIER; with --country, it says why a
    phone number is invalid. Exits with 3 if an identity cannot be hashed.
    """
    if country is not None:
        if kind is not Kind.PHONE:
            raise InputError("--country applies only to phones. Add --type phone.")
        check_country(country)

    def hash_some(values: Sequence[Sequence[str]]) -> Columns:
        (identities,) = values
        if country is not None:
            return _hash_phones(identities, country)
        return _hash(identities, kind)

    RowJob(
        option="--value",
        values=values or (),
        files=files,
        options=FileFormatOptions(**formats),
        wanted={"--column": column or "INPUT"},
        named=bool(column),
        added=dict.fromkeys(("HASH", "HASH_TYPE", "HASH_STATUS"), Content.TEXT),
        result="a hash",
    ).run(lambda: hash_some)


def _hash(identities: Sequence[str], kind: Kind | None) -> Columns:
    """Hash identities of one kind, or of the kind that each one's form shows."""
    if kind is None:
        kinds = [Kind.PHONE if one[:1] == "+" else Kind.EMAIL for one in identities]
        found = list(map(identity_bytes, kinds, identities))
        types = [HASH_KINDS[one] for one in kinds]
    else:
        found = many_identity_bytes(kind, identities)
        types = [HASH_KINDS[kind]] * len(identities)
    hashes = base64.encode_texts([one or b"" for one in found])
    if None not in found:
        return hashes, types, [None] * len(found)
    return (
        [text or None for text in hashes],
        [name if text else None for text, name in zip(hashes, types, strict=True)],
        [None if text else _INVALID for text in hashes],
    )


def _hash_phones(identities: Sequence[str], country: str) -> Columns:
    found = [to_sendable(one, country) for one in identities]
    # An empty string keeps the position of a fault.
    texts = ["" if isinstance(one, PhoneFault) else one for one in found]
    hashes, types, failed = _hash(texts, Kind.PHONE)
    reasons = [
        one.code if isinstance(one, PhoneFault) else why
        for one, why in zip(found, failed, strict=True)
    ]
    return hashes, types, reasons
