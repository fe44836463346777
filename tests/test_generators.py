"""Generators: the same pictures as the package's model, kept and found again, and clear errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_pretrained_biggan import BigGAN
from torch import Tensor
from torch.nn import functional as F

from xai_lib import generators
from xai_lib.generators import GeneratorError

CONFIG = {"channel_width": 4, "z_dim": 8, "class_embed_dim": 8, "num_classes": 3}


@pytest.fixture(scope="module")
def model() -> BigGAN:
    """A small one, with statistics of batch norm that differ from 0 and 1."""
    made = generators.build(generators.small_config(**CONFIG))
    rng = torch.Generator().manual_seed(1)
    for module in made.modules():
        if hasattr(module, "running_means"):
            module.running_means.normal_(0, 0.2, generator=rng)
            module.running_vars.uniform_(0.5, 2, generator=rng)
    return made


def asked(count: int) -> tuple[Tensor, Tensor]:
    return generators.noise(count, 8, seed=3), F.one_hot(torch.arange(count) % 3, 3).float()


@pytest.mark.parametrize("truncation", [1.0, 0.4, 0.41, 0.58])
def test_the_pictures_are_those_of_the_package_in_0_to_1(model: BigGAN, truncation: float) -> None:
    z, classes = asked(5)
    made = generators.Generator(model)(z, classes, truncation)
    with torch.no_grad():
        wanted = (model(z, classes, truncation) + 1) / 2
    assert made.shape == (5, 3, 64, 64) and 0 <= float(made.min()) < float(made.max()) <= 1
    assert torch.allclose(made, wanted, atol=1e-5) and float(wanted.std()) > 0.01


def test_a_generator_with_attention_too() -> None:
    model = generators.build(generators.small_config(**CONFIG | {"channel_width": 8}, attention_layer_position=2))
    z, classes = asked(2)
    with torch.no_grad():
        wanted = (model(z, classes, 1.0) + 1) / 2
    assert torch.allclose(generators.Generator(model)(z, classes), wanted, atol=1e-5)


def test_nothing_drifts_in_any_mode_and_z_alone_has_a_gradient(model: BigGAN) -> None:
    generator = generators.Generator(model).train()
    z, classes = asked(2)
    z.requires_grad_()
    first = generator(z, classes)
    first.sum().backward()
    assert z.grad is not None and bool((z.grad != 0).any())
    assert torch.equal(generator(z, classes), first) and not any(p.requires_grad for p in generator.parameters())


def test_noise_is_a_normal_cut_at_two_and_row_k_does_not_depend_on_the_count() -> None:
    many = generators.noise(4000, 8, seed=5)
    assert float(many.abs().max()) <= 2 and abs(float(many.mean())) < 0.02 and abs(float(many.std()) - 0.8796) < 0.01
    assert torch.equal(generators.noise(3, 8, seed=5), many[:3]) and not torch.equal(generators.noise(3, 8, seed=6), many[:3])
    assert torch.allclose(generators.noise(3, 8, seed=5, truncation=0.5), many[:3] / 2)
    with pytest.raises(GeneratorError, match="count"):
        generators.noise(0, 8, seed=0)


def test_kept_in_the_packages_format_and_found_again(model: BigGAN, tmp_path: Path) -> None:
    z, classes = asked(3)
    generators.save(model, tmp_path / "exact", half=False)
    assert torch.equal(generators.load_generator(tmp_path / "exact")(z, classes), generators.Generator(model)(z, classes))
    config, weights = generators.save(model, tmp_path / "half")
    found = generators.load_generator(str(tmp_path / "half"))
    assert found.files == [config, weights] and found.name == "half" and (found.size, found.z_dim, found.classes) == (64, 8, 3)
    theirs = BigGAN.from_pretrained(str(tmp_path / "half")).eval()
    with torch.no_grad():
        assert torch.allclose((theirs(z, classes, 1.0) + 1) / 2, found(z, classes), atol=1e-5)


def test_a_fresh_model_is_finite_and_building_leaves_the_global_generator_alone() -> None:
    state = torch.random.get_rng_state()
    first, second = (generators.build(generators.small_config(**CONFIG), seed=4).state_dict() for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(first[k], second[k]) and bool(first[k].isfinite().all()) for k in first)


def test_what_is_wrong_is_said(model: BigGAN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = generators.Generator(model)
    z, classes = asked(2)
    with pytest.raises(GeneratorError, match=r"expected z \(N, 8\) and class_vector \(N, 3\), found \(2, 7\)"):
        generator(z[:, :7], classes)
    with pytest.raises(GeneratorError, match="truncation: expected above 0 and at most 1, found 0"):
        generator(z, classes, 0)
    with pytest.raises(GeneratorError, match="no generator or folder is called 'biggan-deep-257'; .*biggan-deep-256"):
        generators.load_generator("biggan-deep-257")
    monkeypatch.setenv("XAI_WEIGHTS_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(GeneratorError, match=r"biggan-deep-256: .*config.json is missing; put config.json and pytorch_model.bin"):
        generators.load_generator("biggan-deep-256")
    generators.save(model, tmp_path / "biggan-deep-256")
    assert generators.load_generator("biggan-deep-256").name == "biggan-deep-256"
    (tmp_path / "biggan-deep-256" / "pytorch_model.bin").unlink()
    with pytest.raises(GeneratorError, match="pytorch_model.bin is missing"):
        generators.load_generator(tmp_path / "biggan-deep-256")


def test_a_file_that_does_not_fit_is_refused(model: BigGAN, tmp_path: Path) -> None:
    _, weights = generators.save(model, tmp_path)
    state = torch.load(weights, weights_only=True)
    state["generator.bn.wait"] = state.pop("generator.bn.weight")
    torch.save(state, weights)
    with pytest.raises(GeneratorError, match=r"does not fit config.json beside it: 2 tensors, as generator.bn.wait"):
        generators.load_generator(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(GeneratorError, match="config.json does not describe a generator"):
        generators.load_generator(tmp_path)


def test_neither_nltk_nor_a_network_is_needed() -> None:
    program = """
import socket, sys
def refused(*_args, **_named): raise OSError("no network in this test")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refused
sys.modules["nltk"] = None  # importing it is an error
from xai_lib import counterfactuals
assert counterfactuals.load_generator("critters").classes == 8
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((2, 8, 0, 0.0), "truncation: expected above 0 and at most 1, found 0.0"), ((2, 8, 0, 1.01), "truncation"),
        ((2, 8, 0, float("nan")), "truncation"), ((2, 8, -1, 1.0), "seed: expected a whole number from 0, found -1"),
        ((2, 8, None, 1.0), "seed: expected a whole number"), ((0, 8, 0, 1.0), "count"), ((2, 0, 0, 1.0), "z_dim"),
    ],
)  # fmt: skip
def test_noise_that_cannot_be_drawn(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(GeneratorError, match=message):
        generators.noise(*arguments)


def test_whole_numbers_are_no_class_vector(model: BigGAN) -> None:
    z, classes = asked(2)
    with pytest.raises(GeneratorError, match="expected z and class_vector as floats, found torch.float32 and torch.int64"):
        generators.Generator(model)(z, classes.long())
