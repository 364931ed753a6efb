# The jobs' image: export and rollout. Build it from the repository's root:
#   docker build -f serving/deploy/images/thresher.Dockerfile -t thresher:0.1.0 .
# The model host does not run it: that is NVIDIA's own image.
FROM python:3.11-slim-bookworm

WORKDIR /src
COPY pyproject.toml constraints.txt README.md ./
COPY core core
COPY training training
COPY export export
COPY serving serving
RUN pip install --no-cache-dir --constraint constraints.txt ".[export,serve]"

WORKDIR /work
RUN mkdir /models && chown 1000:1000 /work /models
ENV HOME=/work
USER 1000:1000
CMD ["thresher", "--help"]
