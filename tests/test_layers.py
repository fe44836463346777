"""Which tensors are maps: by family of networks, by layout, by functionally equal twins; never by the number of axes alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from tests.networks import picture, tiny
from xai_lib import explainers
from xai_lib.classifiers import Classifier, ClassifierError, layers
from xai_lib.explainers import cam
from xai_lib.feature_maps import feature_maps
from xai_lib.images import View

pytestmark = pytest.mark.usefixtures("one_thread")
SIZE = 64
CAMS = ("grad_cam", "grad_cam_pp", "layer_cam", "fem", "score_cam")


def classifier(network: nn.Module, size: int = SIZE, name: str = "net") -> Classifier:
    return Classifier(network, name=name, view=View(size, size))


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()


def vit(**options: object) -> nn.Module:
    return timm.create_model("vit_tiny_patch16_224", img_size=SIZE, depth=2, embed_dim=48, num_classes=5, **options)


FAMILIES: dict[str, tuple[Callable[[], nn.Module], str, layers.Layout]] = {
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=5), "layer4", layers.Layout("channels first", 2, 2)),
    "densenet": (
        lambda: torchvision.models.DenseNet(8, (2, 2), 16, num_classes=5), "F.relu#11", layers.Layout("channels first", 8, 8),
    ),
    "squeezenet": (
        lambda: torchvision.models.squeezenet1_1(num_classes=5), "classifier.2", layers.Layout("channels first", 3, 3),
    ),
    "ViT": (vit, "blocks.1.norm1", layers.Layout("tokens", 4, 4, 1)),
    "ViT, registers": (lambda: vit(reg_tokens=4), "blocks.1.norm1", layers.Layout("tokens", 4, 4, 5)),
    "ViT, mean of tokens": (
        lambda: vit(class_token=False, global_pool="avg"), "blocks.1.mlp", layers.Layout("tokens", 4, 4, 0),
    ),
    "torchvision ViT": (
        lambda: torchvision.models.VisionTransformer(SIZE, 16, 2, 2, 48, 96, num_classes=5), "", layers.Layout("tokens", 4, 4, 1),
    ),
    "Swin": (
        lambda: timm.create_model("swin_tiny_patch4_window7_224", img_size=SIZE, window_size=2, embed_dim=24, depths=(1, 1),
                                  num_heads=(2, 4), num_classes=5), "norm", layers.Layout("channels last", 8, 8),
    ),
    "torchvision Swin": (
        lambda: torchvision.models.SwinTransformer([4, 4], 24, [1, 1], [2, 4], [4, 4], num_classes=5), "permute",
        layers.Layout("channels first", 8, 8),
    ),
    "ConvNeXt": (
        lambda: timm.create_model("convnext_atto", depths=(1, 1, 1, 1), dims=(8, 8, 16, 16), num_classes=5), "norm_pre",
        layers.Layout("channels first", 2, 2),
    ),
    "MLP-Mixer": (
        lambda: timm.models.mlp_mixer.MlpMixer(5, SIZE, patch_size=32, num_blocks=1, embed_dim=32), "norm",
        layers.Layout("tokens", 2, 2, 0),
    ),
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_the_layer_of_each_family_and_its_layout(family: str) -> None:
    make, name, layout = FAMILIES[family]
    one = classifier(seeded(make).eval())
    place = layers.find(one, "", (SIZE, SIZE))
    assert place.layout == layout
    if name and family != "ViT, mean of tokens":
        assert place.name == name
    assert layers.find(one, place.name, (SIZE, SIZE)) == place, "the name leads to the place"
    image = picture(0, SIZE)[None]
    found = feature_maps(one, image, targets=1)
    assert found.activations.shape[2:] == (layout.height, layout.width)
    last_zero = family in ("torchvision ViT", "MLP-Mixer")  # whose last layer begins with zeros
    assert last_zero or bool(found.gradients.any())
    for method in CAMS[:4]:
        assert explainers.get(method).explain(one, image).details[0]["layer"] == place.name


@pytest.mark.parametrize("family", ["ViT", "ViT, registers", "Swin", "densenet", "torchvision Swin"])
def test_the_maps_change_where_the_image_does(family: str) -> None:
    one = classifier(seeded(FAMILIES[family][0]).eval())
    plain = picture(0, SIZE)
    before = feature_maps(one, plain[None]).activations
    for row in (0, 1):
        for column in (0, 1):
            other = plain.clone()
            down, right = slice(row * 32, row * 32 + 32), slice(column * 32, column * 32 + 32)
            other[:, down, right] = picture(3, SIZE)[:, down, right]
            change = (feature_maps(one, other[None]).activations - before)[0].abs().mean(0)
            quarters = F.adaptive_avg_pool2d(change[None], 2)[0]
            assert int(quarters.argmax()) == 2 * row + column


def test_swin_is_permuted_and_vit_folded_as_by_hand_in_float64() -> None:
    for family in ("Swin", "ViT, registers"):
        network = seeded(FAMILIES[family][0]).eval().double()
        one = classifier(network)
        name = layers.find(one, "", (SIZE, SIZE)).name
        image, held = picture(0, SIZE)[None], []

        def keep(_m: nn.Module, _i: object, output: Tensor, held: list[Tensor] = held) -> None:
            held.append(output)

        handle = one.layer(name).register_forward_hook(keep)
        logits = network(one.normalise(image))
        handle.remove()
        target = int(logits.argmax())
        others = torch.cat([logits[0, :target], logits[0, target + 1 :]]).logsumexp(0)
        (gradient,) = torch.autograd.grad(logits[0, target] - others, held[0])
        if family == "Swin":
            maps, slopes = (t.permute(0, 3, 1, 2)[0] for t in (held[0], gradient))
        else:
            maps, slopes = (t[0, 5:].T.reshape(-1, 4, 4) for t in (held[0], gradient))
        wanted = (slopes.mean((1, 2), keepdim=True) * maps).sum(0).relu()
        found = explainers.get("grad_cam").explain(one, image).details[0]["low"]
        assert torch.allclose(found.double(), wanted, rtol=1e-5, atol=1e-9)


class Functional(nn.Module):
    """Two convolutions; activations and pooling by functions, by one module used twice, or by a module each."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.c1, self.c2, self.fc = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5), nn.Linear(16 * 13 * 13, 5)
        if how == "shared":
            self.relu, self.pool = nn.ReLU(), nn.MaxPool2d(2)
        if how == "each":
            self.r1, self.r2, self.p1, self.p2 = nn.ReLU(), nn.ReLU(), nn.MaxPool2d(2), nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "shared":
            x = self.pool(self.relu(self.c2(self.pool(self.relu(self.c1(x))))))
        elif self.how == "each":
            x = self.p2(self.r2(self.c2(self.p1(self.r1(self.c1(x))))))
        else:
            x = F.max_pool2d(F.relu(self.c2(F.max_pool2d(F.relu(self.c1(x), inplace=True), 2))), 2)
        return self.fc(x.view(x.size(0), -1))


