"""The HTML page: one file, data stays text, and a real browser at desktop and phone width."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.reports import (
    HEALTHY,
    INCIDENT,
    LOSS,
    MASK,
    NASTY,
    PAD,
    REPORTS,
    ROWS,
    SAME_TOKEN,
    WARNED,
    assert_snapshot,
    ended,
    failed,
    passed,
    report,
    under,
    warned,
)
from trainsanity import Finding, __version__
from trainsanity.report.html import WORDS, render
from trainsanity.report.links import SITE
from trainsanity.report.pictures import Picture
from trainsanity.report.words import verdict
from trainsanity.types import Status

pytest.importorskip("jinja2", reason="needs trainsanity[html]")
pytest.importorskip("matplotlib", reason="needs trainsanity[html]")

WASTE = {"none": 0.112, "8 (set)": 0.127, "16": 0.141, "64": 0.197}
ROW = {"position": 0, "id": 1654, "token": "We", "mask": 1, "label": ""}
PADDING = {"position": 9, "id": 151643, "token": "<|endoftext|>", "mask": 0, "label": ""}
TABLES = [
    {
        "title": "Row 1: 9 of 10 positions attended",
        "rows": [ROW, {"left_out": "8 positions more"}, PADDING],
    }
]

PICTURES = (
    Picture(
        "lengths", "collator", "Token lengths", "48 rows", ("multiple", "step 1"),
        [("none", "11.2%"), ("8 (set)", "12.7%")],
        {"edges": [100, 110, 120, 130], "counts": [3, 9, 4], "waste": WASTE, "set": "8 (set)",
         "of": "in step 1"},
    ),
    Picture("tokens", "collator", "Tokens", "1 row", ("position", "id", "token", "mask"),
            TABLES[0]["rows"], {"tables": TABLES}),
    Picture(
        "losses", "loss", "Losses", "mean 5.6", ("example", "label", "loss"), [(1, 30, 5.4)],
        {"losses": [5.4, 5.5, 5.7, 5.9], "mean": 5.62, "uninformed": 5.65, "band": 0.09,
         "log_classes": 5.635},
    ),
    Picture("slope", "gradient", "Slope", "slope 12", ("", "accumulated", "closed form"),
            [("norm", "12", "1")], {"x": [-1.0, 0.0, 0.5], "y": [-12.0, 0.0, 6.0], "slope": 12.0}),
    Picture(
        "movement", "update", "Movement", "99 % move", ("layer", "elements"), [("a.b.0", "9")],
        {"layers": ["a.b.0", "a.b.1", "a.head"], "moved": [0.9, 0.8, 1.0],
         "predicted": [0.9, 0.85, 1.0]},
    ),
    Picture(
        "learning_rate", "schedule", "Learning rate", "700 of 10,376", ("step", "rate"),
        [(1, "0")],
        {"steps": [1, 701, 10376], "rates": [0.0, 1e-5, 0.0], "warmup_steps": 700,
         "stands": [1, 0.0]},
    ),
)  # fmt: skip
NOT_THERE = Picture("slope", "gradient", "Slope", reason="the head is tied to the embedding")


class Page(HTMLParser):
    """Tags and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def page() -> str:
    other = replace(HEALTHY, pipeline_id="shop.train:other")
    return render([(INCIDENT, PICTURES), (other, (NOT_THERE,))])


@pytest.mark.parametrize("name", REPORTS)
def test_snapshot(name: str) -> None:
    body = render([(REPORTS[name], (NOT_THERE,))]).partition("<body>")[2]
    text = "\n".join(line for line in body.splitlines() if line.strip())
    assert_snapshot(f"{name}.html", text.replace(__version__, "VERSION") + "\n")


