"""The same network behind LitServe, with its batching: `python benchmarks/lit_server.py PORT`."""

import io
import sys
from typing import Any

import litserve
import requests
import torch
from PIL import Image
from torch import Tensor
from torchvision.models import resnet18
from torchvision.transforms import v2


class Classifier(litserve.LitAPI):  # type: ignore[misc]  # LitServe has no types
    """A URL in, the index of a class out."""

    def setup(self, device: str) -> None:
        self.model = resnet18(weights=None).eval()
        self.transform = v2.Compose(
            [
                v2.Resize(224),
                v2.CenterCrop(224),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
            ]
        )

    def decode_request(self, request: dict[str, Any]) -> Tensor:
        answer = requests.get(request["url"], timeout=30)
        answer.raise_for_status()
        tensor: Tensor = self.transform(Image.open(io.BytesIO(answer.content)).convert("RGB"))
        return tensor

    def batch(self, inputs: list[Tensor]) -> Tensor:
        return torch.stack(inputs)

    def unbatch(self, output: Tensor) -> list[Tensor]:
        return list(output)

    @torch.inference_mode()
    def predict(self, batch: Tensor) -> Tensor:
        answers: Tensor = self.model(batch).argmax(1)
        return answers

    def encode_response(self, output: Tensor) -> dict[str, int]:
        return {"class": int(output)}


if __name__ == "__main__":
    api = Classifier(max_batch_size=8, batch_timeout=0.01)
    server = litserve.LitServer(api, accelerator="cpu", timeout=120)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
