"""A Transformers encoder in the place of this library's own, for the Lightning tasks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel

from sbmgraph.checks import check_choice
from sbmgraph.hf.conversion import convert

INIT_DENSITY = 0.95


class EncoderClassifier(nn.Module):
    """A pretrained encoder and a linear classifier over the mean of its tokens.

    Called as :class:`~sbmgraph.nn.Transformer` is, on flat tokens.

    Args:
        folder: Folder of the encoder.
        num_classes: The number of classes.
        name: ``"sbm"`` for SBM heads in the place of its attention (a folder of a converted encoder
            has them already), ``"full"`` for none.
        dropout: Dropout probability before the classifier.
        **options: Of :func:`~sbmgraph.hf.convert`, unless the folder has them; ``init_density`` is
            :data:`INIT_DENSITY` if not given: heads that are dense learn no graphs.

    Raises:
        ValueError: If the model is none that can be converted, or has heads and ``"full"`` was
            asked for.
    """

    def __init__(
        self, folder: str, num_classes: int, name: str = "sbm", dropout: float = 0.1, **options: Any
    ) -> None:
        super().__init__()
        check_choice("name", name, ("sbm", "full"))
        encoder = AutoModel.from_pretrained(folder)
        converted = hasattr(encoder.config, "sbm")
        if name == "full" and converted:
            raise ValueError(f"'name' must be 'sbm' for the converted encoder {folder}, got 'full'")
        if name == "sbm" and not converted:
            encoder = convert(encoder, **{"init_density": INIT_DENSITY, **options})
        self.encoder = encoder.train()  # `from_pretrained` leaves it in evaluation mode
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(encoder.config.hidden_size, num_classes)

    def forward(self, tokens: Tensor, batch: Tensor, position: Tensor, **_: Any) -> Tensor:
        """Scores [B, num_classes] of flat tokens [T] with their sequences [T] and positions [T]."""
        size = (int(batch[-1]) + 1, int(position.max()) + 1)
        padded = tokens.new_zeros(size).index_put((batch, position), tokens)
        mask = torch.zeros(size, dtype=torch.bool, device=tokens.device)
        mask = mask.index_put((batch, position), torch.ones_like(batch, dtype=torch.bool))
        features = self.encoder(input_ids=padded, attention_mask=mask).last_hidden_state
        total = (features * mask.unsqueeze(-1)).sum(dim=1)
        return self.classifier(self.dropout(total / mask.sum(dim=1, keepdim=True)))
