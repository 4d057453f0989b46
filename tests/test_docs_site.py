"""The site as a browser has it: built without a warning, no dead link, and no barrier axe knows."""

from __future__ import annotations

import functools
import http.server
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

from trainsanity.engine.registry import registry
from trainsanity.report.links import SCHEMA, SITE

ROOT = Path(__file__).parent.parent

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        shutil.which("zensical") is None, reason="zensical, of the [docs] extra, is not installed"
    ),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    command = [sys.executable, ".ci/docs.py", "--into", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


def test_every_check_has_its_address(site: Path) -> None:
    for check in registry().all():
        assert (site / "checks" / check.code / "index.html").is_file()
    assert (site / SCHEMA.removeprefix(SITE)).is_file()
    assert (site / "llms.txt").is_file()


def test_links_and_anchors_lead_somewhere(site: Path) -> None:
    pages = {page: page.read_text(encoding="utf-8") for page in site.rglob("*.html")}
    ids = {page: set(re.findall(r'\bid="?([^"\s>]+)', text)) for page, text in pages.items()}
    dead, count = [], 0
    for page, text in pages.items():
        if page.name == "404.html":  # served under any address, it links from the root
            continue
        for link in re.findall(r'<a\b[^>]*?\bhref="?([^"\s>]+)', text):
            count += 1
            path, _, anchor = unquote(link).partition("#")
            if path.startswith(SITE):
                target = site / path.removeprefix(SITE)
            elif re.match(r"[a-z]+:", path):
                continue
            else:
                target = (page.parent / path).resolve() if path else page
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file() or (anchor and target in ids and anchor not in ids[target]):
                dead.append(f"{page.relative_to(site)}: {link}")
    assert count > len(pages) * len(pages)  # the navigation alone has a link to each
    assert dead == []


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    handler = functools.partial(_Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.mark.matrix
@pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no chromium")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1280, 900), (390, 844)], ids=["desktop", "phone"])
def test_pages_have_no_barrier(address: str, size: tuple[int, int], scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not there")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not there")
    asked: list[str] = []
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        shown = browser.new_page(
            viewport={"width": size[0], "height": size[1]}, color_scheme=scheme
        )
        shown.on("request", lambda request: asked.append(request.url))
        for path in ("", "quickstart/", "checks/", "checks/TS502/", "how-it-works/laws/",
                     "evidence/"):  # fmt: skip
            shown.goto(address + path)
            shown.wait_for_selector(".md-content h1")
            shown.wait_for_timeout(300)  # the theme completes code and tables after it is shown
            found = axe.Axe().run(shown).response["violations"]
            assert [(one["id"], one["nodes"][0]["html"]) for one in found] == [], path
            assert shown.evaluate("document.documentElement.scrollWidth") <= size[0], path
        browser.close()
    # Reading it asks no other server for anything.
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
