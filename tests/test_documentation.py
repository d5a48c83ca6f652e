"""README and documentation: what they print runs, options and links exist, lines fit, the site works from a folder."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import wraps
from importlib.util import find_spec
from pathlib import Path

import pytest

import stpl
from browser import chromium, needs_chromium
from repository import REPOSITORY
from segformer import save_segformer
from stpl.apply.settings import AdaptationSettings
from stpl.arguments import Command
from stpl.cli import main
from stpl.commands import VERBS, function
from stpl.errors import StplError
from stpl.runs.build import parse
from stpl.runs.experiments import SWEEPS
from stpl.testing.runs import tiny_arguments

README = REPOSITORY / "README.md"
DOCS = REPOSITORY / "docs"
PAGES = [README, REPOSITORY / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
MOST_COLUMNS, MOST_README_LINES = 80, 120
SEGFORMER = "nvidia/segformer-b0-finetuned-cityscapes-1024-1024"


def name_of(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def blocks(path: Path, language: str) -> list[str]:
    """The code blocks of a page in one language, without the indent that a tab gives them."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", path.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    return [re.sub(rf"^{indent}", "", block, flags=re.MULTILINE) for indent, block in found]


def commands(script: str) -> Iterator[list[str]]:
    """The words of each command of a script; variables that it sets are replaced."""
    known: dict[str, str] = {}
    for line in re.sub(r"\\\n\s*", "", script).splitlines():
        for name, value in known.items():
            line = line.replace(f"${name}", value)
        if setting := re.fullmatch(r"([A-Z]+)=(\S+)", line):
            known[setting[1]] = setting[2]
        elif words := shlex.split(line, comments=True):
            yield words


