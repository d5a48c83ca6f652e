"""The page of an adaptation, as a reader finds it: in Chromium, light and dark, on a laptop and on a phone."""

from __future__ import annotations

import html
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import stpl
from browser import Page, chromium, needs_chromium
from fakes import MovingShapes
from stpl import __version__
from stpl.apply import page as written
from stpl.apply.adapt import Adaptation
from stpl.apply.labelling import film
from stpl.apply.page import write_page
from stpl.data.image import write_png
from stpl.data.videos.stream import FrameStream
from stpl.runs.record import METRICS

pytestmark = pytest.mark.slow

SIZE = (64, 96)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Adaptation:
    folder = tmp_path_factory.mktemp("adaptation")
    drive = folder / "drive"
    drive.mkdir()
    for time in range(6):
        write_png(drive / f"{time}.png", MovingShapes(6, SIZE).frame(time))
    return stpl.adapt(stpl.load("streets", size=SIZE), drive, folder / "out", steps=4)


@pytest.fixture(scope="module")
def pages(found: Adaptation) -> dict[str, Path]:
    """The page if the start is kept, and if the last network is returned."""
    drive, output, places = [FrameStream(found.videos[0])], found.folder / "a film.webm", {}
    film({"after": found.network}, drive, output)
    scored = found.verdict.scored
    for kind, chosen in (("kept", scored[0]), ("adapted", scored[-1])):
        network = found.before.adapted(chosen.checkpoint)
        one = replace(found, verdict=replace(found.verdict, chosen=chosen), network=network)
        places[kind] = write_page(one, output).rename(found.folder / f"{kind}.html")
    return places


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("chromium") / "profile") as page:
        yield page


def test_what_was_not_returned_is_shown(found: Adaptation, pages: dict[str, Path]) -> None:
    for kind, chosen in (("kept", found.verdict.scored[0]), ("adapted", found.verdict.scored[-1])):
        other = replace(found.verdict, chosen=chosen).other
        assert other is not None
        text, title = pages[kind].read_text(), f"best that is not returned: {other.title}"
        assert f"<figcaption>{title}</figcaption>" in text
        assert f"<th>{title}, %</th>" in text
    kept = pages["kept"].read_text().split('<div class="frames">')[1]
    before, other_frame = (part.split('"')[0] for part in kept.split('src="')[2:4])
    assert before != other_frame


def test_how_it_was_made_can_be_read(found: Adaptation, pages: dict[str, Path]) -> None:
    text = html.unescape(pages["adapted"].read_text())
    assert f">{written._command(sys.argv)}</pre>" in text
    assert "seed 0, " in text
    assert f"stpl {__version__}" in text
    for one in found.verdict.scored[1:]:
        assert f"<code>{one.checkpoint.relative_to(found.folder)}</code>" in text.replace("<wbr>", "")
    assert f"<code>{found.verdict.scored[0].checkpoint}</code>" in text.replace("<wbr>", "")


def test_the_command_names_the_program() -> None:
    assert written._command(["/a/bin/stpl", "adapt", "--video=my drive.mp4"]) == "stpl adapt '--video=my drive.mp4'"
    assert written._command(["/a/stpl/__main__.py", "adapt"]) == "stpl adapt"
    assert written._command(["/a/mine.py", "7"]) == "mine.py 7"


def test_a_part_without_content_has_no_heading(found: Adaptation) -> None:
    metrics = found.folder / METRICS
    before = metrics.read_text()
    assert "<h2>Losses</h2>" not in write_page(found).read_text()  # four steps log none
    metrics.write_text(before + "10,train/entropy,0.5\n20,train/entropy,0.25\n")
    text = write_page(found).read_text()
    metrics.write_text(before)
    assert "<h2>Losses</h2>" in text
    assert "entropy: 0.5 at step 10, 0.25 at step 20" in text


@needs_chromium
@pytest.mark.parametrize("kind", ["kept", "adapted"])
def test_every_heading_has_content_and_the_film_plays(browser: Page, pages: dict[str, Path], kind: str) -> None:
    browser.problems.clear()
    browser.open(pages[kind].as_uri())
    empty = browser.evaluate(
        "[...document.querySelectorAll('h1, h2')].filter((h) => !h.nextElementSibling"
        " || h.nextElementSibling.matches('h1, h2') || !h.nextElementSibling.getBoundingClientRect().height)"
        ".map((h) => h.textContent)"
    )
    assert empty == []
    browser.wait("document.querySelector('video').readyState >= 1")
    assert browser.evaluate("document.querySelector('video').videoWidth") > 0
    assert browser.problems == []


@needs_chromium
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("kind", ["kept", "adapted"])
def test_text_and_links_stand_out(browser: Page, pages: dict[str, Path], kind: str, dark: bool) -> None:
    browser.open(pages[kind].as_uri(), 1400, dark)
    ground = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(18, 21, 26)") == dark
    assert len(browser.contrasts("a")) == 1
    assert min(browser.contrasts("a, p, h1, h2, dt, dd, th, td, code, pre, figcaption, .swatch")) >= 4.5


@needs_chromium
@pytest.mark.parametrize("kind", ["kept", "adapted"])
def test_a_phone_shows_all_columns_of_the_classes(browser: Page, pages: dict[str, Path], kind: str) -> None:
    browser.open(pages[kind].as_uri(), 390)
    assert browser.evaluate("document.documentElement.scrollWidth") <= 390
    cells = browser.evaluate(
        "[...document.querySelectorAll('table.shares tr > *')].map((c) => c.getBoundingClientRect().right)"
    )
    assert len(cells) == {"kept": 3, "adapted": 4}[kind] * 16
    assert max(cells) <= 390
    wide = "[...document.querySelectorAll('.scroll')].filter((e) => e.scrollWidth > e.clientWidth)"
    browser.wait(f"{wide}.every((e) => getComputedStyle(e).maskImage !== 'none')")
