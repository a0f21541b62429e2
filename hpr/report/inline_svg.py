"""A picture's SVG made part of a page: nothing in it can run, load a file or clash with another picture's names."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from markupsafe import Markup

SVG = "{http://www.w3.org/2000/svg}"
LINK = "{http://www.w3.org/1999/xlink}href"
ELEMENTS = {"svg", "g", "defs", "clipPath", "path", "use", "rect", "image", "circle", "line"}
# Only these hold text.
TEXTS = {"text", "tspan"}
ATTRIBUTES = {
    "id", "d", "x", "y", "x1", "x2", "y1", "y2", "r", "cx", "cy", "width", "height", "viewBox",
    "transform", "style", "clip-path",
}  # fmt: skip
# Matplotlib writes six digits after the point, of which two are enough at 72 units per inch.
DIGITS = re.compile(r"(\.\d\d)\d+")
EMBEDDED = "data:image/png;base64,"


def inline_svg(content: bytes, prefix: str) -> Markup:
    """Return an SVG of matplotlib as an element of a page, hidden from screen readers.

    Elements and attributes that matplotlib's pictures do not need are left out, with everything inside these elements.
    The names in the picture begin with `prefix`, so that several pictures can stand on one page.

    Raises:
        ValueError: the content is no SVG.
    """
    try:
        root = ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        raise ValueError(f"expected an SVG, got no XML ({error})") from None
    if root.tag != f"{SVG}svg" or "viewBox" not in root.attrib:
        raise ValueError(f"expected an SVG with a viewBox, got {root.tag[:60]}")
    _clean(root, prefix)
    _flatten(root, _used(root))
    # The page sets the size.
    root.attrib = {"viewBox": root.attrib["viewBox"], "aria-hidden": "true", "focusable": "false"}
    return Markup(ElementTree.tostring(root, encoding="unicode", short_empty_elements=True))


def _clean(element: ElementTree.Element, prefix: str) -> None:
    element.tag = element.tag.removeprefix(SVG)
    element.tail = None
    if element.tag not in TEXTS:
        element.text = None
    kept = {}
    for name, value in element.attrib.items():
        if name in (LINK, "href"):
            if value.startswith("#"):
                kept["href"] = f"#{prefix}{value[1:]}"
            elif value.startswith(EMBEDDED):
                kept["href"] = value
        elif name == "id":
            kept["id"] = prefix + value
        elif name == "d":
            kept["d"] = DIGITS.sub(r"\1", " ".join(value.split()))
        elif name in ATTRIBUTES:
            # A style or an attribute may name a part of the picture, and no other address.
            named = value.replace("url(#", f"url(#{prefix}")
            if not re.search(r"url\((?!#)|@|\\|expression", named):
                kept[name] = named
    element.attrib = kept
    for child in list(element):
        # Comments have a function for a tag.
        known = isinstance(child.tag, str) and child.tag.removeprefix(SVG) in ELEMENTS | TEXTS
        if known and child.tag.startswith(SVG):
            _clean(child, prefix)
        else:
            element.remove(child)


def _used(root: ElementTree.Element) -> set[str]:
    """The names of parts to which other parts refer."""
    values = [value for element in root.iter() for value in element.attrib.values()]
    return {name for value in values for name in re.findall(r"(?:^|url\()#([^)]+)", value)}


def _flatten(element: ElementTree.Element, used: set[str]) -> None:
    """Leave out names that nothing refers to, groups without attributes, and paths without ink: a page opens faster."""
    if element.get("id") not in used:
        element.attrib.pop("id", None)
    children: list[ElementTree.Element] = []
    for child in element:
        _flatten(child, used)
        if child.tag == "g" and not child.attrib:
            children += child
        elif child.attrib.get("style") != "fill: none" and (child.tag != "defs" or len(child)):
            children.append(child)
    element[:] = children
