"""As caption_consistency, with the captions of the validation split: combinations that the model was trained on.

    meristem evaluate runs/dalle --corpus CORPUS --tasks caption_consistency_seen=runs/judge
"""
from meristem.evals.tasks.caption_consistency import CaptionConsistency

ON_REQUEST = True
TASK = CaptionConsistency("caption_consistency_seen", "validation")
