"""What travels between the trunks: a `Document` on the bytes side, a `Batch` on the maths side.

| field of a Batch | shape and type | meaning |
| --- | --- | --- |
| tokens | int64 [B, T+1] | ids; the model reads [:, :-1] and is scored on [:, 1:] |
| weight | float32 [B, T] | how much each prediction counts; 0 for prompts and padding |
| segments | int64 [B, T] | number of the document that an input belongs to; attention never crosses it. Absent: one |
| types | int64 [B, T] | which part of a pair an input belongs to: 0 or 1. Absent: 0 |
| labels | int64 [B], [B, T], [B, 2] | the class of a row, of each input (-1: none), first and last place of an answer |
| labels, of judged answers | int64 [B, S] | of each segment: 1 chosen, 0 rejected, 2 another prompt's, -1 none |
| places | int64 [B, K] | inputs where the vocabulary is asked; `weight` and `hidden`, what stood there, are [B, K] |
| lengths, targets | int64 [B], [B, L] | how long a prompt is; the ids of its right answer, -1 behind them |
| logp, reference | float32 [B, K] | of an answer's tokens when it was drawn, under the policy and the first model |
| values, returns | float32 [B, K] | what the rest of an answer was expected to earn, and did |
| rewards, advantage | float32 [B]; [B], [B, K] | what an answer is worth, and beside what was expected |
| positions | int64 [B, T] | position of an input in its document; set with segments. Absent: its place in the row |
| source | int64 [B, S] | ids that an encoder reads before the decoder writes `tokens` |
| source_segments | int64 [B, S] | whose source a place is: seen by inputs of that segment; -1 is padding. Absent: one |
| images | uint8 [B, C, H, W], float32 once prepared | pictures; prepared ones lie between -1 and 1 |
| images, several a row | uint8 [B, P, C, H, W] | P pictures in the order of the row's text, blank where it has fewer |
| images, of video | uint8 [B, F, C, H, W] | F frames in their order |
| sound | float32 [B, N] | samples, mean 0 and deviation 1 over what was heard, then silence |
| mel | float32 [B, M, F] | log-mel frames (codecs/audio.py) |
| heard | int64 [B] | how many samples of a sound, or frames, are no padding |
| negatives, clusters | int64 [B, T, K], [B, T] | other hidden places of a sound; what each place should be told to be |
| series | float32 [B, T] | numbers at equal times, NaN where unknown |
| masks | bool [B, P, H, W] | where P objects of each picture are visible |
| points | float32 [B, P, N, 2] | x and y in pixels of the points that prompt for each object |
| signs | int64 [B, P, N] | what a point says: on the object or not, a corner of its box, nothing (nn.segment) |
| drafts, drafted | float32 [B, P, h, w], bool [B, P] | logits of an earlier mask of each object, and which have one |
| views, small | float32 [B, V, C, H, W] | large and small views of each picture |
| masked | bool [B, V, N] | which patches of each large view are hidden from the network that is trained |
| time | float32 [B] | step of a diffusion model's schedule, from 0 |
| condition | float32 [B, S, E] | vectors of a caption that a diffusion model attends to |
| seen | bool [B, S] | which of those vectors are no padding |
| embedding | float32 [B, E] | vectors of pictures in CLIP's space, of length 1 (unCLIP; its prior: as it sees them) |
| activations | float32 [B, E] | what a layer of a network computed, of which a dictionary is learned |
| caption | float32 [B, E] | vectors of captions in that space |
| beside | float32 [B, C, H, W] | a picture that a diffusion model sees beside the noisy one: the small one, stretched |
| known | bool [B, F] | which frames of a film a diffusion model is given clean |
| noise | float32 [B, ...] | what was drawn for a row, added to its image or latent |
| temperature | float32 [] | of what is drawn with that noise (dVAE) |

B batch rows, T time, C channels. A field means the same thing to every objective; a new field is a new row of this
table.
"""
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:                       # curation reads documents without paying 0.8 s for torch
    from torch import Tensor

Batch = dict[str, "Tensor"]
DENSE = ("images", "sound", "mel", "series")    # fields of networks whose FLOPs are counted while they run


@dataclass(frozen=True)
class Document:
    """One unit of raw data. `id` is the xxh3-128 of its bytes (hex), so equal content has an equal id."""

    id: str
    source: str
    licence: str
    fields: dict[str, Any]
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The text field; KeyError for a document of another modality."""
        return self.fields["text"]
