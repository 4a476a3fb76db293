"""A finished run for other programs: ONNX and torch.export."""