def in_text(path: Path) -> Iterator[list[str]]:
    """Whole commands that stand in the text of a page or in a table: `stpl …`, `make …`."""
    text = re.sub(r"^ *```.*?^ *```$", "", path.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    for code in re.findall(r"`([^`]+)`", text):
        if re.match(r"(stpl|make) [a-z]", code) and not re.search(r"[…|\[]|[A-Z]{4}|\n", code):
            yield shlex.split(code)


def printed(path: Path) -> list[list[str]]:
    return [*(words for block in blocks(path, "bash") for words in commands(block)), *in_text(path)]


def check_make(words: list[str]) -> None:
    """Recipes and variables are those of the Makefile."""
    makefile = (REPOSITORY / "Makefile").read_text("utf-8")
    for word in words:
        name, equals, _ = word.partition("=")
        assert re.search(rf"^{name} \??=|\$\(if \$\({name}\)" if equals else rf"^{name}:", makefile, re.MULTILINE), word


def check_verb(words: list[str]) -> None:
    """The verb is one, its options are known and of their types; settings of `fit` are parsed as `fit` does."""
    verb = " ".join(words[:2]) if " ".join(words[:2]) in VERBS else words[0]
    given = words[len(verb.split()) :]
    if not given:
        return  # a verb by its name
    if verb == "fit":
        parse([re.sub(r"^--experiment=(bolder|louder)$", "--experiment=stpl", word) for word in given])
        return
    command = Command(function(verb), f"stpl {verb}")
    values, rest = command._parse(given)
    assert command.settings or not rest
    files = values.get("files") or []
    for file in files if verb.startswith("sweep") else []:
        assert (SWEEPS / f"{Path(file).stem}.yaml").is_file(), file


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_commands_are_those_of_the_program(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command that a page prints: verb, options, settings, recipes."""
    monkeypatch.chdir(REPOSITORY)
    for words in printed(path):
        try:
            if words[0] == "stpl":
                check_verb([word for word in words[1:] if word != "&"])
            elif words[0] == "make":
                check_make(words[1:])
        except Exception as error:
            error.add_note(f"{name_of(path)}: {shlex.join(words)}")
            raise


def test_a_command_that_is_none_is_found() -> None:
    """The checks above refuse what they should."""
    for words in (["adapt", "--vidoe=a.mp4"], ["fit", "--bench=streets", "--experiment=stpl", "--model.heat=1"]):
        with pytest.raises(StplError):
            check_verb(words)
    with pytest.raises(AssertionError):
        check_make(["ablations"])
    with pytest.raises(AssertionError):
        check_make(["ablation", "SEED=3"])


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_commands_fit_a_terminal(path: Path) -> None:
    """No line of a command is longer than 80 columns."""
    for block in blocks(path, "bash"):
        for line in block.splitlines():
            assert len(line) <= MOST_COLUMNS, line


def anchors(path: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", path.read_text("utf-8"), re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title) for title in titles]
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in plain}


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_lead_somewhere(path: Path) -> None:
    """To files of the repository and their headings; pages that the site makes stand in the navigation."""
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text("utf-8")):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        place = (path.parent / file).resolve() if file else path
        made = re.search(r"docs/(reference|notebooks)/|docs/(contributing|changelog)\.md", place.as_posix())
        assert made or place.exists(), target
        if anchor and not made:
            assert anchor in anchors(place), target


def test_the_readme_is_short_and_says_first_what_is_not_verified() -> None:
    lines = README.read_text("utf-8").splitlines()
    assert len(lines) <= MOST_README_LINES
    assert "nothing has been run on the real data sets" in " ".join(lines[:20])


def test_the_numbers_of_the_readme_are_those_of_the_results() -> None:
    """Its short table repeats rows of the page of results."""
    results = (DOCS / "results.md").read_text("utf-8")
    row = r"^\| (?:\*Control:\* )?([^|]+) \| (\d+\.\d+ ± \d+\.\d+) \|"
    rows = re.findall(row, README.read_text("utf-8"), re.MULTILINE)
    assert len(rows) >= 5
    for name, number in rows:
        assert f"| {name} | {number} |".lower() in results.lower(), name


@pytest.fixture
def workplace(drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with videos and a module of the user's; adaptations take two steps."""
    work = tmp_path / "work"
    work.mkdir()
    for name in ("drive", "monday", "tuesday"):
        (work / f"{name}.mp4").symlink_to(drive)
    net = "import own_networks\n\n\ndef build():\n    return own_networks.Dictionary(num_classes=15)\n"
    (work / "my_networks.py").write_text(net)
    monkeypatch.chdir(work)
    monkeypatch.setenv("STPL_RUNS", str(work / "runs"))
    monkeypatch.syspath_prepend(work)
    made = AdaptationSettings.__init__

    @wraps(made)
    def brief(self: AdaptationSettings, *given: object, **named: object) -> None:
        made(self, *given, **named)  # type: ignore[arg-type]
        object.__setattr__(self, "steps", 2)
        object.__setattr__(self, "batch_size", 1)

    monkeypatch.setattr(AdaptationSettings, "__init__", brief)
    return work


def run_commands(script: str) -> None:
    for words in commands(script):
        assert words[0] == "stpl"
        assert main(words[1:]) == 0, shlex.join(words)


def run_example(example: str, **names: object) -> dict[str, object]:
    scope: dict[str, object] = dict(names)
    exec(compile(example, "documentation", "exec"), scope)
    return scope


@pytest.mark.slow
@pytest.mark.docs
def test_the_readme_runs_in_order(workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As printed, but for a tiny SegFormer in a local folder, smaller frames, and fakes of the data sets.

    `pip`, `make` and a large checkpoint are left out: the wheel, the recipes and the converter have their own tests.
    """
    save_segformer(workplace / "segformer")
    data = tmp_path / "data"
    for name in ("viper", "cityscapes"):
        assert main(["data", "fake", name, f"--root={data}", "--size=[64,128]", "--clips=2"]) == 0
    replaced = {SEGFORMER: "segformer", "512,1024": "64,96", "(512, 1024)": "(64, 96)", "/data": str(data)}

    def here(text: str) -> str:
        for printed_text, used in replaced.items():
            text = text.replace(printed_text, used)
        return text

    scripts = [block for block in blocks(README, "bash") if not block.startswith(("pip ", "make "))]
    assert len(scripts) == 2
    run_commands(here(scripts[0]))
    assert (workplace / "adapted" / "index.html").is_file()
    assert len(list((workplace / "labels" / "ids").iterdir())) == 6
    run_commands("\n".join(line for line in here(scripts[1]).splitlines() if line.startswith("stpl data")))
    adapt, pieces = (here(block) for block in blocks(README, "python"))
    assert isinstance(run_example(adapt)["result"], stpl.Adaptation)
    assert (workplace / "better-segformer" / "config.json").is_file()
    capsys.readouterr()
    run_example(pieces)
    assert capsys.readouterr().out.endswith("torch.Size([1, 8, 32, 64])\n100.0\n")


def write_files(page: Path, folder: Path) -> None:
    """The files that a page prints with their path in the first line; of several with one path, the first."""
    for language in ("python", "yaml"):
        for block in reversed(blocks(page, language)):
            if named := re.match(r"# ([\w/.]+\.(?:py|yaml))\n", block):
                file = folder / named[1]
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(block)


@pytest.mark.slow
@pytest.mark.docs
@pytest.mark.parametrize(("page", "experiment"), [("write_a_method", "louder"), ("experiments", "bolder")])
def test_the_files_of_a_page_make_an_experiment(
    page: str, experiment: str, tiny_streets: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(DOCS / f"{page}.md", workplace)
    for name in ("source", experiment):
        assert main(["fit", *tiny_arguments(name, tiny_streets, steps=2)]) == 0
    assert (workplace / "runs/streets" / experiment / "seed0" / "result.json").is_file()
    if page == "experiments":
        assert main(["data", "fake", "my_set", "--root=fakes", "--clips=1", "--size=[36,64]"]) == 0


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation, built as `make docs` does, into a folder of the test."""
    if find_spec("mkdocs") is None:
        pytest.skip("mkdocs is not installed: pip install '.[docs]'")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", f"--site-dir={out}"]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=REPOSITORY, env=quiet, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.slow
@pytest.mark.docs
def test_the_site_has_a_page_a_module_and_asks_no_other_host(site: Path) -> None:
    for module in ("stpl", "stpl.losses/index", "stpl.nn.warp", "stpl.metrics.segmentation"):
        assert (site / "reference" / f"{module}.html").is_file()
    top = (site / "reference" / "stpl.html").read_text("utf-8")
    assert 'id="stpl.adapt"' in top
    for page in site.rglob("*.html"):
        text = page.read_text("utf-8")
        loaded = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?:[^"]+)"', text)
        assert not loaded, f"{page.name}: {loaded}"


@pytest.mark.skipif(find_spec("mkdocs") is None, reason="mkdocs is not installed")
@pytest.mark.parametrize("repository", ["", "https://example.org/stpl"])
def test_edit_links_need_a_repository(repository: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mkdocs.config import load_config

    monkeypatch.setenv("STPL_REPOSITORY", repository)
    config = load_config(str(REPOSITORY / "mkdocs.yml"))
    config.plugins.run_event("config", config)
    assert config.edit_uri == ("edit/main/docs/" if repository else None)


@pytest.mark.slow
@pytest.mark.docs
@needs_chromium
def test_search_works_in_pages_that_are_opened_as_files(site: Path, tmp_path: Path) -> None:
    with chromium(tmp_path / "profile") as page:
        page.open((site / "index.html").as_uri())
        page.evaluate("document.querySelector('.md-search__input').focus()")
        page.call("Input.insertText", text="temperature")
        page.wait("document.querySelectorAll('.md-search-result__item a').length > 2")
        assert not [url for url in page.requests if not url.startswith("file:")]
        for width in (1440, 390):
            page.open((site / "adapt.html").as_uri(), width=width)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
