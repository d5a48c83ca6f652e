"""`stpl weights statistics`: what weights of runs are worth with statistics that all runs share."""

from __future__ import annotations

from pathlib import Path


def weights_statistics(*, bench: str = "streets", runs: Path = Path("runs")) -> None:
    """Evaluate the last weights of recorded runs with renewed statistics, for the table weights × statistics.

    Writes `statistics.json` into each run's folder that has none: mIoU in percent with the statistics that came about
    in training ("running"), and with those renewed for the last weights from original frames alone ("original") and
    from original and augmented ones ("all"). It takes seconds a run. Runs that train on the source domain, and runs
    without a checkpoint, are left out. `stpl report --only=statistics` prints the table.

    Args:
        bench: benchmark whose runs to evaluate.
        runs: folder of all runs.
    """
    from stpl.runs.weights_statistics import evaluate_weights

    evaluate_weights(bench, runs)
