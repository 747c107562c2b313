"""Loading diffusion pipelines."""
