# The program with its models. It needs no network at run time:
#
#   docker build -t brain-tumour-segmentation .
#   docker run --rm --network none --user "$(id -u):$(id -g)" \
#       -v /data/patients:/in:ro -v /data/masks:/out brain-tumour-segmentation segment /in --output /out
#
# torch comes as your package index has it, which may be a CUDA build of gigabytes. For another one:
# --build-arg TORCH_OPTIONS="--index-url ...".
FROM python:3.11-slim

WORKDIR /opt/brain-tumour-segmentation
ARG TORCH_OPTIONS=""
COPY constraints.txt ./
RUN python -m pip install --no-cache-dir --constraint constraints.txt $TORCH_OPTIONS torch

COPY LICENSE README.md pyproject.toml run_pipeline.py setup.cfg ./
COPY data data
COPY transforms transforms
COPY networks networks
COPY pipeline pipeline
RUN python -m pip install --no-cache-dir --constraint constraints.txt ".[cpu]"

# Any user may run it: what is kept between calls goes here, and is gone with the container.
ENV HOME=/tmp
# Three made-up patients, so that an image that cannot work is not built.
RUN run-pipeline demo --output /tmp/demo && rm -rf /tmp/* /tmp/.[!.]*

WORKDIR /tmp
USER nobody
ENTRYPOINT ["run-pipeline"]
CMD ["--help"]
