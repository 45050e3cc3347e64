import io
import json
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import encoded, picture
from PIL import Image
from sd_parsers import ParserManager

from artgate.artworks.artwork import Provenance
from artgate.artworks.comfyui import read_graph
from artgate.artworks.decode import decode
from artgate.artworks.parameters import (
    GenerationParameters,
    embed,
    embed_png,
    format_a1111,
    parse_a1111,
    read_parameters,
    with_parameters,
)
from artgate.artworks.text import MAX_TEXT, clean_float, clean_int, clean_text

# As AUTOMATIC1111 1.6 writes it.
A1111 = """masterpiece, (fox:1.2) in snow, <lora:ink:0.8>
second line: with a colon
Negative prompt: blurry, lowres,
bad hands
Steps: 28, Sampler: DPM++ 2M Karras, CFG scale: 7.5, Seed: 2938471, Size: 512x768, Model hash: e6415c4892, \
Model: realisticVision_v51, Denoising strength: 0.4, Lora hashes: "ink: 1a2b, b: 3c4d", Version: v1.6.0"""

EXPECTED = GenerationParameters(
    prompt="masterpiece, (fox:1.2) in snow, <lora:ink:0.8>\nsecond line: with a colon",
    negative_prompt="blurry, lowres,\nbad hands",
    steps=28,
    sampler="DPM++ 2M Karras",
    guidance=7.5,
    seed=2938471,
    size=(512, 768),
    model="realisticVision_v51",
    extras={
        "Model hash": "e6415c4892",
        "Denoising strength": "0.4",
        "Lora hashes": "ink: 1a2b, b: 3c4d",
        "Version": "v1.6.0",
    },
)


def comfy(**changes: dict) -> dict:
    """ComfyUI's default graph, with a LoRA and a ControlNet between."""
    graph = {
        "3": {
            "class_type": "KSampler",
            "inputs": {
                "seed": 2**64 - 1,
                "steps": 20,
                "cfg": 8,
                "sampler_name": "euler",
                "scheduler": "normal",
                "denoise": 1,
                "model": ["10", 0],
                "positive": ["11", 0],
                "negative": ["11", 1],
                "latent_image": ["5", 0],
            },
        },
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd15.safetensors"}},
        "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 512, "batch_size": 1}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "text, watermark", "clip": ["4", 1]}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a galaxy in a bottle", "clip": ["4", 1]}},
        "10": {"class_type": "LoraLoader", "inputs": {"lora_name": "x", "model": ["4", 0], "clip": ["4", 1]}},
        "11": {"class_type": "ControlNetApplyAdvanced", "inputs": {"positive": ["6", 0], "negative": ["7", 0]}},
    }
    return {**graph, **changes}


def png_with(**texts: str) -> bytes:
    info = __import__("PIL.PngImagePlugin").PngImagePlugin.PngInfo()
    for key, text in texts.items():
        info.add_text(key, text) if text.isascii() else info.add_itxt(key, text)
    return encoded(picture(1), pnginfo=info)


def with_user_comment(comment: bytes | str, format: str) -> bytes:
    exif = Image.Exif()
    exif[0x0131] = "a generator"  # Pillow writes no EXIF without a tag in the first directory
    exif.get_ifd(0x8769)[0x9286] = comment
    return encoded(picture(1), format, exif=exif)


def test_a1111_text_is_read_to_the_last_setting():
    assert parse_a1111(A1111) == EXPECTED


def test_what_is_formatted_is_what_a1111_would_write():
    assert format_a1111(EXPECTED).startswith("masterpiece, (fox:1.2)")
    assert parse_a1111(format_a1111(EXPECTED)) == EXPECTED
    assert "\nSteps: 28, Sampler: DPM++ 2M Karras, CFG scale: 7.5, Seed: 2938471, Size: 512x768" in format_a1111(
        EXPECTED
    )


