"""The examples in docstrings, and the page docs/pieces.md, do what they say."""

from __future__ import annotations

import doctest
import re
from importlib import import_module
from pathlib import Path

import pytest

from repository import REPOSITORY

SOURCE = REPOSITORY / "src"
WITH_EXAMPLES = [path for path in sorted(SOURCE.rglob("*.py")) if ">>> " in path.read_text("utf-8")]
FEWEST = 20
"""Functions and classes with an example."""


def examples(path: Path) -> list[doctest.DocTest]:
    module = import_module(path.relative_to(SOURCE).with_suffix("").as_posix().replace("/", "."))
    return [found for found in doctest.DocTestFinder(exclude_empty=True).find(module) if found.examples]


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: path.stem)
def test_examples_in_docstrings_are_true(path: Path) -> None:
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for example in examples(path):
        runner.run(example, out=said.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(said)


def test_the_functions_used_most_have_an_example() -> None:
    named = {found.name.removeprefix("stpl.") for path in WITH_EXAMPLES for found in examples(path)}
    assert len(named) >= FEWEST
    assert {
        "losses.pixel_contrast.pixel_contrast", "losses.dense_contrast.dense_pixel_contrast", "nn.warp.warp",
        "nn.fusion.Concat", "metrics.segmentation.SegmentationMetrics", "data.flow.vectors.resize",
        "data.label_space.label_space", "nn.batchnorm.renew", "report.significance.holm",
        "apply.loaded.LoadedNetwork.predict",
    } <= named  # fmt: skip


def test_the_page_of_pieces_runs() -> None:
    """Block after block in one scope, as a reader would; each `# value` after an expression is what it gives."""
    blocks = re.findall(r"```python\n(.*?)```", (REPOSITORY / "docs/pieces.md").read_text("utf-8"), re.DOTALL)
    scope: dict[str, object] = {}
    assert len(blocks) >= 6
    for block in blocks:
        exec(compile(block, "docs/pieces.md", "exec"), scope)
