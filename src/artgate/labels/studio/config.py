"""What annotators are asked and shown: `conf/labelling/*.yaml` → the label config of a Label Studio project."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from artgate.artworks.text import one_line
from artgate.errors import UserError
from artgate.labels.grades import ASPECTS, GRADES

if TYPE_CHECKING:
    from label_studio_sdk.label_interface import LabelInterface

FOLDER = Path("conf/labelling")
SHOWN, HIDDEN = "shown", "hidden"
# The best first, as the hotkeys go: 1 2 3 for the first aspect, 4 5 6 for the second, 7 8 9 for the third; a fourth has
# none.
SHOWN_GRADES = tuple(reversed(GRADES))
QUESTIONS = {
    "quality": "Quality: would you publish it?",
    "attributes": "Attributes: light, colour, sharpness, composition",
    "rationality": "Rationality: does what is shown make sense?",
    "alignment": "Alignment: is it what the prompt asks for?",
}
IMAGE, PROMPT, DEFECTS, COMMENT = "image", "prompt", "defects", "comment"
# The picture as large as the window allows, the questions beside it, so that no grade lies below the window's edge.
# Hidden: Label Studio's panels on regions, of which there are none here, and the button that adds a remark, which is
# sent without it. They go by the names that they have in 1.23; under other names they would only be seen again.
STYLE = """
.artgate { display: flex; gap: 16px; align-items: flex-start }
.artgate-picture { flex: 1 1 0; min-width: 0 }
.artgate-questions { flex: 0 0 300px; max-width: 300px }
.lsf-sidepanels { padding-right: 0 !important }
.lsf-sidepanels__wrapper_align_right, [data-testid="textarea-submit-section"] { display: none !important }
"""
# What of a label config the answers depend on; the rest is looks.
MEANING = ("name", "toName", "value", "choice", "required")


@dataclass
class Labelling:
    """One file of conf/labelling.

    aspects: what is graded; the first is required. defects: tags that may be set, () for none. prompt: shown or hidden.
    instructions: an HTML file beside the YAML file, "" for none; here its text.
    Raises UserError for what is unknown or given twice.
    """

    aspects: list[str]
    defects: list[str] = field(default_factory=list)
    comment: bool = True
    prompt: str = HIDDEN
    instructions: str = ""

    def __post_init__(self) -> None:
        if not self.aspects:
            raise UserError(f"aspects is empty: ask for at least one of {', '.join(ASPECTS)}")
        for aspect in self.aspects:
            if aspect not in ASPECTS:
                raise UserError(f"aspects: {aspect!r} is not one of {', '.join(ASPECTS)}: correct it")
        if self.prompt not in (SHOWN, HIDDEN):
            raise UserError(f"prompt {self.prompt!r} is not one of {SHOWN}, {HIDDEN}: choose one of them")
        if "alignment" in self.aspects and self.prompt != SHOWN:
            raise UserError(f"alignment is to the prompt, and prompt is {self.prompt!r}: set prompt: {SHOWN}")
        for key, values in (("aspects", self.aspects), ("defects", self.defects)):
            if len(set(values)) < len(values) or not all(value.strip() for value in values):
                raise UserError(f"{key} {values} names something twice, or nothing: name each once")


def read_labelling(name: str) -> Labelling:
    """Of a file, or of a name in conf/labelling. Raises UserError if there is none, or it holds something unknown."""
    import yaml

    from artgate.config import validated

    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(each.stem for each in FOLDER.glob("*.yaml"))) or "none here"
        raise UserError(
            f"{path} does not exist (in {FOLDER} there are: {known}): run this in the project's folder, or name a file"
        )
    try:
        read = yaml.safe_load(path.read_bytes())
        if not isinstance(read, Mapping):
            raise UserError(f"it holds {type(read).__name__}, not settings: write one `key: value` a line")
        labelling = validated(Labelling, read)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{path} is not YAML ({one_line(str(error), 300)}): correct it") from None
    if labelling.instructions:
        labelling.instructions = _instructions(path, labelling.instructions)
    return labelling


def _instructions(path: Path, name: str) -> str:
    """The text of the file of this name beside a labelling's: no other, for it is sent to a server and shown there."""
    page = path.with_name(name) if name == Path(name).name and name.endswith(".html") else None
    if page is None:
        raise UserError(f"{path}: instructions {name!r} are not the name of an .html file beside it: put one there")
    if not page.is_file():
        raise UserError(f"{path}: instructions {page} do not exist: write them, or leave the key out")
    try:
        return page.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{path}: instructions {page} are not UTF-8 text: save them as such") from None


def label_config(labelling: Labelling) -> str:
    """The label config: XML whose controls are named after the aspects, checked by Label Studio's own rules."""
    view = Element("View", className="artgate")
    SubElement(view, "Style").text = STYLE
    picture = SubElement(view, "View", className="artgate-picture")
    questions = SubElement(view, "View", className="artgate-questions")
    if labelling.prompt == SHOWN:
        SubElement(picture, "Text", name=PROMPT, value=f"${PROMPT}", granularity="word")
    SubElement(
        picture, "Image", name=IMAGE, value=f"${IMAGE}", zoom="true", zoomControl="true", rotateControl="false",
        defaultZoom="fit", horizontalAlignment="center", maxWidth="100%",
    )  # fmt: skip
    hotkeys = iter("123456789")
    inline = str(len(labelling.aspects) > 1).lower()  # one below the other where there is room
    for number, aspect in enumerate(labelling.aspects):
        SubElement(questions, "Header", value=QUESTIONS[aspect], size="5")
        required = str(number == 0).lower()
        grades = SubElement(
            questions, "Choices", name=aspect, toName=IMAGE, choice="single", required=required, showInline=inline
        )
        if number == 0:
            grades.set("requiredMessage", f"Grade the {aspect} (keys 1, 2, 3), or skip the picture.")
        for grade in SHOWN_GRADES:
            key = next(hotkeys, None)
            SubElement(grades, "Choice", {"value": grade} | ({"hotkey": key} if key else {}))
    if labelling.defects:
        SubElement(questions, "Header", value="Defects that you see", size="5")
        defects = SubElement(questions, "Choices", name=DEFECTS, toName=IMAGE, choice="multiple", showInline="true")
        for defect in labelling.defects:
            SubElement(defects, "Choice", value=defect)
    if labelling.comment:
        SubElement(
            questions, "TextArea", name=COMMENT, toName=IMAGE, placeholder="A remark, if you have one", rows="2",
            maxSubmissions="1", editable="true",
        )  # fmt: skip
    ElementTree.indent(view)
    text = ElementTree.tostring(view, encoding="unicode")
    interface(text)
    return text


@cache
def interface(config: str) -> "LabelInterface":
    """Label Studio's reading of a label config. Raises UserError for one that it does not take."""
    from label_studio_sdk.label_interface import LabelInterface

    try:
        found = LabelInterface(config)
        found.validate()
    except Exception as error:  # the checks of the SDK raise what they like, a plain Exception among it
        raise UserError(f"Label Studio does not take this label config ({error}): correct conf/labelling") from None
    return found


def asks_the_same(one: str, other: str) -> bool:
    """Whether two label configs ask and show the same, so that answers to one are answers to the other."""
    return _meaning(one) == _meaning(other)


def _meaning(config: str) -> Any:
    try:
        root = ElementTree.fromstring(config)
    except ElementTree.ParseError:
        return config
    tags = (element for element in root.iter() if element.tag not in ("View", "Header", "Style"))
    return sorted((tag.tag, *((key, tag.get(key, "")) for key in MEANING)) for tag in tags)