@pytest.mark.parametrize("text", [A1111, A1111.replace("fox", "лиса 狐 🦊")])
def test_png_text_ascii_and_not(text):
    data = embed_png(picture(1), text)
    assert read_parameters(data) == parse_a1111(text)
    assert decode(data).tobytes() == picture(1).tobytes()
    assert decode(data).info.get("parameters", text) == text


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("word", ["fox", "лиса 狐 🦊"])
def test_what_is_embedded_is_read_back_by_us_and_by_another_reader(format: str, word: str):
    told = replace(EXPECTED, prompt=f"a (big:1.3) {word},\nsecond line", negative_prompt="blurry: (poor:0.8)")
    data = embed(picture(1), format_a1111(told), format, quality=90)
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == format
        theirs = ParserManager().parse(image)
    assert read_parameters(data) == told
    (sampler,) = theirs.samplers
    assert [prompt.value for prompt in sampler.prompts] == [told.prompt]
    assert [prompt.value for prompt in sampler.negative_prompts] == [told.negative_prompt]
    assert (sampler.name, sampler.model.name) == (told.sampler, told.model)
    assert sampler.parameters == {"seed": "2938471", "steps": "28", "cfg_scale": "7.5"}
    assert theirs.metadata["Size"] == "512x768"


def test_quality_is_that_of_the_pixels_and_colours_are_not_halved():
    sizes = [len(embed(picture(1), A1111, "JPEG", quality)) for quality in (20, 60, 100)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[2]
    image = Image.open(io.BytesIO(embed(picture(1), A1111, "JPEG")))
    assert [layer[1:3] for layer in image.layer] == [(1, 1)] * 3  # type: ignore[attr-defined]


def test_a_text_that_a_jpeg_has_no_room_for_is_said():
    with pytest.raises(ValueError, match="EXIF data is too long"):
        embed(picture(1), "a" * 40_000, "JPEG")


def test_png_text_behind_the_pixels():
    data = embed_png(picture(1), A1111)
    start = data.index(b"tEXt") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4])
    moved = data[:start] + data[end:-12] + data[start:end] + data[-12:]
    assert moved.index(b"tEXt") > moved.rindex(b"IDAT")
    assert read_parameters(moved) == EXPECTED


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "PNG"])
@pytest.mark.parametrize(
    ("prefix", "encoding"),
    [
        (b"UNICODE\0", "utf-16-be"),
        (b"UNICODE\0", "utf-16-le"),
        (b"ASCII\0\0\0", "utf-8"),
        (bytes(8), "utf-8"),
        (b"", "utf-8"),
    ],
)
def test_exif_user_comment_in_every_encoding_that_is_met(format, prefix, encoding):
    text = A1111.replace("fox", "лиса 狐")
    assert read_parameters(with_user_comment(prefix + text.encode(encoding), format)) == parse_a1111(text)


def test_a_prompt_alone_is_no_parameters():
    assert parse_a1111("a fox, in snow") is None
    assert parse_a1111("") is None
    assert parse_a1111("a fox\nratio: 3") is None
    assert read_parameters(encoded(picture(1))) is None


@pytest.mark.parametrize("data", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + bytes(50), b"\xff\xd8\xff\xe1\xff\xff"])
def test_what_is_no_image_has_no_parameters(data):
    assert read_parameters(data) is None


def test_comfyui_follows_the_links_not_the_order_of_the_texts():
    found = read_parameters(png_with(prompt=json.dumps(comfy()), workflow="{}"))
    assert found == GenerationParameters(
        prompt="a galaxy in a bottle",
        negative_prompt="text, watermark",
        steps=20,
        sampler="euler",
        guidance=8.0,
        seed=2**64 - 1,
        model="sd15.safetensors",
        extras={"scheduler": "normal"},
        tool="comfyui",
    )
    swapped = comfy()
    swapped["3"]["inputs"] |= {"positive": ["7", 0], "negative": ["6", 0]}
    graph = read_graph(json.dumps(swapped))
    assert (graph.prompt, graph.negative_prompt) == ("text, watermark", "a galaxy in a bottle")


