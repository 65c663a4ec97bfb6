# The workers and the dashboard. torch's wheel brings its CUDA libraries; the host needs the
# NVIDIA driver and container toolkit.
FROM python:3.12-slim

RUN useradd --create-home study
WORKDIR /opt/merge-study
COPY pyproject.toml constraints.txt README.md ./
COPY study study
COPY objectives objectives
COPY storage storage
RUN pip install --no-cache-dir --constraint constraints.txt .

USER study
RUN mkdir /home/study/runs
WORKDIR /home/study
ENTRYPOINT []
CMD ["python", "-m", "study.run", "--help"]
