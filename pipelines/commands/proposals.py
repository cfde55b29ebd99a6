"""A role and a kind for each column of a table that nobody has described yet, each with the reason."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines import pictures
from pipelines.commands.imageform import image_form
from pipelines.core.profile import is_nearly_constant, rows_beside_the_commonest, separation, tell_tale
from pipelines.datachecks import codes_of, values_of
from pipelines.errors import must

if TYPE_CHECKING:
    import polars as pl

#: Values with fewer rows each than this teach nothing that holds for the next row.
ROWS_PER_VALUE = 10

#: Up to this many distinct values, text that reads as numbers, and whole numbers named like a code, are categories.
FEW = 20
CODES = 50

_ID_NAME = re.compile(r"(^|[ _.\-])(id|ids|nbr|uuid|guid|key)$|[a-z]ID$|^ID$", re.IGNORECASE)
_CODE_NAME = re.compile(r"(^|[ _.\-])(id|code|type|zip|zipcode|postcode)$|[a-z]ID$", re.IGNORECASE)
_COST_NAME = re.compile(r"^(c|cost)[ _.\-]?(fp|fn|tp|tn)$", re.IGNORECASE)
_PART_NAME = re.compile(r"^(split|part|partition|fold|subset|set)$", re.IGNORECASE)
_PART_VALUES = {"train", "training", "valid", "validation", "val", "dev", "test", "testing", "holdout", "calib"}
_ISO_DATE = r"^\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?Z?)?$"
_OTHER_DATE = r"^\d{1,2}[./-]\d{1,2}[./-]\d{2,4}$"
_SHOWN = 60


@dataclass(frozen=True)
class Proposal:
    """What `init` proposes for a column; `why` is set where it is more than "a plain feature"."""

    name: str
    role: str
    kind: str
    about: str
    why: str = ""
    form: Mapping[str, Any] | None = None  #: of images: the proposed `ingest.image`

    @property
    def is_feature(self) -> bool:
        """Whether training would see the column."""
        return self.role in ("feature", "feature+cost")


@dataclass(frozen=True)
class Wishes:
    """Roles that the user gave on the command line (column -> role), which win over every rule, and the columns that the utility reads."""

    roles: Mapping[str, str] = field(default_factory=dict)
    costs: tuple[str, ...] = ()

    def named(self, role: str) -> str | None:
        """The column that was asked for in this role."""
        return next((name for name, wished in self.roles.items() if wished == role), None)

    def wished(self, proposal: Proposal) -> Proposal | None:
        """The proposal with the role that was asked for, or None where nothing was said of the column."""
        role, why = self.roles.get(proposal.name), "as you asked"
        if role is None and proposal.name in self.costs:
            role, why = "cost", f"the utility reads it; with --role '{proposal.name}=feature+cost' training sees it too"
        if role is None:
            return None
        named = role in ("group", "key") or (proposal.kind == "text" and role != "feature")
        kind = "category" if named else "number" if role == "weight" else proposal.kind
        return replace(proposal, role=role, kind=kind, why=why)


def propose_columns(frame: pl.DataFrame, target: str, labels: np.ndarray[Any, Any], classes: list[str], wishes: Wishes) -> list[Proposal]:
    """Propose a role and kind for every column of `frame` but the target, in its order; `labels` int64 `(n,)` index `classes`.

    Raises ExpostError where images are asked to be something else than a feature, or are too small.
    """
    images = _pictures(frame.drop(target), wishes)
    proposals: list[Proposal] = []
    seen: dict[int, str] = {}
    for name in frame.columns:
        if name == target:
            continue
        column = frame[name]
        if name in images:
            proposals.append(images[name])
            continue
        kind = kind_of(column)
        proposal = Proposal(name, "feature", kind, about(column, kind))
        proposals.append(wishes.wished(proposal) or _judge(column, proposal, labels, classes, seen))
    return _only_one(proposals, wishes)


def _pictures(frame: pl.DataFrame, wishes: Wishes) -> dict[str, Proposal]:
    """Columns of images: the one asked for, else the first that was not to be ignored, is the feature; the others are left out."""
    found = [Proposal(name, "feature", "image", f"{len(frame)} images") for name in frame.columns if pictures.holds(frame[name])]
    asked = {p.name: wish.role for p in found if (wish := wishes.wished(p))}
    for name, role in asked.items():
        if role not in ("feature", "ignored"):
            got = f"{role} is asked for {name!r}, which holds images"
            raise must("a column of images must be a feature or ignored", got, "Name another column.")
    chosen = [name for name, role in asked.items() if role == "feature"] or [p.name for p in found if p.name not in asked][:1]
    return {p.name: _picture(p, frame[p.name], asked, chosen) for p in found}


def _picture(proposal: Proposal, column: pl.Series, asked: Mapping[str, str], chosen: Collection[str]) -> Proposal:
    if column.name not in chosen:
        why = "as you asked" if column.name in asked else "images beside others"
        return replace(proposal, role="ignored", kind="category", why=why)
    form, said, others = image_form(column)
    return replace(proposal, about=said, why=said + others, form=form)


def kind_of(column: pl.Series) -> str:
    """number, category, boolean, date or text: by type; strings by what all of their values look like; whole numbers by name and count."""
    import polars as pl

    if column.dtype in (pl.Boolean, pl.Date, pl.Datetime):
        return "boolean" if column.dtype == pl.Boolean else "date"
    if column.dtype.is_numeric():
        return "category" if _is_code(column) else "number"
    if column.dtype == pl.String and column.null_count() < len(column):
        distinct = column.drop_nulls().unique().str.strip_chars()
        distinct = distinct.filter(distinct != "")
        if len(distinct) and distinct.str.contains(_ISO_DATE).all():
            return "date"
        if len(distinct) > FEW and distinct.cast(pl.Float64, strict=False).is_finite().fill_null(False).all():
            return "number"
        return "text" if _is_prose(distinct) else "category"
    return "category"


def _is_prose(distinct: pl.Series) -> bool:
    """Whether distinct values are sentences: many, of four words in the mean."""
    if len(distinct) <= CODES or bool(distinct.str.contains(_OTHER_DATE).all()):
        return False
    return float(distinct.str.count_matches(r"\S+").to_numpy().mean()) >= 4


def _is_code(column: pl.Series) -> bool:
    """Whole numbers that are names: called an id, code or type, with few values, each of them often, and more than two."""
    if not _CODE_NAME.search(column.name):
        return False
    present = column.drop_nulls()
    whole = not present.dtype.is_float() or bool((present == present.round(0)).all())
    return whole and 2 < present.n_unique() <= min(CODES, len(present) // ROWS_PER_VALUE)


def about(column: pl.Series, kind: str) -> str:
    """A few words on the values: how many distinct ones, their range or the commonest, and the share missing."""
    import polars as pl

    n, missing = len(column), column.null_count()
    if missing == n:
        return f"all {n} values are missing"
    text = f"{column.n_unique() - (missing > 0)} distinct"
    if kind == "number" and column.dtype.is_numeric():
        values = column.drop_nulls().cast(pl.Float64).to_numpy()
        text += f", {np.nanmin(values):g} to {np.nanmax(values):g}"
    elif kind == "date":
        text += f", {column.min()!s} to {column.max()!s}"
    elif column.dtype == pl.String or column.dtype.is_numeric():
        common = column.drop_nulls().value_counts().sort("count", column.name, descending=[True, False])
        text += f", most often {_quoted(common[0, 0])}"
    return text + (f", {100 * missing / n:.2g} % missing" if missing else "")


def _judge(column: pl.Series, proposal: Proposal, labels: np.ndarray[Any, Any], classes: list[str], seen: dict[int, str]) -> Proposal:
    """Apply the rules in their order: what cannot be learnt from, what names rows, what knows the outcome."""
    if column.dtype.is_nested() or str(column.dtype) in ("Binary", "Object", "Time", "Duration"):
        return replace(proposal, role="ignored", kind="category", why=f"{column.dtype} values are not supported")
    codes = codes_of(column)
    if column.null_count() == len(column) or (codes < 0).all():
        return replace(proposal, role="ignored", why="all values are missing")
    if _COST_NAME.match(column.name) and column.dtype.is_numeric():
        return replace(proposal, role="cost", kind="number", why="named like a cost of an outcome: read by decide and later stages only")
    if is_nearly_constant(codes):
        beside = rows_beside_the_commonest(codes)
        return replace(proposal, role="ignored", why="constant" if not beside else f"nearly constant: {beside} of {len(codes)} rows differ")
    digest = hash(codes.tobytes())
    if (twin := seen.setdefault(digest, column.name)) != column.name:
        return replace(proposal, role="ignored", why=f"tells the same as {twin}, value by value")
    named = _naming(column, codes, proposal)
    return named or _knowing(column, codes, proposal, labels, classes)


def _naming(column: pl.Series, codes: np.ndarray[Any, Any], proposal: Proposal) -> Proposal | None:
    """Columns that name rows, parts or moments rather than describe them, and free text; None for those that describe."""
    if proposal.kind == "date":
        return replace(proposal, role="time", why="a date; parts follow it only with --time")
    is_text = str(column.dtype) == "String" and proposal.kind in ("category", "text")
    if is_text and (why := _unreadable(column)):
        return replace(proposal, role="ignored", kind="category", why=why)
    if proposal.kind == "text":
        return replace(proposal, why="free text, read by its words, pairs and pieces of words")
    if not is_text and not column.dtype.is_integer():
        return None
    return _identifying(column, codes, proposal, is_text)


def _identifying(column: pl.Series, codes: np.ndarray[Any, Any], proposal: Proposal, is_text: bool) -> Proposal | None:
    """Keys, names of things with several rows each, and text whose values hardly repeat."""
    n, distinct = int((codes >= 0).sum()), int(codes.max()) + 1
    id_name, per_value = bool(_ID_NAME.search(column.name)), n / distinct
    if distinct == len(column) > FEW and (is_text or id_name or _counts_up(column)):
        return replace(proposal, role="key", kind="category", why="names each row once")
    if distinct <= CODES or per_value >= ROWS_PER_VALUE:
        return None
    if id_name:
        return replace(proposal, role="group", kind="category", why=f"names {distinct} things with several rows each")
    if is_text:
        return replace(proposal, role="ignored", why=f"identifier-like: {distinct} values with {per_value:.1f} rows each")
    return None


def _unreadable(column: pl.Series) -> str:
    """Why a text column is left out for its form, or empty."""
    values = column.drop_nulls().unique()
    if _PART_NAME.match(column.name) and {value.lower() for value in values.head(20)} <= _PART_VALUES:
        return "declares parts: to use them, see split.by: column"
    if bool(values.str.contains(_OTHER_DATE).all()):
        return "looks like dates in a form other than ISO 8601 (2024-01-31)"
    return ""


def _counts_up(column: pl.Series) -> bool:
    """Whether distinct whole numbers are in order or have no gaps, as row numbers do and amounts do not."""
    values = column.cast(int)
    return bool((values.diff().drop_nulls() > 0).all()) or int(values.max()) - int(values.min()) == len(values) - 1  # type: ignore[arg-type]


def _knowing(
    column: pl.Series, codes: np.ndarray[Any, Any], proposal: Proposal, labels: np.ndarray[Any, Any], classes: list[str]
) -> Proposal:
    """Columns that know the outcome, and what to say of the rest."""
    import polars as pl

    values = column.str.strip_chars().cast(pl.Float64, strict=False) if proposal.kind == "number" and column.dtype == pl.String else column
    numeric = codes if proposal.kind == "category" else values_of(values)
    found = separation(numeric, labels, len(classes))
    if found.separates:
        return replace(
            proposal, role="ignored", why=f"separates the classes on its own (AUC {found.score:.3f}): it probably knows the outcome"
        )
    if flag := tell_tale(codes, labels, len(classes)):
        value = column.filter(pl.Series(codes == flag.code))[0]
        why = f"{flag.purity:.0%} of the {flag.rows} rows with {_quoted(value)} are {classes[flag.label]!r}: it probably knows the outcome"
        return replace(proposal, role="ignored", why=why)
    missing = column.null_count() / len(column)
    notes = []
    if column.dtype == pl.String and proposal.kind == "number":
        notes.append("text that reads as numbers")
    elif column.dtype == pl.String and _reads_as_numbers(column):
        notes.append("text that reads as numbers, with few values: taken for codes")
    if column.dtype.is_numeric() and proposal.kind == "category":
        notes.append("whole numbers named like a code")
    if missing > 0.5:
        notes.append(f"{missing:.0%} missing")
    return replace(proposal, why="; ".join(notes))


def _reads_as_numbers(column: pl.Series) -> bool:
    import polars as pl

    return bool(column.drop_nulls().unique().str.strip_chars().cast(pl.Float64, strict=False).is_not_null().all())


def _only_one(proposals: list[Proposal], wishes: Wishes) -> list[Proposal]:
    """Keep one key, group and time column: the one asked for, else the first key and group; several dates are all left out."""
    taken: dict[str, Collection[str]] = {
        role: [wish] if wish else [p.name for p in proposals if p.role == role]
        for role, wish in ((role, wishes.named(role)) for role in ("key", "group", "time"))
    }
    kept = []
    for proposal in proposals:
        names = list(taken.get(proposal.role, [proposal.name]))
        if proposal.name in wishes.roles or (names[:1] == [proposal.name] and (proposal.role != "time" or len(names) == 1)):
            kept.append(proposal)
        elif proposal.role == "time":
            kept.append(replace(proposal, role="ignored", why="a date beside others; name one with --time"))
        elif proposal.role in taken:
            kept.append(replace(proposal, role="ignored", why=f"identifier-like: {proposal.why}, as {names[0]} does"))
        else:
            kept.append(proposal)
    return kept


def _quoted(value: object) -> str:
    text = " ".join(str(value).split())
    return repr(text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "...")
