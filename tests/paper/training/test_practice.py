"""After practice a run loads no compiled loop any more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rais import compiled

SUPPORT = Path(__file__).resolve().parents[2] / "support"
RUN = """
import sys
import tempfile
sys.path.insert(0, sys.argv[1])
import toy
from pathlib import Path
from rais.gain import loops as gain
from rais.gradnorm import loops as gradnorm
from rais.paper.settings import RAISConfig
from rais.paper.training import build
from rais.paper.training.loop import Loop
from rais.paper.training.practice import practise
from rais.sampling import loops as sampling

loops = [x for module in (gain, gradnorm, sampling) for x in vars(module).values() if hasattr(x, "signatures")]
assert not any(loop.signatures for loop in loops)
practise()
before = {loop.__name__: len(loop.signatures) for loop in loops}
print(*[name for name, count in before.items() if count], sep=",")
for draws in ("independent", "spaced"):
    cfg = toy.settings(Path(tempfile.mkdtemp()), sampler=RAISConfig(visits=100, refresh=2, draws=draws))
    run = Loop(build.build(cfg, toy.toy_data()), None, epochs=8, evaluations=4)
    run.run_timed(40)
print(*[loop.__name__ for loop in loops if len(loop.signatures) > before[loop.__name__]], sep=",")
"""


@pytest.mark.skipif(compiled.numba is None, reason="numba is not installed: there is nothing to load")
def test_a_run_loads_no_loop_after_practice() -> None:
    done = subprocess.run([sys.executable, "-c", RUN, str(SUPPORT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    practised, later = done.stdout.split("\n")[:2]
    assert {"average", "label_norms", "sample", "visit"} <= set(practised.split(",")) and not later
