"""Exchange: a folder of Hugging Face files <-> (family, config, weights, codec). See `hub.hf` and `hub.tensors`."""
