"""What `make docs` adds to the pages of this folder.

- A page for each module of the package, named as users import it, below «Reference».
- The notebooks of `notebooks/`, with the outputs that are stored in them.
- `CONTRIBUTING.md` and `CHANGELOG.md`, which stand at the top of the repository.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "stpl"
ROOMS = (
    "methods", "losses", "nn", "metrics", "training", "testing", "data", "apply", "runs", "sweeps", "report",
    "pictures",
)  # fmt: skip
NOT_DOCUMENTED = {"__init__", "__main__"}
IMAGES = {"image/png": "png", "image/jpeg": "jpg"}


def on_config(config: MkDocsConfig) -> None:
    """Put the pages of the reference and of the search into the navigation; edit links need a repository."""
    if not config.repo_url:
        config.edit_uri = None
    sections = {title: pages for item in config.nav or [] for title, pages in item.items()}
    rows = sorted(path.name for path in (ROOT / "docs" / "tuning").glob("*.md") if path.stem != "index")
    sections["Results"].append({"The search of Table 1": [f"tuning/{name}" for name in ("index.md", *rows)]})
    rooms: list[dict[str, Any]] = [{"stpl": _page("stpl")}]
    for room in ROOMS:
        name = f"stpl.{room}"
        below = [{module.removeprefix(f"{name}."): _page(module)} for module in _modules(room)]
        rooms.append({name: [_page(name), *below]})
    sections["Reference"].append({"The package": rooms})


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made of other files."""
    rooms = [f"stpl.{room}" for room in ROOMS]
    for name in ("stpl", *rooms, *(module for room in ROOMS for module in _modules(room))):
        text = f"---\ntitle: {name}\n---\n\n::: {name}\n"
        files.append(File.generated(config, _page(name), content=text))
    for name in ("CONTRIBUTING", "CHANGELOG"):
        text = (ROOT / f"{name}.md").read_text("utf-8").replace("](docs/", "](")
        _add(files, config, f"{name.lower()}.md", ROOT / f"{name}.md", text)
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        page = f"notebooks/{path.stem}.md"
        text, images = _notebook(json.loads(path.read_text("utf-8")), path.stem)
        _add(files, config, page, path, text)
        for name, content in images.items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    return files


def _modules(room: str) -> list[str]:
    """The modules of a room by their import names, those with a leading underscore left out."""
    paths = sorted((PACKAGE / room).rglob("*.py"))
    parts = [path.relative_to(PACKAGE.parent).with_suffix("").parts for path in paths]
    return [".".join(names) for names in parts if not any(name.startswith("_") for name in names)]


def _page(module: str) -> str:
    """The page of a module; that of a room is the index of its section."""
    return f"reference/{module}/index.md" if module.removeprefix("stpl.") in ROOMS else f"reference/{module}.md"


def _add(files: Files, config: MkDocsConfig, page: str, source: Path, text: str) -> None:
    """A page whose source stands outside of the folder of the documentation."""
    file = File.generated(config, page, content=text)
    file.edit_uri = f"../{source.relative_to(ROOT).as_posix()}"
    files.append(file)


def _notebook(notebook: dict[str, Any], name: str) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, and its images by the names that the text has for them."""
    parts: list[str] = []
    images: dict[str, bytes] = {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            kind = next((kind for kind in IMAGES if kind in output.get("data", {})), None)
            if kind is not None:
                image = f"{name}-{len(images)}.{IMAGES[kind]}"
                images[image] = base64.b64decode("".join(output["data"][kind]))
                parts.append(f"![Output of the cell above]({image}){{ .output }}")
            elif text := "".join(output.get("text", output.get("data", {}).get("text/plain", ""))).rstrip():
                parts.append(f"```text\n{text}\n```")
    shown = (
        "with its outputs" if "outputs_of" in notebook["metadata"] else "without outputs: `make notebooks` adds them"
    )
    note = f"*This page is the notebook `notebooks/{name}.ipynb`, {shown}.*"
    return "\n\n".join([parts[0], note, *parts[1:]]) + "\n", images
