"""Training of the small BigGAN: its batch norm against a second implementation, its critic, and going on after a stop."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pytorch_pretrained_biggan import BigGAN
from torch import Tensor, nn
from torch.nn import functional as F

from xai_lib import generators
from xai_lib.training import TrainingError
from xai_lib.training.batch_statistics import fill, learning
from xai_lib.training.biggan import Adversaries, Recipe
from xai_lib.training.discriminator import Discriminator
from xai_lib.training.loop import Samples

TINY = {"channel_width": 4, "z_dim": 8, "class_embed_dim": 8, "num_classes": 3, "n_stats": 6}
PICTURES = Samples(torch.randint(0, 256, (30, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)),
                   torch.arange(30) % 3)  # fmt: skip


def tiny(**more: int) -> BigGAN:
    return generators.build(generators.small_config(**TINY | more))


def asked(count: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    return generators.noise(count, 8, seed), F.one_hot(torch.arange(count) % 3, 3).float()


def test_a_conditional_norm_by_batch_is_its_formula_with_gradients_through_the_statistics() -> None:
    model = tiny()
    norm = model.generator.layers[0].bn_0
    x, condition = torch.randn(4, 64, 3, 3, generator=torch.Generator().manual_seed(2)).double(), torch.randn(4, 16).double()
    norm.double()
    x.requires_grad_()
    with learning(model):
        found = norm(x, 1.0, condition)
        slope = torch.autograd.grad(found.square().sum(), x)[0]
    wanted = torch.empty_like(found)
    for c in range(64):
        values = x[:, c]
        mean = values.sum() / values.numel()
        variance = ((values - mean) ** 2).sum() / values.numel()
        for n in range(4):
            scale, shift = 1 + norm.scale.weight[c] @ condition[n], norm.offset.weight[c] @ condition[n]
            wanted[n, c] = (x[n, c] - mean) / torch.sqrt(variance + norm.eps) * scale + shift
    assert torch.allclose(found, wanted) and torch.allclose(slope, torch.autograd.grad(wanted.square().sum(), x)[0])


def test_filled_statistics_give_the_pictures_of_the_batch_and_the_packages_forward_is_back() -> None:
    model = tiny()
    forward = type(model.generator.bn).forward
    fill(model, seed=7, batch=12)
    for row, truncation in ((5, 1.0), (2, 0.4)):
        z, classes = generators.noise(12, 8, 7 + row, truncation), F.one_hot(torch.arange(12) % 3, 3).float()
        with torch.no_grad(), learning(model):
            wanted = model(z, classes, 1.0)
        with torch.no_grad():
            assert torch.allclose(model(z, classes, truncation), wanted, atol=1e-4)
    assert model.generator.bn.forward.__func__ is forward and not model.training
    assert torch.equal(model.generator.bn.running_means[0], model.generator.bn.running_means[1])
    assert float((model.generator.bn.running_vars - 1).abs().min()) > 0


def test_three_channels_are_what_the_package_shows() -> None:
    model = tiny()
    z, classes = asked(4)
    with torch.no_grad(), learning(model):
        found = model(z, classes, 1.0)
        del model.generator.conv_to_rgb.forward
        whole = model(z, classes, 1.0)
        model.generator.conv_to_rgb.forward = None
    assert torch.allclose(found, whole, atol=1e-6) and found.shape == (4, 3, 64, 64)


def test_the_score_is_the_projection_and_every_layer_is_normalised() -> None:
    critic = Discriminator(3, widths=(4, 6, 8)).eval()
    pictures, labels = torch.randn(2, 3, 64, 64), torch.tensor([2, 0])
    score, logits = critic(pictures, labels)
    found = F.relu(critic.blocks(critic.stem(pictures))).sum((2, 3))
    for n in range(2):
        one = critic.score.weight[0] @ found[n] + critic.score.bias[0] + critic.embedding.weight[labels[n]] @ found[n]
        assert torch.allclose(score[n], one, rtol=1e-4) and logits.shape == (2, 3)
    layers = [m for m in critic.modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.Embedding)]
    critic.train()
    for _ in range(60):
        critic(pictures, labels)
    critic.eval()(pictures, labels)
    assert all(abs(float(torch.linalg.matrix_norm(m.weight.detach().flatten(1), 2)) - 1) < 0.02 for m in layers)


def test_a_step_is_hinge_loss_of_both_and_only_the_own_side_moves() -> None:
    both = Adversaries(tiny(), PICTURES, Recipe(batch=6, auxiliary=0.0, generator_rate=1e-9))
    with learning(both.generator):
        both.generator.train()
        before = [p.detach().clone() for p in both.discriminator.parameters()]
        losses = both._one_step()
    assert 0 <= float(losses[0]) < 10 and bool(losses.isfinite().all())
    assert any(not torch.equal(a, b) for a, b in zip(before, both.discriminator.parameters(), strict=True))
    assert all(p.requires_grad for p in both.discriminator.parameters())


def test_a_training_cut_off_ends_as_one_at_once(tmp_path: Path) -> None:
    recipe = Recipe(steps=4, batch=4, averaging_from=2, averaging=0.5)
    at_once = Adversaries(tiny(), PICTURES, recipe)
    assert at_once.run(progress=False)
    half = Adversaries(tiny(), PICTURES, recipe, tmp_path / "gan.pt")
    while half.step < 2:
        half.run(minutes=1e-9, progress=False)
    again = Adversaries(tiny(), PICTURES, recipe, tmp_path / "gan.pt")
    assert again.step == 2 and again.run(progress=False)
    for part in ("generator", "average", "discriminator"):
        one, other = getattr(at_once, part).state_dict(), getattr(again, part).state_dict()
        assert all(torch.equal(one[k], other[k]) for k in one), part
    with pytest.raises(TrainingError, match="belongs to another recipe"):
        Adversaries(tiny(), PICTURES, Recipe(steps=5, batch=4), tmp_path / "gan.pt")
    (tmp_path / "gan.pt").write_bytes(b"PK")
    with pytest.raises(TrainingError, match="gan.pt cannot be read"):
        Adversaries(tiny(), PICTURES, recipe, tmp_path / "gan.pt")


def test_a_compact_checkpoint_is_small_and_goes_on(tmp_path: Path) -> None:
    recipe = Recipe(steps=2, batch=4)
    one = Adversaries(tiny(), PICTURES, Recipe(steps=2, batch=4), tmp_path / "whole.pt")
    one.run(progress=False)
    one.compact(tmp_path / "compact.pt")
    assert (tmp_path / "compact.pt").stat().st_size < (tmp_path / "whole.pt").stat().st_size / 3
    again = Adversaries(tiny(), PICTURES, recipe, tmp_path / "compact.pt")
    assert again.step == 2
    z, classes = asked(4)
    with torch.no_grad():
        pictures = [a.finished(12)(z, classes, 1.0) for a in (one, again)]
    assert torch.allclose(pictures[0], pictures[1], atol=0.02) and bool(pictures[0].isfinite().all())


def test_the_mean_of_weights_is_kept_from_when_the_recipe_says() -> None:
    both = Adversaries(tiny(), PICTURES, Recipe(steps=9, batch=4, averaging=0.5, averaging_from=1))
    first = both.average.embeddings.weight.clone()
    for step in range(2):
        both.step = step
        with torch.no_grad():
            both.generator.embeddings.weight.add_(1)
        both._average()
    assert torch.allclose(both.average.embeddings.weight, first + 1.5)
