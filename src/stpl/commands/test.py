"""`stpl test`: evaluate a checkpoint on a benchmark, with LightningCLI's settings."""

from __future__ import annotations

from stpl.arguments import HELP

_HELP = """\
usage: stpl test --bench=B --network=FILE [--builder=NAME] [--key=value …]

Evaluates a checkpoint on the labelled split of a benchmark, and prints the IoU
of each class in percent; records nothing. The network is built as the
checkpoint describes it.

  --bench=B             benchmark (stpl fit --help lists them)
  --network=FILE        a checkpoint of stpl fit or stpl adapt; streets or
                        streets:3 is one that the package ships
  --builder=NAME        package.module:callable that builds the network, where
                        the checkpoint is of one of your own
  --data.domain=source  evaluate on the labelled source of streets
  --key=value           any setting of stpl fit"""


def test(*settings: str) -> None:
    """Evaluate a checkpoint on a benchmark.

    Args:
        settings: `--bench`, `--network` and LightningCLI's settings, as they stand.
    """
    if not settings or HELP & set(settings):
        print(_HELP)
        return
    from stpl.runs.fit import evaluate

    evaluate(settings)
