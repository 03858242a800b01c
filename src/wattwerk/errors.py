"""Every error that wattwerk raises on purpose.

    WattwerkError
    ├── ConfigError        what the user asked for is wrong: correct it, then try again      (exit code 2)
    ├── UnavailableError   this machine lacks something: the remedy says what to install     (exit code 3)
    ├── MeasurementError   a measurement went wrong: trying again can help                   (exit code 1)
    ├── ConversionError    a model cannot be brought into the asked-for form                 (exit code 1)
    ├── BitstreamError     bytes are no NNC stream, or a damaged one; names the byte          (exit code 2)
    └── StoreError         the store of records cannot be read or written                    (exit code 2)

Each error says what failed, on what, and what to do next. ``retryable`` says whether the same call can succeed later.
"""

from __future__ import annotations

from typing import ClassVar


class WattwerkError(Exception):
    """Base of all errors that wattwerk raises on purpose.

    Args:
        message: What failed, and on what; one line.
        remedy: What to do next; one line, or None if there is nothing to do.
    """

    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, remedy: str | None = None) -> None:
        super().__init__(message, remedy)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}: {self.remedy}" if self.remedy else self.message


class ConfigError(WattwerkError):
    """Report bad input: an option, a file or a name that cannot be used."""

    exit_code = 2


class UnavailableError(WattwerkError):
    """Report that this machine lacks a package, a device, a sensor or a permission."""

    exit_code = 3


class MeasurementError(WattwerkError):
    """Report a measurement that went wrong."""

    retryable = True


class ConversionError(WattwerkError):
    """Report a model that cannot be converted, exported or quantised."""


class BitstreamError(WattwerkError):
    """Report bytes that are not a valid NNC stream, or one that needs more than the caller allows.

    Args:
        message: What is wrong.
        remedy: What to do next.
        offset: Where, in bytes from the start of the stream; it becomes part of the message.
    """

    exit_code = 2

    def __init__(self, message: str, remedy: str | None = None, *, offset: int | None = None) -> None:
        super().__init__(message if offset is None else f"{message} (byte {offset})", remedy)
        self.offset = offset


class StoreError(WattwerkError):
    """Report a store of records that cannot be opened, read or written."""

    exit_code = 2
