"""Every YAML in conf/ is composed, and what it says is what its schema takes."""

from pathlib import Path

import pytest
from batches import CONF, composed
from omegaconf import OmegaConf

from artgate.config import validated
from artgate.errors import UserError
from artgate.generation.basemap import BasemapConfig, build_basemap
from artgate.generation.config import ApplicationConfig, GateConfig, GenerateConfig
from artgate.generation.diffusion_config import DiffusionConfig
from artgate.generation.gate import build_gate
from artgate.generation.preview_config import PreviewConfig
from artgate.generation.prompts import CandidateSource, PromptsConfig
from artgate.generation.sizes import generated_size
from artgate.generation.upscaler_config import UpscalerConfig
from artgate.scoring.config import TrainConfig

LABEL_GROUPS = {"labelling"}  # tests/labels/studio/test_config.py reads each
TRAIN_GROUPS = {"data", "encoder", "head", "trainer", "finetune", "report", "certify", "logger", "paths"}
EXPERIMENTS = {"agiqa3k": "train", "agiqa3k_final": "train", "sample": "train", "demo": "generate"}
OF_DIFFUSION = {"scheduler", "steps"}  # what overrides the diffusion's own
# What a choice leaves to the user, as any would be given.
GIVEN = {
    "prompts=custom": ["prompts.prompts=[a frog]"],
    "diffusion=local": ["diffusion.model=some/folder", "diffusion.licence=MIT"],
    "upscaler=file": ["upscaler.weights.path=some.pth"],
    "basemap=background": ["basemap.files=[some/folder]"],
    "gate=certified": ["gate.certificate=some/folder"],
    "preview=calibrated": ["preview.file=some.json"],
    "preview=thresholds": ["preview.steps=[5]", "preview.thresholds=[0.2]"],
    # What is not for the default, which is distilled.
    **{f"scheduler={name}": ["diffusion=sd15"] for name in ("ddim", "dpmpp_2m_karras", "euler_ancestral", "unipc")},
    **{f"scheduler={name}": ["diffusion=sdxl_turbo"] for name in ("turbo", "euler_trailing")},
    "steps=two_hundred_fifty": ["diffusion=sd15"],
}


def choices() -> list[str]:
    """`group=choice` of every YAML in a group; names that begin with an underscore are parts of others."""
    files = sorted(path for path in CONF.glob("*/*.yaml") if not path.name.startswith("_"))
    return [f"{path.parent.name}={path.stem}" for path in files]


GENERATE = [c for c in choices() if c.split("=")[0] not in {*LABEL_GROUPS, *TRAIN_GROUPS, "experiment"}]
TRAIN = [c for c in choices() if c.split("=")[0] in TRAIN_GROUPS]
EXPERIMENT = [c for c in choices() if c.startswith("experiment=")]


@pytest.mark.parametrize("kind", ["none", "wandb"])
def test_the_logger_is_for_both(kind: str):
    assert validated(GenerateConfig, composed("generate", f"logger={kind}")).logger.kind == kind
    assert composed("generate").logger.kind == "none"


def test_every_setting_of_a_diffusion_model_can_be_typed():
    """Without a plus: `diffusion.dtype=bfloat16`, whatever its file in conf/diffusion has; and the group's own stay."""
    for choice in (c for c in GENERATE if c.startswith("diffusion=")):
        config = composed("generate", choice, *GIVEN.get(choice, []))
        assert DiffusionConfig.__dataclass_fields__.keys() - config.diffusion.keys() <= {"terms", "scheduler_options"}
    typed = validated(
        DiffusionConfig, composed("generate", "diffusion.dtype=bfloat16", "diffusion.lora_scale=0.5").diffusion
    )
    assert (typed.dtype, typed.lora_scale, typed.variant, typed.width) == ("bfloat16", 0.5, "fp16", 512)


def test_every_group_is_known():
    groups = {path.name for path in CONF.iterdir() if path.is_dir()}
    known = set(GenerateConfig.__dataclass_fields__) | LABEL_GROUPS | TRAIN_GROUPS | OF_DIFFUSION | {"experiment"}
    assert groups <= known
    assert {c.removeprefix("experiment=") for c in EXPERIMENT} == set(EXPERIMENTS)


