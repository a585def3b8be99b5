"""One look for each arm: distinct in colour and line, in grey too, and the same whatever else is drawn."""

from __future__ import annotations

import itertools

import pytest
from matplotlib.colors import to_hex, to_rgb

from rais.paper.figures import style
from rais.paper.records.layout import ARMS

OKABE_ITO = {"#000000", "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7"}


def test_every_arm_has_a_look_of_its_own():
    assert set(style.ARMS) == set(ARMS)
    assert len({(look.color, look.line) for look in style.ARMS.values()}) == len(ARMS)
    assert len({look.label for look in style.ARMS.values()}) == len(ARMS)


def test_without_colour_lines_and_markers_still_differ():
    assert len({look.line for look in style.ARMS.values()}) == len(ARMS)
    assert len({look.marker for look in style.ARMS.values()}) == len(ARMS)


def test_what_is_drawn_together_differs_without_colour_too():
    noise = ["rais", *(name for name in style.VARIANTS if name.startswith("with_"))]
    for names in (noise, ["unprotected", "protected"]):
        looks = [style.look(name) for name in names]
        assert len({look.line for look in looks}) == len({look.marker for look in looks}) == len(looks)
        assert len({look.color for look in looks}) == len(looks)


@pytest.mark.parametrize("looks", [style.ARMS, style.VARIANTS, style.ESTIMATORS])
def test_colours_are_those_for_the_colour_blind(looks):
    assert {to_hex(look.color) for look in looks.values()} <= OKABE_ITO


def test_colours_stand_out_from_white_paper():
    for look in [*style.ARMS.values(), *style.VARIANTS.values(), *style.ESTIMATORS.values()]:
        red, green, blue = to_rgb(look.color)
        assert 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.75


def test_an_arm_that_is_not_listed_keeps_one_look():
    assert style.look("smoothed_0.05") == style.look("smoothed_0.05")
    arms = ["smoothed_0.05", "smoothed_0.5", "mine", "uniform_multiplier_adaptive"]
    for one, other in itertools.combinations(arms, 2):
        assert (style.look(one).line, style.look(one).marker) != (style.look(other).line, style.look(other).marker)
    assert style.look("mine").color not in {look.color for look in style.ARMS.values()}


def test_estimators_and_truth_differ():
    looks = [style.TRUTH, *style.ESTIMATORS.values()]
    assert len({(look.color, look.line) for look in looks}) == len(looks)
