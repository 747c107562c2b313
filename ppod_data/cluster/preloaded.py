"""Imports that every worker needs. The server process of `ppod_data.cluster.local_engine` imports this module."""

import gc

from ppod_data.diffusion.models.skeleton import load_skeleton
from ppod_data.support.runtime import importing

with importing():
    load_skeleton("scenes")  # diffusers and transformers import a class's module when the class is first used
gc.freeze()  # a collection in a worker would otherwise visit, and so copy, what it shares with the server
