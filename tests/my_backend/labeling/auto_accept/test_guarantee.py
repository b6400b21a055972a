"""The guarantee of auto-accept: exact, whatever the model's probabilities are worth."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import hypergeom

from my_backend.labeling.auto_accept import guarantee
from my_backend.labeling.auto_accept.bounds import bounds
from my_backend.labeling.auto_accept.guarantee import Plan, audit, decide, first_sample, make_plan


def pool(images: int, seed: int, *, honest: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of a model, and whether it is wrong: `honest` times as often as it says."""
    random = np.random.default_rng(seed)
    probabilities = 1 - random.beta(0.15, 2.5, images)
    return probabilities, random.random(images) < honest * (1 - probabilities)


def decided(plan: Plan, wrong: np.ndarray, labels: int) -> guarantee.Decision:
    return decide(plan, wrong[plan.order[:labels]].tolist())


@pytest.mark.parametrize(("alpha", "sample", "honest"), [(0.01, 500, 0.5), (0.02, 300, 1), (0.05, 150, 3)])
def test_promise_is_kept_in_at_least_95_of_100_runs(
    alpha: float, sample: int, honest: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guarantee, "STEPS", 10)
    broken = accepted = 0
    for seed in range(200):
        probabilities, wrong = pool(2000, seed, honest=honest)
        found = decided(make_plan(probabilities, alpha, sample, seed), wrong, sample).accepted
        broken += wrong[found].sum() > alpha * len(found)
        accepted += len(found)
    assert broken <= 16  # more than that in 200 has a probability of 3% at a rate of 5%
    assert accepted > 200 * 20


