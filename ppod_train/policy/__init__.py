"""The trained policy: LoRA or full weights, saved, loaded, sharded."""
