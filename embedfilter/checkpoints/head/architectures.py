"""Stand-in until the tables come."""


def tied_by_default(model_type: str) -> bool | None:
    """Tell."""
    return {"bert": True, "gpt2": True, "llama": False, "gemma3_text": True}.get(model_type)


def gguf_tied(architecture: str) -> bool | None:
    """Tell."""
    return {"llama": True, "gemma3": True}.get(architecture)
