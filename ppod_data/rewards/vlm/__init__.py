"""A vision language model as a judge, behind an OpenAI-compatible API: its client, its questions, its answers."""
