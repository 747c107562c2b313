"""The protocol of a reward server: JSON and PNG over HTTP. docs/rewards.md specifies it in full.

GET  /        {"protocol": 1, "name", "revision", "max_images", "max_pixels", "max_bytes"}
POST /score   {"prompts": [...], "images": [base64 of a PNG, ...]}
              {"name", "revision", "results": [{"score": 1.5} or {"error": "why"}, ...]}
"""

VERSION = 1

MAX_BYTES = 64 << 20
"""The most bytes of a request's body."""
MAX_PIXELS = 1 << 26
"""The most pixels of all images of a request: 64 images of 1024×1024."""