def test_comfyui_webp_keeps_its_graph_in_a_camera_tag():
    exif = Image.Exif()
    exif[0x0110] = "prompt:" + json.dumps(comfy())
    assert read_parameters(encoded(picture(1), "WEBP", exif=exif)).prompt == "a galaxy in a bottle"


def test_comfyui_combined_conditionings_linked_texts_and_sdxl():
    graph = comfy(
        **{
            "6": {
                "class_type": "ConditioningCombine",
                "inputs": {"conditioning_1": ["20", 0], "conditioning_2": ["21", 0]},
            },
            "20": {"class_type": "CLIPTextEncodeSDXL", "inputs": {"text_g": "red", "text_l": "red", "clip": ["4", 1]}},
            "21": {"class_type": "CLIPTextEncode", "inputs": {"text": ["22", 0]}},
            "22": {"class_type": "PrimitiveString", "inputs": {"value": "blue"}},
        }
    )
    assert read_graph(json.dumps(graph)).prompt == "red, blue"


def test_comfyui_flux_graph_with_guider_noise_and_sigmas():
    graph = {
        "1": {
            "class_type": "SamplerCustomAdvanced",
            "inputs": {"noise": ["2", 0], "guider": ["3", 0], "sampler": ["4", 0], "sigmas": ["5", 0]},
        },
        "2": {"class_type": "RandomNoise", "inputs": {"noise_seed": 42}},
        "3": {"class_type": "BasicGuider", "inputs": {"model": ["6", 0], "conditioning": ["7", 0]}},
        "4": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "dpmpp_2m"}},
        "5": {"class_type": "BasicScheduler", "inputs": {"scheduler": "simple", "steps": 4, "model": ["6", 0]}},
        "6": {"class_type": "UNETLoader", "inputs": {"unet_name": "flux1.safetensors"}},
        "7": {"class_type": "FluxGuidance", "inputs": {"conditioning": ["8", 0], "guidance": 3.5}},
        "8": {"class_type": "CLIPTextEncode", "inputs": {"text": "a heron"}},
    }
    found = read_graph(json.dumps(graph))
    assert (found.prompt, found.negative_prompt) == ("a heron", "")
    assert found.settings == {
        "seed": 42,
        "steps": 4,
        "guidance": None,
        "sampler": "dpmpp_2m",
        "scheduler": "simple",
        "model": "flux1.safetensors",
    }


def test_of_two_comfyui_passes_the_one_from_noise_counts():
    refiner = {"class_type": "KSampler", "inputs": {**comfy()["3"]["inputs"], "denoise": 0.3, "seed": 1, "steps": 5}}
    for name in ("2", "99"):
        found = read_graph(json.dumps({name: refiner, **comfy()}))
        assert found.settings["steps"] == 20


HOSTILE_GRAPHS = {
    "no json": "{",
    "deep nesting": '{"a":' * 50_000 + "1" + "}" * 50_000,
    "deep list": "[" * 200_000,
    "a list": "[1, 2]",
    "no sampler": json.dumps({"1": {"inputs": {"text": "x"}}}),
    "too many nodes": json.dumps({str(i): comfy()["3"] for i in range(6000)}),
    "too long": json.dumps({**comfy(), "x": "y" * 3_000_000}),
    "huge number": '{"3": {"inputs": {"seed": ' + "9" * 5000 + "}}}",
    "nodes of other types": json.dumps({"1": 3, "2": None, "3": {"inputs": []}, "4": {"inputs": None}}),
}


@pytest.mark.parametrize("kind", HOSTILE_GRAPHS)
def test_a_hostile_graph_is_no_parameters(kind):
    assert read_graph(HOSTILE_GRAPHS[kind]) is None


def test_a_graph_in_circles_ends():
    graph = comfy(
        **{
            "6": {
                "class_type": "ConditioningCombine",
                "inputs": {"conditioning_1": ["6", 0], "conditioning_2": ["11", 0]},
            },
            "10": {"class_type": "LoraLoader", "inputs": {"model": ["10", 0]}},
        }
    )
    found = read_graph(json.dumps(graph))
    assert (found.prompt, found.settings["model"]) == ("", "")


