"""The verbs of `stpl`: functions whose signatures and docstrings are the options and their help, a light file a group.

What a verb needs is imported inside its function, so that help, completion and mistakes in options need no torch.
Each raises `StplError` for what a user can mend. `stpl data check` is `data_check` in `data.py`.

Begin with `VERBS`, and `stpl.arguments`, which reads the signatures.
"""

from collections.abc import Callable
from importlib import import_module

VERBS = {
    "fit": "run one experiment and record it",
    "test": "evaluate a checkpoint on a benchmark",
    "adapt": "adapt a network to unlabelled video",
    "predict": "label the frames of a video, or of a benchmark",
    "export": "write a network as ONNX or TorchScript",
    "video": "show predictions side by side in a video",
    "sweep": "run sweep files, one process a trial",
    "sweep check": "check a sweep file, and list what it would run",
    "sweep tune": "search the settings of many rows, each in the same way",
    "sweep status": "show what runs where, what failed and why",
    "sweep serve": "share a sweep's database through one port",
    "report": "write tables, figures and a page of the runs",
    "dashboard wandb": "save a W&B workspace for the runs",
    "dashboard optuna": "show sweeps in Optuna's dashboard",
    "data fake": "write a tiny data set in its true layout",
    "data check": "look for what is missing or wrong in a data set",
    "data flow": "estimate optical flow to files",
    "data list": "write a list of frames to train or evaluate on",
    "data cache": "keep frames and flow at training size",
    "weights inspect": "describe a checkpoint of any program",
    "weights convert": "make a checkpoint of another program one of ours",
    "weights statistics": "evaluate the weights of runs with renewed statistics",
    "weights ship": "make the source models that the package ships",
    "completion": "print a script that completes all this in bash or zsh",
}
"""Verb → what it does, in the order of help; one of two words belongs to a group."""


def function(verb: str) -> Callable[..., object]:
    """The function of a verb, which is one of `VERBS`."""
    module = import_module(f"{__name__}.{verb.partition(' ')[0]}")
    found: Callable[..., object] = getattr(module, verb.replace(" ", "_"))
    return found
