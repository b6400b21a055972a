"""Measures predictions before the first label, and how soon labels replace them, on real pictures.

    python -m benchmarks.first_guess --pictures FOLDER --weights FILE [--splits 8]

The guess comes from ImageNet's classes and the tasks' English names. docs/project/pool.md has the results, and
docs/project/learning.md how to get the pictures and the weights. The embeddings are shared with `benchmarks.learning`.
"""

from collections import defaultdict
from collections.abc import Iterator

import torch

from benchmarks.learning.embedded import FIRST_SPLIT, Data, embedded_tasks, interval, options
from image_classifier.embedding.samples import EmbeddedSamples
from image_classifier.errors import TooFewLabels
from image_classifier.evaluation.metrics import evaluate
from image_classifier.first_guess.guess import is_guess, logits_of, with_others
from image_classifier.first_guess.imagenet_guess import guess_from_imagenet
from image_classifier.nets.classifier import Backbone, Classifier, load_backbone
from image_classifier.nets.weights_packages import LITE0
from image_classifier.training.classifier_head import learn_head
from image_classifier.training.hyperparameters import Hyperparameters
from image_classifier.training.labels import check_enough, order_classes

TASKS = ("themes", "stamps", "fine")  # the rules were chosen on the first two
SIZES = (5, 10, 30, 100, 300)


def main() -> None:
    parser = options("benchmarks.first_guess", __doc__)
    parser.add_argument("--splits", type=int, default=8, help="number of splits")
    told = parser.parse_args()
    torch.set_num_threads(1)
    backbone = load_backbone(str(told.weights), None, LITE0)
    print(
        "| task | images | choices | choices with a first guess | accuracy of chance | accuracy | "
        "accuracy on images of choices with a first guess | calibration error |"
    )
    print("|---|---|---|---|---|---|---|---|")
    later = []
    for data in embedded_tasks(told):
        if data.name in TASKS:
            guess = before_labels(data, backbone)
            splits = range(FIRST_SPLIT, FIRST_SPLIT + told.splits)
            later += [row for size in SIZES if (row := _after(data, guess, size, splits))]
    print(
        "\n| task | labels | trained head alone | backend | splits in which the backend still uses the first guess |"
        "\n|---|---|---|---|---|"
    )
    print("\n".join(later))


def before_labels(data: Data, backbone: Backbone) -> Classifier:
    """Prints how good the guess is without any label."""
    labels = [str(sample.label) for sample in data.samples]
    names = tuple(dict.fromkeys(labels))
    assert backbone.imagenet is not None, "the weights have no layer for ImageNet's classes"
    guess = guess_from_imagenet(backbone, backbone.imagenet, {name: [name] for name in names})
    assert guess is not None, "none of the names is in the table"
    classes = with_others(guess.classes, labels)
    targets = torch.tensor([classes.index(label) for label in labels])
    known = float((targets < len(guess.classes)).float().mean())
    found = evaluate(logits_of(guess, data.embeddings, classes), targets, classes)
    print(
        f"| {data.name} | {len(labels):,} | {len(names)} | {len(guess.classes)} | {1 / len(names):.3f} | "
        f"{found.accuracy:.3f} | {found.accuracy / known:.3f} | {found.calibration_error:.3f} |",
        flush=True,
    )
    return guess


def _after(data: Data, guess: Classifier, labels: int, splits: range) -> str:
    """A row of the second table; "" if there are too few images."""
    found = defaultdict(list)
    for split in splits:
        for way, value in _measure(data, guess, labels, split):
            found[way].append(value)
    if not found:
        return ""
    alone, product = interval(found["labels"]), interval(found["product"])
    return f"| {data.name} | {labels} | {alone} | {product} | {sum(found['guess'])} of {len(found['guess'])} |"


def _measure(data: Data, guess: Classifier, labels: int, split: int) -> Iterator[tuple[str, float]]:
    tested, pool = data.split(split)
    learned = pool[:labels]
    samples = [data.samples[row] for row in learned]
    try:
        check_enough(samples)
    except TooFewLabels:
        return
    embedded = EmbeddedSamples(samples, data.embeddings[learned], {})
    classes = order_classes(samples, (), ())
    for way, offered in (("labels", None), ("product", guess)):
        told = guess.backbone, embedded, classes, Hyperparameters(), lambda record: None, None, offered
        model = learn_head(*told)
        answers = model.head(data.embeddings[tested]).argmax(1).tolist()
        right = [model.classes[answer] == data.samples[row].label for answer, row in zip(answers, tested, strict=True)]
        yield way, sum(right) / len(right)
        if offered:
            yield "guess", int(is_guess(model))


if __name__ == "__main__":
    main()
