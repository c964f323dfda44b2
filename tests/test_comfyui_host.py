"""What is installed for a ComfyUI of another version: all that it asks for but what is pinned, or only heavy."""

from __future__ import annotations

import sys

import pytest
import torchaudio_absent
from comfyui_host import HostError, install_for, wanted_of

REQUIREMENTS = """
comfyui-frontend-package==1.49.6
comfyui-workflow-templates==0.11.44
torch
torchsde
torchvision>=0.2
torchaudio
numpy>=1.25.0  # a comment

#non essential dependencies:
kornia>=0.7.1
av>=16.0.0
"""


def test_torch_and_its_companions_are_not_taken_from_a_hosts_requirements():
    assert wanted_of(REQUIREMENTS) == [
        "comfyui-frontend-package==1.49.6", "torchsde", "numpy>=1.25.0", "kornia>=0.7.1", "av>=16.0.0",
        "requests",
    ]  # fmt: skip


def test_a_folder_that_is_no_comfyui_is_named(tmp_path):
    with pytest.raises(HostError, match=r"holds no main.py and requirements.txt"):
        install_for(tmp_path)


def test_torchaudio_is_there_to_be_imported_and_fails_when_it_is_called(monkeypatch):
    for name in torchaudio_absent.MODULES:
        monkeypatch.setitem(sys.modules, name, sys.modules.get(name, object()))
        monkeypatch.delitem(sys.modules, name)
    torchaudio_absent.install()
    import torchaudio.functional as functional
    from torchaudio.transforms import MelScale

    with pytest.raises(ImportError, match=r"torchaudio.transforms.MelScale"):
        MelScale(80)
    with pytest.raises(ImportError, match="not installed"):
        functional.resample()
