"""The ring of recent visits against a plain list."""

from __future__ import annotations

import pytest
import torch

from rais.sampling.visits import Visits


@pytest.mark.parametrize(("size", "m"), [(10, 3), (10, 5), (7, 7), (5, 1)])
def test_it_holds_the_last_visits(size, m):
    visits, rows, source = Visits(size, 2), [], torch.Generator().manual_seed(0)
    for _ in range(20):
        features, norms, weights = (torch.rand(m, *tail, generator=source) for tail in ((2,), (), ()))
        visits.append(features, norms, weights)
        rows += torch.cat([features, norms[:, None], weights[:, None]], dim=1).tolist()
        assert visits.added == len(rows)
        s, v, weight = visits.contents()
        held = torch.cat([s, v[:, None], weight[:, None]], dim=1).tolist()
        assert sorted(held) == sorted(rows[-size:])


def test_more_visits_at_once_than_there_is_room_for_leave_the_last_ones():
    visits, norms = Visits(5, 1), torch.arange(40.0)
    for start, end in ((0, 3), (3, 11), (11, 20), (20, 21), (21, 33), (33, 40)):
        part = norms[start:end]
        visits.append(part[:, None], part, part)
        if end >= 5:
            assert sorted(visits.contents()[1].tolist()) == norms[end - 5 : end].tolist()
