"""Reading LoRA files."""
