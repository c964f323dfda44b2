"""What moves a network."""


class ModelPatcher:
    def __init__(self, model, load_device, offload_device):
        self.model, self.load_device = model, load_device
