"""Imports that every worker needs. The server process of `ppod_data.cluster.local_engine` imports this module."""

from ppod_data.diffusion.models.skeleton import load_skeleton

load_skeleton("scenes")  # diffusers and transformers import a class's module when the class is first used
