"""The page, opened in headless Chromium: silent, closed to the network, right in its numbers, and alive."""

from __future__ import annotations

import csv
import json
import shutil
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from browser import Page, chromium, needs_chromium
from repository import REPOSITORY
from stpl.cli import main
from stpl.commands.report import report
from stpl.errors import ConfigError
from stpl.report.live import LivePage, server
from stpl.runs.experiments import load_catalogue
from suite_writer import CLASSES, ERRORS, scene, write_run, write_suite
from waiting import PATIENCE

pytestmark = pytest.mark.slow

EXPERIMENTS = REPOSITORY / "experiments"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite with its page; one experiment has a name that HTML and URLs must escape."""
    root = tmp_path_factory.mktemp("page")
    write_suite(root)
    write_run(root, "stpl,temperature=0.1,x=<b>&%23", 0, 0.35, scene(), np.random.default_rng(1), artifacts=True)
    begun = root / "streets/stpl_concat/seed0"
    begun.mkdir(parents=True)
    (begun / "metrics.csv").write_text("step,name,value\n0,progress/steps,40\n20,val/miou,33.0\n")
    report(runs=root, experiments=EXPERIMENTS)
    return root


@pytest.fixture(scope="module")
def url(runs: Path) -> str:
    return (runs / "streets/report/index.html").as_uri()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("chromium") / "profile") as page:
        yield page


@pytest.fixture
def page(browser: Page, url: str) -> Page:
    """The page, opened afresh on a laptop's screen."""
    browser.problems.clear()
    browser.requests.clear()
    browser.open(url)
    browser.wait("document.querySelector('.player').dataset.shown === '0'")
    return browser


def shown(page: Page, table: str) -> list[list[str]]:
    rows = f"[...document.querySelectorAll('[data-table={json.dumps(table)}] tr')]"
    found = page.evaluate(f"{rows}.map((row) => [...row.children].map((cell) => cell.textContent.trim()))")
    return [list(map(str, row)) for row in found]


def written(runs: Path, table: str) -> list[dict[str, str]]:
    with (runs / "streets/tables" / f"{table}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def leading(text: str) -> str:
    """The first number of a cell, as the CSV would write it."""
    number = text.replace("*", "").split()[0].removeprefix("+")
    return "" if number in ("–", "not") else number


@needs_chromium
def test_no_word_in_the_console_and_no_request(page: Page, url: str) -> None:
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true })")
    page.screenshot(Path("/dev/null"))
    assert page.problems == []
    assert set(page.requests) == {url}


@needs_chromium
def test_the_policy_lets_no_request_leave(page: Page) -> None:
    code = "fetch('https://example.org/').then(() => 'left', () => 'held')"
    assert page.evaluate(code) == "held"
    assert any("Content Security Policy" in problem for problem in page.problems)


@needs_chromium
@pytest.mark.parametrize("table", ["table3", "table4", "variants"])
def test_main_tables_say_what_the_csv_says(page: Page, runs: Path, table: str) -> None:
    header, *rows = shown(page, table)
    columns = {
        "original": "miou_original_mean", "Δ original": "original_delta", "augmented": "miou_all_mean",
        "Δ augmented": "all_delta", "mIoU last": "miou_last_mean", "selected": "miou_selected_mean",
        "best": "miou_best_mean", "Δ source": "delta_vs_source", "paper (VIPER→CS)": "paper_miou",
    }  # fmt: skip
    expected = written(runs, table)
    assert [row[0] for row in rows] == [row["row"] for row in expected]
    for row, numbers in zip(rows, expected, strict=True):
        cells = dict(zip(header, row, strict=True))
        assert cells["Seeds"] == numbers["seeds"]
        for name, column in columns.items():
            if name in cells:
                digits = 1 if name.startswith("paper") else 2
                assert leading(cells[name]) == (numbers[column] and f"{float(numbers[column]):.{digits}f}")
        if numbers["miou_last_std"]:
            assert f"± {numbers['miou_last_std']}" in cells["mIoU last"]


@needs_chromium
@pytest.mark.parametrize("table", ["per_class", "metrics", "selection"])
def test_other_tables_say_what_the_csv_says(page: Page, runs: Path, table: str) -> None:
    header, *rows = shown(page, table)
    expected = written(runs, table)
    assert len(header) == len(expected[0])
    for row, numbers in zip(rows, expected, strict=True):
        assert row[0] == numbers["row"]
        for cell, number in zip(row[1:], list(numbers.values())[1:], strict=True):
            digits = 1 if table == "per_class" and "." in number else len(number.partition(".")[2])
            assert leading(cell) == (number and f"{float(number):.{digits}f}")


