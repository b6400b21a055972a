"""Weights files: read without running code from them, and downloaded if they are missing."""

import argparse
import hashlib
import logging
import socket
import time
from http.client import IncompleteRead
from importlib.metadata import version
from pathlib import Path
from pickle import UnpicklingError
from urllib.parse import urlparse

import requests
import torch
from torch import Tensor
from urllib3.exceptions import HTTPError

from image_classifier.files import written_aside
from image_classifier.nets.state_dicts import flatten, read_tensors

log = logging.getLogger(__name__)

DOWNLOAD_SECONDS = 120
CONNECT_SECONDS = 5
SILENCE_SECONDS = 20  # the longest wait for the server's next byte
USER_AGENT = f"image-classifier-backend/{version('image-classifier-backend')} (https://labelstud.io)"
SAVE = "save one with torch.save(model.state_dict(), path)"


class WeightsError(ValueError):
    """Weights that can't be loaded; the message says why and what to do."""


# The command-line arguments, which many trainers keep in their checkpoints; such an object runs no code.
torch.serialization.add_safe_globals([argparse.Namespace])


def read_weights(file: Path) -> dict[str, Tensor]:
    """All tensors in a .safetensors or .pth file, those of nested dicts by keys with dots; raises WeightsError."""
    try:
        if file.suffix == ".safetensors":
            return read_tensors(file)[0]
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError as error:  # its text advises to run code from the file
        raise WeightsError(
            f"{file} can't be read: it is damaged, or contains more than a state dict; {SAVE}"
        ) from error
    except Exception as error:  # torch.load raises whatever a damaged file makes it raise
        raise WeightsError(f"{file} can't be read: {why(error)}") from error
    state = dict(flatten(loaded)) if isinstance(loaded, dict) else {}
    if not state:
        raise WeightsError(f"{file} has no state dict; {SAVE}")
    return state


def download_weights(url: str) -> Path:
    """The file in torch's own download cache, downloaded if it is missing; raises WeightsError.

    torch.hub's download has no time limit, but a server must not hang if a firewall drops packets.
    """
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    if not file.is_file():
        try:
            _download(url, file, sha256_prefix=file.stem.rsplit("-", 1)[1])
        except (OSError, HTTPError) as error:
            raise WeightsError(f"the download failed: {why(error)}") from error
    return file


def check_reachable(url: str) -> None:
    """Raises WeightsError within seconds if no server answers."""
    try:
        requests.head(url, headers={"User-Agent": USER_AGENT}, timeout=CONNECT_SECONDS)
    except OSError as error:
        raise WeightsError(f"the download failed: {why(error)}") from error


def _download(url: str, file: Path, *, sha256_prefix: str) -> None:
    log.info("downloading %s to %s", url, file)
    deadline = time.monotonic() + DOWNLOAD_SECONDS
    digest = hashlib.sha256()
    with written_aside(file) as part:
        headers = {"User-Agent": USER_AGENT}
        with (
            requests.get(url, headers=headers, stream=True, timeout=(CONNECT_SECONDS, SILENCE_SECONDS)) as response,
            part.open("wb") as out,
        ):
            response.raise_for_status()
            # iter_content() would wait for a whole chunk, however slowly it arrives
            while chunk := response.raw.read1(1 << 20, decode_content=True):
                digest.update(chunk)
                out.write(chunk)
                if time.monotonic() > deadline:
                    raise WeightsError(f"the download took longer than {DOWNLOAD_SECONDS} s")
        if not digest.hexdigest().startswith(sha256_prefix):
            raise WeightsError("the download is damaged: its hash does not match its name")


def why(error: BaseException) -> str:
    """The innermost cause in a few words: requests and urllib3 wrap it in text for programmers."""
    inner = getattr(error, "reason", None) or error.__cause__ or (error.args[-1] if error.args else None)
    if isinstance(inner, BaseException):
        return why(inner)
    if isinstance(error, socket.gaierror):
        return "the host name can't be resolved"
    if isinstance(error, IncompleteRead):
        return "the connection ended before the whole file had arrived"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    said = str(error).splitlines()
    return f"{type(error).__name__}: {said[0][:400] if said else 'no reason given'}"