@pytest.mark.parametrize("method", [*CAMS, "advise"])
def test_functionally_equal_networks_have_the_same_map(method: str) -> None:
    each = Functional("each")
    maps = []
    for how in ("each", "shared", "functions"):
        network = Functional(how)
        network.load_state_dict(each.state_dict(), strict=False)
        maps.append(explainers.get(method).explain(classifier(network), picture(1, SIZE)[None]).maps)
    assert torch.equal(maps[0], maps[1]) and torch.equal(maps[0], maps[2]) and bool(maps[0].any())


def test_the_layer_lies_behind_the_activation_even_if_that_is_a_function() -> None:
    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c, self.fc = nn.Conv2d(3, 8, 3, 2), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(F.relu(self.c(x)).mean((2, 3)))

    one = classifier(seeded(Late))
    assert one.feature_layer == "F.relu#1"
    found = feature_maps(one, picture(0, SIZE)[None]).activations
    assert float(found.min()) == 0
    assert torch.equal(found, F.relu(feature_maps(one, picture(0, SIZE)[None], "c").activations))


def test_attention_is_no_map_and_what_works_is_named() -> None:
    one = classifier(seeded(vit))
    for layer in ("blocks.1.attn.q_norm", "blocks.1.attn.proj", "head", "norm"):  # norm: the class token alone is read
        with pytest.raises(ClassifierError, match="layers that work: .*blocks"):
            layers.find(one, layer, (SIZE, SIZE))
    square = classifier(seeded(lambda: timm.create_model(
        "vit_tiny_patch16_224", img_size=112, depth=1, embed_dim=147, num_heads=3, class_token=False, global_pool="avg",
        qk_norm=True,
    )), 112)  # fmt: skip
    with pytest.raises(ClassifierError, match=r"'blocks.0.attn.q_norm' gives \(1, 3, 49, 49\), which does not follow the image"):
        layers.find(square, "blocks.0.attn.q_norm", (112, 112))


class Flipped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = tiny().network

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.flip(3))


class Decoder(nn.Module):
    """Its last maps belong to a reconstruction that the scores do not see."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder, self.fc = nn.Conv2d(3, 8, 3, 2, 1), nn.ConvTranspose2d(8, 3, 2, 2), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.encoder(x).relu()
        self.kept = self.decoder(maps)
        return self.fc(maps.mean((2, 3)))


def test_maps_that_are_turned_or_that_no_score_depends_on_are_never_taken() -> None:
    with pytest.raises(ClassifierError, match="no layer gives feature maps .* that follow the image .* such as lime"):
        layers.find(classifier(Flipped(), 32), "", (32, 32))
    with pytest.raises(ClassifierError, match="layer 'inner.5' gives .* which does not follow the image"):
        layers.find(classifier(Flipped(), 32), "inner.5", (32, 32))
    decoder = classifier(seeded(Decoder))
    assert decoder.feature_layer == "F.relu#1"
    with pytest.raises(ClassifierError, match="layer 'decoder' gives maps on which the scores do not depend"):
        explainers.get("fem").explain(decoder, picture(0, SIZE)[None], settings=cam.Settings(layer="decoder"))


def test_a_changed_network_is_looked_at_anew() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    one = classifier(network)
    assert one.feature_layer == "1" and one.classes == 3
    network[1] = nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU())
    network[4] = nn.Linear(4, 7)
    assert one.feature_layer == "1" and one.classes == 7
    network.insert(2, nn.Conv2d(4, 4, 3))
    assert one.feature_layer == "2"


def test_images_that_are_not_square_and_names_of_calls() -> None:
    one = classifier(seeded(lambda: timm.create_model(
        "vit_tiny_patch16_224", img_size=(32, 96), depth=2, embed_dim=48, num_classes=5
    )))  # fmt: skip
    assert layers.find(one, "", (32, 96)).layout == layers.Layout("tokens", 2, 6, 1)
    with pytest.raises(ClassifierError, match=r"'F.rely' does not run in a forward pass; nearest: .*F\."):
        layers.find(one, "F.rely", (32, 96))


def test_the_layer_of_a_convolutional_network_does_not_depend_on_its_weights() -> None:
    network = seeded(lambda: timm.create_model("tf_efficientnet_lite0", num_classes=5)).eval()
    one = classifier(network)
    assert one.feature_layer == "bn2"
    for seed in range(4):  # weights drawn without regard to the statistics of the batch norms, as sanity checks do
        rng = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=rng) * 0.1)
        assert one.feature_layer == "bn2"