@needs_chromium
def test_tests_say_what_the_csv_says(page: Page, runs: Path) -> None:
    rows, expected = shown(page, "tests")[1:], written(runs, "tests")
    for row, numbers in zip(rows, expected, strict=True):
        found = [row[0], leading(row[2]), leading(row[-1])]
        assert found == [numbers["row"], numbers["difference"], numbers["significant"]]
        ends = row[3].split(" … ") if "…" in row[3] else [row[3]] * 2  # one seed has no interval
        assert [leading(end) for end in ends] == [numbers["ci_low"], numbers["ci_high"]]


@needs_chromium
def test_misses_are_shown(page: Page) -> None:
    row = next(row for row in shown(page, "table4") if row[0] == "Concatenation")
    assert row[1:3] == ["0", "not run"]
    assert "Not run: Concatenation." in str(page.evaluate("document.body.textContent"))
    said = str(page.evaluate("document.querySelector('.progress').textContent"))
    assert "stpl_concat/seed0" in said
    assert "step 20 of 40, mIoU 33.00" in said


@needs_chromium
def test_every_number_leads_to_its_runs(page: Page, runs: Path) -> None:
    dead = page.evaluate(
        "[...document.querySelectorAll('main a[href^=\"#\"]')].filter((a) =>"
        " !document.getElementById(decodeURIComponent(a.hash.slice(1)))).map((a) => a.href)"
    )
    assert dead == []
    unlinked = page.evaluate(
        "[...document.querySelectorAll('[data-table=table3] td')].filter((c) => /\\d/.test(c.textContent)"
        " && !c.classList.contains('paper') && !c.querySelector('a')).length"
    )
    assert unlinked == 0
    page.evaluate("[...document.querySelectorAll('[data-table=table3] tr')].at(-2).querySelector('td a').click()")
    page.wait("document.getElementById('run-stpl').open")
    details = "document.getElementById('run-stpl')"
    assert "stpl fit --bench=streets --experiment=stpl --seed_everything=1" in page.evaluate(f"{details}.textContent")
    paths = page.evaluate("[...document.querySelectorAll('#runs td a')].map((a) => decodeURIComponent(a.pathname))")
    assert len(paths) > 3 * 2 * len(ERRORS)
    assert all(Path(path).exists() for path in paths)
    assert str(runs / "streets/stpl/seed0/config.yaml") in paths


@needs_chromium
def test_the_player_steps_and_plays(page: Page) -> None:
    state = "document.querySelector('.player').dataset.shown"
    page.evaluate("document.querySelector('[data-do=next]').click()")
    page.wait(f"{state} === '1'")
    assert page.evaluate("document.querySelector('.player output').textContent") == "2 / 4"
    page.evaluate("document.querySelector('.player').focus()")
    for key, frame in [
        ("ArrowRight", 2),
        ("ArrowRight", 3),
        ("ArrowRight", 0),
        ("ArrowLeft", 3),
        ("Home", 0),
        ("End", 3),
    ]:
        page.press(key)
        page.wait(f"{state} === '{frame}'")
    page.evaluate("document.querySelector('[data-set=speed]').value = '8'")
    page.press(" ")
    page.wait(f"{state} === '1'")
    page.press(" ")
    held = page.evaluate(state)
    page.evaluate("new Promise((done) => setTimeout(done, 400))")
    assert page.evaluate(state) == held
    assert page.problems == []


@needs_chromium
def test_the_player_shows_labels_and_counts_the_difference(page: Page, runs: Path) -> None:
    with np.load(runs / "streets/source_only/seed0/samples.npz") as arrays:
        label, before = arrays["labels"][0], arrays["predictions"][0]
    with np.load(runs / "streets/stpl/seed0/samples.npz") as arrays:
        after = arrays["predictions"][0]
    known = label != 255
    expected = {
        "gained": (before != label) & (after == label), "lost": (before == label) & (after != label),
        "wrong": (before != label) & (after != label), "right": (before == label) & (after == label),
    }  # fmt: skip
    for name, where in expected.items():
        share = 100 * where[known].mean()
        assert page.evaluate(f"document.querySelector('[data-count={name}]').textContent") == f"{share:.1f} %"
    titles = page.evaluate("[...document.querySelectorAll('[data-screen] figcaption')].map((c) => c.textContent)")
    assert titles == ["Input", "Label", "Source-only", "STPL", "Difference"]
    page.evaluate("{ const s = document.querySelector('[data-set=left]'); s.value = 'stpl';"
                  " s.dispatchEvent(new Event('change', {bubbles: true})) }")  # fmt: skip
    page.wait("document.querySelector('[data-count=gained]').textContent === '0.0 %'")
    assert page.evaluate("document.querySelector('[data-count=lost]').textContent") == "0.0 %"


