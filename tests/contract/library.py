"""Networks of torchvision and timm, made small; their feature maps are what the chosen layer gives, folded by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tests.contract.subject import Subject, blocks, entry, lively, seeded


def subject(network: nn.Module, last: nn.Linear, size: int, **changes: Any) -> Subject:
    """Batch norms get the statistics of a few images, as training would give them; the twin is a copy."""
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the plain mean over batches
    if norms:
        with torch.no_grad(), seeded():
            network.train()(torch.stack([blocks((size, size), seed=s) for s in range(16)]) * 4 - 2)
    lively(network, last, (size, size))
    return Subject(network, copy.deepcopy(network).double().eval(), size=(size, size), **{"tolerance": 5e-3} | changes)


def tokens(widths: set[int], prefix: int = 0) -> Callable[[Tensor], Tensor]:
    """(N, tokens, C) or (N, h, w, C), where C is one of `widths`, as (N, C, h, w); the first `prefix` tokens are no place."""

    def fold(x: Tensor) -> Tensor:
        if x.ndim == 3:
            x = x[:, prefix:]
            side = round(x.shape[1] ** 0.5)
            return x.transpose(1, 2).unflatten(2, (side, side))
        return x.permute(0, 3, 1, 2) if x.shape[3] in widths else x

    return fold


@entry("resnet18", "residual blocks, one ReLU module used twice in each")
def _resnet() -> Subject:
    from torchvision.models import resnet18

    with seeded():
        network = resnet18(num_classes=6)
    return subject(network, network.fc, 64, layer="layer1")


@entry("mobilenet_v3_small", "squeeze-and-excitation products, hard-swish")
def _mobilenet() -> Subject:
    from torchvision.models import mobilenet_v3_small

    with seeded(2):
        network = mobilenet_v3_small(num_classes=6)
    return subject(network, network.classifier[-1], 64, layer="features.3")


@entry("timm ViT", "tokens with a class token")
def _vit() -> Subject:
    import timm

    with seeded():
        network = timm.create_model(
            "vit_tiny_patch16_224", img_size=48, patch_size=8, depth=2, embed_dim=48, num_heads=3, num_classes=6
        )
    return subject(network, network.head, 48, fold=tokens({48, 192}, 1), grids=(6,))


@entry("timm ViT with register tokens", "four register tokens and a class token before the places, pooled by the mean")
def _registers() -> Subject:
    import timm

    with seeded():
        network = timm.create_model(
            "vit_tiny_patch16_224", img_size=48, patch_size=8, depth=2, embed_dim=48, num_heads=3, num_classes=6,
            reg_tokens=4, global_pool="avg",
        )  # fmt: skip
    return subject(network, network.head, 48, fold=tokens({48, 192}, 5), grids=(6,))


@entry("timm Swin", "windows, maps (N, h, w, C)")
def _swin() -> Subject:
    import timm

    with seeded():
        network = timm.create_model(
            "swin_tiny_patch4_window7_224", img_size=64, window_size=4, embed_dim=24, depths=(1, 1), num_heads=(2, 2),
            num_classes=6,
        )  # fmt: skip
    return subject(network, network.head.fc, 64, fold=tokens({24, 48, 96, 192}), grids=(16, 8))


@entry("timm ConvNeXt", "layer norms, GELU, layer scale")
def _convnext() -> Subject:
    import timm

    with seeded():
        network = timm.create_model("convnext_atto", depths=(1, 1, 1, 1), dims=(16, 24, 32, 40), num_classes=6)
    for block in network.stages:
        for inner in block.blocks:
            inner.gamma.data.fill_(0.5)
    return subject(network, network.head.fc, 64, layer="stages.2")


@entry("torchvision ViT", "tokens, attention by nn.MultiheadAttention")
def _torchvision_vit() -> Subject:
    from torchvision.models import VisionTransformer

    with seeded():
        network = VisionTransformer(48, 8, 2, 3, 48, 96, num_classes=6)
        nn.init.normal_(network.heads.head.weight, std=0.02)
    layer = "encoder.layers.encoder_layer_0.mlp.1"
    return subject(network, network.heads.head, 48, layer=layer, fold=tokens({48, 96}, 1), grids=(6,))


@entry("torchvision DenseNet", "every layer is added to the channels of the one before, functions for activations")
def _densenet() -> Subject:
    from torchvision.models import DenseNet

    with seeded():
        network = DenseNet(6, (2, 2), 8, bn_size=2, num_classes=6)
    found = subject(network, network.classifier, 48)
    twin: Any = found.twin
    found.splits = ((lambda x: twin.features(x).relu(), lambda a: twin.classifier(a.mean((2, 3)))),)
    return found


@entry("timm EfficientNet", "depthwise convolutions, SiLU, squeeze-and-excitation")
def _efficientnet() -> Subject:
    import timm

    with seeded():
        network = timm.create_model("test_efficientnet", num_classes=6)
    return subject(network, network.classifier, 64, layer="blocks.2")
