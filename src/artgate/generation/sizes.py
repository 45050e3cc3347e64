"""From the size that is delivered back to the size that is generated: what suits model, upscaler and screen.

A U-Net halves its latents three times, so that sizes in multiples of 64 pixels need no padding on the way; finer steps
are taken only where those would cost too much of the picture.
"""

import math
from collections.abc import Iterator

from artgate.artworks.decode import LIMITS
from artgate.errors import UserError
from artgate.generation.config import ApplicationConfig

Size = tuple[int, int]  # (width, height) in pixels

COARSE_STEP = 64
MOST_LOST = 0.05  # the share of the picture above which a finer step is taken
AREA_RANGE = (0.75, 4 / 3)  # of the number of pixels aimed at
MOST_GROWTH = 2.5  # painting far more pixels than a model was made for gives everything twice


def generated_size(application: ApplicationConfig, own: Size, step: int, factor: float) -> Size:
    """The size to generate at.

    application.width and height where they are given, else the model's own size; with a final size the one that loses
    least of the picture to it, at about as many pixels as the model's own (or as the final size needs).

    own: the model's size. step: pixels that a side is a multiple of. factor: of the upscaler.
    Raises UserError where the final size is out of reach, or one that no Collection would keep.
    """
    final = final_size(application)
    if application.width is not None and application.height is not None:
        chosen = (application.width, application.height)
    elif final is None:
        chosen = own
    else:
        chosen = _chosen(application.name, final, own, step, factor)
    _check_reached(application, chosen, factor)
    _check_kept(application, final or _enlarged(chosen, factor))
    return chosen


def final_size(application: ApplicationConfig) -> Size | None:
    """The size of what is delivered, None for whatever the upscaler makes."""
    if application.final_width is None or application.final_height is None:
        return None
    return application.final_width, application.final_height


def too_large(size: Size, own: Size) -> str | None:
    """What to expect of a size that was insisted on; None where the model, made for `own`, paints it well."""
    growth = size[0] * size[1] / (own[0] * own[1])
    if growth <= MOST_GROWTH:
        return None
    return (
        f"{size[0]}x{size[1]} are {growth:.1f} times the {own[0]}x{own[1]} pixels that the model was made for: "
        f"pictures will show things twice, and each step takes {growth:.0f} times as long or longer"
    )


def share_lost(size: Size, final: Size) -> float:
    """The share of a picture of `size` that is cropped, or of `final` that must be added, to match proportions."""
    ratio = (size[0] * final[1]) / (size[1] * final[0])
    return 1 - min(ratio, 1 / ratio)


def _chosen(name: str, final: Size, own: Size, step: int, factor: float) -> Size:
    least = (math.ceil(final[0] / factor), math.ceil(final[1] / factor))
    aim = max(own[0] * own[1], least[0] * least[1])
    growth = least[0] * least[1] / (own[0] * own[1])
    if growth > MOST_GROWTH:
        raise UserError(
            f"application {name} delivers {final[0]}x{final[1]} pixels, which takes {least[0]}x{least[1]} before "
            f"enlargement {factor:g}x: {growth:.1f} times the {own[0]}x{own[1]} that the model was made for (at most "
            f"{MOST_GROWTH:g}); choose a larger model, an upscaler of a larger scale or a smaller final size, or "
            "insist with application.width and application.height"
        )

    def best(multiple: int) -> Size | None:
        def rank(size: Size) -> tuple[float, float]:
            return round(share_lost(size, final), 6), abs(math.log(size[0] * size[1] / aim))

        return min(_sizes(least, aim, multiple), key=rank, default=None)

    coarse = best(math.lcm(COARSE_STEP, step))
    if coarse and share_lost(coarse, final) <= MOST_LOST:
        return coarse
    fine = best(step)
    # Both sides of the least size rounded up are always at hand
    return fine or (_up(least[0], step), _up(least[1], step))


def _sizes(least: Size, aim: int, multiple: int) -> Iterator[Size]:
    """All sizes in `multiple` that are at least `least` and of about `aim` pixels."""
    low, high = AREA_RANGE[0] * aim, AREA_RANGE[1] * aim
    for width in range(_up(least[0], multiple), int(high / multiple) + 1, multiple):
        first = max(_up(least[1], multiple), _up(math.ceil(low / width), multiple))
        for height in range(first, int(high / width) + 1, multiple):
            yield width, height


def _up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


def _check_reached(application: ApplicationConfig, size: Size, factor: float) -> None:
    final = final_size(application)
    if final is None:
        return
    enlarged = _enlarged(size, factor)
    reached = [have >= want for have, want in zip(enlarged, final, strict=True)]
    if not (all(reached) if application.fit == "crop" else any(reached)):
        raise UserError(
            f"application {application.name} wants {final[0]}x{final[1]} pixels, and {size[0]}x{size[1]} enlarged "
            f"{factor:g}x are only {enlarged[0]}x{enlarged[1]}: generate larger (application.width, "
            "application.height), or choose an upscaler of a larger scale"
        )


def _check_kept(application: ApplicationConfig, delivered: Size) -> None:
    """Refuse now what would be painted and enlarged, and then not be taken as an artwork."""
    shorter, longer = sorted(delivered)
    if shorter < LIMITS.min_side:
        why = f"a side of {shorter} pixels, fewer than {LIMITS.min_side}"
    elif longer / shorter > LIMITS.max_aspect:
        why = f"one side {longer / shorter:.1f} times the other, more than {LIMITS.max_aspect:g}"
    elif shorter * longer > LIMITS.max_pixels:
        why = f"{shorter * longer:,} pixels, more than {LIMITS.max_pixels:,}"
    else:
        return
    raise UserError(
        f"application {application.name} delivers {delivered[0]}x{delivered[1]}: {why}, which no Collection keeps; "
        "choose another size"
    )


def _enlarged(size: Size, factor: float) -> Size:
    return round(size[0] * factor), round(size[1] * factor)
