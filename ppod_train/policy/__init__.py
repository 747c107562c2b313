"""The trained policy: LoRA or full weights; saving, loading and sharding."""
