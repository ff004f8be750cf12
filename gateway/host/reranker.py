"""The network of a reranker, as transformers has it: a transformer whose head makes one number of a pair of texts.

A row has both texts of a pair, and says of each token in the upper half of its number which of the two it belongs to.
What comes out is the logit; the activation behind it is the request's matter.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gateway.host import linear, padded, tensors
from gateway.host.frame import LOWER, TYPE_BIT
from gateway.host.padded import Padded
from gateway.model import Generation, Pooling

NOTHING_POOLED = Pooling(())


class Scoring(Padded):
    """Token ids of pairs to logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network, NOTHING_POOLED)
        types = getattr(network.config, "type_vocab_size", 0) or 0
        self._takes_types = self._takes_types and types > 1  # RoBERTa knows one

    def vectors(self, ids: Tensor, mask: Tensor, kept: Tensor) -> Tensor:
        """[texts, 1] in float32."""
        types = {"token_type_ids": ids >> TYPE_BIT} if self._takes_types else {}
        found = self.network(input_ids=ids & LOWER, attention_mask=mask, return_dict=True, **types)
        logits: Tensor = found.logits
        return logits.float()


def read(generation: Generation, dtype: torch.dtype, *, reorder: bool) -> Scoring:
    """The network in host memory with its numbers in `dtype`. Raises LoadFailed."""
    module = padded.network(generation, dtype, head="scores")
    if reorder and linear.pays(dtype):
        linear.replace(module)
    tensors.page_in(module)
    return Scoring(module.eval())
