# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of `vmoba train` in diffusers, and folders that diffusers wrote in `vmoba train` and `vmoba sample`."""

import json

import pytest

diffusers = pytest.importorskip("diffusers", reason="diffusers is the other side of these checkpoints")
pytest.importorskip("accelerate", reason="from_pretrained of diffusers needs accelerate for Wan models")
package = pytest.importorskip("vmoba", reason="the package vmoba is not importable; run `make build` first")
torch = pytest.importorskip("torch")

SMALL = (
    "--layers 3 --heads 2 --head-dim 24 --ffn 64 --text-dim 16 --text-length 24 --rendered-clips 4 --held-out 0.25 "
    "--height 64 --width 96 --crop 3,5,7 --policy dense --threads 1 --validate-every 0 --dense-path sdpa"
).split()


def predictions(model, config):
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, config["in_channels"], 3, 5, 7, generator=generator)
    text = torch.randn(1, 6, config["text_dim"], generator=generator)
    with torch.no_grad():
        out = model(latents, torch.tensor([500.0]), text)
    return out if isinstance(out, torch.Tensor) else out.sample


def test_there_and_back(vmoba, tmp_path):
    trained = vmoba("train", "--out", tmp_path / "run", "--steps", 3, *SMALL)
    assert trained.returncode == 0, trained.stderr
    checkpoint = tmp_path / "run" / "checkpoints" / "step-00000003"

    theirs, report = diffusers.WanTransformer3DModel.from_pretrained(checkpoint, output_loading_info=True)
    assert not any(report.values()), report
    config = json.loads((checkpoint / "config.json").read_text())
    expected = predictions(package.dit.load(checkpoint), config)
    got = predictions(theirs.eval(), config)
    assert expected.abs().max() > 0 and (got - expected).abs().max() < 1e-5 * expected.abs().max()

    # What diffusers saves, changed, goes on training here and is sampled from.
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.mul_(1.01)
    theirs.save_pretrained(tmp_path / "theirs")
    expected = predictions(theirs, config)
    got = predictions(package.dit.load(tmp_path / "theirs"), config)
    assert (got - expected).abs().max() < 1e-5 * expected.abs().max()
    continued = vmoba("train", "--out", tmp_path / "again", "--init", tmp_path / "theirs", "--steps", 1, "--lr", 1e-9, *SMALL)
    assert continued.returncode == 0, continued.stderr
    again = package.dit.load(tmp_path / "again" / "checkpoints" / "step-00000001")
    moved = max((again.get_parameter(n) - p).abs().max().item() for n, p in theirs.named_parameters())
    assert moved < 1e-7

    import safetensors.torch

    safetensors.torch.save_file({"prompt": torch.randn(6, config["text_dim"])}, tmp_path / "prompt.safetensors")
    sampled = vmoba(
        "sample", "--checkpoint", tmp_path / "theirs", "--embedding", tmp_path / "prompt.safetensors", "--steps", 2,
        "--frames", 9, "--height", 40, "--width", 56, "--threads", 1, "--latents", tmp_path / "latents.safetensors",
    )  # fmt: skip
    assert sampled.returncode == 0, sampled.stderr
    latents = safetensors.torch.load_file(tmp_path / "latents.safetensors")["latents.0"]
    assert latents.shape == (config["in_channels"], 3, 5, 7) and latents.isfinite().all() and latents.std() > 0
