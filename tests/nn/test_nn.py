from __future__ import annotations

import pytest
import torch
from torch import nn

from stpl.data.clip import BACKWARD, Clip
from stpl.errors import ConfigError
from stpl.nn.accel import Accel
from stpl.nn.batchnorm import BatchNormOptions, BatchNormPolicy, apply_batchnorm, forget_batches
from stpl.nn.deeplab import DeepLabV2, ResNet
from stpl.nn.fusion import FUSIONS, STAM, Conv1x1, ProjectionHead
from stpl.nn.network import NetworkOptions, build_network
from stpl.nn.pixels import Over, pool, reweigh, take
from stpl.nn.warp import resize_flow, warp


def frames(batch: int, height: int, width: int) -> torch.Tensor:
    return torch.randint(
        0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


@pytest.mark.parametrize(
    ("depth", "dim", "parameters"),
    # Parameter counts of torchvision's networks without their classifier (fc).
    [(18, 512, 11_176_512), (34, 512, 21_284_672), (50, 2048, 23_508_032), (101, 2048, 42_500_160)],
)
def test_resnets_are_the_published_ones(depth: int, dim: int, parameters: int) -> None:
    with torch.device("meta"):
        network = ResNet(depth)
    assert network.feature_dim == dim
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_stride_8_and_the_lineage_s_feature_size() -> None:
    with torch.device("meta"):
        network = ResNet(101)
        _, features = network(torch.zeros(1, 3, 512, 1024))
    assert features.shape == (1, 2048, 65, 129)
    assert Accel(DeepLabV2(18, 4).build(3)).stride == 8


def test_unknown_depth_is_refused() -> None:
    with pytest.raises(ConfigError, match="no ResNet of depth 20"):
        DeepLabV2(20)


def test_the_stride_sits_where_it_is_asked_for() -> None:
    """Of the strided 3×3 convolution, torchvision keeps the dilation of the stage before."""
    caffe, torchvision = ResNet(50, 4), ResNet(50, 4, "second")
    shapes = [{key: value.shape for key, value in network.state_dict().items()} for network in (caffe, torchvision)]
    assert shapes[0] == shapes[1]

    def geometry(network: ResNet, block: str) -> list[tuple[int, int]]:
        convolutions = (network.get_submodule(f"{block}.conv{i}") for i in (1, 2))
        return [(c.stride[0], c.dilation[0]) for c in convolutions if isinstance(c, nn.Conv2d)]

    assert [geometry(caffe, b) for b in ("layer2.0", "layer3.0", "layer4.0", "layer4.1")] == [
        [(2, 1), (1, 1)], [(1, 1), (1, 2)], [(1, 1), (1, 4)], [(1, 1), (1, 4)],
    ]  # fmt: skip
    assert [geometry(torchvision, b) for b in ("layer2.0", "layer3.0", "layer4.0", "layer4.1")] == [
        [(1, 1), (2, 1)], [(1, 1), (1, 1)], [(1, 1), (1, 2)], [(1, 1), (1, 4)],
    ]  # fmt: skip


def test_the_auxiliary_classifier_changes_no_prediction() -> None:
    torch.manual_seed(0)
    plain = Accel(DeepLabV2(18, 8, (1, 2)).build(5)).eval()
    torch.manual_seed(0)
    double = Accel(DeepLabV2(18, 8, (1, 2), auxiliary=True).build(5)).eval()
    clip = Clip(frames(4, 32, 48).view(2, 2, 3, 32, 48), flows={BACKWARD: torch.randn(2, 2, 32, 48)})
    assert torch.equal(plain(clip), double(clip))
    assert [scores.shape for scores in plain.fused_scores(clip)] == [(2, 5, 5, 7)]
    main, auxiliary = double.fused_scores(clip)
    assert torch.equal(main, plain(clip))
    head = double.segmenter.get_submodule("auxiliary")
    layer3 = double.segmenter.backbone(double.segmenter.normalize(clip.frames[:, 1]))[0]  # type: ignore[operator]
    torch.testing.assert_close(auxiliary, head(layer3))  # [I|0]: the previous frame has no say yet


def test_the_auxiliary_classifier_takes_no_gradient_through_the_previous_frame() -> None:
    network = Accel(DeepLabV2(18, 8, (1,), auxiliary=True).build(5))
    clip = Clip(frames(2, 32, 48)[None], flows={BACKWARD: torch.zeros(1, 2, 32, 48)})
    with torch.no_grad():
        identity = torch.eye(5)
        network.score_fusion.weight.copy_(torch.cat([0 * identity, identity], 1)[:, :, None, None])
    sum(scores.sum() for scores in network.fused_scores(clip)).backward()  # type: ignore[union-attr]
    assert all(not p.grad.any() for p in network.segmenter.parameters() if p.grad is not None)


def test_normalizations() -> None:
    image = torch.tensor([10, 20, 30], dtype=torch.uint8).view(1, 3, 1, 1)
    rgb = DeepLabV2(18, 4).build(2).normalize(image).flatten()
    assert rgb.tolist() == pytest.approx([(10 - 123.675) / 58.395, (20 - 116.28) / 57.12, (30 - 103.53) / 57.375])
    bgr = DeepLabV2(18, 4, normalization="caffe").build(2).normalize(image).flatten()
    assert bgr.tolist() == pytest.approx([30 - 104.00698793, 20 - 116.66876762, 10 - 122.67891434])


def test_untrained_accel_is_its_segmenter() -> None:
    torch.manual_seed(0)
    segmenter = DeepLabV2(18, 8, (1, 2)).build(5).eval()
    clip = Clip(frames(4, 32, 48).view(2, 2, 3, 32, 48), flows={BACKWARD: torch.randn(2, 2, 32, 48)})
    fused = Accel(segmenter).eval()(clip)
    assert torch.equal(fused, segmenter(clip.frames[:, -1]).logits)
    assert fused.shape == (2, 5, 5, 7)


def test_accel_predicts_from_one_frame_where_its_fusion_is_the_identity() -> None:
    torch.manual_seed(0)
    network = Accel(DeepLabV2(18, 8, (1, 2)).build(5)).eval()
    passes: list[int] = []
    network.segmenter.register_forward_hook(lambda *_: passes.append(1))
    clip = Clip(frames(4, 32, 48).view(2, 2, 3, 32, 48), flows={BACKWARD: torch.randn(2, 2, 32, 48)})
    with torch.no_grad():
        uses_previous = [network.uses_previous]
        assert torch.equal(network.predict(Clip(clip.frames[:, -1:])), network(clip))
        assert len(passes) == 1 + 2
        network.score_fusion.weight[0, 5] = 1e-3
        uses_previous.append(network.uses_previous)
        assert uses_previous == [False, True]
        assert torch.equal(network.predict(clip), network(clip))
        assert len(passes) == 3 + 4


def test_without_a_fusion_it_predicts_frame_by_frame() -> None:
    """Every way to a prediction is the segmenter's own, from one pass; both frames are there for who compares them."""
    torch.manual_seed(0)
    options = NetworkOptions(DeepLabV2(18, 8, (1, 2), auxiliary=True), fusion="none")
    network = build_network(NetworkOptions.from_dict(options.to_dict())).eval()
    assert not network.score_fusion.weight.requires_grad
    with torch.no_grad():
        network.score_fusion.weight.normal_()  # as in a checkpoint of a network that fuses
    passes: list[int] = []
    network.segmenter.get_submodule("classifier").register_forward_hook(lambda *_: passes.append(1))
    clip = Clip(frames(4, 32, 48).view(2, 2, 3, 32, 48), flows={BACKWARD: torch.randn(2, 2, 32, 48)})
    with torch.no_grad():
        now, before = (network.segmenter.score(clip.frame(offset)) for offset in (0, -1))
        passes.clear()
        assert network(clip).equal(now[0])
        assert network.predict(clip).equal(now[0])
        assert all(map(torch.equal, network.fused_scores(clip), now))
        assert len(passes) == 3
        observed, scores = network.observe(clip), network.frame_scores(clip)
    torch.testing.assert_close(observed.logits, now[0])
    torch.testing.assert_close(observed.previous, before[0])
    assert all(torch.equal(mine, theirs) for pair, of in zip(scores, zip(now, before, strict=True), strict=True)
               for mine, theirs in zip(pair, of, strict=True))  # fmt: skip
    assert all(map(torch.equal, network.fuse_scores(scores, clip), now))
    assert "fusion" not in NetworkOptions().to_dict()


def test_accel_takes_no_gradient_through_the_previous_frame() -> None:
    network = Accel(DeepLabV2(18, 8, (1,)).build(5))
    with torch.no_grad():
        network.score_fusion.weight.fill_(1.0)
    network.segmenter.classifier.register_forward_hook(lambda _, __, out: calls.append(out.requires_grad))  # type: ignore[union-attr]
    calls: list[bool] = []
    network(Clip(frames(2, 32, 48)[None], flows={BACKWARD: torch.zeros(1, 2, 32, 48)}))
    assert sorted(calls) == [False, True]


def test_accel_without_flow_says_so() -> None:
    network = Accel(DeepLabV2(18, 4, (1,)).build(3)).eval()
    with pytest.raises(ValueError, match="Wants"):
        network(Clip(frames(2, 16, 16)[None]))


def loop_warp(features: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """One pixel at a time, bilinear, coordinates clamped to the border."""
    _, height, width = features.shape
    out = torch.zeros_like(features)
    for y in range(height):
        for x in range(width):
            sx = min(max(x + flow[0, y, x].item(), 0), width - 1)
            sy = min(max(y + flow[1, y, x].item(), 0), height - 1)
            x0, y0 = int(sx), int(sy)
            x1, y1 = min(x0 + 1, width - 1), min(y0 + 1, height - 1)
            a, b = sx - x0, sy - y0
            top = features[:, y0, x0] * (1 - a) + features[:, y0, x1] * a
            bottom = features[:, y1, x0] * (1 - a) + features[:, y1, x1] * a
            out[:, y, x] = top * (1 - b) + bottom * b
    return out


def test_warp_equals_a_loop_over_pixels() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 3, 6, 9, generator=generator, dtype=torch.float64)
    flow = 3 * torch.randn(2, 2, 6, 9, generator=generator, dtype=torch.float64)
    expected = torch.stack([loop_warp(f, o) for f, o in zip(features, flow, strict=True)])
    torch.testing.assert_close(warp(features, flow), expected)


def test_warp_has_exact_gradients() -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 3, 4, 5, dtype=torch.double, requires_grad=True)
    flow = torch.randn(2, 2, 4, 5, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(warp, (features, flow))


def test_warp_direction() -> None:
    """What lies at (x+dx, y+dy) in the earlier frame comes to (x, y)."""
    features = torch.arange(12.0).view(1, 1, 3, 4)
    right = torch.zeros(1, 2, 3, 4)
    right[:, 0] = 1
    assert warp(features, right)[0, 0, 0].tolist() == [1, 2, 3, 3]
    down = torch.zeros(1, 2, 3, 4)
    down[:, 1] = 1
    assert warp(features, down)[0, 0, :, 0].tolist() == [4, 8, 8]


def test_warp_keeps_the_dtype_and_checks_the_grid() -> None:
    features = torch.randn(1, 2, 4, 4).bfloat16()
    assert warp(features, torch.zeros(1, 2, 4, 4)).equal(features)
    with pytest.raises(ValueError, match="differ in grid"):
        warp(features, torch.zeros(1, 2, 5, 4))


def test_resize_flow_scales_each_component_by_its_axis() -> None:
    flow = torch.stack([torch.full((9, 17), 8.0), torch.full((9, 17), 4.0)])[None]
    small = resize_flow(flow, (5, 5))
    torch.testing.assert_close(small[0, 0], torch.full((5, 5), 8 * 4 / 16))
    torch.testing.assert_close(small[0, 1], torch.full((5, 5), 4 * 4 / 8))
    assert resize_flow(flow, (9, 17)) is flow


def test_warping_at_feature_size_agrees_with_warping_in_pixels() -> None:
    """A shift by one stride is a shift by one feature."""
    features = torch.randn(1, 2, 5, 9, generator=torch.Generator().manual_seed(0))
    flow = torch.zeros(1, 2, 33, 65)
    flow[:, 0] = 8
    assert torch.allclose(warp(features, resize_flow(flow, (5, 9)))[..., :-1], features[..., 1:], atol=1e-5)


@pytest.mark.parametrize("name", FUSIONS)
def test_fusions_keep_their_promise(name: str) -> None:
    fusion = FUSIONS[name](8)
    previous, current = torch.randn(2, 2, 8, 5, 6)
    fused = fusion(previous, current)
    assert fused.shape == (2, fusion.out_dim, 5, 6)


def test_a_fresh_convolution_is_the_mean() -> None:
    previous, current = torch.randn(2, 2, 8, 5, 6)
    torch.testing.assert_close(Conv1x1(8)(previous, current), (previous + current) / 2)


def test_stam_gates_follow_cbam() -> None:
    torch.manual_seed(0)
    stam = STAM(32).eval()
    assert sum(p.numel() for p in stam.parameters()) == 680  # CBAM at 64 channels
    previous, current = torch.rand(2, 1, 32, 5, 6)
    stack = torch.cat([previous, current], 1)
    fused = stam(previous, current)
    gate = fused / stack
    assert ((gate > 0) & (gate < 1)).all()
    temporal = (stam.temporal(stack.mean((2, 3))) + stam.temporal(stack.amax((2, 3)))).sigmoid()
    weighted = stack * temporal[:, :, None, None]
    spatial = stam.spatial(torch.cat([weighted.amax(1, keepdim=True), weighted.mean(1, keepdim=True)], 1)).sigmoid()
    torch.testing.assert_close(fused, weighted * spatial)


def test_the_gates_have_the_gradients_of_plain_operations() -> None:
    """Of features without equal values; where some are equal, any of them may take the gradient of the maximum."""
    torch.manual_seed(0)
    stam = STAM(8).double()
    frames = [torch.randn(2, 8, 5, 6, dtype=torch.double, requires_grad=True) for _ in range(2)]
    weights = torch.randn(2, 16, 5, 6, dtype=torch.double)
    stack = torch.cat(frames, 1)
    temporal = (stam.temporal(stack.mean((2, 3))) + stam.temporal(stack.amax((2, 3)))).sigmoid()
    weighted = stack * temporal[:, :, None, None]
    spatial = stam.spatial(torch.stack([weighted.amax(1), weighted.mean(1)], 1)).sigmoid()
    leaves = [*frames, *stam.parameters()]
    expected = torch.autograd.grad(weighted * spatial, leaves, weights)
    found = torch.autograd.grad(stam(*frames), leaves, weights)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("over", ["pixels", "channels"])
def test_pooling_and_weighing_have_exact_gradients(over: Over) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 5, dtype=torch.double, requires_grad=True)
    weights = torch.randn((2, 5) if over == "pixels" else (2, 3, 4), dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: pool(x, over), (x,))
    assert torch.autograd.gradcheck(reweigh, (x, weights))


