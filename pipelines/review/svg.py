"""An SVG that matplotlib made, as part of a page: colours that follow the page's theme, no inline style, ids of its own, a title to be read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from xml.etree import ElementTree

from markupsafe import Markup

from pipelines.plots import BLUE, GREY, INK, ORANGE, PAPER, STYLE, VERDICTS, Plot

SPACE, LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
#: Pixels of the page to a point of a plot: its text of ten points is then as large as the page's small text.
SIZE = 1.3
#: The page's variable for each colour that the plots use; another colour stays as it is.
THEME = {
    BLUE: "--challenger",
    ORANGE: "--champion",
    GREY: "--faint",
    INK: "--ink",
    PAPER: "--paper",
    str(STYLE["grid.color"]): "--line",
    VERDICTS["PASS"]: "--pass",
    VERDICTS["FAIL"]: "--fail",
    VERDICTS["INSUFFICIENT_DATA"]: "--unsure",
}


#: Characters that names may hold and XML may not.
NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Drawing:
    """Markup of an `svg` element and the style rules, by class, that it needs."""

    markup: Markup
    rules: dict[str, str]


def drawing(plot: Plot, name: str, *, title: str, description: str = "", hidden: bool = False) -> Drawing:
    """Draw `plot` with ids that begin with `name`; a `hidden` one is left out by screen readers, since a table beside it says the same."""
    root = ElementTree.fromstring(NOT_XML.sub("\N{REPLACEMENT CHARACTER}", plot.svg(name).decode()))
    for group in [*root]:
        if _local(group) == "metadata":
            root.remove(group)
    for parent in root.iter():
        for child in [*parent]:
            if _local(child) == "style":
                parent.remove(child)
    used = set(re.findall(r"#([\w-]+)", ElementTree.tostring(root, encoding="unicode")))
    rules: dict[str, str] = {}
    for element in root.iter():
        _plain(element, name, used, rules)
    width, height = (float(root.attrib.pop(side).removesuffix("pt")) for side in ("width", "height"))
    root.attrib = {
        "class": "plot",
        "viewBox": f"0 0 {width:g} {height:g}",
        "width": f"{SIZE * width:.0f}",
        "height": f"{SIZE * height:.0f}",
    }
    _describe(root, name, title, description, hidden=hidden)
    return Drawing(Markup(ElementTree.tostring(root, encoding="unicode", short_empty_elements=True)), rules)


def _local(element: ElementTree.Element) -> str:
    return str(element.tag).removeprefix(SPACE)


def _plain(element: ElementTree.Element, name: str, used: set[str], rules: dict[str, str]) -> None:
    """Take off namespaces, ids that nothing refers to, and the inline style, which becomes a class."""
    element.tag = _local(element)
    link, own = element.attrib.pop(LINK, None), element.attrib.pop("id", None)
    if link is not None:
        element.set("href", f"#{name}-{link.removeprefix('#')}")
    if own in used:
        element.set("id", f"{name}-{own}")
    if "clip-path" in element.attrib:
        element.set("clip-path", element.attrib["clip-path"].replace("url(#", f"url(#{name}-"))
    style = element.attrib.pop("style", None)
    if style is not None:
        rule = _themed(style)
        rules.setdefault(rule, f"m{_digest(rule)}")
        element.set("class", rules[rule])
    if element.get("transform", "").startswith("rotate(-0 "):
        del element.attrib["transform"]


def _themed(style: str) -> str:
    for colour, variable in THEME.items():
        style = re.sub(re.escape(colour), f"var({variable})", style, flags=re.IGNORECASE)
    return style.replace("'DejaVu Sans'", "var(--plot-font)")


def _digest(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _describe(root: ElementTree.Element, name: str, title: str, description: str, *, hidden: bool) -> None:
    if hidden:
        root.set("aria-hidden", "true")
        return
    root.set("role", "img")
    root.set("aria-labelledby", f"{name}-title {name}-said")
    for position, (tag, kind, text) in enumerate((("title", "title", title), ("desc", "said", description))):
        element = ElementTree.Element(tag, {"id": f"{name}-{kind}"})
        element.text = text
        root.insert(position, element)
