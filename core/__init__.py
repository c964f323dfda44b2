"""What a dense map is, and how to predict one: torch, numpy, einops and safetensors, no host, no trainer."""
