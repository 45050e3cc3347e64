from pathlib import Path
from xml.etree import ElementTree

import pytest

from artgate.errors import UserError
from artgate.labels.grades import ASPECTS
from artgate.labels.studio.config import Labelling, asks_the_same, interface, label_config, read_labelling

CONF = Path(__file__).parents[3] / "conf" / "labelling"


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_what_is_in_conf_is_a_config_that_label_studio_takes(path):
    labelling = read_labelling(str(path))
    asked = interface(label_config(labelling))
    choices = {control.name: control.labels for control in asked.controls if control.tag == "Choices"}
    assert {aspect: choices[aspect] for aspect in labelling.aspects} == dict.fromkeys(
        labelling.aspects, ["good", "average", "poor"]
    )
    assert choices["defects"] == ["hands", "faces", "text", "blur", "artefact", "composition", "off-prompt"]
    assert "<b>poor</b> (key 3)" in labelling.instructions
    assert (labelling.prompt == "shown") == any(each.value == "$prompt" for each in asked.objects)


def test_grades_have_hotkeys_and_only_the_first_aspect_is_required():
    root = ElementTree.fromstring(label_config(Labelling(["quality", "rationality"])))
    grades = {tag.get("name"): tag for tag in root.iter("Choices")}
    assert [(c.get("value"), c.get("hotkey")) for c in grades["quality"]] == [
        ("good", "1"),
        ("average", "2"),
        ("poor", "3"),
    ]
    assert [choice.get("hotkey") for choice in grades["rationality"]] == ["4", "5", "6"]
    assert [grades[aspect].get("required") for aspect in ("quality", "rationality")] == ["true", "false"]
    assert [image.get("zoom") for image in root.iter("Image")] == ["true"]
    assert list(root.iter("TextArea")) and not list(root.iter("Text"))


def test_all_aspects_can_be_asked_for_beside_the_prompt():
    root = ElementTree.fromstring(label_config(Labelling(list(ASPECTS), prompt="shown")))
    grades = {tag.get("name"): [choice.get("hotkey") for choice in tag] for tag in root.iter("Choices")}
    assert grades["rationality"] == ["7", "8", "9"]
    assert grades["alignment"] == [None, None, None], "there are nine digits"


def test_what_is_asked_is_told_from_how_it_looks():
    config = label_config(Labelling(["quality"], ["hands"]))
    assert asks_the_same(config, config.replace("would you publish it?", "is it good?").replace("\n", ""))
    assert asks_the_same(config, config.replace('maxWidth="100%"', 'maxWidth="60%"'))
    for other in (
        Labelling(["quality"], ["hands", "text"]),
        Labelling(["quality", "attributes"], ["hands"]),
        Labelling(["quality"], ["hands"], comment=False),
        Labelling(["quality"], ["hands"], prompt="shown"),
    ):
        assert not asks_the_same(config, label_config(other))
    assert not asks_the_same(config, config.replace('value="average"', 'value="fair"'))
    assert not asks_the_same(config, config.replace('required="true"', 'required="false"'))
    assert not asks_the_same(config, "<View>")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("aspects: [beauty]", "aspects: 'beauty' is not one of quality, attributes, rationality"),
        ("aspects: [quality, alignment]", "alignment is to the prompt, and prompt is 'hidden': set prompt: shown"),
        ("aspects: []", "aspects is empty: ask for at least one"),
        ("aspects: [quality, quality]", "names something twice"),
        ("aspects: [quality]\ndefects: [hands, '']", "names something twice, or nothing"),
        ("aspects: [quality]\nprompt: maybe", "prompt 'maybe' is not one of shown, hidden"),
        ("aspects: [quality]\ncolour: red", "colour is not a setting"),
        ("aspects: [quality]\ninstructions: none.html", "none.html do not exist"),
        ("[1, 2]", "holds list, not settings"),
        ("a: [", "mine.yaml is not YAML"),
        ("a: \x01", "mine.yaml is not YAML"),
        ("[" * 50_000, "mine.yaml is not YAML"),
        (
            "aspects: [quality]\ninstructions: ../secret.html",
            "'../secret.html' are not the name",
        ),
        ("aspects: [quality]\ninstructions: /etc/passwd", "'/etc/passwd' are not the name"),
        ("aspects: [quality]\ninstructions: mine.yaml", "'mine.yaml' are not the name of an .html file"),
    ],
)
def test_a_file_that_will_not_do_is_named_with_the_cure(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_labelling(str(path))


def test_files_that_are_no_text_are_named(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"aspects: [\xff]")
    with pytest.raises(UserError, match="mine.yaml is not YAML"):
        read_labelling(str(path))
    path.write_text("aspects: [quality]\ninstructions: mine.html")
    (tmp_path / "mine.html").write_bytes(b"\xff")
    with pytest.raises(UserError, match="mine.html are not UTF-8 text"):
        read_labelling(str(path))


def test_a_name_that_is_not_in_conf_is_told_with_those_that_are(tmp_path, monkeypatch):
    monkeypatch.chdir(CONF.parents[1])
    assert read_labelling("default").aspects == ["quality"]
    with pytest.raises(UserError, match=r"quick.yaml does not exist \(in conf/labelling there are: aspects, default"):
        read_labelling("quick")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="none here"):
        read_labelling("default")


def test_texts_cannot_break_out_of_the_config():
    root = ElementTree.fromstring(label_config(Labelling(["quality"], ['"/><Choices name="evil'])))
    assert [tag.get("name") for tag in root.iter("Choices")] == ["quality", "defects"]


def test_a_config_that_label_studio_does_not_take_is_refused():
    with pytest.raises(UserError, match="Label Studio does not take this label config"):
        interface('<View><Choices name="a" toName="none"><Choice value="x"/></Choices></View>')
