"""A machine without a card, whose WebUI computes in half precision all the same."""

from contextlib import nullcontext

import torch

cpu = device = torch.device("cpu")
dtype = dtype_unet = dtype_inference = torch.float16


def autocast(disable=False):
    return torch.autocast("cpu", torch.bfloat16)


def without_autocast(disable=False):
    return nullcontext()


def torch_gc():
    pass
