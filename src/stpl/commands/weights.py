"""The verbs of `stpl weights`: checkpoints of any program, and those of runs."""

from pathlib import Path
from typing import Literal

from stpl.option_types import Count

Layout = Literal["auto", "torchvision", "caffe", "advent", "adaptsegnet", "accel"]


def weights_inspect(checkpoint: Path, *, layout: Layout = "auto", key: str | None = None) -> None:
    """Say what a checkpoint is: layout, network, classes, normalisation, and what is missing or unknown in it.

    Args:
        checkpoint: the file, foreign or one of ours.
        layout: its layout, where the keys leave a choice.
        key: which state_dict, where the file holds several: such as model, or ema.model for one inside another; the one
            called state_dict if not given, or else the only one.
    """
    from stpl.nn.convert import describe

    for name, value in describe(checkpoint, layout, key).items():
        print(f"{name:<15}{value}")


def weights_convert(
    checkpoint: Path,
    *,
    out: Path,
    layout: Layout = "auto",
    label_space: str = "viper15",
    backbone_only: bool = False,
    key: str | None = None,
) -> None:
    """Make a foreign checkpoint one of ours, for `--model.checkpoint`; it carries the description of its network.

    Args:
        checkpoint: the foreign file.
        out: the checkpoint to write; it must not exist.
        layout: the file's layout, where its keys leave a choice.
        label_space: the classes that it predicts, in their order.
        backbone_only: leave its classifiers out, for example because they are for other classes.
        key: which state_dict, where the file holds several.
    """
    from stpl.nn.convert import convert, understand

    holds, settings = convert(
        understand(checkpoint, layout, key), checkpoint, out, label_space, backbone_only=backbone_only
    )
    print(f"wrote {out}: {'the whole network' if holds == 'network' else 'only the backbone'}, for")
    print("  " + " ".join(f"--network.{name}={value}".replace(" ", "") for name, value in settings.items()))


def weights_statistics(*, bench: str = "streets", runs: Path = Path("runs")) -> None:
    """Evaluate the last weights of recorded runs with renewed statistics, where the run did not do so itself.

    Writes `statistics.npz` into each run's folder that has none: the counts of every clip with the statistics that came
    about in training ("running"), and with those renewed for the last weights from original frames alone ("original")
    and from original and augmented ones ("all"). It takes seconds a run. Runs that train on the source domain, and runs
    without a checkpoint, are left out. The tables of `stpl report` compare methods by these.

    Args:
        bench: benchmark whose runs to evaluate.
        runs: folder of all runs.
    """
    from stpl.runs.weights_statistics import evaluate_weights

    evaluate_weights(bench, runs)


def weights_ship(*, runs: Path = Path("runs"), seeds: Count = 5) -> None:
    """Make the shipped source models of `streets` from recorded runs.

    Weights are kept in half precision, statistics in single. What such a model reaches on the studio's evaluation
    drives is measured and kept in its file.

    Args:
        runs: folder of all runs; `source` of the seeds 0 to `seeds` - 1 must be recorded there.
        seeds: how many.
    """
    from stpl.runs.ship import ship

    ship(runs, seeds)
