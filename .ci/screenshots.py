"""Write the documentation's pictures: the incident's page and terminal, and a conversation.

docs/assets/report.png is the page in headless Chromium, docs/assets/report.svg the terminal;
docs/assets/conversation.png is what `show --html` writes.  Needs the [dev] extra and a `chromium`
on the path.
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image
from playwright.sync_api import sync_playwright
from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from trainsanity.engine.report import Report
    from trainsanity.report.pictures import Picture

ROOT = Path(__file__).resolve().parent.parent
ASSETS = ROOT / "docs" / "assets"
INCIDENT = "fixtures.pipelines.tiny_qwen3:incident"
CONVERSATION = "fixtures.templates:qwen3"
COLOURS = 160
"""Of the palette; flat paper and a few inks need no more, and a picture stays below 100 kB."""

WIDTH = 100

SVG = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">
<style>
.{unique_id}-matrix {{ font-family: monospace; font-size: {char_height}px;
line-height: {line_height}px; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""
"""As rich has it, without a font from another server."""


def judged() -> tuple[Report, list[Picture]]:
    """Judge the incident; return its report and pictures."""
    from fixtures.pipelines import tiny_qwen3
    from trainsanity.engine.registry import registry
    from trainsanity.engine.runner import run
    from trainsanity.report.pictures import pictures_of
    from trainsanity.sources.building import PipelineSpec

    pipeline = PipelineSpec(INCIDENT, tiny_qwen3.incident, command=(INCIDENT,)).make()
    return run(pipeline, registry().select()), list(pictures_of(pipeline))


def terminal(report: Report) -> None:
    """Write the report in a terminal."""
    from trainsanity.report import screen

    out = Console(width=WIDTH, record=True, file=io.StringIO())
    out.print(Text(f"$ trainsanity run {INCIDENT}", style="bold"))
    out.print(Text.from_ansi(screen.render(report, width=WIDTH, color=True)))
    text = out.export_svg(title="trainsanity", code_format=SVG, unique_id="trainsanity")
    (ASSETS / "report.svg").write_text(text, encoding="utf-8")


def photograph(text: str, name: str, width: int, height: int) -> None:
    """Open a page in the browser, and write what is seen of it as a small PNG."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        file = Path(folder) / "page.html"
        file.write_text(text, encoding="utf-8")
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        shown = browser.new_page(viewport={"width": width, "height": height})
        shown.goto(file.as_uri())
        image = Image.open(io.BytesIO(shown.screenshot())).convert("RGB").quantize(COLOURS)
        image.save(ASSETS / name, optimize=True)
        browser.close()


def page(report: Report, pictures: list[Picture]) -> None:
    """Write the top of the report's page."""
    from trainsanity.report import html

    photograph(html.render([(report, pictures)]), "report.png", 1100, 760)


def conversation() -> None:
    """Write the first row of a conversation dataset, as `show --html` does."""
    from fixtures.templates import trainer
    from trainsanity.engine.session import Session
    from trainsanity.pipeline import Pipeline
    from trainsanity.report.conversation_page import render

    pipeline = Pipeline.from_trainer(trainer(CONVERSATION.partition(":")[2]))
    shown = Session.of(pipeline).measurements.get("conversations")
    photograph(render([("train.py", shown, [0])]), "conversation.png", 820, 780)


def main() -> None:
    """Judge, open, write."""
    report, pictures = judged()
    terminal(report)
    page(report, pictures)
    conversation()


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
