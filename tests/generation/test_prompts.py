from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from artgate.errors import UserError
from artgate.generation.prompts import CandidateSource, candidates

LIBRARY = {
    "prompts": ["a {red|3::blue} __animal__ wearing __hat__", "plain: 100% (bold:1.2), [x|y] #1 $5 _not_a_word_"],
    "words": {"animal": ["frog", "cat"], "hat": ["a {police|chef} cap", "no hat, like a __animal__"]},
    "suffix": ", good {quality|light}",
    "negative_prompt": "poor {quality|}",
}


def test_candidate_k_is_the_same_in_the_stream_and_by_itself():
    stream = list(islice(candidates(LIBRARY, 7), 50))
    source = CandidateSource(LIBRARY, 7)
    assert [source[index] for index in (49, 3, 0, 17)] == [stream[index] for index in (49, 3, 0, 17)]
    assert [candidate.index for candidate in stream] == list(range(50))


def test_the_stream_is_the_same_for_ever():
    # Written down once: a batch that is resumed by a later version must go on with the same stream.
    first, second = islice(candidates(LIBRARY, 1), 2)
    assert (first.prompt, first.negative_prompt, first.seed) == (
        "a blue cat wearing no hat, like a frog, good light",
        "poor",
        4210640236,
    )
    assert second.seed == 4210640237


def test_seeds_of_a_batch_are_distinct_and_those_of_two_base_seeds_far_apart():
    seeds = [[candidate.seed for candidate in islice(candidates(LIBRARY, base), 2000)] for base in (1, 2)]
    assert len({*seeds[0], *seeds[1]}) == 4000
    assert all(0 <= seed < 2**32 for seed in seeds[0])


def test_another_base_seed_draws_other_words():
    prompts = [[item.prompt for item in islice(candidates(LIBRARY, base), 0, 40, 2)] for base in (1, 2)]
    assert prompts[0] != prompts[1]


def test_prompts_come_in_turn_and_alternatives_by_their_weights():
    prompts = [candidate.prompt for candidate in islice(candidates(LIBRARY, 3), 4000)]
    assert all(prompt.startswith("a ") for prompt in prompts[::2])
    assert all(prompt.startswith("plain: ") for prompt in prompts[1::2])
    counts = Counter(prompt.split()[1] for prompt in prompts[::2])
    assert counts["blue"] / 2000 == pytest.approx(0.75, abs=0.03)
    assert {"a police cap", "a chef cap"} <= {prompt.split("wearing ")[1].split(",")[0] for prompt in prompts[::2]}


def test_everything_but_braces_and_word_lists_is_left_as_it_is():
    plain = CandidateSource({"prompts": [LIBRARY["prompts"][1]]}, 0)[0].prompt
    assert plain == LIBRARY["prompts"][1]
    assert CandidateSource({"prompts": [r"\{a\|b\} a|b"]}, 0)[0].prompt == "{a|b} a|b"


def test_an_empty_alternative_leaves_no_double_space():
    prompts = {item.prompt for item in islice(candidates({"prompts": ["a {very|} big cat"]}, 0), 20)}
    assert prompts == {"a very big cat", "a big cat"}


def test_a_prompt_may_have_its_own_negative_prompt_and_base_picture(tmp_path):
    sketch = tmp_path / "sketch.png"
    sketch.write_bytes(b"")
    prompts = [{"prompt": "a cat", "negative_prompt": "dogs", "basemap": str(sketch)}, "a frog"]
    cat, frog = islice(candidates({"prompts": prompts, "negative_prompt": "text"}, 0), 2)
    assert (cat.negative_prompt, cat.basemap) == ("dogs", str(sketch))
    assert (frog.negative_prompt, frog.basemap) == ("text", None)


def test_words_come_from_a_file_too(tmp_path):
    (tmp_path / "animals.txt").write_text("# of the forest\nowl\n\n  deer \n", encoding="utf-8")
    prompts = {"prompts": ["__animal__"], "words": {"animal": str(tmp_path / "animals.txt")}}
    assert {item.prompt for item in islice(candidates(prompts, 0), 30)} == {"owl", "deer"}


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({"prompts": []}, "prompts.prompts is empty: give at least one"),
        ({"prompts": ["a {b|c"]}, r"'a \{b\|c' has a \{ without its \}"),
        ({"prompts": ["a b}"]}, r"has a \} without its \{"),
        (
            {"prompts": ["a __hat__"], "words": {"hut": ["x"]}},
            r"word list 'hat', which is not in prompts.words \(hut\)",
        ),
        ({"prompts": ["a"], "words": {"hat": []}}, r"prompts.words.hat \[\] has no words"),
        ({"prompts": ["a"], "words": {"hat": "nowhere.txt"}}, "prompts.words.hat: no file 'nowhere.txt'"),
        ({"prompts": ["a"], "words": {"a": ["__b__"], "b": ["__a__"]}}, "word lists a, b use each other in a circle"),
        ({"prompts": ["{0::a|0::b}"]}, "all alternatives of a prompt have weight 0"),
        ({"prompts": ["{" + "9" * 400 + "::a|b}"]}, "weights of a prompt's alternatives add up to more than 1e308"),
        ({"prompts": [{"text": "a"}]}, r"prompts.prompts\[0\] .* is no prompt"),
        ({"prompts": ["  "]}, r"prompts.prompts\[0\] '  ' is no prompt"),
        ({"prompts": [{"prompt": "a", "seed": 3}]}, r"prompts.prompts\[0\].seed is not known"),
        ({"prompts": [{"prompt": "a", "basemap": "no.png"}]}, r"prompts.prompts\[0\].basemap 'no.png' is not there"),
        ({"prompts": ["a"], "sufix": "b"}, "prompts.sufix is not a setting: did you mean prompts.suffix"),
    ],
)
def test_what_is_wrong_is_told_before_the_first_candidate(prompts, message):
    with pytest.raises(UserError, match=message):
        candidates(prompts, 0)


@pytest.mark.parametrize("path", sorted(Path("conf/prompts").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_prompt_library_of_conf_draws_prompts(path):
    cfg = OmegaConf.load(path)
    if OmegaConf.is_missing(cfg, "prompts"):
        cfg.prompts = ["a {red|blue} fox"]
    drawn = [candidate.prompt for candidate in islice(candidates(cfg, 0), 40)]
    assert len(set(drawn)) > len(cfg.prompts)
    assert not any(mark in prompt for prompt in drawn for mark in ("{", "}", "|", "__"))
