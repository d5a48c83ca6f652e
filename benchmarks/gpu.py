"""All that only a GPU can show, most valuable first, in one call of minutes: `make gpu`.

Every part is a process of its own with a limit of its own: one that fails or hangs takes nothing from the others. What
they print and find goes to one folder, and into one table. Imports no torch: without a GPU it says so and ends well.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli

from stpl.files import write_atomically
from stpl.machine import visible_gpus

_LIMIT = 3.0  # times its estimate that a part may take
_STPL = ("-m", "stpl")
_RUNS = ("--bench=streets", "--seeds=1")
_TESTS = ("-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", "tests/test_gpu.py")


@dataclass(frozen=True)
class Part:
    """One thing to find out.

    Attributes:
        name: of its files.
        about: what it measures.
        seconds: estimate, on one H100.
        commands: arguments of Python, run one after the other.
    """

    name: str
    about: str
    seconds: int
    commands: tuple[tuple[str, ...], ...]


def plan(out: Path) -> list[Part]:
    """All parts, most valuable first; their figures go to `<out>/<name>.json`."""

    def measured(name: str, about: str, seconds: int, module: str, *options: str) -> Part:
        command = ("-m", f"benchmarks.{module}", *options, "--device=cuda", f"--json={out / name}.json")
        return Part(name, about, seconds, (command,))

    ablation = (
        (*_STPL, "sweep", *_RUNS, "sweeps/source.yaml"),
        (*_STPL, "sweep", *_RUNS, "sweeps/ablation.yaml", "--workers=4"),
        (*_STPL, "report", "--bench=streets", "--page=false"),
    )
    return [
        Part("tests", "right results: contrast, steps, recording, resumption, evaluation, loaders", 85, (_TESTS,)),
        measured("step", "a step of STPL, ResNet-101 at 512×1024, against the plain form", 40, "step", "--repeats=15"),
        measured("contrast-5869", "the contrast of one clip", 30, "contrast", "--repeats=30"),
        measured("contrast-23476", "of four clips' pixels", 30, "contrast", "--n=23476", "--repeats=15"),
        measured("contrast-93904", "of sixteen clips' pixels", 10, "contrast", "--n=93904", "--repeats=5"),
        measured("evaluation", "an evaluation of 500 clips", 30, "evaluation"),
        measured("loader", "what loader processes deliver", 60, "loader"),
        Part("ablation", "`make ablation` of one seed: the source model, then all rows", 180, ablation),
    ]


def gpu(out: Path = Path("build/gpu"), only: list[str] | None = None, dry_run: bool = False) -> int:
    """Run the parts, each with a limit of its own, or show which there are.

    Args:
        out: folder of the figures and logs.
        only: names of the parts to run; all if not given.
        dry_run: print the plan with estimated times and end.

    Returns:
        0 if all parts went well or there is no GPU, 1 if one failed.
    """
    parts = plan(out)
    if unknown := set(only or ()) - {part.name for part in parts}:
        sys.exit(f"--only: no part {', '.join(sorted(unknown))}; there are {', '.join(part.name for part in parts)}")
    parts = [part for part in parts if part.name in (only or part.name)]
    if dry_run:
        whole = sum(part.seconds for part in parts) / 60
        print(f"{len(parts)} parts, about {whole:.1f} minutes on one H100; each may take {_LIMIT:.0f} times as long\n")
        print(_table(["part", "measures", "seconds"], [[part.name, part.about, str(part.seconds)] for part in parts]))
        return 0
    if not visible_gpus():
        print("make gpu: no GPU is here (nvidia-smi lists none), skipped; `make gpu PLAN=1` shows what would run")
        return 0
    if not Path(_TESTS[-1]).is_file():
        sys.exit("the tests are not here: call it in the repository's folder")
    out.mkdir(parents=True, exist_ok=True)
    results = []
    for part in parts:
        print(f"{part.name}: {part.about} (about {part.seconds} s) …", flush=True)
        results.append(_run(part, out))
        print(f"  {results[-1]['state']} in {results[-1]['seconds']:.0f} s; {out / part.name}.log", flush=True)
        _write(results, out)
    print("\n" + (out / "table.md").read_text(encoding="utf-8"))
    return 0 if all(result["state"] == "ok" for result in results) else 1


def _run(part: Part, out: Path) -> dict[str, Any]:
    """Run the commands of a part, one after the other, until one fails."""
    start, state = time.monotonic(), "ok"
    (out / f"{part.name}.json").unlink(missing_ok=True)  # of an earlier call
    environment = {**os.environ, "STPL_RUNS": str(out / "runs"), "PYTHONUNBUFFERED": "1"}
    with (out / f"{part.name}.log").open("w", encoding="utf-8") as log:
        try:
            for command in part.commands:
                rest = _LIMIT * part.seconds - (time.monotonic() - start)
                words = [sys.executable, *command]
                subprocess.run(words, stdout=log, stderr=log, env=environment, check=True, timeout=rest)
        except subprocess.TimeoutExpired:
            state = f"stopped after {_LIMIT * part.seconds:.0f} s"
        except subprocess.CalledProcessError as error:
            state = f"failed ({error.returncode})"
    return {"part": part.name, "state": state, "seconds": time.monotonic() - start}


def _write(results: Sequence[dict[str, Any]], out: Path) -> None:
    """The table so far, as Markdown and JSON."""
    files = {result["part"]: out / f"{result['part']}.json" for result in results}
    figures = {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items() if file.is_file()}
    write_atomically(out / "summary.json", json.dumps({"parts": list(results), "figures": figures}, indent=1) + "\n")
    states = _table(["part", "state", "seconds"], [[r["part"], r["state"], f"{r['seconds']:.0f}"] for r in results])
    rows = [row for name, found in figures.items() for row in _rows(name, found)]
    write_atomically(out / "table.md", f"{states}\n\n{_table(['measured', 'value'], rows)}\n")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows))


def _rows(name: str, found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What is worth a line of the table."""
    if name == "step" or name.startswith("contrast"):
        yield "card", found["device"]
        for form, seconds in found["seconds"].items():
            of = "step" if name == "step" else f"N={found['n']}"
            memory = f", {found['peak_mb'][form]:.0f} MB" if form in found["peak_mb"] else ""
            yield f"{of}, {form}", f"{1000 * seconds:.2f} ms, {seconds / found['seconds']['stpl']:.2f}×{memory}"
    if name == "step":
        yield "steps a second", f"{found['steps_per_second']:.1f}"
        yield "share of a bfloat16 product's rate", f"{found['share_of_rate']:.0%}"
        yield "largest parts", ", ".join(f"{part} {share:.0%}" for part, share in found["parts"].items())
    elif name.startswith("contrast"):
        yield f"N={found['n']}, gradients against float64", f"{found['gradient_error']:.1e}"
    elif name == "evaluation":
        yield f"evaluation of {found['frames']} clips", f"{found['seconds']:.1f} s"
    elif name == "loader":
        for on, paces in found["clips_per_second"].items():
            by_count = ", ".join(f"{count}: {pace:.0f}" for count, pace in paces.items())
            yield f"clips/s by loader processes, second view on {on}", by_count
        yield "second view on the device", f"{1000 * found['seconds_second_view']:.2f} ms"


if __name__ == "__main__":
    sys.exit(auto_cli(gpu, as_positional=False))
