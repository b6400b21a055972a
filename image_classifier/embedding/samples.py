"""Embeds labeled images, and groups near-duplicates among them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from image_classifier.data.dataset import Sample
from image_classifier.data.duplicates import group_near_duplicates
from image_classifier.data.preprocessing import ImageError
from image_classifier.embedding.lane import InferenceLane
from image_classifier.nets.classifier import Backbone
from image_classifier.progress import Progress

AT_ONCE = 256  # images between two progress reports


@dataclass(frozen=True)
class EmbeddedSamples:
    """Samples whose images could be read, their embeddings [n, size], and why the others could not."""

    samples: list[Sample]
    embeddings: Tensor
    broken: dict[Sample, ImageError]


def embed_samples(
    lane: InferenceLane, backbone: Backbone, samples: Sequence[Sample], progress: Progress, *, background: bool = False
) -> EmbeddedSamples:
    """Embeds samples, and finds near-duplicates among those that can be read."""
    kept, vectors, broken = [], [], {}
    for start in range(0, len(samples), AT_ONCE):
        progress({"phase": "embedding images", "image": start, "images": len(samples)})
        some = samples[start : start + AT_ONCE]
        found = lane.embed(backbone, [sample.image for sample in some], background=background)
        for sample, vector in zip(some, found, strict=True):
            if isinstance(vector, ImageError):
                broken[sample] = vector
            else:
                kept.append(sample)
                vectors.append(vector)
    embeddings = torch.from_numpy(np.stack(vectors)) if vectors else torch.empty(0, backbone.size)
    return EmbeddedSamples(_grouped(lane, kept), embeddings, broken)


def _grouped(lane: InferenceLane, samples: Sequence[Sample]) -> list[Sample]:
    """The samples with their groups of near-duplicates; those that have one keep it.

    A sample whose image can't be read gets none, so that it can join its near-duplicates once the image is back. Nor
    does a black one, which resembles nothing.
    """
    if all(sample.group for sample in samples):
        return list(samples)
    digests, known = [sample.image.digest for sample in samples], [sample.group for sample in samples]
    thumbnails = lane.thumbnails([sample.image for sample in samples])
    groups = group_near_duplicates(digests, known, thumbnails)
    compared = thumbnails.any(1).tolist()
    return [
        replace(sample, group=group) if was_compared else sample
        for sample, group, was_compared in zip(samples, groups, compared, strict=True)
    ]
