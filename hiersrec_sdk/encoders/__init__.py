"""The bundle's ONNX graphs, run by onnxruntime."""
