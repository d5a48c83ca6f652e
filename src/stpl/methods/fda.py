"""FDA: Fourier domain adaptation (Yang and Soatto, CVPR 2020), on both frames of a clip."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from stpl.data.clip import Batch
from stpl.errors import check_range
from stpl.losses.entropy import robust_entropy
from stpl.methods.base import Method
from stpl.methods.optimization import OptimizerOptions
from stpl.methods.with_source import AUXILIARY_WEIGHT, LABELLED, supervision, transferred
from stpl.nn.batchnorm import BatchNormOptions
from stpl.nn.fourier import Window
from stpl.nn.network import NetworkOptions


class FourierDomainAdaptation(Method):
    """Supervision on source clips in the style of target clips, and robust entropy on the target (Eq. 6).

    Both frames of a source clip take the low frequencies' amplitudes of one target frame, the current one of the
    target clip beside it: a transform of images must be the same for both frames. One network with one β; the
    committee of three and its pseudo-labels (Eq. 7, 8) are not part of it.

    Args:
        network: see `Method`.
        optimizer: see `Method`.
        checkpoint: see `Method`; a converted backbone will do.
        batchnorm: see `Method`.
        beta: β, the window's half width relative to the image, in [0, 0.15] in the paper (0.01).
        window: shape of the window.
        entropy_weight: λ_ent of the entropy (0.005).
        eta: η of the entropy's penalty (2).
    """

    source_wants = LABELLED
    trains_classifiers = True
    recordable = True

    def __init__(
        self,
        network: NetworkOptions,
        optimizer: OptimizerOptions,
        checkpoint: Path | None = None,
        batchnorm: BatchNormOptions | None = None,
        beta: float = 0.01,
        window: Window = "paper",
        entropy_weight: float = 0.005,
        eta: float = 2.0,
    ) -> None:
        check_range("model.beta", beta, 0, 0.5)
        check_range("model.entropy_weight", entropy_weight)
        check_range("model.eta", eta)
        super().__init__(network, optimizer, checkpoint, batchnorm)
        self.beta, self.window, self.entropy_weight, self.eta = beta, window, entropy_weight, eta

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy on transferred source clips, entropy of the fused predictions on the target."""
        assert batch.source is not None  # wanted
        found = supervision(self.network, transferred(batch.source, batch.target, self.beta, self.window))
        for weight, logits in zip((1.0, AUXILIARY_WEIGHT), self.network.fused_scores(batch.target), strict=False):
            name = "entropy" if weight == 1.0 else "auxiliary entropy"
            found[name] = self.entropy_weight * weight * robust_entropy(logits, self.eta)
        return found
