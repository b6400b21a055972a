import pytest

from benchmarks.comparison import Row, compare, table, verdict


@pytest.mark.parametrize(
    ("now", "kept", "outcome"),
    [
        (1.04, [1.0, 1.0, 1.0], ""),  # the runs agreed, maybe by chance
        (1.06, [1.0, 1.0, 1.0], "WORSE"),
        (0.94, [1.0, 1.0, 1.0], "better"),
        (1.19, [0.9, 1.0, 1.1], ""),  # above the highest, but not by more than the runs differed
        (1.21, [0.9, 1.0, 1.1], "WORSE"),
        (0.81, [0.9, 1.0, 1.1], ""),
        (0.79, [0.9, 1.0, 1.1], "better"),
        (0.0023, [0.0019, 0.002, 0.0021], "WORSE"),  # shares of the figure, not differences
        (1.2, [1.0, 1.0, 9.0], ""),  # one run was disturbed
        (2.0, [], ""),
    ],
)
def test_change_counts_if_larger_than_spread_and_five_percent(now: float, kept: list[float], outcome: str) -> None:
    assert Row("one new image", now, kept).outcome == outcome


def test_change_is_relative_to_median() -> None:
    assert Row("one new image", 0.66, [0.61, 0.5, 0.6]).change == pytest.approx(0.1)


ROWS = compare(
    {"one new image": 0.8, "cached images": 0.00123, "heads": 9.0, "memory": 1.25},
    {"one new image": [0.61, 0.6, 0.59], "cached images": [0.0012, 0.0013], "heads": [12, 13, 12], "gone": [1]},
)


def test_table_shows_figures_spread_and_change() -> None:
    assert table(ROWS).splitlines() == [
        "measure                                     now     kept  lowest to highest    change",
        "one new image                               0.8      0.6  0.59 to 0.61           +33%  WORSE",
        "cached images                           0.00123  0.00125  0.0012 to 0.0013        -2%",
        "heads                                         9       12  12 to 13               -25%  better",
        "memory                                     1.25     none",
    ]


def test_verdict_names_what_is_worse_and_better() -> None:
    assert verdict(ROWS) == (
        "Worse than the kept figures by more than their spread: one new image. Better by more than the spread: heads."
    )
    assert verdict(ROWS[1:2]) == "No figure differs from the kept ones by more than their spread."
