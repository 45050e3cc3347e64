import io
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
import yaml
from PIL import Image

from artgate.artworks.artwork import Provenance
from artgate.artworks.collection import Collection
from artgate.artworks.serve import serve_collection


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    collection = Collection(tmp_path, create=True)
    for number in range(5):
        buffer = io.BytesIO()
        Image.new("RGB", (40, 40), (number * 50, 0, 0)).save(buffer, "WEBP")
        collection.add(buffer.getvalue(), Provenance(prompt=f"<script>{number}</script>", creator="me & you"))
    return collection


def get(address: str) -> bytes:
    with urlopen(address, timeout=10) as response:
        return bytes(response.read())


def test_every_artwork_is_listed_once_over_the_pages(collection: Collection) -> None:
    with serve_collection(collection, page_size=2) as server:
        pages = [get(server.url).decode(), get(f"{server.url}page/2").decode(), get(f"{server.url}page/3").decode()]
    listed = "".join(pages)
    assert [listed.count(f'href="/artwork/{artwork.image_id}"') for artwork in collection] == [1] * 5
    assert ['rel="next"' in page for page in pages] == [True, True, False]
    assert "<script>" not in listed


def test_an_artwork_has_its_page_and_its_bytes(collection: Collection) -> None:
    artwork = list(collection)[3]
    with serve_collection(collection) as server:
        page = get(f"{server.url}artwork/{artwork.image_id}").decode()
        assert '<p class="prompt">&lt;script&gt;3&lt;/script&gt;</p>' in page
        assert '<p class="creator">me &amp; you</p>' in page
        assert f'src="/{artwork.file_name}"' in page
        with urlopen(f"{server.url}{artwork.file_name}", timeout=10) as response:
            assert response.headers["Content-Type"] == "image/webp"
            assert response.read() == collection.path(artwork).read_bytes()


@pytest.mark.parametrize("path", ["page/4", "page/0", "page/x", "artwork/0", "images/../metadata.jsonl", "favicon.ico"])
def test_nothing_else_is_served(collection: Collection, path: str) -> None:
    with serve_collection(collection, page_size=2) as server, pytest.raises(HTTPError) as answer:
        get(f"{server.url}{path}")
    assert answer.value.code == 404


def test_it_listens_on_loopback_only_describes_itself_and_stops(collection: Collection) -> None:
    with serve_collection(collection) as server:
        assert server.url.startswith("http://127.0.0.1:")
        assert yaml.safe_load(server.site)["start_urls"] == server.url
        address = server.url
    with pytest.raises(OSError):
        get(address)
