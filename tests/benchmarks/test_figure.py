"""Figures: which direction is good, and what tables show of them."""

from mldec.benchmarks.figure import Figure, as_grid, as_table


def test_a_target_is_a_ceiling_unless_higher_is_better():
    assert Figure("a", 2.0, "s", 3.0).met
    assert not Figure("a", 2.0, "img/s", 3.0, better="higher").met
    assert Figure("a", 4.0, "img/s", 3.0, better="higher").met
    assert Figure("a", None, "s", 3.0).met is False
    assert Figure("a", 2.0, "s").met is None
    assert "at least 3 img/s" in as_table([Figure("a", 4.0, "img/s", 3.0, better="higher")])


def test_a_grid_has_a_row_a_thing_and_says_a_common_note_once():
    figures = [
        Figure("gap: speed", 10.0, "img/s", note="two rounds", samples=(9.0, 11.0)),
        Figure("gap: size", 5.0, "M"),
        Figure("decoder: speed", None, "img/s", note="out of memory"),
        Figure("decoder: size", 6.0, "M"),
        Figure("device", 7.0, "G/s", note="float32"),
    ]
    grid = as_grid(figures)
    assert "|  | speed [img/s] | size [M] |" in grid
    assert "| gap | 10 (9 to 11) | 5 |" in grid
    assert "| decoder | - | 6 |" in grid
    assert "* decoder: speed: out of memory" in grid
    assert "* device: 7 G/s, float32" in grid
    assert as_grid([figures[0], Figure("b: speed", 1.0, "img/s", note="two rounds")]).count("two rounds") == 1
