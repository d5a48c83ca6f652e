# The suite with its tests. docs/install.md says how to build and run it, and what of it has not been verified.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS base
# g++ compiles the kernels of Triton and of torch.compile, git names the commit in records.
RUN apt-get update && apt-get install --yes --no-install-recommends g++ git make && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home stpl && install --directory --owner=stpl --group=stpl /stpl /stpl/src
USER stpl
WORKDIR /stpl
# Only what the environment is made of, so that a change of the code does not build it anew.
COPY --chown=stpl:stpl pyproject.toml constraints.txt Makefile README.md LICENSE ./
CMD ["make", "ablation"]

# torch from PyPI, which brings the CUDA libraries: the host needs its driver and the NVIDIA Container Toolkit.
FROM base AS cuda
RUN make setup
COPY --chown=stpl:stpl . .

# torch from PyTorch's index of CPU builds.
FROM base AS cpu
ENV UV_TORCH_BACKEND=cpu
RUN make setup
COPY --chown=stpl:stpl . .
