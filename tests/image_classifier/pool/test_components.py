"""Principal components, and the directions that tell how alike two images are."""

import pytest
import torch

from image_classifier.pool.components import directions, principal_axes


def test_components_keep_the_largest_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(300, 2, generator=generator)
    embeddings = hidden @ torch.randn(2, 30, generator=generator) + 0.01 * torch.randn(300, 30, generator=generator)
    axes = principal_axes(embeddings, 5)
    components, variances = axes.components(embeddings), axes.variances
    assert float(variances[:2].sum() / variances.sum()) > 0.99
    torch.testing.assert_close(components.var(0, unbiased=False), variances, rtol=1e-2, atol=1e-3)


def test_fewer_images_than_numbers_have_the_same_axes() -> None:
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(40, 3, generator=generator) @ torch.randn(3, 60, generator=generator)
    few = principal_axes(embeddings, 3)
    often = principal_axes(embeddings.repeat(2, 1), 3)  # more images than numbers

    torch.testing.assert_close(few.variances, often.variances, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(few.components(embeddings), often.components(embeddings), rtol=1e-3, atol=1e-3)


def test_repeated_images_have_the_directions_of_single_ones() -> None:
    embeddings = torch.randn(15, 500, generator=torch.Generator().manual_seed(0))
    once, often = directions(embeddings), directions(embeddings.repeat(3, 1))[:15]
    torch.testing.assert_close(often @ often.T, once @ once.T, rtol=0, atol=0.02)


@pytest.mark.parametrize(("images", "size"), [(0, 8), (1, 8), (2, 8), (50, 1), (50, 8)])
def test_any_number_of_images_has_directions_and_places(images: int, size: int) -> None:
    embeddings = torch.randn(images, size, generator=torch.Generator().manual_seed(0))
    assert bool(directions(embeddings).isfinite().all())
    places = principal_axes(embeddings, 2).places(embeddings)
    assert places.shape == (images, 2)
    assert bool(places.isfinite().all())