@pytest.mark.parametrize("alpha", [0.02, 0.05])
def test_promise_is_kept_at_every_decision_if_just_too_many_are_wrong(
    alpha: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worst case: no threshold is better than another, and all of them are just bad enough."""
    monkeypatch.setattr(guarantee, "STEPS", 10)
    broken = tried = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        wrong = np.zeros(1000, bool)
        wrong[random.permutation(1000)[: math.floor(alpha * 1000) + 1]] = True
        plan = make_plan(np.full(1000, 1 - alpha / 10), alpha, 100, seed)
        for look in plan.looks:
            tried += 1
            found = decided(plan, wrong, look.labels).accepted
            if wrong[found].sum() > alpha * len(found):
                broken += 1
                break
    assert tried > 400
    assert broken <= 0.05 * 200 + 2 * math.sqrt(200 * 0.05 * 0.95)


def test_threshold_that_no_sample_can_show_is_not_tried() -> None:
    """299 labels without a mistake show 1% with 95% confidence, if all of the risk is spent and the pool is endless."""
    probabilities, wrong = np.full(100_000, 0.999), np.zeros(100_000, bool)
    plan = make_plan(probabilities, 0.01, 250, 0)
    first = decided(plan, wrong, 250)
    assert (len(first.accepted), first.more) == (0, 375 - 250)
    assert len(decided(plan, wrong, 375).accepted) == 100_000 - 375


def test_labels_that_are_missing_are_enough_if_no_further_answer_is_wrong() -> None:
    probabilities, wrong = pool(3000, 1)
    plan = make_plan(probabilities, 0.02, 300, 1)
    labels = next(number for number in range(1, 300) if wrong[plan.order[number]])
    given_so_far = wrong[plan.order[:labels]].tolist()
    more = decide(plan, given_so_far).more
    assert more > 0
    assert len(decide(plan, given_so_far + [False] * more).accepted) > 0
    assert len(decide(plan, given_so_far + [False] * (more - 1)).accepted) == 0


def test_model_that_is_often_wrong_gets_nothing_accepted() -> None:
    probabilities, wrong = pool(2000, 2)
    wrong[:] = np.random.default_rng(0).random(2000) < 0.3
    plan = make_plan(probabilities, 0.05, 200, 2)
    decision = decided(plan, wrong, 1900)
    assert len(decision.accepted) == 0
    assert decision.more == 100  # all that are left


def test_labeled_images_are_not_accepted_again() -> None:
    probabilities, wrong = pool(2000, 3)
    plan = make_plan(probabilities, 0.05, 300, 3)
    accepted = set(decided(plan, wrong, 300).accepted.tolist())
    assert accepted
    assert accepted.isdisjoint(plan.order[:300].tolist())


def test_labels_between_two_decisions_change_nothing() -> None:
    probabilities, wrong = pool(2000, 4)
    plan = make_plan(probabilities, 0.05, 300, 4)
    first = decided(plan, wrong, 300)
    later = decide(plan, [*wrong[plan.order[:300]].tolist(), *[True] * 100])
    assert len(first.accepted) > 0
    assert first.accepted.tolist() == later.accepted.tolist()


def test_every_image_comes_first_equally_often() -> None:
    """The sample represents the pool, however sure the model is."""
    probabilities = np.linspace(0, 1, 50)
    first = np.concatenate([make_plan(probabilities, 0.1, 10, seed).order[:10] for seed in range(200)])
    counts = np.bincount(first, minlength=50)
    assert abs(counts - 40).max() < 6 * math.sqrt(40 * 0.8)


@pytest.mark.parametrize(("alpha", "sample"), [(0.0, 10), (1.0, 10), (0.05, 0)])
def test_plan_that_makes_no_sense_is_refused(alpha: float, sample: int) -> None:
    with pytest.raises(ValueError, match="must be between 0 and 1"):
        make_plan(np.ones(100), alpha, sample, 0)


def test_sample_of_the_whole_pool_leaves_nothing_to_decide() -> None:
    plan = make_plan(np.ones(20), 0.05, 20, 0)
    assert plan.looks == ()
    assert decide(plan, [False] * 5).more == 15


@settings(deadline=None)
@given(size=st.integers(1, 200), wrong=st.integers(0, 200), checked=st.integers(0, 200), seen=st.integers(0, 200))
def test_test_is_exact(size: int, wrong: int, checked: int, seen: int) -> None:
    wrong, checked = min(wrong, size), min(checked, size)
    step = guarantee.Step(size, checked, wrong - 1)
    exact = hypergeom.cdf(seen, size, wrong, checked)
    for delta in (0.01, 0.05, 0.3):
        if abs(exact - delta) > 1e-9:
            assert step.passes(seen, delta) == (exact <= delta)


@pytest.mark.parametrize(("share", "most"), [(0.01, 0.05), (0.02, 0.05)])
def test_audit_rarely_contradicts_a_promise_that_is_kept(share: float, most: float) -> None:
    contradicted = 0
    for seed in range(200):
        wrong = np.zeros(1000, bool)
        wrong[: round(share * 1000)] = True
        checks = np.random.default_rng(seed).permutation(wrong)[:300].cumsum()
        contradicted += any(audit(share, 1000, n, int(checks[n - 1])).contradicted for n in range(5, 300, 10))
    assert contradicted <= (most + 2 * math.sqrt(most * (1 - most) / 200)) * 200


def test_audit_contradicts_a_promise_that_is_broken() -> None:
    wrong = np.random.default_rng(0).permutation(np.arange(1000) < 80)
    checks = wrong.cumsum()
    stops = next(n + 1 for n, seen in enumerate(checks) if audit(0.02, 1000, n + 1, int(seen)).contradicted)
    assert stops < 200


@pytest.mark.parametrize("wrong", [0, 10, 60, 500, 1000])
def test_bounds_contain_the_truth_after_every_check(wrong: int) -> None:
    missed = 0
    for seed in range(30):
        order = np.random.default_rng(seed).permutation(np.arange(1000) < wrong).cumsum()
        found = [bounds(1000, n, int(order[n - 1])) for n in range(1, 400, 13)]
        missed += any(not low <= wrong <= high for low, high in found)
    assert missed <= 4  # at a rate of 5%, more have a probability of 2%


@settings(deadline=None)
@given(pool_size=st.integers(0, 300), checked=st.integers(0, 300), wrong=st.integers(0, 300))
def test_bounds_are_possible_numbers_and_contain_the_likeliest(pool_size: int, checked: int, wrong: int) -> None:
    checked = min(checked, pool_size)
    wrong = min(wrong, checked)
    low, high = bounds(pool_size, checked, wrong)
    assert wrong <= low <= high <= pool_size - (checked - wrong)
    if checked:
        assert low <= (pool_size + 1) * wrong / checked
        assert high >= pool_size * wrong // checked
    if checked == pool_size:
        assert low == high == wrong


def test_bounds_of_impossible_numbers_are_refused() -> None:
    for numbers in ((10, 11, 0), (10, 5, 6), (10, 5, -1)):
        with pytest.raises(ValueError, match="checked"):
            bounds(*numbers)


def test_images_labeled_meanwhile_leave_fewer_wrong_answers_allowed() -> None:
    """People label most of the images, and by chance only such that the model got right."""
    broken = accepted = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        wrong = random.permutation(1000) < 18  # 1.8% of all, but 6% of those that people leave
        gone = random.permutation(np.flatnonzero(~wrong))[:700]
        plan = make_plan(np.full(1000, 0.99), 0.05, 400, seed)
        found = decide(plan, wrong[plan.order[:400]].tolist(), gone.tolist()).accepted
        assert set(found.tolist()).isdisjoint(gone.tolist())
        broken += wrong[found].sum() > 0.05 * len(found)
        accepted += len(decide(plan, wrong[plan.order[:400]].tolist()).accepted) > 0
    assert broken <= 16
    assert accepted > 20, "if they had labeled none of them, much would be accepted"


def test_surest_images_that_are_all_in_the_sample_are_not_the_start() -> None:
    """With this seed, the four surest of 200 images are among the 80 that are labeled."""
    probabilities = np.linspace(1, 0.95, 200)
    plan = make_plan(probabilities, 0.05, 80, 33)
    assert set(range(4)) <= set(plan.order[:80].tolist())
    assert plan.looks[0].steps[0].size > 4
    assert len(decided(plan, np.zeros(200, bool), 80).accepted) > 0


def test_decision_tells_the_labels_that_it_rests_on() -> None:
    wrong = np.zeros(1000, bool)
    plan = make_plan(np.full(1000, 0.99), 0.05, 200, 0)
    wrong[plan.order[7]] = True
    decision = decided(plan, wrong, 200)
    assert (len(decision.accepted), decision.checked, decision.wrong) == (800, 200, 1)


@pytest.mark.parametrize(("images", "alpha", "labels"), [(10**6, 0.01, 499), (10**6, 0.05, 99), (20, 0.01, 0)])
def test_first_decision_comes_when_one_wrong_answer_is_not_too_many(images: int, alpha: float, labels: int) -> None:
    assert abs(first_sample(images, alpha) - labels) <= 1


@pytest.mark.parametrize(("images", "mistakes"), [(500, 0), (1500, 1)])
def test_first_decision_allows_one_wrong_answer_unless_the_pool_is_small(images: int, mistakes: int) -> None:
    sample = first_sample(images, 0.02)
    wrong = np.zeros(images, bool)
    plan = make_plan(np.full(images, 0.99), 0.02, sample, 0)
    for number in range(mistakes + 1):
        assert len(decided(plan, wrong, sample).accepted) > 0
        wrong[plan.order[number]] = True
    assert len(decided(plan, wrong, sample).accepted) == 0
    assert len(decided(plan, np.zeros(images, bool), sample - 1).accepted) == 0


@pytest.mark.parametrize(("images", "alpha"), [(150, 0.02), (300, 0.01)])
def test_pool_that_needs_nearly_all_labels_has_no_sample(images: int, alpha: float) -> None:
    assert first_sample(images, alpha) == 0
