"""The labelling loop against the real server: artworks out, three people's grades back."""

import json
import logging
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from label_studio import Annotator, LabelStudio, annotation

from artgate.artworks.collection import Collection
from artgate.artworks.files import read_lines
from artgate.labels.studio.client import Studio
from artgate.labels.votes import read_votes

pytestmark = [pytest.mark.labelstudio, pytest.mark.slow]


@pytest.fixture(scope="module")
def people(shared_label_studio: LabelStudio) -> list[Annotator]:
    return [shared_label_studio.annotator(name) for name in ("ann", "bob", "cid")]


@pytest.fixture
def collection(sample: Collection, tmp_path: Path) -> Collection:
    """A copy of the painted sample, in a folder of its own."""
    return Collection(shutil.copytree(sample.root, tmp_path / "artworks"))


def project_id(told: str) -> int:
    return int(told.strip().rpartition("/")[2])


def by_image(label_studio: LabelStudio, project: int) -> dict[str, dict]:
    tasks = Studio(lambda: label_studio.connection).tasks(project, "id,data,overlap,predictions,score,model_version")
    return {task["data"]["image_id"]: task for task in tasks}


def test_pushing_again_adds_only_what_is_new(label_studio, artgate, collection):
    status, out, _ = artgate("label", "push", collection.root, "--project", "again", "--limit", 20)
    assert (status, out.splitlines()[0][:32]) == (0, "20 tasks added to 'again', 0 wit")
    first = by_image(label_studio, project_id(out))
    assert len(first) == 20 and {task["overlap"] for task in first.values()} == {1}
    status, out, _ = artgate("label", "push", collection.root, "--project", "again")
    assert out.startswith("28 tasks added to 'again', 0 with a prediction; 20 were there")
    tasks = by_image(label_studio, project_id(out))
    assert set(tasks) == {artwork.image_id for artwork in collection}
    assert {image_id: tasks[image_id]["id"] for image_id in first} == {i: task["id"] for i, task in first.items()}
    _, out, _ = artgate("label", "push", collection.root, "--project", "again")
    assert out.startswith("0 tasks added")


def test_the_server_shows_the_images_of_the_collection_and_nothing_else(label_studio, artgate, collection, people):
    _, out, _ = artgate("label", "push", collection.root, "--project", "shown", "--limit", 1)
    ((image_id, task),) = by_image(label_studio, project_id(out)).items()
    address = task["data"]["image"]
    assert people[0].get(address).content == collection.path(collection[image_id]).read_bytes()
    folder = address.rpartition("/")[0]
    for elsewhere in (
        f"{folder}/../../credentials.json",
        "/data/local-files/?d=credentials.json",
        "/data/local-files/?d=../credentials.json",
        f"{folder}/../{collection.root.name}/metadata.jsonl",
        f"/data/local-files/?d={collection.root}/metadata.jsonl",
    ):
        answer = people[0].get(elsewhere)
        assert answer.status_code in (403, 404, 500), elsewhere
        assert b"password" not in answer.content
    (collection.root / "images" / "link.png").symlink_to(label_studio.data / "credentials.json")
    status, _, err = artgate("label", "push", collection.root, "--project", "shown")
    assert status == 2 and "link.png is a link, and would show a file from elsewhere" in err


def test_the_server_hands_each_artwork_to_as_many_people_as_planned(label_studio, artgate, collection, people):
    options = ("--overlap", 2, "--share", 0.4, "--seed", 3)
    _, out, _ = artgate("label", "push", collection.root, "--project", "handed", "--limit", 24, *options)
    project = project_id(out)
    planned = {image_id: task["overlap"] for image_id, task in by_image(label_studio, project).items()}
    assert sorted(set(planned.values())) == [1, 2]
    assert f"{sum(number == 2 for number in planned.values())} are for several annotators" in out
    graders: dict[str, list[str]] = {image_id: [] for image_id in planned}
    while handed := [(person, task) for person in people if (task := person.next_task(project))]:
        for person, task in handed:
            # What was handed to someone meanwhile may be full when it is graded; then it is not handed out again.
            person.grade(task["id"], "good")
            graders[task["data"]["image_id"]].append(person.id)
    assert {image_id: len(ids) for image_id, ids in graders.items()} == planned
    assert all(len(set(ids)) == len(ids) for ids in graders.values())


