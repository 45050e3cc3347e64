"""A picture → exactly the size of a screen: cropped, or extended where nothing of it may be lost."""

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from artgate.generation.config import ApplicationConfig
from artgate.generation.sizes import Size, final_size

# Beyond its edge an extended picture goes on as its mirror image, more and more out of focus: sharp at the first
# distance, blurred with these standard deviations at the others; both are shares of the picture's shorter side.
BLURS = (0.004, 0.012, 0.035, 0.1)
DISTANCES = (0.0, 0.02, 0.06, 0.15, 0.35)


def fitted(image: Image.Image, application: ApplicationConfig) -> Image.Image:
    """The picture in exactly the application's final size; as it is where there is none.

    "crop" shrinks it to cover that size and cuts what stands out on two opposite sides; "extend" shrinks it to lie
    within and paints the rest.
    """
    size = final_size(application)
    if size is None or size == image.size:
        return image
    if application.fit == "crop":
        return ImageOps.fit(image, size, Image.Resampling.LANCZOS)
    return extended(ImageOps.contain(image, size, Image.Resampling.LANCZOS), size)


def extended(image: Image.Image, size: Size) -> Image.Image:
    """The RGB picture, unchanged, in the middle of `size` (no side of it smaller), its surroundings painted.

    They begin as the mirror image, so that there is no edge to see, and lose focus with the distance, so that nobody
    looks for a second horizon there.
    """
    left, top = (size[0] - image.width) // 2, (size[1] - image.height) // 2
    around = ((top, size[1] - image.height - top), (left, size[0] - image.width - left), (0, 0))
    mirrored = np.pad(np.asarray(image), around, mode="symmetric")  # (H, W, 3), over and over where it is far
    distance = _distance(image.size, (left, top), size) / min(image.size)
    canvas = _out_of_focus(Image.fromarray(mirrored), distance)
    canvas.paste(image, (left, top))
    return canvas


def _distance(inner: Size, corner: Size, size: Size) -> np.ndarray:
    """(H, W) float32 pixels from a picture of size `inner` at `corner`; 0 in it."""
    outside = []
    for length, start, whole in zip(inner, corner, size, strict=True):
        place = np.arange(whole, dtype=np.float32)
        outside.append(np.maximum(np.maximum(start - place, place - (start + length - 1)), 0))
    return np.maximum(outside[0][None, :], outside[1][:, None])


def _out_of_focus(picture: Image.Image, distance: np.ndarray) -> Image.Image:
    """The picture (W, H), each pixel blurred by its distance (H, W), which like the blurs is a share of one length."""
    side = min(picture.size)
    painted = picture
    for blur, near, far in zip(BLURS, DISTANCES, DISTANCES[1:], strict=False):
        share = np.clip((distance - near) / (far - near), 0, 1)
        mask = Image.fromarray(np.rint(share * 255).astype(np.uint8))
        painted = Image.composite(_blurred(picture, blur * side), painted, mask)
    return painted


def _blurred(picture: Image.Image, deviation: float) -> Image.Image:
    """Gaussian blur; a wide one on a smaller picture, in a quarter of the time."""
    factor = max(1, int(deviation / 3))
    small = picture.reduce(factor).filter(ImageFilter.GaussianBlur(deviation / factor))
    whole = (0, 0, picture.width / factor, picture.height / factor)
    return small.resize(picture.size, Image.Resampling.BICUBIC, box=whole)
