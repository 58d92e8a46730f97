"""The report: complete, self-contained, and safe with whatever a corpus or a model wrote."""

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from meristem.codecs.image import encode
from meristem.core.config import Part, to_dict
from meristem.core.errors import RequestError
from meristem.core.files import write_json
from meristem.core.run import Data, Run
from meristem.govern import report, svg

VOID = {"meta", "link", "br", "img", "rect", "line", "circle", "path", "i"}


class Tags(HTMLParser):
    """Checks that tags nest, and collects them with their text."""

    def __init__(self):
        super().__init__()
        self.stack, self.seen, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in {"meta"}:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.stack and self.stack[-1] == tag, f"</{tag}> closes {self.stack[-3:]}"
        self.stack.pop()

    def handle_data(self, data):
        self.text.append(data)


def page(folder):
    path = report.write(folder)
    tags = Tags()
    tags.feed(path.read_text(encoding="utf-8"))
    tags.close()
    assert tags.stack == []
    return path.read_text(encoding="utf-8"), tags, " ".join("".join(tags.text).split())


def test_holds_every_part(quickstart):
    html, tags, text = page(quickstart)
    ids = {a["id"] for _, a in tags.seen if "id" in a}
    linked = {a["href"][1:] for t, a in tags.seen if t == "a"}
    assert (
        linked
        == {"scores", "examples", "run-base", "run-fill", "plan", "data", "energy", "files", "gaps", "next"}
        <= ids
    )
    for fact in (
        "5.91 M parameters",
        "1.142 bits a byte",
        "28 % less than a 5-gram",
        "1.120 instead of 1.310",
        "step 800",
        "dropped: near duplicate",
        "1.130 (1.060 to 1.220)",
        "Risk battery: not run",
        "1.2 Wh",
        "0.48 to 3 Wh",
        "0.57 g",
        "-0.190, p < 0.001",
        "the same as the author",
        "Licence: PSF-2.0",
        "meristem chat",
    ):
        assert fact in text, fact
    assert sum(t == "svg" and a.get("role") == "img" for t, a in tags.seen) == 6


def test_text_of_model_and_corpus_is_escaped(quickstart):
    html, tags, text = page(quickstart)
    assert not any(t in ("script", "b") and a for t, a in tags.seen) and "<script" not in html
    assert "<b>bold" not in html and "&lt;b&gt;bold" in html
    assert text.count("<script>alert('run')</script>") >= 2  # shown as text: in the sample and in the example


def test_loads_nothing_from_anywhere(quickstart):
    html, tags, _ = page(quickstart)
    assert not re.search(r"(src|href|url|@import)\s*[=(]?\s*[\"']?\s*(https?:|//)", html)
    assert not {"link", "img", "iframe", "object", "video"} & {t for t, _ in tags.seen}
    assert "default-src 'none'" in html


def test_every_plot_has_words_and_every_table_heads(quickstart):
    _, tags, _ = page(quickstart)
    plots = [a for t, a in tags.seen if t == "svg" and "role" in a]
    assert all(len(a["aria-label"]) > 40 for a in plots)
    assert all("scope" in a for t, a in tags.seen if t == "th")


def test_one_run_and_missing_files_show_as_gaps(quickstart):
    for name in ("evals", "model"):
        (quickstart / "base" / name).rename(quickstart / f"gone-{name}")
    for name in ("plan.json", "base/result.json", "base/energy.json"):
        (quickstart / name).unlink()
    (quickstart / "corpus").rename(quickstart / "elsewhere")
    _, _, text = page(quickstart / "base")
    for gap in (
        "base: no evaluation",
        "base: no energy record",
        "not finished",
        "corpus folder is not here",
        "No plan",
        "not checked",
    ):
        assert gap in text, gap


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(RequestError, match="holds no run"):
        report.write(tmp_path)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (1.02, 1.61), (-3, 40_000), (0.0193, 0.0197), (5, 5)])
def test_ticks_are_round_and_cover(low, high):
    marks = svg.ticks(low, high, 5)
    step = marks[1] - marks[0] if len(marks) > 1 else 1
    assert marks[0] <= low + 1e-12 and (marks[-1] >= high - 1e-9) and len(marks) <= 8
    assert f"{step:.0e}"[0] in "125"


def test_smoothing_keeps_lines_straight_and_noise_down():
    straight = [(float(i), 2.0 * i) for i in range(100)]
    assert [y for _, y in svg.smooth(straight, 0.1)] == pytest.approx([y for _, y in straight])
    jagged = [(float(i), float(i % 2)) for i in range(100)]
    assert all(0.3 < y < 0.7 for _, y in svg.smooth(jagged, 0.1)[5:-5])


def test_pictures_are_inside_the_page(tmp_path: Path) -> None:
    run = Run("painter", model=Part("unet", {}), data=Data(examples="pictures"))
    write_json(tmp_path / "recipe.json", to_dict(run))
    for name in ("samples/200.png", "samples/1000.png", "evals/masks.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encode(np.zeros((3, 4, 4), dtype=np.uint8)))
    page = report.write(tmp_path).read_text()
    assert page.count("data:image/png;base64,iVBOR") == 3 and "A model of pictures" in page
    assert page.index("step 200") < page.index("step 1,000") < page.index("masks")
    assert "meristem chat" not in page and "--out grid.png" in page


def test_the_risk_battery_stands_apart_and_its_gaps_are_seen(quickstart):
    risks = {"asked": ["parses_as_python"], "left_out": {"watermark": "it paints no pictures"}}
    write_json(quickstart / "fill" / "risk.json", risks)
    _, tags, text = page(quickstart)
    assert "What it risks" in text and "fill: Risk battery without watermark: it paints no pictures." in text
    after = text[text.index("What it risks"): text.index("What it does with a question")]
    assert "parses as python" in after and "21.0 %" in after and "body exact" not in after
    assert "Risk battery: not run" in text, "the base was not asked"
    assert {"risks"} <= {a["href"][1:] for t, a in tags.seen if t == "a"}
