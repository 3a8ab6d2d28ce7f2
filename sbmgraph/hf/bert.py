"""What single classes with SBM heads do differently."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.modeling_outputs import MaskedLMOutput


class SparseMaskedLM:
    """A masked-language-model head that looks at labelled positions only: with tens of thousands of
    token types, the scores of all positions cost more than all attention.

    With ``labels``, the loss is the usual one and ``logits`` are those of the positions whose
    label is not -100, of shape :obj:`[M, vocab_size]`, in order. Without, they are those of all
    tokens, :obj:`[B, N, vocab_size]`.
    """

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> MaskedLMOutput | tuple:
        """Runs the model; arguments are those of ``BertForMaskedLM``, and ``num_items_in_batch``,
        as ``Trainer`` gives it: the labels of all batches of an optimizer step."""
        count = kwargs.pop("num_items_in_batch", None)
        return_dict = kwargs.pop("return_dict", None)
        return_dict = self.config.use_return_dict if return_dict is None else return_dict  # type: ignore[attr-defined]
        found = self.bert(  # type: ignore[attr-defined]
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            return_dict=True,
            **kwargs,
        )
        features, loss = found.last_hidden_state, None
        if labels is None:
            logits = self.cls(features)  # type: ignore[attr-defined]
        else:
            wanted = labels != -100
            logits = self.cls(features[wanted])  # type: ignore[attr-defined]
            scores = logits.to(torch.promote_types(logits.dtype, torch.float32))
            total = F.cross_entropy(scores, labels[wanted], reduction="sum")
            loss = total / (wanted.sum().clamp(min=1) if count is None else count)
        out = MaskedLMOutput(
            loss=loss, logits=logits, hidden_states=found.hidden_states, attentions=found.attentions
        )
        return out if return_dict else out.to_tuple()


#: Bases that go before those of a class with SBM heads, by the name of the original.
OVERRIDES: dict[str, tuple[type, ...]] = {"BertForMaskedLM": (SparseMaskedLM,)}
