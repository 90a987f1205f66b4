# leaderexec alone: a sidecar for programs of any image. From the root of the repository:
#
#   make build
#   docker build -f examples/sidecar.Dockerfile -t example.com/leaderexec:1 .
FROM python:3.13-slim
COPY dist/leaderexec-*.whl /tmp/
RUN pip install --no-cache-dir /tmp/leaderexec-*.whl && rm /tmp/leaderexec-*.whl
USER 65532:65532
# Whatever a pod has for args are its options. Without a command among them it only elects.
ENTRYPOINT ["leaderexec"]
