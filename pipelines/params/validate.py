"""Section `validate`: what the data checks beyond `data/expectations.json` allow."""

from pipelines.params import Section


class Validate(Section):
    """Features that may separate the classes on their own although that usually means leakage."""

    allow_separating: tuple[str, ...] = ()
