"""From the graph to the engine: ONNX files, runtimes, measured latency, profiles."""
