"""The trainer: preference optimization of a diffusion model on recorded denoising trajectories."""
