# docker build -t ppod .
# docker run --rm -v "$PWD:/work" ppod ppod-gen data --prompt "A dog on the moon"
#
# PyPI's torch runs on CPUs and on NVIDIA GPUs (docker run --gpus all). For another build of torch, such as the smaller
# one for CPUs, name its package index: docker build --build-arg TORCH_INDEX=URL .
FROM python:3.11-slim

ARG TORCH_INDEX=""
WORKDIR /ppod
COPY pyproject.toml constraints.txt README.md LICENSE THIRD_PARTY_NOTICES.md ./
COPY ppod_data ppod_data
COPY ppod_train ppod_train
COPY cli cli
COPY recipes recipes
RUN if [ -n "$TORCH_INDEX" ]; then \
        pip install --no-cache-dir --index-url "$TORCH_INDEX" torch torchvision; \
        pip install --no-cache-dir ".[s3]"; \
    else \
        pip install --no-cache-dir -c constraints.txt ".[s3]"; \
    fi

WORKDIR /work
CMD ["ppod-train", "--help"]
