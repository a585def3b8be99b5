"""docs/wrong_use.md: every wrong use gets the message that the page promises, in one line."""

from __future__ import annotations

import pytest

import wrong_use


@pytest.mark.parametrize("case", wrong_use.CASES, ids=lambda case: case.__name__)
def test_wrong_use_is_refused_as_the_page_says(case) -> None:
    message = wrong_use.message_of(case)
    assert message, f"{case.__doc__}: nothing was said"
    assert "\n" not in message
    assert message == wrong_use.expected()[case.__doc__], "run `python tests/support/wrong_use.py`"


def test_the_page_has_at_least_25_cases_and_no_others() -> None:
    rows = wrong_use.expected()
    assert len(wrong_use.CASES) >= 25
    assert set(rows) - {"what is done wrong", "---"} == {case.__doc__ for case in wrong_use.CASES}
