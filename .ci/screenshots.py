"""Write .github/report-*.png, the README's pictures: the incident's page in headless Chromium.

Needs the [dev] extra and a `chromium` on the path.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
INCIDENT = "fixtures.pipelines.tiny_qwen3:incident"
COLOURS = 160
"""Of the palette; flat paper and a few inks need no more, and a picture stays below 100 kB."""


def save(name: str, png: bytes) -> None:
    """As a small PNG."""
    image = Image.open(io.BytesIO(png)).convert("RGB").quantize(COLOURS)
    image.save(ROOT / ".github" / f"report-{name}.png", optimize=True)


def take(page: Page) -> None:
    """The verdict in light, the stages from loss to schedule in dark."""
    window = page.viewport_size
    assert window is not None
    save("verdict", page.screenshot())
    page.emulate_media(color_scheme="dark")
    top = page.locator("#p1-loss").bounding_box()
    end = page.locator("#p1-schedule").bounding_box()
    assert top is not None
    assert end is not None
    height = end["y"] + end["height"] - top["y"]
    clip = {"x": 0, "y": top["y"] - 8, "width": window["width"], "height": height + 16}
    save("pictures", page.screenshot(clip=clip, full_page=True))


def main() -> None:
    """Run, open, write."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        html = Path(folder) / "report.html"
        command = [sys.executable, "-m", "trainsanity", "run", INCIDENT, "--html", str(html)]
        subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.DEVNULL)
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 1100, "height": 760})
        page.goto(html.as_uri())
        take(page)
        browser.close()


if __name__ == "__main__":
    main()
