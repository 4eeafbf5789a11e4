"""Prediction with an exported model: pictures or video in, class maps out, with the preprocessing of `deploy.yaml`.

Needs no Paddle where the engine is another one.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from paddleseg_slim.config import ComponentSpec, build
from paddleseg_slim.data.transforms import Compose
from paddleseg_slim.deploy.description import Deploy, read_deploy
from paddleseg_slim.deploy.runtimes import Runtime, RuntimeOptions, TensorSpec, find_model, load
from paddleseg_slim.errors import UserError
from paddleseg_slim.registry import TRANSFORMS

TransInfo = Sequence[tuple[str, tuple[int, int]]]


@dataclass
class StageTimes:
    """Milliseconds a picture spent in each stage, a number a picture (``run``: a number a batch / its size)."""

    preprocess: list[float] = field(default_factory=list)
    run: list[float] = field(default_factory=list)
    postprocess: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, float]:
        """Median of each stage that has numbers."""
        return {name: float(np.median(values)) for name, values in vars(self).items() if values}


def preprocessing(deploy: Deploy, where: str | Path) -> Compose:
    """The transforms of a ``deploy.yaml``; ``where`` it is, for messages.

    Raises:
        UserError: one of them is unknown, or has wrong arguments.
    """
    transforms = [
        build(ComponentSpec.parse(section, f"{where}: Deploy.transforms[{index}]"), TRANSFORMS)
        for index, section in enumerate(deploy.transforms)
    ]
    return Compose(transforms, img_channels=deploy.input_shape[1] if len(deploy.input_shape) == 4 else 3)


class Predictor:
    """An exported model with its preprocessing.

    Args:
        config: the ``deploy.yaml``, or its folder.
        engine: a name of `runtimes.ENGINES`; None: the first installed one that reads what is there.
        options: how the engine runs.
        deploy: taken in place of what the ``deploy.yaml`` says, which need not be there; ``config`` is the folder.

    Attributes:
        deploy: what the ``deploy.yaml`` says.
        runtime: the loaded model.
        times: where the time of `predict` went.
    """

    def __init__(
        self,
        config: str | Path,
        engine: str | None = None,
        options: RuntimeOptions | None = None,
        deploy: Deploy | None = None,
    ) -> None:
        self.deploy, folder = (deploy, Path(config)) if deploy else read_deploy(config)
        self.engine, path = _choose(self.deploy, folder, engine)
        self._preprocess = preprocessing(self.deploy, config)
        self.runtime: Runtime = load(path, self.engine, options)
        self.times = StageTimes()

    @property
    def input(self) -> TensorSpec:
        """The image input."""
        return self.runtime.inputs[0]

    def preprocess(self, picture: np.ndarray) -> tuple[np.ndarray, TransInfo]:
        """An input ``[3, H, W]`` of a picture uint8 ``[H, W, 3]`` (RGB), and how to go back to its size."""
        sample = self._preprocess({"img": picture, "gt_fields": [], "trans_info": []})
        return sample["img"], sample["trans_info"]

    def predict(self, pictures: Iterable[np.ndarray], batch_size: int = 1) -> Iterator[np.ndarray]:
        """Yield the class map ``[H, W]`` uint8 of every picture, or its class scores ``[C]`` for a classifier.

        Pictures that follow each other and have one size are run together, at most ``batch_size``; where the model's
        batch is fixed, the rest of an incomplete batch is filled with its last picture.

        Raises:
            UserError: the model does not take the size of a picture.
        """
        waiting: list[tuple[np.ndarray, TransInfo]] = []
        for picture in pictures:
            start = time.perf_counter()
            item = self.preprocess(picture)
            self.times.preprocess.append((time.perf_counter() - start) * 1000)
            if waiting and (len(waiting) == batch_size or waiting[0][0].shape != item[0].shape):
                yield from self._run(waiting)
                waiting = []
            waiting.append(item)
        if waiting:
            yield from self._run(waiting)

    def _run(self, items: list[tuple[np.ndarray, TransInfo]]) -> Iterator[np.ndarray]:
        images = [image for image, _ in items]
        fixed = self.input.shape[0]
        if fixed != -1:
            if len(images) > fixed:
                raise UserError(f"The model takes batches of {fixed}, not {len(images)}.", "Lower --batch_size.")
            images += images[-1:] * (fixed - len(images))
        start = time.perf_counter()
        output = self.runtime.run({self.input.name: np.stack(images)})[0]
        self.times.run.append((time.perf_counter() - start) * 1000 / len(items))
        for result, (_, trans_info) in zip(output, items):
            start = time.perf_counter()
            classes = self._postprocess(result, trans_info)
            self.times.postprocess.append((time.perf_counter() - start) * 1000)
            yield classes

    def _postprocess(self, result: np.ndarray, trans_info: TransInfo) -> np.ndarray:
        if self.deploy.task != "segmentation":
            return result
        restored = restore(result, trans_info)
        return (restored.argmax(0) if restored.ndim == 3 else restored).astype(np.uint8)


def restore(result: np.ndarray, trans_info: TransInfo) -> np.ndarray:
    """Bring logits ``[C, H, W]`` (bilinear) or classes ``[H, W]`` (nearest) back to the size of the picture."""
    for kind, (height, width) in reversed(trans_info):
        if kind == "padding":
            result = result[..., :height, :width]
        elif result.ndim == 3:
            planes = [cv2.resize(plane, (int(width), int(height)), interpolation=cv2.INTER_LINEAR) for plane in result]
            result = np.stack(planes)
        else:
            size = (int(width), int(height))
            result = cv2.resize(result.astype(np.float32), size, interpolation=cv2.INTER_NEAREST).astype(result.dtype)
    return result


def _choose(deploy: Deploy, folder: Path, engine: str | None) -> tuple[str, Path]:
    """The engine and the file that it reads; without a wish, Paddle Inference if it is there, else an ONNX engine."""
    from paddleseg_slim.deploy.runtimes import available_engines, require_engine

    named = {"paddle": deploy.model, "onnxruntime": deploy.onnx, "openvino": deploy.onnx, "tensorrt": deploy.onnx}
    engines = [engine] if engine else [name for name in named if name in available_engines()]
    for name in engines:
        require_engine(name)
        target = folder / named[name] if named[name] else folder
        try:
            return name, find_model(target, name)
        except UserError:
            if engine:
                raise
    raise UserError(
        f"No engine installed here runs the model in {folder}.", "Install paddlepaddle, onnxruntime or openvino."
    )


def video_frames(path: str | Path) -> tuple[float, Iterator[np.ndarray]]:
    """Frames a second of a video and an iterator over its frames, uint8 ``[H, W, 3]`` RGB.

    Raises:
        UserError: it cannot be read.
    """
    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise UserError(f"The video {path} cannot be read.", "Convert it to MP4 (H.264) or AVI.")
    rate = capture.get(cv2.CAP_PROP_FPS) or 25.0

    def frames() -> Iterator[np.ndarray]:
        try:
            while True:
                there, frame = capture.read()
                if not there:
                    return
                yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        finally:
            capture.release()

    return rate, frames()


class VideoOut:
    """A video that is written frame by frame.

    Args:
        path: ``.mp4``, or ``.avi`` (Motion JPEG, which every build of OpenCV can write).
        rate: frames a second.
        size: (height, width).
    """

    def __init__(self, path: Path, rate: float, size: tuple[int, int]) -> None:
        code = "mp4v" if path.suffix.lower() == ".mp4" else "MJPG"
        fourcc: Any = cv2.VideoWriter.fourcc(*code)
        self._writer = cv2.VideoWriter(str(path), fourcc, rate, (size[1], size[0]))
        if not self._writer.isOpened():
            raise UserError(f"This OpenCV cannot write {path}.", "Give a path that ends in .avi.")

    def add(self, frame: np.ndarray) -> None:
        """Add a frame, uint8 ``[H, W, 3]`` RGB."""
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        """Finish the file."""
        self._writer.release()
