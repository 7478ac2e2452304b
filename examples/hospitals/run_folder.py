"""The output folder of a run, as resolvers for Hydra's configuration: ``${run_folder:${resume}}``, ``${fresh_folder:…}``."""

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


def run_folder(resume: str | None) -> str:
    """The folder of the run to go on with, or a fresh one."""
    return fresh_folder("outputs/driver") if resume is None else resume


def register() -> None:
    """Let Hydra's configuration files use the resolvers; a configuration resolves each once."""
    OmegaConf.register_new_resolver("run_folder", run_folder, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("fresh_folder", fresh_folder, use_cache=True, replace=True)
