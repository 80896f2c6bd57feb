"""What splitting a model up over processes needs to know of its modules."""

from __future__ import annotations

import torch
from torch import nn


def numbered_blocks(model: nn.Module) -> list[nn.Module]:
    """The model's repeated blocks: the members of its longest list of modules."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    longest = max(lists, key=len, default=nn.ModuleList())
    return list(longest)


def move_buffers(model: nn.Module, device: torch.device) -> None:
    """Bring buffers to the device: what splits parameters up takes those alone there."""
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = buffer.to(device)
