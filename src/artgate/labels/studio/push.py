"""Artworks → tasks of a Label Studio project, each artwork once however often it is pushed.

What is in the project is asked before anything is sent, and again whenever a connection broke in the middle of an
import: an import is carried out as a whole or not at all, and only the server knows which.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

from artgate.artworks.artwork import Artwork
from artgate.artworks.collection import Collection
from artgate.artworks.text import clean_text
from artgate.errors import UserError
from artgate.labels.studio.client import Json, Studio
from artgate.labels.studio.config import IMAGE, PROMPT, SHOWN, Labelling, asks_the_same, interface, label_config
from artgate.labels.studio.lock import alone
from artgate.labels.studio.overlap import Overlap
from artgate.labels.studio.served import serve_images

BATCH = 1000
THREADS = 4
SHORTEST_TITLE, LONGEST_TITLE = 3, 50

T = TypeVar("T")


@dataclass(frozen=True)
class Prediction:
    """What a scorer thinks of one artwork. grades: by aspect. confidence: in [0, 1], of the grade of quality."""

    grades: Mapping[str, str]
    confidence: float
    model_version: str


@dataclass(frozen=True)
class Pushed:
    """What a push did: tasks added, of them with a prediction; tasks that were there; tasks several people grade."""

    project: int
    url: str
    added: int
    predicted: int
    there: int
    overlapping: int


@dataclass
class _Task:
    id: int
    overlap: int
    annotations: int = 0


def push(
    studio: Studio,
    collection: Collection,
    title: str,
    image_ids: Sequence[str],
    labelling: Labelling,
    overlap: Overlap | None = None,
    predictions: Mapping[str, Prediction] | None = None,
    images: str | None = None,
    show_predictions: bool = False,
) -> Pushed:
    """Send artworks as tasks, in this order, which is that of grading; those that the project has are passed over.

    overlap: how many people grade which; without it tasks that are there keep theirs, and new ones get the project's.
    images: what an image's file name is put after to make its address, for a server that is not the local one.
    show_predictions: let annotators see them, which sways them.
    Raises UserError if the project asks something else and has votes, for a prediction that does not fit what is asked,
    and where the images cannot be shown.
    """
    if not SHORTEST_TITLE <= len(title.strip()) <= LONGEST_TITLE:
        raise UserError(
            f"project name {title!r} has {len(title.strip())} characters, and Label Studio takes {SHORTEST_TITLE} to "
            f"{LONGEST_TITLE}: choose another with --project"
        )
    config = label_config(labelling)
    sent = predictions or {}
    results = {image_id: _prediction(sent[image_id], config) for image_id in image_ids if image_id in sent}
    base = _image_base(studio, collection, images)
    with alone(collection.root):
        project = _project(studio, title, config, labelling, overlap, show_predictions)
        if images is None:
            _show_images(studio, project["id"], base)
        tasks = _existing(studio, project["id"])
        new = [image_id for image_id in image_ids if image_id not in tasks]
        there = len(image_ids) - len(new)
        for batch in _batches(new, BATCH):
            made = {i: _task(collection[i], base, labelling, results.get(i)) for i in batch}
            _send(studio, project, made, tasks)
        if overlap:
            _set_overlap(studio, image_ids, tasks, overlap)
    return Pushed(
        project["id"],
        f"{studio.connection.url}/projects/{project['id']}",
        len(new),
        sum(image_id in results for image_id in new),
        there,
        sum(tasks[image_id].overlap > 1 for image_id in image_ids),
    )


def _image_base(studio: Studio, collection: Collection, images: str | None) -> str:
    if images is not None:
        return images if images.endswith(("/", "=")) else f"{images}/"
    data = studio.connection.data
    if data is None:
        raise UserError(
            f"{studio.connection.url} is not the local server and does not see this folder: say with --images what "
            "comes before a file's name in its address there, as https://images.example.org/art/ or s3://bucket/art/ "
            "or /data/local-files/?d=art/"
        )
    return f"/data/local-files/?d={serve_images(data, collection).name}/"


def _project(
    studio: Studio, title: str, config: str, labelling: Labelling, overlap: Overlap | None, show_predictions: bool
) -> Json:
    """The project of this name, made where there is none, asking what `config` asks.

    Its instructions are brought up to the labelling's, where that has some, and predictions are hidden or shown.
    """
    looks: Json = {"show_collab_predictions": show_predictions}
    if labelling.instructions:
        looks |= {"expert_instruction": labelling.instructions, "show_instruction": True}
    usual = overlap.usual if overlap else 1
    made = {"title": title, "label_config": config, "maximum_annotations": usual, **looks}

    def find_or_make() -> Json:
        found = studio.project(title)  # again after a break: it may have been made
        return found if found is not None else studio.send("POST", "api/projects/", made)

    project = studio.patiently(find_or_make)
    if asks_the_same(project["label_config"], config):
        change = {key: value for key, value in looks.items() if project.get(key) != value}
    elif project.get("total_annotations_number") or project.get("num_tasks_with_annotations"):
        raise UserError(
            f"project {title!r} has votes and asks or shows something else than this labelling: votes on different "
            "questions must not be mixed; choose another name with --project, or the labelling it was made with"
        )
    else:
        change = {"label_config": config, **looks}
    if not change:
        return project
    return studio.patiently(lambda: studio.send("PATCH", f"api/projects/{project['id']}/", change))


def _show_images(studio: Studio, project: int, base: str) -> None:
    """Tell the local server that this project's people may see the Collection's folder (a local storage of it)."""
    assert studio.connection.data is not None
    link = studio.connection.data / "served" / base.partition("?d=")[2].rstrip("/")
    storage = {"project": project, "path": str(link), "title": "images", "use_blob_urls": True}

    def find_or_make() -> None:
        stored = studio.send("GET", "api/storages/localfiles", params={"project": project})
        if not any(Path(each["path"]) == link for each in stored):
            studio.send("POST", "api/storages/localfiles", storage)

    studio.patiently(find_or_make)


def _existing(studio: Studio, project: int) -> dict[str, _Task]:
    """The tasks that a project has, by image_id; of two with the same, the first."""
    tasks: dict[str, _Task] = {}
    for task in studio.tasks(project, "id,data,overlap,total_annotations"):
        image_id = task["data"].get("image_id")
        if isinstance(image_id, str):
            tasks.setdefault(image_id, _Task(task["id"], task["overlap"], task["total_annotations"]))
    return tasks


def _send(studio: Studio, project: Json, made: Mapping[str, Json], tasks: dict[str, _Task]) -> None:
    """Import what is not there yet of a batch, image_id -> task, and note it in `tasks`."""

    def import_missing() -> None:
        missing = [image_id for image_id in made if image_id not in tasks]
        if not missing:
            return
        path = f"api/projects/{project['id']}/import"
        answer = studio.send("POST", path, [made[i] for i in missing], {"return_task_ids": "true"})
        numbers = answer.get("task_ids") or []
        if len(numbers) == len(missing):
            own = project["maximum_annotations"]
            tasks.update((i, _Task(number, own)) for i, number in zip(missing, numbers, strict=True))
        else:  # an edition that imports in the background
            tasks.update(_existing(studio, project["id"]))

    studio.patiently(import_missing, before_again=lambda: tasks.update(_existing(studio, project["id"])))


def _set_overlap(studio: Studio, image_ids: Sequence[str], tasks: Mapping[str, _Task], overlap: Overlap) -> None:
    """Set the number of annotators of each task that has another; of one that has votes it is only raised."""

    def set_one(change: tuple[_Task, int]) -> None:
        task, wanted = change
        body = {"overlap": wanted, "is_labeled": task.annotations >= wanted}
        studio.patiently(lambda: studio.send("PATCH", f"api/tasks/{task.id}", body))
        task.overlap = wanted

    plan = ((tasks[image_id], overlap.of(image_id)) for image_id in image_ids)
    changes = [
        (task, wanted)
        for task, wanted in plan
        if wanted > task.overlap or (wanted < task.overlap and not task.annotations)
    ]
    # The server has no way to set many at once; a few side by side hide most of the waiting.
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(set_one, changes))


def _task(artwork: Artwork, base: str, labelling: Labelling, prediction: Json | None) -> Json:
    data = {IMAGE: base + artwork.file_name.rpartition("/")[2], "image_id": artwork.image_id}
    if labelling.prompt == SHOWN:
        data[PROMPT] = clean_text(artwork.provenance.prompt)
    return {"data": data} | ({"predictions": [prediction]} if prediction else {})


def _prediction(prediction: Prediction, config: str) -> Json:
    """As Label Studio wants it. Raises UserError if it does not fit what is asked."""
    asked = interface(config)
    result = [
        {"from_name": aspect, "to_name": IMAGE, "type": "choices", "value": {"choices": [grade]}}
        for aspect, grade in prediction.grades.items()
        if aspect in {control.name for control in asked.controls}
    ]
    # Label Studio serves the lowest score first: confidence, not quality.
    made = {"result": result, "score": prediction.confidence, "model_version": prediction.model_version}
    if errors := asked.validate_prediction(made, return_errors=True):
        raise UserError(f"a prediction does not fit the label config ({errors[0]}): predict what conf/labelling asks")
    return made


def _batches(items: Sequence[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
