"""The robust distribution: the best p against the worst gradient norms that the uncertainty set allows.

The set is an axis-aligned ellipsoid around the predicted norms ⟨c,s_i⟩, with squared half-axes proportional to
⟨d,s_i⟩. The minimax problem over it has a closed form, in which the predicted norm of each example is raised by its
own uncertainty: that is the smoothing, learned.

| paper | code     | shape  | unit                                    |
|-------|----------|--------|-----------------------------------------|
| s_i   | features | (n, q) | non-negative, see features.py           |
| c     | c        | (q,)   | norm per unit of each feature, ≥ 0      |
| d     | d        | (q,)   | squared norm per unit of each feature, ≥ 0 |
| k     | k        | scalar | 1/norm                                  |
| v_i   | norms    | (n,)   | norm                                    |

    U = { v ≥ 0 : (1/n) Σ_i (⟨c,s_i⟩ − v_i)² / ⟨d,s_i⟩ ≤ 1 }                    [seen; form recalled]
    p = arg min_p max_{v∈U} (1/n²) Σ_i v_i²/p_i                                  [seen]
      ⇒ p_i ∝ v_i = ⟨c,s_i⟩ + k ⟨d,s_i⟩,  k = (mean_j ⟨d,s_j⟩)^(−1/2)
    [v_i seen; k derived, docs/derivations.md: k]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float, Float64


def inverse_radius(mean_features: Float64[Tensor, " q"], d: Float64[Tensor, " q"]) -> Float64[Tensor, ""]:
    """k = (mean_j⟨d,s_j⟩)^(−1/2), from `mean_features` (q,) = mean_j s_j.  [derived, docs/derivations.md: k]"""
    return (mean_features @ d).rsqrt()


def robust_norms(
    features: Float[Tensor, "... q"],
    c: Float64[Tensor, " q"],
    d: Float64[Tensor, " q"],
    k: Float64[Tensor, ""],
) -> Tensor:
    """v_i = ⟨c,s_i⟩ + k⟨d,s_i⟩ for `features` (…, q): to be sampled in proportion to.
    [seen; k derived, docs/derivations.md: k]

    These are the worst norms in U for the distribution proportional to them.
    """
    return features @ (c + k * d).to(features.dtype)
