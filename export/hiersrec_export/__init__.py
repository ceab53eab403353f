"""Export of training runs: to bundles, and to standalone ONNX files."""

# Opset 23 is the first with attention as one operator, as layer normalization (17) and Gelu (20) are: fewer, faster
# nodes. onnxruntime 1.23, the oldest supported one, is the first that runs it.
OPSET = 23
IR_VERSION = 11
