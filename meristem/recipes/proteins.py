"""Proteins: ESM-2 from scratch on FASTA, mutations scored without having seen one, and a class for every residue.

    meristem curate proteins.fasta --stages "" --out runs/proteins             # or toy:residues
    meristem pretrain esm data.corpus=runs/proteins --out runs/esm
    meristem evaluate runs/esm --corpus runs/proteins --tasks mutations=SCAN.csv:COLUMN
    meristem pretrain esm_residues base=runs/esm data.corpus=RESIDUES.jsonl --out runs/structure

A line of the last file is {"words": ["M", "K", ...], "labels": ["C", "H", ...]}; the label "" is not scored.
"""
from collections.abc import Mapping
from typing import Any

from meristem.core.config import Part
from meristem.core.run import Data, Run, Train

SHAPE: Mapping[str, Any] = {"dim": 128, "layers": 4, "heads": 4, "std": 0.05}


def esm() -> Run:
    """A small ESM-2: 15 % of the residues hidden, every chain in rows of its own.

    Command: `meristem pretrain esm data.corpus=CORPUS --out runs/esm`. CPU time: 3.6 minutes for 1,200 steps. Expected
    of these on 4.9 MB of chains: 2.68 nats a masked residue, a Spearman of 0.04 on a scan never seen (BLOSUM62: 0.35).
    """
    return Run(
        name="esm", model=Part("esm", {**SHAPE, "head": "lm"}), objective=Part("masked", {}),
        data=Data(codec=Part("protein"), examples="documents"),
        train=Train(steps=2000, batch=16, context=256, lr=2e-3, warmup=100, weight_decay=0.01, validate_every=500))


def esm_residues() -> Run:
    """A class for each residue: fine-tune a protein model (`base`; with `adapt.name=lora` a few numbers of it).

    Command: `meristem pretrain esm_residues base=runs/esm data.corpus=ROWS.jsonl --out runs/structure`. CPU time: 2.3
    minutes. Expected of FLIP's secondary structure: 66.6 % of the residues of other families' chains from `esm`, 67.7 %
    from nothing (the usual state of each amino acid: 48.9 %).
    """
    return Run(
        name="esm_residues", model=Part("esm", {**SHAPE, "head": "token"}), objective=Part("classify", {}),
        data=Data(codec=Part("protein"), examples="labels"),
        train=Train(steps=600, batch=16, context=256, lr=1e-3, warmup=50, weight_decay=0.01, guard=False))