def test_more_opinions_can_be_asked_for_later_but_no_plan_is_undone(label_studio, artgate, collection, people):
    push = ("label", "push", collection.root, "--project", "later", "--limit", 3)
    _, out, _ = artgate(*push)
    project = project_id(out)
    done = people[0].next_task(project)
    people[0].grade(done["id"], "poor")
    _, out, _ = artgate(*push, "--overlap", 3)
    assert "0 tasks added" in out and "3 are for several annotators" in out
    assert {task["overlap"] for task in by_image(label_studio, project).values()} == {3}
    assert people[1].next_task(project)["id"] == done["id"], "the task that had been done is open again"
    artgate(*push)
    assert {task["overlap"] for task in by_image(label_studio, project).values()} == {3}
    artgate(*push, "--overlap", 2)
    assert Counter(task["overlap"] for task in by_image(label_studio, project).values()) == {3: 1, 2: 2}


def test_predictions_come_with_confidence_and_are_hidden(label_studio, artgate, collection, people, tmp_path):
    options = ("--predictions", "--cache", tmp_path / "features", "--limit", 4)
    status, out, err = artgate("label", "push", collection.root, "--project", "predicted", *options)
    assert status == 0, err
    project = project_id(out)
    assert "4 tasks added to 'predicted', 4 with a prediction" in out
    for task in people[0].call("GET", f"/api/tasks?project={project}&fields=all")["tasks"]:
        (prediction,) = task["predictions"]
        assert 1 / 3 <= prediction["score"] <= 1
        assert prediction["model_version"].startswith("artgate-")
        (result,) = prediction["result"]
        assert result["from_name"] == "quality" and result["value"]["choices"][0] in ("poor", "average", "good")
    assert people[0].call("GET", f"/api/projects/{project}")["show_collab_predictions"] is False


def test_later_instructions_reach_a_project_with_votes_and_predictions_are_hidden_again(
    label_studio, artgate, collection, people, tmp_path
):
    labelling = tmp_path / "own.yaml"
    labelling.write_text("aspects: [quality]\ninstructions: own.html\n")
    (tmp_path / "own.html").write_text("<p>Be kind.</p>")
    push = ("label", "push", collection.root, "--project", "instructed", "--limit", 1, "--labelling", labelling)
    options = ("--show-predictions", "--cache", tmp_path / "features")
    _, out, _ = artgate(*push, *options)
    project = project_id(out)
    people[0].grade(people[0].next_task(project)["id"], "good")

    def shown() -> tuple[str, bool]:
        told = people[0].call("GET", f"/api/projects/{project}")
        return told["expert_instruction"], told["show_collab_predictions"]

    assert shown() == ("<p>Be kind.</p>", True)
    (tmp_path / "own.html").write_text("<p>Be strict.</p>")
    status, _, err = artgate(*push)
    assert (status, shown()) == (0, ("<p>Be strict.</p>", False)), err
    labelling.write_text("aspects: [quality]\n")
    artgate(*push)
    assert shown() == ("<p>Be strict.</p>", False), "without instructions those that are there stay"


def test_another_config_is_refused_where_there_are_votes(label_studio, artgate, collection, people):
    push = ("label", "push", collection.root, "--project", "asked", "--limit", 2)
    _, out, _ = artgate(*push)
    project = project_id(out)
    status, _, _ = artgate(*push, "--labelling", "aspects")
    assert status == 0
    assert 'name="rationality"' in people[0].call("GET", f"/api/projects/{project}")["label_config"]
    people[0].grade(people[0].next_task(project)["id"], "good", rationality="poor")
    status, _, err = artgate(*push)
    assert status == 2
    assert "project 'asked' has votes and asks or shows something else" in err and "another name with --project" in err
    assert 'name="rationality"' in people[0].call("GET", f"/api/projects/{project}")["label_config"]
    assert artgate(*push, "--labelling", "aspects")[0] == 0


