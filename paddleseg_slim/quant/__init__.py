"""Quantization: where quantizers stand, what ranges they have, training with them and without."""
