"""What the ranks of a data-parallel run tell one another at each step.

One sum over ranks carries the norms of the whole minibatch to all of them, and the squares that φ is made of. With
them every rank observes the same, computes the same r to the last bit, and draws the same minibatch next.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from rais.sampling.draw import Draw

DIGESTED = 8192  # elements of a tensor that ranks compare


class Ranks:
    """The ranks of `group`, a process group or None for a single process.

    Raises:
        ValueError: torch.distributed runs several ranks and no group is named.
    """

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        self.group = group
        is_running = dist.is_available() and dist.is_initialized()
        if group is None and is_running and dist.get_world_size() > 1:
            raise ValueError(
                f"torch.distributed runs {dist.get_world_size()} ranks and no group is named, so each would draw and "
                "learn by itself: pass group=torch.distributed.group.WORLD"
            )
        self.count = dist.get_world_size(group) if group is not None else 1
        self.rank = dist.get_rank(group) if group is not None else 0

    def own_range(self, m: int) -> tuple[int, int]:
        """Where this rank's part of a minibatch of m begins and ends, as Draw.part cuts it."""
        short, longer = divmod(m, self.count)
        begin = self.rank * short + min(self.rank, longer)
        return begin, begin + short + (self.rank < longer)

    def own_part(self, draw: Draw) -> Draw:
        return draw if self.count == 1 else draw.part(self.rank, self.count)

    def share(self, m: int, first: int, norm: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Norms and weights (m,) of the whole minibatch, from this rank's, which begin at example `first`."""
        slots = self._slots(2 * m, [(first, norm), (m + first, weight)])
        return slots[:m].to(norm.dtype), slots[m:].to(weight.dtype)

    def share_parts(
        self, m: int, firsts: Sequence[int], sizes: Sequence[int], part_sq: Tensor
    ) -> tuple[list[int], Tensor]:
        """Sizes and squares of the parts of all ranks, in the order of their first example."""
        own = torch.tensor(sizes, dtype=torch.float64, device=part_sq.device)
        pieces = [(f, own[k : k + 1]) for k, f in enumerate(firsts)]
        pieces += [(m + f, part_sq[k : k + 1]) for k, f in enumerate(firsts)]
        slots = self._slots(2 * m, pieces).view(2, m)
        is_part = slots[0] > 0
        return [int(s) for s in slots[0][is_part].tolist()], slots[1][is_part]

    def _slots(self, size: int, pieces: Sequence[tuple[int, Tensor]]) -> Tensor:
        slots = torch.zeros(size, dtype=torch.float64, device=pieces[0][1].device)
        for first, values in pieces:
            slots[first : first + len(values)] = values
        with answering():
            dist.all_reduce(slots, group=self.group)
        return slots

    def agreed(self, square: Tensor) -> Tensor:
        """`square` () of the first rank, for all: ‖g‖² as the backward ended. Waits for all.

        Raises:
            RuntimeError: that of another rank is not the same, so that gradients were not averaged by then.
        """
        everyone = [torch.empty_like(square) for _ in range(self.count)]
        with answering():
            dist.all_gather(everyone, square.contiguous(), group=self.group)
        if not torch.isclose(torch.stack(everyone), everyone[0], rtol=1e-3, equal_nan=True).all():
            raise RuntimeError(
                "the gradients of the ranks differ as the backward ends: train the model through "
                "DistributedDataParallel, which averages them during the backward"
            )
        return everyone[0]

    def compare(self, what: dict[str, object]) -> None:
        """Refuse to go on where a value differs between ranks. Waits for all.

        Raises:
            RuntimeError: it names the values that differ.
        """
        own = [_digest(value) for value in what.values()]
        mine = torch.tensor(own, dtype=torch.int64)
        backend = dist.get_backend(self.group)
        mine = mine.cuda() if backend == "nccl" else mine
        everyone = [torch.empty_like(mine) for _ in range(self.count)]
        with answering():
            dist.all_gather(everyone, mine, group=self.group)
        differ = [name for k, name in enumerate(what) if len({int(x[k]) for x in everyone}) > 1]
        if differ:
            raise RuntimeError(
                f"the ranks differ in {', '.join(differ)}: build sampler and engine alike on every rank, from the same "
                "seed and state, and train the model through DistributedDataParallel"
            )


def _digest(value: object) -> int:
    """56 bits of the SHA-256 of a value; of a tensor, its first DIGESTED elements in whatever dtype."""
    if isinstance(value, Tensor):
        values = value.detach().coalesce().values() if value.is_sparse else value.detach()
        data = values.reshape(-1)[:DIGESTED].cpu().contiguous().view(torch.uint8).numpy().tobytes()
    else:
        data = repr(value).encode()
    return int.from_bytes(hashlib.sha256(data).digest()[:7], "big")


@contextmanager
def answering() -> Iterator[None]:
    """Turns the many errors of a rank that is gone into one line.

    Raises:
        RuntimeError: a rank does not answer.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if isinstance(error, dist.DistError) or "gloo" in text or "Connection" in text or "NCCL" in text:
            first = text.strip().splitlines()[0][:160]
            raise RuntimeError(
                f"a rank of the group does not answer any more ({first}): restart all ranks from the last checkpoint"
            ) from None
        raise
