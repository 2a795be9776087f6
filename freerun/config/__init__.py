"""The configuration of a bench: one TOML file, checked as a whole.

`load` gives a `Bench`; `check` also looks into the keys of drivers and builders; `Geometry`
makes arrays of the detectors.
"""

from __future__ import annotations

from freerun.config.geometry import Chamber, ChannelMap, Counter, Geometry, Place
from freerun.config.load import from_dict, load, load_cluster
from freerun.config.models import Bench, Cluster
from freerun.config.pipelines import Pipeline, RunType, Write
from freerun.config.plugin_keys import builder_of, check, check_plugins, driver_of
from freerun.config.problems import ConfigProblems, Problem
from freerun.config.schema import json_schema
from freerun.config.simulation import telescope
from freerun.config.sources import Source

__all__ = [
    "Bench",
    "Chamber",
    "ChannelMap",
    "Cluster",
    "ConfigProblems",
    "Counter",
    "Geometry",
    "Pipeline",
    "Place",
    "Problem",
    "RunType",
    "Source",
    "Write",
    "builder_of",
    "check",
    "check_plugins",
    "driver_of",
    "from_dict",
    "json_schema",
    "load",
    "load_cluster",
    "telescope",
]
