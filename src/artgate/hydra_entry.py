"""Hydra as an entry point: what Hydra complains of becomes one message with a cure, like every `UserError`."""

import functools
import os
from collections.abc import Callable

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from artgate.errors import UserError, exits_cleanly

Task = Callable[[DictConfig], object]


def hydra_entry(config_name: str) -> Callable[[Task], Callable[[], None]]:
    """Decorate `task(cfg)` of a root script: compose `conf/<config_name>.yaml` with the command line and run the task.

    Bad input of any kind (an unknown key, a choice that does not exist, a `UserError` of the task) ends with one
    message on stderr and exit status 2, Ctrl-C with 130. With HYDRA_FULL_ERROR=1 everything comes with its traceback.
    """

    def decorate(task: Task) -> Callable[[], None]:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            compose_and_run = hydra.main(version_base="1.3", config_path="conf", config_name=config_name)
            return compose_and_run(task)

        @functools.wraps(task)
        def reported(cfg: DictConfig) -> object:
            # Within the task, so that Hydra never sees the exception and adds its own lines to ours.
            return exits_cleanly(_explained(functools.partial(task, cfg)))()

        compose_and_run = hydra.main(version_base="1.3", config_path="conf", config_name=config_name)(reported)

        @functools.wraps(task)
        def main() -> None:
            # Only so does Hydra hand its exceptions on; otherwise it prints them itself and exits with 1.
            os.environ["HYDRA_FULL_ERROR"] = "1"
            exits_cleanly(_explained(compose_and_run))()

        return main

    return decorate


def _explained(call: Callable[[], object]) -> Callable[[], object]:
    def explained() -> object:
        try:
            return call()
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(_one_message(error)) from error
        except ValueError as error:
            if not str(error).startswith("Config group override"):  # what Hydra says of `gate=null`
                raise
            raise UserError(
                "a group takes the name of a choice, and not null: where it may be nothing that choice is called none, "
                "as in preview=none (`--help` lists the groups, their choices and every key)"
            ) from error
        except KeyboardInterrupt:
            raise SystemExit(130) from None

    return explained


def _one_message(error: Exception) -> str:
    """Hydra's words without its search path, OmegaConf's object types and line breaks, and where to look further."""
    text = str(error)
    if isinstance(error.__cause__, OmegaConfBaseException):
        text = f"{text}\n{error.__cause__}"
    text = text.split("Config search path")[0]
    lines = [line.strip() for line in text.splitlines()]
    told = [line for line in lines if line and not line.startswith(("object_type=", "reference_type=", "full_key:"))]
    return f"{' '.join(told)} (`--help` lists the groups, their choices and every key)"
