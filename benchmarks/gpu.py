"""`python -m benchmarks.gpu` (`make gpu`): all that only a GPU can tell, most valuable first, in one call of minutes.

Every part is a process of its own with a limit of its own: one that fails or hangs takes nothing from the others. What
they print and find goes to one folder, and into one table. Imports no torch: without a GPU it says so and ends well.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import table
from stpl.files import write_atomically
from stpl.machine import visible_gpus

_LIMIT = 3.0  # a part may take so many times its estimate
_STPL = ("-m", "stpl")
_RUNS = ("--bench=streets", "--seeds=1")


@dataclass(frozen=True)
class Part:
    """One thing to find out.

    Attributes:
        name: of its files.
        about: what it tells.
        seconds: about so long it takes on one H100.
        commands: arguments of Python, run one after the other.
    """

    name: str
    about: str
    seconds: int
    commands: tuple[tuple[str, ...], ...]


def plan(out: Path) -> list[Part]:
    """All parts, most valuable first; their figures go to `<out>/<name>.json`."""
    tests = ("-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", "tests/test_gpu.py")

    def bench(name: str, about: str, seconds: int, *arguments: str) -> Part:
        """A part that is one of the benchmarks."""
        module, *options = arguments
        command = ("-m", f"benchmarks.{module}", *options, "--device=cuda", f"--json={out / name}.json")
        return Part(name, about, seconds, (command,))

    return [
        Part("tests", "right results: contrast, steps, recording, resumption, evaluation, loaders", 85, (tests,)),
        bench("step", "a step of STPL, ResNet-101 at 512×1024, against the plain form", 40, "step", "--repeats=15"),
        bench("contrast-5869", "the contrast of one clip", 30, "contrast", "--repeats=30"),
        bench("contrast-23476", "of four clips' pixels", 30, "contrast", "--n=23476", "--repeats=15"),
        bench("contrast-93904", "of sixteen clips' pixels", 10, "contrast", "--n=93904", "--repeats=5"),
        bench("evaluation", "an evaluation of 500 clips", 30, "evaluation"),
        bench("loader", "what loader processes deliver", 60, "loader"),
        Part(
            "ablation",
            "`make ablation` of one seed: the source model, then all rows",
            180,
            (
                (*_STPL, "sweep", *_RUNS, "sweeps/source.yaml"),
                (*_STPL, "sweep", *_RUNS, "sweeps/ablation.yaml", "--workers=4"),
                (*_STPL, "report", "--bench=streets", "--page=false"),
            ),
        ),
    ]


def gpu(args: Sequence[str]) -> int:
    """Run the parts, or tell which there are.

    Args:
        args: the command line.

    Returns:
        0 if all parts went well or there is no GPU, 1 if one failed.
    """
    options = _parser().parse_args(args)
    out: Path = options.out
    parts = [part for part in plan(out) if not options.only or part.name in options.only]
    if options.dry_run:
        print(_plan_table(parts))
        return 0
    if not visible_gpus():
        print("make gpu: no GPU is here (nvidia-smi lists none), skipped; `--dry-run` shows what would run")
        return 0
    if not Path("tests/test_gpu.py").is_file():
        _parser().error("the tests are not here: call it in the repository's folder")
    out.mkdir(parents=True, exist_ok=True)
    results = []
    for part in parts:
        print(f"{part.name}: {part.about} (about {part.seconds} s) …", flush=True)
        results.append(_run(part, out))
        print(f"  {results[-1]['state']} in {results[-1]['seconds']:.0f} s; {out / part.name}.log", flush=True)
        _write(results, out)
    print("\n" + (out / "table.md").read_text(encoding="utf-8"))
    return 0 if all(result["state"] == "ok" for result in results) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path("build/gpu"), help="folder of the figures and logs")
    names = [part.name for part in plan(Path())]
    parser.add_argument("--only", nargs="+", metavar="PART", default=[], choices=names, help=f"of: {', '.join(names)}")
    parser.add_argument("--dry-run", action="store_true", help="print the plan with estimated times and end")
    return parser


def _plan_table(parts: Sequence[Part]) -> str:
    rows = [[part.name, part.about, str(part.seconds)] for part in parts]
    whole = sum(part.seconds for part in parts)
    title = f"{len(parts)} parts, about {whole / 60:.1f} minutes on one H100; each may take {_LIMIT:.0f} times as long"
    return table(title, ["part", "tells", "seconds"], rows)


def _run(part: Part, out: Path) -> dict[str, Any]:
    """Run the commands of a part, one after the other, until one fails."""
    log, start = out / f"{part.name}.log", time.monotonic()
    (out / f"{part.name}.json").unlink(missing_ok=True)  # of an earlier call
    environment = {**os.environ, "STPL_RUNS": str(out / "runs"), "PYTHONUNBUFFERED": "1"}
    state = "ok"
    with log.open("w", encoding="utf-8") as file:
        for command in part.commands:
            rest = _LIMIT * part.seconds - (time.monotonic() - start)
            try:
                subprocess.run(
                    [sys.executable, *command], stdout=file, stderr=file, env=environment, check=True, timeout=rest
                )
            except subprocess.TimeoutExpired:
                state = f"stopped after {_LIMIT * part.seconds:.0f} s"
            except subprocess.CalledProcessError as error:
                state = f"failed ({error.returncode})"
            if state != "ok":
                break
    return {"part": part.name, "state": state, "seconds": time.monotonic() - start}


def _write(results: Sequence[dict[str, Any]], out: Path) -> None:
    """The table so far, as Markdown and JSON."""
    figures = {result["part"]: _figures(out / f"{result['part']}.json") for result in results}
    write_atomically(out / "summary.json", json.dumps({"parts": list(results), "figures": figures}, indent=1) + "\n")
    lines = ["| part | state | seconds |", "|---|---|---|"]
    lines += [f"| {r['part']} | {r['state']} | {r['seconds']:.0f} |" for r in results]
    rows = [row for name, found in figures.items() for row in _rows(name, found)]
    lines += ["", "| measured | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
    write_atomically(out / "table.md", "\n".join(lines) + "\n")


def _figures(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _rows(name: str, found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What is worth a line of the table."""
    if name == "step" and found:
        seconds, memory = found["seconds"], found["peak_mb"]
        yield "card", found["device"]
        for form, taken in seconds.items():
            relative = taken / seconds["stpl"]
            yield f"step, {form}", f"{1000 * taken:.1f} ms, {relative:.2f}×, {memory[form] / 1000:.1f} GB"
        yield "steps a second", f"{found['steps_per_second']:.1f}"
        yield "share of a bfloat16 product's rate", f"{found['share_of_rate']:.0%}"
        yield "largest parts", ", ".join(f"{part} {share:.0%}" for part, share in found["parts"].items())
    elif name.startswith("contrast") and found:
        seconds, memory = found["seconds"], found["peak_mb"]
        for form, taken in seconds.items():
            extra = f", {memory[form]:.0f} MB" if form in memory else ""
            yield f"N={found['n']}, {form}", f"{1000 * taken:.2f} ms, {taken / seconds['stpl']:.2f}×{extra}"
        yield f"N={found['n']}, gradients against float64", f"{found['gradient_error']:.1e}"
    elif name == "evaluation" and found:
        yield f"evaluation of {found['frames']} clips", f"{found['seconds']:.1f} s"
    elif name == "loader" and found:
        for on, paces in found["clips_per_second"].items():
            told = ", ".join(f"{count}: {pace:.0f}" for count, pace in paces.items())
            yield f"clips/s by loader processes, second view on {on}", told
        yield "second view on the device", f"{1000 * found['seconds_second_view']:.2f} ms"


if __name__ == "__main__":
    sys.exit(gpu(sys.argv[1:]))
