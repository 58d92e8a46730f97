"""Language recipes: decoders from scratch, and the adaptation that fills in function bodies.

`meristem show NAME` prints a recipe with every field and where it comes from; `meristem pretrain NAME
data.corpus=CORPUS` trains it. Times are for two cores.
"""
from meristem.core.config import Part
from meristem.core.run import Data, Run, Train


def llama() -> Run:
    """A small Llama-style decoder on any corpus, the size the quickstart plans for about four minutes.

    Command: `meristem pretrain llama data.corpus=CORPUS --out runs/llama`. CPU time: about 4 minutes on two cores.
    Expected on the Python standard library: below a 5-gram Kneser-Ney model on the same split, as the quickstart's
    base is, whose plan is smaller (docs/results.md, A1); this size's own bits per byte were not measured.
    """
    return Run(
        name="llama",
        model=Part("llama", {"dim": 256, "layers": 6, "heads": 4, "groups": 2, "hidden": 704}),
        data=Data(codec=Part("bpe", {"vocab": 4096})),
        train=Train(steps=800, batch=16, context=256, lr=3e-3, warmup=50, validate_every=200, sample_every=200))


def shakespeare() -> Run:
    """Characters of one book: the time-to-loss benchmark's shape (tinyshakespeare, 90/10 by position in `benchmarks/`).

    Command: `meristem pretrain shakespeare data.corpus=CORPUS --out runs/shakespeare`. CPU time: about 2 minutes.
    Expected on tinyshakespeare: below 1.65 nats per character; `docs/benchmarks.md` has the measured table.
    """
    return Run(
        name="shakespeare",
        model=Part("llama", {"dim": 256, "layers": 4, "heads": 4, "groups": 4, "hidden": 704, "qk_norm": True}),
        data=Data(codec=Part("char", {})),
        train=Train(steps=500, batch=16, context=128, optimizer="muon", lr=2e-2, warmup=20, schedule="wsd",
                    validate_every=100))


def function_bodies() -> Run:
    """LoRA that fills in a function's body from its signature and docstring; adapts any decoder with a tokenizer.

    Command: `meristem adapt MODEL function_bodies data.corpus=CORPUS --out runs/fill`. CPU time: about 1 minute.
    Expected: fewer bits per byte of the body than the base model, and more exact first lines; the certificate has the
    paired test.
    """
    return Run(
        name="function_bodies",
        data=Data(examples="function_bodies"),
        train=Train(steps=150, batch=16, context=256, lr=2e-3, warmup=10, weight_decay=0.0, validate_every=50),
        adapt=Part("lora", {"rank": 16, "alpha": 32.0}))


def gpt2() -> Run:
    """GPT-2 in the size of the `llama` recipe: learned positions, LayerNorm, biases, a tied head.

    Command: `meristem pretrain gpt2 data.corpus=CORPUS --out runs/gpt2`. CPU time: not measured yet. Expected: bits per
    byte above those of `llama` at equal steps; not measured yet.
    """
    return Run(
        name="gpt2",
        model=Part("gpt2", {"dim": 256, "layers": 6, "heads": 4}),
        data=Data(codec=Part("bpe", {"vocab": 4096})),
        train=Train(steps=800, batch=16, context=256, lr=1e-3, warmup=50, validate_every=200, sample_every=200))


def pythia() -> Run:
    """Pythia's GPT-NeoX in the size of the `llama` recipe: parallel branches, a quarter of each head turned.

    Command: `meristem pretrain pythia data.corpus=CORPUS --out runs/pythia`. CPU time: not measured yet. Expected: not
    measured yet.
    """
    return Run(
        name="pythia",
        model=Part("neox", {"dim": 256, "layers": 6, "heads": 4}),
        data=Data(codec=Part("bpe", {"vocab": 4096})),
        train=Train(steps=800, batch=16, context=256, lr=1e-3, warmup=50, validate_every=200, sample_every=200))


def palm() -> Run:
    """PaLM in the size of the `llama` recipe: one key and value for all heads, SwiGLU beside attention, no biases.

    Command: `meristem pretrain palm data.corpus=CORPUS --out runs/palm`. CPU time: not measured yet. Expected: not
    measured yet.
    """
    return Run(
        name="palm",
        model=Part("palm", {"dim": 256, "layers": 6, "heads": 4, "hidden": 704}),
        data=Data(codec=Part("bpe", {"vocab": 4096})),
        train=Train(steps=800, batch=16, context=256, lr=1e-3, warmup=50, validate_every=200, sample_every=200))
