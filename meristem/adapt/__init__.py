"""Change a little: adapters by surgery on named layers, one method a file (`adapt.lora`); no family knows of them."""
