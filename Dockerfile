# The workers and the dashboard. vLLM's wheel brings torch and its CUDA libraries; the host needs
# the NVIDIA driver and container toolkit. Without a GPU: docker compose build --build-arg EXTRA=
FROM python:3.12-slim

RUN useradd --create-home study
WORKDIR /opt/merge-study
COPY pyproject.toml README.md ./
COPY study study
COPY objectives objectives
COPY storage storage
ARG EXTRA=[vllm]
RUN pip install --no-cache-dir ".${EXTRA}"

USER study
RUN mkdir /home/study/runs
WORKDIR /home/study
ENTRYPOINT []
CMD ["python", "-m", "study.run", "--help"]
