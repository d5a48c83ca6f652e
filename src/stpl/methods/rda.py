"""RDA: robust domain adaptation via Fourier adversarial attacking (Huang et al., ICCV 2021)."""

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from stpl.data.clip import Batch, Clip, Wants
from stpl.losses.adversarial import domain_loss, reversed_gradient
from stpl.methods.adaptsegnet import AdvEnt
from stpl.nn.mixing import rescaled
from stpl.nn.segmenter import grid_of, on_grid
from stpl.nn.style import Spectrum, band_means, ring_bands
from stpl.training.base import check_choice, check_settings
from stpl.training.supervision import supervision

Attack = Literal["gated", "none"]
"""`gated`: a gate that learns picks components of the spectrum (paper). `none`: what the released code amounts to, in
which the reference is the attacked image itself, so that only the change of size is left."""

BANDS = 32
_CHANNELS = 3
_STRUCTURE = slice(6 // _CHANNELS, 48 // _CHANNELS)  # rings of the components 6 to 47, that carry structure
_NOISE, _SCALE = range(2)  # purposes of the numbers that are drawn


class RDA(AdvEnt):
    """Supervision and adversaries as in ADVENT, and predictions that withstand an attack in the frequency domain.

    An attacker exchanges a tenth of the components of a target clip's spectrum (32 rings of 3 channels) for those of
    another clip, so that the prediction changes while the structure's bands do not; the network is to predict the same
    nevertheless, and at another size.

    Args:
        attack: what the attacker does.
        weight: of the difference of predictions, for each classifier (1).
        portion: share of the components that is exchanged (0.1: 9 of 96).
        structure_weight: λ_FAA of the change in the structure's bands (0.0002).
        attacker_lr: learning rate of the gate. `None`: the network's, by which the released code overwrites its 1e-6.
        smallest_scale: of the attacked clips, relative to their size (0.8).
        largest_scale: likewise (1.2); sides are rounded to multiples of 8.
    """

    recordable = False  # the size of the attacked clips is drawn

    def __init__(
        self,
        *,
        attack: Attack = "gated",
        weight: float = 1.0,
        portion: float = 0.1,
        structure_weight: float = 0.0002,
        attacker_lr: float | None = None,
        smallest_scale: float = 0.8,
        largest_scale: float = 1.2,
        **shared: Any,
    ) -> None:
        check_choice(Attack, attack=attack)
        check_settings(weight=weight, structure_weight=structure_weight, attacker_lr=attacker_lr or 0)
        check_settings(0, 1, portion=portion)
        check_settings(0.1, 4, smallest_scale=smallest_scale)
        check_settings(smallest_scale, 4, largest_scale=largest_scale)
        super().__init__(**shared)
        self.weight, self.structure_weight = weight, structure_weight
        self.attacker_lr = self.optimizer_options.lr if attacker_lr is None else attacker_lr
        self.scales = (smallest_scale, largest_scale)
        self.attacker = Attacker(portion) if attack == "gated" else None
        self.before_wants = Wants() if attack == "gated" else None

    def parameter_groups(self) -> list[dict[str, Any]]:
        """As every method's, but the attacker has its own rate."""
        own = {"name": "attacker", "lr": self.attacker_lr}
        return [group | own if group["name"] == "new" else group for group in super().parameter_groups()]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Supervision, adversaries on the clean and the attacked clip, and the difference of their predictions."""
        source, target = batch.source, batch.target
        assert source is not None  # wanted
        theirs = self.network.fused_scores(source)
        found = supervision(self.network, source, fused=theirs)
        ours = self.network.fused_scores(target)
        clips, structure = self._attacked(batch)
        found |= structure
        attacked = self.network.fused_scores(clips)
        for of, there, clean, changed in zip(self.discriminators, theirs, ours, attacked, strict=True):
            found |= self.adversarial(of, self.maps(there, source), self.maps(clean, target))
            loss = domain_loss(self.judge(of).frozen(self.maps(changed, target)), "source", self.kind)
            found[f"adversarial attacked {of}"] = self.adversarial_weights[of] * loss
            found[f"robustness {of}"] = self.weight * _difference(changed, clean)
        return found

    def _attacked(self, batch: Batch) -> tuple[Clip, dict[str, Tensor]]:
        """The target's clips after the attack, at another size, and the loss of the changed structure."""
        target, frames, found = batch.target, batch.target.frames.float(), {}
        if self.attacker is not None:
            assert batch.before is not None  # wanted
            noise = [self.generator(place, _NOISE).gumbel(size=(BANDS * _CHANNELS, 2)) for place in range(len(frames))]
            drawn = torch.from_numpy(np.stack(noise).astype(np.float32))
            frames, changed = self.attacker(target.frames, batch.before.frame(), self.to_device(drawn))
            found["structure"] = -self.structure_weight * changed
        scale = self.generator(None, _SCALE).uniform(*self.scales)
        return rescaled(Clip(frames, target.flows, key=target.key), scale), found


def _difference(attacked: Tensor, clean: Tensor) -> Tensor:
    """Mean |p' - p| over pixels and classes, on the grid of the clean logits, which take no gradient."""
    return (on_grid(attacked, grid_of(clean)).float().softmax(1) - clean.detach().float().softmax(1)).abs().mean()


class Attacker(nn.Module):
    """A gate over the components of a spectrum: which of them an image takes from a reference.

    It looks at the mean amplitude of each component, in logarithms and standardised over the components: the amplitudes
    themselves, of up to some thousands, give scores of about 100, beside which the noise counts nothing and no gradient
    is left. Its gradients are reversed, so that it makes worse what the network makes better. The choice is hard, and
    gradients pass as if it were the probability.

    Args:
        portion: share of the components that is exchanged.
    """

    def __init__(self, portion: float) -> None:
        super().__init__()
        components = BANDS * _CHANNELS
        self.count = int(components * portion)
        self.mix = nn.Linear(components, components)
        self.score = nn.Conv1d(components, 2 * components, 1, groups=components)

    def forward(self, frames: Tensor, reference: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Attack frames uint8 `[B,T,3,H,W]` by a reference `[B,3,H,W]` and noise of Gumbel's distribution `[B,96,2]`.

        Returns:
            The frames, float32, all of a clip with the same components exchanged, and how much the structure's
            components of the last one changed: mean over their maps.
        """
        size = grid_of(frames)
        bands = ring_bands(size, BANDS, frames.device)
        spectra = [Spectrum.of(frame) for frame in frames.unbind(1)]
        other = Spectrum.of(reference).amplitude
        means = band_means(spectra[-1].amplitude, bands, BANDS, size[1]).to(self.mix.weight.dtype)
        gates = reversed_gradient(self.gates(means, noise)).float()
        spread = gates[:, :, bands]
        amplitudes = [spectrum.amplitude + spread * (other - spectrum.amplitude) for spectrum in spectra]
        changed = band_means((amplitudes[-1] - spectra[-1].amplitude).abs(), bands, BANDS, size[1])
        images = [spectrum.image(amplitude) for spectrum, amplitude in zip(spectra, amplitudes, strict=True)]
        return torch.stack(images, 1), changed[:, :, _STRUCTURE].mean()

    def gates(self, means: Tensor, noise: Tensor) -> Tensor:
        """0 or 1 for each component, `[B,3,32]`, from the means `[B,3,32]`; `count` of a clip are 1."""
        # Component n·3 + c is channel c of ring n.
        seen = layer_norm(means.mT.flatten(1).log1p(), (BANDS * _CHANNELS,))
        scores = self.score(self.mix(seen).relu()[..., None])[..., 0]
        likely = (scores.unflatten(1, (-1, 2)) + noise).softmax(2)[..., 1]
        hard = torch.zeros_like(likely).scatter(1, likely.topk(self.count, dim=1).indices, 1.0)
        chosen: Tensor = hard + likely - likely.detach()
        return chosen.view(-1, BANDS, _CHANNELS).mT