@needs_chromium
@pytest.mark.parametrize("width", [1400, 400])
@pytest.mark.parametrize("dark", [False, True])
def test_nothing_overflows_and_text_stands_out(browser: Page, url: str, width: int, dark: bool) -> None:
    browser.open(url, width, dark)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    ground = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(18, 21, 26)") == dark
    label = browser.evaluate("getComputedStyle(document.querySelector('.figures svg text')).fill")
    assert label != "rgb(0, 0, 0)"


@needs_chromium
def test_the_theme_can_be_switched_and_paper_is_white(page: Page) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(ground)
    page.evaluate("document.querySelector('#theme').click()")
    assert page.evaluate(ground) != before
    page.call("Emulation.setDeviceMetricsOverride", width=720, height=1000, deviceScaleFactor=1, mobile=False)
    page.call("Emulation.setEmulatedMedia", media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("document.documentElement.scrollWidth") <= 720  # nothing is cut at the edge of the sheet
    assert page.evaluate(ground) == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.querySelector('.figures svg text')).fill") != "rgb(233, 236, 241)"
    page.evaluate("localStorage.clear()")
    page.call("Emulation.setEmulatedMedia", media="")


@needs_chromium
def test_the_keyboard_reaches_everything_that_acts(page: Page) -> None:
    acts = page.evaluate(
        "[...document.querySelectorAll('button, select, input, summary, .scroll, .player')].every("
        "(e) => e.tabIndex >= 0 && (e.textContent.trim() || e.ariaLabel || e.labels?.length))"
    )
    assert acts
    page.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the tables"


@needs_chromium
@pytest.mark.parametrize("dark", [False, True])
def test_links_look_like_links(browser: Page, url: str, dark: bool) -> None:
    """All but those of the navigation are underlined, and their text is readable on whatever ground they stand."""
    browser.open(url, 1400, dark)
    links = ":is(main, footer) a"
    lines = browser.evaluate(
        f"[...document.querySelectorAll('{links}')].map((a) => getComputedStyle(a).textDecorationLine)"
    )
    assert len(lines) > 100
    assert set(lines) == {"underline"}
    assert min(browser.contrasts(f"{links}, nav a")) >= 4.5
    assert browser.evaluate("[...document.querySelectorAll('main td a')].every((a) => a.textContent !== '–')")


@needs_chromium
def test_a_wide_table_fades_until_it_is_scrolled_to_its_end(browser: Page, url: str) -> None:
    browser.open(url, 390)
    browser.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true })")
    wide = "[...document.querySelectorAll('.scroll, nav')].filter((e) => e.scrollWidth > e.clientWidth)"
    assert browser.evaluate(f"{wide}.length") > 5
    faded = f"{wide}.every((e) => getComputedStyle(e).maskImage !== 'none')"
    browser.wait(faded)
    browser.evaluate(f"{wide}.forEach((e) => e.scrollTo({{left: e.scrollWidth, behavior: 'instant'}}))")
    browser.wait(f"{wide}.every((e) => getComputedStyle(e).maskImage === 'none')")
    browser.open(url, 4000)
    browser.wait("getComputedStyle(document.querySelector('#variants .scroll')).maskImage === 'none'")


@needs_chromium
def test_figures_are_readable_on_a_phone(browser: Page, url: str) -> None:
    """The smallest text of any figure, in pixels of a screen that is 390 wide; none lies outside its figure."""
    browser.open(url, 390)
    sizes = browser.evaluate(
        "[...document.querySelectorAll('.figures svg text')].map((t) => { const m = t.getScreenCTM();"
        " return parseFloat(getComputedStyle(t).fontSize) * Math.hypot(m.a, m.b) })"
    )
    assert len(sizes) > 100
    assert min(sizes) >= 9
    cut = browser.evaluate(
        "[...document.querySelectorAll('.figures svg text')].filter((t) => { const b = t.getBoundingClientRect(),"
        " s = t.closest('svg').getBoundingClientRect(); return b.left < s.left - 1 || b.right > s.right + 1 })"
        ".map((t) => t.textContent)"
    )
    assert cut == []


class _Checker(HTMLParser):
    """Collects ids, and sees that elements are closed in order."""

    VOID = ("meta", "link", "input", "br", "img", "hr")

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.open: list[str] = []
        self.faults: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value for name, value in attrs if name == "id" and value]

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()
        else:
            self.faults.append(f"{tag} at {self.getpos()}")


