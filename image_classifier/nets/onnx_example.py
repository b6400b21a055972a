"""Classifies images with model.onnx, which must be in the same folder.

Prints the most probable classes of each image: file, class and probability, separated by tabs.

pip install numpy pillow onnxruntime       # or openvino instead of onnxruntime
python example.py photo.jpg other.jpg
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

try:
    import onnxruntime
except ModuleNotFoundError:
    onnxruntime = None
    import openvino

MODEL = Path(__file__).with_name("model.onnx")
SHOWN = 3  # classes of each image


def load() -> tuple[Callable[[Any], Any], dict[str, Any]]:
    """The model, a function from uint8 RGB images [n, 3, side, side] to probabilities [n, classes], and its record."""
    if onnxruntime:
        session = onnxruntime.InferenceSession(MODEL)
        record = json.loads(session.get_modelmeta().custom_metadata_map["record"])
        return lambda images: session.run(None, {"images": images})[0], record
    network = openvino.Core().read_model(MODEL)
    # By default, OpenVINO computes in 16 bits on some processors.
    compiled = openvino.compile_model(network, config={"INFERENCE_PRECISION_HINT": "f32"})
    return lambda images: compiled(images)[0], json.loads(network.get_rt_info(["framework", "record"]).value)


def read(path: str, resize_size: int, crop_size: int, interpolation: str) -> Any:
    """The image as uint8 [3, crop_size, crop_size]: its short side is resized, and the center is cropped."""
    file = Image.open(path)
    scale = 2 * resize_size / min(file.size)
    # A large JPEG is decoded at a half, a quarter or an eighth of its size.
    file.draft(None, (int(file.width * scale), int(file.height * scale)))
    image = ImageOps.exif_transpose(file)
    if image.mode.startswith("I;16"):  # convert() would clip 16 bits to 8 instead of scaling them
        pixels = np.asarray(image)
        bits = next(bits for bits in (8, 12, 16) if pixels.max() < 1 << bits)  # many cameras have only 12
        white_is_zero = file.format == "TIFF" and file.getexif().get(262) == 0
        image = Image.fromarray((pixels >> bits - 8).astype(np.uint8) ^ np.uint8(255 * white_is_zero))
    elif image.mode in ("I", "F"):  # whole numbers of 32 bits and fractions, which convert() would clip, too
        numbers = np.nan_to_num(np.asarray(image, dtype=np.float32), posinf=0, neginf=0)
        numbers -= numbers.min()
        white_is_zero = file.format == "TIFF" and file.getexif().get(262) == 0
        numbers *= 255 / max(float(numbers.max()), 1e-6)
        image = Image.fromarray(numbers.astype(np.uint8) ^ np.uint8(255 * white_is_zero))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    scale = resize_size / min(image.size)
    width, height = (max(crop_size, round(side * scale)) for side in image.size)
    left, top = (width - crop_size) // 2, (height - crop_size) // 2
    across, down = image.width / width, image.height / height
    box = (left * across, top * down, (left + crop_size) * across, (top + crop_size) * down)
    resampling = Image.Resampling[interpolation.upper()]
    square = image.resize((crop_size, crop_size), resampling, box=box, reducing_gap=3)
    return np.asarray(square).transpose(2, 0, 1)


def main() -> None:
    model, record = load()
    for path in sys.argv[1:]:
        [probabilities] = model(read(path, **record["preprocessing"])[None])
        for number in np.argsort(-probabilities)[:SHOWN]:
            print(path, record["classes"][number], f"{probabilities[number]:.4f}", sep="\t")


if __name__ == "__main__":
    main()
