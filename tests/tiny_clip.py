"""A network of OpenCLIP's that is small enough to be trained in a test: it learns the names of colors."""

import importlib
import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

needs_open_clip = pytest.mark.skipif(
    not find_spec("open_clip") and "CI" not in os.environ, reason="open_clip isn't installed"
)

NAME, TAG, HUB = "tiny-of-tests", "colors", "someone/tiny"
NETWORK, SIZE = f"open_clip:{NAME}:{TAG}", 32
COLORS = {"red": (0.8, 0.2, 0.2), "green": (0.2, 0.8, 0.2), "blue": (0.2, 0.2, 0.8), "white": (0.9, 0.9, 0.9)}
CONFIG = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": SIZE, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


def register(folder: Path, **weights: Any) -> None:
    """Makes the network known to open_clip in this process, with a record of its weights by the tag."""
    file = folder / f"{NAME}.json"
    file.write_text(json.dumps(CONFIG), encoding="utf-8")
    importlib.import_module("open_clip").add_model_config(file)
    importlib.import_module("open_clip.pretrained")._PRETRAINED[NAME] = {TAG: {"hf_hub": f"{HUB}/", **weights}}


def trained(steps: int = 60) -> dict[str, Tensor]:
    """The weights after training on noisy images of each color, with the prompts that name them."""
    open_clip = importlib.import_module("open_clip")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.create_model(NAME)
        texts = open_clip.get_tokenizer(NAME)([f"a photo of a {color}." for color in COLORS])
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
        for _ in range(steps):
            colors = torch.arange(len(COLORS)).repeat(8)
            images = model.encode_image(noisy(colors), normalize=True)
            logits = model.logit_scale.exp() * images @ model.encode_text(texts, normalize=True).T
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(logits, colors).backward()
            optimizer.step()
    return dict(model.state_dict())


def noisy(colors: Tensor) -> Tensor:
    """Normalized images [n, 3, 32, 32] of the colors with these numbers."""
    means = torch.tensor(list(COLORS.values()))[colors].view(-1, 3, 1, 1)
    return ((means + 0.3 * torch.randn(len(colors), 3, SIZE, SIZE)).clamp(0, 1) - 0.45) / 0.27
