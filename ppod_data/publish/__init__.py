"""Transfer between stores, the Hugging Face Hub, exported images."""
