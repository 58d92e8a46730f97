"""What a long piece of work tells whoever is watching: which stage, how far, and a few facts.

Every long function takes `progress: Progress = SILENT` and calls it freely; the default does nothing. `cli.display`
draws one on standard error. A display must never stop the work: implementations swallow their own failures.

    progress.stage("pretrain", total=steps)
    progress.update(step, loss=2.31, tokens_per_second=9100.0, share_of_peak=0.71)
"""

Fact = float | str | None


class Progress:
    """Silent by default; a subclass overrides what it wants to show."""

    def stage(self, name: str, total: float | None = None) -> None:
        """A new stage begins: "curate", "pretrain". `total` is in the units of `update`'s `done`; None = unknown."""

    def update(self, done: float, **facts: Fact) -> None:
        """`done` of the total is behind us. Facts: loss, tokens_per_second, share_of_peak (0..1), seconds_left."""

    def say(self, text: str) -> None:
        """One line worth keeping: a decision with its reason, a result."""

    def sample(self, text: str) -> None:
        """What the model writes at this moment; only the latest matters."""

    def warn(self, text: str) -> None:
        """Something the user should know although the work goes on: a skipped step, a failed save."""


SILENT = Progress()
