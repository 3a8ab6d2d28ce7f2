"""Attention among tokens that fall into the same hash bucket."""

from __future__ import annotations

import torch
from torch import Tensor

from sbmgraph.checks import check_positive_int, check_range
from sbmgraph.nn.baselines.multi_head import InnerAttention, import_package
from sbmgraph.nn.baselines.ragged import run_padded
from sbmgraph.ops.sample import draw_seed


class ReformerAttention(InnerAttention):
    """LSH attention (Kitaev et al., *Reformer: The Efficient Transformer*, ICLR 2020), by the
    package ``reformer-pytorch``. Queries and keys are one projection; a token attends to itself
    only where it has nothing else.

    The hash is random in evaluation too; a ``generator`` makes it repeatable.

    Padding: the package's mask keeps padded keys out of the softmax, but padded tokens still fill
    buckets, and the number of buckets follows the padded length. Hence sequences run in groups of
    one padded length, the next multiple of two buckets, and every sequence gets the buckets it
    would get alone. Its own padding (less than two buckets) remains in them.

    Args:
        heads (int): The number of heads.
        head_channels (int): The number of channels of a head.
        max_length (int): Unused; any length will do.
        num_hashes (int, optional): Rounds of hashing. (default: :obj:`2`, as in the SBM-Transformer
            paper)
        bucket_size (int, optional): Average number of tokens in a bucket. (default: :obj:`64`)
        dropout (float, optional): Dropout probability of the attention weights. (default:
            :obj:`0.0`)
    """

    share_query_key = True

    def __init__(
        self,
        heads: int,
        head_channels: int,
        max_length: int,
        *,
        num_hashes: int = 2,
        bucket_size: int = 64,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(heads, head_channels, max_length)
        check_positive_int("num_hashes", num_hashes)
        check_positive_int("bucket_size", bucket_size)
        check_range("dropout", dropout, 0.0, 1.0, high_open=True)
        self.bucket_size = bucket_size
        self.attention = import_package("reformer_pytorch").LSHAttention(
            bucket_size=bucket_size, n_hashes=num_hashes, dropout=dropout
        )

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        batch: Tensor | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        seed = draw_seed(generator)

        def dense(query: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
            return self._dense(query, value, mask, seed)

        return run_padded(dense, (query, value), batch, 2 * self.bucket_size)

    def _dense(self, query: Tensor, value: Tensor, mask: Tensor | None, seed: int) -> Tensor:
        if mask is not None:
            mask = mask.repeat_interleave(self.heads, dim=0)
        query, value = (x.transpose(1, 2).flatten(0, 1) for x in (query, value))
        # The package draws from the global generators; equal seeds hash alike in every group.
        with torch.random.fork_rng([query.device] if query.is_cuda else []):
            torch.default_generator.manual_seed(seed)
            if query.is_cuda:
                torch.cuda.manual_seed(seed)
            out, _, _ = self.attention(query, value, input_mask=mask)
        return out.unflatten(0, (-1, self.heads)).transpose(1, 2)