@pytest.mark.parametrize("choice", GENERATE)
def test_a_choice_of_generate_is_what_its_schema_takes(choice: str):
    cfg = composed("generate", choice, *GIVEN.get(choice, []))
    settings = validated(GenerateConfig, cfg)
    assert isinstance(settings.gate, GateConfig) and isinstance(settings.application, ApplicationConfig)
    if settings.gate.kind == "certified":
        with pytest.raises(UserError, match=r"some/folder holds no certificate\.json"):
            build_gate(settings.gate)
    else:
        build_gate(settings.gate)
    diffusion = validated(DiffusionConfig, settings.diffusion, "diffusion")
    assert diffusion.licence and (diffusion.download_gb > 0 or diffusion.name in ("embedded", "local"))
    validated(UpscalerConfig, settings.upscaler, "upscaler")
    validated(PreviewConfig, settings.preview, "preview")
    candidate = CandidateSource(settings.prompts, settings.seed)[0]
    assert candidate.prompt
    basemap = validated(BasemapConfig, settings.basemap, "basemap")
    if basemap.kind == "background":
        with pytest.raises(UserError, match="some/folder"):
            build_basemap(basemap, 64, 64)
    else:
        picture = build_basemap(basemap, 64, 48)(candidate)
        assert (picture is None) == (basemap.kind == "none")
        assert picture is None or picture.size == (64, 48)


@pytest.mark.parametrize("choice", [c for c in GENERATE if c.startswith("prompts=") and c != "prompts=custom"])
def test_prompts_say_more_than_one_thing(choice: str):
    config = validated(PromptsConfig, validated(GenerateConfig, composed("generate", choice)).prompts)
    source = CandidateSource(config, 1)
    assert len({source[k].prompt for k in range(50)}) > 25


@pytest.mark.parametrize("choice", [c for c in GENERATE if c.startswith("application=")])
def test_an_application_is_within_reach_of_every_model_that_paints_for_it(choice: str):
    """Enlarged fourfold, at the sizes that they were made for; `tests/generation/test_sizes.py` has the figures."""
    application = validated(GenerateConfig, composed("generate", choice)).application
    for own in ((512, 512), (768, 768), (1024, 1024)):
        width, height = generated_size(application, own, 8, 4.0)
        assert width % 8 == height % 8 == 0
        assert 4 * width >= (application.final_width or 0) and 4 * height >= (application.final_height or 0)


@pytest.mark.parametrize("choice", [c for c in GENERATE if c.startswith("upscaler=")])
def test_an_upscaler_whose_weights_are_here_enlarges(choice: str):
    from PIL import Image

    from artgate.generation.upscale import build_upscaler

    config = validated(UpscalerConfig, composed("generate", choice, *GIVEN.get(choice, [])).upscaler, "upscaler")
    if config.engine != "none" and not config.weights.embedded:
        pytest.skip("its weights are a download or the user's own")
    upscaler = build_upscaler(OmegaConf.to_container(OmegaConf.structured(config)))  # type: ignore[arg-type]
    assert upscaler(Image.new("RGB", (32, 24))).size == (round(32 * upscaler.scale), round(24 * upscaler.scale))


@pytest.mark.parametrize("choice", TRAIN)
def test_a_choice_of_train_is_what_its_schema_takes(choice: str, tmp_path: Path):
    settings = validated(TrainConfig, composed("train", choice, f"data.root={tmp_path}", *_own_paths(tmp_path)))
    assert settings.data.root == str(tmp_path)


@pytest.mark.parametrize("choice", EXPERIMENT)
def test_an_experiment_is_what_its_entry_point_takes(choice: str, tmp_path: Path):
    if EXPERIMENTS[choice.removeprefix("experiment=")] == "generate":
        settings = validated(GenerateConfig, composed("generate", choice))
        assert validated(DiffusionConfig, settings.diffusion).model == "embedded" and settings.scorer is None
        assert validated(UpscalerConfig, settings.upscaler).weights.embedded
    else:
        validated(TrainConfig, composed("train", choice, f"data.root={tmp_path}", *_own_paths(tmp_path)))


def _own_paths(root: Path) -> list[str]:
    """In place of what only a run of Hydra's can resolve."""
    return [f"paths.run={root}"]
