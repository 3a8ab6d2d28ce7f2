"""Initial position embeddings."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sbmgraph.checks import check_positive_int


def picture_codes(num_pixels: int, channels: int, picture_width: int) -> Tensor:
    r"""Sinusoidal codes of the pixels of a picture, row by row.

    A quarter of the channels each holds :math:`\sqrt{2} \sin \omega_f y`,
    :math:`\sqrt{2} \sin \omega_f x`, and the same with cosines, for row :math:`y`, column
    :math:`x` and the frequencies :math:`\omega_f = w^{-f/F}`, :math:`f = 0, \ldots, F - 1`, with
    :math:`F = C / 4`. These are the codes of Vaswani et al. (NeurIPS 2017, Section 3.5) along both
    axes, with the width :math:`w` in place of 10000. The product of two pixels' codes is a function
    of their displacement.

    Args:
        num_pixels (int): The number of pixels :math:`n`; the last row may be incomplete.
        channels (int): Channels :math:`C`, a multiple of 4.
        picture_width (int): Pixels :math:`w` of a row.

    Returns:
        Codes of shape :obj:`[n, C]`; each has a mean square of 1.

    Raises:
        ValueError: If a number is not positive, or :obj:`channels` not a multiple of 4.
    """
    check_positive_int("num_pixels", num_pixels)
    check_positive_int("channels", channels)
    check_positive_int("picture_width", picture_width)
    if channels % 4:
        raise ValueError(
            f"'channels' must be a multiple of 4 to hold 'picture_width' codes, got {channels}"
        )
    frequencies = channels // 4
    exponent = -torch.arange(frequencies, dtype=torch.float64) / frequencies
    pixel = torch.arange(num_pixels)
    place = torch.stack([pixel.div(picture_width, rounding_mode="floor"), pixel % picture_width], 1)
    angle = (place.unsqueeze(2) * float(picture_width) ** exponent).flatten(1)
    return (math.sqrt(2.0) * torch.cat([angle.sin(), angle.cos()], dim=1)).float()
