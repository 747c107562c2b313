"""Data set cards, transfer between stores, the Hugging Face Hub."""
