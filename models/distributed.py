"""One unit on several GPUs or hosts: `torchrun` starts the processes, DDP or FSDP2 averages their gradients.

Nothing here trains one unit across strangers: the ranks of a unit belong to one contributor and trust each other.
Every rank holds a share of the batch; DDP keeps the whole network on each, FSDP2 (`fully_shard`) a slice of every
tensor. The optimiser and the averages work on plain local tensors either way, because AdamW treats every number alone;
only the gradient's norm, the loss and the files need all ranks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

TIMEOUT_S = 6 * 3600.0
"""How long a rank waits for the others, one of which may be encoding the data; `torchrun` notices at once who died."""


class DistributedError(ValueError):
    """The processes of a unit do not fit it."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that train one unit together.

    Attributes:
        number: this one, from 0; only 0 speaks and writes.
        count: all of them.
        sharded: FSDP2 instead of DDP, for networks that do not fit one GPU.
    """

    number: int = 0
    count: int = 1
    sharded: bool = False

    @property
    def first(self) -> bool:
        """Whether this is the rank that speaks and writes."""
        return self.number == 0

    def share(self, batch: int) -> slice:
        """Return this rank's rows of a batch.

        Raises:
            DistributedError: where the batch cannot be shared equally.
        """
        if batch % self.count:
            raise DistributedError(
                f"A batch of {batch} cannot be shared equally among {self.count} processes, and unequal shares would "
                f"train another network. Start a number of processes that divides {batch}."
            )
        size = batch // self.count
        return slice(self.number * size, (self.number + 1) * size)

    def wrap(self, network: nn.Module) -> Any:
        """Return the module to call in training; FSDP2 turns the network's own parameters into shards, in place."""
        if self.sharded:
            from torch.distributed.fsdp import fully_shard  # noqa: PLC0415 (absent from builds without distributed)

            kinds = getattr(network, "_no_split_modules", None) or ()
            for block in reversed([module for module in network.modules() if type(module).__name__ in kinds]):
                fully_shard(block)
            # The root, too, forgets the gathered weights: an evaluation has no backward pass that would end with that.
            return fully_shard(network, reshard_after_forward=True)
        if self.count == 1:
            return network
        return nn.parallel.DistributedDataParallel(network, gradient_as_bucket_view=True)

    @contextmanager
    def averaging(self, module: Any, last: bool) -> Iterator[None]:
        """Average gradients among ranks in the last backward pass of a step only."""
        if self.sharded:
            module.set_requires_gradient_sync(last)
            yield
        else:
            with nullcontext() if last or self.count == 1 else module.no_sync():
                yield

    def total(self, x: Tensor) -> Tensor:
        """Return the sum over ranks, on every rank, without waiting for the device."""
        if self.count > 1:
            x = x.clone()
            dist.all_reduce(x)
        return x

    def least(self, number: int) -> int:
        """Return the smallest number any rank has. Waits for the others."""
        if self.count == 1:
            return number
        said = self._said(number)
        dist.all_reduce(said, op=dist.ReduceOp.MIN)
        return int(said)

    def any(self, answer: bool) -> bool:
        """Return whether any rank says yes: all go on or all stop. Waits for the others."""
        if self.count == 1:
            return answer
        return bool(self.total(self._said(int(answer))) > 0)

    @staticmethod
    def _said(number: int) -> Tensor:
        return torch.tensor(number, device="cuda" if dist.get_backend() == "nccl" else "cpu")


ALONE = Ranks()


def local(x: Tensor) -> Tensor:
    """Return this rank's numbers of a tensor, sharing their memory; a plain tensor is its own."""
    return x.to_local() if hasattr(x, "to_local") else x


def whole(shard: Tensor, like: Tensor) -> Tensor:
    """Return the tensor that local numbers are a part of, gathered from all ranks, which must all ask.

    Args:
        shard: this rank's numbers.
        like: the parameter they belong to.
    """
    if not hasattr(like, "to_local"):
        return shard
    from torch.distributed.tensor import DTensor  # noqa: PLC0415 (as above)

    spread: Any = like
    parts = DTensor.from_local(
        shard, spread.device_mesh, spread.placements, run_check=False, shape=like.shape, stride=like.stride()
    )
    return parts.full_tensor()


def part_of(full: Tensor, like: Tensor) -> Tensor:
    """Return this rank's numbers of a whole tensor; the opposite of `whole`."""
    if not hasattr(like, "to_local"):
        return full
    from torch.distributed.tensor import distribute_tensor  # noqa: PLC0415 (as above)

    spread: Any = like
    on_device = full.to(spread.device_mesh.device_type)
    return distribute_tensor(on_device, spread.device_mesh, spread.placements, src_data_rank=None).to_local()


@contextmanager
def joined(sharded: bool = False) -> Iterator[Ranks]:
    """Join the processes that `torchrun` started, by its environment; alone without it.

    Raises:
        DistributedError: they cannot be joined.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield ALONE
        return
    device = local_device()
    try:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(seconds=TIMEOUT_S))
    except (RuntimeError, ValueError) as error:
        raise DistributedError(f"The {count} processes of this unit cannot join: {error}") from error
    try:
        yield Ranks(dist.get_rank(), count, sharded)
    finally:
        dist.destroy_process_group()


def local_device() -> torch.device:
    """Return the device of this process: its own GPU where there are some, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    return torch.device("cpu")
