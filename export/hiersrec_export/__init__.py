"""Export of training runs: to bundles, and to standalone ONNX files."""

# Opset 20 is the first with Gelu as one operator, and LayerNormalization (17) is one too: fewer, faster nodes. IR
# version 10 is the newest that onnxruntime 1.18, the oldest supported one, reads; newer exporters would write more.
OPSET = 20
IR_VERSION = 10
