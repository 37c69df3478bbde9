"""One token in place of all pads of diffusers' pipeline.

diffusers pads latents that are not square with zero tokens up to the longest sequence. Its mask
multiplies the keys of the pads by zero, so their attention scores are 0 instead of -inf: pads take
part in attention. All pads of a sample start equal (zero latents, position 0) and stay equal in
every layer. Therefore one token with the score log n contributes the same to a softmax as n tokens
with the score 0. The gradient is the same too.

Letters: B samples, S tokens, P image tokens with the pad, F width.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Pads:
    """The last image token of each sample represents all its pads."""

    is_real_BP: torch.Tensor
    """Booleans: False at the pad token."""
    score_BP: torch.Tensor
    """Added to the attention score of each token: log n at the pad, 0 elsewhere; at least fp32."""

    @classmethod
    def at_the_end_of(cls, tokens_BPF: torch.Tensor, count: int) -> "Pads":
        """The last token of ``tokens_BPF`` represents ``count`` pads."""
        B, P, _ = tokens_BPF.shape
        device = tokens_BPF.device
        is_real_BP = torch.ones(B, P, dtype=torch.bool, device=device)
        is_real_BP[:, -1] = False
        wide = torch.promote_types(tokens_BPF.dtype, torch.float32)
        counts_BP = torch.where(is_real_BP, 1, count).to(wide)
        return cls(is_real_BP, counts_BP.log())

    def real_tokens(self, length: int, dtype: torch.dtype) -> torch.Tensor:
        """[B, S, 1]: 1 at each real token of a sequence, 0 at the pad. Text comes last."""
        P = self.is_real_BP.shape[1]
        return functional.pad(self.is_real_BP.to(dtype), (0, length - P), value=1).unsqueeze(-1)

    def scores(self, length: int, dtype: torch.dtype) -> torch.Tensor:
        """[B, 1, 1, S]: the scores for a sequence of ``length``, as an attention mask.

        It has the type of the query, as the fast kernels require. In bf16 n changes by up to 3 %.
        """
        P = self.score_BP.shape[1]
        return functional.pad(self.score_BP, (0, length - P)).to(dtype)[:, None, None, :]
