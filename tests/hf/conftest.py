"""Small random encoders of every family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers")

TEXT = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 40,
}
PICTURE = {
    "hidden_size": 16,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "intermediate_size": 16,
    "image_size": 12,
    "patch_size": 4,
}
SIZES: dict[str, dict[str, Any]] = {
    "Bert": TEXT,
    "Roberta": TEXT,
    "XLMRoberta": TEXT,
    "Electra": {**TEXT, "embedding_size": 8},
    "DistilBert": {
        "vocab_size": 50, "dim": 16, "n_heads": 2, "n_layers": 2, "hidden_dim": 16,
        "max_position_embeddings": 40,
    },
    "Albert": {**TEXT, "embedding_size": 8},
    "ViT": PICTURE,
    "DeiT": PICTURE,
    "CLIPVision": PICTURE,
    "ModernBert": {
        **TEXT, "num_hidden_layers": 4, "global_attn_every_n_layers": 3, "local_attention": 4,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1,
        "sep_token_id": 2,
    },
}  # fmt: skip
TEXTS = [family for family in SIZES if SIZES[family].get("image_size") is None]


def _build(family: str, attention: str = "sdpa", **changes: Any) -> Any:
    torch.manual_seed(3)
    config = getattr(transformers, f"{family}Config")(**{**SIZES[family], **changes})
    config._attn_implementation = attention
    model = getattr(transformers, f"{family}Model")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


def _inputs(family: str, padded: bool = True) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    if family not in TEXTS:
        return {"pixel_values": torch.randn(3, 3, 12, 12, generator=generator)}
    tokens = torch.randint(3, 50, (3, 11), generator=generator)
    mask = torch.ones_like(tokens)
    if padded:
        mask[1, 7:] = 0
        mask[2, 1:] = 0
    return {"input_ids": tokens, "attention_mask": mask}


@pytest.fixture
def build() -> Callable[..., Any]:
    """Makes a model: ``build(family, attention="sdpa", **configuration)``."""
    return _build


@pytest.fixture
def inputs() -> Callable[..., dict[str, torch.Tensor]]:
    """Makes a batch of three, of which two are padded: ``inputs(family, padded=True)``."""
    return _inputs
