"""The one exception that a user is meant to read; standard library only, so every layer may raise it."""


class ExpostError(Exception):
    """Bad data, bad configuration or a failed stage: shown as one message without a traceback, exit code 1."""


def must(rule: str, got: object, remedy: str) -> ExpostError:
    """Build the error `<rule>, however: <got>. <remedy>`; `remedy` is a whole sentence."""
    return ExpostError(f"{rule}, however: {got}. {remedy}")