def test_a_hostile_prompt_is_shown_as_text_that_can_be_sent(label_studio, artgate, collection):
    lines = read_lines(collection.root / "metadata.jsonl")
    for line in lines:
        line["prompt"] = "a <b>fox</b> \ud800\x1b[31m\u202e"
    (collection.root / "metadata.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    options = ("--limit", 1, "--labelling", "with_prompt")
    status, out, err = artgate("label", "push", collection.root, "--project", "shown with it", *options)
    assert status == 0, err
    ((_, task),) = by_image(label_studio, project_id(out)).items()
    assert task["data"]["prompt"] == "a <b>fox</b> [31m"


def test_a_remark_that_no_pull_wrote_is_named(label_studio, artgate, collection, people):
    _, out, _ = artgate("label", "push", collection.root, "--project", "remarked", "--limit", 1)
    project = project_id(out)
    people[0].grade(people[0].next_task(project)["id"], "good", comment="fine")
    pull = ("label", "pull", collection.root, "--project", "remarked")
    assert artgate(*pull)[0] == 0
    remarks = collection.root / "remarks.jsonl"
    whole = remarks.read_text()
    remarks.write_text(whole + '{"project": "remarked"}\n')
    status, _, err = artgate(*pull)
    assert status == 2 and "remarks.jsonl, line 2 is not as a pull writes it: delete that line" in err
    remarks.write_text("")
    assert artgate(*pull, "--all")[0] == 0 and remarks.read_text() == whole


def test_whatever_people_do_is_pulled_and_counted(label_studio, artgate, collection, people):
    ann, bob, cid = people
    _, out, _ = artgate("label", "push", collection.root, "--project", "done", "--limit", 8, "--labelling", "aspects")
    project = project_id(out)
    tasks = by_image(label_studio, project)
    a, b, c, d, e, f, g, h = tasks
    number = {image_id: task["id"] for image_id, task in tasks.items()}
    edited = ann.grade(number[a], "poor", 3.5, attributes="good")
    bob.grade(number[a], "average", defects=["hands", "text"], comment="six fingers\n<b>")
    bob.grade(number[b], skip=True)
    bob.grade(number[c], "great")
    bob.grade(number[d], "poor")
    bob.grade(number[d], "good")
    cid.grade(number[e])
    withdrawn = cid.grade(number[f], "good")
    cid.grade(number[g], "average")
    cid.grade(number[h], "poor")
    stranger = "f" * 64
    body = [{"data": {"image": "x", "image_id": stranger}}, {"data": {"image": "x"}}]
    imported = ann.call("POST", f"/api/projects/{project}/import?return_task_ids=true", body)["task_ids"]
    for task in imported:
        ann.grade(task, "good")
    pull = ("label", "pull", collection.root, "--project", "done")
    status, out, err = artgate(*pull)
    assert status == 0, err
    votes = {(vote.image_id, vote.annotator, vote.aspect, vote.grade) for vote in read_votes(collection.root)}
    assert votes == {
        (a, ann.id, "quality", "poor"),
        (a, ann.id, "attributes", "good"),
        (a, bob.id, "quality", "average"),
        (d, bob.id, "quality", "poor"),
        (d, bob.id, "quality", "good"),
        (f, cid.id, "quality", "good"),
        (g, cid.id, "quality", "average"),
        (h, cid.id, "quality", "poor"),
    }
    vote = next(vote for vote in read_votes(collection.root) if vote.annotator == ann.id)
    assert (vote.project, vote.task, vote.annotation, vote.lead_time) == ("done", number[a], edited, 3.5)
    assert "8 votes of 'done'" in out and "8 new, 0 edited, 0 withdrawn" in out and "1 graded again later" in out
    assert "10 tasks, of them read anew 10" in out
    assert "left out of what was read: 1 empty, 1 not-in-collection, 1 skipped, 1 task-without-image-id, 1 unk" in out
    remarks = {line["image_id"]: line for line in read_lines(collection.root / "remarks.jsonl")}
    assert remarks[a]["defects"] == ["hands", "text"] and remarks[a]["comment"] == "six fingers\n<b>"
    assert remarks[b]["skipped"] is True and set(remarks) == {a, b}
    files = [collection.root / name for name in ("votes.parquet", "remarks.jsonl")]
    before = [(file.read_bytes(), file.stat().st_ino) for file in files]
    _, out, _ = artgate(*pull)
    assert "0 new, 0 edited, 0 withdrawn" in out
    assert "10 tasks, of them read anew 1\n" in out, "only that whose artwork may yet come"
    assert [(file.read_bytes(), file.stat().st_ino) for file in files] == before

    ann.call("PATCH", f"/api/annotations/{edited}/", annotation("good", 9.0, attributes="good"))
    cid.call("DELETE", f"/api/annotations/{withdrawn}/")
    ann.call("DELETE", f"/api/tasks/{number[g]}/")
    _, out, _ = artgate(*pull)
    assert "9 tasks, of them read anew 2\n" in out
    assert "7 votes of 'done'" in out and "0 new, 2 edited, 1 withdrawn, 1 of deleted tasks kept" in out
    now = read_votes(collection.root)
    told = [file.read_bytes() for file in files]
    artgate(*pull, "--all")
    assert [file.read_bytes() for file in files] == told
    grades = {(vote.image_id, vote.annotator): vote.grade for vote in now if vote.aspect == "quality"}
    assert grades[a, ann.id] == "good" and grades[g, cid.id] == "average" and (f, cid.id) not in grades


def test_a_project_of_the_same_name_that_is_another_is_refused(label_studio, artgate, collection, people):
    _, out, _ = artgate("label", "push", collection.root, "--project", "twice", "--limit", 2)
    first = project_id(out)
    people[0].grade(people[0].next_task(first)["id"], "good")
    artgate("label", "pull", collection.root, "--project", "twice")
    people[0].call("DELETE", f"/api/projects/{first}/")
    artgate("label", "push", collection.root, "--project", "twice", "--limit", 2)
    status, _, err = artgate("label", "pull", collection.root, "--project", "twice")
    assert status == 2 and "has votes of another project 'twice'" in err and "rename this one" in err
    assert len(read_votes(collection.root)) == 1
    status, _, err = artgate("label", "pull", collection.root, "--project", "no such one")
    assert status == 2 and "has no project 'no such one'" in err


def test_a_team_s_server_is_told_where_the_images_are(label_studio, artgate, collection, monkeypatch):
    token = label_studio.connection.token
    monkeypatch.setenv("LABEL_STUDIO_URL", label_studio.url)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", token)
    push = ("label", "push", collection.root, "--project", "team", "--limit", 1)
    status, _, err = artgate(*push)
    assert status == 2 and "say with --images what comes before a file's name" in err
    status, out, _ = artgate(*push, "--images", "https://images.example.org/art")
    ((image_id, task),) = by_image(label_studio, project_id(out)).items()
    name = collection[image_id].file_name.rpartition("/")[2]
    assert task["data"]["image"] == f"https://images.example.org/art/{name}"
    personal = Annotator(label_studio.url, token).call("POST", "/api/token/", {})["token"]
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", personal)
    status, out, _ = artgate("label", "pull", collection.root, "--project", "team")
    assert status == 0 and personal not in out
    wrong = "0123456789abcdef0123456789abcdef01234567"
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", wrong)
    status, _, err = artgate("label", "pull", collection.root, "--project", "team")
    assert status == 2 and "refuses the token (status 401)" in err and wrong not in err


def test_five_hundred_images_graded_by_two_of_three_people_each(
    label_studio, artgate, request, sample, tmp_path, people, caplog
):
    """And the token is found nowhere that it should not be."""
    caplog.set_level(logging.DEBUG)
    collection = five_hundred(request, sample, tmp_path)
    status, out, err = artgate("label", "push", collection.root, "--project", "many", "--limit", 500, "--overlap", 2)
    assert status == 0, err
    told = out + err
    tasks = by_image(label_studio, project_id(out))
    assert len(tasks) == min(500, len(collection)) and {task["overlap"] for task in tasks.values()} == {2}
    grades = ("poor", "average", "good")
    given = {
        (image_id, people[(n + turn) % 3].id): grades[(n + turn) % 3]
        for n, image_id in enumerate(tasks)
        for turn in (0, 1)
    }
    by_id = {person.id: person for person in people}

    def grade_own(person_id: str) -> None:
        for (image_id, annotator), grade in given.items():
            if annotator == person_id:
                by_id[person_id].grade(tasks[image_id]["id"], grade)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(grade_own, by_id))
    status, out, err = artgate("label", "pull", collection.root, "--project", "many")
    votes = read_votes(collection.root)
    assert {(vote.image_id, vote.annotator): vote.grade for vote in votes} == given
    assert len(votes) == len(given)
    token, secrets = label_studio.connection.token, [person.token for person in people]
    told += out + err + caplog.text + (label_studio.data / "server.log").read_text()
    for path in collection.root.rglob("*"):
        if path.is_file():
            told += path.read_bytes().decode("latin-1")
    assert not [secret for secret in (token, *secrets) if secret in told]
    assert json.loads((label_studio.data / "credentials.json").read_text())["token"] == token
    assert (label_studio.data / "credentials.json").stat().st_mode & 0o777 == 0o600


def five_hundred(request: pytest.FixtureRequest, sample: Collection, tmp_path: Path) -> Collection:
    """Images of AGIQA-3K where they are, else the painted sample."""
    try:
        folder = request.getfixturevalue("agiqa3k")
    except pytest.skip.Exception:
        return Collection(shutil.copytree(sample.root, tmp_path / "many"))
    from artgate.artworks.collection import NewArtwork

    many = Collection(tmp_path / "many", create=True)
    files = sorted(path for path in (folder / "images").rglob("*") if path.suffix in (".jpg", ".png"))[:500]
    many.add_many([NewArtwork(path.read_bytes()) for path in files])
    return many
