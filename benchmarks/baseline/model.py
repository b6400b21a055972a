"""A plain baseline: an image classifier as in label-studio-ml's tutorial, which trains all layers of a ResNet18.

It runs under the stock server of label-studio-ml 1.0.9, which loads this file alone.
"""

import io
import json
import os
import time
from pathlib import Path

import requests
import torch
from label_studio_ml.model import LabelStudioMLBase
from PIL import Image
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader
from torchvision.models import resnet18
from torchvision.transforms import v2

TRANSFORM = v2.Compose(
    [
        v2.Resize(224),
        v2.CenterCrop(224),
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ]
)


def load(url):
    """Fetched, decoded in full, resized, cropped, normalized."""
    answer = requests.get(url, timeout=30)
    answer.raise_for_status()
    return TRANSFORM(Image.open(io.BytesIO(answer.content)).convert("RGB"))


class Baseline(LabelStudioMLBase):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.from_name, info = next(iter(self.parsed_label_config.items()))
        self.to_name, self.value = info["to_name"][0], info["inputs"][0]["value"]
        self.labels = sorted(info["labels"])
        self.model = resnet18(weights=None)
        self.model.fc = nn.Linear(512, len(self.labels))
        if self.train_output:
            self.model.load_state_dict(torch.load(self.train_output["file"], weights_only=True))
        self.model.eval()

    @torch.inference_mode()
    def predict(self, tasks, **kwargs):
        results = []
        for task in tasks:
            score, index = self.model(load(task["data"][self.value])[None])[0].softmax(0).max(0)
            value = {"choices": [self.labels[int(index)]]}
            region = {"from_name": self.from_name, "to_name": self.to_name, "type": "choices", "value": value}
            results.append({"result": [region], "score": float(score)})
        return results

    def fit(self, completions, workdir=None, **kwargs):
        begun = time.perf_counter()
        samples = []
        for task in completions:
            choice = task["annotations"][0]["result"][0]["value"]["choices"][0]
            samples.append((load(task["data"][self.value]), self.labels.index(choice)))
        loading = time.perf_counter() - begun
        optimizer = SGD(self.model.parameters(), lr=0.001, momentum=0.9)
        scheduler = StepLR(optimizer, step_size=7, gamma=0.1)
        epochs = []
        self.model.train()
        for _ in range(int(os.environ["BASELINE_EPOCHS"])):
            begun = time.perf_counter()
            for images, targets in DataLoader(samples, batch_size=32, shuffle=True):
                optimizer.zero_grad()
                nn.functional.cross_entropy(self.model(images), targets).backward()
                optimizer.step()
            scheduler.step()
            epochs.append(time.perf_counter() - begun)
        file = str(Path(workdir) / "model.pt")
        torch.save(self.model.state_dict(), file)
        Path(os.environ["BASELINE_REPORT"]).write_text(json.dumps({"loading": loading, "epochs": epochs}))
        return {"file": file}
