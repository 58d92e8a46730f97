"""Next-sentence prediction: does sentence B follow A? With masked prediction, as BERT was trained, or alone.

Devlin et al. 2018, https://arxiv.org/abs/1810.04805 section 3.1 (task 2). Batch: labels [B], 0 where B follows A and 1
where it is from elsewhere (Hugging Face's order). BERT adds the mean of both losses; here each hidden token also counts
its row's answer once, which is the same for rows of one length and does not depend on how a batch is cut.

    meristem pretrain bert data.corpus=CORPUS
"""
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from meristem.codecs.base import Codec
from meristem.core.errors import RequestError
from meristem.core.types import Batch
from meristem.objectives.masked import Masked


class NextSentence(Masked):
    """Masked with the question about the pair (`masked`), or the question alone; facts: `accuracy`, `follows`."""

    heads = ("pretraining",)

    def __init__(self, model: nn.Module, codec: Codec, masked: bool = True, rate: float = 0.15, static: int = 0,
                 whole_word: bool = False):
        self.heads = ("pretraining",) if masked else ("next_sentence",)
        super().__init__(model, codec, rate, static, whole_word)
        self.masked = masked

    def prepare(self, batch: Batch) -> Batch:
        """As `Masked`; alone, the text is left as it is and each row counts 1. RequestError without labels."""
        if "labels" not in batch:
            raise RequestError("next_sentence needs pairs of sentences; set data.examples=sentence_pairs")
        return super().prepare(batch) if self.masked else {**batch, "weight": torch.ones(len(batch["labels"]))}

    def score(self, output: Tensor | tuple[Tensor, Tensor], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """(Logits at the places,) logits of the pair -> (summed loss, sums of right answers)."""
        relation = output if isinstance(output, Tensor) else output[1]
        rows = batch["weight"].sum(1) if self.masked else batch["weight"]
        nll = (F.cross_entropy(relation.float(), batch["labels"], reduction="none") * rows).sum()
        facts = {"follows": ((relation.argmax(-1) == batch["labels"]).float() * rows).sum()}
        if isinstance(output, Tensor):
            return nll, facts
        loss, more = super().score(output[0], batch)
        return loss + nll, {**more, **facts}
