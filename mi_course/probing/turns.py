"""A game of turns, in which *mine and yours* matters and *black and white* does not. Derived in notebook 10 (PR-07)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mi_course.corpora.corpus import generator
from mi_course.errors import CourseError


class Games(NamedTuple):
    """Games and, after every move, the board: whose each cell is, and what the next player may take.

    Args:
        moves: cells in their order [game pos].
        black: cells of who began [game pos cell].
        white: the other's.
        mine: cells of who moves next.
        yours: cells of who has just moved.
        legal: what may be taken next.
    """

    moves: Int[Tensor, "game pos"]
    black: Bool[Tensor, "game pos cell"]  # owned by the player who began
    white: Bool[Tensor, "game pos cell"]
    mine: Bool[Tensor, "game pos cell"]  # owned by the player who moves next
    yours: Bool[Tensor, "game pos cell"]
    legal: Bool[Tensor, "game pos cell"]  # for the next player: whatever is not mine


def play(n: int, cells: int = 6, length: int = 12, *, seed: int = 0) -> Games:
    """Random games: two players in turn take any cell that they do not hold, empty or the other's.

    Args:
        n: how many.
        cells: of the board.
        length: moves a game.
        seed: of everything drawn.
    """
    if cells < 3 or length < 2:
        raise CourseError(f"{cells} cells and {length} moves: a game needs at least 3 and 2.")
    rng, owner = generator(seed, 15), torch.zeros(n, cells)  # +1 black, −1 white
    moves, boards = [], []
    for turn in range(length):
        player = 1.0 if turn % 2 == 0 else -1.0
        chance = torch.rand(n, cells, generator=rng).masked_fill(owner == player, -1.0)
        move = chance.argmax(1)
        owner = owner.scatter(1, move[:, None], player)
        moves.append(move)
        boards.append(owner)
    board = torch.stack(boards, dim=1)  # game pos cell
    next_player = torch.where(torch.arange(length) % 2 == 0, -1.0, 1.0)[:, None]
    mine, yours = board == next_player, board == -next_player
    return Games(torch.stack(moves, dim=1), board == 1, board == -1, mine, yours, ~mine)