def test_a_graph_that_doubles_at_each_node_ends_soon():
    nodes = {
        str(100 + i): {"inputs": {"conditioning_1": [str(101 + i), 0], "conditioning_2": [str(101 + i), 1]}}
        for i in range(500)
    }
    started = time.process_time()
    assert read_graph(json.dumps(comfy(**{"6": {"inputs": {"conditioning_1": ["100", 0]}}, **nodes}))).prompt == ""
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    "inputs",
    [
        {"seed": -1, "steps": 10**9, "cfg": float("inf"), "sampler_name": ["x"], "model": "y"},
        {"seed": 1.5, "steps": "many", "cfg": "nan", "sampler_name": {}, "model": ["4", "0"]},
        {"seed": True, "steps": [], "cfg": None, "sampler_name": 3, "model": [None, 0]},
    ],
)
def test_values_out_of_bounds_are_left_out(inputs):
    graph = {"3": {"inputs": {**comfy()["3"]["inputs"], **inputs}}}
    found = read_parameters(png_with(prompt=json.dumps(graph)))
    assert (found.seed, found.steps, found.guidance, found.sampler, found.model) == (None,) * 5


def test_control_characters_and_direction_marks_are_stripped_and_text_is_capped():
    assert clean_text("a\0b\x1b[31m\u202ec\r\nd\te \ud800👩‍🎨") == "ab[31mc\nd\te 👩‍🎨"
    assert len(clean_text("x" * 10**6)) == MAX_TEXT
    assert clean_text(None) == clean_text(3) == ""
    found = parse_a1111("evil\0\x07 prompt\nSteps: 5, Sampler: a\x00b, Seed: 3")
    assert (found.prompt, found.sampler) == ("evil prompt", "ab")


def test_numbers_from_text():
    assert [clean_int(v, 0, 100) for v in ("7", 7, "101", -1, "٣", "1e3", True, None, 7.0)] == [7, 7] + [None] * 7
    assert [clean_float(v, 0, 10) for v in ("7.5", 3, "nan", "inf", 11, "x", True, None)] == [7.5, 3.0] + [None] * 6


def test_a_text_made_to_stall_the_pattern_is_read_in_no_time():
    started = time.process_time()
    for evil in (
        "a" * 100_000,
        "a: " * 40_000,
        'a: "' + "\\" * 50_000,
        "Steps: 1, " + "a b-c/" * 20_000,
        "\n" * 100_000,
    ):
        parse_a1111(evil)
    assert time.process_time() - started < 3


words = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Cf")), max_size=30).map(str.strip)


@settings(max_examples=100, deadline=None)
@given(
    st.builds(
        GenerationParameters,
        prompt=words.filter(lambda text: "Negative prompt:" not in text),
        negative_prompt=words,
        steps=st.integers(1, 150),
        sampler=words.filter(bool),
        guidance=st.floats(0, 30).map(lambda value: round(value, 2)),
        seed=st.integers(0, 2**64 - 1),
        size=st.tuples(st.integers(64, 4096), st.integers(64, 4096)),
        model=st.none() | words.filter(bool),
        extras=st.dictionaries(st.sampled_from(["Clip skip", "Score", "Hires upscaler"]), words.filter(bool)),
    )
)
def test_what_is_formatted_is_what_is_parsed(parameters):
    assert parse_a1111(format_a1111(parameters)) == parameters


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=300) | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(json.dumps))
@pytest.mark.slow
def test_no_text_is_an_error(text):
    parse_a1111(text)
    read_graph(text)


def test_provenance_is_filled_where_it_says_nothing():
    data = embed_png(picture(1), A1111)
    filled = with_parameters(Provenance(source="web", prompt="from the page", parameters={"Version": "mine"}), data)
    assert (filled.prompt, filled.generator, filled.seed) == ("from the page", "realisticVision_v51", 2938471)
    assert filled.parameters["Version"] == "mine"
    assert filled.parameters["tool"] == "a1111"
    assert with_parameters(Provenance(source="x"), encoded(picture(1))) == Provenance(source="x")
