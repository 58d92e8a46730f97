"""One file a stage: a frozen dataclass `Stage` of its settings that is called with a batch of documents (`base.Batch`).

    from meristem.core import registry
    stage = registry.load("corpus.stages", "language").Stage(keep=("en",))
    batch = stage(base.batch_of(["some text"]))
"""
