"""The gallery of a large batch: how large the page is, and what it takes to write and to open it.

    python -m benchmarks.gallery [--images FOLDER] [--accepted 500]

prints a line for each of three openings in headless Chromium: milliseconds until something is seen (first contentful
paint), and the CPU seconds that the page took until everything was in place. A browser is needed (`apt-get install
chromium`). Without --images pictures are painted, which compress better than photographs.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

from PIL import Image, ImageOps

from artgate.artworks.sample import make_sample
from artgate.generation.gallery import write_gallery
from artgate.generation.gallery_pictures import keep_thumbnail

SHAPES = [(1536, 1024), (1024, 1024), (1024, 1536), (1792, 1024)]
VERDICTS = ("accepted", "rejected", "accepted", "rejected", "early")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="a folder of pictures to fill the batch with")
    parser.add_argument("--accepted", type=int, default=500)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        batch = make_batch(Path(folder) / "batch", arguments.accepted, pictures(arguments.images, Path(folder)))
        begun = time.process_time()
        page = write_gallery(batch)
        spent = time.process_time() - begun
        print(f"{arguments.accepted} accepted: {page.stat().st_size / 1e6:.1f} MB, written in {spent:.1f} CPU s")
        open_it(page, Path(folder) / "profile")


def pictures(images: Path | None, folder: Path) -> Iterator[Path]:
    """Files of pictures without end."""
    found = sorted(path for path in images.iterdir() if path.suffix.lower() in (".jpg", ".png")) if images else []
    if not found:
        sample = make_sample(folder / "sample", n=48)
        found = [sample.path(artwork) for artwork in sample]
    return cycle(found)


def make_batch(root: Path, accepted: int, files: Iterator[Path]) -> Path:
    """A batch folder of as many accepted and rejected, and half as many that left early, thumbnails among it."""
    (root / "rejected").mkdir(parents=True)
    lines = []
    for index in range(accepted * 5 // 2):
        verdict = VERDICTS[index % 5]
        with Image.open(next(files)) as image:
            picture = ImageOps.fit(image.convert("RGB"), [side // 2 for side in SHAPES[index // 5 % 4]])
        name = f"{index:064x}"
        file = f"accepted/{name}.png" if verdict == "accepted" else f"rejected/{index:06}.webp"
        if verdict == "accepted":
            (root / "accepted").mkdir(exist_ok=True)
            picture.save(root / file, compress_level=1)
            keep_thumbnail(root, name, picture)
        else:
            picture.thumbnail((256, 256))
            picture.save(root / file, quality=85)
        seen = {"preview": {"step": 5, "score": 0.1, "picture": file}} if verdict == "early" else {}
        lines.append(
            {
                "index": index,
                "prompt": f"prompt {index % 9}, oil painting, warm light, good quality",
                "seed": index,
                "status": "accepted" if verdict == "accepted" else "rejected",
                "score": None if verdict == "early" else 0.5,
                "grade": None if verdict == "early" else "average",
                "reason": "preview 0.1 < threshold 0.2" if verdict == "early" else "score 0.50",
                "image_id": name if verdict == "accepted" else None,
                "file": file,
                "evaluations": 20,
                "seconds": {"denoise": 1.0},
            }
            | seen
        )
    (root / "candidates.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


def open_it(page: Path, profile: Path, times: int = 3) -> None:
    """Open the page, and print what that took."""
    from playwright.sync_api import sync_playwright

    found = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        options = {"executable_path": found, "args": ["--no-sandbox", "--disable-gpu"]}
        browser = playwright.chromium.launch_persistent_context(profile, headless=True, **options)
        tab = browser.new_page()
        for _ in range(times):
            tab.goto("about:blank")
            before = renderer_seconds(profile)
            tab.goto(page.resolve().as_uri())
            tab.wait_for_timeout(500)
            spent = {process: now - before.get(process, 0.0) for process, now in renderer_seconds(profile).items()}
            paint = tab.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
            print(f"seen after {paint:.0f} ms, in place after {sum(spent.values()):.2f} CPU s")
        browser.close()


def renderer_seconds(profile: Path) -> dict[int, float]:
    """CPU seconds so far of each process that renders pages of the browser with this profile."""
    told = {}
    for folder in Path("/proc").iterdir():
        try:
            command = (folder / "cmdline").read_bytes()
            if b"--type=renderer" in command and str(profile).encode() in command:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                told[int(folder.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        except (OSError, ValueError):
            continue
    return told


if __name__ == "__main__":
    main()
