"""ARC-Challenge: the questions of ARC that neither retrieval nor word statistics answered (see arc_easy.py)."""
from meristem.evals.tasks.arc_easy import Arc

ON_REQUEST = True


class ArcChallenge(Arc):
    """The hard part."""

    name, part = "arc_challenge", "ARC-Challenge"


TASK = ArcChallenge()
