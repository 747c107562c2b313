"""A diffusion model as a Markov chain: the only place with a denoising step or a log-probability."""
