"""Train a scorer: `python train.py data.root=DIR`. Composes the configuration and calls the package, nothing else."""

from omegaconf import DictConfig

from artgate.hydra_entry import hydra_entry
from artgate.scoring.training import train


@hydra_entry("train")
def main(cfg: DictConfig) -> None:
    """Train as `cfg` says."""
    train(cfg)


if __name__ == "__main__":
    main()