def test_the_page_is_sound_html_of_one_file(runs: Path) -> None:
    path = runs / "streets/report/index.html"
    text = path.read_text()
    checker = _Checker()
    checker.feed(text)
    assert checker.faults == []
    assert checker.open == []
    assert len(set(checker.ids)) == len(checker.ids)
    assert len(text) < 15e6
    assert "<b>&%23" not in text
    assert all(f">{name}<" in text for name in CLASSES)


def test_the_same_records_give_the_same_page(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs, tmp_path / "runs", ignore=shutil.ignore_patterns("report", "tables"))
    report(runs=tmp_path / "runs", experiments=EXPERIMENTS)
    first, second = (root / "streets/report/index.html" for root in (runs, tmp_path / "runs"))
    assert first.read_bytes() == second.read_bytes()


def test_an_empty_suite_has_a_page(tmp_path: Path) -> None:
    report(runs=tmp_path, experiments=EXPERIMENTS)
    text = (tmp_path / "streets/report/index.html").read_text()
    assert "Nothing is recorded yet" in text
    assert "not run" in text


def test_one_run_is_not_several(tmp_path: Path) -> None:
    write_suite(tmp_path, {"stpl": 0.3}, seeds=1, artifacts=False)
    report(runs=tmp_path, experiments=EXPERIMENTS)
    text = (tmp_path / "streets/report/index.html").read_text()
    assert "1 run recorded, seed 0," in text
    assert "One seed of each row." in text


def test_figures_are_exported_from_the_command_line(tmp_path: Path) -> None:
    write_suite(tmp_path / "runs", {"source_only": 0.5, "stpl": 0.3}, seeds=1, artifacts=False)
    arguments = [f"--runs={tmp_path / 'runs'}", f"--experiments={EXPERIMENTS}", f"--output={tmp_path / 'out'}"]
    assert main(["report", *arguments, f"--figures={tmp_path / 'figures'}", "--page=false"]) == 0
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {"classes.svg", "classes.png", "classes.pdf", "curves-miou-table3.pdf"} <= names
    assert len(names) == 3 * len({name.rpartition(".")[0] for name in names})
    assert not (tmp_path / "out/index.html").exists()


def get(url: str, **headers: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=PATIENCE) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.fixture
def live(runs: Path, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A served copy of the suite with two experiments: its address and its folder."""
    root = tmp_path / "live"
    write_suite(root, {"source_only": 0.5, "stpl": 0.3}, seeds=1)
    page = LivePage("streets", root, load_catalogue([EXPERIMENTS]), "stpl")
    with server(page, root / "streets", 0) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{http.server_address[1]}", root
        http.shutdown()
        thread.join()


def test_live_serves_this_machine_alone(live: tuple[str, Path]) -> None:
    address, root = live
    status, text = get(f"{address}/")
    assert (status, "data-live" in text) == (200, True)
    assert get(f"{address}/stpl/seed0/config.yaml") == (200, "experiment: stpl\n")
    assert get(f"{address}/report/state", Host="evil.example")[0] == 403
    assert get(f"{address}/../../../../etc/passwd")[0] == 404
    torn = root / "streets/stpl/seed0/result.json"
    torn.write_text("{")
    assert "delete the folder" in get(f"{address}/report/")[1]


@needs_chromium
def test_live_follows_a_sweep(browser: Page, live: tuple[str, Path]) -> None:
    address, root = live
    browser.problems.clear()
    browser.open(f"{address}/report/")
    begun = root / "streets/naive/seed0"
    begun.mkdir(parents=True)
    (begun / "metrics.csv").write_text("step,name,value\n0,progress/steps,40\n20,val/miou,33.0\n")
    browser.wait("document.querySelector('#progress').textContent.includes('step 20 of 40, mIoU 33.00')")
    assert "not run" in " ".join(" ".join(row) for row in shown(browser, "table3") if row[0] == "Naive T+S CL")
    write_run(root, "naive", 0, 0.35, scene(), np.random.default_rng(2), artifacts=True)
    browser.wait(
        "[...document.querySelectorAll('[data-table=table3] tr')].some((row) =>"
        " /^Naive.*[0-9]{2}\\.[0-9]{2}/s.test(row.textContent.trim()))"
    )
    assert "naive/seed0" not in str(browser.evaluate("document.querySelector('#progress').textContent"))
    assert browser.problems == []


def test_a_port_in_use_is_told(live: tuple[str, Path]) -> None:
    address, root = live
    page = LivePage("streets", root, load_catalogue([EXPERIMENTS]), "stpl")
    with pytest.raises(ConfigError, match=r"port \d+ cannot be served"):
        server(page, root, int(address.rpartition(":")[2]))
