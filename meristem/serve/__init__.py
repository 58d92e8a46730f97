"""Serve: the model that was trained, over HTTP as OpenAI's clients speak it, with many adapters on one base."""
