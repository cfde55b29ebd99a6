"""The one exception that a user is meant to read; standard library only, so every layer may raise it."""

import re

_USER = re.compile(r"(://[^/@:\s]*):[^/\s]+@")
_FIELD = re.compile(r"(?i)([?&](?:password|passwd|pwd|token|secret|sslpassword)=)[^&\s'\"]+")


def without_password(text: str) -> str:
    """`text` as it may be shown or logged: `scheme://user:secret@host?token=secret` becomes `scheme://user:***@host?token=***`."""
    return _FIELD.sub(r"\1***", _USER.sub(r"\1:***@", text))


class ExpostError(Exception):
    """Bad data, bad configuration or a failed stage: shown as one message without a traceback and without passwords, exit code 1."""

    def __init__(self, message: str = "") -> None:
        super().__init__(without_password(message))


class NotFiniteError(ExpostError):
    """A training whose loss or weights became infinite or no number: with other parameters it need not."""


class TerminatedError(KeyboardInterrupt):
    """SIGTERM, which ends a stage as Ctrl-C does, with a message of its own and exit code 143."""


def must(rule: str, got: object, remedy: str) -> ExpostError:
    """Build the error `<rule>, however: <got>. <remedy>`; `remedy` is a whole sentence."""
    return ExpostError(f"{rule}, however: {got}. {remedy}")