def test_a_mean_in_half_precision_does_not_overflow() -> None:
    _, mean, peak = pool(torch.full((1, 65, 129, 3), 20.0, dtype=torch.float16), "pixels")
    assert mean.tolist() == peak.tolist() == [[20.0] * 3]  # the sum of 8,385 pixels is beyond float16


def test_taken_pixels_and_their_gradient() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 5, dtype=torch.double, requires_grad=True)
    places = torch.stack([torch.randperm(12)[:7] for _ in range(2)])
    assert take(x, places).equal(torch.stack([x[i].flatten(0, 1)[places[i]] for i in range(2)]))
    assert torch.autograd.gradcheck(lambda x: take(x, places), (x,))


def test_projections_are_unit_vectors_in_float32() -> None:
    head = ProjectionHead(6, 4)
    with torch.autocast("cpu", torch.bfloat16):
        out = head(torch.randn(2, 9, 6))
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.norm(dim=-1), torch.ones(2, 9))


@pytest.mark.parametrize(
    ("policy", "statistics_move", "affine_trains"),
    [("frozen", False, False), ("statistics", True, False), ("train", True, True)],
)
def test_batchnorm_policies(policy: BatchNormPolicy, statistics_move: bool, affine_trains: bool) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train()
    apply_batchnorm(network, BatchNormOptions(policy))
    layer = network[1]
    assert isinstance(layer, nn.BatchNorm2d)
    assert layer.running_mean is not None
    before = layer.running_mean.clone()
    network(torch.randn(2, 3, 4, 4) + 5)
    assert (not torch.equal(before, layer.running_mean)) == statistics_move
    assert layer.weight.requires_grad == affine_trains
    assert next(network[0].parameters()).requires_grad


def test_without_momentum_statistics_are_the_mean_of_all_batches() -> None:
    """Also when training goes on from a checkpoint, and evaluations count for nothing."""
    layer, generator = nn.BatchNorm2d(3), torch.Generator().manual_seed(0)
    torch.nn.init.constant_(layer.get_buffer("running_mean"), 9.0)
    batches = torch.randn(5, 4, 3, 2, 2, generator=generator)
    forget_batches(layer)
    for batch in batches[:3]:
        layer.train()
        apply_batchnorm(layer, BatchNormOptions(momentum=None))
        layer(batch)
        layer.eval()
        layer(batch + 100)
    resumed = nn.BatchNorm2d(3)
    resumed.load_state_dict(layer.state_dict())
    apply_batchnorm(resumed, BatchNormOptions(momentum=None))
    for batch in batches[3:]:
        resumed(batch)
    torch.testing.assert_close(resumed.running_mean, batches.mean((0, 1, 3, 4)))
    torch.testing.assert_close(resumed.running_var, batches.transpose(1, 2).flatten(2).var(2).mean(0))
