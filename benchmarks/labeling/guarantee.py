"""How often auto-accept breaks its promise, and how much it accepts, over many draws of the sample."""

from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.labeling.simulation import learn
from benchmarks.learning.embedded import Data
from my_backend.labeling.auto_accept.guarantee import decide, make_plan

RUNS = 200


@dataclass(frozen=True)
class Outcome:
    """What came of all runs."""

    alpha: float
    sample: int  # images that a person labels one by one
    labels: int  # labels that the model has learned from
    accuracy: float  # of the model on the other images
    broken: int  # runs in which more than the promised share of the accepted answers are wrong
    accepted: float  # mean share of the images that had no label
    allowed: float  # the largest share that keeps the promise, if the truth were known
    more: float  # labels that are still needed, median of the runs that accept nothing


def try_promise(data: Data, labeled: list[int], alpha: float, sample: int) -> Outcome:
    """Draws a new sample in each run; the model has learned from `labeled`, which the backend has chosen."""
    model = learn(data, labeled)
    assert model is not None
    head, classes = model
    rows = sorted(set(range(len(data.samples))) - set(labeled))
    probabilities, answers = head(data.embeddings[rows]).softmax(1).max(1)
    wrong = np.array([classes[answer] != data.samples[row].label for row, answer in zip(rows, answers, strict=True)])
    sure = probabilities.double().numpy()
    broken, shares, more = 0, [], []
    for seed in range(RUNS):
        plan = make_plan(sure, alpha, sample, seed)
        decision = decide(plan, wrong[plan.order[:sample]].tolist())
        accepted = decision.accepted
        broken += bool(wrong[accepted].sum() > alpha * len(accepted))
        shares.append(len(accepted) / len(rows))
        more += [decision.more] if len(accepted) == 0 else []
    rates = wrong[np.argsort(-sure, kind="stable")].cumsum() / np.arange(1, len(rows) + 1)
    best = np.flatnonzero(rates <= alpha)
    return Outcome(
        alpha,
        sample,
        len(labeled),
        float(1 - wrong.mean()),
        broken,
        float(np.mean(shares)),
        float(best[-1] + 1) / len(rows) if len(best) else 0.0,
        float(np.median(more)) if more else 0.0,
    )


def least_sure_first(data: Data, first: int, most: int) -> list[int]:
    """The labels of someone who takes the image that the model is least sure of, after some random ones."""
    order = np.random.default_rng(0).permutation(len(data.samples))
    labeled = order[:first].tolist()
    while len(labeled) < most:
        model = learn(data, labeled)
        assert model is not None
        rows = torch.tensor(sorted(set(range(len(data.samples))) - set(labeled)))
        sure = model[0](data.embeddings[rows]).softmax(1).max(1).values
        labeled += rows[sure.argsort()[: min(len(labeled), most - len(labeled))]].tolist()
    return labeled
