"""Quantize a float ONNX file with a peer package; run by `ptq_peers.py` in the peer's own environment.

    python ptq_worker.py nncf|onnxruntime FLOAT.onnx IMAGES.npy OUTPUT

Prints one JSON line: seconds of the quantization (images in memory to file written) and the package's version.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np


def with_nncf(source: str, images: np.ndarray, target: str) -> str:
    """NNCF's `quantize` of the OpenVINO model, with its defaults for a CPU; writes ``.xml``."""
    import nncf
    import openvino

    model = openvino.convert_model(source)
    name = model.inputs[0].get_any_name()
    data = nncf.Dataset(list(images), lambda image: {name: image[None]})
    quantized = nncf.quantize(model, data, target_device=nncf.TargetDevice.CPU, subset_size=len(images))
    openvino.save_model(quantized, target, compress_to_fp16=False)
    return str(nncf.__version__)


def with_onnxruntime(source: str, images: np.ndarray, target: str) -> str:
    """ONNX Runtime's `quantize_static`: QDQ, weights per channel, after its own pre-processing."""
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = source.replace(".onnx", ".prepared.onnx")
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    name = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"]).get_inputs()[0].name

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.rows = iter(images)

        def get_next(self) -> dict[str, Any] | None:
            image = next(self.rows, None)
            return None if image is None else {name: image[None]}

    quantize_static(
        prepared,
        target,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return str(onnxruntime.__version__)


PEERS = {"nncf": with_nncf, "onnxruntime": with_onnxruntime}


def main() -> None:
    name, source, images, target = sys.argv[1:]
    data = np.load(images)
    PEERS[name]  # an unknown peer ends here
    began = time.perf_counter(), time.process_time()
    version = PEERS[name](source, data, target)
    seconds = time.perf_counter() - began[0]
    print(json.dumps({"seconds": seconds, "cpu_seconds": time.process_time() - began[1], "version": version}))


if __name__ == "__main__":
    main()
