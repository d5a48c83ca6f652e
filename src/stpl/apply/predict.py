"""`stpl predict`: label images of footage, or of a benchmark's frames as the official Cityscapes evaluator reads them.

What is done with footage stands in `stpl.apply.labelling`, with a benchmark in `stpl.apply.benchmark_labels`.
"""

from __future__ import annotations

from collections.abc import Sequence

from stpl.apply import option_values as values
from stpl.apply.labelling import label_video
from stpl.apply.out_folder import check_out
from stpl.arguments import call
from stpl.errors import ConfigError
from stpl.runs.request import Request


def predict(args: Sequence[str]) -> None:
    """`stpl predict`: write the predictions of a network, on footage if there is `--video`, else on a benchmark.

    Args:
        args: the command line after `stpl predict`.

    Raises:
        StplError: for a mistake in configuration, data or checkpoint, or a full disk; DIR does not appear then.
    """
    if any(word.split("=")[0] == "--video" for word in args):
        call(label_video, args, prog="stpl predict", usage="--video=FILE --network=FILE --out=DIR")
        return
    request = Request.parse(args)
    for name in ("network", "out"):
        if name not in request.overrides:
            mend = "give it; with --video=FILE footage is labelled, see `stpl predict --help`"
            raise ConfigError("is missing", where=f"--{name}", mend=mend)
    out = values.path(request.overrides.pop("out"), "--out", "a folder to write into")
    colors = _switch(request.overrides.pop("colors", "false"))
    check_out(out)

    from stpl.apply.benchmark_labels import label_benchmark

    label_benchmark(request, out, colors)


def _switch(value: str) -> bool:
    if value.lower() not in ("true", "false"):
        raise ConfigError(f"'{value}' is neither true nor false", where="--colors", mend="write --colors=true")
    return value.lower() == "true"
