import json
import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artgate.artworks.files import (
    OPEN_AT_ONCE,
    append_line,
    append_lines,
    read_lines,
    repair_lines,
    replacing,
    write_all,
    write_atomic,
    write_in_place,
)
from artgate.errors import UserError


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Files end at `size` bytes, as on a full disk: a write takes what there is room for, the next one fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_write_atomic_replaces_the_whole_file_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "summary.json"
    write_atomic(path, "first, and longer")
    write_atomic(path, b"second")
    assert path.read_bytes() == b"second"
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]


def test_write_atomic_keeps_the_old_content_when_writing_fails(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    write_atomic(path, "old")

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]


def test_what_is_written_piece_by_piece_replaces_the_file_only_when_all_is_written(tmp_path):
    path = tmp_path / "out"
    write_atomic(path, "old")

    def half() -> None:
        with replacing(path) as file:
            file.write(b"first ")
            assert path.read_text() == "old"
            raise ValueError

    with pytest.raises(ValueError):
        half()
    assert path.read_text() == "old"
    with replacing(path) as file:
        file.write(b"first ")
        file.write(b"second")
    assert path.read_text() == "first second"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("write", [lambda path: write_atomic(path, "x"), lambda path: write_pieces(path)])
def test_a_folder_in_place_of_the_file_is_named_and_nothing_is_left_beside_it(tmp_path, write):
    (tmp_path / "page.html").mkdir()
    with pytest.raises(UserError, match=r"page.html: it is a folder; name a file"):
        write(tmp_path / "page.html")
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]


def write_pieces(path) -> None:
    with replacing(path) as file:
        file.write(b"x")


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def group(folder, size: int) -> dict:
    return {folder / f"{number}.bin": bytes([number % 256]) * (number + 1) for number in range(size)}


@pytest.mark.parametrize("size", [0, 1, OPEN_AT_ONCE, 2 * OPEN_AT_ONCE + 1])
def test_write_all_writes_each_file_whole_with_a_bounded_number_open(tmp_path, size):
    contents = group(tmp_path, size)
    (tmp_path / "0.bin").write_bytes(b"of before, and longer")
    synced = []

    def each(function, descriptors):
        synced.append(len(descriptors))
        assert not any(path.exists() for path in list(contents)[sum(synced[:-1]) + 1 : sum(synced)]), "not synced yet"
        return map(function, descriptors)

    before = open_files()
    write_all(contents, each)
    assert open_files() == before
    assert sum(synced) == size
    assert max(synced, default=0) <= OPEN_AT_ONCE
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if size} == contents


def test_write_all_on_a_full_disk_leaves_files_whole_or_not_at_all_and_no_temporaries(tmp_path):
    contents = group(tmp_path, OPEN_AT_ONCE + 9)  # of which the last is too large by one byte
    before = open_files()
    with room_for(len(contents) - 1), pytest.raises(OSError) as raised:
        write_all(contents)
    assert raised.value.filename == str(list(contents)[-1])
    assert open_files() == before
    first = dict(list(contents.items())[:OPEN_AT_ONCE])
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == first


@pytest.mark.parametrize("what", ["sync", "rename"])
def test_write_all_that_fails_midway_leaves_no_temporaries(tmp_path, what):
    contents, count = group(tmp_path, 5), 0

    def third_fails(function, descriptors):
        nonlocal count
        for descriptor in descriptors:
            count += 1
            if what == "sync" and count == 3:
                raise OSError(5, "Input/output error")
            yield function(descriptor)

    if what == "rename":
        (tmp_path / "2.bin").mkdir()
    with pytest.raises(OSError):
        write_all(contents, third_fails)
    there = {path.name for path in tmp_path.iterdir()}
    assert there == (set() if what == "sync" else {"0.bin", "1.bin", "2.bin"})


def test_write_in_place_keeps_the_file_itself_and_none_of_what_it_held(tmp_path):
    path = tmp_path / "pending"
    write_in_place(path, "first, and longer")
    inode = path.stat().st_ino
    write_in_place(path, "zwei: ü")
    assert path.read_text() == "zwei: ü"
    assert path.stat().st_ino == inode
    with room_for(3), pytest.raises(OSError) as raised:
        write_in_place(path, "third")
    assert path.read_text() == "thi"
    assert raised.value.filename == str(path)


