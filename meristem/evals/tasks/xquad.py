"""XQuAD: questions about a paragraph, in up to eleven languages; the answer stands in the paragraph.

Artetxe et al. 2019, https://arxiv.org/abs/1910.11856. Files: xquad.LANGUAGE.json, all that are in the folder, or one
that is named: `--tasks xquad=xquad.de.json`. Exact match and F1 over words as SQuAD counts them (Rajpurkar et al.
2016).

    meristem evaluate RUN --tasks xquad --data FOLDER
"""
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from meristem.core.errors import RequestError
from meristem.evals import files
from meristem.evals.base import Item, Metric
from meristem.evals.benchmark import Written
from meristem.evals.perturb import typos
from meristem.evals.words import f1, plain

ON_REQUEST = True


class Xquad(Written):
    """Items of one paragraph are one group."""

    name = "xquad"
    url = "https://github.com/google-deepmind/xquad"
    folders = ("xquad",)
    templates = ("Context: {}\n\nAnswer:", "{}\nA:", "Read this. {}\nThe answer is", "Passage: {}\n\nReply:", "{}\n",
                 "Text: {}\nShort answer:", "User: {}\nAssistant:", "Background: {}\n\nAnswer in a few words:")

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Exact match and F1."""
        return (Metric("xquad_exact", "xquad: answers that are the reference", "share", "share", True),
                Metric("xquad_f1", "xquad: F1 of the answer's words", "share", "ratio", True))

    def read(self) -> list[Item]:
        """Every question in every language at hand."""
        found = {path.name.split(".")[1]: path for path in self._files()}
        out = []
        for language, path in sorted(found.items()):
            [tree] = files.parse(files.read(path), "xquad.json", str(path))
            for number, paragraph in enumerate(p for entry in tree["data"] for p in entry["paragraphs"]):
                for question in paragraph["qas"]:
                    stem = f"{paragraph['context']}\n\nQuestion: {question['question']}"
                    out.append(Item(f"{language}/{number}", self.templates[0].replace("{}", stem),
                                    question["answers"][0]["text"], stem=stem, evidence=paragraph["context"]))
        return out

    def twin(self, items: Sequence[Item], seed: int) -> list[Item]:
        """Letters of the question alone: the answer stands in the passage."""
        out = []
        for item in items:
            passage, _, question = item.stem.rpartition("\n\n")
            stem = f"{passage}\n\n{typos(question, seed)}"
            out.append(replace(item, prompt=item.prompt.replace(item.stem, stem), stem=stem))
        return out

    def grade(self, item: Item, text: str) -> list[float]:
        """Both metrics."""
        return [float(plain(text) == plain(item.answer)), f1(text, item.answer)]

    def _files(self) -> list[Path]:
        source = self._from().expanduser()
        if source.is_file():
            return [source]
        found = [p for folder in (source, source / "xquad") for p in sorted(folder.glob("xquad.*.json*"))]
        if not found:
            raise RequestError(f"{source} holds no xquad.LANGUAGE.json; get them at {self.url}")
        return found


TASK = Xquad()
