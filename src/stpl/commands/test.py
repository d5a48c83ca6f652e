"""`stpl test`: evaluate a network on a benchmark, with LightningCLI's settings."""

from typing import Annotated

from stpl.apply.origin import NetworkOrigin
from stpl.arguments import Short


def test(
    *settings: str,
    bench: str,
    network: Annotated[NetworkOrigin, Short("network", "builder", "classes", "size")],
) -> None:
    """Evaluate a network on a benchmark.

    Prints the IoU of each class on the labelled split, in percent, and records nothing. Other words are settings of
    `stpl fit`, such as `--data.domain=source` (the labelled source of streets). The network is built as its checkpoint
    describes it.

    Args:
        settings: of the benchmark's run.
        bench: benchmark (`stpl fit --help` lists them).
        network: the network to evaluate, on frames of the benchmark's size.
    """
    from stpl.apply.loaded import as_checkpoint
    from stpl.runs.fit import evaluate

    with as_checkpoint(network) as named:
        evaluate([f"--bench={bench}", *settings, *named])