def test_write_atomic_makes_files_that_others_may_read_as_the_umask_says(tmp_path):
    old = os.umask(0o027)
    try:
        write_atomic(tmp_path / "a", "x")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_writing_into_a_missing_folder_names_it(tmp_path):
    with pytest.raises(UserError, match="nowhere does not exist; make it first"):
        write_atomic(tmp_path / "nowhere" / "a.json", "{}")


def test_lines_come_back_in_order_with_their_unicode(tmp_path):
    path = tmp_path / "log.jsonl"
    append_line(path, {"prompt": "снег, 雪\n☃"})
    append_lines(path, [{"n": 1}, '{"n": 2}'])
    assert read_lines(path) == [{"prompt": "снег, 雪\n☃"}, {"n": 1}, {"n": 2}]
    assert path.read_text().count("\n") == 3


def test_a_missing_file_has_no_lines(tmp_path):
    assert read_lines(tmp_path / "none.jsonl") == []
    assert repair_lines(tmp_path / "none.jsonl") == 0


def test_nan_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="Out of range float"):
        append_line(tmp_path / "log.jsonl", {"score": float("nan")})
    assert not (tmp_path / "log.jsonl").exists()


def test_a_line_torn_at_any_byte_is_left_out_and_cut_and_the_rest_goes_on(tmp_path):
    path = tmp_path / "log.jsonl"
    first, second = json.dumps({"n": 1, "text": "ü"}), json.dumps({"n": 2, "text": "é" * 20}, ensure_ascii=False)
    whole = f"{first}\n{second}\n".encode()
    start = len(first) + 1
    for end in range(start, len(whole) + 1):
        path.write_bytes(whole[:end])
        survives = end >= len(whole) - 1  # the line is whole even where only its newline is missing
        expected = [json.loads(first)] + [json.loads(second)] * survives
        assert read_lines(path) == expected
        assert repair_lines(path) == (0 if survives else end - start)
        append_line(path, {"n": 3})
        assert read_lines(path) == [*expected, {"n": 3}]


def test_a_file_name_that_is_not_utf8_is_kept_as_jsons_escape(tmp_path):
    path = tmp_path / "log.jsonl"
    append_line(path, {"name": "a\udcff ☃.png"})
    assert path.read_text(encoding="utf-8") == '{"name": "a\\udcff ☃.png"}\n'
    assert read_lines(path) == [{"name": "a\udcff ☃.png"}]


def test_a_line_that_a_full_disk_cuts_short_is_no_success(tmp_path):
    path = tmp_path / "log.jsonl"
    append_line(path, {"n": 1})
    with room_for(12), pytest.raises(OSError):
        append_line(path, {"n": 2})
    assert path.read_bytes() == b'{"n": 1}\n{"n'
    assert repair_lines(path) == 3


def test_zeros_that_a_power_cut_left_at_the_end_are_cut(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"n": 1}\n' + bytes(300))
    assert repair_lines(path) == 300
    assert read_lines(path) == [{"n": 1}]


@pytest.mark.parametrize("bad", ["not json", "[1, 2]", "3", "[" * 100_000])
def test_a_bad_line_in_the_middle_is_named_with_its_number(tmp_path, bad):
    path = tmp_path / "log.jsonl"
    path.write_text(f'{{"n": 1}}\n{bad}\n{{"n": 2}}\n')
    with pytest.raises(UserError, match=r"log.jsonl, line 2 .*delete"):
        read_lines(path)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.dictionaries(st.text(), st.none() | st.integers() | st.text() | st.lists(st.text())), max_size=5))
def test_what_is_appended_is_what_is_read(tmp_path_factory, lines):
    path = tmp_path_factory.mktemp("lines") / "log.jsonl"
    append_lines(path, lines)
    assert read_lines(path) == lines
    assert repair_lines(path) == 0
