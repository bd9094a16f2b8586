# lsr serve in a container. Keys are required, because the server can be reached from outside the container:
#   docker build -t lsr .
#   docker run -p 127.0.0.1:8000:8000 -v "$PWD/idx:/index:ro" -e LSR_KEYS="reader SECRET" lsr
FROM python:3.11-slim AS build
COPY . /src
RUN pip install --no-cache-dir --prefix=/install -c /src/constraints.txt "/src[serve]"

FROM python:3.11-slim
COPY --from=build /install /usr/local
# Kernels are compiled now, so that the first query doesn't wait for it.
ENV NUMBA_CACHE_DIR=/var/cache/numba PYTHONUNBUFFERED=1
RUN useradd --uid 1000 --create-home lsr && mkdir -p /var/cache/numba && lsr warmup && chown -R lsr /var/cache/numba
USER 1000
EXPOSE 8000
HEALTHCHECK CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/ready', timeout=5)"]
ENTRYPOINT ["lsr", "serve"]
CMD ["/index", "--host", "0.0.0.0"]
