"""Speed, measured side by side with a peer in one run on the same work: `python -m benchmarks.NAME`.

Tables stand in docs/benchmarks.md. Peers are never dependencies: `transformers` comes with the dev extra, others live
in their own environments under .bench/ (`make bench-peers`). Every worker is a fresh process with an empty compiler
cache, so that compilation is paid by each.
"""
