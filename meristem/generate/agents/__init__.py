"""A model that acts: `tools` it may call, `loop` that lets it, within limits, `policy` that asks it, `mcp` servers."""
