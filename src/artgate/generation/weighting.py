r"""Prompts in which words weigh more or less: `a (green:1.3) frog in (fog:0.5)`, as AUTOMATIC1111 writes it.

`(text:1.3)` gives a weight, and within another one they multiply; `\(` and `\)` are parentheses as such. All others
stand for themselves, too. A prompt without any of this is what it is to the model, to the last bit.

The weighting itself is compel's: above 1 an embedding goes further from that of an empty prompt, below 1 towards that
of a prompt in which these words are masked.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from artgate.errors import UserError

if TYPE_CHECKING:
    import torch

HEAVIEST = 3.0  # far above what gives pictures still: compel's authors find garbage from 1.6 on with Stable Diffusion 1

TOKEN = re.compile(r"\\[()]|\(|:\s*(?P<weight>[+-]?(?:\d+(?:\.\d*)?|\.\d+))\s*\)|\)")


@dataclass(frozen=True)
class Piece:
    """Words of a prompt that weigh the same. weight: in [0, HEAVIEST]; 1 is as if nothing was said."""

    text: str
    weight: float = 1.0


def read_weights(prompt: str) -> list[Piece]:
    """The prompt's pieces in order: one of weight 1 that is the whole prompt, where it uses none of the syntax.

    Raises UserError for a weight outside [0, HEAVIEST].
    """
    pieces: list[Piece] = []
    opened: list[int] = []  # pieces that were there before each parenthesis that is open; its own is the next one
    position = 0
    for token in TOKEN.finditer(prompt):
        _add(pieces, prompt[position : token.start()])
        position = token.end()
        if token[0] == "(":
            opened.append(len(pieces))
            pieces.append(Piece("("))
        elif token["weight"] is not None and opened:
            first = opened.pop()
            pieces[first:] = [Piece(p.text, p.weight * float(token["weight"])) for p in pieces[first + 1 :]]
        else:  # escaped, or a parenthesis that gives no weight
            if token[0].endswith(")") and not token[0].startswith("\\") and opened:
                opened.pop()
            _add(pieces, token[0].removeprefix("\\"))
    _add(pieces, prompt[position:])
    return _joined(pieces, prompt)


def plain(pieces: Sequence[Piece]) -> str:
    """The prompt without its weights."""
    return "".join(piece.text for piece in pieces)


def weigh(pieces: Sequence[Piece], tokenizer: Any, encoder: Any, last_but_one: bool) -> "torch.Tensor":
    """Embeddings (1, T, D) of a CLIP text encoder, T the tokenizer's limit; what is beyond it is not read.

    last_but_one: of the layer that SDXL reads, instead of the last. Raises UserError for an encoder that is not CLIP's.
    """
    from compel import EmbeddingsProvider, ReturnedEmbeddingsType  # it brings pipelines along, for few prompts

    kind = getattr(encoder.config, "model_type", type(encoder).__name__)
    if not kind.startswith("clip"):
        raise UserError(f"prompt weights are for CLIP text encoders, and this model reads {kind}: leave them out")
    provider = EmbeddingsProvider(
        tokenizer,
        encoder,
        truncate=True,
        # Where the model was trained to look at no padding, it is not to do so now
        padding_attention_mask_value=0 if getattr(encoder.config, "use_attention_mask", False) else 1,
        returned_embeddings_type=ReturnedEmbeddingsType.PENULTIMATE_HIDDEN_STATES_NON_NORMALIZED
        if last_but_one
        else ReturnedEmbeddingsType.LAST_HIDDEN_STATES_NORMALIZED,
    )
    worded = [piece for piece in pieces if piece.text.strip()]
    embeddings: torch.Tensor = provider.get_embeddings_for_weighted_prompt_fragments(
        [[piece.text for piece in worded]], [[piece.weight for piece in worded]], device=encoder.device
    )
    return embeddings


def _add(pieces: list[Piece], text: str) -> None:
    if text:
        pieces.append(Piece(text))


def _joined(pieces: Sequence[Piece], prompt: str) -> list[Piece]:
    """Neighbours of one weight in one piece: cut apart, words would be read apart."""
    joined: list[Piece] = []
    for piece in pieces:
        if not 0 <= piece.weight <= HEAVIEST:
            raise UserError(
                f"weight {piece.weight:g} of {piece.text!r} in prompt {prompt!r} is outside [0, {HEAVIEST:g}]: 1.3 is "
                r"strong already; parentheses that give no weight are written \( and \)"
            )
        if joined and joined[-1].weight == piece.weight:
            joined[-1] = Piece(joined[-1].text + piece.text, piece.weight)
        else:
            joined.append(piece)
    return joined or [Piece("")]
