"""What is generated for what is delivered: in reach, in multiples, close in proportions."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artgate.errors import UserError
from artgate.generation.config import ApplicationConfig
from artgate.generation.sizes import generated_size, share_lost, too_large

PHONE, DESKTOP, UHD = (1170, 2532), (2560, 1440), (3840, 2160)


def application(final=(None, None), made=(None, None), fit="crop") -> ApplicationConfig:
    return ApplicationConfig("screen", made[0], made[1], final[0], final[1], fit)


@pytest.mark.parametrize(
    ("final", "own", "generated", "lost"),
    [
        (PHONE, (512, 512), (384, 832), 0.0012),
        (PHONE, (1024, 1024), (768, 1664), 0.0012),
        (DESKTOP, (512, 512), (704, 384), 0.0303),
        (DESKTOP, (1024, 1024), (1472, 832), 0.0048),
        (UHD, (512, 512), (1024, 576), 0.0),
        (UHD, (1024, 1024), (1472, 832), 0.0048),
        ((1200, 1200), (512, 512), (512, 512), 0.0),
        ((100, 60), (64, 64), (80, 48), 0.0),  # multiples of 64 would lose 40 %
    ],
)
def test_sizes_for_screens_enlarged_fourfold(final, own, generated, lost):
    assert generated_size(application(final), own, 8, 4.0) == generated
    assert share_lost(generated, final) == pytest.approx(lost, abs=5e-5)


@settings(max_examples=200, deadline=None)
@given(
    width=st.integers(200, 4000),
    height=st.integers(200, 4000),
    own=st.sampled_from([512, 768, 1024]),
    factor=st.sampled_from([1.0, 1.5, 2.0, 4.0]),
)
def test_whatever_is_delivered_is_covered_in_steps_of_eight_or_refused(width, height, own, factor):
    try:
        made = generated_size(application((width, height)), (own, own), 8, factor)
    except UserError:
        too_many = math.ceil(width / factor) * math.ceil(height / factor) > 2.5 * own * own
        assert too_many or max(width / height, height / width) > 8
        return
    assert made[0] % 8 == made[1] % 8 == 0
    assert round(made[0] * factor) >= width and round(made[1] * factor) >= height
    largest = max(own * own, width * height / factor**2)
    assert made[0] * made[1] <= 1.34 * largest or min(made) < 128  # slender ones are rounded up
    assert share_lost(made, (width, height)) <= 0.05 or max(width / height, height / width) > 3


def test_without_a_final_size_the_models_own_and_with_a_size_of_ones_own_that():
    assert generated_size(application(), (768, 512), 8, 4.0) == (768, 512)
    assert generated_size(application(made=(640, 384)), (512, 512), 8, 4.0) == (640, 384)
    assert generated_size(application(DESKTOP, made=(640, 384)), (512, 512), 8, 4.0) == (640, 384)


@pytest.mark.parametrize(
    ("wanted", "own", "factor", "message"),
    [
        (
            application(UHD),
            (64, 64),
            4.0,
            "delivers 3840x2160 pixels, which takes 960x540 before enlargement 4x: 126.6 times the 64x64 that the "
            r"model was made for \(at most 2.5\); choose a larger model",
        ),
        (application(DESKTOP), (512, 512), 1.0, "14.1 times the 512x512.* an upscaler of a larger scale"),
        (application(DESKTOP, (512, 384)), (512, 512), 4.0, "and 512x384 enlarged 4x are only 2048x1536"),
        (application(DESKTOP, (512, 344), "extend"), (512, 512), 4.0, "are only 2048x1376: generate larger"),
    ],
)
def test_what_is_out_of_reach_is_told_with_its_cures(wanted, own, factor, message):
    with pytest.raises(UserError, match=message):
        generated_size(wanted, own, 8, factor)


@pytest.mark.parametrize(
    ("wanted", "factor", "message"),
    [
        (application((31, 40)), 4.0, "delivers 31x40: a side of 31 pixels, fewer than 32"),
        (application((2050, 256)), 4.0, "delivers 2050x256: one side 8.0 times the other, more than 8"),
        (application(made=(4096, 4104)), 2.0, "delivers 8192x8208: 67,239,936 pixels, more than 67,108,864"),
    ],
)
def test_what_no_collection_would_keep_is_refused_before_it_is_painted(wanted, factor, message):
    with pytest.raises(UserError, match=f"{message}, which no Collection keeps; choose another size"):
        generated_size(wanted, (512, 512), 8, factor)


def test_to_extend_a_picture_one_side_must_reach():
    assert generated_size(application(DESKTOP, (384, 384), "extend"), (512, 512), 8, 4.0) == (384, 384)
    with pytest.raises(UserError, match="are only 1536x1536"):
        generated_size(application(DESKTOP, (384, 384), "crop"), (512, 512), 8, 4.0)


def test_a_size_that_was_insisted_on_is_warned_of():
    assert too_large((640, 512), (512, 512)) is None
    assert "2048x2048 are 1024.0 times the 64x64" in (too_large((2048, 2048), (64, 64)) or "")


def test_an_unknown_fit_lists_those_there_are():
    with pytest.raises(UserError, match="application.fit 'squeeze' is not one of crop, extend"):
        application(fit="squeeze")
