"""The exceptions of uid2_async, grouped by who can fix the cause.

All errors can be pickled. None contains DII, a token, a UID, a key or a secret, because
errors are often logged. The built-in ``TimeoutError`` and ``ConnectionError`` are not
base classes, so that ``except TimeoutError`` catches only the caller's own timeout.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import ClassVar

from uid2_async._private import printable

__all__ = [
    "AuthError",
    "BadRequestError",
    "CallTimeoutError",
    "CertificateError",
    "ClientClosedError",
    "ClientForkError",
    "ClientLoopError",
    "ClockSkewError",
    "ConfigError",
    "ConnectError",
    "EnvelopeError",
    "ExpiredTokenError",
    "InputError",
    "InvalidTokenError",
    "JobError",
    "KeysUnavailableError",
    "OperatorError",
    "PayloadTooLargeError",
    "ProtocolError",
    "RateLimitError",
    "ServerError",
    "StalledError",
    "TokenError",
    "TokenFailure",
    "TransportError",
    "UID2Error",
    "UnexpectedStatusError",
]


class UID2Error(Exception):
    """The base class of all errors that this library raises.

    ``str(error)`` is the message. The hint and the failed call are notes
    (``__notes__``), which tracebacks and ``logging.exception`` show below the message.

    Example:
        >>> try:
        ...     await client.generate_token("not an address")
        ... except UID2Error as error:
        ...     print(error.retryable)
        False

    Attributes:
        message: What happened, without personal data or secrets.
        hint: How to fix it, in one sentence.
        retryable: Whether the same call may succeed if it is repeated, as decided by
            the retry policy (:func:`uid2_async.retry.classify`).
        endpoint: The path of the call that failed, such as ``/v2/token/generate``. None
            outside a call.
        trace_id: The ``UID-Trace-Id`` of the last attempt, for the operator's support
            team. None if nothing was sent.
        attempts: The number of attempts of the call. 0 if nothing was sent.
        region: The base URL of the last attempt, or None if the transport does not
            report it.
        reused_connection: Whether the failure came over a connection that had served
            another request before, so that it may not be a reply to this one.
    """

    default_hint: ClassVar[str] = "See the documentation of the call that raised this."

    retryable: bool = False
    endpoint: str | None = None
    trace_id: str | None = None
    attempts: int = 0
    region: str | None = None
    reused_connection: bool = False
    # Immutable, so that a shallow copy cannot share it.
    _added_notes: tuple[str, ...] = ()

    def __init__(self, message: str = "", *, hint: str | None = None) -> None:
        """Store *message*, and *hint* if it is more specific than the class's default.

        Both are made printable, because a message may contain a file name or text from
        an operator.
        """
        message = printable(f"{message}")
        super().__init__(message)
        self.message: str = message
        self.hint: str = printable(f"{hint or self.default_hint}")

    def __str__(self) -> str:
        """Return the message. The hint is in :attr:`hint` and in a note."""
        return printable(self.message)

    @property
    def __notes__(self) -> list[str]:
        """The hint, the details of the call, and the notes of :meth:`add_note`.

        They are computed on access, because the hint and the call may be set after the
        error was created. No copy, pickle or second waiter can duplicate them.
        """
        return [*self._own_notes(), *self._added_notes]

    @__notes__.setter
    def __notes__(self, notes: Iterable[str]) -> None:  # pyright: ignore[reportIncompatibleVariableOverride] # BaseException fills a list
        own = self._own_notes()
        self._added_notes = tuple(note for note in notes if note not in own)

    def add_note(self, note: str, /) -> None:
        """Add a note, which tracebacks show below the message."""
        if not isinstance(note, str):
            raise TypeError("note must be a str.")
        self._added_notes = (*self._added_notes, note)

    def _own_notes(self) -> list[str]:
        """Return the notes that are derived from the attributes."""
        context = self._context()
        call = [printable(f"[{', '.join(context)}]")] if context else []
        return [printable(self.hint), *call]

    def _context(self) -> list[str]:
        """Return the details of the call."""
        context = []
        if self.endpoint is not None:
            context.append(f"POST {self.endpoint}")
        if self.attempts:
            context.append(f"attempts {self.attempts}")
        if self.trace_id is not None:
            context.append(f"trace id {self.trace_id}")
        return context


class InputError(UID2Error, ValueError):
    """A value that the caller passed is not valid. Raised before anything is sent.

    The message names the kind of the value and its position, but not the value.
    """

    default_hint = "Correct the value that the message names, and call again."


class ConfigError(UID2Error, ValueError):
    """A setting is not valid: base URL, API key, client secret or an option."""

    default_hint = "Correct the setting that the message names."


class JobError(UID2Error):
    """A job, its folder or its state cannot be used: it is locked, changed or damaged.

    Finished work is not lost.
    """

    default_hint = "Fix the cause that the message names, and run the job again."


class TransportError(UID2Error):
    """There was no usable HTTP response."""

    default_hint = "Check the network between this machine and the operator."


class ConnectError(TransportError):
    """The operator cannot be reached, or closed the connection.

    Attributes:
        disconnected: Whether an open connection was lost before the reply. If it was
            reused, the operator may have closed it in the meantime.
    """

    default_hint = "Check the base URL, DNS, the firewall and any proxy."

    def __init__(
        self,
        message: str = "",
        *,
        hint: str | None = None,
        disconnected: bool = False,
    ) -> None:
        """Store the message, and whether an open connection was lost."""
        super().__init__(message, hint=hint)
        self.disconnected: bool = disconnected


class CertificateError(TransportError):
    """The operator's certificate was rejected. Never retried."""

    default_hint = (
        "Check the host name, this machine's clock and its CA bundle. For a private "
        "CA, set UID2_CA_FILE (or EUID_CA_FILE), or pass ca_file= to the client."
    )


