"""A report as one self-contained HTML file: pictures, plots and videos travel inside it."""

import base64
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from dexhil.files import write_durably
from dexhil.progress import format_seconds

NOTHING = "-"  # in a table


@dataclasses.dataclass(frozen=True)
class Fact:
    """A headline figure. detail: small print under it."""

    label: str
    value: str
    detail: str = ""


@dataclasses.dataclass(frozen=True)
class Image:
    """A picture or plot over the whole width, or `width` pixels wide. mime: image/png or image/jpeg."""

    data: bytes
    caption: str = ""
    mime: str = "image/png"
    width: int | None = None


@dataclasses.dataclass(frozen=True)
class Clip:
    """A video with its outcome. poster: JPEG bytes shown before it plays, or empty."""

    data: bytes
    caption: str
    success: bool
    poster: bytes = b""


@dataclasses.dataclass(frozen=True)
class Clips:
    """Videos side by side."""

    clips: Sequence[Clip]


@dataclasses.dataclass(frozen=True)
class Cell:
    """A table's cell with more than its text. href: where a click leads. missed: a goal is not reached."""

    text: str
    href: str = ""
    missed: bool = False

    def __str__(self) -> str:
        return self.text


@dataclasses.dataclass(frozen=True)
class Table:
    """Cells; a bool cell is a coloured success or failure. fractions: a bar per row, 0..1. tall: it scrolls."""

    header: Sequence[str]
    rows: Sequence[Sequence[str | bool | Cell]]
    fractions: Sequence[float] | None = None
    tall: bool = False


@dataclasses.dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


Block = Image | Clips | Table | Text


@dataclasses.dataclass(frozen=True)
class Section:
    """A titled part of the page. folded: closed until it is clicked."""

    title: str
    blocks: Sequence[Block]
    folded: bool = False


@dataclasses.dataclass(frozen=True)
class Page:
    """What a report shows, top to bottom."""

    title: str
    subtitle: str
    facts: Sequence[Fact]
    sections: Sequence[Section]
    made_by: str = ""


def write_run_page(
    workdir: Path, report: Mapping[str, Any], facts: Sequence[Fact], sections: Sequence[Section], *, title: str = ""
) -> Path:
    """Writes workdir/report.html of a `Run.report`: `sections`, then lineage, config and the command that made it."""
    lineage = key_values(report["lineage"], workdir) if report["lineage"] else Text("This run has no parents.")
    page = Page(
        title=title or f"{report['command']}: {workdir.name}",
        subtitle=f"DexHiL {report['code_version']} · {format_seconds(report['seconds'])}",
        facts=facts,
        sections=[
            *sections,
            Section("Lineage", [lineage], folded=True),
            Section("Config", [key_values(report["config"])], folded=True),
        ],
        made_by=report.get("invocation", ""),
    )
    return write_page(workdir / "report.html", page)


def write_page(path: Path, page: Page) -> Path:
    """Writes the page in one step: a reader sees the old file or the whole new one."""
    return write_durably(path, render(page).encode())


def render(page: Page) -> str:
    """The page's HTML, without a reference to any other file."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["data_uri"] = _data_uri
    environment.filters["kind"] = lambda block: type(block).__name__
    template = resources.files("dexhil.reports").joinpath("page.html.j2").read_text()
    return environment.from_string(template).render(page=page)


def percent(rate: float) -> str:
    """A rate, 0 to 1, as people read it: "35 %"."""
    return f"{100 * rate:.0f} %"


def key_values(values: Mapping[str, Any], workdir: Path | None = None) -> Table:
    """Nested values as a table of dotted keys. workdir: a value that names another run's folder links to its page."""
    rows: list[tuple[str, str | Cell]] = []
    for key, value in _flatten(values):
        text = _plain(value)
        page = None if workdir is None else _page_of(Path(text))
        rows.append((key, text if page is None else Cell(text, href=os.path.relpath(page, workdir))))
    return Table(("key", "value"), rows, tall=True)


def _page_of(path: Path) -> Path | None:
    if len(str(path)) > 400 or not path.exists():  # longer than a path may be: not one
        return None
    return next((page for page in (up / "report.html" for up in (path, *path.parents[:3])) if page.is_file()), None)


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _plain(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "none" if value is None or value in ("", {}) else str(value)


def _data_uri(data: bytes, mime: str) -> Markup:
    return Markup(f"data:{mime};base64,{base64.b64encode(data).decode()}")
