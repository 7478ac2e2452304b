"""A fresh output folder for each run of a driver, as a resolver for Hydra's configuration: ``${fresh_folder:outputs/driver}``."""

from __future__ import annotations

import datetime
import itertools
from pathlib import Path

from omegaconf import OmegaConf


def fresh_folder(parent: str) -> str:
    """Make and return ``<parent>/<date>/<time>``; two drivers that start in the same second get different folders."""
    now = datetime.datetime.now()
    day = Path(parent) / now.strftime("%Y-%m-%d")
    day.mkdir(parents=True, exist_ok=True)
    for attempt in itertools.count(1):
        folder = day / (now.strftime("%H-%M-%S") + ("" if attempt == 1 else f"-{attempt}"))
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        break
    return str(folder)


def register() -> None:
    """Let Hydra's configuration files use the resolver; a configuration resolves it once."""
    OmegaConf.register_new_resolver("fresh_folder", fresh_folder, use_cache=True, replace=True)
