"""Tasks with digits, a model that learns them, and what tests ask of it."""

import base64
import math
from collections.abc import Sequence
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from image_classifier.data.dataset import read_samples
from image_classifier.nets.classifier import Classifier, load_classifier, load_saved_backbone
from model import ImageClassifierAPI

Json = dict[str, Any]

Digits = list[tuple[Path, str]]


def config(*choices: str, view: str = "{}") -> str:
    tags = "".join(f'<Choice value="{choice}"/>' for choice in choices)
    inner = f'<Image name="image" value="$image"/><Choices name="digit" toName="image">{tags}</Choices>'
    return f"<View>{view.format(inner)}</View>"


CONFIG = config("0", "1", "2")


def data_uri(content: Path | bytes) -> str:
    body = content if isinstance(content, bytes) else content.read_bytes()
    return f"data:image/png;base64,{base64.b64encode(body).decode()}"


def annotation(*choices: str, by: int = 1, name: str = "digit", **fields: Any) -> Json:
    region = {"from_name": name, "to_name": "image", "type": "choices", "value": {"choices": list(choices)}}
    return {"completed_by": by, "result": [region] if choices else [], "was_cancelled": False, **fields}


def task(number: int, content: Path | bytes, *annotations: Json) -> Json:
    return {"id": number, "data": {"image": data_uri(content)}, "annotations": list(annotations)}


def labeled(shown: Digits) -> list[Json]:
    return [task(number, path, annotation(label)) for number, (path, label) in enumerate(shown, start=1)]


def asked(shown: Digits) -> list[Json]:
    return [task(number, path) for number, (path, _) in enumerate(shown, start=1)]


def fit(tasks: Sequence[Json], folder: Path, live: Json | None = None, label_config: str = CONFIG, **more: Any) -> Json:
    return ImageClassifierAPI(label_config, live).fit(tasks, workdir=str(folder), **more)


def choice(prediction: Any) -> str:
    return prediction["result"][0]["value"]["choices"][0]


def score(prediction: Any) -> float:
    return prediction["score"]


@lru_cache(maxsize=1)
def saved(folder: Path) -> Classifier:
    return load_classifier(folder, load_saved_backbone(folder))


def probabilities(trained: Json, image: Path, choices: str = "012") -> dict[str, float]:
    """What the saved model says of an image and these choices, without ImageClassifierAPI."""
    classifier = saved(Path(trained["model_dir"]))
    backbone = classifier.backbone
    pixels = backbone.preprocessing.normalize(backbone.preprocessing(image)[None])
    logits = dict(zip(classifier.classes, classifier.head(backbone.module(pixels))[0].tolist(), strict=True))
    whole = sum(math.exp(logits[name]) for name in choices)
    return {name: math.exp(logits[name]) / whole for name in choices}


def pooled(api: ImageClassifierAPI, tasks: list[Json]) -> tuple[Any, list[str | None]]:
    pool = api.open_pool()
    assert pool is not None
    return pool, pool.add(tasks, lambda: None)


def brighter(path: Path) -> bytes:
    data = BytesIO()
    Image.open(path).convert("RGB").point(lambda value: min(255, value + 20)).save(data, "PNG")
    return data.getvalue()


def corrected(path: Path, label: str, at: str = "2026-11-20T10:00:00.000000Z") -> Json:
    return {"data": {"image": data_uri(path)}, "annotations": [annotation(label, updated_at=at)], "corrected": True}


def learned_by(output: Json) -> dict[str, Any]:
    return {one.name: one.label for one in read_samples(Path(output["model_dir"]) / "samples.json")}
