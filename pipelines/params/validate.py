"""Section `validate`: what the data checks beyond `data/expectations.json` allow."""

from pipelines.params import Section


class Validate(Section):
    """Features that may separate the classes on their own although that usually means leakage, and columns whose values may look alike."""

    allow_separating: tuple[str, ...] = ()
    allow_look_alikes: tuple[str, ...] = ()
