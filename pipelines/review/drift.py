"""How a feature's values are spread, then and now: a small picture beside the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipelines.plots import COLOURS, GREY, Plot
from pipelines.review.svg import Drawing, drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 1.9, 0.42
#: Most pictures of a page: those of the features that moved most.
MOST = 15


def pictures(features: Sequence[Mapping[str, Any]]) -> dict[int, Drawing]:
    """Pictures by the feature's place in the list, of those that have `bins`."""
    shown = [at for at, item in enumerate(features) if item.get("bins")][:MOST]
    return {at: picture(features[at]["bins"], f"d{at}") for at in shown}


def picture(bins: Mapping[str, Any], name: str) -> Drawing:
    """Shares per bin of the champion's table and of the table now, side by side; screen readers are spared it."""
    before, now = bins["before"], bins["now"]

    def draw(figure: Figure) -> None:
        figure.set_layout_engine("none")
        axes = figure.add_axes((0, 0.03, 1, 0.97))
        axes.set_axis_off()
        axes.bar([at - 0.2 for at in range(len(before))], before, width=0.4, color=COLOURS["champion"])
        axes.bar([at + 0.2 for at in range(len(now))], now, width=0.4, color=COLOURS["challenger"])
        axes.axhline(0, color=GREY, linewidth=0.8)

    return drawing(Plot(draw, WIDTH, HEIGHT), name, title="", hidden=True)