class CallTimeoutError(TransportError):
    """The call did not finish within its timeout."""

    default_hint = "Raise timeout=, or check the operator's latency."


class StalledError(TransportError):
    """A bulk job stopped, because no batch has succeeded within its stall_timeout."""

    default_hint = "Check the operator. The results so far are complete."


class OperatorError(UID2Error):
    """The operator rejected the request (docs/protocol.md 1.7).

    Attributes:
        status: The HTTP status code.
        code: The operator's status word, such as ``client_error``, or None.
        retry_after: The number of seconds that the operator asked to wait, or None.
    """

    default_hint = "Change the request as the operator's message says."

    def __init__(
        self,
        message: str = "",
        *,
        hint: str | None = None,
        status: int = 0,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        """Store the details of the reply."""
        super().__init__(message, hint=hint)
        self.status: int = status
        self.code: str | None = None if code is None else printable(f"{code}")
        self.retry_after: float | None = retry_after

    def _context(self) -> list[str]:
        """Add the details of the reply."""
        context = super()._context()
        if self.status:
            context.append(f"HTTP {self.status}")
        if self.code is not None:
            context.append(f"status {self.code}")
        if self.retry_after is not None:
            context.append(f"retry after {self.retry_after:g} s")
        return context


class BadRequestError(OperatorError):
    """The operator did not accept the request (HTTP 400)."""


class AuthError(OperatorError):
    """The API key was not accepted, or the client secret does not belong to it."""

    default_hint = (
        "Check that the API key is enabled, belongs to this environment and has the "
        "role that the endpoint needs."
    )


class InvalidTokenError(OperatorError):
    """The operator does not recognize the token (HTTP 400)."""

    default_hint = "Generate a new token. This one can no longer be used."


class ExpiredTokenError(OperatorError):
    """The refresh token has expired (HTTP 400)."""

    default_hint = "Generate a new token. The refresh token is too old."


class ClockSkewError(OperatorError):
    """The operator rejected the time in the envelope (docs/protocol.md 1.4).

    Attributes:
        offset: Seconds by which the operator's clock is ahead of the time that was
            sent. None if the operator returned no usable time.
        corrected: Whether the same call would now send a corrected time.
        late: Whether the time was right, so that the request was too slow.
    """

    default_hint = "Set this machine's clock (NTP). It is off by a minute or more."

    offset: float | None = None
    corrected: bool = False
    late: bool = False

    def _context(self) -> list[str]:
        """Add the difference between the clocks."""
        context = super()._context()
        if self.offset is not None:
            side = "behind" if self.offset > 0 else "ahead of"
            context.append(
                f"the time sent was {abs(self.offset):.0f} s {side} the operator's"
            )
        return context


class RateLimitError(OperatorError):
    """The operator requires fewer requests (HTTP 429)."""

    default_hint = "Send fewer concurrent requests, or wait for retry_after seconds."


class ServerError(OperatorError):
    """The operator or a gateway in front of it failed (HTTP 5xx)."""

    default_hint = "Try again later. If it persists, contact support with the trace ID."


class PayloadTooLargeError(OperatorError):
    """The request body exceeds the operator's limit of 1 MiB (HTTP 413)."""

    default_hint = "Send fewer items in one call."


class UnexpectedStatusError(OperatorError):
    """An HTTP status that no operator returns here, such as a redirect, 404 or 405."""

    default_hint = "Check the base URL. The server does not look like an operator."


class EnvelopeError(UID2Error):
    """The reply cannot be decrypted: it is forged, truncated, or not for this request.

    All causes have the same message, so that an attacker learns nothing from it.

    Attributes:
        foreign_nonce: Whether the reply was encrypted with the right key but answers
            another request. It is a replay or a mix-up, and is never retried.
        untimely: Whether it answers this request, but with a time that is off by more
            than ten minutes. It is never retried.
    """

    default_hint = (
        "Check that the client secret belongs to the API key, and that no proxy or "
        "portal answers in the operator's place."
    )

    foreign_nonce: bool = False
    untimely: bool = False

    def __init__(
        self,
        message: str = "The operator's reply could not be decrypted.",
        *,
        hint: str | None = None,
    ) -> None:
        """Store the message."""
        super().__init__(message, hint=hint)


class ProtocolError(UID2Error):
    """The reply does not have the documented structure.

    Attributes:
        path: The JSON path, such as ``body.email_hash[3].u``. Empty for the whole
            reply.
        unparseable_http: Whether the reply was not even HTTP.
    """

    default_hint = "Update uid2_async. If it persists, report the path and trace ID."

    def __init__(
        self,
        message: str = "",
        *,
        hint: str | None = None,
        path: str = "",
        unparseable_http: bool = False,
    ) -> None:
        """Store the path, but never the value."""
        super().__init__(message, hint=hint)
        self.path: str = path
        self.unparseable_http: bool = unparseable_http


class KeysUnavailableError(UID2Error):
    """No key ring has been loaded yet, or all of its keys have expired."""

    default_hint = "Fetch the keys again, and check that the API key may fetch them."


class TokenFailure(Enum):
    """Why a token could not be decrypted or encrypted (docs/protocol.md 6.6).

    Not a ``str``, so that ``isinstance(found, str)`` is true only for a token.
    """

    INVALID_PAYLOAD = "invalid payload"
    VERSION_NOT_SUPPORTED = "token version not supported"
    INVALID_IDENTITY_SCOPE = "invalid identity scope"
    NOT_AUTHORIZED_FOR_MASTER_KEY = "not authorized for master key"
    NOT_AUTHORIZED_FOR_KEY = "not authorized for key"
    EXPIRED_TOKEN = "token expired"  # noqa: S105 - a status text, not a secret
    DOMAIN_OR_APP_NAME_CHECK_FAILED = "domain or app name check failed"
    INVALID_TOKEN_LIFETIME = "invalid token lifetime"  # noqa: S105 - as above

    def __str__(self) -> str:
        """Return the value, for people to read."""
        return self.value


class TokenError(UID2Error):
    """A token could not be decrypted or encrypted.

    Attributes:
        reason: The cause, one of :class:`TokenFailure`.
    """

    default_hint = "See the reason. Discard tokens that are expired or not for you."

    def __init__(
        self,
        reason: TokenFailure = TokenFailure.INVALID_PAYLOAD,
        *,
        hint: str | None = None,
    ) -> None:
        """Store the reason, from which the message is made."""
        super().__init__(f"The token was rejected: {reason}.", hint=hint)
        self.reason: TokenFailure = reason

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the reason, because the message is made from it."""
        return (type(self), (self.reason,), self.__dict__)


class ClientClosedError(UID2Error):
    """The client was closed before or during the call."""

    default_hint = "Create a new client, or close it later."


class ClientLoopError(UID2Error):
    """The client is used in another event loop than its own."""

    default_hint = "Create one client in each event loop."


class ClientForkError(UID2Error):
    """The client was created before this process was forked."""

    default_hint = "Create the client in the worker, after the fork."
