"""A machine without a card."""

import torch


def get_torch_device():
    return torch.device("cpu")


unet_offload_device = vae_offload_device = get_torch_device


def should_use_fp16(device):
    return False


should_use_bf16 = should_use_fp16


def load_models_gpu(patchers, memory_required=0):
    pass


def soft_empty_cache():
    pass
