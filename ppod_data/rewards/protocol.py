"""What a reward server and its client say to each other: JSON and PNG over HTTP. docs/rewards.md has it in full.

GET  /        {"protocol": 1, "name", "revision", "max_images", "max_pixels", "max_bytes"}
POST /score   {"prompts": [...], "images": [base64 of a PNG, ...]}
              {"name", "revision", "results": [{"score": 1.5} or {"error": "why"}, ...]}
"""

VERSION = 1

MAX_BYTES = 64 << 20
"""Of a request's body."""
MAX_PIXELS = 1 << 26
"""Of all images of a request: 64 of 1024×1024."""
