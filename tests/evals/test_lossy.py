"""A codec that loses text gets no score per byte."""
import pytest
import torch

from meristem.codecs import wordpiece
from meristem.core.errors import RequestError
from meristem.evals.base import Item
from meristem.evals.subject import Subject
from meristem.evals.tasks.bits_per_byte import answer_bits
from meristem.models.llama import Config, Model


def test_bits_per_byte_of_a_lossy_codec_are_refused():
    codec = wordpiece.fit(["wait for it"] * 9, 40)
    torch.manual_seed(0)
    subject = Subject(Model(Config(vocab=codec.vocab, dim=16, layers=1, heads=2, context=32)), codec, "", 32)
    assert answer_bits(subject, [Item("a", "wait", "for it")])[0] > 0
    with pytest.raises(RequestError, match="wordpiece codec does not give back the text that begins 'For"):
        answer_bits(subject, [Item("a", "wait", "for it"), Item("a", "wait", "For it")])
