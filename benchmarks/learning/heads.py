"""Methods that learn from embeddings: the previous head, the current one with and without the network's stages, and
scikit-learn's logistic regression and nearest neighbors.

Each takes embeddings [n, size], targets, class indices [n] or 0 and 1 [n, classes], and the scales of the embeddings'
numbers [size], which are less than 1 for means of stages. It returns a function from embeddings to answers in the form
of the targets.
"""

import warnings
from collections.abc import Callable

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.optim import SGD
from torch.optim.lr_scheduler import StepLR

from image_classifier.data.dataset import FOLDS
from image_classifier.training.head import train_head
from image_classifier.training.hyperparameters import Hyperparameters

Answer = Callable[[Tensor], Tensor]
Learner = Callable[[Tensor, Tensor, int, Tensor], Answer]


def todays_head(embeddings: Tensor, targets: Tensor, classes: int, scales: Tensor) -> Answer:
    """The head of this checkout."""
    head = train_head(embeddings, targets, classes, Hyperparameters(), lambda record: None, scales=scales)
    return lambda images: (head(images) >= 0).float() if targets.is_floating_point() else head(images).argmax(1)


def without_stages(learn: Learner) -> Learner:
    """The method with nothing but the network's own output."""

    def learn_own(embeddings: Tensor, targets: Tensor, classes: int, scales: Tensor) -> Answer:
        own = int((scales == 1).sum())  # they come first
        answer = learn(embeddings[:, :own].contiguous(), targets, classes, scales[:own])
        return lambda images: answer(images[:, :own])

    return learn_own


def former_head(embeddings: Tensor, targets: Tensor, classes: int, scales: Tensor) -> Answer:
    """The head as of early November 2026: random start, no weight decay, thresholds fitted by cross-validation."""
    logits = _former_logits(embeddings, targets, classes)
    if not targets.is_floating_point():
        return lambda images: logits(images).argmax(1)
    unseen_logits = torch.empty_like(targets)
    folds = torch.arange(len(targets)) % FOLDS
    for fold in folds.unique():
        others = folds != fold
        unseen_logits[~others] = _former_logits(embeddings[others], targets[others], classes)(embeddings[~others])
    thresholds = _best_thresholds(unseen_logits, targets)
    return lambda images: (logits(images).sigmoid() >= thresholds).float()


def _former_logits(embeddings: Tensor, targets: Tensor, classes: int) -> Answer:
    mean, std = embeddings.mean(0), embeddings.std(0, unbiased=False)
    std = std + 1e-6 + 0.01 * std.mean()
    inputs = (embeddings - mean) / std
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(embeddings.shape[1], classes)
    bound = embeddings.shape[1] ** -0.5
    multiple = targets.is_floating_point()
    wanted = targets if multiple else one_hot(targets, classes).float()
    optimizer = SGD(layer.parameters(), lr=0.01, momentum=0.9)
    scheduler = StepLR(optimizer, 7, 0.1)
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        layer.bias.uniform_(-bound, bound, generator=generator)
        for _ in range(25):
            for batch in torch.randperm(len(inputs), generator=generator).split(32):
                logits = layer(inputs[batch])
                gradient = ((logits.sigmoid() if multiple else logits.softmax(1)) - wanted[batch]) / len(batch)
                layer.weight.grad, layer.bias.grad = gradient.T @ inputs[batch], gradient.sum(0)
                optimizer.step()
            scheduler.step()
    layer.requires_grad_(False)
    return lambda images: layer((images - mean) / std)


def _best_thresholds(logits: Tensor, targets: Tensor) -> Tensor:
    """For each class, the threshold with the best F1 on the same images."""
    candidates = torch.linspace(0.05, 0.95, 91)
    thresholds = []
    for probabilities, truth in zip(logits.sigmoid().T, targets.T, strict=True):
        said = probabilities >= candidates[:, None]
        found = (said * truth).sum(1)
        f1 = 2 * found / (said.sum(1) + truth.sum()).clamp(min=1)
        best = candidates[f1 == f1.max()]
        thresholds.append(float(best[len(best) // 2]) if found.any() else 0.5)
    return torch.tensor(thresholds)


def logistic_regression(embeddings: Tensor, targets: Tensor, classes: int, scales: Tensor) -> Answer:
    """scikit-learn's, with the settings that were best on these networks' embeddings."""
    model = LogisticRegression(C=0.003, class_weight="balanced", tol=1e-3)
    return _scikit(make_pipeline(StandardScaler(), OneVsRestClassifier(model) if _is_multiple(targets) else model))(
        embeddings, targets, classes, scales
    )


def neighbors(embeddings: Tensor, targets: Tensor, classes: int, scales: Tensor) -> Answer:
    """The five nearest neighbors by cosine."""
    model = KNeighborsClassifier(min(5, len(targets)))
    return _scikit(make_pipeline(Normalizer(), model))(embeddings, targets, classes, scales)


def _is_multiple(targets: Tensor) -> bool:
    return targets.is_floating_point()


def _scikit(model: object) -> Learner:
    def learn(embeddings: Tensor, targets: Tensor, classes: int, scales: Tensor) -> Answer:
        with warnings.catch_warnings():  # of a class that all images have, or none
            warnings.simplefilter("ignore")
            model.fit(embeddings.numpy(), targets.numpy().astype(np.int64))  # type: ignore[attr-defined]
        kind = targets.dtype
        return lambda images: torch.from_numpy(model.predict(images.numpy())).to(kind)  # type: ignore[attr-defined]

    return learn


LEARNERS: dict[str, Learner] = {
    "previous head": without_stages(former_head),
    "head, last layer only": without_stages(todays_head),
    "head": todays_head,
    "logistic regression": logistic_regression,
    "5 neighbors": neighbors,
}
