"""Thin networks for pictures of 64 pixels, built from torchvision's own classes. Widths and depths are our choice.

Each has less than a million parameters, so that its weights in half precision stay below 2 MB.
"""

from __future__ import annotations

from torch import nn

CLASSES = 8
SIZE = 64  #: pixels; the last features are 4x4


def critters_vgg19() -> nn.Module:
    """VGG-19's sixteen convolutions with batch norm, thin, without the last pooling."""
    from torchvision.models.vgg import VGG, make_layers

    widths: list[str | int] = [16, 16, "M", 32, 32, "M", 64, 64, 64, 64, "M", 96, 96, 96, 96, "M", 96, 96, 96, 96]
    network = VGG(make_layers(widths, batch_norm=True), num_classes=CLASSES, init_weights=False)
    network.avgpool = nn.Identity()  # features of 64 pixels are 4x4 already
    network.classifier = nn.Sequential(nn.Linear(96 * 16, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, CLASSES))
    return network


def critters_resnet() -> nn.Module:
    """ResNet-18 with a quarter of its width and no pooling at the start."""
    from torchvision.models.resnet import BasicBlock, ResNet

    network = ResNet(BasicBlock, [2, 2, 2, 2], num_classes=CLASSES)
    network.inplanes = 16
    network.conv1 = nn.Conv2d(3, 16, 5, 2, 2, bias=False)
    network.bn1 = nn.BatchNorm2d(16)
    network.maxpool = nn.Identity()
    for number, (width, stride) in enumerate(((16, 1), (32, 2), (64, 2), (128, 2)), 1):
        setattr(network, f"layer{number}", network._make_layer(BasicBlock, width, 2, stride))
    network.fc = nn.Linear(128, CLASSES)
    return network


def critters_mobilenet() -> nn.Module:
    """MobileNetV2 at half width, with three halvings fewer and fewer blocks."""
    from torchvision.models import MobileNetV2

    # expansion, channels before the width is applied, blocks, stride of the first
    blocks = [[1, 32, 1, 1], [6, 48, 2, 2], [6, 64, 2, 2], [6, 128, 3, 2], [6, 160, 2, 1]]
    return MobileNetV2(num_classes=CLASSES, width_mult=0.5, inverted_residual_setting=blocks)


BUILDERS = {build.__name__: build for build in (critters_vgg19, critters_resnet, critters_mobilenet)}
