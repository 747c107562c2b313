"""What both sides do: numbers that `ppod_worker` and `trl_worker` share."""

GUIDANCE = 5.0
"""TRL's default; it doubles the rows that the network sees."""
RANK = 4
"""LoRA on the attention projections; TRL knows no other rank."""
PROMPT = "a cat and a dog"
LEARNING_RATE = 1e-30
"""Next to nothing, so that every repetition does the same work."""
SHIFT = 0.02
"""Standard deviation of what is added to LoRA's initial weights: a policy a little away from its reference."""
D3PO_CLIP = 0.1
"""Its authors' ε, on the ratio to the reference."""
CHAIN_FILE = "chain.safetensors"
"""Chains sampled by ppod from the untrained policy, with their log-probabilities: TRL must say the same of them."""
