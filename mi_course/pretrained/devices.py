"""Where a model is computed, from a name or a `torch.device`: the same device, however it is written."""

from __future__ import annotations

import torch

from mi_course.errors import CourseError, first_line


def named(device: str | torch.device) -> torch.device:
    """The device that is meant, on this machine or not; one sentence for what torch does not know.

    Args:
        device: `cpu`, `cuda`, `cuda:1`, …, or a `torch.device`.
    """
    try:
        return torch.device(device)
    except (RuntimeError, TypeError):
        raise CourseError(f"torch knows no device {device!r}: pass 'cpu', 'cuda' or 'mps'.") from None


def present(device: str | torch.device) -> torch.device:
    """The device that is meant, which this machine has.

    Args:
        device: as for `named`.
    """
    meant = named(device)
    try:
        torch.empty(1, device=meant)
    except (RuntimeError, AssertionError, ImportError) as error:  # each kind of device raises its own
        raise CourseError(
            f"This machine has no device {str(meant)!r} ({first_line(error).rstrip('.')}): pass device='cpu'."
        ) from error
    return meant
