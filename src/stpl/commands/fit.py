"""`stpl fit`: LightningCLI's settings, composed of overlays; its help needs neither."""

import textwrap
from collections.abc import Iterable

from stpl.arguments import HELP
from stpl.runs.experiments import benches, experiment_folders, load_catalogue
from stpl.runs.request import Request

_HELP = """\
usage: stpl fit --bench=B --experiment=E [--seed_everything=N] [-c FILE …]
                [--key=value …]

Runs an experiment and records it in runs/B/E/seedN. It is composed of overlays,
then your -c files in their order, then your settings; -c files and settings
become part of the experiment's name. Your own overlays and tables.yaml are
looked for in experiments/, or in --experiments=DIR; the shipped ones stand
beside them. A run that is called again goes on from its last checkpoint; a run
that is recorded is left as it is.

benchmarks:
{benches}

experiments:
{experiments}

settings (all of them: stpl fit --help-all):
  --model.confident_proportion=0.7  share k of the pixels that take part
  --model.temperature=0.07          temperature τ of Eq. 3
  --model.denominator=negatives     or supcon, positive+negatives
  --model.head=mlp                  projection head; or linear, none
  --batchnorm.policy=statistics     or frozen, train
  --batchnorm.views=all             frames that renew statistics; or original
  --batchnorm.evaluation=running    statistics of evaluation; or renewed
  --optimizer.lr=2.5e-6             learning rate
  --trainer.max_steps=20000         training steps
  --trainer.val_check_interval=1000 steps between two evaluations
  --trainer.precision=32-true       chosen from the hardware if not given
  --data.loading.batch_size=1       clips a step
  --data.loading.num_workers=2      processes that read clips
  --run.wandb=offline               also log to W&B"""


def fit(*settings: str) -> None:
    """Run one experiment and record it.

    Args:
        settings: `--bench`, `--experiment`, `-c` files and LightningCLI's settings, as they stand.
    """
    if not settings or HELP & set(settings) == {"--help"} or "-h" in settings:
        print(_help(settings))
    elif "--help-all" in settings:
        from stpl.runs.build import print_settings

        print_settings()
    else:
        from stpl.runs.fit import fit as run

        run(settings)


def _help(settings: Iterable[str]) -> str:
    folders = experiment_folders(Request.parse([word for word in settings if "=" in word]).folder)
    names = {"experiments": load_catalogue(folders).experiments, "benches": benches(folders)}
    listed = {name: textwrap.indent(textwrap.fill(", ".join(known), 77), "  ") for name, known in names.items()}
    return _HELP.format(**listed)
