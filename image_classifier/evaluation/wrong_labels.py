"""How probable it is that labels are right, by a head that hasn't seen them and by the labels of similar images."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from image_classifier.pool.directions import directions

NEIGHBORS = 10  # chosen on two tasks (docs/project/learning.md); 8 to 16 were about as good
MOST_COMPARED = 10_000  # images, or groups of near-duplicates, that an image is compared with: bounds memory and time
AT_ONCE = 256  # images compared with all others in one step, to bound the memory


def probability_of_labels(
    logits: Tensor, targets: Tensor, embeddings: Tensor, votes: Sequence[str], voters: Tensor, rows: Tensor
) -> Tensor:
    """The probability (0 to 1) that the labels of these `rows` [r] are right: [r].

    `logits` [n, classes] are calibrated and from heads that haven't seen the image; `targets` are class indices [n], or
    0 and 1 [n, classes]. `embeddings` [n, size] tell which images are similar, and only labels of `voters` [n], at
    least one, count there. Images with the same of `votes` [n] are near-duplicates: they count as one image, and not
    for each other.

    The head's probability is multiplied by the number of similar images with the same label, plus one, as if the two
    were independent. If several classes may be right, it is that of the least likely of the image's 0s and 1s.
    """
    multiple = targets.is_floating_point()
    wanted = targets if multiple else one_hot(targets, logits.shape[1]).float()
    # Votes are digests, so the first ones are a random sample.
    compared = sorted({vote for vote, counts in zip(votes, voters.tolist(), strict=True) if counts})[:MOST_COMPARED]
    place_of = {vote: place for place, vote in enumerate(compared)}
    places = torch.tensor([place_of.get(vote, -1) for vote in votes])  # -1 for votes that aren't compared
    counted = (voters & (places >= 0)).nonzero().flatten()
    reference = embeddings[counted]
    similar, labels = (
        torch.zeros(len(compared), each.shape[1]).index_add(0, places[counted], each)
        for each in (directions(reference, reference), wanted[counted])
    )
    similar, labels = normalize(similar, dim=1), labels / torch.bincount(places[counted])[:, None]
    found = []
    of_rows = directions(embeddings[rows], reference)
    for start in range(0, len(rows), AT_ONCE):
        some = rows[start : start + AT_ONCE]
        similarity = of_rows[start : start + AT_ONCE] @ similar.T
        similarity[places[some][:, None] == torch.arange(len(compared))] = -torch.inf
        nearest = similarity.topk(min(NEIGHBORS, len(compared)), 1)
        others = nearest.values.isfinite().float()[..., None]
        same = (labels[nearest.indices] * others).sum(1)
        if multiple:
            yes = logits[some].sigmoid() * (same + 1)
            no = (-logits[some]).sigmoid() * (others.sum(1) - same + 1)
            found.append(torch.where(targets[some] > 0, yes, no).div(yes + no).amin(1))
        else:
            likely = logits[some].softmax(1) * (same + 1)
            found.append((likely * wanted[some]).sum(1) / likely.sum(1))
    return torch.cat(found) if found else torch.empty(0)
