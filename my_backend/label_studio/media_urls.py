"""The http(s) URL to request for a task's image URL."""

import base64
from urllib.parse import quote, urlsplit

from my_backend.errors import MediaError

LOCAL_FILES = "/data/local-files/"  # the path under which Label Studio serves local files, each named by a query
CLOUD = ("s3://", "gs://", "azure-blob://", "azure-spi://")


def url_to_request(url: str, task_id: int | None, base: str) -> str:
    """The http(s) URL to request; `base` is Label Studio's URL, "" if it is unknown. Raises MediaError."""
    url = in_label_studio(url, base)
    if url.startswith(("http://", "https://")):
        return url
    if url.startswith("//"):  # uses the scheme of the page that shows it
        scheme = urlsplit(base).scheme if base else "http"
        return f"{scheme}:{url}"
    if not base:
        raise MediaError("it is stored in Label Studio; set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY")
    if url.startswith(CLOUD):
        if task_id is None:
            raise MediaError("cloud storage links are signed for a task, and the task has no id")
        encoded = base64.urlsafe_b64encode(url.encode()).decode()
        return f"{base}/tasks/{task_id}/presign/?fileuri={encoded}"
    if "://" in url:
        raise MediaError(f"images can't be read from {url.partition('://')[0]}:// URLs")
    # Label Studio under a sub-path already puts that path before /data
    prefix = urlsplit(base).path
    path = url if url.startswith("/") else f"/data/{url}" if url.startswith("upload/") else f"/{url}"
    path = path.removeprefix(prefix) if prefix and path.startswith(prefix + "/") else path
    return base + quote(path, safe="/?&=%+:;,@!$'()*~")


def in_label_studio(url: str, base: str) -> str:
    """The URL, without its host if it is a local file of Label Studio, which only Label Studio can serve.

    When Label Studio syncs a storage, it adds LABEL_STUDIO_HOST, which is for browsers; this backend may need
    another address.
    """
    place, _, query = url.partition("?")
    is_local_file = place.endswith(LOCAL_FILES) and place.startswith(("http://", "https://"))
    return f"{LOCAL_FILES}?{query}" if is_local_file and base else url
