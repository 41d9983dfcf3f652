"""What is asked of every patched run: which answers, where they are read, and by which metric."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_course.errors import CourseError, kind_of
from mi_course.patching.metrics import METRICS, kl
from mi_course.patching.nodes import checked_pos, chosen, tensor_of
from mi_course.patching.runs import Run


def whole(numbers: Tensor) -> bool:
    """Whether they are whole numbers, and no truth values."""
    return not (numbers.is_floating_point() or numbers.is_complex() or numbers.dtype == torch.bool)


class Question:
    """Right and wrong answers, the position they are read at, and a metric of the logits there."""

    def __init__(self, run: Run, d_vocab: int, right, wrong, pos, metric):
        self.run, self.device = run, run.tokens.device
        self.n_batch, self.n_pos = run.tokens.shape
        self.right = self._answers("right", right, d_vocab)
        self.wrong = None if wrong is None else self._answers("wrong", wrong, d_vocab)
        if self.wrong is not None and bool((self.right == self.wrong).any()):
            raise CourseError("A right answer equals the wrong one: their difference says nothing.")
        self.pos = self._positions(pos)
        self.metric = metric if isinstance(metric, str) else getattr(metric, "__name__", "metric")
        self.reference: Float[Tensor, "batch d_vocab"] | None = None  # the clean logits, for kl
        self.columns, self._measure = self._metric(metric)

    def _answers(self, name: str, given, d_vocab: int) -> Int[Tensor, "batch"]:
        if isinstance(given, str) or (isinstance(given, Sequence) and any(isinstance(t, str) for t in given)):
            raise CourseError(
                f"{name} holds text: pass one token id a prompt, of answers that are a single token."
            )
        try:
            tokens = torch.as_tensor(given, device=self.device)
        except (TypeError, ValueError, RuntimeError) as error:
            what = (
                "holds answers of unequal lengths" if isinstance(given, Sequence) else f"is {kind_of(given)}"
            )
            raise CourseError(
                f"{name} {what}: pass one token id a prompt, of answers that are a single token."
            ) from error
        if tokens.ndim == 0 and self.n_batch == 1:
            tokens = tokens[None]
        if tokens.shape != (self.n_batch,) or not whole(tokens):
            raise CourseError(
                f"{name} must be one token id for each of the {self.n_batch} prompts, [batch], not "
                f"{list(tokens.shape)} {tokens.dtype}: answers of several tokens need a metric of their own."
            )
        if int(tokens.min()) < 0 or int(tokens.max()) >= d_vocab:
            raise CourseError(f"{name} holds an id outside the vocabulary 0…{d_vocab - 1}.")
        return tokens.long()

    def _positions(self, pos) -> Int[Tensor, "batch"]:
        given = tensor_of(pos)
        given = given.expand(self.n_batch) if given.ndim == 0 else given
        if given.shape != (self.n_batch,) or not whole(given):
            raise CourseError(
                f"pos must be an int or one position for each of the {self.n_batch} prompts: −1 is the last."
            )
        found = torch.tensor([checked_pos(p, self.n_pos) for p in given.tolist()], device=self.device)
        if self.run.mask is not None and not bool(self.run.mask[range(self.n_batch), found].all()):
            raise CourseError(
                "An answer is read at padding: pad on the left, or say with pos= where each prompt ends."
            )
        return found

    def _metric(self, metric) -> tuple[Tensor | None, Callable]:
        """The columns of the logits that the metric reads (None: all), and the metric as a function of them."""
        if callable(metric):
            return None, metric
        function = METRICS[chosen("metric", metric, METRICS)]
        if metric == "logit_diff":
            if self.wrong is None:
                raise CourseError("logit_diff needs wrong=: one token id a prompt.")
            return torch.stack([self.right, self.wrong], 1), lambda two: two[..., 0] - two[..., 1]
        if metric == "kl":
            return None, lambda logits: kl(logits, self.reference)
        return None, lambda logits: function(logits, self.right)

    def score(self, logits: Tensor) -> Float[Tensor, "*cell batch"]:
        """One number a prompt."""
        score = self._measure(logits)
        if score.shape != logits.shape[:-1]:
            raise CourseError(
                f"The metric made {list(score.shape)} of logits {list(logits.shape)}: it must keep every axis "
                "but the last, one number a prompt."
            )
        return score
