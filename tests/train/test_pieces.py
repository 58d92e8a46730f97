"""Checkpoints in pieces: what one process leaves, another commits, and any can read again, whole or in part."""
import pytest
import torch

from meristem.core.errors import NothingLeftError
from meristem.core.progress import Progress
from meristem.train import pieces
from meristem.train.checkpoint import Checkpoints
from meristem.train.pieces import Box, Share, Stored, box

WHOLE = {"w": torch.arange(30.0).view(5, 6), "b": torch.arange(3, dtype=torch.int64), "empty": torch.zeros(0, 4),
         "number": torch.tensor(2.5, dtype=torch.bfloat16)}


class Heard(Progress):
    def __init__(self):
        self.lines = []

    def warn(self, message):
        self.lines.append(message)


def cut(rank):
    """Process 0 has rows 0 to 2 of w and all else; process 1 rows 3 and 4, in two pieces of columns, one of them."""
    if rank == 0:
        return ({"m": {"w": WHOLE["w"][:3], **{n: WHOLE[n] for n in ("b", "empty", "number")}}},
                {"m": {"w": Box([5, 6], [0, 0]), "b": Box([3], [0]), "empty": Box([0, 4], [0, 0]),
                       "number": Box([], [])}})
    columns = slice(0, 4) if rank == 1 else slice(4, 6)
    return {"m": {"w": WHOLE["w"][3:, columns]}}, {"m": {"w": Box([5, 6], [3, columns.start])}}


def save(first, others, step=3):
    for share in others:
        share.save(step, cut(share.rank)[0], {}, layout=cut(share.rank)[1])
    tensors, layout = cut(0)
    first.save(step, tensors, {"n": step}, layout=layout)
    first.wait()


def test_pieces_of_three_processes_are_one_checkpoint_that_one_process_reads(tmp_path):
    heard = Heard()
    with Checkpoints(tmp_path, progress=heard, processes=3) as first:
        others = [Share(tmp_path, rank) for rank in (1, 2)]
        save(first, others)
        assert not heard.lines and not [*tmp_path.glob(".part-*")] and not [*tmp_path.glob(".tmp-*")]
        assert not [p for p in (tmp_path / "step-000003").iterdir() if p.suffix in (".pt", ".pkl", ".metadata")]
        for share in others:
            share.close()
    with Checkpoints(tmp_path) as alone:
        step, tensors, meta = alone.newest()
    assert (step, meta) == (3, {"n": 3}) and tensors["m"].keys() == WHOLE.keys()
    assert all(torch.equal(tensors["m"][n], t) and tensors["m"][n].dtype == t.dtype for n, t in WHOLE.items())


def test_any_box_is_read_from_the_pieces_it_overlaps(tmp_path):
    with Checkpoints(tmp_path, processes=3) as first:
        save(first, [Share(tmp_path, 1), Share(tmp_path, 2)])
        found = first.find()
    stored = Stored(found.path, found.state)
    for top in range(5):
        for left in range(6):
            for rows in range(1, 6 - top):
                for columns in range(1, 7 - left):
                    got = stored._fill("w", stored.boxes["m"]["w"], Box([5, 6], [top, left]), [rows, columns])
                    assert torch.equal(got, WHOLE["w"][top: top + rows, left: left + columns])


def test_a_process_may_be_saves_ahead_also_of_one_step(tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "PATIENCE", 2.0)
    heard = Heard()
    with Checkpoints(tmp_path, progress=heard, processes=3) as first:
        others = [Share(tmp_path, 1), Share(tmp_path, 2)]
        for _ in range(2):                                     # the last step: it was due, and it is the last
            for share in others:
                share.save(3, cut(share.rank)[0], {}, layout=cut(share.rank)[1])
        for share in others:
            share.wait()
        for _ in range(2):
            tensors, layout = cut(0)
            first.save(3, tensors, {}, layout=layout)
        first.wait()
        assert not heard.lines and first.failures == 0 and first.find().step == 3


def test_a_process_that_does_not_come_costs_a_save_and_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "PATIENCE", 0.05)
    heard = Heard()
    with Checkpoints(tmp_path, progress=heard, processes=3) as first:
        save(first, [Share(tmp_path, 1)])
        assert first.failures == 1 and "process 2 did not write its part" in heard.lines[0]
        assert first.find() is None and not [*tmp_path.glob(".part-*")], "what is left over is swept"


def test_a_process_whose_disk_refuses_says_so_through_the_first(tmp_path, monkeypatch):
    heard = Heard()

    def refuse(*a):
        raise OSError(28, "No space left on device")

    with Checkpoints(tmp_path, progress=heard, processes=2) as first:
        share = Share(tmp_path, 1)
        monkeypatch.setattr(pieces.Pieces, "write", refuse)
        share.save(3, *cut(1)[:1], {}, layout=cut(1)[1])
        share.wait()
        monkeypatch.undo()
        tensors, layout = cut(0)
        first.save(3, tensors, {}, layout=layout)
        first.wait()
    assert "process 1 could not write its part: [Errno 28] No space left" in heard.lines[0]


@pytest.mark.parametrize(("rank", "spoil"), [
    (1, lambda boxes: boxes.pop("w")),
    (1, lambda boxes: boxes.__setitem__("w", Box([9, 6], [3, 0]))),
    (2, None)], ids=["no box", "another whole", "a hole"])
def test_pieces_that_contradict_each_other_are_set_aside(tmp_path, rank, spoil):
    heard = Heard()
    with Checkpoints(tmp_path, progress=heard, processes=3) as first:
        for share in (Share(tmp_path, 1), Share(tmp_path, 2)):
            tensors, layout = cut(share.rank)
            if share.rank == rank:
                spoil(layout["m"]) if spoil else tensors["m"].pop("w")
            share.save(3, tensors, {}, layout=layout)
        tensors, layout = cut(0)
        first.save(3, tensors, {}, layout=layout)
        first.wait()
        with pytest.raises(NothingLeftError):
            first.find()
    assert "step-000003 is damaged and was set aside" in heard.lines[0]


def test_an_ordinary_tensor_is_its_own_box():
    assert box(torch.zeros(2, 3)) == Box([2, 3], [0, 0]) and box(torch.tensor(1.0)) == Box([], [])
