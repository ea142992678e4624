"""The page in a real browser: every task, by mouse and by keys, right to left, light and dark, alone with its server.

XLM_SCREENSHOTS=FOLDER keeps the pictures, to be looked at.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import toytasks
import xlm
from xlm.serving.settings import Settings

from .conftest import running

playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright (the extra dev)")
expect = playwright.expect
pytestmark = pytest.mark.slow

TEXTS = {
    "Arabic": "ولدت ماري كوري في وارسو ثم انتقلت إلى باريس.",
    "Thai": "มารี กูรี เกิดที่กรุงวอร์ซอ",
    "Hindi": "मैरी क्यूरी का जन्म वारसॉ में हुआ था।",
    "Chinese": "居里夫人出生于华沙，后来去了巴黎。",
    "emoji": "👩‍👩‍👧 Marie Curie was born in Warsaw. 🇵🇱",
}
OF_MODEL = {
    "mini": ["fill-mask", "similarity", "tokenize"],
    "rerank": ["rerank", "classify", "tokenize"],
    "classify": ["classify", "tokenize"],
    "tag": ["tag", "tokenize"],
    "answer": ["answer", "tokenize"],
    "choose": ["choose", "tokenize"],
    "mt": ["translate", "tokenize"],
}
Shot = Callable[[Any, str], None]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium: the one of XLM_CHROMIUM, playwright's own, or the system's."""
    with playwright.sync_playwright() as run:
        places = [os.environ.get("XLM_CHROMIUM"), run.chromium.executable_path]
        places += [shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")]
        path = next((place for place in places if place and Path(place).exists()), None)
        if path is None:
            pytest.skip("no Chromium: `playwright install chromium`, or name one in XLM_CHROMIUM")
        chromium = run.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def address(engines: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    served = {"mini": xlm.load()} | {name: xlm.load(engine.name) for name, engine in engines.items()}
    directions = [["de", "en"], ["en", "de"]]
    served["mt"] = xlm.load(toytasks.translator(tmp_path_factory.mktemp("mt"), directions=directions))
    with running(served) as url:
        yield url


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """The page, opened; it must speak to its server alone, and complain of nothing."""
    context = browser.new_context(viewport={"width": 1100, "height": 900}, color_scheme="light")
    opened = context.new_page()
    asked: list[str] = []
    complaints: list[str] = []
    opened.on("request", lambda request: asked.append(request.url))
    opened.on("console", lambda line: complaints.append(line.text) if line.type == "error" else None)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.goto(address)
    expect(opened.locator("#about")).to_contain_text("tokens")
    yield opened
    # A request that was refused or failed is the browser's to note and the page's to show.
    assert [line for line in complaints if not line.startswith("Failed to load resource")] == []
    assert all(url.startswith((address, "data:")) for url in asked), asked
    context.close()


@pytest.fixture
def shot(tmp_path: Path) -> Shot:
    """Take a picture."""
    folder = Path(os.environ.get("XLM_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)

    def take(page: Any, name: str) -> None:
        path = folder / f"{name}.png"
        page.screenshot(path=path, full_page=True)
        assert path.stat().st_size > 5_000

    return take


def choose(page: Any, model: str, task: str) -> None:
    """A model and a tab, by mouse."""
    page.locator("#model").select_option(model)
    expect(page.locator(f'[data-task="{task}"]')).to_be_enabled()
    page.locator(f'[data-task="{task}"]').click()
    expect(page.locator(f'[data-task="{task}"]')).to_have_attribute("aria-selected", "true")


def answer(page: Any, **fields: str) -> Any:
    """Fill the fields, run, and wait for the result."""
    for name, text in fields.items():
        page.locator(f"#field-{name}").fill(text)
    page.locator("#go").click()
    expect(page.locator("#latency")).to_have_text(re.compile(r"\d+ ms"))
    return page.locator("#result")


@pytest.mark.parametrize("model", OF_MODEL)
def test_every_tab_answers_every_example(page: Any, shot: Shot, model: str) -> None:
    page.locator("#model").select_option(model)
    expect(page.locator(f'[data-task="{OF_MODEL[model][0]}"]')).to_be_enabled()
    enabled = page.locator('[role="tab"]:not([disabled])')
    assert [tab.get_attribute("data-task") for tab in enabled.all()] == OF_MODEL[model]
    for task in OF_MODEL[model]:
        choose(page, model, task)
        for example in page.locator("#examples option").all():
            page.locator("#examples").select_option(example.get_attribute("value"))
            expect(page.locator("#latency")).to_have_text(re.compile(r"\d+ ms"))
            expect(page.locator("#go")).to_be_enabled()
            assert page.locator("#result .error").count() == 0, page.locator("#result").inner_text()
            assert page.locator("#result").inner_text().strip()
        shot(page, f"{model}-{task}")


def test_what_is_shown_is_what_the_engine_says(page: Any, shot: Shot, offline: Any) -> None:
    text = "القاهرة هي <mask> مصر."
    choose(page, "mini", "fill-mask")
    result = answer(page, inputs=text)
    wanted = [one["text"] for one in offline.fill_mask([text])[0]["masks"][0]]
    assert result.locator(".long").all_inner_texts() == wanted
    shot(page, "fill-mask-arabic")
    choose(page, "mini", "similarity")
    texts = list(TEXTS.values())
    result = answer(page, inputs="\n".join(texts))
    vectors = offline.embed(texts)
    shown = [float(cell) for cell in result.locator("td").all_inner_texts()]
    assert max(abs(a - b) for a, b in zip(shown, (vectors @ vectors.T).ravel(), strict=True)) < 0.006
    shot(page, "similarity")
    choose(page, "mini", "tokenize")
    for name, text in TEXTS.items():
        result = answer(page, inputs=text)
        tokens = offline.tokenizer.convert_ids_to_tokens(offline.tokenizer(text)["input_ids"][1:-1])
        shown = [one.replace("\u2060", "") for one in result.locator("span:not(.special)").all_inner_texts()]
        assert shown == tokens, name
        wanted = "rtl" if name == "Arabic" else "ltr"
        assert result.locator(".tokens").evaluate("node => getComputedStyle(node).direction") == wanted
        shot(page, f"tokens-{name}")


@pytest.mark.parametrize("name", TEXTS)
def test_spans_stand_where_they_are(page: Any, shot: Shot, engines: dict[str, Any], name: str) -> None:
    choose(page, "tag", "tag")
    result = answer(page, inputs=TEXTS[name])
    spans = engines["tag"].tag([TEXTS[name]])[0]["spans"]
    marks = [mark.evaluate("node => node.firstChild.textContent") for mark in result.locator("mark").all()]
    assert marks == [span["text"] for span in spans]
    whole = result.locator("p.text").evaluate(
        "node => [...node.childNodes].map(n => n.tagName ? n.firstChild.textContent : n.textContent).join('')"
    )
    assert whole == TEXTS[name]
    shot(page, f"tag-{name}")


def test_right_to_left(page: Any, shot: Shot) -> None:
    choose(page, "answer", "answer")
    result = answer(page, question="أين ولدت ماري كوري؟", context=TEXTS["Arabic"])
    direction = "node => getComputedStyle(node).direction"
    assert page.locator("#field-context").evaluate(direction) == "rtl"
    assert result.locator("p.text").evaluate(direction) == "rtl"
    shot(page, "answer-arabic")
    choose(page, "mini", "fill-mask")
    bars = answer(page, inputs="القاهرة هي <mask> مصر.").locator("ol.bars")
    assert bars.evaluate(direction) == "rtl"
    name, value = (bars.locator(place).first.bounding_box()["x"] for place in (".name", ".value"))
    assert name > value  # a bar begins at its name, on the right
    assert answer(page, inputs="Paris is the <mask> of France.").locator("ol.bars").evaluate(direction) == "ltr"
    choose(page, "answer", "answer")
    page.locator("#field-context").fill("Latin text")
    assert page.locator("#field-context").evaluate(direction) == "ltr"


def test_by_keys_alone(page: Any) -> None:
    page.locator("#model").focus()
    page.keyboard.press("Tab")  # the API key's summary
    page.keyboard.press("Tab")
    focused = "document.activeElement"
    assert page.evaluate(f"{focused}.dataset.task") == "fill-mask"
    page.keyboard.press("ArrowRight")
    assert page.evaluate(f"{focused}.dataset.task") == "similarity"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")  # round the corner
    assert page.evaluate(f"{focused}.dataset.task") == "tokenize"
    page.keyboard.press("Home")
    page.keyboard.press("End")
    assert page.evaluate(f"{focused}.dataset.task") == "tokenize"
    assert page.evaluate(f"getComputedStyle({focused}).outlineStyle") != "none"
    page.keyboard.press("Tab")
    assert page.evaluate(f"{focused}.id") == "field-inputs"
    page.keyboard.press("Control+a")
    page.keyboard.type("สวัสดี world")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#result .tokens span").first).to_be_visible()
    page.keyboard.press("Tab")
    assert page.evaluate(f"{focused}.id") == "go"


def test_light_and_dark_are_readable(browser: Any, address: str, shot: Shot) -> None:
    found = {}
    for scheme in ("light", "dark"):
        context = browser.new_context(color_scheme=scheme, viewport={"width": 900, "height": 800})
        page = context.new_page()
        page.goto(address)
        expect(page.locator("#about")).to_contain_text("tokens")
        answer(page, inputs="Paris is the <mask> of France.")
        shot(page, f"{scheme}")
        colours = "node => [getComputedStyle(node).color, getComputedStyle(document.body).backgroundColor]"
        for place in ("body", ".quiet", ".bars .name", ".bars .long"):
            ink, paper = page.locator(place).first.evaluate(colours)
            assert contrast(ink, paper) >= 4.5, (scheme, place, ink, paper)
        found[scheme] = paper
        choose(page, "mini", "similarity")
        ink, cell, card = (
            answer(page, inputs="one\ntwo").locator("td").first.evaluate(
                "node => [getComputedStyle(node).color, getComputedStyle(node).backgroundColor, "
                "getComputedStyle(document.querySelector('main')).backgroundColor]"
            )
        )  # fmt: skip
        assert contrast(ink, over(cell, card)) >= 4.5, (scheme, ink, cell)
        context.close()
    assert found["light"] != found["dark"]


def over(colour: str, paper: str) -> str:
    """``rgba(r, g, b, a)`` on an opaque colour."""
    *own, alpha = [float(number) for number in re.findall(r"[\d.]+", colour)]
    below = [float(number) for number in re.findall(r"[\d.]+", paper)]
    return "rgb({}, {}, {})".format(*(round(a * alpha + b * (1 - alpha)) for a, b in zip(own, below, strict=True)))


def contrast(ink: str, paper: str) -> float:
    """WCAG's ratio of two colours, ``rgb(r, g, b)``."""

    def luminance(colour: str) -> float:
        values = [int(number) / 255 for number in re.findall(r"\d+", colour)[:3]]
        red, green, blue = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    light, dark = sorted((luminance(ink), luminance(paper)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_a_small_screen_shows_all(browser: Any, address: str, shot: Shot) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 740})
    page = context.new_page()
    page.goto(address)
    choose(page, "mini", "similarity")
    answer(page, inputs="\n".join(TEXTS.values()))
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    shot(page, "small")
    context.close()


def test_errors_are_shown_and_over_with_the_next_run(page: Any, shot: Shot) -> None:
    choose(page, "mini", "fill-mask")
    result = answer(page, inputs="no mask here")
    expect(result.locator('[role="alert"]')).to_contain_text("mask")
    shot(page, "error")
    page.route("**/fill-mask", lambda route: route.abort())
    result = answer(page, inputs="A <mask>.")
    expect(result.locator('[role="alert"]')).to_have_count(1)
    page.unroute("**/fill-mask")
    result = answer(page, inputs="A <mask>.")
    expect(result.locator(".bars")).to_have_count(1)
    expect(result.locator('[role="alert"]')).to_have_count(0)


def test_another_tab_may_be_opened_while_a_request_runs(page: Any) -> None:
    choose(page, "mini", "fill-mask")
    page.route("**/fill-mask", lambda route: (page.wait_for_timeout(300), route.continue_()))
    page.locator("#go").click()
    page.locator('[data-task="tokenize"]').click()
    expect(page.locator("#go")).to_be_enabled()
    answer(page, inputs="hello")
    expect(page.locator("#result .tokens")).to_have_count(1)


def test_markup_in_a_text_stays_text(page: Any) -> None:
    choose(page, "tag", "tag")
    text = "<img src=x onerror=alert(1)> <b>bold</b>"
    result = answer(page, inputs=text)
    assert result.locator("img, b").count() == 0
    assert text == result.evaluate(
        "node => { for (const label of node.querySelectorAll('small')) label.remove(); return node.textContent }"
    )


def test_the_interface_page_works_without_the_internet(page: Any, address: str, shot: Shot) -> None:
    page.goto(address + "/docs")
    expect(page.locator("#operations-vectors-embed_embed_post")).to_be_visible()
    page.locator("#operations-vectors-embed_embed_post .opblock-summary-control").click()
    page.get_by_role("button", name="Try it out").click()
    page.locator("textarea.body-param__text").fill('{"inputs": "สวัสดี", "model": "mini"}')
    page.get_by_role("button", name="Execute").click()
    expect(page.locator(".live-responses-table tr.response .response-col_status")).to_contain_text("200")
    shot(page, "interface")


def test_a_key_opens_the_page(browser: Any) -> None:
    with running({"mini": xlm.load()}, Settings(api_keys=("secret",))) as address:
        page = browser.new_page()
        page.goto(address)
        expect(page.locator("#about")).to_contain_text("API key")
        page.locator("summary").click()
        page.locator("#key").fill("secret")
        page.locator("#key").press("Tab")
        expect(page.locator("#about")).to_contain_text("tokens")
        answer(page, inputs="Paris is the <mask> of France.")
        expect(page.locator("#result .bars")).to_have_count(1)
        page.close()
