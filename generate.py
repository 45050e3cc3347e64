"""Generate artworks until a target number of them is accepted: `python generate.py experiment=demo target=8 seed=1`."""

from omegaconf import DictConfig

from artgate.hydra_entry import hydra_entry


@hydra_entry("generate")
def main(cfg: DictConfig) -> None:
    """Run the batch that the configuration describes; the same command on the same batch_dir goes on with it."""
    from artgate.generation.production import run

    run(cfg)


if __name__ == "__main__":
    main()
