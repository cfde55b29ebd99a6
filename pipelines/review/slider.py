"""The slider over costs: the curve that its marker walks along, and for each step the texts that the page shows, made here, not in the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.review import curve
from pipelines.review.criteria import short
from pipelines.review.svg import Drawing

MODELS = ("challenger", "champion")
#: Steps of the table that says the same without the slider; the most cells that are shown one by one.
STATIC, CELLS = 11, 24


@dataclass(frozen=True)
class Count:
    """A row of the table of counts: the name of its cells, what it says, and the cells `(class, action)` that it sums."""

    cell: str
    text: str
    remark: str
    of: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Slider:
    """What the page needs: the drawing, the data of the script, the cells at the step now in force, and the table of some steps."""

    drawing: Drawing
    data: dict[str, Any]
    now: dict[str, str]
    models: tuple[str, ...]
    counts: list[Count]
    static: list[dict[str, Any]]
    what: str
    note: str


def make(operating: Mapping[str, Any], unit: str) -> Slider | str:
    """The slider of `curves.json`'s "operating", or the reason why there is none."""
    if operating.get("reason"):
        return str(operating["reason"])
    models = tuple(name for name in MODELS if name in operating["models"])
    made, places = curve.drawn(operating, models, unit)
    counts = _counts(operating)
    steps = [_texts(operating, number, models, counts, unit) for number in range(len(operating["sizes"]))]
    data = {"now": operating["now"], "texts": steps, **places}
    return Slider(made, data, steps[operating["now"]], models, counts, _static(operating, steps), *_words(operating))


def _counts(operating: Mapping[str, Any]) -> list[Count]:
    """Each class with each action; where these are many, the actions of the class whose costs move and those of all others."""
    classes, actions = operating["classes"], operating["actions"]
    named = dict[tuple[int, int], str]()
    if operating["kind"] == "ratio":
        leave, act = (actions.index(name) for name in operating["best"])
        named = {(1, act): "hits", (1, leave): "misses", (0, act): "false alarms", (0, leave): "left alone"}
    whole = len(classes) * len(actions) <= CELLS
    moved = classes.index(operating["label"])
    made = [
        Count(f"{k}-{a}", f"{short(name)} → {short(action)}", named.get((k, a), ""), ((k, a),))
        for k, name in enumerate(classes)
        if whole or k == moved
        for a, action in enumerate(actions)
    ]
    if not whole:
        rest = [k for k in range(len(classes)) if k != moved]
        made += [
            Count(f"rest-{a}", f"all other classes → {short(action)}", "", tuple((k, a) for k in rest)) for a, action in enumerate(actions)
        ]
    return made


def size_text(operating: Mapping[str, Any], number: int) -> str:
    """A step's name: `10 : 1`, `1 : 4`, or a factor, `× 2`."""
    size = operating["sizes"][number]
    if operating["kind"] == "ratio":
        return f"{size:.4g} : 1" if size >= 1 else f"1 : {1 / size:.4g}"
    return f"× {size:.4g}" if size >= 1 else f"÷ {1 / size:.4g}"


def count_text(value: float, *, weighted: bool) -> str:
    """Rows, or the weight of rows with one decimal."""
    return f"{value:,.1f}" if weighted else f"{round(value):,}"


def _texts(operating: Mapping[str, Any], number: int, models: Sequence[str], counts: Sequence[Count], unit: str) -> dict[str, str]:
    """Texts of one step by the name of the cell that shows them."""
    size = size_text(operating, number)
    made = {"size": size, "threshold": f"{operating['thresholds'][number]:.4f}" if operating["thresholds"] else "", "difference": ""}
    for name in models:
        result = operating["models"][name][number]
        made[f"{name}-utility"] = f"{result['utility']:z.4f}"
        for count in counts:
            made[f"{name}-{count.cell}"] = count_text(sum(result["counts"][k][a] for k, a in count.of), weighted=operating["weighted"])
    best = max(operating["always"], key=lambda action: operating["always"][action][number])
    made["trivial"] = f"{operating['always'][best][number]:z.4f} (always {short(best)})"
    if operating["difference"]:
        item = operating["difference"][number]
        made["difference"] = f"{item['mean']:+z.4f} [{item['low']:+z.4f}, {item['high']:+z.4f}]"
    said = ", ".join(f"{name} {made[f'{name}-utility']}" for name in models)
    cut = f"threshold {made['threshold']}, " if made["threshold"] else ""
    made["said"] = f"At {size}: {cut}{unit} per case: {said}."
    return made


def _static(operating: Mapping[str, Any], steps: Sequence[dict[str, str]]) -> list[dict[str, Any]]:
    last = len(steps) - 1
    chosen = sorted({round(last * place / (STATIC - 1)) for place in range(STATIC)} | {operating["now"]})
    return [{**steps[number], "is_now": number == operating["now"]} for number in chosen]


def _words(operating: Mapping[str, Any]) -> tuple[str, str]:
    label = short(operating["label"])
    if operating["kind"] == "ratio":
        leave, act, other = map(short, (*operating["best"], operating["classes"][0]))
        what = f"Cost of a missed {label} : cost of a false alarm"
        note = (
            f"A miss is the action “{leave}” where the truth is “{label}”, a false alarm “{act}” where it is “{other}”. What "
            f"a false alarm costs stays as it is in params.yaml; “{act}” is taken where the probability of “{label}” is above 1 / (1 + ratio)."
        )
        return what, note
    return (
        f"Factor on all costs of errors on {label}",
        f"What errors on “{label}” cost against its best action is multiplied; all else stays as it is in params.yaml.",
    )