def test_one_file_that_asks_for_nothing(page: str) -> None:
    tags = Page(page).tags
    assert not {tag for tag, _ in tags} & {"script", "link", "img", "iframe", "object", "embed"}
    for _, attributes in tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href", "action"):
            # A link to a check's page is followed by whoever clicks it, and by nobody else.
            assert (attributes.get(name) or "#").startswith(("#", f"{SITE}checks/TS"))
    assert "@import" not in page
    assert not re.findall(r"url\((?!#)", page)
    (policy,) = [a["content"] for _, a in tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_ids_are_unique_and_references_lead_somewhere(page: str) -> None:
    tags = Page(page).tags
    ids = [str(attributes["id"]) for _, attributes in tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    for _, attributes in tags:
        asked = (attributes.get("aria-labelledby") or "").split()
        href = attributes.get("href")
        asked += [href.removeprefix("#")] if href and not href.startswith(SITE) else []
        asked += re.findall(r"url\(#(.*?)\)", " ".join(filter(None, attributes.values())))
        assert set(asked) <= set(ids)


def test_pictures_are_drawn_and_take_the_colours_of_the_page(page: str) -> None:
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(drawings) == len(PICTURES) - 1
    for drawing in drawings:
        assert "var(--first)" in drawing
        assert "<title" in drawing
        assert "<style" not in drawing
        # Every colour is one of the page's: black on dark paper could not be seen.
        assert re.findall(r"(?:fill|stroke): #(\w+)", drawing) == []


def test_no_picture_says_why(page: str) -> None:
    assert "No picture: the head is tied to the embedding" in page


def test_every_report_and_the_words_of_every_status(page: str) -> None:
    assert set(WORDS) == set(Status)
    text = Page(page).text
    # In the index of several pipelines, and at its place.
    assert text.count("First broken stage: loss") == 2
    assert "sane: 3 of 3 checks ran and passed" in text
    assert "the weights are random: Qwen/Qwen3-4B could not be had" in text
    assert "model.accepts_loss_kwargs = False, before the Trainer is built" in text


def test_several_pipelines_have_an_index() -> None:
    one, other = INCIDENT, replace(HEALTHY, pipeline_id="shop.train:other")
    assert 'class="index"' not in render([(one, ())])
    text = render([(one, ()), (other, ())])
    index = text[text.index('<nav class="index"') : text.index("</nav>")]
    assert "1 of 2 not sane: shop.train:trainer" in index
    for number, told in enumerate((one, other), 1):
        assert f'<a href="#p{number}-name">{told.pipeline_id}</a>: {verdict(told)}' in index
        assert f'id="p{number}-name"' in text


def test_what_else_fails_and_what_is_explained_stand_below_the_first_failure(page: str) -> None:
    text = " ".join(Page(page).text.split())
    places = [
        text.index(words)
        for words in (
            "Look here first: loss",
            "how sure high: only gradient_accumulation_steps = 12 fits",
            "Also failing",
            "kept 0.5%",
            "Explained by these failures",
            "the head's gradient is 12.0000 times its closed form (explained by TS502",
            "Acquitted PAD / EOS, attention mask",
            "PAD 151643 is not EOS 151645; 48 of 48 rows are read at their last token",
            "Tokenizer passed",
            "1 passed: TS102",
        )
    ]
    assert places == sorted(places)


def test_warnings_stand_below_the_failures_and_their_stage_is_called_by_them() -> None:
    text = " ".join(Page(render([(report(warned(PAD), failed(LOSS)), ())])).text.split())
    places = [
        text.index(words)
        for words in ("Look here first: loss", "Warnings", SAME_TOKEN.headline, "Tokenizer warning")
    ]
    assert places == sorted(places)
    assert f"fix {SAME_TOKEN.fix}" in text


def test_warnings_that_count_as_failures_are_bad() -> None:
    assert 'class="verdict good"' in render([(WARNED, ())])
    page = render([(under(WARNED, warnings_as_errors=True), ())])
    assert 'class="verdict bad"' in page
    assert "Warnings, which count as failures" in page


def test_a_stage_is_not_called_by_what_did_not_apply_to_it() -> None:
    told = report(passed(PAD), ended(MASK, Status.SKIP, "not here"), passed(ROWS), passed(LOSS))
    text = " ".join(Page(render([(told, ())])).text.split())
    assert "Collator passed, 1 skipped" in text
    # Where nothing is wrong nothing needs to be ruled out: the lines have the numbers.
    assert "Acquitted" not in text


def test_accepted_and_gone_are_told_with_their_reasons() -> None:
    text = Page(render([(REPORTS["accepted"], ())])).text
    told = " ".join(text.split())
    assert "Accepted failures (expected_failures)" in told
    assert "accepted: known, see #7" in told
    assert "Expected to fail, but passed: delete the entry in expected_failures" in told
    assert "reason given: known, #8" in told


def test_data_is_text_everywhere() -> None:
    finding = Finding(NASTY, observed=NASTY, where=NASTY, cause=NASTY, fix=NASTY)
    told = report(
        failed(LOSS, finding),
        passed(PAD, NASTY),
        environment={"python": NASTY, "notes": [NASTY]},
        facts={NASTY: NASTY},
        command=(NASTY,),
    )
    values = {"layers": [NASTY], "moved": [0.5], "predicted": [0.5]}
    row = {**ROW, "token": NASTY, "label": NASTY}
    tables = {"tables": [{"title": NASTY, "rows": [row]}]}
    columns = ("position", "id", "token", "mask", "label")
    pictures = (
        Picture("movement", "update", NASTY, NASTY, (NASTY,), [(NASTY,)], values),
        Picture("tokens", "collator", NASTY, NASTY, columns, [row], tables),
        Picture("slope", "gradient", NASTY, reason=NASTY),
    )
    page = render([(told, pictures)])
    assert "<script" not in page
    assert "\x1b" not in page
    assert not {"b", "script"} & {tag for tag, _ in Page(page).tags}
    assert page.count("&lt;script&gt;alert(1)") > 10


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
@pytest.mark.parametrize(
    "picture", [p for p in PICTURES if p.name != "tokens"], ids=lambda p: p.name
)
def test_numbers_that_are_none_cost_no_page(picture: Picture, number: str) -> None:
    def spoilt(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: spoilt(item) for key, item in value.items()}
        if isinstance(value, list):
            return [number if isinstance(item, float) else item for item in value]
        return number if isinstance(value, float) else value

    page = render([(INCIDENT, (replace(picture, values=spoilt(picture.values)),))])
    assert ("<svg" in page) is not ("No picture: it cannot be drawn" in page)


def test_debug_has_the_traceback() -> None:
    assert "Traceback: ..." not in render([(INCIDENT, ())])
    assert "Traceback: ..." in render([(INCIDENT, ())], debug=True)


# --- in a browser --------------------------------------------------------------------------------

WIDTHS = {"desktop": (1280, 800), "phone": (360, 740)}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip(f"no browser on the path: {', '.join(names)}")
    with playwright.sync_playwright() as started:
        # As root, which CI often is, Chromium has no sandbox; the page is our own.
        opened = started.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(params=WIDTHS)
def shown(request: pytest.FixtureRequest, browser: Any, page: str, tmp_path: Path) -> Iterator[Any]:
    """The page in a window; what it logs or asks of the network is an error."""
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    width, height = WIDTHS[request.param]
    window = browser.new_page(viewport={"width": width, "height": height})
    trouble: list[str] = []
    window.on("console", lambda message: trouble.append(message.text))
    window.on("pageerror", lambda error: trouble.append(str(error)))
    window.on("requestfailed", lambda asked: trouble.append(asked.url))
    window.on("request", lambda asked: asked.url.startswith("file:") or trouble.append(asked.url))
    window.goto((tmp_path / "report.html").as_uri())
    yield window
    assert trouble == []
    window.close()


def test_every_figure_is_there_and_nothing_runs_over(shown: Any) -> None:
    width = shown.viewport_size["width"]
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    figures = shown.locator("figure")
    assert figures.count() == len(PICTURES) + 1
    drawings = shown.locator("figure > svg")
    assert drawings.count() == len(PICTURES) - 1
    for drawing in drawings.all():
        box = drawing.bounding_box()
        assert box["width"] > 250
        assert box["height"] > 100
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        letters = drawing.locator("text").evaluate_all(
            "texts => texts.map(text => text.getBoundingClientRect().height)"
        )
        assert min(letters) >= 9


def test_the_keyboard_reaches_everything(shown: Any) -> None:
    stops = "a[href], summary, [tabindex='0']"
    visible = shown.locator(stops).evaluate_all(
        "all => all.filter(one => one.checkVisibility({contentVisibilityAuto: true})).length"
    )
    reached = 0
    for _ in range(visible + 5):
        shown.keyboard.press("Tab")
        if not shown.evaluate(f"document.activeElement.matches({stops!r})"):
            break
        assert shown.evaluate("document.activeElement.matches(':focus-visible')")
        reached += 1
    assert reached == visible
    summary = shown.locator("figure summary").first
    summary.focus()
    table = shown.locator("figure details table").first
    assert not table.is_visible()
    shown.keyboard.press("Enter")
    assert table.is_visible()


def test_stages_lead_to_their_sections(shown: Any) -> None:
    shown.locator("nav a", has_text="loss").first.focus()
    shown.keyboard.press("Enter")
    shown.wait_for_url("**#p1-loss")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessible_in_light_and_dark(shown: Any, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not there")
    shown.emulate_media(color_scheme=scheme)
    for summary in shown.locator("details:not([open]) > summary").all():
        if summary.is_visible():
            summary.click()
    found = axe.Axe().run(shown)
    assert [violation["id"] for violation in found.response["violations"]] == []


def test_print_opens_what_is_shut(shown: Any) -> None:
    visible = "one => one.checkVisibility({contentVisibilityAuto: true})"
    told = [
        shown.locator(".check:not(.pass):not([open]) .title").first,
        shown.locator(".fold .check.pass > summary").first,
        shown.locator(".fold dd", has_text="PAD 151643 is not EOS").first,
    ]
    assert not any(one.evaluate(visible) for one in told)
    shown.emulate_media(media="print")
    for one in told:
        assert one.evaluate(visible)
        assert one.bounding_box()["height"] > 10
    # Of what passed the line says enough.
    assert not shown.locator(".check.pass .title").first.evaluate(visible)
    assert shown.pdf(format="A4").startswith(b"%PDF")
