"""Words that weigh more or less: how they are read, and what the encoders make of them."""

import random

import pytest
import torch
from compel import CompelForSD, CompelForSDXL
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from transformers import T5Config, T5EncoderModel

from artgate.errors import UserError
from artgate.generation.models import load_model
from artgate.generation.prompts import CandidateSource
from artgate.generation.templates import parse_template
from artgate.generation.weighting import HEAVIEST, Piece, plain, read_weights, weigh


@pytest.mark.parametrize(
    ("prompt", "pieces"),
    [
        ("a (green:1.3) frog", [("a ", 1.0), ("green", 1.3), (" frog", 1.0)]),
        ("(a:0.5)(b: .5 )", [("ab", 0.5)]),
        ("((a:1.5) b:2) c", [("a", 3.0), (" b", 2.0), (" c", 1.0)]),
        ("(the (light) blue:0.5) sky", [("the (light) blue", 0.5), (" sky", 1.0)]),
        (r"\(a:1.3\) (b:0)", [("(a:1.3) ", 1.0), ("b", 0.0)]),
        ("a (b (c:1.2) d", [("a (b ", 1.0), ("c", 1.2), (" d", 1.0)]),
    ],
)
def test_weights_are_read(prompt: str, pieces: list[tuple[str, float]]):
    assert [(piece.text, piece.weight) for piece in read_weights(prompt)] == pieces


@pytest.mark.parametrize(
    "prompt", ["", "a frog", "a frog (green), :) and 3:4)", "((a)) [b] {c}", "a: (b): 1.3", "(", "\\"]
)
def test_a_prompt_without_weights_is_one_piece_as_it_stands(prompt: str):
    assert read_weights(prompt) == [Piece(prompt)]


@pytest.mark.parametrize("prompt", ["(a:3.01)", "a picture of (16:9)", "(a:-1)", "((a:2):2)"])
def test_a_weight_that_spoils_the_picture_is_refused_with_the_cure(prompt: str):
    with pytest.raises(UserError, match=rf"is outside \[0, {HEAVIEST:g}\].* are written \\\( and \\\)"):
        read_weights(prompt)


def test_templates_choose_within_weights_and_weights_within_templates():
    source = CandidateSource(
        {
            "prompts": ["a ({green|red}:1.3) __animal__, {2::(fog:0.5)|rain}"],
            "words": {"animal": ["frog", "(cat:1.1)"]},
            "negative_prompt": r"\(poor\)",
        },
        1,
    )
    found = {source[index].prompt for index in range(60)}
    assert found == {
        f"a ({colour}:1.3) {animal}, {weather}"
        for colour in ("green", "red")
        for animal in ("frog", "(cat:1.1)")
        for weather in ("(fog:0.5)", "rain")
    }
    assert source[0].negative_prompt == r"\(poor\)"
    assert parse_template("(a|b:1.2)", {})(random.Random(0)) == "(a|b:1.2)"


PROMPT, COMPELS = "a (frog:1.3) of (the painting:0.6), good", "a (frog)1.3 of (the painting)0.6, good"


@torch.inference_mode()
@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_weights_are_those_of_compel_on_stable_diffusion(loaded, tiny, family: str):
    model = loaded(family)
    theirs = CompelForSD(StableDiffusionPipeline.from_pretrained(tiny(family)))(COMPELS)
    ours = model.encode_prompts([PROMPT])
    torch.testing.assert_close(ours.text, theirs.embeds, rtol=0, atol=1e-6)
    assert ours.pooled is None
    assert (ours.text - model.encode_prompts([plain(read_weights(PROMPT))]).text).abs().max() > 0.1


@torch.inference_mode()
def test_weights_are_those_of_compel_on_sdxl_and_the_whole_prompt_is_pooled(loaded, tiny):
    model = loaded("sdxl")
    theirs = CompelForSDXL(StableDiffusionXLPipeline.from_pretrained(tiny("sdxl")))(COMPELS)
    ours = model.encode_prompts([PROMPT])
    torch.testing.assert_close(ours.text, theirs.embeds, rtol=0, atol=1e-6)
    # compel pools the digits and parentheses as well
    assert torch.equal(ours.pooled, model.encode_prompts([plain(read_weights(PROMPT))]).pooled)


@torch.inference_mode()
@pytest.mark.parametrize("prompt", ["a frog (green), :) painting", "frog " * 100])
def test_a_prompt_without_weights_is_encoded_as_the_encoders_do_it(loaded, prompt: str):
    for family in ("sd1", "sdxl"):
        model = loaded(family)
        outputs = [
            encoder(
                tokenizer(prompt, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids,
                output_hidden_states=True,
            )
            for tokenizer, encoder in model._text
        ]
        last = outputs[0][0] if family == "sd1" else torch.cat([output.hidden_states[-2] for output in outputs], -1)
        assert torch.equal(model.encode_prompts([prompt]).text, last)
        assert torch.equal(model.encode_prompts([f"(a:1.0){prompt}"]).text, model.encode_prompts([f"a{prompt}"]).text)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_weights_in_a_prompt_that_is_too_long(loaded, family: str, caplog):
    model = loaded(family)
    filled = "frog " * 60
    rows = model.encode_prompts(
        [f"(cat:1.4) {filled} (poor:0.5) {'of ' * 40} (the:1.2) end", f"(cat:1.4) {filled} (poor:0.5) {'of ' * 13}"]
    )
    assert rows.text.shape[1] == 77
    assert torch.isfinite(rows.text).all()
    assert "it does not see" in caplog.text and "the end'" in caplog.text
    # what is read of both is the same, and so is what comes of it
    torch.testing.assert_close(rows.text[0], rows.text[1], rtol=0, atol=1e-5)


def test_a_weighted_prompt_is_encoded_the_same_in_any_company_and_turns_the_picture(loaded):
    model = loaded("sdxl")
    alone, together = model.encode_prompts([PROMPT]), model.encode_prompts(["of of", PROMPT], negative=True)
    assert torch.equal(alone.text[0], together.text[1])
    more, most = (model.encode_prompts([f"a (frog:{weight}) of the painting"]).text for weight in (1.1, 1.5))
    none = model.encode_prompts(["a frog of the painting"]).text
    assert 0 < (more - none).norm() < (most - none).norm()


def test_the_embedded_model_heeds_weights():
    model = load_model({"name": "embedded", "model": "embedded", "licence": "MIT", "device": "cpu"})
    rows = model.encode_prompts(["a (castle:1.4) by the sea", "a castle by the sea", "a (castle:0) by the sea"]).text
    assert rows.shape == (3, 32, 192)
    assert torch.isfinite(rows).all() and min((rows[0] - rows[1]).norm(), (rows[2] - rows[1]).norm()) > 1


def test_an_encoder_of_another_kind_is_refused():
    encoder = T5EncoderModel(T5Config(vocab_size=8, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2))
    with pytest.raises(UserError, match="prompt weights are for CLIP text encoders, and this model reads t5"):
        weigh(read_weights(PROMPT), None, encoder, last_but_one=False)
