"""An exported model behind HTTP, on LitServe.

`POST /predict` takes a picture (PNG or JPEG, the form field ``request``) and gives the class number of every pixel as a
PNG. `GET /health` answers 200 when all workers have loaded the model, `GET /info` says what runs.
"""

import argparse
import os
from collections.abc import Sequence
from typing import Annotated, Any, Optional

import cv2
import litserve
import numpy as np
from fastapi import File, Response

from paddleseg_slim.deploy.infer import Predictor
from paddleseg_slim.deploy.runtimes import RuntimeOptions

# No `from __future__ import annotations` here: LitServe reads the annotations of decode_request and encode_response.


class Segmenter(litserve.LitAPI):
    """What every worker does; each is a process of its own with the model loaded.

    Args:
        model: folder of an exported model, with its ``deploy.yaml``.
        engine: what runs it: ``onnxruntime``, ``openvino``, ``paddle``.
        threads: CPU threads of a worker.
        max_batch_size: most pictures that are run at once.
        batch_timeout: seconds that a picture waits for others.
    """

    def __init__(self, model: str, engine: str, threads: int, max_batch_size: int, batch_timeout: float) -> None:
        super().__init__(max_batch_size=max_batch_size, batch_timeout=batch_timeout)
        self.model, self.engine, self.threads = model, engine, threads

    def setup(self, device: str) -> None:
        """Load the model."""
        self.predictor = Predictor(self.model, self.engine, RuntimeOptions(threads=self.threads))

    def decode_request(self, request: Annotated[bytes, File()]) -> Optional[np.ndarray]:
        """A picture uint8 ``[H, W, 3]`` (RGB); None where the bytes are none."""
        data = np.frombuffer(request, np.uint8)
        picture = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
        return None if picture is None else cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)

    def batch(self, inputs: Sequence[Optional[np.ndarray]]) -> Sequence[Optional[np.ndarray]]:
        """Pictures may differ in size, so they stay a list; the predictor puts together those of one size."""
        return inputs

    def predict(self, inputs: Any) -> Any:
        """Pairs of class map and batch size, in the order of the pictures."""
        together = isinstance(inputs, (list, tuple))
        pictures = inputs if together else [inputs]
        found = self.predictor.predict([item for item in pictures if item is not None], batch_size=len(pictures))
        results = [None if item is None else (next(found), len(pictures)) for item in pictures]
        return results if together else results[0]

    def unbatch(self, output: Any) -> Any:
        """One result a picture already."""
        return output

    def encode_response(self, output: Any) -> Response:
        """The classes as PNG; headers tell the worker and how many pictures it had at once."""
        if output is None:
            return Response("Send the bytes of a PNG or JPEG as the form field `request`.", status_code=400)
        classes, together = output
        _, png = cv2.imencode(".png", classes)
        headers = {"x-worker": str(os.getpid()), "x-batch": str(together)}
        return Response(png.tobytes(), media_type="image/png", headers=headers)


def main() -> None:
    """Start the server; Ctrl+C ends it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="folder of an exported model, with deploy.yaml")
    parser.add_argument("--engine", default="onnxruntime", help="onnxruntime, openvino or paddle")
    parser.add_argument("--workers", type=int, default=2, help="processes with the model loaded")
    parser.add_argument("--threads", type=int, default=1, help="of each; workers x threads: the cores there are")
    parser.add_argument("--max_batch_size", type=int, default=8)
    parser.add_argument("--batch_timeout", type=float, default=0.005, help="seconds that a picture waits for others")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0: also for other machines")
    parser.add_argument("--port", type=int, default=8000)
    args = parser.parse_args()
    description = Predictor(args.model, args.engine, RuntimeOptions(threads=args.threads)).deploy  # refuses it now
    api = Segmenter(args.model, args.engine, args.threads, args.max_batch_size, args.batch_timeout)
    server = litserve.LitServer(
        api,
        accelerator="cpu",
        devices=1,
        workers_per_device=args.workers,
        model_metadata={"classes": description.class_names, "engine": args.engine, "task": description.task},
    )
    server.run(host=args.host, port=args.port, num_api_servers=1, generate_client_file=False)


if __name__ == "__main__":
    main()
