"""Where the tokens of a sparse request are stored among its KV blocks. Imports only torch.

A prompt of `read` tokens got ceil(read / size) blocks. Every layer of a block table stores what it
kept from the front of the first one. `most` is the largest number of tokens that any of these layers
kept: blocks [ceil(most / size), read // size) are unused and freed. Later tokens follow a layer's
last kept token and skip this gap. There is always room: the blocks that are left
hold ceil(most / size) * size + size * ceil((read % size + new) / size) >= most + new tokens.

R requests, W blocks in a row of the block table, N tokens of a step.
"""

import torch


def empty_blocks(most: int, read: int, size: int) -> tuple[int, int]:
    """[first, last) of the blocks that hold nothing; the same rule in scheduler and workers."""
    first = -(-most // size)
    return first, max(first, read // size)


def compact_table(table: torch.Tensor, hole: torch.Tensor) -> torch.Tensor:
    """(R, W) block table without each row's empty blocks. hole: (2, R), first and number."""
    column = torch.arange(table.shape[1], device=table.device)
    shift = torch.where(column >= hole[0][:, None], hole[1][:, None], 0)
    return table.gather(1, (column + shift).clamp(max=table.shape[1] - 1))


def slots_of(table: torch.Tensor, row: torch.Tensor, index: torch.Tensor, size: int):
    """(N,) cache slot of the token number `index` (N,) that is stored for each row (N,)."""
    index = index.long()
    return table[row, index // size].long() * size + index % size
